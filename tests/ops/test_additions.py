"""Shifted and interpolated schedules, other grids, infinite limits, weightings, averages."""

import math

import mpmath
import pytest
import torch

from vfn import ops

COSINE = ops.logsnr_schedule("cosine")
T = torch.linspace(0, 1, 21, dtype=torch.float64)


def test_shift_adds_twice_the_log_of_the_ratio():
    shifted = ops.shift_schedule(COSINE, 256)
    torch.testing.assert_close(shifted.logsnr(T), COSINE.logsnr(T) + 2 * math.log(64 / 256))
    torch.testing.assert_close(shifted.time(shifted.logsnr(T)), T)


def test_interpolated_schedule_and_its_inverse():
    mixed = ops.interpolate_schedule(COSINE, 32, 512)
    assert mixed.logsnr(1.0).item() == pytest.approx(-20 + 2 * math.log(2))
    assert mixed.logsnr(0.0).item() == pytest.approx(20 - 6 * math.log(2))
    assert (mixed.logsnr(T).diff() < 0).all()
    torch.testing.assert_close(mixed.time(mixed.logsnr(T)), T, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="resolution and base > 0, got 0"):
        ops.shift_schedule(COSINE, 0)


def test_karras_grid_is_edm_s():
    sigma = torch.exp(-0.5 * ops.karras_grid(10))
    assert ops.karras_grid(1).exp().tolist() == pytest.approx([80**-2, math.inf])
    expected = [
        (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(10)
    ]
    assert sigma.tolist() == pytest.approx([*expected, 0])
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        ops.karras_grid(5, 2.0, 1.0)


@pytest.mark.parametrize("sizes", [(32, 512), (64, 64), (128, 32)])
def test_interpolated_schedule_has_the_derivative_of_both_directions(sizes):
    mixed = ops.interpolate_schedule(COSINE, *sizes)
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mixed.logsnr(t).sum(), t)
    for time, got in zip(t.tolist(), slope.tolist(), strict=True):
        b = mpmath.atan(mpmath.exp(-10))
        a = mpmath.atan(mpmath.exp(10)) - b
        tilt = 2 * mpmath.log(mpmath.mpf(sizes[1]) / sizes[0])
        assert got == pytest.approx(
            float(-4 * a / mpmath.sin(2 * (a * time + b)) + tilt), rel=1e-12
        )
    logsnr = mixed.logsnr(t).detach().requires_grad_()
    (inverse,) = torch.autograd.grad(mixed.time(logsnr).sum(), logsnr)
    # The secant is 2e-6 long and the schedule's relative third derivative near t = 0.01 is 2e4.
    torch.testing.assert_close(inverse, 1 / slope, rtol=1e-6, atol=0)


def test_uniform_grid_has_equal_steps():
    grid = ops.uniform_logsnr_grid(-9.0, 12.0, 7)
    assert grid.tolist() == pytest.approx([-9, -6, -3, 0, 3, 6, 9, 12])


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_zero_terminal_snr_gives_no_nan(name):
    schedule = ops.logsnr_schedule(name, -math.inf, math.inf)
    logsnr = schedule.logsnr(T)
    assert logsnr[0] == math.inf
    assert logsnr[-1] == -math.inf
    assert not logsnr.isnan().any()
    z = out = torch.ones(1, 2)
    end, middle = torch.tensor([-math.inf]), torch.zeros(1)
    for out_type in ("v", "x0"):
        assert all(part.isfinite().all() for part in ops.predict(z, out, end, out_type))
    assert ops.ddim_step(z, out, end, middle).isfinite().all()
    assert ops.ddim_inverse_step(z, out, middle, end).isfinite().all()
    assert ops.ancestral_step(z, out, end, middle, z).isfinite().all()
    with pytest.raises(ValueError, match="expected out_type x0, v or both"):
        ops.check_zero_snr(schedule.logsnr(1.0).item(), "eps")
    with pytest.raises(ValueError, match="expected finite limits"):
        ops.logsnr_schedule("sigmoid", -math.inf, 20.0).logsnr(0.5)


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


def test_power_average_of_another_length_from_stored_ones():
    """Track two averages of a moving parameter; a third is reconstructed from snapshots."""
    gammas, wanted = [16.97, 6.94], ops.sigma_rel_to_gamma(0.08)
    averages = {gamma: torch.zeros(1, dtype=torch.float64) for gamma in (*gammas, wanted)}
    stored, steps, exponents = [], [], []
    for n in range(1, 2001):
        value = torch.tensor([math.sin(n / 300)], dtype=torch.float64)
        for gamma in averages:
            averages[gamma] = torch.lerp(averages[gamma], value, 1 - ops.power_ema_decay(n, gamma))
        if n % 100 == 0:
            for gamma in gammas:
                stored.append({"w": averages[gamma]})
                steps.append(n)
                exponents.append(gamma)
    weights = ops.posthoc_ema_weights(steps, exponents, 2000, wanted)
    assert weights.sum().item() == pytest.approx(1, abs=1e-2)
    got = ops.combine(stored, weights)["w"].item()
    assert got == pytest.approx(averages[wanted].item(), abs=2e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.power_ema_decay(0, 1.0), "num_updates >= 1"),
        (lambda: ops.sigma_rel_to_gamma(0.5), "sigma_rel in"),
        (lambda: ops.posthoc_ema_weights([1], [], 1, 1.0), "as many steps as gammas"),
        (lambda: ops.combine([], torch.ones(1)), "one weight for each average"),
        (lambda: ops.ema_decay(-1, 0.9), "num_updates >= 0, got -1"),
        (lambda: ops.uniform_logsnr_grid(1.0, 0.0, 3), "logsnr_min < logsnr_max"),
        (lambda: ops.uniform_logsnr_grid(-math.inf, 0.0, 3), "expected finite limits"),
        (lambda: ops.uniform_logsnr_grid(0.0, 1.0, 0), "at least 1 sampling step"),
    ],
)
def test_numbers_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("reweight", ["min_snr", "p2"])
def test_gamma_must_be_positive(reweight):
    with pytest.raises(ValueError, match="expected gamma > 0, got 0"):
        ops.loss_weight(0.0, reweight, gamma=0.0)


def test_zero_snr_is_refused_for_eps_alone():
    for out_type in ("x0", "v", "both"):
        ops.check_zero_snr(-math.inf, out_type)
    ops.check_zero_snr(-20.0, "eps")
    with pytest.raises(ValueError, match="out_type to be one of x0, eps, v, both"):
        ops.check_zero_snr(-math.inf, "x_0")


def test_interpolated_schedule_that_would_rise_is_refused():
    with pytest.raises(ValueError, match="falls from data to noise.*data_resolution=4096"):
        ops.interpolate_schedule(ops.logsnr_schedule("cosine"), 32, 4096)


@pytest.mark.parametrize(
    "moved",
    [
        lambda s: ops.shift_schedule(s, 256),
        lambda s: ops.interpolate_schedule(s, 32, 256),
    ],
)
def test_moved_schedules_round_once(moved):
    schedule = moved(ops.logsnr_schedule("cosine"))
    t = torch.linspace(0, 1, 999)
    assert torch.equal(schedule.logsnr(t), schedule.logsnr(t.double()).float())


@pytest.mark.parametrize(("low", "high"), [(-7.0, 13.37), (-3.3, 17.0), (0.1, 0.3)])
def test_sigmoid_schedule_reaches_its_ends_exactly(low, high):
    ends = ops.sigmoid_logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64), low, high)
    assert ends.tolist() == [high, low]
