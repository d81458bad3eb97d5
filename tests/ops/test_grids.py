"""Sampling grids: their ends, their spacing, and what they refuse."""

import math

import pytest
import torch

from vfn import ops
from vfn.ops import logsnr_grid, logsnr_schedule

COSINE = ops.logsnr_schedule("cosine")


def test_grid_runs_from_noise_to_data():
    schedule = logsnr_schedule("cosine")
    grid = logsnr_grid(schedule, 8)
    assert grid.shape == (9,)
    assert grid.dtype == torch.float64
    for i, logsnr in enumerate(grid):
        assert logsnr == schedule.logsnr(1 - i / 8)


def test_karras_grid_is_edm_s():
    sigma = torch.exp(-0.5 * ops.karras_grid(10))
    assert ops.karras_grid(1).exp().tolist() == pytest.approx([80**-2, math.inf])
    expected = [
        (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(10)
    ]
    assert sigma.tolist() == pytest.approx([*expected, 0])
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        ops.karras_grid(5, 2.0, 1.0)


def test_uniform_grid_has_equal_steps():
    grid = ops.uniform_logsnr_grid(-9.0, 12.0, 7)
    assert grid.tolist() == pytest.approx([-9, -6, -3, 0, 3, 6, 9, 12])


def test_grids_stay_within_the_schedule():
    narrow = ops.logsnr_schedule("cosine", -6.0, 8.0)
    for name in ("time", "logsnr", "karras"):
        grid = ops.sampling_grid(name, narrow, 7)
        assert len(grid) == 8
        assert (grid.diff() > 0).all()
        assert grid[0].item() == pytest.approx(-6.0)
        assert name == "karras" or grid[-1].item() == pytest.approx(8.0)
    assert ops.sampling_grid("karras", narrow, 7)[-2].item() == pytest.approx(8.0)
    assert torch.equal(ops.sampling_grid("karras", COSINE, 7), ops.karras_grid(7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.uniform_logsnr_grid(1.0, 0.0, 3), "logsnr_min < logsnr_max"),
        (lambda: ops.uniform_logsnr_grid(-math.inf, 0.0, 3), "expected finite limits"),
        (lambda: ops.karras_grid(3, rho=math.nan), "rho > 0, all finite, got 0.002, 80.0, nan"),
        (lambda: ops.karras_grid(3, sigma_max=math.inf), "all finite, got 0.002, inf, 7.0"),
        (lambda: ops.uniform_logsnr_grid(0.0, 1.0, 0), "at least 1 sampling step"),
        (lambda: logsnr_grid(COSINE, 0), "at least 1 sampling step, got 0"),
        (lambda: ops.sampling_grid("even", COSINE, 3), "grid to be one of time, logsnr, karras"),
    ],
)
def test_what_is_no_grid_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("steps", [0, 2.5, "8", None])
def test_numbers_of_steps_that_are_none_are_refused(steps):
    for make in (ops.karras_grid, lambda n: ops.logsnr_grid(ops.logsnr_schedule("cosine"), n)):
        with pytest.raises(ValueError, match="at least 1 sampling step, got"):
            make(steps)
