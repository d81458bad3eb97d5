"""Solvers over whole grids: order, error, number of evaluations, ends, distribution."""

import math
import pickle
from functools import cache, partial
from typing import ClassVar

import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.interpolate import BarycentricInterpolator as Through
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.exact_flow import Mixture, mixture, start_noise
from vfn import ops

COSINE = ops.logsnr_schedule("cosine")
SOLVERS = {
    "ddim": ops.single_step(ops.ddim_step),
    "heun": ops.heun_solver(),
    "dpmpp_2m": ops.dpmpp_2m_solver(),
    "dpmpp_3m": ops.dpmpp_3m_solver(),
    "dpmpp_3m exact": ops.dpmpp_3m_solver(curvature=1.0),
    "unipc": ops.unipc_solver(),
    "ab2": ops.adams_solver(),
    "abm2": ops.adams_solver(correct=True),
}
MIXTURE, COUNT = mixture(seed=0, parts=3, dims=2, std=0.4, spread=0.6), 32


@cache
def exact(start=-20.0):
    return MIXTURE.flow(start_noise(COUNT, 2), start)


def draw(solver, grid, steps, **options):
    grid = ops.sampling_grid(grid, COSINE, steps)
    return ops.sample(MIXTURE.denoise, start_noise(COUNT, 2), grid, solver, **options)


def error(solver, grid, steps, **options):
    off = draw(solver, grid, steps, **options).x0 - exact()
    return off.square().mean().sqrt().item()


def order(solver, grid, fewer, **options):
    return math.log2(
        error(solver, grid, fewer, **options) / error(solver, grid, 2 * fewer, **options)
    )


def test_the_reference_is_the_gaussian_s_closed_form():
    """The flow of N(m, s^2): the standardized value stays what it is."""
    mean, std, z = torch.tensor([[0.3, -0.2]], dtype=torch.float64), 0.5, start_noise(5, 2)
    alone = Mixture(torch.ones(1).double(), mean, torch.full((1,), std).double())
    (alpha, alpha_s), (sigma, sigma_s) = ops.alpha_sigma(torch.tensor([-3.0, 5.0]).double())
    spread, spread_s = (
        (a**2 * std**2 + s**2).sqrt() for a, s in ((alpha, sigma), (alpha_s, sigma_s))
    )
    expected = alpha_s * mean + (z - alpha * mean) * spread_s / spread
    torch.testing.assert_close(alone.flow(z, -3.0, 5.0), expected, rtol=0, atol=1e-9)


def test_the_denoiser_is_the_posterior_mean():
    """Tweedie: x0 = (z + sigma^2 score) / alpha, with the score by torch's distributions."""
    logsnr = torch.tensor([0.7], dtype=torch.float64)
    alpha, sigma = ops.alpha_sigma(logsnr)
    z = start_noise(4, 2).requires_grad_()
    parts = torch.distributions.MultivariateNormal(
        alpha * MIXTURE.means,
        covariance_matrix=(alpha**2 * MIXTURE.stds**2 + sigma**2)[:, None, None] * torch.eye(2),
    )
    density = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(MIXTURE.weights), parts
    )
    (score,) = torch.autograd.grad(density.log_prob(z).sum(), z)
    expected = (z + sigma**2 * score) / alpha
    torch.testing.assert_close(MIXTURE.denoise(z, logsnr.expand(4)), expected)


@pytest.mark.parametrize(
    ("name", "grid", "steps", "low", "high"),
    [
        ("ddim", "time", 256, 0.98, 1.03),
        ("ddim", "logsnr", 512, 0.98, 1.07),
        ("heun", "logsnr", 256, 1.95, 2.05),
        ("dpmpp_2m", "logsnr", 256, 1.95, 2.05),
        ("dpmpp_3m", "logsnr", 256, 1.95, 2.05),
        ("dpmpp_3m exact", "logsnr", 512, 2.95, 3.1),
        ("unipc", "logsnr", 256, 2.95, 3.05),
        ("unipc", "time", 512, 1.95, 2.05),
        ("ab2", "time", 128, 1.95, 2.05),
        ("ab2", "logsnr", 512, 1.95, 2.05),
        ("abm2", "time", 256, 1.95, 2.05),
        # Neighbours near the ends of the cosine grid keep a ratio of (k+1)/k however many steps
        # there are, so that the sum of their errors is log(N)/N^2.
        ("heun", "time", 512, 1.8, 1.95),
        ("dpmpp_2m", "time", 512, 1.65, 1.85),
    ],
)
def test_order_of_convergence(name, grid, steps, low, high):
    """With cosine ±20: uniform in time, or in logsnr over the same range."""
    assert low < order(SOLVERS[name], grid, steps) < high


