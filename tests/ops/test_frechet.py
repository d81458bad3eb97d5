"""Gaussians of features and their distance against closed forms, numpy and scipy."""

import math
import resource

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from vfn.ops import (
    Moments,
    fit_gaussian,
    frechet_distance,
    frechet_distance_of_features,
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


def distance_in_50_digits(one, other):
    """Of features, by the singular values of the products of all pairs of rows."""
    with mpmath.workdps(50):
        sides = []
        for rows in (one, other):
            matrix = mpmath.matrix(rows.double().tolist())
            mean = [mpmath.fsum(matrix[:, j]) / matrix.rows for j in range(matrix.cols)]
            centred = mpmath.matrix(matrix.rows, matrix.cols)
            for i in range(matrix.rows):
                for j in range(matrix.cols):
                    centred[i, j] = (matrix[i, j] - mean[j]) / mpmath.sqrt(matrix.rows - 1)
            sides.append((mean, centred))
        (mean1, a), (mean2, b) = sides
        # mpmath parts matrices that are no taller than wide by their transpose.
        values = mpmath.svd_r(a * b.T, compute_uv=False)
        traces = sum(mpmath.fsum(x**2 for x in side) for side in (a, b))
        gap = mpmath.fsum((m - n) ** 2 for m, n in zip(mean1, mean2, strict=True))
        return float(gap + traces - 2 * mpmath.fsum(values))


def near_copies(count, dim, noise):
    """Features with one strong direction, and the same with some noise."""
    shade = points(count, 1, seed=3).abs()
    one = 0.9 * shade + 0.1 * points(count, dim, seed=4).abs()
    return one, one + noise * points(count, dim, seed=5)


SIDES = {
    "few and few": (points(7, 20), points(9, 20, seed=1) + 0.3),
    "few and many": (points(6, 12), 2 * points(40, 12, seed=1)),
    "many and few": (2 * points(40, 12, seed=1), points(6, 12)),
    "itself": (points(7, 20), points(7, 20)),
    "near copies": near_copies(8, 30, 1e-3),
    "nearer copies": near_copies(8, 30, 1e-6),
}


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
def test_distance_of_features_is_exact_for_singular_covariances(sides):
    """To 1e-13 of the traces, where each null direction used to add the root of rounding."""
    scale = sum(side.var(0).sum().item() for side in sides)
    expected = distance_in_50_digits(*sides)
    got = frechet_distance_of_features(*sides)
    assert got == pytest.approx(expected, abs=1e-13 * scale)
    assert got >= 0
    # From covariances, whose own rounding is in them, to the root of that in no direction.
    fitted = frechet_distance(*fit_gaussian(sides[0]), *fit_gaussian(sides[1]))
    assert fitted == pytest.approx(expected, abs=1e-11 * scale)
    assert fitted >= 0


@pytest.mark.parametrize("dim", [512, 3072])
def test_distance_of_pictures_to_themselves_and_to_near_copies(dim):
    """64 pictures of 3,072 values: it was -0.0011, and 0.0019 where 0.0031 is exact."""
    one, other = (side.float() for side in near_copies(64, dim, 1e-3))
    factors = [(x - x.mean(0)).double().numpy() / 63**0.5 for x in (one, other)]
    for a, b, x, y in ((0, 0, one, one), (0, 1, one, other)):
        a, b = factors[a], factors[b]
        cross = scipy.linalg.svdvals(a @ b.T).sum()
        gap = (x.double().mean(0) - y.double().mean(0)).square().sum().item()
        exact = gap + (a**2).sum() + (b**2).sum() - 2 * cross
        found = [frechet_distance_of_features(x, y)]
        if dim < 1000:  # eigenvectors of 3,072 values take seconds
            found.append(frechet_distance(*fit_gaussian(x), *fit_gaussian(y)))
        for value in found:
            assert value == pytest.approx(exact, abs=2e-6)  # means in float32
            assert value >= 0


def test_distance_of_many_features_is_that_of_their_gaussians():
    one, other = points(60, 7), points(50, 7, seed=1) * 1.5
    fitted = frechet_distance(*fit_gaussian(one), *fit_gaussian(other))
    assert frechet_distance_of_features(one, other) == fitted


def test_no_covariance_of_few_wide_features_is_made():
    """[D, D] of 30,000 values would take 7 GB; here memory grows by the features in float64."""
    wide = torch.rand(12, 30_000, generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert frechet_distance_of_features(wide, wide + 0.01) == pytest.approx(3.0, rel=1e-4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_constant_features_have_a_distance():
    zeros, ones = torch.zeros(3, 5), torch.ones(9, 5)
    assert frechet_distance_of_features(zeros, ones) == pytest.approx(5)
    nothing = torch.zeros(3, 3)
    assert frechet_distance(nothing[0], nothing, nothing[0], torch.eye(3)) == 3


def test_distance_of_features_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"one of shape \[N, D\] with N >= 2, got \(1, 3\)"):
        frechet_distance_of_features(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="features of one width, got 3 and 4 columns"):
        frechet_distance_of_features(torch.zeros(2, 3), torch.zeros(4, 4))


def test_frechet_distance_to_itself_is_zero_for_singular_covariances():
    mean, cov = fit_gaussian(points(5, 20))
    assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-12
    assert frechet_distance(mean, cov, mean + 1, cov) == pytest.approx(20, abs=1e-12)


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


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_error_of_the_extrapolation_is_how_far_samples_lie_apart(scale):
    """The spread of 60 values is known to 9 %; where the distance is 0 more is reported."""
    samples = [points(400, 4, seed, scale) for seed in range(60)]
    found = [frechet_infinity(torch.zeros(4), torch.eye(4), f, least=40) for f in samples]
    spread = np.std([f.value for f in found])
    assert 0.8 * spread < np.mean([f.error for f in found]) < 1.6 * spread


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
    with pytest.raises(ValueError, match=r"N >= 7, got \(5, 1\)"):
        frechet_infinity(torch.zeros(1), torch.eye(1), torch.zeros(5, 1), 5)
    with pytest.raises(ValueError, match=r"expected mean of shape \(2,\), got \(3,\)"):
        frechet_infinity(torch.zeros(3), torch.eye(3), torch.zeros(9, 2), 3)
    with pytest.raises(ValueError, match=r"expected mean of shape \(2,\), got \(1,\)"):
        merge_moments(moments(points(5, 2)), moments(points(5, 1)))


@pytest.mark.parametrize("place", [1, 3])
@pytest.mark.parametrize(
    ("cov", "message"),
    [
        ([[1.0, 0.5], [0.0, 1.0]], "to be symmetric, got one that is not"),
        ([[-1.0, 0.0], [0.0, -1.0]], "semi-definite covariances, got one with negative eigenval"),
        ([[1.0, 2.0], [2.0, 1.0]], "semi-definite covariances, got one with negative eigenval"),
    ],
)
def test_what_is_no_covariance_is_refused(place, cov, message):
    given = [torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(2)]
    given[place] = torch.tensor(cov)
    with pytest.raises(ValueError, match=message):
        frechet_distance(*given)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("place", range(4))
def test_what_is_not_finite_has_no_distance(dim, place):
    given = [torch.zeros(dim), torch.eye(dim), torch.zeros(dim), torch.eye(dim)]
    given[place] = given[place] * math.nan
    assert math.isnan(frechet_distance(*given))


@pytest.mark.parametrize("dim", [1, 2, 3, 20])
def test_features_that_are_not_finite_have_no_distance(dim):
    fine, torn = torch.randn(8, dim), torch.randn(8, dim)
    torn[3, 0] = math.nan
    assert math.isnan(frechet_distance_of_features(fine, torn))
    assert math.isnan(frechet_distance_of_features(torn, fine))


def test_a_line_needs_three_sizes():
    """Through two of them it has no error."""
    with pytest.raises(ValueError, match=r"N >= 10, got \(9, 2\)"):
        frechet_infinity(torch.zeros(2), torch.eye(2), torch.randn(9, 2), least=8)
    assert frechet_infinity(torch.zeros(2), torch.eye(2), torch.randn(10, 2), 8).error > 1e-6


def test_the_error_of_a_line_through_few_sizes_counts_what_the_line_took():
    """Of three sizes two numbers are fitted, so that one is left to tell of chance."""
    samples = [points(200, 2, seed, 1.5) for seed in range(100)]
    found = [frechet_infinity(torch.zeros(2), torch.eye(2), f, 40, points=3) for f in samples]
    spread = np.std([f.value for f in found])
    assert 0.8 * spread < np.mean([f.error**2 for f in found]) ** 0.5 < 1.6 * spread
