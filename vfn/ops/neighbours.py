"""Nearest neighbours among features, in tiles: precision, recall, density, coverage.

Distances are ``|a|^2 + |b|^2 - 2 a b`` of features centred on one point, in float32 or wider, never
in half types. Where two of them are closer than their rounding, as ties and copies are, the
differences decide, in float64: whole numbers are counted exactly, and nothing depends on the tiles.
No more than some tiles [tile, tile] and [tile, D] are in memory beside the features.

A ball is closed for precision and recall and open for density and coverage: a picture that is just
as far from the centre as the k-th neighbour counts for the former alone. So Kynkäänniemi et al.
define the former, and so torch-fidelity and prdc, which Naeem et al. wrote, count.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops._features import check_features, check_same_width

TILE = 2048
# Beyond the k nearest, how many are kept in case that some are as far.
_SPARE = 4
# Values whose differences are taken at a time.
_PAIRED = 1 << 22
# Two sums of squares in float64 that differ by less are the same; whole numbers are exact to 1e14.
_EQUAL = 1e-14


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

    precise: bool [M], a fake in the closed ball of some real. recalled: bool [N], a real in the
    closed ball of some fake. density: [M], open balls of reals around a fake, over k. covered: bool
    [N], a fake lies in the open ball of a real. A ball's radius is the distance to the k-th nearest
    other of its own side.
    """

    precise: Tensor
    recalled: Tensor
    density: Tensor
    covered: Tensor


def nearest_distances(queries: Tensor, references: Tensor, tile: int = TILE) -> Tensor:
    """Euclidean distance from each query to its nearest reference.

    The distance is computed from the difference, so that it is exactly 0 for a copy.

    Args:
        queries: [N, D].
        references: [M, D], M >= 1.
        tile: rows of a side at a time, bounds the memory.

    Returns:
        [N], dtype of ``queries``, or float32 where that is an integer or half type.

    Raises:
        ValueError: if the shapes do not fit, or squares of the values leave the dtype.

    >>> nearest_distances(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [7.0]]))
    tensor([1., 2.])
    """
    check_features(queries, 0, "queries")
    check_features(references, 1, "references")
    check_same_width(queries, references)
    centre = _centre(references)
    _check_range(queries, references, centre)
    found = _kth_squared(queries, references, centre, 0, tile)
    return found.sqrt().to(torch.promote_types(queries.dtype, torch.float32))


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
        ValueError: if a side has k or fewer rows, the widths differ, or squares of the values
            leave the dtype, float32 or wider.

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
    _check_range(real, fake, centre)
    of_real, of_fake = (_kth_squared(points, points, centre, k, tile) for points in (real, fake))
    precise, recalled, covered = (
        torch.zeros(len(side), dtype=torch.bool, device=side.device) for side in (fake, real, real)
    )
    balls = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    for row in range(0, len(real), tile):
        rows = slice(row, row + tile)
        for found in _squared(real[rows], fake, centre, tile):
            columns = slice(found.start, found.start + tile)
            sides = real[rows], fake[columns]
            around, edge = _in_balls(found, of_real[rows, None], found.row_error, sides)
            balls[columns] += around.sum(0)
            balls.index_add_(0, edge.column[edge.open] + found.start, edge.ones())
            precise[columns] |= around.any(0)
            precise[edge.column[edge.closed] + found.start] = True
            covered[rows] |= around.any(1)
            covered[edge.row[edge.open] + row] = True
            known = recalled[rows, None]
            around, edge = _in_balls(found, of_fake[columns], found.column_error, sides, known)
            recalled[rows] |= around.any(1)
            recalled[edge.row[edge.closed] + row] = True
    return Neighbourhood(precise, recalled, balls.double() / k, covered)


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, tile: int = TILE) -> PrecisionRecall:
    """Improved precision and recall over k-nearest-neighbour balls.

    Precision: the share of fakes that lie in the closed ball of some real, whose radius is the
    distance to its k-th nearest other real. Recall: the same with the roles exchanged. As
    torch-fidelity counts.

    Args:
        real: [N, D], N > k.
        fake: [M, D], M > k.
        k: which neighbour gives the radius, >= 1.
        tile: rows of a side at a time, bounds the memory.

    Returns:
        PrecisionRecall(precision, recall), each in [0, 1].

    Raises:
        ValueError: if a side has k or fewer rows, the widths differ, or squares of the values
            leave the dtype, float32 or wider.

    Source: Kynkäänniemi et al. 2019 (1904.06991), eqs. 1-3.

    >>> points = torch.randn(20, 2)
    >>> precision_recall(points, points, k=3)
    PrecisionRecall(precision=1.0, recall=1.0)
    """
    found = neighbourhood(real, fake, k, tile)
    return PrecisionRecall(_mean(found.precise), _mean(found.recalled))


