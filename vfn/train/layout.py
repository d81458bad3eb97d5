"""How a step is laid out so that it fits into memory: its micro-batches, and batches of sampling.

The trajectory of a run is the same in every layout.
"""

from dataclasses import replace

from torch import nn

from vfn.configs import Config
from vfn.distributed import World, largest, smallest, together
from vfn.footprint import (
    PLANNED,
    SMALL,
    Footprint,
    evaluated_at_once,
    most_pictures,
)
from vfn.memory import free_memory, size_text
from vfn.model import DataShape
from vfn.objective import Objective, batch_loss
from vfn.progress import say
from vfn.train.distillation.methods import networks_of

CLEARLY = 1.25  # whole processes were within a quarter: what is beyond is refused
# Pictures that a network is evaluated on at once, as multiples of `sample_batch`: `branches_of` are
# two at most in sampling, and the held-out loss takes three, so that of the usual 250 its 512
# pictures are one batch.
AT_ONCE = 3
SMALLER = (
    "use --checkpoint-activations true, smaller pictures (--image-size) or a narrower network "
    "(--hid-channels)"
)


def fitted(
    config: Config,
    shape: DataShape,
    world: World,
    model: nn.Module | None = None,
    objective: Objective = batch_loss,
    before: int | None = None,
) -> Config:
    """The configuration with a layout that fits into the memory that is free; a line tells of it.

    A number of micro-batches that the configuration names stays as it is. Where nobody knows what a
    network takes, or what is free, nothing is changed.

    Args:
        config: of a run.
        shape: of its data.
        world: the processes, all of which have to call this.
        model: the network, where the configuration does not describe it.
        objective: the loss of each picture.
        before: micro-batches of a run that goes on, for the same bits: where the configuration does
            not say, they stay unless they do not divide its share or clearly do not fit.

    Returns:
        Config, its ``accumulate`` set; ``sample_batch`` is smaller where so many pictures at once
        would not fit.

    Raises:
        ValueError: if a step clearly does not fit, on every process.

    >>> from vfn.configs import load
    >>> from vfn.distributed import ALONE
    >>> fitted(load("digits"), DataShape(1, 8, 8), ALONE).train.accumulate
    1
    """
    share = config.train.batch_size // world.size
    kept = before is not None and not share % before
    parts = config.train.accumulate or (before if kept and before else 1)
    batch = config.sample.sample_batch
    networks = networks_of(config)
    footprint = Footprint(config, shape, world.device, model, objective, *networks)
    with together(world):
        free = free_memory(world.device)
        if free is not None:
            parts = _parts(footprint, share, parts, free, world.size, kept)
            batch = _sample_batch(footprint, free)
    parts, batch = largest(parts, world), smallest(batch, world)
    return replace(
        config,
        train=replace(config.train, accumulate=parts),
        sample=replace(config.sample, sample_batch=batch),
    )


def _parts(
    footprint: Footprint, share: int, parts: int, free: int, processes: int, kept: bool
) -> int:
    """The micro-batches of a process's share of the batch, so that one fits.

    Args:
        footprint: of the run.
        share: pictures of a step on each process.
        parts: as many micro-batches as are named, or at least.
        free: bytes.
        processes: how many there are.
        kept: whether they stay as they are, unless they clearly do not fit.

    Returns:
        how many micro-batches.

    Raises:
        ValueError: if a micro-batch clearly does not fit.
    """
    most = footprint.at_most(share // parts)
    if most is None or most <= SMALL * free:  # nobody can know more, or has to
        return parts
    state = footprint.state
    if state > CLEARLY * free:
        raise ValueError(
            f"training this network takes {size_text(state)} of memory for its parameters alone, "
            f"and {size_text(free)} are free; use a smaller one (--hid-channels, --ch-multipliers)"
        )

    def cost(pictures: int) -> int | None:
        return footprint.step(pictures, processes)

    need, settings = cost(share // parts), footprint.config.train
    if need is None or need <= PLANNED * free:
        return parts
    fitting = most_pictures(cost, share // parts, PLANNED * free)
    known = [n for n in range(parts, share + 1) if share % n == 0 and share // n <= fitting]
    told = _told(share // parts, need, free)
    beyond = need > CLEARLY * free and not settings.compile  # compiled networks keep less
    ours_to_choose = settings.accumulate is None and (beyond or not kept)
    if known and ours_to_choose:
        say(f"{told}: {known[0]} micro-batches of {share // known[0]} (--accumulate {known[0]})")
        return known[0]
    if ours_to_choose:  # nothing is known to fit: the least that there is
        parts, need = share, cost(1) or need
        told = _told(1, need, free)
    remedy = f"use --accumulate {known[0]}" if known else SMALLER
    if need > CLEARLY * free and not settings.compile:  # compiled networks keep less
        raise ValueError(f"{told}; {remedy}")
    say(f"{told}; if it fails, {remedy}")
    return parts


def _told(pictures: int, need: int, free: int) -> str:
    return (
        f"a training step takes about {size_text(need)} of memory with {pictures} "
        f"picture{'' if pictures == 1 else 's'} at once, and {size_text(free)} are free"
    )


def _sample_batch(footprint: Footprint, free: int) -> int:
    """Pictures that are sampled at a time amid a training, so that they fit."""
    wanted = footprint.config.sample.sample_batch
    fitting = max(1, evaluated_at_once(footprint, AT_ONCE * wanted, free, state=True) // AT_ONCE)
    if fitting < wanted:
        say(
            f"sampling {wanted} pictures at a time might take more memory than the "
            f"{size_text(free)} that are free: {fitting} at a time (--sample-batch {fitting})"
        )
    return fitting
