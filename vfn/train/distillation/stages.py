"""A distillation: its directory, its stages one after the other, and what they came to.

A stage is the loop of training with another objective; its student becomes the next teacher.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from vfn import configs
from vfn.configs import Config, DistillConfig, SampleConfig
from vfn.data import Dataset, load_dataset, pictures_of, settled
from vfn.distributed import World, largest, processes, together, wait_for_all
from vfn.files import few, shown, write_atomic, write_json
from vfn.model import build_model, conditions_of, float32_products, schedule_of, shape_of
from vfn.nn import Conditions, denoiser, guidance_range, refit_time_embedding
from vfn.nn.conditioning import Conditioned
from vfn.ops import Denoiser
from vfn.progress import say, text_table
from vfn.runs import (
    Checkpoint,
    RunFiles,
    check_fits,
    find_checkpoint,
    other_pictures,
    read_log,
    read_pictured,
    run_path,
)
from vfn.runs.checkpoint import average_alone
from vfn.runs.mark import seen_before
from vfn.sampling import Trained
from vfn.tables import outside
from vfn.train.ahead import check_ahead, check_room, check_text
from vfn.train.alike import differing, of_optimizer
from vfn.train.distillation.methods import METHODS, Weak, WithAuxiliary, limits_of, method_of
from vfn.train.distillation.plan import left_out, plan_of, stages_of
from vfn.train.distillation.teachers import Teachers, find_teacher, find_weak, keep_teachers
from vfn.train.loop import carry_out, held, undisturbed
from vfn.train.networks import try_objective
from vfn.train.observers import Callback, Observer, Outcome, as_observers
from vfn.train.previews import save_grid
from vfn.train.session import (
    Run,
    can_be_read,
    check_directory,
    check_job,
    check_outside,
    found_unless,
    goes_on,
    micro_batch_size,
    open_run,
    without_labels,
)
from vfn.train.signals import Stop, Stopped, stop_signals
from vfn.train.state import start_from

FIGURES = ("loss", "held_out_loss", "frechet_distance", "precision", "recall", "seconds")


class Start(NamedTuple):
    """How stages are opened: going on with what is there, replacing what has no checkpoint."""

    resume: bool
    fresh: bool


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
    fresh: bool = False,
    device: str = "auto",
    callbacks: Sequence[Callback] | None = None,
    **overrides: Any,
) -> Distilled:
    """Distill, or go on distilling, in a directory.

    Args:
        teacher: a run, checkpoint or opened model, whose average is what is distilled; where a
            distillation is resumed, None is its own.
        out: gets ``config.toml``, ``teacher.safetensors``, ``teachers.json``, ``stages.json``, and
            a run directory ``steps-N`` for each student, a sample grid ``teacher.png``, and
            ``weak.safetensors`` if the teacher is led away from a weaker network.
        config: a preset's name, or the path of a .toml file. Data, network and diffusion are the
            teacher's where it does not say otherwise. None is the method's preset, digits_distill
            of progressive, or what ``out`` was begun with where it is resumed.
        resume: go on from the newest intact checkpoint of the newest stage.
        fresh: begin anew in a directory with the files of a distillation but no checkpoint of a
            stage that can be read; they are replaced.
        device: auto, cpu or cuda, perhaps with an index as in ``cuda:1``.
        callbacks: observers of every stage, or functions of each line of their logs.
        overrides: settings by name, such as ``teacher_steps=8, student_steps=4``.

    Returns:
        Distilled.

    Raises:
        ValueError: if ``out`` holds a distillation and ``resume`` is not asked for, or one that has
            lost its checkpoints, a stage is there without the one before, or anything does not fit
            the teacher.
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
    files = RunFiles(run_path(out))
    with processes(device) as world, undisturbed(world.device):
        resume = goes_on(resume, world)
        with together(world):
            found, plan = plan_distillation(teacher, out, config, resume=resume, **overrides)
            weak = find_weak(plan, teacher, found, files, resume)
        named = {"teacher": found, "teacher_guide_with": weak}
        check_job(plan, files, world, named, resume=resume, fresh=fresh)
        with together(world):
            check_outside(files, plan.data)
            dataset = _pictures(plan, found, files.path if resume else "the teacher")
        plan = replace(plan, data=settled(plan.data))
        with held(files, world), float32_products(plan.train.tf32):
            with together(world):
                begun = _check_begun(plan, files, world, Start(resume, fresh))
                _check_stages(plan, found, files, dataset, begun)
            teachers = [Teachers(found, weak)]
            _begin(plan, teachers[0], files, world, bool(begun), resume)
            del found, weak, named, dataset  # the first stage takes what it needs, and lets it go
            with stop_signals(world) as stop:
                start = Start(resume or not fresh, fresh)
                return _carry_out_stages(plan, teachers, files, world, stop, observers, start)


