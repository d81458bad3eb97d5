"""Noise levels of betas beside diffusers' schedulers."""

import math

import pytest
import torch

from tests.helpers.small import small_config
from vfn.configs import override
from vfn.interop import betas
from vfn.interop.diffusers_import import diffusion_from_scheduler
from vfn.model import schedule_of
from vfn.ops import posterior_logvar

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_variances_of_ancestral_steps_are_theirs(kind):
    scheduler = diffusers.DDPMScheduler(variance_type=kind)
    settings = diffusion_from_scheduler(scheduler.config)
    config = override(small_config(), settings)
    schedule, i = schedule_of(config.diffusion), 30  # where both are a twentieth apart
    here, there = schedule.logsnr(torch.tensor([i, i - 1], dtype=torch.float64) / 1000)
    ours = posterior_logvar(here, there, config.sample.var_type).exp()
    # Theirs is a difference in float32 of numbers near 1: 6e-8 of 7e-4.
    assert ours.item() == pytest.approx(scheduler._get_variance(i).item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels_of_betas_are_theirs(kind):
    scheduler = diffusers.DDIMScheduler(beta_schedule=kind, beta_start=2e-4, beta_end=0.015)
    config = override(
        small_config(),
        {
            "logsnr_schedule": "vfn.interop.betas:betas_schedule",
            "schedule_options": {"kind": kind, "beta_start": 2e-4, "beta_end": 0.015},
        },
    )
    schedule = schedule_of(config.diffusion)
    times = torch.arange(1000, dtype=torch.float64) / 1000
    alpha2 = torch.sigmoid(schedule.logsnr(times))
    # Theirs is a product of a thousand float32.
    torch.testing.assert_close(alpha2, scheduler.alphas_cumprod.double(), rtol=3e-4, atol=1e-6)
    torch.testing.assert_close(schedule.time(schedule.logsnr(times)), times, rtol=0, atol=1e-12)
    levels = schedule.logsnr(torch.linspace(0, 1, 5001, dtype=torch.float64))
    assert (levels.diff() < 0).all()
    assert schedule.time(schedule.logsnr(1.0)).item() == 0.999


def test_noise_levels_of_betas_are_exact():
    from vfn.interop.betas import betas_schedule

    schedule = betas_schedule(betas=[0.1, 0.2, 0.5])
    for i, alpha2 in enumerate((0.9, 0.72, 0.36)):
        expected = math.log(alpha2 / (1 - alpha2))
        assert schedule.logsnr(torch.tensor(i / 3, dtype=torch.float64)).item() == pytest.approx(
            expected, rel=1e-13
        )


def test_levels_of_other_betas_are_not_those_on_a_device(monkeypatch):
    """Which are kept there, schedule by schedule."""
    monkeypatch.setattr(betas, "_COPIES", {})
    meta = torch.device("meta")
    for count in (10, 20):
        levels = torch.zeros(count)
        assert len(betas._on(("linear", count), levels, meta)) == count
    assert len(betas._on(("linear", 10), torch.zeros(3), meta)) == 10  # that of before
