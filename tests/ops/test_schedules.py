"""Schedules against 50 digits, against golden numbers, and as monotone inverses of each other."""

import math
from functools import partial

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn import ops
from vfn.ops import logsnr_schedule

mpf, exp, log = mpmath.mpf, mpmath.exp, mpmath.log

NAMES = ("cosine", "linear", "sigmoid")
LIMITS = ((-20.0, 20.0), (-10.0, 12.0), (-5.0, 30.0))
COSINE = ops.logsnr_schedule("cosine")
T = torch.linspace(0, 1, 21, dtype=torch.float64)
RANGES = [(name, *limits) for name in NAMES for limits in LIMITS]


def exact_cosine(t, low, high):
    b = mpmath.atan(exp(-high / 2))
    return -2 * log(mpmath.tan((mpmath.atan(exp(-low / 2)) - b) * t + b))


def exact_linear(t, low, high):
    alpha2 = (1 - t) / (1 + exp(-high)) + t / (1 + exp(-low))
    return log(alpha2 / (1 - alpha2))


def exact_sigmoid(t, low, high):
    return high - t * (high - low)


def exact_legacy(t):
    k = mpf("0.98") - mpf("0.9999")
    start, end = mpf("0.9999"), mpf("0.9999") + k * t
    log_alpha2 = 1000 / k * ((end * log(end) - end) - (start * log(start) - start))
    return log_alpha2 - log(1 - exp(log_alpha2))


EXACT = {"cosine": exact_cosine, "linear": exact_linear, "sigmoid": exact_sigmoid}


def times():
    """The interval, and both of its ends closely."""
    ends = torch.logspace(-12, -2, 21, dtype=torch.float64)
    return torch.cat([ends, torch.linspace(0.01, 0.99, 99, dtype=torch.float64), 1 - ends])


# The size down to which an error is counted in relative terms: below 1 an absolute error in log SNR
# is what counts, and the sigmoid schedule is a difference of two terms as large as its limits.
FLOORS = {"cosine": 1.0, "linear": 1.0, "sigmoid": 16.0}


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 4), (torch.float32, 1)])
def test_logsnr_matches_50_digits(name, low, high, dtype, bound, max_ulp):
    t = times().to(dtype)
    exact = [EXACT[name](mpf(value), mpf(low), mpf(high)) for value in t.tolist()]
    assert max_ulp(logsnr_schedule(name, low, high).logsnr(t), exact, FLOORS[name]) <= bound


# Two logarithms and an expm1, each of a rounded argument: 4.1 units as measured.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 5), (torch.float32, 1)])
def test_legacy_logsnr_matches_50_digits(dtype, bound, max_ulp):
    t = times().to(dtype)
    exact = [exact_legacy(mpf(value)) for value in t.tolist()]
    assert max_ulp(ops.legacy_logsnr(t), exact, floor=1.0) <= bound


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
def test_time_matches_50_digits(name, low, high, max_ulp):
    """The inverse recovers t from the 50-digit logsnr, to the digits that its rounding leaves."""
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    exact = [mpf(value) for value in t.tolist()]
    logsnr = [float(EXACT[name](value, mpf(low), mpf(high))) for value in exact]
    got = logsnr_schedule(name, low, high).time(torch.tensor(logsnr, dtype=torch.float64))
    assert max_ulp(got, exact, floor=1.0) <= 4


# The original loses digits of its own: in linear ±20 by a logit next to 1, in legacy by an offset
# of 1e-9 against log alpha^2 = -0.002.
@pytest.mark.parametrize(
    ("key", "limits", "relative"),
    [
        ("cosine/-20_20", (-20.0, 20.0), 1e-12),
        ("cosine/-10_12", (-10.0, 12.0), 1e-12),
        ("sigmoid/-20_20", (-20.0, 20.0), 1e-12),
        ("sigmoid/-10_12", (-10.0, 12.0), 1e-12),
        ("linear/-10_12", (-10.0, 12.0), 1e-12),
        ("linear/-20_20", (-20.0, 20.0), 5e-9),
        ("legacy/-20_20", (), 1e-7),
    ],
)
def test_logsnr_matches_golden(key, limits, relative, golden_math):
    name = key.partition("/")[0]
    golden = golden_math[f"schedule/{key}"]
    t = golden_math["t"][-len(golden) :]
    got = logsnr_schedule(name, *limits).logsnr(t)
    assert ((got - golden).abs() / golden.abs().clamp(min=1)).max() <= relative


