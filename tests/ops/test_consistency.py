"""Few-step methods against the closed form of Gaussian data N(0, s^2), and against published text.

On a path of the flow ``z = c sqrt(D)``, ``D = cos^2 phi s^2 + sin^2 phi``, so that all of it is
known: where the path ends, ``s c``, and how far it moves between two angles.
"""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from vfn import ops

LEVELS = torch.linspace(-10, 10, 21, dtype=torch.float64)
FAR = float("inf")
scales = st.floats(0.2, 3.0)


def spread(logsnr, s):
    """D, the variance of z."""
    return torch.sigmoid(logsnr) * s**2 + torch.sigmoid(-logsnr)


def angle(logsnr):
    return torch.atan(torch.exp(-0.5 * logsnr))


def column(value):
    return value.reshape(-1, 1)


def flow_v(z, logsnr, s):
    """dz/dphi on a path: z D' / 2D."""
    phi = angle(logsnr)
    return z * column(phi.sin() * phi.cos() * (1 - s**2) / spread(logsnr, s))


def consistent_v(z, logsnr, s):
    """The v whose x0 is where the path ends."""
    phi = angle(logsnr)
    end = z * column(s / spread(logsnr, s).sqrt())
    return (column(phi.cos()) * z - end) / column(phi.sin())


def exact_mean(z, logsnr_t, logsnr_s, s):
    """Mean velocity of the path through z."""
    moved = z * (1 - column((spread(logsnr_s, s) / spread(logsnr_t, s)).sqrt()))
    return moved / column(angle(logsnr_t) - angle(logsnr_s))


def noisy():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(LEVELS), 3, dtype=torch.float64, generator=generator)


@given(scales)
@settings(max_examples=20, deadline=None)
def test_a_consistent_prediction_has_no_tangent(s):
    z = noisy()
    dz = flow_v(z, LEVELS, s)
    v, dv = ops.along_path(lambda z, level: consistent_v(z, level, s), z, LEVELS, dz)
    tangent = ops.consistency_tangent(z, v, dz, dv, LEVELS)
    torch.testing.assert_close(tangent, torch.zeros_like(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("logsnr", [-6.0, 0.0, 3.0])
def test_tangent_is_cos_phi_times_the_change_of_x0_along_the_path(logsnr):
    """Of the flow's own v, which is not consistent; the change is differentiated in 50 digits."""
    s, c = 0.5, 0.7

    def x0(phi):
        deviation = mpmath.sqrt((s * mpmath.cos(phi)) ** 2 + mpmath.sin(phi) ** 2)
        v = mpmath.diff(
            lambda p: c * mpmath.sqrt((s * mpmath.cos(p)) ** 2 + mpmath.sin(p) ** 2), phi
        )
        return mpmath.cos(phi) * c * deviation - mpmath.sin(phi) * v

    with mpmath.workdps(50):
        phi = mpmath.atan(mpmath.exp(-mpmath.mpf(logsnr) / 2))
        expected = mpmath.cos(phi) * mpmath.diff(x0, phi)
    level = torch.tensor([logsnr], dtype=torch.float64)
    z = c * column(spread(level, s).sqrt())
    dz = flow_v(z, level, s)
    v, dv = ops.along_path(lambda z, level: flow_v(z, level, s), z, level, dz)
    tangent = ops.consistency_tangent(z, v, dz, dv, level)
    assert abs(tangent.item() - float(expected)) < 1e-10
    assert abs(expected) > 0.005


def test_without_warm_up_the_tangent_leads_to_the_velocity_of_the_path():
    z, v, dz, dv = (noisy() * factor for factor in (1, 2, 3, 4))
    tangent = ops.consistency_tangent(z, v, dz, dv, LEVELS, warmup=0.0)
    torch.testing.assert_close(tangent, column(torch.sigmoid(LEVELS)) * (dz - v))
    half = ops.consistency_tangent(z, v, dz, dv, LEVELS, warmup=0.5)
    whole = ops.consistency_tangent(z, v, dz, dv, LEVELS)
    torch.testing.assert_close(half, 0.5 * (tangent + whole))


def test_loss_leads_where_the_tangent_points():
    v, tangent = noisy().requires_grad_(), noisy().flip(0)
    loss = ops.consistency_loss(v, v.detach(), tangent)
    (gradient,) = torch.autograd.grad(loss.sum(), v)
    torch.testing.assert_close(gradient, -2 * tangent / 3)
    weighted = ops.consistency_loss(v, v.detach(), tangent, torch.full((len(v),), 0.3).double())
    torch.testing.assert_close(weighted, math.exp(0.3) * loss - 0.3)


def test_normalised_tangent_is_each_sample_s_own():
    tangent = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e9, 4e9]], dtype=torch.float64)
    got = ops.normalised_tangent(tangent, 0.1)
    expected = tangent / torch.tensor([[math.sqrt(12.5) + 0.1], [1.0], [1e9 * math.sqrt(12.5)]])
    torch.testing.assert_close(got, expected.double())
    assert ops.rms(got)[2].item() == pytest.approx(1)


