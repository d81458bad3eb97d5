"""Steps of higher order: coefficients in 50 digits from what they mean, and other programs."""

import math
from functools import partial

import mpmath as mp
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from vfn import ops
from vfn.ops.multistep import turn

INF = float("inf")
PRECISIONS = [(torch.float64, 4), (torch.float32, 1), (torch.bfloat16, 1)]
# Steps t -> s with the two before them: (prev2, prev, t, s).
TIMES = torch.tensor(
    [
        [t - before - before2, t - before, t, t + gap]
        for t in (-20.0, -7.3, 0.0, 4.1, 15.0)
        for gap in (1e-6, 1e-3, 0.3, 3.9, 4.1, 15.0)
        for before, before2 in ((1e-4, 0.7), (0.25, 0.25), (8.0, 1.5))
    ],
    dtype=torch.float64,
)
PREV2, PREV, T, S = TIMES.T


def basis(count, dtype):
    """Data [N, count]: a linear function of them gives its coefficients as columns."""
    return torch.eye(count, dtype=dtype).unsqueeze(1).expand(count, len(TIMES), count)


def alpha(logsnr):
    return 1 / mp.sqrt(1 + mp.exp(-mp.mpf(logsnr)))


def sigma(logsnr):
    return 1 / mp.sqrt(1 + mp.exp(mp.mpf(logsnr)))


def angle(logsnr):
    return mp.atan(mp.exp(-mp.mpf(logsnr) / 2))


def solution(t, s, x0):
    """Coefficients of z and of the prediction x0(u), u = 0 at t and 1 at s, in the exact flow.

    z/sigma rises by the integral of x0 over alpha/sigma.
    """
    h = (mp.mpf(s) - mp.mpf(t)) / 2
    snr = mp.exp(mp.mpf(t) / 2)
    integral = mp.quad(lambda u: x0(u) * snr * mp.exp(h * u) * h, [0, 1])
    return sigma(s) / sigma(t), sigma(s) * integral


def lagrange(places, i):
    """The polynomial that is 1 at place i and 0 at the others."""

    def value(u):
        factors = [(u - p) / (places[i] - p) for j, p in enumerate(places) if j != i]
        return mp.fprod(factors)

    return value


def through(t, s, *others):
    """Coefficients when x0 is the polynomial through predictions at t and other places."""
    h = mp.mpf(s) - mp.mpf(t)
    places = [mp.mpf(0), *((mp.mpf(p) - mp.mpf(t)) / h for p in others)]
    parts = [solution(t, s, lagrange(places, i)) for i in range(len(places))]
    return parts[0][0], *(of_x0 for _, of_x0 in parts)


def exact_heun(_prev2, _prev, t, s):
    """By its definition in x = z/alpha over sigma/alpha, on unit vectors z, x0, x0_next."""
    noise_t, noise_s = (sigma(level) / alpha(level) for level in (t, s))
    columns = []
    for z, x0, x0_next in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        start = z / alpha(t)
        slope = (start - x0) / noise_t
        euler = start + (noise_s - noise_t) * slope
        slope_next = (euler - x0_next) / noise_s
        columns.append(alpha(s) * (start + (noise_s - noise_t) * (slope + slope_next) / 2))
    return columns


def exact_2m(_prev2, prev, t, s):
    of_z, of_x0 = solution(t, s, lambda _: mp.mpf(1))
    ahead = (mp.mpf(s) - mp.mpf(t)) / (mp.mpf(t) - mp.mpf(prev)) / 2
    return of_z, of_x0 * (1 + ahead), -of_x0 * ahead


def exact_ancestral(_prev2, _prev, t, s):
    """z, x0 and noise in the posterior's draw."""
    r = mp.exp(mp.mpf(t) - mp.mpf(s))
    return r * alpha(s) / alpha(t), (1 - r) * alpha(s), mp.sqrt(1 - r) * sigma(s)


def exact_ab2(_prev2, prev, t, s):
    """The line through both velocities, integrated from phi_t to phi_s."""
    gone, going = angle(prev) - angle(t), angle(t) - angle(s)
    return 1, -going - going**2 / gone / 2, going**2 / gone / 2


def exact_am2(_prev2, _prev, t, s):
    return 1, (angle(s) - angle(t)) / 2, (angle(s) - angle(t)) / 2


def exact_renoise(_prev2, _prev, t, s):
    kept = alpha(t) / alpha(s)
    return kept, mp.sqrt(sigma(t) ** 2 - kept**2 * sigma(s) ** 2)