def density_coverage(real: Tensor, fake: Tensor, k: int = 5, tile: int = TILE) -> DensityCoverage:
    """Density and coverage over k-nearest-neighbour balls of the reals.

    Density: how many open balls of reals a fake lies in, over k, in the mean over the fakes; it may
    exceed 1, and is 1 for a set against itself. Coverage: the share of reals whose open ball holds
    a fake. As the authors' prdc counts.

    Args:
        real: [N, D], N > k.
        fake: [M, D], M > k.
        k: which neighbour gives the radius, >= 1.
        tile: rows of a side at a time, bounds the memory.

    Returns:
        DensityCoverage(density, coverage).

    Raises:
        ValueError: if a side has k or fewer rows, the widths differ, or squares of the values
            leave the dtype, float32 or wider.

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


def _check_range(one: Tensor, other: Tensor, centre: Tensor) -> None:
    """Refuse values whose distances, sums of D squares, would be infinite or no numbers."""
    most = (torch.finfo(centre.dtype).max / (16 * max(1, len(centre)))) ** 0.5
    for side in (one, other):
        largest = side.abs().max().item() if side.numel() else 0.0
        if not largest <= most:  # nan neither
            raise ValueError(
                f"expected features within ±{most:.2g}, whose squared distances are numbers of "
                f"{centre.dtype}, got {largest:.3g}; scale them down"
            )


class _Products(NamedTuple):
    """Squared distances [R, C] of rows to the points from ``start`` on, by products.

    row_error, column_error: [R, 1] and [C], how far off they may be: more than the rounding of sums
    of D terms that may have either sign.
    """

    start: int
    squared: Tensor
    row_error: Tensor
    column_error: Tensor


def _squared(part: Tensor, points: Tensor, centre: Tensor, tile: int) -> Iterator[_Products]:
    """Squared distances of a tile of rows to all points, a tile of them in turn."""
    a = part.to(centre.dtype) - centre
    of_a = a.square().sum(1, keepdim=True)
    error = torch.finfo(centre.dtype).eps * (8 + a.shape[1] ** 0.5)
    for start in range(0, len(points), tile):
        b = points[start : start + tile].to(centre.dtype) - centre
        of_b = b.square().sum(1)
        squared = torch.addmm(of_b, a, b.T, alpha=-2).add_(of_a).clamp_(min=0)
        yield _Products(start, squared, error * (of_a + of_b.max()), error * (of_b + of_a.max()))


class _Edge(NamedTuple):
    """Pairs that products cannot tell apart from the edge of a ball, and what differences say.

    row, column: of the tile. closed, open: whether the ball holds the point, with its edge and
    without.
    """

    row: Tensor
    column: Tensor
    closed: Tensor
    open: Tensor

    def ones(self) -> Tensor:
        """One for each point in an open ball."""
        return self.row.new_ones(int(self.open.sum()))


def _in_balls(
    found: _Products,
    radius: Tensor,
    error: Tensor,
    sides: tuple[Tensor, Tensor],
    known: Tensor | None = None,
) -> tuple[Tensor, _Edge]:
    """Who is in whose ball for sure [R, C], and the pairs near the edge.

    Args:
        found: distances of the tile.
        radius: squared, float64, broadcastable to it.
        error: of the distances, likewise.
        sides: rows and columns of the tile.
        known: broadcastable: of whom nothing more need be found out.

    Returns:
        mask and pairs.
    """
    dtype = found.squared.dtype
    sure = found.squared < (radius - error).to(dtype)
    near = sure ^ (found.squared <= (radius + error).to(dtype))
    if known is not None:
        near &= ~known
    row, column = near.nonzero(as_tuple=True)
    exact, limit = _apart(*sides, row, column), radius.expand(near.shape)[row, column]
    closed, inner = exact <= limit * (1 + _EQUAL), exact < limit * (1 - _EQUAL)
    return sure, _Edge(row, column, closed, inner)


def _kth_squared(queries: Tensor, points: Tensor, centre: Tensor, k: int, tile: int) -> Tensor:
    """Squared distance of each query to its (k+1)-th nearest point, itself included if it is one.

    By products, with some to spare; those as far as the (k+1)-th by differences. Where all that
    were kept are as far, there may be others, and all points are gone through again.

    Returns:
        [N], float64.
    """
    found = [torch.empty(0, dtype=torch.float64, device=queries.device)]
    for part in queries.split(tile) if len(queries) else ():
        nearest = torch.empty(len(part), 0, dtype=centre.dtype, device=part.device)
        where = torch.empty(len(part), 0, dtype=torch.long, device=part.device)
        error = nearest.new_zeros(len(part), 1)
        for products in _squared(part, points, centre, tile):
            some = _least(products.squared, k + 1 + _SPARE)
            nearest = torch.cat([nearest, some.values], 1)
            where = torch.cat([where, some.indices + products.start], 1)
            nearest, kept = _least(nearest, k + 1 + _SPARE)
            where, error = where.gather(1, kept), torch.maximum(error, products.row_error)
        kth = nearest[:, k : k + 1]
        values = _settled(nearest, kth, error, part, points, where)
        exact = values.sort(1).values[:, k]
        unsure = (nearest[:, -1:] <= kth + 2 * error).squeeze(1) & (exact > 0)
        if nearest.shape[1] < len(points) and bool(unsure.any()):
            rows, least = part[unsure], values.new_empty(int(unsure.sum()), 0)
            for products in _squared(rows, points, centre, tile):
                here = torch.arange(products.squared.shape[1], device=part.device)
                here = (here + products.start).expand_as(products.squared)
                again = _settled(products.squared, kth[unsure], error[unsure], rows, points, here)
                least = _least(torch.cat([least, again], 1), k + 1).values
            exact[unsure] = least[:, k]
        found.append(exact)
    return torch.cat(found)


def _settled(
    squared: Tensor, kth: Tensor, error: Tensor, part: Tensor, points: Tensor, where: Tensor
) -> Tensor:
    """Distances in float64 of what may be the k-th; -inf for what is nearer, inf for farther."""
    values = torch.where(squared < kth, -torch.inf, torch.inf).double()
    row, column = ((squared - kth).abs() <= 2 * error).nonzero(as_tuple=True)
    values[row, column] = _apart(part, points, row, where[row, column])
    return values


def _apart(one: Tensor, other: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Squared distances of pairs by their differences, in float64."""
    step = max(1, _PAIRED // max(1, one.shape[1]))
    parts = [torch.empty(0, dtype=torch.float64, device=one.device)]
    for some, others in zip(row.split(step), column.split(step), strict=True):
        parts.append((one[some].double() - other[others].double()).square().sum(1))
    return torch.cat(parts)


def _least(values: Tensor, count: int) -> torch.return_types.topk:
    """The smallest of each row, rising, and where they are."""
    return values.topk(min(count, values.shape[1]), largest=False)
