"""The sampling loop: what it calls and when, and the flow of a Gaussian in closed form."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from vfn import ops
from vfn.ops import (
    alpha_sigma,
    ancestral_step,
    ddim_step,
    keyed_normal,
    logsnr_grid,
    logsnr_schedule,
    sample,
)

SCHEDULE = logsnr_schedule("cosine")
STD = 0.5


def gaussian_denoiser(z, logsnr):
    """E[x0 | z] for x0 ~ N(0, STD^2)."""
    alpha, sigma = (scale.to(z.dtype).unsqueeze(-1) for scale in alpha_sigma(logsnr))
    return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * z


def start():
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [32, 128])
def test_ddim_follows_the_flow_of_a_gaussian(steps):
    """The exact flow scales z_1 to std STD; a first-order solver misses it by 1.5/N."""
    z = start()
    alpha, sigma = alpha_sigma(torch.tensor(-20.0, dtype=torch.float64))
    exact = STD / (alpha**2 * STD**2 + sigma**2).sqrt() * z
    got = sample(gaussian_denoiser, z, logsnr_grid(SCHEDULE, steps))
    assert ((got.x0 / exact - 1).abs() < 2 / steps).all()
    assert ((got.x0 / exact - 1).abs() > 1e-6).all()  # it is an approximation


@pytest.mark.parametrize("step", [partial(ddim_step, eta=1.0), ancestral_step])
def test_ancestral_sampling_makes_the_distribution(step):
    """Variance over 8,000 samples: 2 % is the sampling error, 2 % the discretization at N=128."""
    generator = torch.Generator().manual_seed(0)

    def normal(*_):
        return torch.randn(8000, 1, dtype=torch.float64, generator=generator)

    got = sample(gaussian_denoiser, normal(), logsnr_grid(SCHEDULE, 128), step, normal)
    assert got.x0.var().item() == pytest.approx(STD**2, rel=0.06)


def test_loop_calls_in_order():
    """N denoiser calls, each at its noise level; the last prediction is returned as it is."""
    grid, z, calls, seen, drawn = logsnr_grid(SCHEDULE, 3), start(), [], [], []

    def denoise(z, logsnr):
        calls.append(logsnr)
        return torch.full_like(z, len(calls))

    def noise(i):
        drawn.append(i)
        return torch.zeros_like(z)

    result = sample(
        denoise, z, grid, partial(ddim_step, eta=0.5), noise, lambda *args: seen.append(args)
    )
    assert result.nfe == len(calls) == 3
    assert torch.equal(result.x0, torch.full_like(z, 3))
    assert drawn == [0, 1]
    for i, (logsnr, (index, state, x0)) in enumerate(zip(calls, seen, strict=True)):
        assert torch.equal(logsnr, grid[i].expand(4))
        assert index == i
        assert torch.equal(x0, torch.full_like(z, i + 1))
        assert torch.equal(state, z)
        if i < 2:
            z = ddim_step(z, x0, grid[i], grid[i + 1], eta=0.5, noise=torch.zeros_like(z))


def test_one_step_is_the_denoiser():
    z, grid = start(), logsnr_grid(SCHEDULE, 1)
    result = sample(gaussian_denoiser, z, grid)
    assert torch.equal(result.x0, gaussian_denoiser(z, grid[0].expand(4)))
    assert result.nfe == 1


def test_start_noise_and_dtype_are_kept():
    z = start().float()
    before = z.clone()
    result = sample(gaussian_denoiser, z, logsnr_grid(SCHEDULE, 4))
    assert torch.equal(z, before)
    assert result.x0.dtype == torch.float32


@pytest.mark.parametrize("shape", [(), (1,), (2, 2)])
def test_grid_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"logsnrs of shape \[N\+1\] with N >= 1, got shape"):
        sample(gaussian_denoiser, start(), torch.zeros(shape))


def test_stochastic_step_without_noise_is_refused():
    with pytest.raises(ValueError, match="expected noise of shape"):
        sample(gaussian_denoiser, start(), logsnr_grid(SCHEDULE, 2), partial(ddim_step, eta=1.0))


# The ancestral sampler makes the distribution that the denoiser knows, to within 2 % of variance.
#
# A mean E[x0 | z] in place of x0 loses variance with steps of finite length (1 % at 400 steps of
# the cosine grid). A draw from p(x0 | z) does not: the posterior's mixture over it is the reverse
# kernel itself, so that a grid of any length is exact, and the test can be as sharp as its samples
# allow.
WEIGHTS, MEANS, STDS = (0.4, 0.6), (-0.9, 0.6), (0.5, 0.4)


COUNT, STEPS, GROUP = 240_000, 48, 60


def exact_cdf(x):
    parts = zip(WEIGHTS, MEANS, STDS, strict=True)
    return sum(w * stats.norm.cdf(x, mean, std) for w, mean, std in parts)


def normal(stream, count=COUNT):
    """Keyed draws [1, count], the same in every run; the streams are steps and purposes."""
    return keyed_normal(2024, stream, torch.tensor([0]), (count,), torch.float64)


def components(z, logsnr):
    """p(x0 | z): the probability of the second component, both means and both deviations."""
    alpha, sigma = (scale[0].item() for scale in alpha_sigma(logsnr))
    logits, means, deviations = [], [], []
    for weight, mean, std in zip(WEIGHTS, MEANS, STDS, strict=True):
        total = (alpha * std) ** 2 + sigma**2
        gain = alpha * std**2 / total
        centred = z - alpha * mean
        logits.append(math.log(weight) - 0.5 * math.log(total) - 0.5 / total * centred**2)
        means.append(mean + gain * centred)
        deviations.append(std * sigma / total**0.5)
    return torch.sigmoid(logits[1] - logits[0]), means, deviations


def mean_denoiser(z, logsnr):
    second, (mean1, mean2), _ = components(z, logsnr)
    return torch.lerp(mean1, mean2, second)


class DrawingDenoiser:
    """A draw of p(x0 | z) at every call, by the same draws for every row."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z, logsnr):
        self.calls += 1
        second, means, (std1, std2) = components(z, logsnr)
        one = torch.special.ndtr(normal(1000 + self.calls)) < second
        noise = normal(2000 + self.calls)
        return torch.where(one, means[1] + std2 * noise, means[0] + std1 * noise)