def _pictures(plan: Config, teacher: Checkpoint, owner: str | Path) -> Dataset:
    """What the students are trained on, which has to be like what the teacher was."""
    with pictures_of(str(owner)):
        dataset = load_dataset(plan.data)
    if faults := other_pictures(dataset, teacher.shape, None):
        spare = without_labels(dataset, teacher.shape)
        raise ValueError(f"expected the teacher's pictures, got other {faults}{spare}")
    same_place = teacher.config.data.dataset == plan.data.dataset
    if same_place and (told := seen_before(dataset, teacher.shape, teacher.data)):
        say(f"the teacher {told}")
    return dataset


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

    >>> from vfn.sampling import untrained
    >>> _, plan = plan_distillation(untrained("digits"), "runs/fast", student_steps=4)
    >>> plan.distill.student_steps, plan.distill.method
    (4, 'progressive')
    """
    files = RunFiles(run_path(out))
    found = find_teacher(teacher, files.path, resume)
    if config is None:
        method = METHODS.find(overrides.get("method", DistillConfig.method))
        config = files.config if resume and files.config.is_file() else method.preset
    plan = plan_of(found, str(config), overrides)
    if told := left_out(plan, found.config):
        say(told)
    return found, plan


def _check_begun(plan: Config, files: RunFiles, world: World, start: Start) -> list[int]:
    """Refuse a directory, its stages' among them, that cannot be gone on with.

    Returns:
        steps of the students that have a checkpoint already.

    Raises:
        ValueError: if another distillation is there, or a stage whose teacher is missing.
    """
    micro_batch_size(plan.train.batch_size, world.size, plan.train.micro_batches)
    check_text(plan)
    resume, fresh = start
    if not resume:
        _check_unused(files, fresh)
    elif not fresh:
        _check_lost(files)
    stages = stages_of(plan)
    order = list(stages)
    begun = [n for n in order if resume and files.stage(n).checkpoint_files()]
    if begun != order[: len(begun)]:
        missing = next(n for n in order if n not in begun)
        raise ValueError(
            f"{files.stage(begun[-1]).path} has a checkpoint, but the stage before it, "
            f"{files.stage(missing).path}, has none; restore it, or delete the later stages"
        )
    if resume and files.config.is_file():
        _check_alike(plan, files)
    if resume:
        _check_students(plan, files, [files.stage(n) for n in order])
    for n in begun:
        _check_alike(stages[n], files.stage(n))
    for n in begun[:-1]:
        _check_updates(stages[n], files.stage(n), files.stage(begun[-1]))
        _check_readable(files.stage(n), files.stage(begun[-1]))
    for n in order:
        check_directory(files.stage(n), resume or not fresh, fresh)
    return begun


def _check_stages(
    plan: Config, teacher: Checkpoint, files: RunFiles, dataset: Dataset, begun: list[int]
) -> None:
    """Refuse what the last stage would fail by, before the first begins."""
    for n in begun:
        _check_pictures(dataset, teacher, files.stage(n))
    method_of(plan)
    stages = stages_of(plan)
    for stage in stages.values():
        check_ahead(stage, dataset, shape_of(dataset))
    runs = [(files.stage(n), stage) for n, stage in stages.items()]
    check_room(runs, sum(value.numel() for value in teacher.ema.values()))


def _begin(
    plan: Config,
    teachers: Teachers,
    files: RunFiles,
    world: World,
    begun: bool,
    resume: bool,
) -> None:
    """Write what the stages share."""
    wait_for_all(world)  # all have looked before anything is written
    if world.rank == 0:
        if not begun:
            write_atomic(files.begun, "")
        if not resume:
            _clear(files)
        write_atomic(files.config, configs.dumps(plan))
        keep_teachers(teachers, files)
        write_json(files.stages, stage_figures(plan, files.path))


def _clear(files: RunFiles) -> None:
    """Remove what a new distillation would take for its own; all of it was found to be useless."""
    damaged = [path for run in files.stage_runs() for path in run.checkpoint_files()]
    for path in (*damaged, files.teacher_grid):
        path.unlink(missing_ok=True)


def _check_unused(files: RunFiles, fresh: bool) -> None:
    """Refuse to begin where a distillation or a run is; nothing that is there may come to harm.

    What was killed before the first checkpoint of a stage begins again, as a run does.

    Raises:
        ValueError: if there is a checkpoint, or without ``fresh`` anything else of a distillation.
    """
    for run in (files, *files.stage_runs()):
        if found_unless(fresh, run):
            raise ValueError(
                f"{files.path} already holds a run; add --resume to go on with it, "
                "or choose another --out"
            )
    kept = (files.config, files.log, files.teacher, files.stages)
    there = [path.name for path in kept if os.path.lexists(path)]
    if there and not fresh and not files.begun.exists():
        raise ValueError(_lost(files, there))


def _check_lost(files: RunFiles) -> None:
    """Refuse to go on where all checkpoints are gone.

    Raises:
        ValueError: if they are, and it is not that there were none yet.
    """
    runs = files.stage_runs()
    if any(run.checkpoint_files() for run in runs):
        return
    there = [
        f"{run.path.name}/{path.name}"
        for run in runs
        for path in (run.config, run.log)
        if os.path.lexists(path) and not run.begun.exists()
    ]
    if there:
        raise ValueError(_lost(files, there))


def _lost(files: RunFiles, there: Sequence[str]) -> str:
    return (
        f"{files.path} holds {few(there, 3)} but no checkpoint of a stage: restore or mount what "
        "is missing, choose another --out, or add --fresh to replace them by those of a new "
        "distillation"
    )


def _check_alike(config: Config, begun: RunFiles) -> None:
    """Refuse to go on with what was begun with other settings than these."""
    before = configs.load(str(begun.config))
    faults = [
        fault
        for section in ("model", "diffusion", "distill")
        for fault in differing(getattr(config, section), getattr(before, section))
    ] + of_optimizer(config, before)
    if faults:
        raise ValueError(
            f"{begun.path} was begun with {few(faults, 20, 300, '; ')}; "
            "leave that setting as it was, or choose another --out"
        )


def _check_students(plan: Config, files: RunFiles, planned: Sequence[RunFiles]) -> None:
    """Refuse to go on without a student that is there: it would be forgotten, its teacher changed.

    One of fewer steps has learned from those of more; a method of one run would train it all anew.

    Raises:
        ValueError: if the plan has no stage of its steps.
    """
    others = [run for run in files.stage_runs() if run.checkpoint_files() and run not in planned]
    if not others:
        return
    name, asked = others[-1].path.name, plan.distill.student_steps
    steps = name.removeprefix("steps-")
    one_run = METHODS.find(plan.distill.method).objective is not None
    drawn = f"draw it in other steps with vfn sample --steps {asked}, " if one_run else ""
    raise ValueError(
        f"{files.path} was begun with student_steps {steps}, got {asked}, and {name} has a "
        f"checkpoint; leave that setting as it was, {drawn}or choose another --out"
    )


def _check_updates(stage: Config, begun: RunFiles, later: RunFiles) -> None:
    """Refuse to train a stage anew from which a later one has learned already."""
    before = configs.load(str(begun.config)).train.steps
    if before != stage.train.steps:
        raise ValueError(
            f"{begun.path} was begun for {before} updates, got {stage.train.steps}, and "
            f"{later.path} has learned from it; leave that setting as it was, or choose another "
            "--out"
        )


def _check_readable(begun: RunFiles, later: RunFiles) -> None:
    """Refuse to train a stage anew, since it is damaged, from which a later one has learned."""
    if not can_be_read(begun):
        raise ValueError(
            f"no checkpoint of {begun.path} can be read, and {later.path} has learned from it; "
            "restore one, or choose another --out"
        )


def _check_pictures(dataset: Dataset, teacher: Checkpoint, begun: RunFiles) -> None:
    """Refuse to go on with other pictures, before their name is written."""
    for path in begun.checkpoint_files()[:1]:
        known = read_pictured(path) or (teacher.shape, None)
        if faults := other_pictures(dataset, *known):
            raise ValueError(
                f"the data set is not what {begun.path} was begun with: other {faults}; bring it "
                "back, or choose another --out"
            )


def _carry_out_stages(
    plan: Config,
    teachers: list[Teachers],
    files: RunFiles,
    world: World,
    stop: Stop,
    observers: Sequence[Observer],
    start: Start,
) -> Distilled:
    """Carry out the stages; ``teachers`` has those of the first, and each takes its own out."""
    stages = stages_of(plan)
    for steps, stage in stages.items():
        step, signum = _carry_out_stage(stage, teachers, files, world, stop, observers, start)
        rows = stage_figures(plan, files.path)
        if world.rank == 0:
            write_json(files.stages, rows)
        if signum:
            break
        wait_for_all(world)  # the checkpoint is there
        if steps != [*stages][-1]:
            teachers.append(Teachers(average_alone(find_checkpoint(files.stage(steps).path))))
    return Distilled(steps, step, signum, rows)


def _carry_out_stage(
    stage: Config,
    teachers: list[Teachers],
    files: RunFiles,
    world: World,
    stop: Stop,
    observers: Sequence[Observer],
    start: Start,
) -> Outcome:
    """Carry out a stage, of which nothing stays in memory; its teachers go as it begins."""
    own = files.stage(stage.distill.student_steps)
    with held(own, world):
        run, strong, weak = _open_stage(stage, teachers.pop(), own, world, start)
        if largest(int(files.teacher_grid.is_file()), world) == 0:
            _show_teacher(run, strong, weak, files, stop)
        outcome = carry_out(run, stop, observers)
        if world.rank == 0:
            files.begun.unlink(missing_ok=True)
    return outcome


def _show_teacher(
    run: Run, strong: Trained, weak: Trained | None, files: RunFiles, stop: Stop
) -> None:
    """Write the first teacher's sample grid, for comparison with those of the students.

    It is guided as they are taught, and otherwise sampled as it is.
    """
    config, own = run.config, strong.config
    ranged = config.model.guidance_range is not None
    limits, usual = limits_of(config.distill), SampleConfig()
    sample = replace(
        own.sample,
        guidance_interval=limits.interval,
        guidance_rescale=limits.rescale,
        guidance_rule=usual.guidance_rule,
        guidance_options=usual.guidance_options,
        zero_init=usual.zero_init,
        guidance=config.sample.guidance if ranged else config.distill.teacher_guidance or 0.0,
        sample_batch=config.sample.sample_batch,
        guide_with=None if weak is None else str(files.weak),
        guide_weight=1.0 if weak is None else config.distill.teacher_guide_weight or 0.0,
    )
    shown, seed = replace(strong, config=replace(own, sample=sample)), config.train.seed
    with suppress(Stopped):  # what is left out now, a resumed distillation does
        title = "the teacher's pictures"
        grid, world = files.teacher_grid, run.world
        save_grid(shown, run.dataset, seed, grid, world, stop.check, title, weak)


def _open_stage(
    stage: Config, teachers: Teachers, files: RunFiles, world: World, start: Start
) -> tuple[Run, Trained, Trained | None]:
    """A stage's run, begun or restored, and the networks of the teachers in its objective."""
    method = method_of(stage)
    run = open_run(stage, files, world, start.resume, fresh=start.fresh)
    strong = _frozen(teachers.strong, run.world, "the teacher")
    if run.state.step == 0:
        _start_as(run, strong.model, teachers.strong)
        if run.state.auxiliary is not None:
            run.state.auxiliary.module.load_state_dict(run.model.state_dict())
    weak, by = None, stage.distill.teacher_guide_weight
    if teachers.weak is not None and by:
        weak = _frozen(teachers.weak, run.world, "the weaker network")
    companion = run.state.auxiliary
    if stage.train.compile:
        others = (part for part in (weak and weak.model, companion and companion.module) if part)
        for network in (strong.model, *others):
            network.compile()
    led = () if weak is None or by is None else (Weak(_said_by(weak), by),)
    assert method.takes_weak or not led  # refused otherwise
    called = f"method {stage.distill.method}"
    with outside(f"{called} fails"):
        objective = method.objective(strong, stage, *led)
    if not callable(objective):
        raise ValueError(
            f"expected {called} to give an objective, a function of network, batch and diffusion, "
            f"got {shown(objective)}"
        )
    if companion is not None:
        objective = partial(cast(WithAuxiliary, objective), auxiliary=companion.module)
    if stage.distill.method not in METHODS:
        step = companion is not None
        try_objective(objective, called, run.model, stage, run.dataset, world.device, step)
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