@pytest.mark.parametrize("name", NAMES)
def test_ends_are_the_limits(name):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    got = logsnr_schedule(name, -10.0, 12.0).logsnr(t)
    torch.testing.assert_close(got, torch.tensor([12.0, -10.0], dtype=torch.float64))


def test_default_limits_are_20():
    for name in NAMES:
        default, given_20 = logsnr_schedule(name), logsnr_schedule(name, -20.0, 20.0)
        assert default.logsnr(0.3) == given_20.logsnr(0.3)
        assert default.time(3.0) == given_20.time(3.0)


def test_legacy_starts_without_noise():
    assert ops.legacy_logsnr(0.0) == float("inf")
    assert ops.legacy_time(float("inf")) == 0


@given(
    t=st.floats(1e-3, 1 - 1e-3),
    name=st.sampled_from((*NAMES, "legacy")),
    limits=st.tuples(st.floats(-15, -2), st.floats(2, 15)),
)
def test_time_inverts_logsnr(t, name, limits):
    """|d logsnr / dt| >= 1e-2 here, so that 1e-15 of logsnr is at most 1e-12 of t."""
    schedule = logsnr_schedule(name, *(() if name == "legacy" else limits))
    assert abs(schedule.time(schedule.logsnr(t)).item() - t) <= 1e-12


@given(
    pair=st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True),
    name=st.sampled_from((*NAMES, "legacy")),
)
def test_logsnr_falls_in_time(pair, name):
    """Strictly, for times further apart than rounding; never rising for any."""
    s, t = sorted(pair)
    schedule = logsnr_schedule(name)
    noisier, cleaner = schedule.logsnr(t), schedule.logsnr(s)
    assert noisier < cleaner if t - s > 1e-9 else noisier <= cleaner + 1e-13


@pytest.mark.parametrize("name", [*NAMES, "legacy"])
def test_derivative_is_that_of_50_digits(name):
    """Autograd keeps its digits close to the ends, where naive forms return nan or 0."""
    exact = exact_legacy if name == "legacy" else partial(EXACT[name], low=mpf(-20), high=mpf(20))
    t = torch.tensor([1e-6, 0.3, 0.9, 1 - 1e-6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(logsnr_schedule(name).logsnr(t).sum(), t)
    expected = [float(mpmath.diff(exact, mpf(value))) for value in t.tolist()]
    torch.testing.assert_close(slope, torch.tensor(expected).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", ["logsnr", "time"])
def test_limits_in_the_wrong_order_are_refused(name, direction):
    with pytest.raises(ValueError, match="expected logsnr_min < logsnr_max, got logsnr_min=3"):
        getattr(ops, f"{name}_{direction}")(0.5, 3.0, 3.0)


@pytest.mark.parametrize("name", [*NAMES, "legacy"])
@pytest.mark.parametrize("direction", ["logsnr", "time"])
def test_integer_tensors_are_refused(name, direction):
    argument = "t" if direction == "logsnr" else "logsnr"
    with pytest.raises(TypeError, match=f"expected {argument} to be floating-point, got torch.int"):
        getattr(ops, f"{name}_{direction}")(torch.tensor([1]))


def test_schedule_by_name_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="schedule to be one of cosine, linear, sigmoid, legacy"):
        logsnr_schedule("cosin")
    with pytest.raises(ValueError, match="expected logsnr_min < logsnr_max"):
        logsnr_schedule("linear", 5.0, -5.0)
    with pytest.raises(ValueError, match=r"no logsnr_min or logsnr_max for the legacy schedule"):
        logsnr_schedule("legacy", logsnr_max=10.0)


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