@given(scales)
@settings(max_examples=20, deadline=None)
def test_the_exact_mean_velocity_is_a_fixed_point(s):
    z, end = noisy(), LEVELS + torch.linspace(0.1, 5, len(LEVELS), dtype=torch.float64)
    dz = flow_v(z, LEVELS, s)
    u, du = ops.along_path(lambda z, level: exact_mean(z, level, end, s), z, LEVELS, dz)
    target = ops.mean_velocity_target(dz, du, LEVELS, end)
    torch.testing.assert_close(target, u, rtol=1e-10, atol=1e-10)
    arrived = z * column((spread(end, s) / spread(LEVELS, s)).sqrt())
    step = ops.mean_velocity_step(z, u, LEVELS, end)
    torch.testing.assert_close(step, arrived, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ops.mean_velocity(z, arrived, LEVELS, end), u, rtol=0, atol=1e-11)
    x0 = ops.x0_from_mean_velocity(z, u, LEVELS, end)
    by_ddim = ops.ddim_step(z, x0, LEVELS, end)
    torch.testing.assert_close(by_ddim, arrived, rtol=1e-12, atol=1e-12)


def test_a_mean_velocity_over_nothing_is_the_velocity():
    z, v = noisy(), noisy().flip(0)
    x0 = ops.x0_from_mean_velocity(z, v, LEVELS, LEVELS)
    torch.testing.assert_close(x0, ops.x0_from_v(z, v, LEVELS), rtol=1e-14, atol=1e-14)
    assert torch.equal(ops.mean_velocity_target(v, z, LEVELS, LEVELS), v)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_sampling_by_the_exact_mean_velocity_is_exact(steps):
    s, z = 0.6, noisy()
    grid = ops.logsnr_grid(ops.logsnr_schedule("cosine", -FAR, FAR), steps)

    def between(z, logsnr_t, logsnr_s):
        u = exact_mean(z, logsnr_t, logsnr_s, s)
        return ops.x0_from_mean_velocity(z, u, logsnr_t, logsnr_s)

    drawn = ops.sampler("mean_flow")(ops.Spanning(between), z, grid)
    torch.testing.assert_close(drawn.x0, s * z, rtol=1e-12, atol=1e-12)
    assert drawn.nfe == steps