@pytest.mark.parametrize("steps", [16, 32, 64])
def test_corrected_adams_is_closer_than_dpm_solver(steps):
    assert 1.3 * error(SOLVERS["abm2"], "time", steps) < error(SOLVERS["dpmpp_2m"], "time", steps)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "ab2", "abm2"])
def test_second_order_beats_first_at_few_steps(name):
    assert error(SOLVERS[name], "time", 10) < error(SOLVERS["ddim"], "time", 20)


def test_heun_s_first_step_is_of_first_order():
    """From logsnr -20 the second order costs a factor of more than 100."""
    second = ops.heun_solver(first_order_start=False)
    assert 100 * error(SOLVERS["heun"], "time", 16) < error(second, "time", 16)


def test_extrapolating_over_the_last_step_is_worse():
    solver = SOLVERS["dpmpp_2m"]
    eager = solver._replace(end=solver.advance)
    assert 10 * error(solver, "time", 32, final="step") < error(eager, "time", 32, final="step")


@pytest.mark.parametrize("name", ops.SOLVERS)
def test_every_sampler_counts_its_calls(name):
    """One a step; Heun two but for the first and last; the adaptive one three and one."""
    calls, steps = [], 6

    def denoise(z, logsnr):
        calls.append(logsnr)
        return MIXTURE.denoise(z, logsnr)

    grid, z = ops.sampling_grid("time", COSINE, steps), start_noise(COUNT, 2)
    result = ops.sampler(name)(denoise, z, grid, noise=lambda i: z)
    assert result.nfe == len(calls)
    if name == "adaptive":
        assert len(calls) % 3 == 1
    else:
        assert len(calls) == (2 * steps - 2 if name == "heun" else steps)
        assert max(logsnr.max() for logsnr in calls) == grid[-2]  # none is spent on the end
    assert result.x0.shape == z.shape
    assert result.x0.isfinite().all()


@pytest.mark.parametrize("name", SOLVERS)
def test_step_to_the_last_logsnr_differs_by_its_noise(name):
    """4.5e-5 at logsnr 20: the default loses nothing."""
    ended, stopped = (draw(SOLVERS[name], "time", 32, final=final).x0 for final in ("x0", "step"))
    assert not torch.equal(ended, stopped)
    torch.testing.assert_close(ended, stopped, rtol=0, atol=3e-4)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("grid", ["time", "logsnr", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewest_steps(name, grid, steps):
    result = draw(SOLVERS[name], grid, steps)
    assert result.x0.isfinite().all()
    if steps == 1:
        at = ops.sampling_grid(grid, COSINE, 1)[:1].expand(COUNT)
        torch.testing.assert_close(result.x0, MIXTURE.denoise(start_noise(COUNT, 2), at))


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "heun"])
def test_grid_from_pure_noise_to_pure_data(name):
    """Logsnr -inf to +inf; the zero of signal is a limit like any other."""
    middle = ops.sampling_grid("time", COSINE, 32)[1:-1]
    grid = torch.cat([middle.new_full((1,), -math.inf), middle, middle.new_full((1,), math.inf)])
    got = ops.sample(MIXTURE.denoise, start_noise(COUNT, 2), grid, SOLVERS[name])
    off = (got.x0 - exact()).square().mean().sqrt().item()
    assert off < 1.1 * error(SOLVERS[name], "time", 32)


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_is_close_to_float64(name):
    grid, z = ops.sampling_grid("time", COSINE, 16), start_noise(COUNT, 2)
    single = ops.sample(MIXTURE.denoise, z.float(), grid, SOLVERS[name]).x0
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), draw(SOLVERS[name], "time", 16).x0, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", ops.SOLVERS)
def test_a_sample_does_not_depend_on_its_batch(name):
    grid, z = ops.sampling_grid("time", COSINE, 12), start_noise(COUNT, 2)

    def of(rows):
        def noise(i):
            return ops.keyed_normal(7, i, torch.arange(COUNT)[rows], (2,), torch.float64)

        options = {"churn": 0.1} if name == "heun" else {}
        return ops.sampler(name, **options)(MIXTURE.denoise, z[rows], grid, noise=noise).x0

    torch.testing.assert_close(of(slice(5, 6)), of(slice(None))[5:6], rtol=0, atol=1e-12)


