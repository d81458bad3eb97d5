"""Networks with EDM's call, beside closed forms, its own sampler in its own words, and itself."""

import os
import sys
from itertools import pairwise

import pytest
import torch

from vfn.interop import edm_denoiser
from vfn.ops import (
    classifier_free,
    ddim_step,
    flow_loglik,
    heun_solver,
    heun_step,
    karras_grid,
    logsnr_grid,
    logsnr_schedule,
    sample,
)

SPREAD = 0.5  # standard deviation of the data


class Ideal(torch.nn.Module):
    """D of normal data around a mean of each class, in EDM's form: ``c_skip x + c_out F``."""

    def forward(self, x, sigma, class_labels=None, shift=0.0):
        mean = 0 if class_labels is None else class_labels @ torch.tensor([[0.5], [-0.5]]).to(x)
        mean = mean + shift
        share = SPREAD**2 / (SPREAD**2 + sigma.reshape(-1, 1) ** 2)
        return share * x + (1 - share) * mean


def edm_sampler(network, latents, labels, steps=18, low=0.002, high=80.0, rho=7):
    """Algorithm 1 of its paper without churn, on ``x = x0 + sigma eps``."""
    ends = high ** (1 / rho), low ** (1 / rho)
    levels = [(ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** rho for i in range(steps)] + [0]
    x = latents * levels[0]
    for i in range(steps):
        slope = (x - network(x, torch.tensor(levels[i], dtype=torch.float64), labels)) / levels[i]
        ahead = x + (levels[i + 1] - levels[i]) * slope
        if levels[i + 1]:
            there = network(ahead, torch.tensor(levels[i + 1], dtype=torch.float64), labels)
            slope = (slope + (ahead - there) / levels[i + 1]) / 2
            ahead = x + (levels[i + 1] - levels[i]) * slope
        x = ahead
    return x


def started(latents, high=80.0):
    """The same beginning, scaled to unit variance."""
    return latents * high / (1 + high**2) ** 0.5


def heun(denoise, z, logsnrs):
    """`heun_step` at every level; the solver of that name takes its first step by DDIM."""
    for here, there in pairwise(logsnrs[:-1]):
        x0 = denoise(z, here)
        z = heun_step(z, x0, here, there, denoise(ddim_step(z, x0, here, there), there))
    return denoise(z, logsnrs[-2])


def test_its_own_sampler_draws_the_same():
    latents = torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 3, dtype=torch.float64)
    expected = edm_sampler(Ideal(), latents, labels)
    denoise = edm_denoiser(Ideal(), labels)
    found = heun(denoise, started(latents), karras_grid(18))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    solved = sample(denoise, started(latents), karras_grid(18), heun_solver()).x0
    torch.testing.assert_close(solved, expected, rtol=0, atol=1e-3)


def test_solvers_and_likelihood_of_normal_data():
    """The flow of normal data is linear, and their density is known."""
    denoise = edm_denoiser(Ideal())
    grid = logsnr_grid(logsnr_schedule("cosine", -12.0, 12.0), 200)
    z = torch.randn(400, 2, dtype=torch.float64)
    drawn = sample(denoise, z, grid, heun_solver()).x0
    torch.testing.assert_close(drawn, SPREAD * z, rtol=0, atol=2e-3)
    x0 = SPREAD * torch.randn(6, 2, dtype=torch.float64)
    probes = torch.randn(1, 6, 2, dtype=torch.float64).sign()
    found = flow_loglik(denoise, x0, grid, probes).loglik[0]
    expected = torch.distributions.Normal(0.0, SPREAD).log_prob(x0).sum(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_labels_options_and_types():
    z, logsnr = torch.randn(3, 4), torch.tensor([-3.0, 0.0, 3.0])
    one = edm_denoiser(Ideal(), torch.tensor([[1.0, 0.0]]))
    assert one(z, logsnr).dtype == torch.float32
    assert edm_denoiser(Ideal())(z.double(), logsnr).dtype == torch.float64
    each = edm_denoiser(Ideal(), torch.tensor([[1.0, 0.0]] * 3))
    assert torch.equal(one(z, logsnr), each(z, logsnr))
    shifted = edm_denoiser(Ideal(), shift=0.5)
    assert torch.allclose(shifted(z, logsnr), one(z, logsnr))
    none = edm_denoiser(Ideal())
    guided = classifier_free(one, none, 1.0)(z, logsnr)
    assert torch.allclose(guided, 2 * one(z, logsnr) - none(z, logsnr), atol=1e-6)
    with pytest.raises(ValueError, match=r"labels of 3 pictures, or of 1 for all, got \[2, 2\]"):
        edm_denoiser(Ideal(), torch.zeros(2, 2))(z, logsnr)


@pytest.mark.skipif(not os.environ.get("VFN_EDM"), reason="VFN_EDM names no checkout of EDM")
def test_beside_its_own_code(monkeypatch):
    monkeypatch.setattr(sys, "path", [os.environ["VFN_EDM"], *sys.path])
    from training.networks import EDMPrecond

    network = EDMPrecond(
        8, 1, label_dim=3, model_type="SongUNet", model_channels=32, channel_mult=[1, 2],
        num_blocks=1, attn_resolutions=[4],
    ).eval()  # fmt: skip
    for param in network.parameters():
        torch.nn.init.normal_(param, std=0.05)
    latents, labels = torch.randn(2, 1, 8, 8).double(), torch.eye(3)[:2]
    with torch.no_grad():
        expected = edm_sampler(lambda *given: network(*given).double(), latents, labels)
        denoise = edm_denoiser(network, labels)
        found = heun(denoise, started(latents), karras_grid(18))
    assert expected.std() > 0.1
    # It computes in float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
