"""The forward process and its posterior against 50 digits, golden numbers and Bayes' rule."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.numbers import neighbours
from vfn import ops
from vfn.ops import alpha_sigma, log_alpha_sigma, posterior_logvar, q_posterior, q_sample

LOGSNRS = torch.linspace(-30, 30, 241, dtype=torch.float64)
PRECISIONS = [(torch.float64, 4), (torch.float32, 1), (torch.bfloat16, 1)]
VAR_TYPES = {"fixed_small": None, "fixed_large": None, "fixed_medium": 0.3}


@pytest.fixture
def exact_posterior(exact_scales):
    """Coefficients of z and x0, and the three variances, from the scales alone."""

    def coefficients(logsnr_t, logsnr_s):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = exact_scales(logsnr_t), exact_scales(logsnr_s)
        step = alpha_t / alpha_s
        large = sigma_t**2 - step**2 * sigma_s**2  # variance of z_t given z_s
        small = large * sigma_s**2 / sigma_t**2
        return step * sigma_s**2 / sigma_t**2, large * alpha_s / sigma_t**2, small, large

    return coefficients


@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_scales_match_50_digits(dtype, bound, exact_scales, max_ulp):
    logsnr = LOGSNRS.to(dtype)
    alphas, sigmas = zip(*(exact_scales(value) for value in logsnr), strict=True)
    got = alpha_sigma(logsnr)
    logs = log_alpha_sigma(logsnr)
    assert max_ulp(got.alpha, alphas) <= bound
    assert max_ulp(got.sigma, sigmas) <= bound
    assert max_ulp(logs.log_alpha, [mpmath.log(value) for value in alphas]) <= bound
    assert max_ulp(logs.log_sigma, [mpmath.log(value) for value in sigmas]) <= bound


@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_q_sample_coefficients_match_50_digits(dtype, bound, exact_scales, max_ulp):
    one, zero = torch.ones(len(LOGSNRS), dtype=dtype), torch.zeros(len(LOGSNRS), dtype=dtype)
    alphas, sigmas = zip(*(exact_scales(value) for value in LOGSNRS), strict=True)
    assert max_ulp(q_sample(one, LOGSNRS, zero), alphas) <= bound
    assert max_ulp(q_sample(zero, LOGSNRS, one), sigmas) <= bound


@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_posterior_matches_50_digits(dtype, bound, exact_posterior, max_ulp):
    logsnr_t, logsnr_s = neighbours()
    one, zero = torch.ones(len(logsnr_t), dtype=dtype), torch.zeros(len(logsnr_t), dtype=dtype)
    columns = zip(*map(exact_posterior, logsnr_t, logsnr_s), strict=True)
    coef_z, coef_x0, small, large = (list(column) for column in columns)
    assert max_ulp(q_posterior(one, zero, logsnr_t, logsnr_s).mean, coef_z) <= bound
    assert max_ulp(q_posterior(zero, one, logsnr_t, logsnr_s).mean, coef_x0) <= bound
    logs = [[mpmath.log(value) for value in column] for column in (small, large)]
    medium = [mpmath.mpf(0.7) * a + mpmath.mpf(0.3) * b for a, b in zip(*logs, strict=True)]
    for expected, (var_type, frac) in zip([*logs, medium], VAR_TYPES.items(), strict=True):
        got = q_posterior(one, zero, logsnr_t, logsnr_s, var_type, frac).logvar
        assert max_ulp(got, expected, floor=1.0) <= bound  # exp(logvar) takes absolute errors


@given(st.floats(-1e4, 1e4))
def test_squares_of_the_scales_sum_to_one(logsnr):
    """Three roundings of at most half a unit each."""
    alpha, sigma = alpha_sigma(torch.tensor(logsnr, dtype=torch.float64))
    assert abs(alpha**2 + sigma**2 - 1) <= 4 * torch.finfo(torch.float64).eps


@given(st.floats(-300, 300))
def test_logarithms_are_those_of_the_scales(logsnr):
    value = torch.tensor(logsnr, dtype=torch.float64)
    for log, scale in zip(log_alpha_sigma(value), alpha_sigma(value), strict=True):
        torch.testing.assert_close(log.exp(), scale, rtol=1e-13, atol=0)


def test_infinite_logsnr_gives_the_limits():
    alpha, sigma = alpha_sigma(torch.tensor([-torch.inf, torch.inf]))
    assert alpha.tolist() == [0, 1]
    assert sigma.tolist() == [1, 0]
    z, x0 = torch.tensor([3.0, 3.0]), torch.tensor([2.0, 2.0])
    at_noise, at_data = q_sample(x0, torch.tensor([-torch.inf, torch.inf]), z)
    assert (at_noise, at_data) == (3, 2)


@pytest.mark.parametrize("var_type", VAR_TYPES)
def test_posterior_matches_golden(var_type, golden_math):
    """float32 numbers of float64 coefficients; 2e-6 is 16 of their units."""
    logsnr_t, logsnr_s = golden_math["posterior/logsnr_t"], golden_math["posterior/logsnr_s"]
    one, zero = torch.ones(100), torch.zeros(100)
    args = logsnr_t, logsnr_s, var_type, VAR_TYPES[var_type]
    got = {
        "coef_xt": q_posterior(one, zero, *args).mean,
        "coef_x0": q_posterior(zero, one, *args).mean,
        "logvar": q_posterior(one, zero, *args).logvar,
    }
    for key, value in got.items():
        golden = golden_math[f"posterior/{var_type}/{key}"]
        torch.testing.assert_close(value, golden, rtol=2e-6, atol=0)


def test_posterior_of_the_process_is_the_process():
    """Averaged over z_t, the posterior has the moments of z_s: mean and variance."""
    logsnr_t, logsnr_s = neighbours()
    one, zero = torch.ones_like(logsnr_t), torch.zeros_like(logsnr_t)
    coef_z = q_posterior(one, zero, logsnr_t, logsnr_s).mean
    coef_x0, logvar, _ = q_posterior(zero, one, logsnr_t, logsnr_s)
    noisy, clean = alpha_sigma(logsnr_t), alpha_sigma(logsnr_s)
    torch.testing.assert_close(coef_z * noisy.alpha + coef_x0, clean.alpha)
    variance = coef_z.square() * noisy.sigma.square() + logvar.exp()
    torch.testing.assert_close(variance, clean.sigma.square(), rtol=1e-12, atol=0)


def test_posterior_of_equal_times_is_z():
    z, x0, logsnr = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([-9.0, 0.0, 9.0])
    mean, logvar, _ = q_posterior(z, x0, logsnr, logsnr)
    torch.testing.assert_close(mean, z)
    assert logvar.eq(-torch.inf).all()


def test_logsnr_broadcasts_from_the_left():
    x0, noise = torch.randn(2, 2, 2), torch.randn(2, 2, 2)
    logsnr = torch.tensor([-1.0, 1.0])
    expected = q_sample(x0, logsnr[:, None, None].expand(2, 2, 2), noise)
    assert torch.equal(q_sample(x0, logsnr, noise), expected)
    assert torch.equal(q_sample(x0, logsnr[:, None], noise), expected)
    assert not torch.equal(q_sample(x0, logsnr[None, :], noise), expected)
    assert torch.equal(q_sample(x0, 1.0, noise)[1], expected[1])


def test_shapes_that_do_not_fit_are_refused():
    x0 = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"broadcasts from the left .*\(3, 2\).*\(2,\)"):
        q_sample(x0, torch.zeros(2), x0)
    with pytest.raises(ValueError, match=r"broadcasts from the left .*\(3, 1, 1\)"):
        q_sample(x0, torch.zeros(3, 1, 1), x0)
    with pytest.raises(ValueError, match=r"expected noise to have the shape of x0, \(3, 2\)"):
        q_sample(x0, torch.zeros(3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="expected x0 to have the shape of z"):
        q_posterior(x0, torch.zeros(3, 1), torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="expected logsnr_s of a shape that broadcasts"):
        q_posterior(x0, x0, torch.zeros(3), torch.ones(2))


def test_integers_are_refused():
    images = torch.zeros(3, 2, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"got torch\.uint8; convert it first"):
        q_sample(images, torch.zeros(3), images)
    with pytest.raises(TypeError, match="expected logsnr to be floating-point, got torch"):
        q_sample(torch.zeros(3, 2), torch.tensor([1, 2, 3]), torch.zeros(3, 2))
    for op in (alpha_sigma, log_alpha_sigma):
        with pytest.raises(TypeError, match="expected logsnr to be floating-point"):
            op(torch.tensor([1]))


def test_variances_that_do_not_exist_are_refused():
    low, high = torch.zeros(1), torch.ones(1)
    with pytest.raises(ValueError, match="one of fixed_small, fixed_large, fixed_medium, got 'lar"):
        posterior_logvar(low, high, "large")
    for frac in (None, -0.1, 1.5):
        with pytest.raises(ValueError, match=rf"intp_frac in \[0, 1\].*got {frac}"):
            posterior_logvar(low, high, "fixed_medium", frac)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_standard_deviation_is_rounded_once(exact_scales, max_ulp, dtype):
    """exp(logvar / 2) of a rounded logvar is off by up to 18 units in the last place."""
    logsnr_t = torch.linspace(-30, 25, 24, dtype=torch.float64)
    for gap in (1e-6, 0.1, 5.0, 40.0):
        logsnr_s = logsnr_t + gap
        z = torch.zeros(24, dtype=dtype)
        got = q_posterior(z, z, logsnr_t, logsnr_s).std
        exact = [
            mpmath.sqrt(-mpmath.expm1(mpmath.mpf(t) - mpmath.mpf(s))) * exact_scales(s)[1]
            for t, s in zip(logsnr_t.tolist(), logsnr_s.tolist(), strict=True)
        ]
        assert max_ulp(got, exact) <= (4 if dtype == torch.float64 else 1)


def test_derivative_far_apart_keeps_its_digits():
    """expm1's own derivative is all rounding where the two levels are far apart."""
    logsnr_t = torch.tensor(-20.0, dtype=torch.float64, requires_grad=True)
    one = torch.ones((), dtype=torch.float64)
    mean = q_posterior(0 * one, one, logsnr_t, torch.tensor(20.0, dtype=torch.float64)).mean
    (slope,) = torch.autograd.grad(mean, logsnr_t)
    exact = -mpmath.exp(-40) / mpmath.sqrt(1 + mpmath.exp(-20))
    assert slope.item() == pytest.approx(float(exact), rel=1e-12)