# Stochastic solvers, in distribution: 20,000 samples, 1-D.
LINE, MANY = mixture(seed=3, parts=2, dims=1, std=0.5, spread=0.9), 20_000


def cdf(x):
    parts = zip(*(value.flatten().tolist() for value in LINE), strict=True)
    return sum(w * stats.norm.cdf(x, mean, std) for w, mean, std in parts)


def p_value(solver, steps):
    def noise(i):
        return ops.keyed_normal(0, i + 1, torch.arange(MANY), (1,), torch.float64)

    grid = ops.sampling_grid("logsnr", ops.logsnr_schedule("cosine", -12.0, 12.0), steps)
    made = ops.sample(LINE.denoise, noise(-1), grid, solver, noise).x0
    return stats.kstest(made.flatten().numpy(), cdf).pvalue


@pytest.mark.parametrize(
    "solver",
    [
        ops.dpmpp_2m_solver(eta=1.0),
        ops.dpmpp_2m_solver(eta=0.5),
        ops.heun_solver(churn=0.2, churn_range=(-5.0, 5.0)),
    ],
)
def test_stochastic_solvers_make_the_distribution(solver):
    assert solver.draws
    assert p_value(solver, 100) > 0.01


def test_too_much_added_noise_is_seen():
    """What the test above can tell: 10 % more deviation of the churned noise."""
    assert p_value(ops.heun_solver(0.2, (-5.0, 5.0), noise_scale=1.1), 100) < 1e-6


def test_stochastic_second_order_needs_fewer_steps_than_ancestral():
    """Variance at 12 steps; a mean x0 in place of a draw loses some."""

    def variance(solver):
        def noise(i):
            return ops.keyed_normal(0, i + 1, torch.arange(MANY), (1,), torch.float64)

        grid = ops.sampling_grid("logsnr", ops.logsnr_schedule("cosine", -8.0, 8.0), 12)
        return ops.sample(LINE.denoise, noise(-1), grid, solver, noise).x0.var()

    weights, means, stds = LINE
    mean = (weights[:, None] * means).sum()
    true = (weights * (stds**2 + (means[:, 0] - mean) ** 2)).sum()
    second = (variance(ops.dpmpp_2m_solver(eta=1.0)) - true).abs()
    first = (variance(ops.single_step(ops.ancestral_step, draws=True)) - true).abs()
    assert second < 0.5 * first


def test_churn_of_none_is_the_deterministic_solver():
    """Outside its range, or with gamma = 0 within, nothing is added."""
    outside = ops.heun_solver(churn=0.3, churn_range=(100.0, 200.0))
    z = start_noise(COUNT, 2)
    torch.testing.assert_close(
        draw(outside, "time", 8, noise=lambda i: z).x0, draw(ops.heun_solver(), "time", 8).x0
    )


def test_noise_is_drawn_for_those_who_want_it():
    drawn, z = [], start_noise(COUNT, 2)

    def noise(i):
        drawn.append(i)
        return z

    draw(ops.dpmpp_2m_solver(eta=1.0), "time", 4, noise=noise)
    assert drawn == [0, 1, 2]
    draw(ops.dpmpp_2m_solver(), "time", 4, noise=noise)
    assert drawn == [0, 1, 2]
    with pytest.raises(ValueError, match="expected noise, a function of the step's number"):
        draw(ops.heun_solver(churn=0.1), "time", 4)


