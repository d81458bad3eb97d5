"""Schedules against 50 digits, against golden numbers, and as monotone inverses of each other."""

import math
import pickle
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn import ops
from vfn.ops import logsnr_schedule

mpf, exp, log = mpmath.mpf, mpmath.exp, mpmath.log

NAMES = ("cosine", "linear", "sigmoid", "flow")
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


def exact_flow(t, low, high):
    first, last = 1 / (1 + exp(high / 2)), 1 / (1 + exp(low / 2))
    time = first + (last - first) * t
    return 2 * log((1 - time) / time)


def exact_legacy(t, first="0.0001", last="0.02", steps=1000):
    k = mpf(first) - mpf(last)
    start = 1 - mpf(first)
    end = start + k * t
    log_alpha2 = steps / k * ((end * log(end) - end) - (start * log(start) - start))
    return log_alpha2 - log(1 - exp(log_alpha2))


EXACT = {
    "cosine": exact_cosine, "linear": exact_linear, "sigmoid": exact_sigmoid, "flow": exact_flow
}  # fmt: skip


def times():
    """The interval, and both of its ends closely."""
    ends = torch.logspace(-12, -2, 21, dtype=torch.float64)
    return torch.cat([ends, torch.linspace(0.01, 0.99, 99, dtype=torch.float64), 1 - ends])


# The size down to which an error is counted in relative terms: below 1 an absolute error in log SNR
# is what counts, and the sigmoid schedule is a difference of two terms as large as its limits.
FLOORS = {"cosine": 1.0, "linear": 1.0, "sigmoid": 16.0, "flow": 1.0}


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 4), (torch.float32, 1)])
def test_logsnr_matches_50_digits(name, low, high, dtype, bound, max_ulp):
    t = times().to(dtype)
    exact = [EXACT[name](mpf(value), mpf(low), mpf(high)) for value in t.tolist()]
    assert max_ulp(logsnr_schedule(name, low, high).logsnr(t), exact, FLOORS[name]) <= bound


@pytest.mark.parametrize(
    ("low", "high"), [(-90.0, -80.0), (-31.0, -30.0), (-3.0, -1.0), (1.0, 3.0), (80.0, 90.0)]
)
def test_cosine_between_limits_of_one_sign_matches_50_digits(low, high, max_ulp):
    """Neither angles that are all next to a right one, nor what is left of them, lose digits."""
    t, schedule = times(), logsnr_schedule("cosine", low, high)
    exact = [exact_cosine(mpf(value), mpf(low), mpf(high)) for value in t.tolist()]
    assert max_ulp(schedule.logsnr(t), exact, floor=1.0) <= 4
    # As far as a logsnr of 90, rounded, tells a time.
    got = schedule.time(torch.tensor([float(value) for value in exact], dtype=torch.float64))
    torch.testing.assert_close(got, t, rtol=0, atol=5e-14)


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


# One step of betas, the steepest, and those of others' networks; the last is flat.
@pytest.mark.parametrize(
    ("first", "last", "steps"),
    [(1e-4, 0.02, 1000), (8.5e-4, 0.012, 1000), (1e-6, 0.1, 6000), (0.01, 0.01 + 1e-12, 300)],
)
def test_legacy_betas_match_50_digits(first, last, steps, max_ulp):
    """As without settings, 4.1 units at most: see above."""
    chosen = {"beta_start": first, "beta_end": last, "timesteps": steps}
    t, schedule = times(), logsnr_schedule("legacy", **chosen)
    exact = [exact_legacy(mpf(value), first, last, steps) for value in t.tolist()]
    assert max_ulp(schedule.logsnr(t), exact, floor=1.0) <= 5
    inner = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.logsnr(inner)), inner, rtol=0, atol=1e-14)
    assert schedule.time(torch.tensor([-700.0, 700.0])).tolist() == [1, pytest.approx(0, abs=1e-99)]
    if (first, last, steps) == (1e-4, 0.02, 1000):
        assert torch.equal(schedule.logsnr(t), ops.legacy_logsnr(t))


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
    with pytest.raises(
        ValueError,
        match="unknown schedule 'cosin', expected one of cosine, linear, sigmoid, flow, legacy, or",
    ):
        logsnr_schedule("cosin")
    with pytest.raises(ValueError, match="expected logsnr_min < logsnr_max"):
        logsnr_schedule("linear", 5.0, -5.0)
    with pytest.raises(ValueError, match=r"no logsnr_min or logsnr_max for the legacy schedule"):
        logsnr_schedule("legacy", logsnr_max=10.0)


def test_shift_adds_twice_the_log_of_the_ratio():
    shifted = ops.shift_schedule(COSINE, 256)
    torch.testing.assert_close(shifted.logsnr(T), COSINE.logsnr(T) + 2 * math.log(64 / 256))
    torch.testing.assert_close(shifted.time(shifted.logsnr(T)), T)


