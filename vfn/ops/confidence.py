"""How sure a figure is: means with their standard error, and intervals by the bootstrap."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops.random import keyed_uniform


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: Tensor
    error: Tensor


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def mean_and_error(values: Tensor) -> Estimate:
    """Mean over samples and its standard error, from independent samples of several draws.

    Args:
        values: [..., B]: one or several draws, such as probes, for each of B samples.

    Returns:
        Estimate(mean, error): scalars; the error, nan for one sample, is that of the mean over
        samples and draws together.

    >>> mean_and_error(torch.tensor([1.0, 3.0]))
    Estimate(mean=tensor(2.), error=tensor(1.))
    """
    each = values.reshape(-1, values.shape[-1]).mean(0)
    count = len(each)
    spread = each.std() if count > 1 else torch.full_like(each.sum(), math.nan)
    return Estimate(each.mean(), spread / math.sqrt(count))


def bootstrap_indices(seed: int, draw: int, count: int, stream: int = 0) -> Tensor:
    """Which rows a bootstrap draw takes: ``count`` of them, with replacement.

    Args:
        seed: 0..2^64-1.
        draw: its number, >= 0.
        count: rows in all, >= 1.
        stream: 0..2^32-1; names the purpose.

    Returns:
        int64 [count].

    >>> bootstrap_indices(seed=0, draw=0, count=5).shape
    torch.Size([5])
    """
    keys = torch.arange(count) + (draw << 32)
    return (keyed_uniform(seed, stream, keys, dtype=torch.float64) * count).long()


def bootstrap_interval(value: float, replicas: Tensor, level: float = 0.95) -> Interval:
    """The basic bootstrap interval, ``[value + mean - q_high, value + mean - q_low]``.

    It tells how much the figure would vary with other pictures, as many: about the mean of the
    replicas, since resampling adds a bias to a figure that has one, as a distance has. The bias of
    the figure itself stays in the interval, as it is in the figure.

    Args:
        value: the figure.
        replicas: the figure of each bootstrap draw [R], R >= 2.
        level: of confidence, in (0, 1).

    Returns:
        Interval(low, high).

    Raises:
        ValueError: if there are fewer than two replicas, or the level is no share.

    Source: Davison & Hinkley 1997, eq. 5.6, with the replicas' mean in place of the figure they are
    about.

    >>> bootstrap_interval(1.0, torch.tensor([1.0, 2.0, 3.0]), level=0.5)
    Interval(low=0.5, high=1.5)
    """
    if replicas.ndim != 1 or len(replicas) < 2:
        raise ValueError(f"expected replicas [R] with R >= 2, got {tuple(replicas.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"expected level in (0, 1), got {level}")
    tails = torch.tensor([(1 + level) / 2, (1 - level) / 2], dtype=torch.float64)
    high, low = replicas.double().cpu().quantile(tails).tolist()
    middle = value + replicas.double().mean().item()
    return Interval(middle - high, middle - low)
