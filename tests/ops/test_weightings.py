"""The table of weightings: each against its formula in 50 digits, and what it refuses."""

import math

import mpmath
import pytest
import torch

from vfn import ops


@pytest.mark.parametrize("out_type", ["x0", "eps", "v", "both"])
@pytest.mark.parametrize("reweight", ["min_snr", "p2", "sigmoid", "edm"])
def test_perfect_prediction_has_no_loss(out_type, reweight):
    """The square of 1e-16 magnified by exp(6), times a weight of at most exp(12)."""
    x0, eps = torch.randn(2, 25, 2, 3, dtype=torch.float64)
    logsnr = torch.linspace(-12, 12, 25, dtype=torch.float64)
    target = ops.Prediction(x0, eps, ops.v_from_x0_eps(x0, eps, logsnr))
    out = torch.cat([x0, eps], dim=1) if out_type == "both" else getattr(target, out_type)
    pred = ops.predict(ops.q_sample(x0, logsnr, eps), out, logsnr, out_type)
    assert ops.mse_loss(pred, target, reweight, logsnr).max() <= 1e-22


@pytest.mark.parametrize(
    ("reweight", "options", "formula"),
    [
        ("min_snr", {}, lambda snr: min(snr, 5)),
        ("min_snr", {"gamma": 2.0}, lambda snr: min(snr, 2)),
        ("p2", {"gamma": 0.5}, lambda snr: snr / (1 + snr) ** 0.5),
        ("sigmoid", {"bias": -1.0}, lambda snr: snr / (1 + snr * math.e)),
        ("edm", {"sigma_data": 2.0}, lambda snr: snr + 0.25),
    ],
)
def test_weightings(reweight, options, formula):
    logsnr = torch.linspace(-30, 30, 41, dtype=torch.float64)
    exact = [formula(mpmath.exp(mpmath.mpf(value))) for value in logsnr.tolist()]
    expected = [float(value) for value in exact]
    # A few roundings, of exponents up to 30 in size.
    got = ops.loss_weight(logsnr, reweight, **options).tolist()
    assert got == pytest.approx(expected, rel=2e-14, abs=0)
    x0, noise = torch.randn(2, 41, 6, dtype=torch.float64)
    target = ops.Prediction(x0, noise, ops.v_from_x0_eps(x0, noise, logsnr))
    assert not ops.mse_loss(target, target, reweight, logsnr, **options).any()
    z = ops.q_sample(x0, logsnr, noise)
    pred = ops.predict(z, x0 + 0.1, logsnr, "x0")
    loss = ops.mse_loss(pred, target, reweight, logsnr, **options)
    # eps errors are 0.1 sqrt(SNR) up to the cancellation in eps_from_x0.
    torch.testing.assert_close(
        loss, 0.01 * torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-12
    )


def test_a_weighting_without_its_logsnr_is_refused():
    pred = ops.Prediction(*torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match=r"expected logsnr of shape \[B\] for reweight min_snr"):
        ops.mse_loss(pred, pred, "min_snr")


@pytest.mark.parametrize("reweight", ["min_snr", "p2"])
def test_gamma_must_be_positive(reweight):
    with pytest.raises(ValueError, match="expected gamma > 0, got 0"):
        ops.loss_weight(0.0, reweight, gamma=0.0)