def test_callback_sees_states_and_predictions():
    seen = []
    draw(SOLVERS["abm2"], "time", 3, callback=lambda *args: seen.append(args))
    assert [i for i, _, _ in seen] == [0, 1, 2]
    grid = ops.sampling_grid("time", COSINE, 3)
    for i, z, x0 in seen:
        assert torch.equal(x0, MIXTURE.denoise(z, grid[i].expand(COUNT)))


def test_names_stand_for_their_solvers():
    z, grid = start_noise(COUNT, 2), ops.sampling_grid("time", COSINE, 6)
    for name in ("heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ab2", "abm2"):
        assert torch.equal(
            ops.sampler(name)(MIXTURE.denoise, z, grid).x0, draw(SOLVERS[name], "time", 6).x0
        )
    medium = {"var_type": "fixed_medium", "intp_frac": 0.3}
    expected = {
        "ddim": ({"eta": 0.5}, partial(ops.ddim_step, eta=0.5)),
        "ancestral": (medium, partial(ops.ancestral_step, **medium)),
        "dpmpp_2m_sde": ({}, ops.dpmpp_2m_solver(eta=1.0)),
        "heun": ({"churn": 0.2}, ops.heun_solver(0.2)),
    }
    for name, (options, step) in expected.items():
        got = ops.sampler(name, **options)(MIXTURE.denoise, z, grid, noise=lambda i: z)
        assert torch.equal(got.x0, draw(step, "time", 6, noise=lambda i: z).x0)


def test_words_that_are_none_are_refused():
    with pytest.raises(ValueError, match="unknown solver 'euler', expected one of ddim, "):
        ops.sampler("euler")
    with pytest.raises(ValueError, match="expected final to be one of x0, step"):
        draw(SOLVERS["ddim"], "time", 3, final="end")
    with pytest.raises(ValueError, match=r"expected churn in \[0, 0.4142\], got 0.5"):
        ops.heun_solver(churn=0.5)
    with pytest.raises(ValueError, match="expected noise_scale >= 0, got nan"):
        ops.heun_solver(noise_scale=math.nan)
    with pytest.raises(ValueError, match="expected churn_range from lowest to highest, got 2 and"):
        ops.heun_solver(churn_range=(2, -2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heun", "dpmpp_3m", "unipc", "abm2"])
def test_no_solver_waits_for_a_value(name):
    """The loop over a grid compiles to one graph, which nothing that reads a value would."""
    grid, z = ops.sampling_grid("time", COSINE, 4), start_noise(4, 2)

    def run(z):
        return ops.sample(MIXTURE.denoise, z, grid, SOLVERS[name]).x0

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z), run(z))


class WaitsForDevice(TorchDispatchMode):
    """Counts operations whose result the host reads, for which a GPU would have to be waited."""

    READ: ClassVar = {
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.equal.default,
    }

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in self.READ
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ops.SOLVERS)
def test_no_solver_but_the_adaptive_waits_for_the_device(name):
    grid = ops.logsnr_grid(COSINE, 5)
    z = torch.ones(2, 3, dtype=torch.float64)
    draw = ops.sampler(name)
    with WaitsForDevice() as waits:
        draw(lambda z, _: 0.5 * z, z, grid, noise=torch.ones_like(z).mul)
    assert (waits.count > 0) == (name == "adaptive")


def noise_of(i):
    return ops.keyed_normal(0, 1 + i, torch.arange(4), (2, 3), torch.float64)


@pytest.mark.parametrize(("frac", "var_type"), [(0.0, "fixed_small"), (1.0, "fixed_large")])
def test_sampling_with_a_learned_variance_at_its_ends(frac, var_type):
    start = noise_of(-1)
    grid = ops.logsnr_grid(COSINE, 5)

    def denoise(z, _logsnr):
        return z / 2

    def learned(z, _logsnr):
        return torch.cat([z / 2, torch.full_like(z, frac)], 1)

    fixed = ops.sampler("ancestral", var_type=var_type)(denoise, start, grid, noise=noise_of)
    drawn = ops.sampler("ancestral", var_type="learned")(learned, start, grid, noise=noise_of)
    torch.testing.assert_close(drawn.x0, fixed.x0, rtol=1e-9, atol=1e-9)
    assert drawn.nfe == 5
    seen = []
    ops.sampler("ancestral", var_type="learned")(
        learned, start, grid, noise=noise_of, callback=lambda i, z, x0: seen.append(x0.shape)
    )
    assert set(seen) == {start.shape}


