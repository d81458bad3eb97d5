"""What a run shows of itself on the way: sample grids, held-out loss, evaluations.

All of it uses the averaged parameters, and all processes: each does its share. ``check`` is called
by all of them as often, before a step of sampling or a batch; what it raises ends the sampling.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vfn.configs import SampleConfig
from vfn.configs.settings import changed_section
from vfn.data import Dataset, Labels
from vfn.distributed import World
from vfn.evaluation.held_out import mean_held_out_loss, preview_figures
from vfn.ops import OBJECTIVES
from vfn.pictures import grid, save_png
from vfn.progress import say
from vfn.sampling import Asked, Draws, Trained, as_pictures, of_each
from vfn.train.batches import draws_two_times
from vfn.train.layout import AT_ONCE
from vfn.train.session import Run

PREVIEW_ROWS, PREVIEW_COLUMNS = 4, 10
FEW, FEW_ROWS = (1, 2, 4), 2  # steps that networks for few are shown at, and rows of each

Check = Callable[[], None]


def trained_of(run: Run) -> Trained:
    """The network of a run with its averaged parameters, which follow the training.

    Args:
        run: its network is put into evaluation mode.

    Returns:
        Trained, of full precision.
    """
    state = run.state
    return Trained(
        run.model.eval(), state.ema, run.config, run.shape, run.world.device, state.step,
        origin=run.files.path,
    )  # fmt: skip


def weaker_of(run: Run) -> Trained | None:
    """What the pictures of a run are led away from; None without such a setting, or up to its step.

    Args:
        run: the run.

    Returns:
        Trained. It is loaded for the time of the sampling alone; what can no longer be loaded ends
        no training: a line tells, and nothing guides.
    """
    settings = run.config.sample
    step = settings.guide_step
    early = step is not None and run.state.step <= step
    if settings.guide_with is None or not settings.guide_weight or early:
        return None
    try:
        return trained_of(run).weaker(settings.guide_with)
    except ValueError as error:
        say(f"step {run.state.step} is shown without guide_with: {error}")
        return None


def preview(run: Run, check: Check) -> Path:
    """Write a sample grid with fixed noise; of a network for few steps at 1, 2 and 4 of them.

    Args:
        run: the run.
        check: called as `Draws.by_all` says.

    Returns:
        the picture's path.
    """
    path, step = run.files.preview(run.state.step), run.state.step
    seed, title, weak = run.config.train.seed, f"preview at step {step}", weaker_of(run)
    trained = trained_of(run)
    asked_of = (trained.conditioned and run.held_out) or run.dataset
    few = OBJECTIVES.find(run.config.diffusion.objective).sampler == run.config.sample.sampler
    steps = FEW if few else ()
    save_grid(trained, asked_of, seed, path, run.world, check, title, weak, steps)
    return path


def save_grid(
    trained: Trained,
    dataset: Dataset,
    seed: int,
    path: Path,
    world: World,
    check: Check,
    title: str,
    weak: Trained | None = None,
    steps: Sequence[int] = (),
) -> None:
    """Write some pictures of each label; those of all runs of a seed begin with the same noise.

    A bar shows how far they are, and a line tells of pictures that are not finite.

    Args:
        trained: the network, and in its configuration how it is sampled.
        dataset: gives the tags, for a network of tags, and what else it takes beside labels.
        seed: of the noise.
        path: the picture, written by the first process.
        world: the processes.
        check: called as `Draws.by_all` says.
        title: what they are drawn for.
        weak: what the network is led away from, where its settings say so.
        steps: numbers of steps that fewer pictures each are shown at, below each other; none for
            those of the settings.
    """
    asked, columns = _asked(dataset, trained.shape.legend)
    if trained.conditioned:
        chosen = torch.arange(min(PREVIEW_ROWS * PREVIEW_COLUMNS, len(dataset.images)))
        asked, columns = as_pictures(trained, dataset.rows(chosen)), ()
    width, rows = len(columns) or PREVIEW_COLUMNS, FEW_ROWS if steps else PREVIEW_ROWS
    own, parts = trained.config.sample, []
    for each in [_in_steps(own, n) for n in steps] or [own]:
        draws = Draws(trained, each, asked, rows * width, seed, weak)
        parts.append(draws.by_all(world, check, title).images)
    names = [f"{n} step{'s' if n > 1 else ''}" if row == 0 else "" for n in steps
             for row in range(rows)]  # fmt: skip
    if world.rank == 0:
        shown = trained.shown(torch.cat(parts))
        save_png(path, grid(shown, width, row_labels=names, column_labels=columns))


def _in_steps(sample: SampleConfig, steps: int) -> SampleConfig:
    """Settings of sampling with other steps, of which nothing moves in as many as there can be."""
    still = min(sample.zero_init, steps - 1)
    return changed_section(sample, {"sample_timesteps": steps, "zero_init": still})


def _asked(dataset: Dataset, legend: Labels) -> tuple[Asked, tuple[str, ...]]:
    """Labels of the sample grids, and names of its columns: some classes, or tags that occur."""
    if legend.tags and dataset.labels is not None:
        return of_each(dataset.labels[: PREVIEW_ROWS * PREVIEW_COLUMNS], legend), ()
    columns = legend.names[:PREVIEW_COLUMNS]
    labels = torch.arange(len(columns)) + 1 if columns else torch.zeros(1, dtype=torch.long)
    return of_each(labels, legend), columns


def held_out_loss_of(run: Run) -> dict[str, float]:
    """The loss on held-out pictures as an entry of the log; nothing where there are none."""
    if run.held_out is None:
        return {}
    loss = mean_held_out_loss(
        trained_of(run),
        run.held_out,
        objective=run.objective,
        seed=run.config.train.seed,
        world=run.world,
        batch=AT_ONCE * run.config.sample.sample_batch,
        takes_step=run.state.auxiliary is not None,
        two_times=draws_two_times(run.model, run.config, own=bool(run.state.objective)),
    )
    return {"held_out_loss": loss}


def evaluation(run: Run, check: Check) -> dict[str, float]:
    """Fréchet distance, precision and recall of samples, as `vfn eval` computes them.

    Args:
        run: the run.
        check: called as `Draws.by_all` says.

    Returns:
        values by the keys of the figures.
    """
    settings = run.config.train
    figures = preview_figures(
        trained_of(run),
        run.dataset,
        settings.eval_num,
        settings.seed,
        run.world,
        check,
        weaker_of(run),
    )
    return {figure.key: figure.value for figure in figures}
