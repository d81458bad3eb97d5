"""The loop around `train_step`: processes, files, signals, clocks."""

import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vfn.configs import Config, dumps
from vfn.data import Dataset, load_dataset, load_held_out, to_unit
from vfn.files import write_atomic
from vfn.generate import check_guidance, generate, preview_labels
from vfn.nn import UNet, with_params
from vfn.ops import keyed_normal, keyed_uniform
from vfn.pictures import grid, save_png
from vfn.train.batch import Batch, make_batch, prefetch
from vfn.train.checkpoint import newest_checkpoint, restore, save_checkpoint
from vfn.train.journal import Journal
from vfn.train.objective import held_out_loss
from vfn.train.state import DataShape, TrainState, build_model, init_state, learning_rate
from vfn.train.state import train_step as step_of
from vfn.train.streams import Stream
from vfn.train.world import World, average, join_world, largest, leave_world

PREVIEW_ROWS, PREVIEW_COLUMNS = 4, 10
HELD_OUT_DRAWS, HELD_OUT_PICTURES = 4, 512


class Outcome(NamedTuple):
    """Where a run stands: steps done, and the signal that stopped it (0 if it is finished)."""

    step: int
    signum: int


class Run(NamedTuple):
    """What the parts of the loop share."""

    config: Config
    out: Path
    world: World
    dataset: Dataset
    held_out: Dataset | None
    shape: DataShape
    model: UNet
    state: TrainState


def shape_of(dataset: Dataset) -> DataShape:
    channels, height, width = dataset.images.shape[1:]
    return DataShape(channels, height, width, dataset.class_names, dataset.multitags)


def micro_batch_size(batch_size: int, processes: int, accumulate: int) -> int:
    """Pictures in one forward pass.

    Args:
        batch_size: pictures a step, over all processes.
        processes: how many there are.
        accumulate: micro-batches a step on each.

    Returns:
        ``batch_size / (processes * accumulate)``.

    Raises:
        ValueError: if that is not whole; the nearest batch sizes that are get named.

    >>> micro_batch_size(128, processes=2, accumulate=4)
    16
    """
    parts = processes * accumulate
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        raise ValueError(
            f"expected a batch_size that {processes} processes x {accumulate} micro-batches "
            f"divide, got {batch_size}; use {nearest}"
        )
    return batch_size // parts


def train(config: Config, out: Path, resume: bool = False, device: str = "auto") -> Outcome:
    """Train, or go on training, in a run directory.

    Args:
        config: what to train.
        out: run directory: gets ``config.toml``, ``log.jsonl``, ``checkpoints/``, ``samples/``.
        resume: go on from the newest intact checkpoint in ``out``.
        device: auto, cpu or cuda.

    Returns:
        Outcome(step, signum).

    Raises:
        ValueError: if ``out`` holds a run and ``resume`` is not asked for, or settings do not fit.
        OSError: if ``out`` cannot be written.
    """
    world = join_world(device)
    try:
        run = _open(config, out, resume, world)
        journal = _journal(run)
        try:
            with stop_signals() as stop:
                return _loop(run, journal, stop)
        finally:
            if journal:
                journal.close()
    finally:
        leave_world(world)


