"""Losses against golden numbers, and their zero, their weights and their refusals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn.ops import (
    Prediction,
    balanced_loss,
    loss_weight,
    mse_loss,
    predict,
    q_sample,
    v_from_x0_eps,
)

OUT_TYPES = ("x0", "eps", "v", "u", "both")
GOLDEN_KEYS = {
    "constant": "constant",
    "snr": "snr",
    "truncated_snr": "snr_trunc",
    "alpha2": "snr_1plus",
}


def diffused(x0, eps, logsnr):
    return q_sample(x0, logsnr, eps), Prediction(x0, eps, v_from_x0_eps(x0, eps, logsnr))


@pytest.mark.parametrize("out_type", sorted({*OUT_TYPES} - {"u"}))
@pytest.mark.parametrize("reweight", GOLDEN_KEYS)
def test_loss_matches_golden(out_type, reweight, golden_math):
    """float32, a mean over 48 pixels: 2e-6 is 16 units."""
    x0, eps, logsnr = (golden_math[k] for k in ("conv/x0", "conv/eps", "loss/logsnr"))
    out = golden_math["conv/both" if out_type == "both" else "loss/model_out"]
    z, target = diffused(x0, eps, logsnr)
    loss = mse_loss(predict(z, out, logsnr, out_type), target, reweight)
    golden = golden_math[f"loss/{out_type}/{GOLDEN_KEYS[reweight]}"]
    torch.testing.assert_close(loss, golden, rtol=2e-6, atol=0)


@given(
    logsnr=st.floats(-12, 12),
    out_type=st.sampled_from(OUT_TYPES),
    reweight=st.sampled_from(sorted([*GOLDEN_KEYS, "flow"])),
)
def test_perfect_prediction_has_no_loss(logsnr, out_type, reweight):
    """The square of 1e-16 magnified by exp(6) is below 1e-24."""
    x0, eps = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 2, 3), torch.ones(2, 2, 3)
    z, target = diffused(x0, eps.double(), logsnr)
    out = torch.cat(target[:2], dim=1) if out_type == "both" else getattr(target, out_type)
    loss = mse_loss(predict(z, out, logsnr, out_type), target, reweight)
    assert loss.shape == (2,)
    assert loss.max() <= 1e-24


@given(
    logsnr=st.floats(-12, 12),
    out_type=st.sampled_from(OUT_TYPES),
    reweight=st.sampled_from(sorted([*GOLDEN_KEYS, "flow"])),
)
def test_loss_is_the_weighted_error_of_x0(logsnr, out_type, reweight):
    """Whatever the network predicts; an error of exactly 0.1 in x0."""
    x0 = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 2, 2)
    z, target = diffused(x0, x0.flip(0), logsnr)
    wrong = predict(z, x0 + 0.1, logsnr, "x0")
    both = torch.cat([wrong.x0, wrong.eps], dim=1)
    out = both if out_type == "both" else getattr(wrong, out_type)
    loss = mse_loss(predict(z, out, logsnr, out_type), target, reweight)
    expected = (0.01 * loss_weight(logsnr, reweight)).expand(2)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


def test_loss_is_one_value_a_sample():
    x0 = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 4, 4)
    zero = torch.zeros_like(x0)
    loss = mse_loss(Prediction(x0, zero, zero), Prediction(zero, zero, zero), "constant")
    assert loss.tolist() == [0, 1, 4]


def test_truncated_loss_takes_the_larger_mean_of_each_sample():
    """The larger of the two means, not the mean of the larger squares."""
    x0, eps = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    zero = torch.zeros(2, 2)
    loss = mse_loss(Prediction(x0, eps, zero), Prediction(zero, zero, zero), "truncated_snr")
    assert loss.tolist() == [2, 4.5]


@pytest.mark.parametrize(
    ("reweight", "at_minus_log2", "at_log2"),
    [
        ("constant", 1, 1),
        ("snr", 0.5, 2),
        ("truncated_snr", 1, 2),
        ("alpha2", 1.5, 3),
        ("flow", 1.5 + 2**0.5, 3 + 8**0.5),
    ],
)
def test_weight_by_hand(reweight, at_minus_log2, at_log2):
    logsnr = torch.tensor([0.5, 2.0], dtype=torch.float64).log()
    expected = torch.tensor([at_minus_log2, at_log2], dtype=torch.float64)
    torch.testing.assert_close(loss_weight(logsnr, reweight), expected)


def test_unknown_weighting_is_refused():
    pred = Prediction(*torch.zeros(3, 1, 1))
    for call in (lambda name: mse_loss(pred, pred, name), lambda name: loss_weight(0.0, name)):
        with pytest.raises(
            ValueError,
            match="weighting 'snr_trunc', expected one of .*, p2, sigmoid, edm, flow, or",
        ):
            call("snr_trunc")


def test_shapes_that_differ_are_refused():
    a, b = Prediction(*torch.zeros(3, 2, 4)), Prediction(*torch.zeros(3, 2, 1))
    for reweight in GOLDEN_KEYS:
        with pytest.raises(ValueError, match=r"target to have the shape of prediction, \(2, 4\)"):
            mse_loss(a, b, reweight)


def test_noise_levels_of_each_sample_or_of_all():
    """min(SNR, 5) of an error of 1."""
    zero, level = torch.zeros(4, 1, 2, 2), torch.tensor([0.0, 3.0, 1.0, 9.0]).log()
    pred = Prediction(zero + 1, zero, zero), Prediction(zero, zero, zero)
    for shape in ((4,), (4, 1), (4, 1, 1, 1)):
        loss = mse_loss(*pred, "min_snr", level.reshape(shape), gamma=5.0)
        torch.testing.assert_close(loss, torch.tensor([0.0, 3.0, 1.0, 5.0]))
    for one in (math.log(3), torch.tensor(3.0).log(), torch.full((1, 1), 3.0).log()):
        torch.testing.assert_close(mse_loss(*pred, "min_snr", one), torch.full((4,), 3.0))
    with pytest.raises(ValueError, match=r"logsnr of a shape that broadcasts .* got \(3,\)"):
        mse_loss(*pred, "min_snr", level[:3])
    with pytest.raises(ValueError, match=r"logsnr of shape \(4,\), one for each sample, got \(4,"):
        mse_loss(*pred, "min_snr", level.reshape(4, 1, 1, 1).expand(4, 1, 2, 2))


def test_balanced_loss_is_least_where_the_uncertainty_is_the_log_of_the_loss():
    """exp(-u) L + u, whose minimum is 1 + log L."""
    loss, u = torch.tensor([0.1, 4.0]).double(), torch.linspace(-5, 5, 2001).double()
    values = torch.stack([balanced_loss(loss, torch.full_like(loss, x)) for x in u])
    least = values.min(0)
    torch.testing.assert_close(u[least.indices], loss.log(), rtol=0, atol=5e-3)
    torch.testing.assert_close(least.values, 1 + loss.log(), rtol=0, atol=1e-4)
    assert torch.equal(balanced_loss(loss, torch.zeros_like(loss)), loss)
    with pytest.raises(
        ValueError, match=r"uncertainty to have the shape of loss, \(2,\), got \(1,"
    ):
        balanced_loss(loss, torch.zeros(1).double())
