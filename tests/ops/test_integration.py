"""The sampling loop: what it calls and when, and the flow of a Gaussian in closed form."""

from functools import partial

import pytest
import torch

from vfn.ops import alpha_sigma, ancestral_step, ddim_step, logsnr_grid, logsnr_schedule, sample

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
