"""Steps from t to s against 50 digits, golden numbers and the marginals they must keep."""

from functools import partial

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.numbers import neighbours
from vfn import ops
from vfn.ops import alpha_sigma, ancestral_step, ddim_step, q_sample

ETAS = (0.0, 0.5, 1.0)
PRECISIONS = [(torch.float64, 4), (torch.float32, 1), (torch.bfloat16, 1)]
STEPS = {f"ddim {eta}": partial(ddim_step, eta=eta) for eta in ETAS} | {"ancestral": ancestral_step}
logsnrs = st.floats(-20, 20)


def coefficients(step, logsnr_t, logsnr_s, dtype=torch.float64):
    """What a step multiplies z, x0 and the noise by."""
    rows = torch.eye(3, dtype=dtype).unsqueeze(-1).expand(3, 3, len(logsnr_t))
    return [step(z, x0, logsnr_t, logsnr_s, noise=noise) for z, x0, noise in rows]


def data(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 2, 3, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_ddim_coefficients_match_50_digits(eta, dtype, bound, exact_scales, max_ulp):
    logsnr_t, logsnr_s = neighbours()
    exact = []
    for noisy, clean in zip(logsnr_t, logsnr_s, strict=True):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = exact_scales(noisy), exact_scales(clean)
        r = (alpha_t * sigma_s / (sigma_t * alpha_s)) ** 2
        var = mpmath.mpf(eta) ** 2 * (1 - r) * sigma_s**2
        of_eps = mpmath.sqrt(sigma_s**2 - var)
        exact.append((of_eps / sigma_t, alpha_s - of_eps * alpha_t / sigma_t, mpmath.sqrt(var)))
    got = coefficients(partial(ddim_step, eta=eta), logsnr_t, logsnr_s, dtype)
    for value, expected in zip(got, zip(*exact, strict=True), strict=True):
        assert max_ulp(value, expected) <= bound


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_matches_golden(eta, golden_math):
    """float32 numbers: 2e-6 is 16 units."""
    logsnr_t, logsnr_s = golden_math["posterior/logsnr_t"], golden_math["posterior/logsnr_s"]
    step = partial(ddim_step, eta=eta)
    of_z, of_x0, of_noise = coefficients(step, logsnr_t, logsnr_s, torch.float32)
    got = {"coef_xt": of_z, "coef_x0": of_x0, "logvar": 2 * of_noise.log()}
    for key, value in got.items():
        golden = golden_math[f"ddim/eta{eta}/{key}"].expand(100)
        torch.testing.assert_close(value, golden, rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", STEPS)
def test_step_keeps_the_marginal(name):
    """Of z_t = alpha_t x0 + sigma_t eps it makes z_s with alpha_s and sigma_s, for every eta."""
    logsnr_t, logsnr_s = neighbours()
    of_z, of_x0, of_noise = coefficients(STEPS[name], logsnr_t, logsnr_s)
    noisy, clean = alpha_sigma(logsnr_t), alpha_sigma(logsnr_s)
    torch.testing.assert_close(of_z * noisy.alpha + of_x0, clean.alpha, rtol=1e-12, atol=0)
    variance = (of_z * noisy.sigma) ** 2 + of_noise**2
    torch.testing.assert_close(variance, clean.sigma**2, rtol=1e-12, atol=0)


@given(st.lists(logsnrs, min_size=2, max_size=2))
def test_full_eta_is_the_ancestral_step(pair):
    z, x0, noise = data(3).unsqueeze(1)
    args = z, x0, *sorted(pair)
    torch.testing.assert_close(
        ddim_step(*args, eta=1.0, noise=noise),
        ancestral_step(*args, noise, "fixed_small"),
        rtol=1e-12,
        atol=1e-12,
    )


@given(st.lists(logsnrs, min_size=3, max_size=3))
def test_one_ddim_step_is_two(triple):
    """For a constant prediction the deterministic path is the same however it is divided."""
    z, x0 = data(2).unsqueeze(1)
    logsnr_t, logsnr_mid, logsnr_s = sorted(triple)
    halfway = ddim_step(z, x0, logsnr_t, logsnr_mid)
    torch.testing.assert_close(
        ddim_step(halfway, x0, logsnr_mid, logsnr_s),
        ddim_step(z, x0, logsnr_t, logsnr_s),
        rtol=1e-12,
        atol=1e-12,
    )


@given(st.lists(logsnrs, min_size=2, max_size=2))
def test_ddim_moves_along_the_noise_that_it_implies(pair):
    """With the true x0 the step lands on the same x0 and eps at the new noise level."""
    x0, eps = data(2).unsqueeze(1)
    logsnr_t, logsnr_s = sorted(pair)
    got = ddim_step(q_sample(x0, logsnr_t, eps), x0, logsnr_t, logsnr_s)
    torch.testing.assert_close(got, q_sample(x0, logsnr_s, eps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", STEPS)
def test_step_of_no_length_is_none(name):
    z, x0, noise = data(3).unsqueeze(1)
    torch.testing.assert_close(STEPS[name](z, x0, 1.5, 1.5, noise=noise), z)


@pytest.mark.parametrize("name", STEPS)
def test_step_to_data_is_x0(name):
    z, x0, noise = data(3).unsqueeze(1)
    got = STEPS[name](z, x0, torch.zeros(1), torch.tensor([torch.inf]), noise=noise)
    torch.testing.assert_close(got, x0)


@pytest.mark.parametrize(
    ("var_type", "frac", "variance"),
    [
        ("fixed_small", None, 0.5 * 1 / 3),
        ("fixed_large", None, 0.5 * 1 / 2),
        ("fixed_medium", 0.0, 0.5 * 1 / 3),
        ("fixed_medium", 0.5, 0.5 * 6**-0.5),
        ("fixed_medium", 1.0, 0.5 * 1 / 2),
    ],
)
def test_ancestral_noise_by_hand(var_type, frac, variance):
    """SNR 1 to 2: r = 1/2, sigma_t^2 = 1/2, sigma_s^2 = 1/3."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    got = ancestral_step(zero, zero, 0.0, one.new_tensor([2.0]).log(), one, var_type, frac)
    assert got.item() == pytest.approx(variance**0.5, rel=1e-12)


def test_ddim_refuses_what_does_not_fit():
    z, low, high = torch.zeros(2, 3), torch.zeros(2), torch.ones(2)
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"expected eta in \[0, 1\], got {eta}"):
            ddim_step(z, z, low, high, eta)
    with pytest.raises(ValueError, match=r"expected noise of shape \(2, 3\) for eta=0.5, got None"):
        ddim_step(z, z, low, high, 0.5)
    with pytest.raises(ValueError, match="expected noise to have the shape of z"):
        ddim_step(z, z, low, high, 0.5, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="expected x0 to have the shape of z"):
        ddim_step(z, torch.zeros(2, 1), low, high)
    with pytest.raises(ValueError, match="expected logsnr_t of a shape that broadcasts"):
        ddim_step(z, z, torch.zeros(3), high)


def test_ancestral_refuses_what_does_not_fit():
    z, low, high = torch.zeros(2, 3), torch.zeros(2), torch.ones(2)
    with pytest.raises(ValueError, match="expected noise to have the shape of z"):
        ancestral_step(z, z, low, high, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="var_type to be one of fixed_small"):
        ancestral_step(z, z, low, high, z, "small")
    with pytest.raises(ValueError, match=r"intp_frac in \[0, 1\].*got None"):
        ancestral_step(z, z, low, high, z, "fixed_medium")


def test_ddim_inverse_undoes_a_step():
    z, x0 = torch.randn(2, 30, 3, dtype=torch.float64)
    t = torch.linspace(-15, 12, 30, dtype=torch.float64)
    for gap in (1e-6, 0.3, 3.0):
        back = ops.ddim_inverse_step(ops.ddim_step(z, x0, t, t + gap), x0, t + gap, t)
        torch.testing.assert_close(back, z, rtol=1e-9, atol=1e-9)


def test_ddim_inverse_matches_50_digits(exact_scales, max_ulp):
    """``z_t = alpha_t x0 + sigma_t (z_s - alpha_s x0) / sigma_s``; of six factors in float64."""
    t = torch.linspace(-15, 12, 19, dtype=torch.float64)
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    for gap in (1e-6, 0.3, 12.0):
        of_z, of_x0 = [], []
        for noisy, clean in zip(t, t + gap, strict=True):
            (alpha_t, sigma_t), (alpha_s, sigma_s) = exact_scales(noisy), exact_scales(clean)
            of_z.append(sigma_t / sigma_s)
            of_x0.append(alpha_t - sigma_t * alpha_s / sigma_s)
        assert max_ulp(ops.ddim_inverse_step(one, zero, t + gap, t), of_z) <= 4
        assert max_ulp(ops.ddim_inverse_step(zero, one, t + gap, t), of_x0) <= 4
