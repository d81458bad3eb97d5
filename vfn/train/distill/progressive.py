"""Progressive distillation: halvings of the sampling steps, each of them a run of its own.

A stage is the loop of training with another objective: its student starts as its teacher, and
learns to do in one DDIM step what the teacher does in two.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn import configs
from vfn.configs import Config, DiffusionConfig, DistillConfig, SampleConfig
from vfn.configs.schema import Section
from vfn.data import load_dataset
from vfn.distributed import World, join_world, largest, leave_world
from vfn.files import write_atomic, write_json
from vfn.model import build_model, check_guidance, schedule_of, shape_of
from vfn.nn import UNet, denoiser
from vfn.objective import Batch, Network, Objective, weighted_error
from vfn.ops import Prediction, distill_target, eps_from_x0, q_sample, v_from_x0
from vfn.runs.checkpoint import (
    Checkpoint,
    checkpoint_files,
    export_model,
    find_checkpoint,
    load_checkpoint,
)
from vfn.runs.log import read_log
from vfn.train.loop import carry_out
from vfn.train.previews import save_grid
from vfn.train.session import Run, goes_on, micro_batch_size, open_run, say
from vfn.train.signals import Stop, Stopped, stop_signals
from vfn.train.state import start_from

TEACHER, STAGES, TEACHER_GRID = "teacher.safetensors", "stages.json", "teacher.png"
FIGURES = ("loss", "held_out_loss", "frechet_distance", "precision", "recall", "seconds")
# What a student need not share with its teacher, or a distillation with its beginning.
FREE = {"dropout", "checkpoint_activations", "reweight_type", "p_uncond", "train_timesteps",
        "student_steps", "first_steps", "last_steps"}  # fmt: skip


class Distilled(NamedTuple):
    """Where a distillation stands: the stage's DDIM steps, its updates, the signal that came."""

    student_steps: int
    step: int
    signum: int