def p_value(x0):
    """Kolmogorov-Smirnov test of sums of squared normal scores, GROUP of them to a sum.

    The exact distribution function makes the samples standard normal; a sum of squares has the chi
    square distribution, and shows an error of the variance that the samples one by one would not.
    """
    scores = stats.norm.ppf(exact_cdf(x0.numpy()))
    return stats.kstest((scores.reshape(-1, GROUP) ** 2).sum(1), stats.chi2(GROUP).cdf).pvalue


# What the variance of every step's noise is multiplied by.
VARIANCES = (1.0, 0.98, 1.02)


@pytest.fixture(scope="module")
def made():
    """Samples by VARIANCES, a row for each."""
    scale = torch.tensor(VARIANCES, dtype=torch.float64).sqrt().unsqueeze(1)
    start, grid = normal(0).expand(len(VARIANCES), -1), logsnr_grid(SCHEDULE, STEPS)
    rows = sample(
        DrawingDenoiser(), start, grid, ancestral_step, lambda i: scale * normal(1 + i)
    ).x0
    return dict(zip(VARIANCES, rows, strict=True))


def test_samples_have_the_exact_distribution(made):
    assert stats.kstest(made[1.0].numpy(), exact_cdf).pvalue > 0.01
    assert p_value(made[1.0]) > 0.01


@pytest.mark.parametrize("variance", VARIANCES[1:])
def test_two_percent_of_the_step_s_variance_is_seen(variance, made):
    assert p_value(made[variance]) < 1e-3


@pytest.mark.parametrize("variance", VARIANCES[1:])
def test_two_percent_of_the_samples_variance_is_seen(variance, made):
    mean = sum(w * mean for w, mean in zip(WEIGHTS, MEANS, strict=True))
    assert p_value(mean + variance**0.5 * (made[1.0] - mean)) < 1e-3


def test_the_posterior_mean_as_denoiser_comes_close():
    """Among 5,000 samples the variance that 400 steps lose is below the sampling error."""
    made = sample(
        mean_denoiser,
        normal(0, 5000),
        logsnr_grid(SCHEDULE, 400),
        ancestral_step,
        lambda i: normal(1 + i, 5000),
    ).x0
    assert stats.kstest(made[0].numpy(), exact_cdf).pvalue > 0.01


