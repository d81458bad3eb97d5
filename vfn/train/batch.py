"""The global batch of a step, as a function of (seed, step, position) alone."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.configs import DiffusionConfig
from vfn.data import Dataset, to_unit
from vfn.ops import discrete_time, epoch_permutation, keyed_bernoulli, keyed_normal, keyed_uniform
from vfn.train.streams import Stream


class Batch(NamedTuple):
    """What one micro-batch is trained on: x0 and noise [B, C, H, W], t [B], labels [B] or None."""

    x0: Tensor
    labels: Tensor | None
    t: Tensor
    noise: Tensor


# Two epochs at most meet in one batch of ordinary size; larger batches only recompute.
_order = lru_cache(maxsize=4)(epoch_permutation)


def image_indices(seed: int, draws: Tensor, count: int) -> Tensor:
    """Which picture each draw of the run shows: epoch after epoch, each in an order of its own.

    Args:
        seed: the run's seed.
        draws: running numbers of pictures since the start of the run, int64 [B].
        count: pictures in the data set.

    Returns:
        int64 [B] in 0..count-1.

    >>> sorted(image_indices(0, torch.arange(10, 15), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    epochs, offsets = draws // count, draws % count
    index = torch.empty_like(draws)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        index[here] = _order(seed, epoch, count, Stream.ORDER)[offsets[here]]
    return index


def make_batch(
    dataset: Dataset,
    diffusion: DiffusionConfig,
    seed: int,
    draws: Tensor,
    device: torch.device,
) -> Batch:
    """Pictures, dropped labels, times and noise for some draws of the run.

    Args:
        dataset: pictures and labels.
        diffusion: gives the kind of time and the probability of dropping a label.
        seed: the run's seed.
        draws: ``step * batch_size + position``, int64 [B].
        device: where the batch is wanted.

    Returns:
        Batch; the data set's labels are not changed.
    """
    index = image_indices(seed, draws, len(dataset.images))
    x0 = to_unit(dataset.images[index].to(device))
    keys = draws.to(device)
    t = keyed_uniform(seed, Stream.TIME, keys, dtype=torch.float64)
    if diffusion.train_timesteps:
        t = discrete_time(t, diffusion.train_timesteps)
    noise = keyed_normal(seed, Stream.NOISE, keys, tuple(x0.shape[1:]))
    labels = None
    if dataset.labels is not None:
        dropped = keyed_bernoulli(seed, Stream.LABEL_DROP, keys, diffusion.p_uncond)
        labels = dataset.labels[index].to(device).masked_fill(dropped, 0)
    return Batch(x0, labels, t, noise)
