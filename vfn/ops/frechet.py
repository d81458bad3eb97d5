"""Gaussians of features and the Fréchet distance between them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops._features import check_features, check_same_width
from vfn.ops.random import epoch_permutation


class Gaussian(NamedTuple):
    """Mean [D] and unbiased covariance [D, D], float64."""

    mean: Tensor
    cov: Tensor


class Moments(NamedTuple):
    """What merges into a Gaussian: rows, their mean [D], their scatter about it [D, D], float64."""

    rows: int
    mean: Tensor
    scatter: Tensor


class FrechetInfinity(NamedTuple):
    """The distance extrapolated to endless samples.

    slope: the bias is ``slope / n``. error: standard error of the value.
    """

    value: float
    slope: float
    error: float


def moments(features: Tensor) -> Moments:
    """Number, mean and scatter of a set of features, in float64.

    ``scatter = sum_i (f_i - mean) (f_i - mean)^T``.

    Args:
        features: [N, D], N >= 1.

    Returns:
        Moments(rows, mean [D], scatter [D, D]).

    Raises:
        ValueError: if there is no row, or not two dimensions.

    >>> moments(torch.tensor([[0.0], [2.0]])).scatter
    tensor([[2.]], dtype=torch.float64)
    """
    check_features(features, 1, "features")
    values = features.double()
    mean = values.mean(0)
    centred = values - mean
    return Moments(len(features), mean, centred.T @ centred)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of two sets together, from those of each; exact up to rounding in float64.

    ``scatter = S_a + S_b + n_a n_b / n (m_b - m_a) (m_b - m_a)^T``.

    Args:
        a: moments of one set.
        b: moments of the other, of the same width.

    Returns:
        Moments(rows, mean [D], scatter [D, D]).

    Raises:
        ValueError: if they are of different widths.

    Source: Chan, Golub & LeVeque 1979, eq. 2.1.

    >>> one, two = moments(torch.tensor([[0.0]])), moments(torch.tensor([[2.0], [4.0]]))
    >>> merge_moments(one, two).mean
    tensor([2.], dtype=torch.float64)
    """
    _check_shapes(mean=(b.mean, tuple(a.mean.shape)), scatter=(b.scatter, tuple(a.scatter.shape)))
    rows = a.rows + b.rows
    step = b.mean - a.mean
    scatter = a.scatter + b.scatter + (a.rows * b.rows / rows) * torch.outer(step, step)
    return Moments(rows, a.mean + step * (b.rows / rows), scatter)


def gaussian(moments: Moments) -> Gaussian:
    """Mean and unbiased covariance, ``scatter / (n - 1)``.

    Args:
        moments: Moments of at least two rows.

    Returns:
        Gaussian(mean [D], cov [D, D]).

    Raises:
        ValueError: if there are fewer than two rows.

    >>> gaussian(moments(torch.tensor([[0.0], [2.0]]))).cov
    tensor([[2.]], dtype=torch.float64)
    """
    if moments.rows < 2:
        raise ValueError(f"expected at least 2 rows for a covariance, got {moments.rows}")
    return Gaussian(moments.mean, moments.scatter / (moments.rows - 1))