STEPS = {
    "heun": (3, lambda z, x, y: ops.heun_step(z, x, T, S, y), exact_heun),
    "2m": (3, lambda z, x, y: ops.dpmpp_2m_step(z, x, T, S, y, PREV), exact_2m),
    "2m first": (
        2,
        lambda z, x: ops.dpmpp_2m_step(z, x, T, S),
        lambda _2, _1, t, s: solution(t, s, lambda _: mp.mpf(1)),
    ),
    "2m sde first": (
        3,
        lambda z, x, n: ops.dpmpp_2m_step(z, x, T, S, eta=1.0, noise=n),
        exact_ancestral,
    ),
    "3m": (
        4,
        lambda z, x, y, w: ops.dpmpp_3m_step(z, x, T, S, y, PREV, w, PREV2, curvature=1.0),
        lambda prev2, prev, t, s: through(t, s, prev, prev2),
    ),
    "unic": (
        4,
        lambda z, x, y, w: ops.unic_step(z, x, T, S, y, w, PREV),
        lambda _prev2, prev, t, s: through(t, s, s, prev),
    ),
    "ab2": (3, lambda z, v, w: ops.ab2_step(z, v, T, S, w, PREV), exact_ab2),
    "am2": (3, lambda z, v, w: ops.am2_step(z, v, T, S, w), exact_am2),
    "renoise": (2, lambda z, n: ops.renoise_step(z, S, T, n), exact_renoise),
}


@pytest.fixture(scope="module")
def exact():
    """Coefficients of a step in 50 digits, a column each."""
    rows = {}

    def columns(name):
        if name not in rows:
            formula = STEPS[name][2]
            rows[name] = list(zip(*(formula(*row) for row in TIMES.tolist()), strict=True))
        return rows[name]

    return columns


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_coefficients_match_50_digits(name, dtype, bound, exact, max_ulp):
    """In units of the coefficient; in float64 of the largest of the predictions'.

    There a coefficient that passes through zero is the difference of larger ones.
    """
    count, step, _ = STEPS[name]
    got = step(*basis(count, dtype)).T
    largest = [max(map(abs, row[1:])) for row in zip(*exact(name), strict=True)]
    for value, column in zip(got, exact(name), strict=True):
        if dtype != torch.float64:
            assert max_ulp(value, column) <= bound
            continue
        for one, true, scale in zip(value, column, largest, strict=True):
            floor = 0.0 if column is exact(name)[0] else scale
            assert max_ulp(one[None], [true], floor) <= bound


def test_turn_keeps_its_digits(max_ulp):
    noisy = torch.linspace(-30, 20, 26, dtype=torch.float64).repeat_interleave(8)
    clean = noisy + torch.logspace(-6, 1, 8, dtype=torch.float64).repeat(26)
    exact = [angle(t) - angle(s) for t, s in zip(noisy.tolist(), clean.tolist(), strict=True)]
    assert max_ulp(turn(noisy, clean), exact) <= 4
    assert torch.equal(turn(clean, noisy), -turn(noisy, clean))


def test_eta_between_is_the_solution_for_a_constant_x0():
    """Marginals are kept: z_t = alpha_t x0 + sigma_t eps becomes alpha_s x0 + sigma_s eps."""
    for eta in (0.0, 0.3, 1.0, 2.5):
        step = partial(ops.dpmpp_2m_step, eta=eta)
        of_z, of_x0, of_noise = (
            step(z, x0, T, S, noise=noise) for z, x0, noise in basis(3, torch.float64).mT
        )
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ops.alpha_sigma(T), ops.alpha_sigma(S)
        torch.testing.assert_close(of_z * alpha_t + of_x0, alpha_s, rtol=1e-12, atol=0)
        variance = (of_z * sigma_t) ** 2 + of_noise**2
        torch.testing.assert_close(variance, sigma_s**2, rtol=1e-12, atol=0)


def test_steps_over_everything_have_limits():
    """From pure noise to pure data the angle is pi/2 and one step of constant v a quarter turn."""
    z, v = torch.randn(2, 1, 3, dtype=torch.float64)
    quarter = torch.pi / 2
    torch.testing.assert_close(ops.am2_step(z, v, -INF, INF, v), z - quarter * v)
    torch.testing.assert_close(ops.am2_step(z, v, INF, -INF, v), z + quarter * v)
    torch.testing.assert_close(ops.ab2_step(z, v, 0.0, INF, v, -INF), z - quarter / 2 * v)
    torch.testing.assert_close(ops.ab2_step(z, v, 0.0, -INF, v, INF), z + quarter / 2 * v)
    torch.testing.assert_close(ops.renoise_step(z, INF, -INF, v), v)
    torch.testing.assert_close(ops.renoise_step(z, INF, 0.0, v), (z + v) / 2**0.5)
    for eta in (0.0, 1.0):
        alpha, sigma = ops.alpha_sigma(torch.tensor([1.0], dtype=torch.float64))
        first = ops.dpmpp_2m_step(z, v, -INF, 1.0, eta=eta, noise=z)
        torch.testing.assert_close(first, sigma * z + alpha * v)


# Other programs: every step of a grid in float64, with predictions drawn at random.


