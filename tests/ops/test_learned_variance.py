"""Variance that a network learns: its place in the output, in sampling and in the bound."""

import math

import pytest
import torch

from vfn import ops

COSINE = ops.logsnr_schedule("cosine")


def noise_of(i):
    return ops.keyed_normal(0, 1 + i, torch.arange(4), (2, 3), torch.float64)


@pytest.mark.parametrize(("out_type", "outputs"), [("v", 1), ("x0", 1), ("eps", 1), ("both", 2)])
def test_variance_is_what_comes_after_the_prediction(out_type, outputs):
    z = torch.zeros(2, 3, 4, 4)
    out = torch.randn(2, 3 * outputs + 3, 4, 4)
    prediction, frac = ops.split_variance(z, out, out_type)
    assert torch.equal(prediction, out[:, : 3 * outputs])
    torch.testing.assert_close(torch.logit(frac), out[:, 3 * outputs :])
    plain = ops.split_variance(z, prediction, out_type)
    assert plain.out is prediction
    assert plain.frac is None


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


def test_bound_with_a_learned_variance_at_its_end():
    x0 = ops.keyed_normal(0, 0, torch.arange(4), (2, 3), torch.float64).clamp(-1, 1)
    small = ops.vlb_bpd(lambda z, _: z / 2, x0, COSINE, 6, noise_of)
    learned = ops.vlb_bpd(
        lambda z, _: torch.cat([z / 2, torch.zeros_like(z)], 1), x0, COSINE, 6, noise_of, "learned"
    )
    torch.testing.assert_close(learned.total, small.total, rtol=1e-9, atol=1e-9)


def test_levels_of_steps():
    times = torch.arange(1, 9, dtype=torch.float64) / 8
    levels = ops.step_logsnrs(COSINE, times, 8)
    assert torch.equal(levels.logsnr_t, COSINE.logsnr(times))
    assert torch.equal(levels.logsnr_s, COSINE.logsnr(times - 1 / 8))
    assert levels.last.tolist() == [True] + 7 * [False]


def test_last_level_of_a_schedule_without_noise_at_its_end():
    legacy = ops.logsnr_schedule("legacy")
    levels = ops.step_logsnrs(legacy, torch.tensor([0.5, 1.0], dtype=torch.float64), 2)
    assert levels.logsnr_s.tolist() == [legacy.logsnr(0.25), legacy.logsnr(0.5)]


def test_bound_is_least_at_the_variance_of_the_true_step():
    """Gaussian data: given z alone, a step spreads by more than its posterior given x0 does."""
    spread, count = 0.5, 200_000
    t = torch.tensor([0.6], dtype=torch.float64)
    level_t, level_s, last = ops.step_logsnrs(COSINE, t, 5)
    x0, noise = (spread_by * ops.keyed_normal(0, i, torch.arange(count), (1,), torch.float64)
                 for i, spread_by in enumerate((spread, 1.0)))  # fmt: skip
    alpha, sigma = ops.alpha_sigma(level_t)
    z = ops.q_sample(x0, level_t.expand(count), noise)
    total = alpha**2 * spread**2 + sigma**2
    posterior = spread**2 * sigma**2 / total  # of x0 given z
    ratio = torch.exp(level_t - level_s)
    alpha_s, sigma_s = ops.alpha_sigma(level_s)
    true = (1 - ratio) * sigma_s**2 + ((1 - ratio) * alpha_s) ** 2 * posterior
    small, large = (
        ops.posterior_logvar(level_t, level_s, kind) for kind in ("fixed_small", "fixed_large")
    )
    best = ((torch.log(true) - small) / (large - small)).item()
    assert 0.05 < best < 0.95

    def bound(frac):
        pred = spread**2 * alpha / total * z
        levels = (level.expand(count) for level in (level_t, level_s, last))
        fracs = torch.full_like(z, frac)
        return ops.kl_loss(z, x0, pred, *levels, "learned", fracs).mean().item()

    fractions = [best - 0.05, best, best + 0.05]
    lower, least, upper = map(bound, fractions)
    assert least < min(lower, upper)
    assert math.isclose(lower, upper, rel_tol=0.02)