def test_other_denoisers_take_steps_of_ddim():
    grid, z = ops.logsnr_grid(ops.logsnr_schedule("cosine"), 5), noisy()

    def denoise(z, logsnr):
        return torch.tanh(z + column(logsnr))

    by_ddim = ops.sampler("ddim")(denoise, z, grid)
    got = ops.sampler("mean_flow")(denoise, z, grid)
    assert torch.equal(got.x0, by_ddim.x0)
    assert got.nfe == by_ddim.nfe


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_consistency_sampling_with_the_exact_function_makes_the_data(steps):
    """Their deviation, of 20,000 draws: 3 standard errors are 3 s / sqrt(40,000)."""
    s, count = 0.6, 20_000
    generator = torch.Generator().manual_seed(1)

    def noise(_step):
        return torch.randn(count, 1, dtype=torch.float64, generator=generator)

    def denoise(z, logsnr):
        return z * column(s / spread(logsnr, s).sqrt())

    grid = ops.logsnr_grid(ops.logsnr_schedule("cosine"), steps)
    drawn = ops.sampler("consistency")(denoise, noise(0), grid, noise=noise)
    assert abs(drawn.x0.std().item() - s) < 3 * s / math.sqrt(2 * count)
    assert drawn.nfe == steps


def test_pairs_of_the_exact_function_agree():
    """z at s is one DDIM step away where the x0 in it is that of the path."""
    s, z = 0.4, noisy()
    end = ops.ect_level(LEVELS, 3)
    arrived = z * column((spread(end, s) / spread(LEVELS, s)).sqrt())
    x0 = [z * column(s / spread(level, s).sqrt())
          for z, level in ((z, LEVELS), (arrived, end))]  # fmt: skip
    torch.testing.assert_close(*x0, rtol=1e-12, atol=1e-12)
    assert ops.pseudo_huber(*x0).abs().max() < 1e-10


@pytest.mark.parametrize("out_type", ["x0", "eps", "v", "u", "both"])
def test_pairs_with_the_data_are_a_distance_to_it(out_type):
    """At stage 0, whatever is predicted: ``sqrt(|x0 - truth|^2 + c^2) - c`` over sigma/alpha."""
    z, truth = noisy().unsqueeze(-1), noisy().flip(0).unsqueeze(-1)
    out = torch.cat([z.tanh(), z.cos()], 1) if out_type == "both" else z.tanh()

    def network(z, logsnr):
        return ops.predict(z, out, logsnr, out_type).v

    paths = ops.Paths(z, ops.v_from_x0(z, truth, LEVELS), LEVELS.reshape(-1, 1, 1))
    loss = ops.learn_pairs(network, network, paths, first_stage=0, c=0.5).loss
    x0 = ops.predict(z, out, LEVELS, out_type).x0
    square = (x0 - truth).flatten(1).square().sum(1)
    expected = ((square + 0.25).sqrt() - 0.5) * torch.exp(LEVELS / 2)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("stage", [0, 1, 2.5, 8])
def test_levels_of_ect_are_the_published_ones(stage):
    sigma = torch.exp(-0.5 * LEVELS)
    ratio = 1 - (1 + 8 / (1 + torch.exp(sigma))) / 2**stage
    expected = -2 * torch.log(sigma * ratio.clamp(min=0))
    torch.testing.assert_close(ops.ect_level(LEVELS, stage), expected, rtol=1e-12, atol=1e-12)
    assert ops.ect_level(LEVELS, 0).isposinf().all()


def test_ect_stages_may_be_each_sample_s_own():
    stages = torch.linspace(1, 9, len(LEVELS))
    got = ops.ect_level(LEVELS, stages)
    each = [ops.ect_level(LEVELS[i], stages[i].item()).item() for i in range(len(LEVELS))]
    assert got.tolist() == pytest.approx(each)


def test_intervals_double_and_share_the_updates():
    counts = [ops.ict_intervals(k, 100_000) for k in range(0, 100_000, 500)]
    assert sorted(set(counts)) == [10, 20, 40, 80, 160, 320, 640, 1280]
    assert max(counts.count(n) for n in counts) - min(counts.count(n) for n in counts) <= 1
    assert ops.ict_intervals(5, 10, first=4, last=4) == 4
    # 900 / (log2(3) + 1) = 348.1, and 10 times 4 is more than 30.
    uneven = {k: ops.ict_intervals(k, 900, 10, 30) for k in (0, 347, 348, 695, 696, 899)}
    assert uneven == {0: 10, 347: 10, 348: 20, 695: 20, 696: 30, 899: 30}


