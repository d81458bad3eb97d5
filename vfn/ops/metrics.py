"""Distances between sets of features: Fréchet, precision and recall."""

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Mean [D] and unbiased covariance [D, D], float64."""

    mean: Tensor
    cov: Tensor


class PrecisionRecall(NamedTuple):
    """Share of fakes near the reals, and share of reals near the fakes."""

    precision: float
    recall: float


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
    _check_features(features, 2, "features")
    return Gaussian(
        features.double().mean(0),
        torch.cov(features.double().T).reshape(features.shape[1], features.shape[1]),
    )


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Fréchet distance between two Gaussians.

    ``|m1 - m2|^2 + tr(C1) + tr(C2) - 2 sum sqrt(eig(C1^(1/2) C2 C1^(1/2)))``, by symmetric
    eigen-decompositions in float64.

    Args:
        mean1: [D].
        cov1: [D, D], symmetric, positive semi-definite.
        mean2: [D].
        cov2: [D, D].

    Returns:
        the squared 2-Wasserstein distance, in squared units of the features, >= 0 up to rounding.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Heusel et al. 2017 (1706.08500), eq. 6.

    >>> mean, cov = torch.zeros(2), torch.eye(2)
    >>> frechet_distance(mean, cov, mean + 3, 4 * cov)
    20.0
    """
    if mean1.ndim != 1:
        raise ValueError(f"expected mean1 of shape [D], got {tuple(mean1.shape)}")
    dim = mean1.shape[0]
    for name, value, shape in (
        ("cov1", cov1, (dim, dim)),
        ("mean2", mean2, (dim,)),
        ("cov2", cov2, (dim, dim)),
    ):
        if value.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {tuple(value.shape)}")
    mean1, cov1, mean2, cov2 = (value.double() for value in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return distance.item()


def nearest_distances(queries: Tensor, references: Tensor, tile: int = 4096) -> Tensor:
    """Euclidean distance from each query to its nearest reference.

    Args:
        queries: [N, D].
        references: [M, D], M >= 1.
        tile: queries at a time, bounds the memory.

    Returns:
        [N], dtype of ``queries``.

    Raises:
        ValueError: if the shapes do not fit.

    >>> nearest_distances(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [7.0]]))
    tensor([1., 2.])
    """
    _check_features(queries, 0, "queries")
    _check_features(references, 1, "references")
    _check_same_width(queries, references)
    return torch.cat([_distances(part, references).amin(1) for part in queries.split(tile)])


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, tile: int = 4096) -> PrecisionRecall:
    """Improved precision and recall over k-nearest-neighbour balls.

    Precision: the share of fakes that lie in the ball of some real, whose radius is the distance
    to its k-th nearest other real. Recall: the same with the roles exchanged.

    Args:
        real: [N, D], N > k.
        fake: [M, D], M > k.
        k: which neighbour gives the radius, >= 1.
        tile: rows at a time, bounds the memory.

    Returns:
        PrecisionRecall(precision, recall), each in [0, 1].

    Raises:
        ValueError: if a side has k or fewer rows, or the widths differ.

    Source: Kynkäänniemi et al. 2019 (1904.06991), eqs. 1-3.

    >>> points = torch.randn(20, 2)
    >>> precision_recall(points, points, k=3)
    PrecisionRecall(precision=1.0, recall=1.0)
    """
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    _check_features(real, k + 1, "real")
    _check_features(fake, k + 1, "fake")
    _check_same_width(real, fake)
    return PrecisionRecall(
        _covered(fake, real, _radii(real, k, tile), tile),
        _covered(real, fake, _radii(fake, k, tile), tile),
    )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(points: Tensor, k: int, tile: int) -> Tensor:
    """Distance to the k-th nearest other point: the (k+1)-th smallest, itself included."""
    return torch.cat([_distances(p, points).kthvalue(k + 1).values for p in points.split(tile)])


def _covered(queries: Tensor, centers: Tensor, radii: Tensor, tile: int) -> float:
    """Share of queries inside at least one ball."""
    inside = [(_distances(part, centers) <= radii).any(1) for part in queries.split(tile)]
    return torch.cat(inside).double().mean().item()


def _check_features(features: Tensor, least: int, name: str) -> None:
    if features.ndim != 2 or features.shape[0] < least:
        raise ValueError(
            f"expected {name} of shape [N, D] with N >= {least}, got {tuple(features.shape)}"
        )


def _check_same_width(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"expected features of one width, got {a.shape[1]} and {b.shape[1]} columns"
        )