def test_interpolated_schedule_is_the_paper_s():
    """Hoogeboom et al. 2023, eq. 5: 32 -> 256 of pictures of 512 pixels, in 50 digits."""
    mixed = ops.interpolate_schedule(COSINE, noise_d_low=32, noise_d_high=256, image_d=512)

    def shift(side):
        return 2 * mpmath.log(mpmath.mpf(side) / 512)

    for t, rounded in ((0.0, 18.61), (0.5, -3.47), (1.0, -25.55)):
        b = mpmath.atan(mpmath.exp(-10))
        a = mpmath.atan(mpmath.exp(10)) - b
        base = -2 * mpmath.log(mpmath.tan(a * t + b))
        exact = t * (base + shift(32)) + (1 - t) * (base + shift(256))
        assert mixed.logsnr(t).item() == pytest.approx(float(exact), rel=1e-12)
        assert mixed.logsnr(t).item() == pytest.approx(rounded, abs=5e-3)


def test_interpolated_schedule_and_its_inverse():
    mixed = ops.interpolate_schedule(COSINE, 32, 512, 1024)
    assert (mixed.logsnr(T).diff() < 0).all()
    torch.testing.assert_close(mixed.time(mixed.logsnr(T)), T, atol=1e-9, rtol=0)
    same = ops.interpolate_schedule(COSINE, 64, 64, 256)
    torch.testing.assert_close(same.logsnr(T), ops.shift_schedule(COSINE, 256).logsnr(T))
    with pytest.raises(ValueError, match="resolution and base > 0, got 0 and 64"):
        ops.shift_schedule(COSINE, 0)


@pytest.mark.parametrize("sides", [(32, 1024, 512), (256, 32, 512), (512, 32, 256), (0, 32, 64)])
def test_sides_that_no_picture_has_are_refused(sides):
    with pytest.raises(ValueError, match="expected noise_d_low"):
        ops.interpolate_schedule(COSINE, *sides)


@pytest.mark.parametrize("sizes", [(32, 512, 512), (64, 64, 128), (16, 64, 64)])
def test_interpolated_schedule_has_the_derivative_of_both_directions(sizes):
    mixed = ops.interpolate_schedule(COSINE, *sizes)
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mixed.logsnr(t).sum(), t)
    for time, got in zip(t.tolist(), slope.tolist(), strict=True):
        b = mpmath.atan(mpmath.exp(-10))
        a = mpmath.atan(mpmath.exp(10)) - b
        tilt = 2 * mpmath.log(mpmath.mpf(sizes[0]) / sizes[1])
        assert got == pytest.approx(
            float(-4 * a / mpmath.sin(2 * (a * time + b)) + tilt), rel=1e-12
        )
    logsnr = mixed.logsnr(t).detach().requires_grad_()
    (inverse,) = torch.autograd.grad(mixed.time(logsnr).sum(), logsnr)
    # The secant is 2e-6 long and the schedule's relative third derivative near t = 0.01 is 2e4.
    torch.testing.assert_close(inverse, 1 / slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["cosine", "linear", "flow"])
def test_zero_terminal_snr_gives_no_nan(name):
    schedule = ops.logsnr_schedule(name, -math.inf, math.inf)
    logsnr = schedule.logsnr(T)
    assert logsnr[0] == math.inf
    assert logsnr[-1] == -math.inf
    assert not logsnr.isnan().any()
    z = out = torch.ones(1, 2)
    end, middle = torch.tensor([-math.inf]), torch.zeros(1)
    for out_type in ("v", "u", "x0"):
        assert all(part.isfinite().all() for part in ops.predict(z, out, end, out_type))
    assert ops.ddim_step(z, out, end, middle).isfinite().all()
    assert ops.ddim_inverse_step(z, out, middle, end).isfinite().all()
    assert ops.ancestral_step(z, out, end, middle, z).isfinite().all()
    with pytest.raises(ValueError, match="expected out_type x0, v, u or both"):
        ops.check_zero_snr(schedule.logsnr(1.0).item(), "eps")
    with pytest.raises(ValueError, match="expected finite limits"):
        ops.logsnr_schedule("sigmoid", -math.inf, 20.0).logsnr(0.5)


def test_zero_snr_is_refused_for_eps_alone():
    for out_type in ("x0", "v", "u", "both"):
        ops.check_zero_snr(-math.inf, out_type)
    ops.check_zero_snr(-20.0, "eps")
    with pytest.raises(ValueError, match="out_type to be one of x0, eps, v, u, both"):
        ops.check_zero_snr(-math.inf, "x_0")


@pytest.mark.parametrize(
    "moved",
    [
        lambda s: ops.shift_schedule(s, 256),
        lambda s: ops.interpolate_schedule(s, 32, 256, 512),
    ],
)
def test_moved_schedules_round_once(moved):
    schedule = moved(ops.logsnr_schedule("cosine"))
    t = torch.linspace(0, 1, 999)
    assert torch.equal(schedule.logsnr(t), schedule.logsnr(t.double()).float())


