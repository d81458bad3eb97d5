"""The loop around `train_step`: processes, files, signals, clocks."""

import resource
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vfn.configs import Config
from vfn.distributed import World, join_world, leave_world, total
from vfn.files import write_json
from vfn.objective import Batch
from vfn.runs.checkpoint import save_best, save_checkpoint
from vfn.runs.log import read_log
from vfn.train.batches import image_indices, make_batch, prefetch
from vfn.train.journal import Journal
from vfn.train.previews import evaluation, preview
from vfn.train.session import Run, micro_batch_size, open_run
from vfn.train.signals import Stop, Stopped, stop_signals
from vfn.train.state import StepResult, learning_rate
from vfn.train.state import train_step as step_of

BEST = "frechet_distance"  # what the best checkpoint has least of


class Outcome(NamedTuple):
    """Where a run stands: steps done, and the signal that stopped it (0 if it is finished)."""

    step: int
    signum: int


def train(
    config: Config,
    out: Path,
    resume: bool = False,
    device: str = "auto",
    init_from: Path | None = None,
) -> Outcome:
    """Train, or go on training, in a run directory.

    Args:
        config: what to train.
        out: run directory: gets ``config.toml``, ``log.jsonl``, ``checkpoints/``, ``samples/``.
        resume: go on from the newest intact checkpoint in ``out``.
        device: auto, cpu or cuda.
        init_from: run directory or checkpoint file whose average a new run starts from.

    Returns:
        Outcome(step, signum).

    Raises:
        ValueError: if ``out`` holds a run and ``resume`` is not asked for, settings do not fit, or
            gradients stay without finite values.
        OSError: if ``out`` cannot be written.
    """
    if config.distill.teacher_steps:
        raise ValueError("this configuration describes a distillation; use vfn distill")
    world = join_world(device)
    try:
        run = open_run(config, out, world, resume, init_from)
        with stop_signals(world) as stop:
            return carry_out(run, stop)
    finally:
        leave_world(world)


def carry_out(run: Run, stop: Stop) -> Outcome:
    """The rest of a run's steps, or those until a signal comes."""
    journal = _journal(run)
    try:
        with closing(_batches(run)) as batches:
            return _loop(run, batches, journal, stop)
    finally:
        if journal:
            journal.close()


def _journal(run: Run) -> Journal | None:
    if run.world.rank:
        return None
    settings = run.config.train
    board = run.out / "tensorboard" if settings.tensorboard else None
    return Journal(run.out / "log.jsonl", run.state.step, settings.steps, board)


def _network(run: Run) -> Callable[..., Tensor]:
    network = torch.compile(run.model) if run.config.train.compile else run.model
    return DistributedDataParallel(network) if run.world.size > 1 else network


def _loop(run: Run, batches: Iterator[Batch], journal: Journal | None, stop: Stop) -> Outcome:
    settings, state = run.config.train, run.state
    network, window = _network(run), Window(run)
    signum = stop.agreed()
    while state.step < settings.steps and not signum:
        run.model.train()
        batch = _micro_batches(run, batches)
        window.add(step_of(state, network, batch, run.config, run.objective))
        if journal:
            journal.advance()
        finished = state.step == settings.steps
        if state.step % settings.log_every == 0 or finished:
            entry = window.close()
            if journal:
                journal.log(entry)
            _check_finite(run)
        signum = stop.agreed()
        if journal and (state.step % settings.checkpoint_every == 0 or finished or signum):
            _save(run)
        if not signum:
            signum = _show(run, journal, stop, window)
    return Outcome(state.step, 0 if state.step == settings.steps else signum)


def _save(run: Run) -> None:
    directory, keep = run.out / "checkpoints", run.config.train.max_checkpoints
    save_checkpoint(directory, run.state, run.config, run.shape, keep)