def test_learned_variance_reaches_from_small_to_large():
    z = torch.randn(2, 3, dtype=torch.float64)
    logsnr_t, logsnr_s = torch.tensor([-1.0, 0.0]), torch.tensor([0.5, 2.0])
    for frac, var_type in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        learned = ops.q_posterior(z, z, logsnr_t, logsnr_s, "learned", torch.full_like(z, frac))
        fixed = ops.q_posterior(z, z, logsnr_t, logsnr_s, var_type)
        torch.testing.assert_close(learned.logvar, fixed.logvar.expand_as(z))
    with pytest.raises(ValueError, match="a tensor in the shape of z with var_type learned"):
        ops.q_posterior(z, z, logsnr_t, logsnr_s, "learned")
    with pytest.raises(ValueError, match="to be a number with var_type fixed_medium"):
        ops.q_posterior(z, z, logsnr_t, logsnr_s, "fixed_medium", z)


def test_learned_variance_of_no_step_is_zero():
    t = torch.tensor([-5.0, 0.0, 9.0])
    frac = torch.rand(3, 4, dtype=torch.float64)
    assert (ops.learned_logvar(t, t, frac) == -math.inf).all()


def test_learned_variance_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="logsnr_t of a shape that"):
        ops.learned_logvar(torch.zeros(3), torch.ones(2), torch.zeros(2, 3))


def test_learned_variance_of_a_step_to_the_data_is_large_or_none():
    """The small one is that of a point: but where the network says the large one, there is none."""
    frac = torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)
    found = ops.learned_logvar(torch.zeros(1), torch.full((1,), math.inf), frac)
    assert found.tolist() == [[-math.inf, -math.inf, pytest.approx(math.log(0.5))]]