@pytest.mark.parametrize("name", ops.SOLVERS)
def test_samplers_are_pickled(name):
    drawn = pickle.loads(pickle.dumps(ops.sampler(name)))
    expected = ops.sampler(name)
    grid, z = ops.logsnr_grid(COSINE, 4), start_noise(4, 2)
    got, wanted = (made(halved, z, grid, noise=lambda i: z) for made in (drawn, expected))
    assert torch.equal(got.x0, wanted.x0)


@pytest.mark.parametrize(
    "solver", [ops.learned_ancestral_solver(), ops.heun_solver(churn=0.1), ops.ddim_solver(0.5)]
)
def test_solvers_are_pickled(solver):
    assert repr(pickle.loads(pickle.dumps(solver))) == repr(solver)


def halved(z, _logsnr):
    return 0.5 * z


def unipc_by_quadrature(slope, levels, z):
    """UniPC-2 of the denoiser ``slope z`` in plain numbers: parabolas, integrated numerically.

    ``z_s = (sigma_s/sigma_t) z + sigma_s int exp(l) x0(l) dl`` over l = log(alpha/sigma).
    """
    sigma = [1 / math.sqrt(1 + math.exp(level)) for level in levels]
    halves, seen, state = [level / 2 for level in levels], [], z

    def step(i, curve):
        integral = quad(lambda at: math.exp(at) * curve(at), halves[i], halves[i + 1])[0]
        return sigma[i + 1] / sigma[i] * starts[i] + sigma[i + 1] * integral

    starts = []
    for i in range(len(levels) - 1):
        x0 = slope * state
        if i == 1:
            state = step(0, lambda at, x0=x0: (seen[0] + x0) / 2)
        elif i > 1:
            places, values = halves[i - 2 : i + 1], [*seen[i - 2 :], x0]
            state = step(i - 1, lambda at, p=places, v=values: float(Through(p, v)(at)))
        starts.append(state)
        seen.append(x0)
        if i == len(levels) - 2 or not i:
            state = step(i, lambda at, x0=x0: x0)
        else:
            ratio = (halves[i + 1] - halves[i]) / (halves[i] - halves[i - 1])
            ahead = ratio / 2 * (x0 - seen[-2])
            state = step(i, lambda at, x0=x0 + ahead: x0)
    return state


def test_unipc_ends_from_the_corrected_state():
    """At the last finite level of EDM's grid, against plain numbers."""
    levels = ops.karras_grid(6)[:-1]
    got = ops.sample(
        lambda z, _: 0.4 * z, torch.ones(1, 1).double(), levels, ops.unipc_solver(), final="step"
    )
    expected = unipc_by_quadrature(0.4, levels.tolist(), 1.0)
    assert got.x0.item() == pytest.approx(expected, rel=1e-7)  # of the quadrature


def test_unipc_to_the_last_logsnr_is_closer_for_its_correction():
    grid = ops.karras_grid(12)[:-1]
    z = start_noise(COUNT, 2)
    start, end = grid[0].item(), grid[-1].item()
    exactly = MIXTURE.flow(z, start, end)
    whole = ops.unipc_solver()
    uncorrected = whole._replace(end=ops.single_step(ops.ddim_step).advance)
    corrected, plain = (
        (ops.sample(MIXTURE.denoise, z, grid, solver, final="step").x0 - exactly).square().mean()
        for solver in (whole, uncorrected)
    )
    assert corrected.sqrt() < 0.99 * plain.sqrt()


@pytest.mark.parametrize("levels", [(-200.0, -100.0), (100.0, 200.0)])
def test_levels_on_either_side_of_the_range_are_not_churned(levels):
    z = start_noise(COUNT, 2)
    churned, plain = (
        ops.sample(
            MIXTURE.denoise, z, ops.logsnr_grid(COSINE, 6), solver, noise=lambda _k: z.flip(0)
        ).x0
        for solver in (ops.heun_solver(churn=0.3, churn_range=levels), ops.heun_solver())
    )
    torch.testing.assert_close(churned, plain)