def fit_gaussian(features: Tensor) -> Gaussian:
    """Mean and unbiased covariance of a set of features, in float64.

    Args:
        features: [N, D], N >= 2.

    Returns:
        Gaussian(mean [D], cov [D, D]).

    Raises:
        ValueError: if there are fewer than two rows, or not two dimensions.

    >>> fit_gaussian(torch.tensor([[0.0], [2.0]]))
    Gaussian(mean=tensor([1.], dtype=torch.float64), cov=tensor([[2.]], dtype=torch.float64))
    """
    check_features(features, 2, "features")
    return gaussian(moments(features))


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Fréchet distance between two Gaussians.

    ``|m1 - m2|^2 + tr(C1) + tr(C2) - 2 sum sqrt(eig(C1^(1/2) C2 C1^(1/2)))``, by symmetric
    eigen-decompositions in float64. Where a covariance is singular the last term is found as the
    sum of the singular values of ``A B^T``, of factors ``C1 = A^T A`` and ``C2 = B^T B`` without
    their null directions, each of which would bring in the root of a rounding error.

    Args:
        mean1: [D].
        cov1: [D, D], symmetric, positive semi-definite.
        mean2: [D].
        cov2: [D, D].

    Returns:
        the squared 2-Wasserstein distance, in squared units of the features, >= 0; nan where
        what is given is not finite.

    Raises:
        ValueError: if the shapes do not fit, or a covariance is not symmetric and positive
            semi-definite up to rounding.

    Source: Heusel et al. 2017 (1706.08500), eq. 6.

    >>> mean, cov = torch.zeros(2), torch.eye(2)
    >>> frechet_distance(mean, cov, mean + 3, 4 * cov)
    20.0
    """
    if mean1.ndim != 1:
        raise ValueError(f"expected mean1 of shape [D], got {tuple(mean1.shape)}")
    dim = mean1.shape[0]
    _check_shapes(cov1=(cov1, (dim, dim)), mean2=(mean2, (dim,)), cov2=(cov2, (dim, dim)))
    mean1, cov1, mean2, cov2 = (value.double() for value in (mean1, cov1, mean2, cov2))
    if not all(value.isfinite().all() for value in (mean1, cov1, mean2, cov2)):
        return math.nan  # which LAPACK refuses
    for name, cov in (("cov1", cov1), ("cov2", cov2)):
        if (cov - cov.T).abs().max() > _ROUNDED * cov.abs().max():
            raise ValueError(f"expected {name} to be symmetric, got one that is not")
    return _distance(mean1, _spectrum(cov1), mean2, cov2).clamp(min=0).item()


_ROUNDED = 0.01  # relative; such as a covariance is that was kept in a half type


def _check_shapes(**given: tuple[Tensor, tuple[int, ...]]) -> None:
    for name, (value, shape) in given.items():
        if value.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {tuple(value.shape)}")


def frechet_distance_of_features(one: Tensor, other: Tensor) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features.

    `frechet_distance` of their `fit_gaussian`, but where a side has no more rows than columns no
    covariance is made: with A and B the centred features over ``sqrt(n - 1)``, the last term is
    the sum of the singular values of ``A B^T`` [N, M]. Exact for singular covariances, and of
    memory N M instead of D^2.

    Args:
        one: [N, D], N >= 2.
        other: [M, D], M >= 2.

    Returns:
        the squared 2-Wasserstein distance, in squared units of the features, >= 0; nan where
        what is given is not finite.

    Raises:
        ValueError: if a side has fewer than two rows, or the widths differ.

    Source: Heusel et al. 2017 (1706.08500), eq. 6.

    >>> features = torch.randn(10, 512)
    >>> round(frechet_distance_of_features(features, features + 1), 3)
    512.0
    """
    check_features(one, 2, "one")
    check_features(other, 2, "other")
    check_same_width(one, other)
    if not (one.isfinite().all() and other.isfinite().all()):
        return math.nan
    if min(len(one), len(other)) > one.shape[1]:
        return frechet_distance(*fit_gaussian(one), *fit_gaussian(other))
    if len(one) > len(other):
        one, other = other, one
    mean1, mean2 = one.mean(0, dtype=torch.float64), other.mean(0, dtype=torch.float64)
    few = (one.double() - mean1) / (len(one) - 1) ** 0.5
    trace, cross = few.square().sum(), few.new_empty(0, len(few))
    for part in other.split(max(len(few), _ROWS)):
        rows = (part.double() - mean2) / (len(other) - 1) ** 0.5
        trace = trace + rows.square().sum()
        # The triangle of a QR decomposition has the singular values of all rows so far.
        cross = torch.linalg.qr(torch.cat([cross, rows @ few.T]), mode="r").R
    squared = (mean1 - mean2).square().sum() + trace - 2 * torch.linalg.svdvals(cross).sum()
    return squared.clamp(min=0).item()


_ROWS = 256  # at a time, in float64


