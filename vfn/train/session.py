"""A run: what its parts share, and how it is opened."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from vfn.configs import Config, dumps
from vfn.data import Dataset, load_dataset, load_held_out
from vfn.distributed import World, largest
from vfn.files import write_atomic
from vfn.model import DataShape, build_model, check_sampling
from vfn.nn import UNet, check_labels
from vfn.objective import Objective, batch_loss
from vfn.runs.checkpoint import find_checkpoint, newest_checkpoint
from vfn.train.state import TrainState, init_state, restore, start_from


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
    objective: Objective


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


def open_run(
    config: Config, out: Path, world: World, resume: bool = False, init_from: Path | None = None
) -> Run:
    """Build everything, and restore it from the newest checkpoint where asked.

    Args:
        config: what to train.
        out: run directory.
        world: the processes.
        resume: go on from the newest intact checkpoint in ``out``; after an elastic restart of
            torchrun that is done without being asked.
        init_from: run directory or checkpoint file whose average a new run starts from.

    Raises:
        ValueError: if ``out`` holds a run and ``resume`` is not asked for, or settings do not fit.
        OSError: if ``out`` cannot be written.
    """
    micro_batch_size(config.train.batch_size, world.size, config.train.accumulate)
    torch.backends.cuda.matmul.allow_tf32 = config.train.tf32
    torch.backends.cudnn.allow_tf32 = config.train.tf32
    dataset = load_dataset(config.data, say=say)
    shape = shape_of(dataset)
    # Now, not at the first sample grid.
    check_sampling(config.sample, config.diffusion, shape, config.distill.guidance_range)
    torch.manual_seed(config.train.seed)
    model = build_model(config, shape).to(world.device)
    if dataset.labels is not None:
        check_labels(dataset.labels, model.num_classes, model.multitags)
    state = init_state(model, config.train)
    go_on = goes_on(resume, world)
    found = newest_checkpoint(out / "checkpoints", say, state.params if go_on else None)
    if found and not go_on:
        raise ValueError(
            f"{out} already holds a run at step {found.step}; "
            "add --resume to go on with it, or choose another --out"
        )
    if found:
        restore(state, found)
    elif init_from is not None:
        start_from(state, find_checkpoint(init_from, say))
    if largest(state.step, world) != state.step:
        raise ValueError(
            f"process {world.rank} finds step {state.step} in {out}, another process a later one; "
            "all of them have to see the same directory"
        )
    held_out = load_held_out(config.data)
    if world.rank == 0:
        write_atomic(out / "config.toml", dumps(config))
    return Run(config, out, world, dataset, held_out, shape, model, state, batch_loss)


def restarted() -> bool:
    """Whether torchrun started the processes of this machine again after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def goes_on(resume: bool, world: World) -> bool:
    """Whether to go on with what is there: asked for, or restarted; all processes agree."""
    # torchrun counts restarts on the machine where a process died, not on the others.
    return largest(int(resume or restarted()), world) > 0


def say(line: str) -> None:
    """One line to the person."""
    print(line, file=sys.stderr, flush=True)
