"""Nearest neighbours among features, in tiles: precision, recall, density, coverage.

Distances are ``|a|^2 + |b|^2 - 2 a b`` of features centred on one point, in float32 or wider, never
in half types. No more than some tiles [tile, tile] and [tile, D] are in memory beside the features.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops._features import check_features, check_same_width

TILE = 2048


class PrecisionRecall(NamedTuple):
    """Share of fakes near the reals, and share of reals near the fakes."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Mean number of real balls around a fake, over k; share of reals with a fake in their ball."""

    density: float
    coverage: float


class Neighbourhood(NamedTuple):
    """Who lies in whose ball, picture by picture; the means are the four metrics.

    precise: bool [M], a fake in the ball of some real. recalled: bool [N], a real in the ball of
    some fake. density: [M], real balls around a fake, over k. covered: bool [N], a fake lies in the
    ball of a real. A ball's radius is the distance to the k-th nearest other of its own side.
    """

    precise: Tensor
    recalled: Tensor
    density: Tensor
    covered: Tensor


def nearest_distances(queries: Tensor, references: Tensor, tile: int = TILE) -> Tensor:
    """Euclidean distance from each query to its nearest reference.

    The nearest is found in tiles; the distance to it is then computed from the difference, so that
    it is exactly 0 for a copy.

    Args:
        queries: [N, D].
        references: [M, D], M >= 1.
        tile: rows of a side at a time, bounds the memory.

    Returns:
        [N], dtype of ``queries``.

    Raises:
        ValueError: if the shapes do not fit.

    >>> nearest_distances(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [7.0]]))
    tensor([1., 2.])
    """
    check_features(queries, 0, "queries")
    check_features(references, 1, "references")
    check_same_width(queries, references)
    centre = _centre(references)
    found = [queries.new_empty(0)]
    for part in queries.split(tile):
        best = torch.full((len(part),), torch.inf, dtype=centre.dtype, device=part.device)
        where = torch.zeros(len(part), dtype=torch.long, device=part.device)
        for start, squared in _squared(part, references, centre, tile):
            near = squared.min(1)
            where = torch.where(near.values < best, near.indices + start, where)
            best = torch.minimum(best, near.values)
        difference = part.to(centre.dtype) - references[where].to(centre.dtype)
        found.append(torch.linalg.vector_norm(difference, dim=1).to(queries.dtype))
    return torch.cat(found)


def neighbourhood(real: Tensor, fake: Tensor, k: int = 3, tile: int = TILE) -> Neighbourhood:
    """Which pictures lie in the k-nearest-neighbour balls of the other side.

    Args:
        real: [N, D], N > k.
        fake: [M, D], M > k.
        k: which neighbour gives the radius, >= 1.
        tile: rows of a side at a time, bounds the memory.

    Returns:
        Neighbourhood(precise [M], recalled [N], density [M], covered [N]).

    Raises:
        ValueError: if a side has k or fewer rows, or the widths differ.

    Source: Kynkäänniemi et al. 2019 (1904.06991), eqs. 1-3; Naeem et al. 2020 (2002.09797),
        eqs. 3-4.

    >>> points = torch.randn(20, 2)
    >>> bool(neighbourhood(points, points).precise.all())
    True
    """
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    check_features(real, k + 1, "real")
    check_features(fake, k + 1, "fake")
    check_same_width(real, fake)
    centre = _centre(real)
    real_radii, fake_radii = (_radii(points, centre, k, tile) for points in (real, fake))
    recalled, covered = (real_radii.new_zeros(len(real), dtype=torch.bool) for _ in range(2))
    balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    for row in range(0, len(real), tile):
        rows = slice(row, row + tile)
        for column, squared in _squared(real[rows], fake, centre, tile):
            columns = slice(column, column + tile)
            in_real = squared <= real_radii[rows, None]
            balls[columns] += in_real.sum(0)
            covered[rows] |= in_real.any(1)
            recalled[rows] |= (squared <= fake_radii[columns]).any(1)
    return Neighbourhood(balls > 0, recalled, balls.double() / k, covered)


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, tile: int = TILE) -> PrecisionRecall:
    """Improved precision and recall over k-nearest-neighbour balls.

    Precision: the share of fakes that lie in the ball of some real, whose radius is the distance
    to its k-th nearest other real. Recall: the same with the roles exchanged.

    Args:
        real: [N, D], N > k.
        fake: [M, D], M > k.
        k: which neighbour gives the radius, >= 1.
        tile: rows of a side at a time, bounds the memory.

    Returns:
        PrecisionRecall(precision, recall), each in [0, 1].

    Raises:
        ValueError: if a side has k or fewer rows, or the widths differ.

    Source: Kynkäänniemi et al. 2019 (1904.06991), eqs. 1-3.

    >>> points = torch.randn(20, 2)
    >>> precision_recall(points, points, k=3)
    PrecisionRecall(precision=1.0, recall=1.0)
    """
    found = neighbourhood(real, fake, k, tile)
    return PrecisionRecall(_mean(found.precise), _mean(found.recalled))


def density_coverage(real: Tensor, fake: Tensor, k: int = 5, tile: int = TILE) -> DensityCoverage:
    """Density and coverage over k-nearest-neighbour balls of the reals.

    Density: how many real balls a fake lies in, over k, in the mean over the fakes; it may exceed
    1. Coverage: the share of reals whose ball holds a fake.

    Args:
        real: [N, D], N > k.
        fake: [M, D], M > k.
        k: which neighbour gives the radius, >= 1.
        tile: rows of a side at a time, bounds the memory.

    Returns:
        DensityCoverage(density, coverage).

    Raises:
        ValueError: if a side has k or fewer rows, or the widths differ.

    Source: Naeem et al. 2020 (2002.09797), eqs. 3-4.

    >>> real = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    >>> density_coverage(real, torch.tensor([[0.5], [5.0]]), k=1)
    DensityCoverage(density=1.0, coverage=0.5)
    """
    found = neighbourhood(real, fake, k, tile)
    return DensityCoverage(_mean(found.density), _mean(found.covered))


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _centre(points: Tensor) -> Tensor:
    """Their mean, in the dtype of distances: differences of squares lose less near zero."""
    wide = torch.promote_types(points.dtype, torch.float32)
    return points.mean(0, dtype=wide)


def _squared(
    part: Tensor, points: Tensor, centre: Tensor, tile: int
) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of a tile of rows to all points: (first point, [rows, tile]) in turn."""
    a = part.to(centre.dtype) - centre
    for start in range(0, len(points), tile):
        b = points[start : start + tile].to(centre.dtype) - centre
        squared = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
        yield start, squared.add_(a.square().sum(1, keepdim=True)).clamp_(min=0)


def _radii(points: Tensor, centre: Tensor, k: int, tile: int) -> Tensor:
    """Squared distance to the k-th nearest other point: the (k+1)-th smallest, itself included."""
    radii = []
    for part in points.split(tile):
        best = torch.empty(len(part), 0, dtype=centre.dtype, device=part.device)
        for _, squared in _squared(part, points, centre, tile):
            some = squared.topk(min(k + 1, squared.shape[1]), largest=False).values
            both = torch.cat([best, some], 1)
            best = both.topk(min(k + 1, both.shape[1]), largest=False).values
        radii.append(best.amax(1))
    return torch.cat(radii)
