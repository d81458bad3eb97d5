"""A distillation: its directory, its stages one after the other, and what they came to.

A stage is the loop of training with another objective; its student becomes the next teacher.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn import configs
from vfn.configs import Config
from vfn.data import load_dataset, to_unit
from vfn.distributed import World, largest, processes, wait_for_all
from vfn.files import write_atomic, write_json
from vfn.model import build_model, schedule_of, shape_of
from vfn.nn import denoiser, guidance_range
from vfn.ops import Denoiser
from vfn.progress import text_table
from vfn.runs import (
    Checkpoint,
    RunFiles,
    check_fits,
    export_model,
    find_checkpoint,
    load_checkpoint,
    read_log,
)
from vfn.sampling import Trained
from vfn.sampling.weaker import check_weaker, find_weaker
from vfn.train.distillation.methods import Weak, method_of
from vfn.train.distillation.plan import differing, plan_of, stages_of
from vfn.train.loop import carry_out, held
from vfn.train.observers import Callback, Observer, as_observers
from vfn.train.previews import save_grid
from vfn.train.session import (
    Run,
    as_checkpoint,
    goes_on,
    micro_batch_size,
    open_run,
    restarted,
)
from vfn.train.signals import Stop, Stopped, stop_signals
from vfn.train.state import start_from

DEFAULT = "digits_distill"
FIGURES = ("loss", "held_out_loss", "frechet_distance", "precision", "recall", "seconds")


class Teachers(NamedTuple):
    """What the first student learns from: a network, and a weaker one that it is led away from."""

    strong: Checkpoint
    weak: Checkpoint | None = None


class Distilled(NamedTuple):
    """Where a distillation stands.

    student_steps: of the stage; step: its updates; signum: the signal that came, or 0. stages: see
    `stage_figures`.
    """

    student_steps: int
    step: int
    signum: int
    stages: list[dict[str, Any]]

    def table(self) -> str:
        """The figures of the stages as lines of text."""
        return stage_table(self.stages)


def distill(
    teacher: str | Path | Trained | Checkpoint | None,
    out: str | Path,
    config: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> Distilled:
    """Distill, or go on distilling, in a directory.

    Args:
        teacher: a run, checkpoint or opened model, whose average is what is distilled; where a
            distillation is resumed, None is its own.
        out: gets ``config.toml``, ``teacher.safetensors``, ``stages.json``, and a run directory
            ``steps-N`` for each student, a sample grid ``teacher.png``, and ``weak.safetensors`` if
            the teacher is led away from a weaker network.
        config: a preset's name, or the path of a .toml file. Data, network and diffusion are the
            teacher's where it does not say otherwise. None is digits_distill, or what ``out`` was
            begun with where it is resumed.
        resume: go on from the newest intact checkpoint of the newest stage.
        device: auto, cpu or cuda, perhaps with an index as in ``cuda:1``.
        callbacks: observers of every stage, or functions of each line of their logs.
        overrides: settings by name, such as ``teacher_steps=8, student_steps=4``.

    Returns:
        Distilled.

    Raises:
        ValueError: if ``out`` holds a distillation and ``resume`` is not asked for, a stage is
            there without the one before, or anything does not fit the teacher.
        OSError: if ``out`` cannot be written.

    >>> import tempfile
    >>> from vfn.train import train
    >>> from vfn.configs import load, override
    >>> small = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,),
    ...          "num_res_blocks": 1, "sample_timesteps": 1, "steps": 1}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _ = train(override(load("digits"), small), f"{out}/teacher", device="cpu")
    ...     done = distill(f"{out}/teacher", f"{out}/fast", teacher_steps=4, student_steps=2,
    ...                    last_steps=3, eval_every=0, device="cpu")
    >>> done[:3], [row["updates"] for row in done.stages]
    ((2, 3, 0), [3])
    """
    observers = as_observers(callbacks)
    found, plan = plan_distillation(teacher, out, config, resume=resume, **overrides)
    shape = shape_of(load_dataset(plan.data))
    if shape != found.shape:
        raise ValueError(f"expected the teacher's pictures, {found.shape}, got {shape}")
    files = RunFiles(Path(out))
    weak = _find_weak(plan, teacher, found, files, resume or restarted())
    with processes(device) as world, held(files, world):
        _begin(plan, Teachers(found, weak), files, world, goes_on(resume, world))
        with stop_signals(world) as stop:
            return _carry_out_stages(plan, Teachers(found, weak), files, world, stop, observers)


def plan_distillation(
    teacher: str | Path | Trained | Checkpoint | None,
    out: str | Path,
    config: str | Path | None = None,
    *,
    resume: bool = False,
    **overrides: Any,
) -> tuple[Checkpoint, Config]:
    """The teacher of a distillation and its configuration, checked; nothing is written.

    Args:
        teacher: see `distill`, as for the others.
        out: the directory of the distillation.
        config: a preset's name, or the path of a .toml file.
        resume: whether what is in ``out`` counts.
        overrides: settings by name.

    Returns:
        the teacher and the configuration of the whole.

    Raises:
        ValueError: if there is no teacher, or the settings do not fit it.
    """
    files, resume = RunFiles(Path(out)), resume or restarted()
    found = find_teacher(teacher, files.path, resume)
    if config is None:
        config = files.config if resume and files.config.is_file() else DEFAULT
    return found, plan_of(found, str(config), overrides)


def find_teacher(
    teacher: str | Path | Trained | Checkpoint | None, out: Path, resume: bool
) -> Checkpoint:
    """The teacher: that of the distillation in ``out`` where it is resumed, else the named one.

    Args:
        teacher: a run, checkpoint or opened model, or None.
        out: the directory of the distillation.
        resume: whether what is in ``out`` counts.

    Returns:
        Checkpoint.

    Raises:
        ValueError: if there is none, or ``out`` has another one.
    """
    kept = RunFiles(out).teacher
    if not (resume and kept.is_file()):
        if teacher is None:
            raise ValueError(f"there is no distillation in {out}; name a --teacher to start one")
        return as_checkpoint(teacher)
    own = load_checkpoint(kept)
    if teacher is not None:
        named = as_checkpoint(teacher).ema
        if named.keys() != own.ema.keys() or not all(
            torch.equal(value, named[name]) for name, value in own.ema.items()
        ):
            called = teacher if isinstance(teacher, str | Path) else "the one that is given"
            raise ValueError(f"{called} is not the teacher of {out}; leave out --teacher to go on")
    return own


def _find_weak(
    plan: Config,
    teacher: str | Path | Trained | Checkpoint | None,
    found: Checkpoint,
    files: RunFiles,
    resume: bool,
) -> Checkpoint | None:
    """The weaker network: that of the distillation where it is resumed, else what the plan names.

    Returns:
        its checkpoint; None where nothing guides the teacher.

    Raises:
        ValueError: if there is none of that name, or it does not fit the teacher.
    """
    asked = plan.distill.teacher_guide_with
    if asked is None:
        return None
    if resume and files.weak.is_file():
        return load_checkpoint(files.weak)
    origin = teacher.origin if isinstance(teacher, Trained) else None
    if isinstance(teacher, str | Path):
        origin = Path(teacher)
    _, weak = find_weaker(asked, origin)
    check_weaker(weak.shape, weak.config, found.shape, found.config, asked)
    return weak


def _begin(plan: Config, teachers: Teachers, files: RunFiles, world: World, resume: bool) -> None:
    """Refuse what cannot be gone on with, and write what the stages share."""
    micro_batch_size(plan.train.batch_size, world.size, plan.train.accumulate)
    if files.config.is_file() and not resume:
        raise ValueError(
            f"{files.path} already holds a run; add --resume to go on with it, "
            "or choose another --out"
        )
    stages = stages_of(plan)
    order = list(stages)
    begun = [n for n in order if files.stage(n).checkpoint_files()]
    if begun != order[: len(begun)]:
        missing = next(n for n in order if n not in begun)
        raise ValueError(
            f"{files.stage(begun[-1]).path} has a checkpoint, but the stage before it, "
            f"{files.stage(missing).path}, has none; restore it, or delete the later stages"
        )
    if files.config.is_file():
        _check_alike(plan, files)
    for n in begun:
        _check_alike(stages[n], files.stage(n))
    wait_for_all(world)  # all have looked before anything is written
    if world.rank == 0:
        write_atomic(files.config, configs.dumps(plan))
        export_model(teachers.strong, files.teacher)
        if teachers.weak is not None:
            export_model(teachers.weak, files.weak)
        write_json(files.stages, stage_figures(plan, files.path))


def _check_alike(config: Config, begun: RunFiles) -> None:
    """Refuse to go on with what was begun with other settings than these."""
    before = configs.load(str(begun.config))
    faults = [
        fault
        for section in ("model", "diffusion", "distill")
        for fault in differing(getattr(config, section), getattr(before, section))
    ]
    if faults:
        raise ValueError(
            f"{begun.path} was begun with {'; '.join(faults)}; "
            "leave that setting as it was, or choose another --out"
        )


def _carry_out_stages(
    plan: Config,
    teachers: Teachers,
    files: RunFiles,
    world: World,
    stop: Stop,
    observers: Sequence[Observer],
) -> Distilled:
    for steps, stage in stages_of(plan).items():
        with held(files.stage(steps), world):
            run, strong, weak = _open_stage(stage, teachers, files.stage(steps), world)
            if largest(int(files.teacher_grid.is_file()), world) == 0:
                _show_teacher(run, strong, weak, files, stop)
            step, signum = carry_out(run, stop, observers)
        rows = stage_figures(plan, files.path)
        if world.rank == 0:
            write_json(files.stages, rows)
        if signum:
            break
        wait_for_all(world)  # the checkpoint is there
        teachers = Teachers(find_checkpoint(run.files.path))
    return Distilled(steps, step, signum, rows)


def _show_teacher(
    run: Run, strong: Trained, weak: Trained | None, files: RunFiles, stop: Stop
) -> None:
    """Write the first teacher's sample grid, for comparison with those of the students."""
    config, own = run.config, strong.config
    ranged = config.model.guidance_range is not None
    sample = replace(
        own.sample,
        guidance=config.sample.guidance if ranged else config.distill.teacher_guidance or 0.0,
        sample_batch=config.sample.sample_batch,
        guide_with=None if weak is None else str(files.weak),
        guide_weight=1.0 if weak is None else config.distill.teacher_guide_weight or 0.0,
    )
    shown, seed = replace(strong, config=replace(own, sample=sample)), config.train.seed
    with suppress(Stopped):  # what is left out now, a resumed distillation does
        save_grid(shown, run.dataset, seed, files.teacher_grid, run.world, stop.check, weak)