def frechet_infinity(
    mean: Tensor, cov: Tensor, features: Tensor, least: int, points: int = 15, seed: int = 0
) -> FrechetInfinity:
    """Fréchet distance without the bias of a finite sample, by extrapolation.

    The distance of the first n of the shuffled features is ``value + slope / n`` to first order,
    where n is well above D; a line is fitted through ``points`` sizes, evenly spaced from ``least``
    to N. The other side is taken as exact.

    Args:
        mean: [D], of the other side.
        cov: [D, D].
        features: [N, D], N >= least + 2: a line needs three sizes.
        least: smallest size, >= 2. Below about 4 D the distance falls faster than the law says, and
            the value comes out too low; below D the covariances are singular.
        points: how many sizes, >= 3.
        seed: of the order.

    Returns:
        FrechetInfinity(value, slope, error).

    Raises:
        ValueError: if there are too few rows or points, or the shapes do not fit.

    Source: Chong & Forsyth 2020 (1911.07023), section 3.

    >>> features = torch.randn(4000, 2)
    >>> abs(frechet_infinity(torch.zeros(2), torch.eye(2), features, least=100).value) < 0.02
    True
    """
    if least < 2 or points < 3:
        raise ValueError(f"expected least >= 2 and points >= 3, got {least} and {points}")
    check_features(features, least + 2, "features")
    count, dim = features.shape
    _check_shapes(mean=(mean, (dim,)), cov=(cov, (dim, dim)))
    order = epoch_permutation(seed, 0, count).to(features.device)
    mean, spectrum = mean.double(), _spectrum(cov.double())
    sizes = torch.linspace(least, count, points).round().long().unique().tolist()
    running, done, distances = moments(features[order[: sizes[0]]]), sizes[0], []
    for size in sizes:
        if size > done:
            running = merge_moments(running, moments(features[order[done:size]]))
            done = size
        distances.append(_distance(mean, spectrum, *gaussian(running)))
    return _line(1 / torch.tensor(sizes, dtype=torch.float64), torch.stack(distances).cpu())


def _line(x: Tensor, y: Tensor) -> FrechetInfinity:
    """Least squares: the value at x = 0 with its standard error; x = 1/n falls, sets are nested."""
    centred = x - x.mean()
    spread = centred.square().sum()
    slope = (centred * y).sum() / spread
    value = y.mean() - slope * x.mean()
    # A set is part of all larger ones, so that chance moves y as a Brownian motion in x: its steps
    # from size to size are independent, residuals are not.
    steps = (y.diff() - slope * x.diff()).square() / x.diff().abs()
    weights = 1 / len(x) - x.mean() * centred / spread  # value = weights @ y
    square = steps.sum() / (len(x) - 2) * (weights @ torch.minimum(x[:, None], x) @ weights)
    return FrechetInfinity(value.item(), slope.item(), square.sqrt().item())


class _Spectrum(NamedTuple):
    """Eigenvalues, rising, and eigenvectors of a symmetric matrix."""

    values: Tensor
    vectors: Tensor


def _spectrum(cov: Tensor) -> _Spectrum:
    found = _Spectrum(*torch.linalg.eigh(cov))
    _check_definite(found.values)
    return found


def _check_definite(values: Tensor) -> None:
    """Refuse rising eigenvalues of which some are below 0 by more than rounding."""
    if values[0] < -_ROUNDED * values.abs().max():
        raise ValueError(
            "expected positive semi-definite covariances, got one with negative eigenvalues"
        )


def _distance(mean1: Tensor, spectrum1: _Spectrum, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared distance of the Gaussians, the first given by the spectrum of its covariance."""
    values, vectors = spectrum1
    traces = values.clamp(min=0).sum() + cov2.trace()
    regular = not _singular(values)
    if regular:
        root = vectors * values.sqrt() @ vectors.T
        squares = torch.linalg.eigvalsh(root @ cov2 @ root)  # of the signs that those of cov2 have
        _check_definite(squares)
        traces = root.square().sum() + cov2.trace()
        regular = not _singular(squares)
        cross = squares.clamp(min=0).sqrt().sum()
    if not regular:
        cross = torch.linalg.svdvals(_factor(spectrum1) @ _factor(_spectrum(cov2)).T).sum()
    return (mean1 - mean2).square().sum() + traces - 2 * cross


def _factor(spectrum: _Spectrum) -> Tensor:
    """A [R, D] with ``A^T A`` the matrix, of as many rows as it has rank."""
    values, vectors = spectrum
    kept = ~_null(values)
    return values[kept].sqrt()[:, None] * vectors[:, kept].T


def _singular(values: Tensor) -> bool:
    """Whether the least of rising eigenvalues is the rounding error of the largest, of any sign."""
    return bool(values[0] <= 16 * torch.finfo(values.dtype).eps * values[-1])


def _null(values: Tensor) -> Tensor:
    """Which eigenvalues are no more than the rounding error of the largest."""
    return values <= values[-1:] * (len(values) * torch.finfo(values.dtype).eps)
