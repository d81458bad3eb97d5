"""Networks with the call of EDM as denoisers: every solver, likelihood and metric takes them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vfn.ops import Denoiser, alpha_sigma


def edm_denoiser(
    network: Callable[..., Tensor], labels: Tensor | None = None, **options: Any
) -> Denoiser:
    """A network that removes noise from ``x0 + sigma eps`` as ``denoise(z, logsnr) -> x0``.

    ``x0 = D(z / alpha, exp(-logsnr / 2))``: what was scaled down to unit variance is scaled up
    again, to where the noise is ``sigma/alpha``. Its files are pickles of code, and never opened
    here: load them where they come from.

    Args:
        network: D, called as ``D(x, sigma)`` or ``D(x, sigma, labels)``, with x [B, ...] and sigma
            [B]; it may compute in float32.
        labels: [B, K] as it takes them, or [1, K] for all pictures; None leaves them out.
        options: further arguments of its call, such as ``force_fp32``.

    Returns:
        ``denoise(z, logsnr)``; x0 has the dtype of z.

    Raises:
        ValueError: for labels of another number than there are pictures, when it is called.

    Source: Karras et al. 2022 (2206.00364), eq. 3.

    >>> from vfn.ops import heun_solver, karras_grid, sample
    >>> D = lambda x, sigma: x / (1 + sigma.view(-1, 1) ** 2)  # of data that are standard normal
    >>> found = sample(edm_denoiser(D), torch.randn(2, 3), karras_grid(18), heun_solver())
    >>> found.nfe
    34
    """

    def denoise(z: Tensor, logsnr: Tensor) -> Tensor:
        levels = torch.as_tensor(logsnr, dtype=torch.float64, device=z.device).expand(len(z))
        alpha = alpha_sigma(levels).alpha.view(-1, *[1] * (z.ndim - 1))
        x = (z.double() / alpha).to(z.dtype)
        sigma = torch.exp(-0.5 * levels).to(z.dtype)
        if labels is None:
            return network(x, sigma, **options).to(z.dtype)
        if len(labels) not in (1, len(z)):
            raise ValueError(
                f"expected labels of {len(z)} pictures, or of 1 for all, got {list(labels.shape)}"
            )
        given = labels.to(z.device).expand(len(z), *labels.shape[1:])
        return network(x, sigma, given, **options).to(z.dtype)

    return denoise