GRIDS_OF_NO_KIND = {
    "falling": (torch.linspace(20, -20, 5), "rise from noise to data.* got 20 before 10 at 0"),
    "falling times": (torch.linspace(1, 0, 5), "rise from noise to data"),
    "rising times": (torch.linspace(0, 1, 5), "looks like times, from 0 to 1"),
    "rising times but 0": (torch.linspace(0.001, 1, 5), "looks like times"),
    "a level twice": (torch.tensor([-20.0, 0.0, 0.0, 20.0]), "got 0 before 0 at 1"),
    "pure data twice": (torch.tensor([0.0, math.inf, math.inf]), "got inf before inf at 1"),
    "nan": (torch.tensor([-20.0, math.nan, 20.0]), "got -20 before nan at 0"),
    "too far": (torch.tensor([-800.0, 0.0, 20.0]), "expected logsnrs within ±700"),
}
INTEGRATORS = {
    "sample": lambda z, grid: sample(gaussian_denoiser, z, grid),
    "adaptive": lambda z, grid: ops.sample_adaptive(gaussian_denoiser, z, grid),
    "encode": lambda z, grid: ops.encode(gaussian_denoiser, z, grid),
    "edit": lambda z, grid: ops.edit_start(z, grid, 0.5, z),
    "inpaint": lambda z, grid: ops.inpaint(gaussian_denoiser, z, grid, z, z > 0, lambda k: z),
    "likelihood": lambda z, grid: ops.flow_loglik(gaussian_denoiser, z, grid, z[None]),
}


@pytest.mark.parametrize("run", INTEGRATORS.values(), ids=INTEGRATORS)
@pytest.mark.parametrize("kind", GRIDS_OF_NO_KIND)
def test_what_is_no_grid_is_refused(run, kind):
    grid, message = GRIDS_OF_NO_KIND[kind]
    with pytest.raises(ValueError, match=message):
        run(start(), grid)


@pytest.mark.parametrize("run", INTEGRATORS.values(), ids=INTEGRATORS)
def test_lists_and_arrays_are_grids(run):
    levels = [-6, -2, 1, 4]
    found = [
        run(start(), grid)[0]
        for grid in (torch.tensor(levels).double(), torch.tensor(levels), levels, np.array(levels))
    ]
    assert all(torch.equal(one, found[0]) for one in found[1:])


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (ops.heun_solver, "heun_solver"),
        (ops.adams_solver, "adams_solver"),
        (ops.Solver, "Solver"),
        ("abm2", "'abm2'"),
        (ops.sampler("abm2"), "functools.partial"),
        (ops.ddim_inverse_step, "ddim_inverse_step"),
        (ops.renoise_step, "renoise_step"),
        (None, "None"),
    ],
)
def test_what_is_no_solver_is_refused(step, named):
    with pytest.raises(ValueError, match=f"expected a Solver, such as .* got .*{named}"):
        sample(gaussian_denoiser, start(), logsnr_grid(SCHEDULE, 3), step)


def test_state_that_is_no_tensor_is_refused():
    grid = logsnr_grid(SCHEDULE, 3)
    with pytest.raises(TypeError, match="expected z to be a tensor, got ndarray; torch.as_tensor"):
        sample(gaussian_denoiser, start().numpy(), grid)
    with pytest.raises(TypeError, match="expected floating-point z, got torch.int64"):
        sample(gaussian_denoiser, start().long(), grid)
    with pytest.raises(TypeError, match="expected x0 to be a tensor, got float"):
        sample(lambda z, logsnr: 0.5, start(), grid)


def test_grid_is_brought_to_the_device_of_the_state():
    """The meta device stands in for another than the host's."""
    z = torch.empty(4, 2, device="meta")
    got = sample(lambda z, logsnr: 0 * z + logsnr[:, None].float(), z, logsnr_grid(SCHEDULE, 3))
    assert got.x0.device.type == "meta"


def test_numbers_that_overflow_are_refused():
    z = start()
    with pytest.raises(ValueError, match="expected logsnr_t within ±700, or ±inf"):
        ddim_step(z, z, 800.0, 900.0)
    assert torch.equal(ddim_step(z, 0.5 * z, -math.inf, math.inf), 0.5 * z)