def test_levels_of_ict_are_drawn_by_their_mass():
    intervals, count = 6, 60_000
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    pair = ops.ict_levels(u, intervals, mean=-0.5, std=1.5)
    ramp = [i / intervals for i in range(intervals + 1)]
    grid = [(0.002 ** (1 / 7) + r * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7 for r in ramp]
    cdf = norm(-0.5, 1.5).cdf([math.log(sigma) for sigma in grid])
    for i in range(intervals):
        here = (pair.t + 2 * math.log(grid[i + 1])).abs() < 1e-9
        torch.testing.assert_close(
            pair.s[here], torch.full_like(pair.s[here], -2 * math.log(grid[i]))
        )
        expected = (cdf[i + 1] - cdf[i]) / (cdf[-1] - cdf[0])
        assert here.double().mean().item() == pytest.approx(expected, abs=2 / count)


@pytest.mark.parametrize(("mean", "sigma"), [(60.0, 80.0), (-60.0, 0.002)])
def test_levels_of_ict_far_from_the_grid_are_those_that_are_nearest(mean, sigma):
    """Where all masses are below 1e-100 nearly all of it is at the end."""
    pair = ops.ict_levels(torch.linspace(0.001, 0.999, 9), 6, mean=mean, std=1.0)
    end = pair.t if mean > 0 else pair.s
    torch.testing.assert_close(end, torch.full_like(end, -2 * math.log(sigma)))


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e12])
def test_pseudo_huber_is_the_published_formula(size):
    a = torch.tensor([[3.0, 4.0]], dtype=torch.float64) * size
    c = mpmath.mpf(0.00054) * mpmath.sqrt(2)
    with mpmath.workdps(50):
        exact = mpmath.sqrt((mpmath.mpf(5) * size) ** 2 + c**2) - c
    got = ops.pseudo_huber(a, 0 * a).item()
    assert got == pytest.approx(float(exact), rel=1e-14)


def test_sums_of_squares_of_float16_are_in_its_range():
    """3,072 values of 300, whose squares are beyond 65,504, and of 1e-4, whose squares are 0."""
    large, small = torch.full((1, 3072), 300.0).half(), torch.full((1, 3072), 1e-4).half()
    ones = torch.ones(1, 3072).half()
    for value in (large, small):
        torch.testing.assert_close(ops.normalised_tangent(value, 1e-6), ones, rtol=0.02, atol=0)
        distance = ops.pseudo_huber(value, 0 * value, 1e-6)
        torch.testing.assert_close(distance, value[:, 0] * 3072**0.5, rtol=2e-3, atol=0)
    loss = ops.consistency_loss(200 * ones, 0 * ones, 0 * ones)
    assert loss.tolist() == [40_000]


