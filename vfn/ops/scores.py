"""Kernel distance and Inception Score."""

from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops._features import check_features, check_same_width

_TILE = 2048


class KernelDistance(NamedTuple):
    """Squared maximum mean discrepancy, unbiased, and its standard error."""

    value: float
    error: float


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def kernel_distance(real: Tensor, fake: Tensor, tile: int = _TILE) -> KernelDistance:
    """Kernel distance (KID): unbiased squared MMD with the kernel ``(x y / D + 1)^3``.

    ``mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j)``, over all pairs
    and in float64; the mean over random subsets that others report estimates this. The error is
    that of the first-order projections of the U-statistic; it is too small where the sides hardly
    differ.

    Args:
        real: [N, D], N >= 2.
        fake: [M, D], M >= 2.
        tile: rows at a time, bounds the memory.

    Returns:
        KernelDistance(value, error); the value may be below 0.

    Raises:
        ValueError: if a side has fewer than two rows, or the widths differ.

    Source: Bińkowski et al. 2018 (1801.01401), section 4; Gretton et al. 2012, lemma 6.

    >>> kernel_distance(torch.zeros(4, 1), torch.ones(4, 1)).value
    7.0
    """
    check_features(real, 2, "real")
    check_features(fake, 2, "fake")
    check_same_width(real, fake)
    among_real, among_fake = _others(real, tile), _others(fake, tile)
    across = _kernel_mean(real, fake, tile), _kernel_mean(fake, real, tile)
    value = among_real.mean() + among_fake.mean() - 2 * across[0].mean()
    a, b = among_real - across[0], among_fake - across[1]
    error = (4 * (a.var() / len(a) + b.var() / len(b))).sqrt()
    return KernelDistance(value.item(), error.item())


def inception_score(logits: Tensor, splits: int = 10) -> InceptionScore:
    """Inception Score: how sure and how varied a classifier finds the pictures.

    ``exp(mean_i KL(p(y | x_i) || mean_j p(y | x_j)))`` of each of some consecutive splits, in
    float64.

    Args:
        logits: [N, classes], N >= splits, in an order that has nothing to do with the classes.
        splits: >= 1.

    Returns:
        InceptionScore(mean, std), the latter with the divisor ``splits``.

    Raises:
        ValueError: if there are fewer rows than splits.

    Source: Salimans et al. 2016 (1606.03498), section 4.

    >>> inception_score(100 * torch.eye(4), splits=1).mean
    4.0
    """
    if splits < 1:
        raise ValueError(f"expected splits >= 1, got {splits}")
    check_features(logits, splits, "logits")
    log_p = logits.double().log_softmax(1)
    scores = []
    for i in range(splits):
        part = log_p[i * len(log_p) // splits : (i + 1) * len(log_p) // splits]
        p = part.exp()
        # A class that no picture has contributes 0 log 0 = 0.
        entropy = torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean()
        scores.append(entropy.exp())
    values = torch.stack(scores)
    return InceptionScore(values.mean().item(), values.std(correction=0).item())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def _kernel_mean(points: Tensor, others: Tensor, tile: int) -> Tensor:
    """The mean of each point's kernel with all others [N], float64."""
    parts = []
    for rows in points.split(tile):
        sums = [_kernel(rows, columns).sum(1) for columns in others.split(tile)]
        parts.append(torch.stack(sums).sum(0) / len(others))
    return torch.cat(parts)


def _others(points: Tensor, tile: int) -> Tensor:
    """The mean of each point's kernel with the other points of its own side [N]."""
    count = len(points)
    own = (points.double().square().mean(1) + 1) ** 3
    return (_kernel_mean(points, points, tile) * count - own) / (count - 1)