@pytest.fixture
def doubles():
    """Their helper tensors follow the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


LOGSNRS = torch.tensor([-9.0, -5.5, -3.0, -2.2, -0.4, 1.0, 1.3, 4.0, 6.5], dtype=torch.float64)


def theirs(kind, index, **options):
    """A scheduler of diffusers over LOGSNRS, which is at step ``index`` of it."""
    scheduler = kind(prediction_type="sample", **options)
    scheduler.sigmas, scheduler._step_index = torch.exp(-0.5 * LOGSNRS), index
    return scheduler


def predictions(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 2, dtype=torch.float64, generator=generator)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("index", range(2, 8))
def test_multistep_solvers_are_those_of_diffusers(index):
    z, x0, x0_prev, x0_prev2, noise = predictions(5)
    prev2, prev, t, s = LOGSNRS[index - 2 : index + 2]
    scheduler = theirs(DPMSolverMultistepScheduler, index, solver_order=3)
    second = scheduler.multistep_dpm_solver_second_order_update([x0_prev, x0], sample=z)
    third = scheduler.multistep_dpm_solver_third_order_update([x0_prev2, x0_prev, x0], sample=z)
    scheduler = theirs(DPMSolverMultistepScheduler, index, algorithm_type="sde-dpmsolver++")
    drawn = scheduler.multistep_dpm_solver_second_order_update([x0_prev, x0], sample=z, noise=noise)
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
    close(ops.dpmpp_2m_step(z, x0, t, s, x0_prev, prev), second)
    close(ops.dpmpp_3m_step(z, x0, t, s, x0_prev, prev, x0_prev2, prev2), third)
    close(ops.dpmpp_2m_step(z, x0, t, s, x0_prev, prev, 1.0, noise), drawn)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("index", range(2, 8))
@pytest.mark.parametrize("order", [1, 2])
def test_corrector_is_that_of_diffusers(index, order):
    z, x0, x0_next, x0_prev = predictions(4)
    prev, t, s = LOGSNRS[index - 2 : index + 1]
    scheduler = theirs(UniPCMultistepScheduler, index, solver_order=2, solver_type="bh2")
    scheduler.model_outputs = [x0_prev, x0]
    expected = scheduler.multistep_uni_c_bh_update(
        this_model_output=x0_next, last_sample=z, this_sample=z, order=order
    )
    before = (x0_prev, prev) if order == 2 else ()
    got = ops.unic_step(z, x0, t, s, x0_next, *before)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("index", range(7))
def test_heun_is_that_of_diffusers(index):
    """Theirs is on x = z / alpha."""
    z, x0, x0_next = predictions(3)
    t, s = LOGSNRS[index : index + 2]
    scheduler = theirs(HeunDiscreteScheduler, 2 * index)
    scheduler.sigmas = scheduler.sigmas.repeat_interleave(2)[1:]
    scheduler.prev_derivative = scheduler.dt = None
    x = z / ops.alpha_sigma(t).alpha
    euler = scheduler.step(x0, 0, x).prev_sample
    expected = scheduler.step(x0_next, 0, euler).prev_sample * ops.alpha_sigma(s).alpha
    torch.testing.assert_close(
        ops.heun_step(z, x0, t, s, x0_next), expected, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: ops.heun_step(z, z, 0.0, 1.0, z[:1]), "x0_next to have the shape of z"),
        (lambda z: ops.dpmpp_2m_step(z, z[:1], 0.0, 1.0), "x0 to have the shape of z"),
        (lambda z: ops.dpmpp_2m_step(z, z, 0.0, 1.0, z), "both x0_prev and logsnr_prev or neither"),
        (lambda z: ops.dpmpp_2m_step(z, z, 0.0, 1.0, eta=-1.0), "expected eta >= 0, got -1.0"),
        (lambda z: ops.dpmpp_2m_step(z, z, 0.0, 1.0, eta=math.nan), "expected eta >= 0, got nan"),
        (lambda z: ops.dpmpp_2m_step(z, z, 0.0, 1.0, eta=1.0), r"noise of shape \(2, 3\) for eta"),
        (
            lambda z: ops.dpmpp_3m_step(z, z, 0.0, 1.0, z, -1.0, z[:1], -2.0),
            "x0_prev2 to have the shape of z",
        ),
        (lambda z: ops.unic_step(z, z, 0.0, 1.0, z, None, -1.0), "or neither, got one"),
        (lambda z: ops.unic_step(z, z, torch.zeros(3), 1.0, z), "logsnr_t of a shape that"),
        (lambda z: ops.ab2_step(z, z, 0.0, 1.0, z[:1], -1.0), "v_prev to have the shape of z"),
        (lambda z: ops.am2_step(z, z, 0.0, 1.0, z[:1]), "v_next to have the shape of z"),
        (lambda z: ops.renoise_step(z, 1.0, 0.0, z[:1]), "noise to have the shape of z"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3))