def _open(config: Config, out: Path, resume: bool, world: World) -> Run:
    """Build everything, and restore it from the newest checkpoint where asked."""
    micro_batch_size(config.train.batch_size, world.size, config.train.accumulate)
    dataset = load_dataset(config.data, say=_say)
    shape = shape_of(dataset)
    check_guidance(config.sample, shape)  # now, not at the first sample grid
    torch.manual_seed(config.train.seed)
    model = build_model(config, shape).to(world.device)
    state = init_state(model, config.train)
    found = newest_checkpoint(out / "checkpoints")
    if found and not resume:
        raise ValueError(
            f"{out} already holds a run at step {found.step}; "
            "add --resume to go on with it, or choose another --out"
        )
    if found:
        restore(state, found)
    held_out = load_held_out(config.data)
    if world.rank == 0:
        write_atomic(out / "config.toml", dumps(config))
    return Run(config, out, world, dataset, held_out, shape, model, state)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _journal(run: Run) -> Journal | None:
    if run.world.rank:
        return None
    return Journal(run.out / "log.jsonl", run.state.step, run.config.train.steps)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one is obeyed at once."""
    received: list[int] = []

    def note(signum: int, _frame: object) -> None:
        received.append(signum)
        signal.signal(signum, previous[signum])

    previous: dict[int, Any] = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _loop(run: Run, journal: Journal | None, stop: list[int]) -> Outcome:
    with closing(_batches(run)) as batches:
        return _steps(run, batches, journal, stop)


def _steps(run: Run, batches: Iterator[Batch], journal: Journal | None, stop: list[int]) -> Outcome:
    settings, state, world = run.config.train, run.state, run.world
    network = DistributedDataParallel(run.model) if world.size > 1 else run.model
    window_start, window_step, window_loss = time.perf_counter(), state.step, []
    signum = 0
    while state.step < settings.steps and not signum:
        run.model.train()
        result = step_of(state, network, _micro_batches(run, batches), run.config)
        window_loss.append(result.loss)
        if journal:
            journal.advance()
        if state.step % settings.log_every == 0 or state.step == settings.steps:
            loss = average(torch.stack(window_loss).mean(), world).item()
            _check_finite(loss, state.step)
            if journal:
                elapsed = time.perf_counter() - window_start
                images = (state.step - window_step) * settings.batch_size
                journal.seconds += elapsed
                journal.log(
                    {
                        "step": state.step,
                        "loss": loss,
                        "grad_norm": result.grad_norm.item(),
                        "lr": learning_rate(state.step - 1, settings),
                        "images_per_s": images / elapsed,
                        "seconds": journal.seconds,
                    }
                )
            window_start, window_step, window_loss = time.perf_counter(), state.step, []
        signum = largest(stop[0] if stop else 0, world)
        finished = state.step == settings.steps
        if journal and (state.step % settings.checkpoint_every == 0 or finished or signum):
            save_checkpoint(
                run.out / "checkpoints", state, run.config, run.shape, settings.max_checkpoints
            )
        if journal and not signum and (state.step % settings.preview_every == 0 or finished):
            started = time.perf_counter()
            _preview(run, journal)
            window_start += time.perf_counter() - started
    return Outcome(state.step, 0 if state.step == settings.steps else signum)


def _check_finite(loss: float, step: int) -> None:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise ValueError(
            f"the loss is {loss} at step {step}; resume from the last checkpoint with a smaller "
            "--lr, or a smaller --grad-norm"
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
            run.dataset, config.diffusion, settings.seed, draws, world.device, config.data.flip
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


def _preview(run: Run, journal: Journal) -> None:
    """Sample grid with fixed noise and loss on the held-out pictures, both with EMA parameters."""
    config, state, device = run.config, run.state, run.world.device
    run.model.eval()
    labels, names = _preview_labels(run)
    images = generate(
        run.model,
        state.ema,
        config.diffusion,
        config.sample,
        run.shape,
        labels,
        torch.arange(len(labels)),
        config.train.seed,
        device,
    )
    save_png(
        run.out / "samples" / f"step-{state.step:08d}.png",
        grid(images, len(names) or PREVIEW_COLUMNS, column_labels=names),
    )
    if run.held_out:
        batches = _held_out_batches(run, run.held_out)
        network = with_params(run.model, state.ema)
        loss = held_out_loss(network, batches, config.diffusion).mean().item()
        journal.log({"step": state.step, "held_out_loss": loss})


def _preview_labels(run: Run) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of the sample grids, and names of its columns: some classes, or tags that occur."""
    if run.dataset.multitags and run.dataset.labels is not None:
        return run.dataset.labels[: PREVIEW_ROWS * PREVIEW_COLUMNS], ()
    names = run.shape.class_names[:PREVIEW_COLUMNS]
    return preview_labels(len(names), PREVIEW_ROWS), names


def _held_out_batches(run: Run, held_out: Dataset) -> list[Batch]:
    """Held-out pictures with times and noise that stay the same throughout the run."""
    device, count = run.world.device, len(held_out.images)
    some = torch.arange(0, count, max(1, count // HELD_OUT_PICTURES))[:HELD_OUT_PICTURES]
    x0 = to_unit(held_out.images[some].to(device))
    labels = None if held_out.labels is None else held_out.labels[some].to(device)
    batches = []
    for draw in range(HELD_OUT_DRAWS):
        keys = torch.arange(len(x0), device=device) + draw * len(x0)
        t = keyed_uniform(run.config.train.seed, Stream.HELD_OUT_TIME, keys, dtype=torch.float64)
        noise = keyed_normal(
            run.config.train.seed, Stream.HELD_OUT_NOISE, keys, tuple(x0.shape[1:])
        )
        batches.append(Batch(x0, labels, t, noise))
    return batches