@pytest.mark.parametrize("name", ["sigmoid", "flow"])
@pytest.mark.parametrize(("low", "high"), [(-7.0, 13.37), (-3.3, 17.0), (0.1, 0.3), (-700, 700)])
def test_ends_are_reached_exactly(name, low, high):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert logsnr_schedule(name, low, high).logsnr(ends).tolist() == [high, low]


def test_flow_without_limits_is_the_straight_path_s_own_time():
    """x_t = (1-t) x0 + t eps has the SNR ((1-t) / t)^2."""
    schedule = logsnr_schedule("flow", -math.inf, math.inf)
    t = times()
    # Rounding t at 1 - 1e-12 leaves four digits of 1 - t.
    torch.testing.assert_close(schedule.logsnr(t), 2 * torch.log((1 - t) / t), rtol=1e-14, atol=0)
    torch.testing.assert_close(schedule.time(schedule.logsnr(t)), t, rtol=0, atol=1e-15)
    assert schedule.time(torch.tensor([math.inf, -math.inf])).tolist() == [0, 1]


@pytest.mark.parametrize("k", [0.5, 3.0, 3.16])
def test_shift_of_flow_matching_is_the_shift(k):
    """Esser et al. 2024 (2403.03206), eq. 23: t goes to k t / (1 + (k-1) t)."""
    flow = logsnr_schedule("flow", -math.inf, math.inf)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    shifted = ops.shift_schedule(flow, k, base=1)
    moved = k * t / (1 + (k - 1) * t)
    torch.testing.assert_close(shifted.logsnr(t), flow.logsnr(moved), rtol=0, atol=1e-13)
    torch.testing.assert_close(shifted.logsnr(t), flow.logsnr(t) - 2 * math.log(k))
    torch.testing.assert_close(shifted.time(flow.logsnr(moved)), t, rtol=0, atol=1e-14)


ALL_SCHEDULES = {
    "cosine": COSINE,
    "linear": ops.logsnr_schedule("linear"),
    "sigmoid": ops.logsnr_schedule("sigmoid"),
    "flow": ops.logsnr_schedule("flow"),
    "legacy": ops.logsnr_schedule("legacy"),
    "endless cosine": ops.logsnr_schedule("cosine", -math.inf, math.inf),
    "endless linear": ops.logsnr_schedule("linear", -math.inf, math.inf),
    "endless flow": ops.logsnr_schedule("flow", -math.inf, math.inf),
    "legacy of other betas": ops.logsnr_schedule("legacy", beta_end=0.01, timesteps=400),
    "shifted": ops.shift_schedule(COSINE, 256),
    "interpolated": ops.interpolate_schedule(COSINE, 32, 256, 512),
    "interpolated legacy": ops.interpolate_schedule(ops.logsnr_schedule("legacy"), 8, 32, 64),
}
every_schedule = pytest.mark.parametrize("schedule", ALL_SCHEDULES.values(), ids=ALL_SCHEDULES)


@every_schedule
def test_times_and_levels_beyond_the_ends_are_the_ends(schedule):
    outside = torch.tensor([-math.inf, -3.0, -1e-9, 1 + 1e-9, 3.0, math.inf]).double()
    ends = schedule.logsnr(torch.tensor([0.0, 1.0]).double()).tolist()
    assert schedule.logsnr(outside).tolist() == 3 * ends[:1] + 3 * ends[1:]
    levels = torch.tensor([math.inf, 900.0, 750.0, -750.0, -900.0, -math.inf]).double()
    # Bisection and a secant step end 1e-12 from the end.
    torch.testing.assert_close(
        schedule.time(levels), torch.tensor([0.0] * 3 + [1.0] * 3).double(), rtol=0, atol=1e-11
    )


@every_schedule
def test_schedules_are_pickled(schedule):
    copy = pickle.loads(pickle.dumps(schedule))
    assert torch.equal(copy.logsnr(T), schedule.logsnr(T))
    levels = torch.linspace(-9, 9, 5).double()
    assert torch.equal(copy.time(levels), schedule.time(levels))


@pytest.mark.parametrize("limits", [(-701.0, 20.0), (-20.0, 1e6)])
def test_limits_that_overflow_are_refused(limits):
    with pytest.raises(ValueError, match="expected limits within ±700, or infinite, got"):
        ops.logsnr_schedule("cosine", *limits)


def test_numbers_lists_and_arrays_are_times():
    exact = COSINE.logsnr(torch.tensor([0.0, 0.25]).double())
    for times in ([0.0, 0.25], (0, 0.25), np.array([0.0, 0.25], np.float32)):
        assert torch.equal(COSINE.logsnr(times), exact)
    with pytest.raises(TypeError, match="expected t to be a number, a tensor or an array of numb"):
        COSINE.logsnr("half")
