"""Distances between feature sets against closed forms, scipy and scikit-learn."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.neighbors import NearestNeighbors

from vfn.ops import fit_gaussian, frechet_distance, nearest_distances, precision_recall


def points(count, dim, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dim, dtype=torch.float64, generator=generator)


def test_gaussian_is_that_of_numpy():
    features = points(50, 7) @ points(7, 7, seed=1) + 3
    mean, cov = fit_gaussian(features.float())
    single = features.float().double().numpy()
    np.testing.assert_allclose(mean, single.mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(single, rowvar=False), rtol=1e-11, atol=1e-12)
    assert mean.dtype == cov.dtype == torch.float64


def test_frechet_distance_of_independent_normals():
    """Diagonal covariances: the sum over dimensions of squared differences of mean and std."""
    mean1, mean2 = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 4.0])
    std1, std2 = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 2.0])
    got = frechet_distance(mean1, std1.square().diag(), mean2, std2.square().diag())
    assert got == pytest.approx((0 + 4 + 1) + (4 + 2.25 + 4), rel=1e-12)


@pytest.mark.parametrize("dim", [1, 5, 40])
def test_frechet_distance_matches_scipy(dim):
    """Covariances that do not commute; scipy's general matrix root is the oracle."""
    mean1, mean2 = points(2, dim)
    cov1, cov2 = (fit_gaussian(points(3 * dim + 2, dim, seed, seed)).cov for seed in (1, 2))
    root = scipy.linalg.sqrtm(cov1.numpy() @ cov2.numpy()).real
    expected = (mean1 - mean2).square().sum() + (cov1 + cov2).trace() - 2 * np.trace(root)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_to_itself_is_zero_for_singular_covariances():
    """Square roots of eigenvalues of rounding size, 1e-15, are 3e-8 each."""
    mean, cov = fit_gaussian(points(5, 20))
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-6
    assert frechet_distance(mean, cov, mean + 1, cov) == pytest.approx(20, abs=1e-6)


def neighbour_distances(queries, references, count):
    return NearestNeighbors(n_neighbors=count).fit(references).kneighbors(queries)[0]


@pytest.mark.parametrize("tile", [1, 7, 4096])
def test_nearest_distances_match_sklearn(tile):
    queries, references = points(30, 6), points(40, 6, seed=1)
    expected = torch.from_numpy(neighbour_distances(queries, references, 1)[:, 0])
    torch.testing.assert_close(nearest_distances(queries, references, tile), expected)


def test_nearest_distance_of_a_copy_is_exactly_zero():
    features = 1000 + points(30, 500).float()
    assert nearest_distances(features, features).eq(0).all()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("tile", [7, 4096])
def test_precision_recall_match_sklearn(k, tile):
    """A narrower and shifted fake: different shares, neither 0 nor 1."""
    real, fake = points(200, 3), 0.7 * points(150, 3, seed=1) + 1.5

    def covered(queries, centers):
        radii = neighbour_distances(centers, centers, k + 1)[:, -1]
        distances = np.linalg.norm(queries[:, None].numpy() - centers[None].numpy(), axis=-1)
        return (distances <= radii).any(1).mean()

    got = precision_recall(real, fake, k, tile)
    assert got.precision == pytest.approx(covered(fake, real))
    assert got.recall == pytest.approx(covered(real, fake))
    assert 0 < got.recall < 1
    assert 0 < got.precision < 1
    assert got.recall != got.precision


def test_precision_recall_by_hand():
    """On a line, k=1: one fake of two is inside a ball, and two reals of four are."""
    real = torch.tensor([[0.0], [1.0], [10.0], [12.0]])  # radii 1, 1, 2, 2
    fake = torch.tensor([[0.5], [5.0]])  # radii 4.5, 4.5
    assert precision_recall(real, fake, k=1) == (0.5, 0.5)


def test_far_apart_sets_share_nothing():
    real = points(20, 4)
    assert precision_recall(real, real + 100) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 3), (4,), (2, 2, 2)])
def test_gaussian_refuses_too_few_rows(shape):
    with pytest.raises(ValueError, match=r"features of shape \[N, D\] with N >= 2, got"):
        fit_gaussian(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3,), (2, 3), (3,), (3, 3)), r"expected cov1 of shape \(3, 3\), got \(2, 3\)"),
        (((3,), (3, 3), (2,), (3, 3)), r"expected mean2 of shape \(3,\), got \(2,\)"),
        (((3,), (3, 3), (3,), (3,)), r"expected cov2 of shape \(3, 3\), got \(3,\)"),
    ],
)
def test_frechet_distance_refuses_shapes_that_do_not_fit(shapes, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(*(torch.zeros(shape) for shape in shapes))


def test_neighbours_refuse_what_does_not_fit():
    two, three = torch.zeros(9, 2), torch.zeros(9, 3)
    for op in (nearest_distances, precision_recall):
        with pytest.raises(ValueError, match="features of one width, got 2 and 3 columns"):
            op(two, three)
    with pytest.raises(ValueError, match=r"references of shape \[N, D\] with N >= 1, got \(0, 2\)"):
        nearest_distances(two, two[:0])
    with pytest.raises(ValueError, match="expected k >= 1, got 0"):
        precision_recall(two, two, k=0)
    with pytest.raises(ValueError, match=r"real of shape \[N, D\] with N >= 4, got \(3, 2\)"):
        precision_recall(two[:3], two)
    with pytest.raises(ValueError, match=r"fake of shape \[N, D\] with N >= 4, got \(3, 2\)"):
        precision_recall(two, two[:3])
