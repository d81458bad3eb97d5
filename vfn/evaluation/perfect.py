"""What a perfect sampler would get: the bias that a distance has of so many pictures."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from vfn.evaluation.features import Statistics
from vfn.ops import Interval
from vfn.streams import Stream

DRAWS, FEW_DRAWS, WIDE = 40, 4, 512  # the wider the features, the less the draws differ


class Perfect(NamedTuple):
    """The expectation of a figure, where 95 % of perfect samplers get it, and of whom it is."""

    value: float
    interval: Interval
    text: str


def perfect_frechet(real: Statistics, fakes: int | None, seed: int = 0) -> Perfect:
    """The Fréchet distance that pictures of the real distribution itself would have.

    It is not 0, but about as ``1 / N + 1 / M``: two sets are drawn of the Gaussian that is fitted
    to the real side, N and M features as many as on the sides, and their distance is taken. Not the
    sets themselves are drawn, but their means, and their covariances after Wishart, both in the
    eigenbasis of the real covariance: with factors A and B of the drawn ones the distance is
    ``|m1 - m2|^2 + |A|^2 + |B|^2 - 2 ||A B^T||_*``.

    Args:
        real: with mean and covariance, or features. Where it does not say of how many pictures it
            is, it counts as exact.
        fakes: pictures on the other side; None for endless ones.
        seed: of the draws.

    Returns:
        Perfect.

    >>> normal = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    >>> real = Statistics(1000, None, normal, None, {})
    >>> few, many = perfect_frechet(real, 50), perfect_frechet(real, 5000)
    >>> few.value > 10 * many.value > 0
    True
    """
    values = spectrum(real)
    count = DRAWS if len(values) <= WIDE else FEW_DRAWS
    generator = np.random.default_rng([seed, int(Stream.PERFECT)])
    found = np.array([_distance(values, real.num, fakes, generator) for _ in range(count)])
    sizes = f"{'endless' if fakes is None else fakes} pictures against "
    sizes += "statistics of unknown number" if real.num is None else f"{real.num} real ones"
    return Perfect(
        found.mean().item(),
        interval_of_another(found),
        f"a perfect sampler, {sizes} (draws of the Gaussian fitted to the real side)",
    )


def interval_of_another(found: np.ndarray, most: float = math.inf) -> Interval:
    """Where one more value lies in 95 % of cases, by Student's t.

    A few values know neither mean nor spread exactly.

    Args:
        found: two values or more, none below 0.
        most: no value is above it.

    Returns:
        Interval, within 0 and ``most``.

    >>> low, high = interval_of_another(np.array([0.5, 0.6, 0.7]))
    >>> round(low, 2), round(high, 2)
    (0.1, 1.1)
    """
    value, count = found.mean().item(), len(found)
    spread = float(stdtrit(count - 1, 0.975) * math.sqrt(1 + 1 / count) * found.std(ddof=1))
    return Interval(max(0.0, value - spread), min(most, value + spread))


def spectrum(side: Statistics) -> Tensor:
    """The eigenvalues of a side's covariance that are not 0 up to rounding.

    Args:
        side: with mean and covariance, or features.

    Returns:
        float64 [R], R <= D.

    >>> side = Statistics(3, None, torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]), None, {})
    >>> spectrum(side)
    tensor([4.], dtype=torch.float64)
    """
    if side.gaussian is not None:
        values = torch.linalg.eigvalsh(side.gaussian.cov.double())
    else:
        assert side.features is not None  # a metric that needs either is refused otherwise
        rows = side.features.double()
        rows = rows - rows.mean(0)
        small = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
        values = torch.linalg.eigvalsh(small) / max(1, len(rows) - 1)
    return values[values > values.max().clamp(min=0) * 1e-12]


def _distance(
    values: Tensor, reals: int | None, fakes: int | None, generator: np.random.Generator
) -> float:
    """The distance of two sets that are drawn of one Gaussian."""
    if not len(values):
        return 0.0
    roots = values.sqrt().numpy()
    a, b = (_factor(roots, count, generator) for count in (reals, fakes))
    squared = sum(1 / count for count in (reals, fakes) if count)
    shift = roots * generator.standard_normal(len(roots)) * math.sqrt(squared)
    product = torch.from_numpy(a @ b.T if len(a) < len(b) else b @ a.T)
    # Ten times as fast as singular values; what rounding adds is far below the spread.
    cross = torch.linalg.eigvalsh(product @ product.T).clamp(min=0).sqrt().sum().item()
    distance: float = (shift**2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross
    return max(0.0, distance)


def _factor(roots: np.ndarray, count: int | None, generator: np.random.Generator) -> np.ndarray:
    """A [*, R] with ``A^T A`` the covariance of a drawn set, after Bartlett; exact if endless."""
    width = len(roots)
    if count is None:
        return np.diag(roots)
    free = count - 1
    if free < width:
        normal = generator.standard_normal((free, width))
    else:
        normal = np.triu(generator.standard_normal((width, width)), 1)
        normal[np.diag_indices(width)] = np.sqrt(generator.chisquare(free - np.arange(width)))
    factor: np.ndarray = normal * roots / math.sqrt(free)
    return factor
