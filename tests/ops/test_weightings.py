"""The table of weightings: each against its formula in 50 digits, and what it refuses."""

import math

import mpmath
import pytest
import torch

from vfn import ops


@pytest.mark.parametrize("out_type", ["x0", "eps", "v", "u", "both"])
@pytest.mark.parametrize("reweight", ["min_snr", "p2", "sigmoid", "edm", "flow"])
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
        ("p2", {"gamma": 0.5, "k": 3.0}, lambda snr: snr / (3 + snr) ** 0.5),
        ("edm", {"sigma_data": 2.0}, lambda snr: snr + 0.25),
        ("flow", {}, lambda snr: (1 + mpmath.sqrt(snr)) ** 2),
        ("flow", {"t_min": 0.05}, lambda snr: min((1 + mpmath.sqrt(snr)) ** 2, 400)),
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


def test_words_and_their_order():
    words = "constant, snr, truncated_snr, alpha2, min_snr, p2, sigmoid, edm, flow"
    assert words == ops.WEIGHTINGS.words()
    assert ops.WEIGHTINGS.is_open


@pytest.mark.parametrize("name", ops.WEIGHTINGS)
def test_entry_takes_what_it_says(name):
    """Defaults count as if they were given; nothing else is taken."""
    entry, logsnr = ops.WEIGHTINGS[name], torch.linspace(-9, 9, 7)
    assert torch.equal(
        ops.loss_weight(logsnr, name), ops.loss_weight(logsnr, name, **entry.parameters)
    )
    assert set(entry.positive) <= set(entry.parameters)
    pred = ops.Prediction(*torch.zeros(3, 7, 1))
    for call in (
        lambda: ops.loss_weight(logsnr, name, gama=1.0),
        lambda: ops.mse_loss(pred, pred, name, logsnr, gama=1.0),
    ):
        with pytest.raises(ValueError, match=f"for weighting {name}, got gama$"):
            call()


@pytest.mark.parametrize("name", ops.WEIGHTINGS)
def test_weight_at_infinite_logsnr_is_its_limit(name):
    low, high = ops.loss_weight(torch.tensor([-math.inf, math.inf]), name).tolist()
    limits = {
        "constant": (1, 1), "snr": (0, math.inf), "truncated_snr": (1, math.inf),
        "alpha2": (1, math.inf), "min_snr": (0, 5), "p2": (0, None), "sigmoid": (0, 1),
        "edm": (4, math.inf), "flow": (1, math.inf),
    }  # fmt: skip
    assert low == limits[name][0]
    if name != "p2":  # SNR / (1 + SNR) as exp(inf - inf)
        assert high == limits[name][1]


def test_a_weighting_from_outside():
    name, logsnr = "tests.helpers.outside_math:power_of_snr", torch.tensor([0.0, 2.0])
    assert ops.loss_weight(logsnr, name).tolist() == pytest.approx([1.0, math.e])
    weight = ops.loss_weight(logsnr, name, power=1.0)
    assert weight.tolist() == pytest.approx([1.0, math.e**2])
    pred, target = (ops.Prediction(*torch.full((3, 2, 4), value)) for value in (1.0, 3.0))
    loss = ops.mse_loss(pred, target, name, logsnr)
    assert loss.tolist() == pytest.approx([4.0, 4 * math.e])
    with pytest.raises(ValueError, match=r"expected logsnr of shape \[B\] for reweight tests"):
        ops.mse_loss(pred, target, name)
    with pytest.raises(ValueError, match="expected only power for weighting .*, got pwer"):
        ops.loss_weight(logsnr, name, pwer=1.0)
    with pytest.raises(ValueError, match="there is no nothing in tests.helpers.outside_math"):
        ops.loss_weight(logsnr, "tests.helpers.outside_math:nothing")


@pytest.mark.parametrize("t_min", [0.0, 0.05])
def test_predicting_x0_and_weighing_as_u_is_the_error_of_u(t_min):
    """Li & He 2025 (2511.13720): |u error|^2 of the straight path, whose x_t - x0 is t u."""
    t = torch.tensor([0.01, 0.3, 0.99], dtype=torch.float64)
    x0, eps, out = torch.randn(3, 3, 2, 5, dtype=torch.float64)
    time = t.view(-1, 1, 1)
    x_t = (1 - time) * x0 + time * eps
    z = x_t / ((1 - time) ** 2 + time**2).sqrt()
    u = (x_t - out) / time.clamp(min=t_min)
    expected = (u - (x_t - x0) / time.clamp(min=t_min)).square().mean((1, 2))
    logsnr = 2 * torch.log((1 - t) / t)
    target = ops.Prediction(x0, eps, ops.v_from_x0_eps(x0, eps, logsnr))
    loss = ops.mse_loss(ops.predict(z, out, logsnr, "x0"), target, "flow", logsnr, t_min=t_min)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("reweight", "options", "message"),
    [
        ("flow", {"t_min": -0.1}, "expected t_min in 0..1, got -0.1"),
        ("flow", {"t_min": "x"}, "expected t_min to be a number, got 'x'"),
        ("p2", {"k": 0.0}, "expected k > 0, got 0.0"),
        ("sigmoid", {"bias": math.nan}, "expected bias finite, got nan"),
        ("sigmoid", {"bias": True}, "expected bias to be a number, got True"),
        ("edm", {"sigma_data": [1.0, 2.0]}, r"expected sigma_data to be a number, got \[1.0, 2.0"),
    ],
)
def test_parameters_out_of_range(reweight, options, message):
    with pytest.raises(ValueError, match=message):
        ops.loss_weight(0.0, reweight, **options)


def test_sigma_data_must_be_positive():
    pred = ops.Prediction(*torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match="expected sigma_data > 0, got 0"):
        ops.mse_loss(pred, pred, "edm", sigma_data=0.0)
