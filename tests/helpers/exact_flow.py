"""Mixtures of Gaussians: the exact denoiser, density and probability flow.

The flow is integrated by scipy along logsnr from the score, ``dz/dlogsnr = sigma^2/2 (z + score)``;
it shares neither formulas nor code with the library, which knows x0 and v.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.special import logsumexp
from torch import Tensor


class Mixture(NamedTuple):
    """Weights [K], means [K, D] and standard deviations [K], float64."""

    weights: Tensor
    means: Tensor
    stds: Tensor

    def denoise(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """E[x0 | z] for z [B, D]."""
        alpha = torch.sigmoid(logsnr).sqrt().to(z.dtype)[:, None, None]
        sigma2 = torch.sigmoid(-logsnr).to(z.dtype)[:, None, None]
        means, var = self.means.to(z.dtype), self.stds.square().to(z.dtype)[:, None]
        total = alpha**2 * var + sigma2
        centred = z[:, None] - alpha * means
        logits = -0.5 * ((centred**2 / total).sum(-1) + z.shape[1] * total.log()[..., 0])
        share = torch.softmax(logits + self.weights.log().to(z.dtype), 1)[..., None]
        return (share * (means + alpha * var / total * centred)).sum(1)

    def scores(self, z: np.ndarray, logsnr: float) -> tuple[np.ndarray, np.ndarray]:
        """Log-density of noisy data [B] and its gradient [B, D]."""
        alpha2 = 1 / (1 + np.exp(-logsnr))
        weights, means, stds = (value.numpy() for value in self)
        total = alpha2 * stds**2 + 1 / (1 + np.exp(logsnr))
        offset = z[:, None] - np.sqrt(alpha2) * means
        logs = np.log(weights) - 0.5 * (
            (offset**2).sum(-1) / total + z.shape[1] * np.log(2 * np.pi * total)
        )
        density = logsumexp(logs, axis=1)
        share = np.exp(logs - density[:, None])
        return density, -(share[..., None] * offset / total[:, None]).sum(1)

    def flow(self, z: Tensor, start: float = -20.0, end: float = 20.0) -> Tensor:
        """Where the probability flow takes z from logsnr ``start`` to ``end``, to about 1e-10."""

        def slope(logsnr: float, flat: np.ndarray) -> np.ndarray:
            state = flat.reshape(z.shape)
            change = 0.5 / (1 + np.exp(logsnr)) * (state + self.scores(state, logsnr)[1])
            return change.ravel()

        result = solve_ivp(
            slope, (start, end), z.double().numpy().ravel(), "DOP853", rtol=1e-12, atol=1e-12
        )
        return torch.from_numpy(result.y[:, -1].reshape(z.shape))


def mixture(seed: int, parts: int, dims: int, std: float, spread: float) -> Mixture:
    """A mixture drawn at random: means of deviation ``spread``, deviations around ``std``."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return 0.5 + torch.rand(parts, dtype=torch.float64, generator=generator)

    means = spread * torch.randn(parts, dims, dtype=torch.float64, generator=generator)
    weights = uniform()
    return Mixture(weights / weights.sum(), means, std * uniform())


def start_noise(count: int, dims: int) -> Tensor:
    """Standard normal draws [count, dims], float64, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, dims, dtype=torch.float64, generator=generator)