def test_weights_even_out():
    error = torch.tensor([0.0, 1.0, 1e4], dtype=torch.float64)
    assert (ops.adaptive_weight(error) * (error + 1e-3)).tolist() == pytest.approx([1, 1, 1])
    assert ops.adaptive_weight(error, power=0.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("noisy_level", [-18.0, -3.0, 0.0, 9.0])
@pytest.mark.parametrize("gap", [1e-6, 1e-2, 1.0, 20.0])
def test_coefficients_have_all_digits(noisy_level, gap, exact_scales, max_ulp):
    """In 50 digits, of the rounded levels; 4 ULP in float64, and 1 in float32."""
    levels = [noisy_level, noisy_level + gap]
    (a_t, s_t), (a_s, s_s) = (exact_scales(level) for level in levels)
    d = mpmath.atan2(s_t, a_t) - mpmath.atan2(s_s, a_s)
    weight = 1 / (s_t / a_t - s_s / a_s)
    assert max_ulp(ops.pair_weight(*torch.tensor(levels, dtype=torch.float64)), [weight]) <= 4
    for dtype, most in ((torch.float64, 4), (torch.float32, 1)):
        zero, one = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
        found = {
            "of z": (ops.x0_from_mean_velocity(one, zero, *levels), a_t + s_t * mpmath.tan(d / 2)),
            "of u": (ops.x0_from_mean_velocity(zero, one, *levels), -s_t * d / mpmath.sin(d)),
            "step": (ops.mean_velocity_step(zero, one, *levels), -d),
            "mean": (ops.mean_velocity(one, zero, *levels), 1 / d),
            "target": (ops.mean_velocity_target(zero, one, *levels), -d),
            "x0": (ops.consistency_step(zero, one, *levels, noise=zero), a_s),
            "noise": (ops.consistency_step(zero, zero, *levels, noise=one), s_s),
            "tangent": (ops.consistency_tangent(zero, zero, one, zero, levels[0]), a_t**2),
            "turn": (ops.consistency_tangent(one, zero, zero, zero, levels[0]), -a_t * s_t),
        }
        for name, (got, exact) in found.items():
            assert max_ulp(got, [exact]) <= most, name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: ops.normalised_tangent(z, 0.0), "expected floor > 0, got 0.0"),
        (lambda z: ops.along_path(torch.add, z, LEVELS, z[:, :2]), "dz to have the shape of z"),
        (lambda z: ops.consistency_tangent(z, z, z, z[:2], LEVELS), "dv to have the shape of z"),
        (
            lambda z: ops.consistency_tangent(z, z, z, z, LEVELS, LEVELS[:2]),
            "warmup of a shape that broadcasts",
        ),
        (lambda z: ops.consistency_loss(z, z, z[:2]), "tangent to have the shape of v"),
        (lambda z: ops.consistency_step(z, z, 0.0, 1.0, noise=z[:2]), "noise to have the shape"),
        (lambda z: ops.ict_intervals(-1, 5), "update >= 0, updates >= 1 and 1 <= first <= last"),
        (lambda z: ops.ict_levels(z[:, 0].sigmoid(), 0), "expected intervals >= 1, std > 0"),
        (lambda z: ops.ect_level(LEVELS, 1, q=1.0), "expected q > 1, k >= 0 and b >= 0, got 1.0"),
        (lambda z: ops.pseudo_huber(z, z, 0.0), "expected c > 0, got 0.0"),
        (lambda z: ops.adaptive_weight(z, -1.0), "expected power >= 0 and offset > 0, got -1.0"),
        (lambda z: ops.x0_from_mean_velocity(z, z, LEVELS[:2], 0.0), "logsnr_t of a shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(noisy())


@pytest.mark.parametrize(("update", "warmup", "share"), [(0, 1, 1.0), (0, 4, 0.25), (1, 4, 0.5),
                                                         (3, 4, 1.0), (9, 4, 1.0)])  # fmt: skip
def test_the_warm_up_counts_the_update_that_is_made(update, warmup, share):
    """The first of n has 1/n of the tangent, the last all of it."""
    z, dz = torch.randn(2, 4, 3, dtype=torch.float64)
    logsnr = torch.linspace(-2, 2, 4, dtype=torch.float64)

    def velocity(z, logsnr):
        return torch.sin(z) * torch.tanh(logsnr).view(-1, 1)

    found = ops.learn_consistency(
        velocity, velocity, ops.Paths(z, dz, logsnr), update, tangent_warmup=warmup
    )
    v, dv = ops.along_path(velocity, z, logsnr, dz)
    tangent = ops.consistency_tangent(z, v, dz, dv, logsnr, share)
    torch.testing.assert_close(found.figures["tangent_rms"], tangent.square().mean().sqrt())