def _open_stage(
    stage: Config, teachers: Teachers, files: RunFiles, world: World
) -> tuple[Run, Trained, Trained | None]:
    """A stage's run, begun or restored, and the networks of the teachers in its objective."""
    run = open_run(stage, files, world, resume=True)
    strong = _frozen(teachers.strong, run.world, "the teacher")
    if run.state.step == 0:
        _start_as(run, strong.model, teachers.strong)
    weak, by = None, stage.distill.teacher_guide_weight
    if teachers.weak is not None and by:
        weak = _frozen(teachers.weak, run.world, "the weaker network")
    if stage.train.compile:
        for network in (strong, weak):
            if network is not None:
                network.model.compile()
    method = method_of(stage)
    if weak is None or by is None:
        objective = method.objective(strong.model, stage)
    else:
        assert method.guided is not None  # refused otherwise
        objective = method.guided(strong.model, stage, Weak(_said_by(weak), by))
    return run._replace(objective=objective), strong, weak


def _frozen(checkpoint: Checkpoint, world: World, called: str) -> Trained:
    """A network with its average as its own parameters, of which none is trained."""
    network = build_model(checkpoint.config, checkpoint.shape).to(world.device).eval()
    check_fits(checkpoint.ema, dict(network.named_parameters()), called)
    network.load_state_dict(checkpoint.ema, strict=False)  # what it keeps beside parameters stays
    network.requires_grad_(False)
    params = dict(network.named_parameters())
    return Trained(
        network, params, checkpoint.config, checkpoint.shape, world.device, checkpoint.step
    )