def _show(run: Run, journal: Journal | None, stop: Stop, window: "Window") -> int:
    """Preview and evaluation where they are due; the signal that cut them short, or 0."""
    settings, step = run.config.train, run.state.step
    finished = step == settings.steps
    parts = []
    if step % settings.preview_every == 0 or finished:
        parts.append(preview)
    if settings.eval_every and (step % settings.eval_every == 0 or finished):
        parts.append(evaluation)
    started = time.perf_counter()
    try:
        figures = {name: value for part in parts for name, value in part(run, stop.check).items()}
    except Stopped:
        if journal:
            _save(run)
        return stop.agreed()
    finally:
        window.leave_out(time.perf_counter() - started)
    if journal and figures:
        earlier = [e[BEST] for e in read_log(run.out / "log.jsonl") if BEST in e]
        if BEST in figures and figures[BEST] < min(earlier, default=float("inf")):
            save_best(run.out / "checkpoints", run.state, run.config, run.shape)
        journal.log({"step": step, **figures})
    return 0


class Window:
    """What is gathered between two lines of the log; figures stay on the device until then."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._start()

    def _start(self) -> None:
        self.started, self.step = time.perf_counter(), self.run.state.step
        self.results: list[StepResult] = []

    def add(self, result: StepResult) -> None:
        self.results.append(result)

    def leave_out(self, seconds: float) -> None:
        """Time that was not spent on training."""
        self.started += seconds

    def close(self) -> dict[str, Any]:
        """A line for the log; all processes must ask together."""
        run, settings = self.run, self.run.config.train
        losses = torch.stack([result.loss for result in self.results])
        loss = total(losses.nanmean(), run.world).item() / run.world.size
        sums, counts = total(torch.stack([r.bins for r in self.results]).sum(0), run.world).tolist()
        elapsed = time.perf_counter() - self.started
        entry = {
            "step": run.state.step,
            "loss": loss,
            "loss_by_logsnr": [s / n if n else None for s, n in zip(sums, counts, strict=True)],
            "grad_norm": self.results[-1].grad_norm.item(),
            "lr": learning_rate(run.state.step - 1, settings),
            "skipped": int(run.state.counters["skipped"]),
            "images_per_s": (run.state.step - self.step) * settings.batch_size / elapsed,
            "memory_mib": _memory(run.world),
            "seconds": elapsed,
        }
        self._start()
        return entry


def _memory(world: World) -> float:
    """Most memory held so far, in MiB: of the GPU, or of the process."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _check_finite(run: Run) -> None:
    """Stop a run whose gradients stay without finite values; the state is still a good one."""
    bad = int(run.state.counters["in_row"])
    settings, step = run.config.train, run.state.step
    if bad < settings.max_bad_steps:
        return
    draws = torch.arange(settings.batch_size) + (step - 1) * settings.batch_size
    indices = image_indices(settings.seed, draws, len(run.dataset.images)).tolist()
    path = run.out / f"not-finite-{step:08d}.json"
    if run.world.rank == 0:
        write_json(path, {"step": step, "bad_steps": bad, "pictures": indices})
        _save(run)
    raise ValueError(
        f"no finite gradient in the last {bad} steps up to step {step}; these steps changed no "
        f"parameters, and a checkpoint is written. The last batch's pictures are in {path}; go on "
        "with --resume and a smaller --lr, or delete newer checkpoints to go back"
    )


def _batches(run: Run) -> Generator[Batch]:
    """This process's micro-batches from the current step to the last, one made ahead."""
    config, settings, world = run.config, run.config.train, run.world
    size = micro_batch_size(settings.batch_size, world.size, settings.accumulate)

    def make(number: int) -> Batch:
        step, part = divmod(number, settings.accumulate)
        first = step * settings.batch_size + (world.rank * settings.accumulate + part) * size
        draws = torch.arange(size) + first
        return make_batch(
            run.dataset,
            config.diffusion,
            settings.seed,
            draws,
            world.device,
            config.data.flip,
            config.distill.guidance_range,
        )

    steps = range(run.state.step * settings.accumulate, settings.steps * settings.accumulate)
    return prefetch(make, steps)


def _micro_batches(run: Run, batches: Iterator[Batch]) -> Iterator[Batch]:
    """This process's part of the global batch of the current step, each with its dropout key."""
    settings, world = run.config.train, run.world
    for part, batch in enumerate(islice(batches, settings.accumulate)):
        if run.config.model.dropout:
            key = (run.state.step * world.size + world.rank) * settings.accumulate + part
            torch.manual_seed(settings.seed + (key << 16))
        yield batch
