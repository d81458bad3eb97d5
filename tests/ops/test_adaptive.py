"""The adaptive sampler: error by tolerance, steps beside scipy's, independence of the batch."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from tests.helpers.exact_flow import mixture, start_noise
from vfn import ops

COSINE = ops.logsnr_schedule("cosine")
MIXTURE, COUNT = mixture(seed=0, parts=3, dims=2, std=0.4, spread=0.6), 32
GRID = ops.logsnr_grid(COSINE, 16)


def draw(tolerance, rows=slice(None), grid=GRID, **options):
    z = start_noise(COUNT, 2)[rows]
    return ops.sample_adaptive(MIXTURE.denoise, z, grid, tolerance, **options)


def test_error_follows_the_tolerance():
    exact, errors = MIXTURE.flow(start_noise(COUNT, 2)), {}
    for tolerance in (1e-2, 1e-4, 1e-6):
        result = draw(tolerance)
        errors[tolerance] = (result.x0 - exact).abs().max().item()
        assert errors[tolerance] < 30 * tolerance
    assert errors[1e-6] > 1e-8  # no more work than was asked for


def test_steps_are_about_as_many_as_scipy_s():
    """Its RK23 is the same pair of formulas, with a controller and a norm of its own."""
    z, ends = start_noise(COUNT, 2)[:1], [math.atan(math.exp(x / 2)) for x in (20.0, -20.0)]

    def velocity(phi, flat):
        state, logsnr = torch.from_numpy(flat[None]), -2 * math.log(math.tan(phi))
        x0 = MIXTURE.denoise(state, torch.tensor([logsnr], dtype=torch.float64)).numpy()[0]
        return (math.cos(phi) * flat - x0) / math.sin(phi)

    theirs = solve_ivp(velocity, ends, z[0].numpy(), "RK23", rtol=1e-5, atol=1e-5)
    ours = draw(1e-5, slice(0, 1), final="step")
    assert 0.7 * theirs.nfev < ours.nfe < 1.4 * theirs.nfev
    np.testing.assert_allclose(ours.x0[0].numpy(), theirs.y[:, -1], rtol=0, atol=1e-4)


def test_each_sample_has_its_own_steps():
    """Bit for bit up to the order of sums; alone the easy ones take fewer evaluations."""
    together = draw(1e-4)
    alone = [draw(1e-4, slice(i, i + 1)) for i in range(COUNT)]
    torch.testing.assert_close(
        torch.cat([one.x0 for one in alone]), together.x0, rtol=0, atol=1e-12
    )
    assert together.nfe == max(one.nfe for one in alone) > min(one.nfe for one in alone)


def test_too_long_a_first_step_is_taken_back():
    careless = draw(1e-4, grid=torch.tensor([-20.0, 20.0]))
    torch.testing.assert_close(careless.x0, draw(1e-4).x0, rtol=0, atol=2e-3)


def test_ends():
    stopped, ended = (draw(1e-5, final=final).x0 for final in ("step", "x0"))
    assert not torch.equal(stopped, ended)
    torch.testing.assert_close(stopped, ended, rtol=0, atol=3e-4)
    open_end = torch.cat([GRID, GRID.new_full((1,), math.inf)])
    assert torch.equal(draw(1e-5, grid=open_end).x0, ended)


def test_float32_arrives():
    z = start_noise(COUNT, 2).float()
    got = ops.sample_adaptive(MIXTURE.denoise, z, GRID, 1e-4)
    assert got.x0.dtype == torch.float32
    torch.testing.assert_close(got.x0.double(), draw(1e-4).x0, rtol=0, atol=2e-3)


def test_callback_sees_every_attempt():
    seen = []
    result = draw(1e-3, callback=lambda i, z, x0: seen.append((i, z, x0)))
    assert [i for i, _, _ in seen] == list(range((result.nfe - 1) // 3))
    assert torch.equal(seen[0][1], start_noise(COUNT, 2))


def test_no_samples_take_one_call():
    assert draw(1e-3, slice(0, 0)).x0.shape == (0, 2)


@pytest.mark.parametrize("edge", [-30.0, 0.0])
def test_what_is_no_longer_finite_ends(edge):
    """From the start or in the midst, in few attempts; the others are as they were."""

    def broken(z, logsnr):
        x0 = MIXTURE.denoise(z, logsnr)
        bad = (torch.arange(len(z)) == 1) & (logsnr > edge)
        return x0.masked_fill(bad.reshape(-1, *[1] * (z.ndim - 1)), math.nan)

    got, whole = ops.sample_adaptive(broken, start_noise(COUNT, 2), GRID, 1e-4), draw(1e-4)
    assert got.x0[1].isnan().all()
    others = torch.arange(COUNT) != 1
    torch.testing.assert_close(got.x0[others], whole.x0[others], rtol=0, atol=1e-12)
    assert got.nfe < 2 * whole.nfe


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="expected tolerance > 0, got 0"):
        draw(0.0)
    with pytest.raises(ValueError, match=r"logsnrs of shape \[N\+1\] with N >= 1"):
        draw(0.1, grid=torch.tensor([0.0, math.inf]))
    with pytest.raises(ValueError, match="arrive within 5 steps, but with tolerance 1e-09 it did"):
        draw(1e-9, max_steps=5)


def test_a_step_that_is_not_finite_is_tried_shorter():
    """It was too long, and no reason to end there."""
    calls = []

    def overflowing(z, logsnr):
        calls.append(None)
        x0 = MIXTURE.denoise(z, logsnr)
        return x0 * math.inf if 2 <= len(calls) <= 4 else x0

    got = ops.sample_adaptive(overflowing, start_noise(COUNT, 2), GRID, 1e-4)
    torch.testing.assert_close(got.x0, draw(1e-4).x0, rtol=0, atol=1e-2)