def _said_by(weak: Trained) -> Callable[[Tensor | None], Denoiser]:
    """What a network says of a batch with some labels; it may know none."""
    diffusion, labelled = weak.config.diffusion, bool(weak.shape.legend.names)
    schedule = schedule_of(diffusion)

    def said(labels: Tensor | None) -> Denoiser:
        asked = labels if labelled else None
        return denoiser(weak.model, None, schedule, diffusion.model_out_type, asked)

    return said


def _start_as(run: Run, network: nn.Module, teacher: Checkpoint) -> None:
    """Begin a student as its teacher.

    What a student of a range has beyond its teacher takes the guidance; it stays as the student was
    built, which has to be so that guidance changes nothing yet.

    Raises:
        ValueError: if it does change something.
    """
    state, own = run.state, teacher.ema
    ranged = guidance_range(run.model) is not None and guidance_range(network) is None
    added = {name: v for name, v in state.ema.items() if ranged and name not in own}
    start_from(state, teacher._replace(ema=added | own))
    if ranged and not _starts_alike(run, network):
        raise ValueError(
            f"expected network {run.config.model.network} to start as its teacher whatever the "
            f"guidance, and it does not; {', '.join(added) or 'what takes the guidance'} has to "
            "start so that it adds zero"
        )


@torch.no_grad()
def _starts_alike(run: Run, network: nn.Module) -> bool:
    """Whether a student says what its teacher does, at the lowest and at the highest guidance."""
    span = guidance_range(run.model) or (0.0, 0.0)
    z = to_unit(run.dataset.images[:1]).to(run.world.device).repeat(2, 1, 1, 1)
    t, w = z.new_full((2,), 0.5), z.new_tensor(span)
    labels = run.dataset.labels
    y = None if labels is None else labels[[0, 0]].to(z.device)
    return torch.allclose(run.model.eval()(z, t, y, w), network(z, t, y), rtol=1e-3, atol=1e-4)


def stage_figures(plan: Config, out: str | Path) -> list[dict[str, Any]]:
    """What each stage came to.

    Args:
        plan: the configuration of the whole.
        out: the directory of the distillation.

    Returns:
        for each stage that has a log its student's steps, updates, and the last of each figure.
    """
    rows = []
    for steps in stages_of(plan):
        log = read_log(RunFiles(Path(out)).stage(steps).log)
        if log:
            last = {name: entry[name] for entry in log for name in FIGURES if name in entry}
            rows.append({"student_steps": steps, "updates": log[-1]["step"], **last})
    return rows


def stage_table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures of the stages as lines of text.

    Args:
        rows: see `stage_figures`.

    Returns:
        a line for the names, and one for each stage.

    >>> print(stage_table([{"student_steps": 2, "updates": 10, "loss": 0.5}]))
    student_steps  updates  loss
                2       10   0.5
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[f"{row[n]:.4g}" if n in row else "" for n in names] for row in rows]
    return text_table([names, *cells], left=())