def _said_by(weak: Trained) -> Callable[..., Denoiser]:
    """What a network says of a batch under some conditions; it may know no labels."""
    diffusion, labelled = weak.config.diffusion, bool(weak.shape.legend.names)
    schedule, out_type = schedule_of(diffusion), diffusion.model_out_type

    def said(labels: Tensor | None, conditions: Conditions, clip: bool = True) -> Denoiser:
        asked = labels if labelled else None
        return denoiser(
            weak.model, None, schedule, out_type, asked, clip=clip, conditions=conditions
        )

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
    if (
        isinstance(run.model, Conditioned)
        and isinstance(network, Conditioned)
        and run.model.time_embedding != network.time_embedding
    ):
        refit_time_embedding(run.model, network)
        for name, param in state.params.items():
            state.ema[name].copy_(param.detach())
        say(
            f"the student's time_embedding is {run.model.time_embedding}, unlike its "
            "teacher's: it is fitted to what that says"
        )
    elif ranged and not _starts_alike(run, network):
        raise ValueError(
            f"expected network {run.config.model.network} to start as its teacher whatever the "
            f"guidance, and it does not; {few(added, 3) or 'what takes the guidance'} has to "
            "start so that it adds zero"
        )


@torch.no_grad()
def _starts_alike(run: Run, network: nn.Module) -> bool:
    """Whether a student says what its teacher does, at the lowest and at the highest guidance."""
    span = guidance_range(run.model) or (0.0, 0.0)
    first = run.dataset.values.to_unit(run.dataset.images[:1])
    z = first.to(run.world.device).repeat(2, 1, 1, 1)
    t, w = z.new_full((2,), 0.5, dtype=torch.float64), z.new_tensor(span)
    labels = run.dataset.labels
    y = None if labels is None else labels[[0, 0]].to(z.device)
    rows, uniform = torch.zeros(2, dtype=torch.long), z.new_full((2, 4), 0.5)
    more = conditions_of(run.dataset, rows, z, run.config.data.condition, uniform).keywords()
    ours, theirs = run.model.eval()(z, t, y, w, **more), network(z, t, y, **more)
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def stage_figures(plan: Config, out: str | Path) -> list[dict[str, Any]]:
    r"""What each stage came to.

    Args:
        plan: the configuration of the whole.
        out: the directory of the distillation.

    Returns:
        for each stage that has a log its student's steps, updates, and the last of each figure.

    >>> from vfn.configs import load
    >>> from vfn.runs import RunFiles
    >>> log = RunFiles("fast").stage(4).log
    >>> log.parent.mkdir(parents=True)
    >>> _ = log.write_text('{"step": 300, "loss": 0.25}\n')
    >>> stage_figures(load("digits_distill"), "fast")
    [{'student_steps': 4, 'updates': 300, 'loss': 0.25}]
    """
    rows = []
    for steps in stages_of(plan):
        log = read_log(RunFiles(run_path(out)).stage(steps).log)
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