def halvings(settings: DistillConfig) -> list[int]:
    """The students' numbers of steps, in order.

    >>> halvings(DistillConfig(teacher_steps=16, student_steps=2))
    [8, 4, 2]
    """
    steps = [settings.teacher_steps // 2]
    while steps[-1] > settings.student_steps:
        steps.append(steps[-1] // 2)
    return steps


def stage_directory(out: Path, student_steps: int) -> Path:
    """The run directory of a stage."""
    return out / f"steps-{student_steps}"


def stage_config(plan: Config, student_steps: int) -> Config:
    """The configuration of one halving; what it trains is sampled with by default.

    >>> plan = Config(distill=DistillConfig(teacher_steps=8, teacher_guidance=0.5))
    >>> stage = stage_config(plan, 2)
    >>> stage.sample.sample_timesteps, stage.diffusion.train_timesteps
    (2, 2)
    >>> stage_config(plan, 4).distill.teacher_guidance, stage.distill.teacher_guidance
    (0.5, 0.0)
    """
    distill = plan.distill
    first = 2 * student_steps == distill.teacher_steps
    updates = (
        (first and distill.first_steps)
        or (student_steps <= 2 and distill.last_steps)
        or plan.train.steps
    )
    sample = SampleConfig(
        sample_timesteps=student_steps,
        sample_batch=plan.sample.sample_batch,
        guidance=plan.sample.guidance if distill.guidance_range else 0.0,
    )
    return replace(
        plan,
        diffusion=replace(plan.diffusion, train_timesteps=student_steps),
        train=replace(plan.train, steps=updates),
        sample=sample,
        distill=replace(
            distill,
            teacher_steps=2 * student_steps,
            student_steps=student_steps,
            # The second teacher has the guidance in it.
            teacher_guidance=distill.teacher_guidance if first else 0.0,
        ),
    )


def plan_of(teacher: Checkpoint, name: str, overrides: Mapping[str, Any]) -> Config:
    """The configuration of a distillation.

    Args:
        teacher: data, network and diffusion are its own where nothing else is said.
        name: a preset's name or a .toml file.
        overrides: fields by name.

    Returns:
        Config.

    Raises:
        ValueError: for what is no distillation, or not of this teacher.
    """
    own = teacher.config
    model = replace(own.model, dropout=0.0)
    base = Config(data=own.data, model=model, diffusion=own.diffusion)
    config = configs.override(configs.loads(configs.read(name), name, base), dict(overrides))
    config = _with_guidance(config, own)
    if not config.distill.teacher_steps:
        raise ValueError(f"{name} does not say how many steps the teacher takes: --teacher-steps")
    faults = _differing(config.model, own.model) + _differing(config.diffusion, own.diffusion)
    if own.distill.teacher_steps:
        faults += _faults_of_a_student(config.distill, own.distill)
    if faults:
        raise ValueError(f"expected the teacher's {'; '.join(faults)}")
    wanted = max(config.distill.guidance_range or [config.distill.teacher_guidance or 0.0])
    check_guidance(SampleConfig(guidance=wanted), teacher.shape)
    return config


def _with_guidance(config: Config, own: Config) -> Config:
    """What the students learn of guidance where only the teacher says it: its weight or range.

    Students of a range are sampled at the teacher's weight, or the nearest one that they know.
    """
    distill = config.distill
    if distill.guidance_range is None and own.distill.guidance_range is not None:
        distill = replace(distill, guidance_range=own.distill.guidance_range)
    if distill.guidance_range is None:
        weight = distill.teacher_guidance
        weight = own.sample.guidance if weight is None else weight
        return replace(config, distill=replace(distill, teacher_guidance=weight))
    low, high = distill.guidance_range
    weight = min(max(own.sample.guidance, low), high)
    return replace(config, distill=distill, sample=replace(config.sample, guidance=weight))


def _faults_of_a_student(ours: DistillConfig, theirs: DistillConfig) -> list[str]:
    """Where a student cannot teach what is asked of it: its steps and its guidance are fixed."""
    faults = []
    if ours.teacher_steps != theirs.student_steps:
        faults.append(
            f"teacher_steps {theirs.student_steps}, the only grid this student knows, "
            f"got {ours.teacher_steps}"
        )
    if ours.guidance_range != theirs.guidance_range:
        faults.append(
            f"guidance_range {_span(theirs.guidance_range)}, what this student learned, "
            f"got {_span(ours.guidance_range)}"
        )
    if ours.teacher_guidance:
        faults.append(
            "teacher_guidance 0, since this student has its guidance in it, "
            f"got {ours.teacher_guidance:g}"
        )
    return faults


def _span(values: Sequence[float] | None) -> str:
    return "unset" if values is None else ",".join(f"{value:g}" for value in values)


def _differing(ours: Section, theirs: Section) -> list[str]:
    return [
        f"{f.name} {getattr(theirs, f.name)}, got {getattr(ours, f.name)}"
        for f in fields(ours)
        if f.name not in FREE and getattr(ours, f.name) != getattr(theirs, f.name)
    ]


def find_teacher(path: Path | None, out: Path, resume: bool) -> Checkpoint:
    """The teacher: that of the distillation in ``out`` where it is resumed, else the named one.

    Raises:
        ValueError: if there is none, or ``out`` has another one.
    """
    kept = out / TEACHER
    if not (resume and kept.is_file()):
        if path is None:
            raise ValueError(f"there is no distillation in {out}; name a --teacher to start one")
        return find_checkpoint(path, say)
    own = load_checkpoint(kept)
    if path is not None:
        named = find_checkpoint(path, say).ema
        if named.keys() != own.ema.keys() or not all(
            torch.equal(value, named[name]) for name, value in own.ema.items()
        ):
            raise ValueError(f"{path} is not the teacher of {out}; leave out --teacher to go on")
    return own


def distill_objective(teacher: nn.Module, guidance: float, in_steps: int) -> Objective:
    """Error against what the teacher's two DDIM steps amount to.

    ``t = i/N``: the teacher goes from t over ``(i - 1/2)/N`` to ``(i - 1)/N``, and at the last of
    these, the data, its last x0 is the target.

    Args:
        teacher: a network without gradients.
        guidance: w that is distilled in, where batches have none of their own.
        in_steps: N, the student's steps; times of batches are ``1/N, ..., 1``.

    Returns:
        objective, see `Objective`.

    Source: Salimans & Ho 2022 (2202.00512), algorithm 2; Meng et al. 2023 (2210.03142), section 3.
    """

    def loss(network: Network, batch: Batch, diffusion: DiffusionConfig) -> Tensor:
        schedule = schedule_of(diffusion)
        logsnr = schedule.logsnr(batch.t)
        z = q_sample(batch.x0, logsnr, batch.noise)
        with torch.inference_mode():
            i = torch.round(batch.t * in_steps)
            end = schedule.logsnr(((i - 1) / in_steps).clamp(min=0))
            w = guidance if batch.guidance is None else batch.guidance
            denoise = denoiser(teacher, {}, schedule, diffusion.model_out_type, batch.labels, w)
            target = distill_target(
                denoise,
                z,
                logsnr,
                schedule.logsnr((i - 0.5) / in_steps),
                torch.where(i > 1, end, torch.inf),
            )
        x0 = target.clone()  # a tensor that the student's backward pass may see
        wanted = Prediction(x0, eps_from_x0(z, x0, logsnr), v_from_x0(z, x0, logsnr))
        return weighted_error(network, z, batch, wanted, diffusion)

    return loss


def distill(
    config: Config, teacher: Checkpoint, out: Path, resume: bool = False, device: str = "auto"
) -> Distilled:
    """Distill, or go on distilling, in a directory.

    Args:
        config: see `plan_of`.
        teacher: its average is what is distilled.
        out: gets ``config.toml``, ``teacher.safetensors``, ``stages.json``, and a run directory
            ``steps-N`` for each student, and a sample grid ``teacher.png``.
        resume: go on from the newest intact checkpoint of the newest stage.
        device: auto, cpu or cuda.

    Returns:
        Distilled(student_steps, step, signum).

    Raises:
        ValueError: if ``out`` holds a distillation and ``resume`` is not asked for, a stage is
            there without the one before, or the data are not the teacher's.
        OSError: if ``out`` cannot be written.
    """
    shape = shape_of(load_dataset(config.data, say=say))
    if shape != teacher.shape:
        raise ValueError(f"expected the teacher's pictures, {teacher.shape}, got {shape}")
    world = join_world(device)
    try:
        _begin(config, teacher, out, world, goes_on(resume, world))
        with stop_signals(world) as stop:
            return _stages(config, teacher, out, world, stop)
    finally:
        leave_world(world)


def _begin(config: Config, teacher: Checkpoint, out: Path, world: World, resume: bool) -> None:
    """Refuse what cannot be gone on with, and write what the stages share."""
    micro_batch_size(config.train.batch_size, world.size, config.train.accumulate)
    saved = out / "config.toml"
    if saved.is_file() and not resume:
        raise ValueError(
            f"{out} already holds a run; add --resume to go on with it, or choose another --out"
        )
    order = halvings(config.distill)
    begun = [n for n in order if checkpoint_files(stage_directory(out, n) / "checkpoints")]
    if begun != order[: len(begun)]:
        missing = next(n for n in order if n not in begun)
        raise ValueError(
            f"{stage_directory(out, begun[-1])} has a checkpoint, but the stage before it, "
            f"{stage_directory(out, missing)}, has none; restore it, or delete the later stages"
        )
    if saved.is_file():
        _check_alike(config, saved)
    for n in begun:
        _check_alike(stage_config(config, n), stage_directory(out, n) / "config.toml")
    largest(0, world)  # all have looked before anything is written
    if world.rank == 0:
        write_atomic(out / "config.toml", configs.dumps(config))
        export_model(teacher, out / TEACHER)
        write_json(out / STAGES, stage_figures(config, out))


def _check_alike(config: Config, saved: Path) -> None:
    """Refuse to go on with what was begun with other settings than these."""
    begun = configs.load(str(saved))
    faults = [
        fault
        for section in ("model", "diffusion", "distill")
        for fault in _differing(getattr(config, section), getattr(begun, section))
    ]
    if faults:
        raise ValueError(
            f"{saved.parent} was begun with {'; '.join(faults)}; "
            "leave that setting as it was, or choose another --out"
        )


def _stages(config: Config, teacher: Checkpoint, out: Path, world: World, stop: Stop) -> Distilled:
    for steps in halvings(config.distill):
        run, network = _open_stage(stage_config(config, steps), teacher, out, world)
        if largest(int((out / TEACHER_GRID).is_file()), world) == 0:
            _show_teacher(run, network, teacher.config.sample, out / TEACHER_GRID, stop)
        step, signum = carry_out(run, stop)
        if world.rank == 0:
            write_json(out / STAGES, stage_figures(config, out))
        if signum:
            return Distilled(steps, step, signum)
        largest(0, world)  # the checkpoint is there
        teacher = find_checkpoint(run.out, say)
    return Distilled(steps, step, 0)


def _show_teacher(run: Run, network: UNet, own: SampleConfig, path: Path, stop: Stop) -> None:
    """Write the first teacher's sample grid, for comparison with those of the students."""
    distill = run.config.distill
    weight = run.config.sample.guidance if distill.guidance_range else distill.teacher_guidance
    sampling = replace(run.config.sample, sample_timesteps=own.sample_timesteps)
    config = replace(run.config, sample=replace(sampling, guidance=weight or 0.0))
    state = replace(run.state, ema=dict(network.named_parameters()))
    with suppress(Stopped):  # what is left out now, a resumed distillation does
        save_grid(run._replace(config=config, model=network, state=state), path, stop.check)


def _open_stage(config: Config, teacher: Checkpoint, out: Path, world: World) -> tuple[Run, UNet]:
    """A stage's run, begun or restored, and the network of the teacher in its objective."""
    steps = config.distill.student_steps
    directory = stage_directory(out, steps)
    run = open_run(config, directory, world, resume=True)
    network = build_model(teacher.config, teacher.shape).to(world.device).eval()
    network.load_state_dict(teacher.ema)
    network.requires_grad_(False)
    if run.state.step == 0:
        # The layer of a guidance that the teacher does not take starts at zero.
        added = {n: v for n, v in run.state.ema.items() if n.startswith("guidance_embed.")}
        start_from(run.state, teacher._replace(ema=added | teacher.ema))
    guidance = config.distill.teacher_guidance or 0.0
    if config.train.compile:
        network.compile()
    return run._replace(objective=distill_objective(network, guidance, steps)), network


def stage_figures(config: Config, out: Path) -> list[dict[str, Any]]:
    """What each stage came to: DDIM steps, updates, and the last of each figure in its log."""
    rows = []
    for steps in halvings(config.distill):
        log = read_log(stage_directory(out, steps) / "log.jsonl")
        if log:
            last = {name: entry[name] for entry in log for name in FIGURES if name in entry}
            rows.append({"student_steps": steps, "updates": log[-1]["step"], **last})
    return rows


def stage_table(rows: list[dict[str, Any]]) -> str:
    """The figures of the stages as lines of text.

    >>> print(stage_table([{"student_steps": 2, "updates": 10, "loss": 0.5}]))
    student_steps  updates  loss
                2       10   0.5
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[f"{row[n]:.4g}" if n in row else "" for n in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in [names, *cells]
    )
