"""The weaker network that another one is led away from: where it is, and whether it fits."""

from pathlib import Path

from vfn.configs import Config
from vfn.configs.schema import step_of
from vfn.data.given import alike_conditions
from vfn.files import few, shortened
from vfn.model import DataShape
from vfn.ops import OBJECTIVES, SOLVERS
from vfn.runs import Checkpoint, RunFiles, find_checkpoint, load_checkpoint, run_path

SWITCH_OFF = "or --guide-weight 0 for none"


def find_weaker(guide_with: str | int | Path, origin: Path | None) -> tuple[Path, Checkpoint]:
    """The checkpoint that guides, by what a person calls it.

    Args:
        guide_with: a run directory, a checkpoint or an exported file; or the number of a step of
            the guided network's own run, whose checkpoint has been kept.
        origin: where the guided network was loaded from; None if from nowhere.

    Returns:
        path and checkpoint.

    Raises:
        ValueError: if there is no such run, file or step.

    >>> find_weaker(800, None)
    Traceback (most recent call last):
    ValueError: step 800 to guide with is one of the network's own run, and it has none; name ...
    """
    step = guide_with if isinstance(guide_with, int) else step_of(str(guide_with))
    if step is None:
        path = run_path(guide_with)
        return path, find_checkpoint(path)
    run = None if origin is None else run_holding(origin)
    if run is None:
        whose = "it has none" if origin is None else f"{origin} is in none"
        raise ValueError(
            f"step {step} to guide with is one of the network's own run, and {whose}; name a run "
            f"or a file, {SWITCH_OFF}"
        )
    known = run.checkpoint_steps()
    if step not in known:
        steps = few(map(str, known)) or "none"
        raise ValueError(
            f"{run.path} has no checkpoint of step {step} to guide with, but of {steps}; name one "
            f"of these, {SWITCH_OFF}, and keep others with --keep-at when training"
        )
    return known[step], load_checkpoint(known[step])


def run_holding(path: Path) -> RunFiles | None:
    """The run that a path is, or whose folder a file of parameters is in; None for other files.

    Args:
        path: a run directory, one of its checkpoints or networks made of its snapshots, or a file.

    Returns:
        files of the run, or None.
    """
    if path.is_dir():
        return RunFiles(path)
    folder = path.absolute().parent
    run = RunFiles(folder.parent)
    return run if folder in (run.checkpoints, run.posthoc) else None


def check_weaker(
    shape: DataShape, config: Config, guided: DataShape, of_guided: Config, called: object
) -> None:
    """Refuse a weaker network that cannot guide another one.

    Args:
        shape: what it knows of its data.
        config: what it was trained with.
        guided: what the network that it guides knows.
        of_guided: what that was trained with.
        called: what it is called in messages.

    Raises:
        ValueError: for pictures of other sizes, other classes, or a network on either side that is
            distilled or says where paths end: its predictions are not those of a denoiser.
    """
    name = shortened(str(called))
    if shape.size != guided.size:
        raise ValueError(
            f"expected {name} to guide with to be a network of pictures of {guided.size}, got one "
            f"of {shape.size}; name another one of the same data"
        )
    if (shape.vector, shape.beside, shape.values) != (guided.vector, guided.beside, guided.values):
        raise ValueError(
            f"expected {name} to guide with to take what the network that it guides takes beside "
            "labels, in the same units; name another one of the same data"
        )
    # Of files, what they are like is in the shape.
    if not alike_conditions(config.data.condition, of_guided.data.condition):
        raise ValueError(
            f"expected {name} to guide with to have condition {of_guided.data.condition}, got "
            f"{config.data.condition}; name another one"
        )
    if shape.legend.names and shape.legend != guided.legend:
        ours, theirs = (legend.describe() for legend in (guided.legend, shape.legend))
        detail = f"{ours}, got {theirs}" if ours != theirs else f"{ours} of the same names in order"
        raise ValueError(
            f"expected {name} to guide with to know the labels of the network it guides, or none: "
            f"{detail}; name another one of the same data"
        )
    for what, settings in ((name, config), ("the network that is guided", of_guided)):
        if settings.distill.asked:
            raise ValueError(
                f"guiding with {name} needs two denoisers, and {what} is a distilled one, which "
                f"says where its teacher's steps lead; name another one, {SWITCH_OFF}"
            )
        word = settings.diffusion.objective
        if not OBJECTIVES.find(word).flow:
            raise ValueError(
                f"guiding with {name} needs two denoisers, and {what} was trained by objective "
                f"{word}, whose velocity is not that of the flow; name another one, {SWITCH_OFF}"
            )


def check_spanning(sampler: str, guided: bool, weak: bool, called: object) -> None:
    """Refuse a weaker network that does not know of the whole steps that a solver asks for.

    Args:
        sampler: a word of `vfn.ops.SOLVERS`.
        guided: whether the network that it guides takes a second time, where a step ends.
        weak: whether it does so itself.
        called: what it is called in messages.

    Raises:
        ValueError: if only the guided one does: both would speak of different things.

    >>> check_spanning("ddim", guided=True, weak=False, called="poor")
    >>> check_spanning("mean_flow", guided=True, weak=False, called="poor")
    Traceback (most recent call last):
    ValueError: sampler mean_flow takes whole steps, of which poor to guide with knows nothing; ...
    """
    if SOLVERS.find(sampler).spanning and guided and not weak:
        raise ValueError(
            f"sampler {sampler} takes whole steps, of which {shortened(str(called))} to guide with "
            f"knows nothing; name a network with second_time, another --sampler, {SWITCH_OFF}"
        )
