"""Schedules against 50 digits, against golden numbers, and as monotone inverses of each other."""

from functools import partial

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn import ops
from vfn.ops import logsnr_grid, logsnr_schedule

mpf, exp, log = mpmath.mpf, mpmath.exp, mpmath.log

NAMES = ("cosine", "linear", "sigmoid")
LIMITS = ((-20.0, 20.0), (-10.0, 12.0), (-5.0, 30.0))
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


def test_grid_runs_from_noise_to_data():
    schedule = logsnr_schedule("cosine")
    grid = logsnr_grid(schedule, 8)
    assert grid.shape == (9,)
    assert grid.dtype == torch.float64
    for i, logsnr in enumerate(grid):
        assert logsnr == schedule.logsnr(1 - i / 8)


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
    with pytest.raises(ValueError, match="at least 1 sampling step, got 0"):
        logsnr_grid(logsnr_schedule("cosine"), 0)


def test_discrete_time_is_uniform_over_its_values():
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    values, counts = ops.discrete_time(u, 8).unique(return_counts=True)
    assert values.tolist() == [i / 8 for i in range(1, 9)]
    assert counts.tolist() == [500] * 8


def test_discrete_time_refuses_no_steps():
    with pytest.raises(ValueError, match="expected timesteps >= 1, got 0"):
        ops.discrete_time(torch.tensor([0.5]), 0)
