"""Coefficients in 50 digits, their limits and their derivatives."""

import mpmath
import pytest
import torch

from vfn.ops import _coef

LOGSNRS = torch.cat(
    [torch.linspace(-60, 60, 61, dtype=torch.float64), torch.tensor([-700.0, 700.0]).double()]
)
EXACT = {
    "alpha": lambda x: 1 / mpmath.sqrt(1 + mpmath.exp(-x)),
    "sigma": lambda x: 1 / mpmath.sqrt(1 + mpmath.exp(x)),
    "inv_alpha": lambda x: mpmath.sqrt(1 + mpmath.exp(-x)),
    "inv_sigma": lambda x: mpmath.sqrt(1 + mpmath.exp(x)),
    "sigma_over_alpha": lambda x: mpmath.exp(-x / 2),
    "alpha_over_sigma": lambda x: mpmath.exp(x / 2),
    "log_sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
}
ALPHA, SIGMA = EXACT["alpha"], EXACT["sigma"]
EXACT |= {
    "line_scale": lambda x: 1 / (ALPHA(x) + SIGMA(x)),
    "inv_line_scale": lambda x: ALPHA(x) + SIGMA(x),
    "line_time": lambda x: SIGMA(x) / (ALPHA(x) + SIGMA(x)),
    "line_rest": lambda x: ALPHA(x) / (ALPHA(x) + SIGMA(x)),
    "inv_line_time": lambda x: 1 + ALPHA(x) / SIGMA(x),
    "inv_line_rest": lambda x: 1 + SIGMA(x) / ALPHA(x),
    "line_lead": lambda x: (ALPHA(x) - SIGMA(x)) / (ALPHA(x) + SIGMA(x)),
    "alpha_minus_sigma": lambda x: ALPHA(x) - SIGMA(x),
    "tanh": mpmath.tanh,
}


@pytest.mark.parametrize("name", EXACT)
def test_coefficient_matches_50_digits(name, max_ulp):
    exact = [EXACT[name](mpmath.mpf(value)) for value in LOGSNRS.tolist()]
    assert max_ulp(getattr(_coef, name)(LOGSNRS), exact) <= 4


@pytest.mark.parametrize("name", EXACT)
def test_derivative_keeps_its_digits(name):
    logsnr = LOGSNRS[:-2].clone().requires_grad_()
    (slope,) = torch.autograd.grad(getattr(_coef, name)(logsnr).sum(), logsnr)
    with mpmath.workdps(120):  # slopes go down to exp(-120) beside values of 1
        exact = [mpmath.diff(EXACT[name], mpmath.mpf(value)) for value in LOGSNRS[:-2].tolist()]
    # A dozen roundings; mpmath's difference quotient has 60 digits.
    assert slope.tolist() == pytest.approx([float(value) for value in exact], rel=1e-13, abs=0)


@pytest.mark.parametrize("gap", [-1e-12, -1e-3, -0.4999, -0.5, -0.5001, -3.0, -80.0])
def test_one_minus_exp_and_its_derivative(gap, max_ulp):
    x = torch.tensor([gap], dtype=torch.float64, requires_grad=True)
    value = _coef.one_minus_exp(x)
    assert max_ulp(value.detach(), [-mpmath.expm1(mpmath.mpf(gap))]) <= 2
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert max_ulp(slope, [-mpmath.exp(mpmath.mpf(gap))]) <= 2


def test_ratio_of_snr_and_what_it_lacks_to_one():
    noisy, clean = torch.tensor([-3.0, 0.0, 700.0]).double(), torch.tensor([4.0, 1e-9, 701.0])
    clean = clean.double()
    torch.testing.assert_close(_coef.snr_ratio(noisy, clean), torch.exp(noisy - clean))
    got = _coef.one_minus_snr_ratio(noisy, clean)
    torch.testing.assert_close(got, -torch.expm1(noisy - clean), rtol=1e-14, atol=0)


def test_linear_combination_casts_its_coefficients_once():
    x, y = torch.randn(2, 3, 4).bfloat16()
    a, b = torch.tensor(1 / 3, dtype=torch.float64), torch.tensor(2 / 3, dtype=torch.float64)
    got = _coef.linear_combination(a, x, b, y)
    assert got.dtype == torch.bfloat16
    # Two roundings of terms up to 3 in size.
    torch.testing.assert_close(got.double(), a * x.double() + b * y.double(), rtol=0, atol=0.04)


def test_logsnr_is_checked_and_shaped():
    data = torch.zeros(2, 3, 4)
    assert _coef.as_logsnr(torch.zeros(2), data).shape == (2, 1, 1)
    assert _coef.as_logsnr(0.0, data).shape == (1, 1, 1)
    assert _coef.as_logsnr(torch.zeros(2), data).dtype == torch.float64
    with pytest.raises(ValueError, match=r"over data of shape \(2, 3, 4\), such as \(2,\), got"):
        _coef.as_logsnr(torch.zeros(3), data)
    with pytest.raises(TypeError, match="expected floating-point data, got torch.int64"):
        _coef.as_logsnr(0.0, data.long())
    with pytest.raises(TypeError, match="expected y to have the dtype of x, torch.float32"):
        _coef.same_shape(data, data.double(), "x", "y")
