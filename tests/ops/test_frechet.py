"""Gaussians of features and their distance against closed forms, numpy and scipy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from vfn.ops import (
    Moments,
    fit_gaussian,
    frechet_distance,
    frechet_infinity,
    gaussian,
    merge_moments,
    moments,
)


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


@pytest.mark.parametrize("cuts", [(1,), (20,), (3, 4, 49)])
def test_merged_moments_are_those_of_the_whole(cuts):
    """Far from the origin, where sums of squares would lose their digits."""
    features = points(50, 7) @ points(7, 7, seed=1) + 1e4
    parts = [moments(part) for part in features.tensor_split(cuts)]
    whole = parts[0]
    for part in parts[1:]:
        whole = merge_moments(whole, part)
    assert whole.rows == 50
    np.testing.assert_allclose(whole.mean, features.numpy().mean(0), rtol=1e-14)
    expected = np.cov(features.numpy(), rowvar=False)
    np.testing.assert_allclose(gaussian(whole).cov, expected, rtol=1e-9, atol=1e-9)


def test_extrapolation_of_a_distance_that_is_zero():
    """Samples of N(0, I) against N(0, I): their distance is all bias, D (D + 5) / (4 n)."""
    samples = [points(1000, 8, seed) for seed in range(20)]
    origin = torch.zeros(8), torch.eye(8)
    finite = np.mean([frechet_distance(*origin, *fit_gaussian(f)) for f in samples])
    found = [frechet_infinity(*origin, f, least=100) for f in samples]
    assert finite == pytest.approx(26 / 1000, rel=0.3)
    assert abs(np.mean([f.value for f in found])) < finite / 5
    assert np.mean([f.slope for f in found]) == pytest.approx(26, rel=0.3)
    assert all(0 < f.error < finite for f in found)


def test_extrapolation_of_a_straight_line():
    """Copies in turn: the distance is a line in 1/n whatever the order, with its exact end."""
    features = torch.cat([torch.zeros(500, 1), torch.full((500, 1), 2.0)])
    got = frechet_infinity(torch.ones(1), torch.ones(1, 1), features, least=400)
    assert got.value == pytest.approx(0, abs=1e-2)


def test_moments_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="at least 2 rows for a covariance, got 1"):
        gaussian(Moments(1, torch.zeros(2), torch.zeros(2, 2)))
    with pytest.raises(ValueError, match=r"features of shape \[N, D\] with N >= 1, got \(0, 2\)"):
        moments(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="least >= 2 and points >= 3, got 1 and 3"):
        frechet_infinity(torch.zeros(1), torch.eye(1), torch.zeros(5, 1), 1, 3)
    with pytest.raises(ValueError, match=r"N >= 6, got \(5, 1\)"):
        frechet_infinity(torch.zeros(1), torch.eye(1), torch.zeros(5, 1), 5)
