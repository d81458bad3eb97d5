"""The sampling loop over a denoiser ``denoise(z, logsnr) -> x0``."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from vfn.ops.steps import ddim_step

Denoiser = Callable[[Tensor, Tensor], Tensor]


class Step(Protocol):
    """A solver's step from logsnr_t to logsnr_s."""

    def __call__(
        self, z: Tensor, x0: Tensor, logsnr_t: Tensor, logsnr_s: Tensor, *, noise: Tensor | None
    ) -> Tensor: ...


class Sample(NamedTuple):
    """Samples [B, ...] and the number of function evaluations (calls of the denoiser)."""

    x0: Tensor
    nfe: int


def sample(
    denoise: Denoiser,
    z: Tensor,
    logsnrs: Tensor,
    step: Step = ddim_step,
    noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Sample:
    """Integrate from noise to data; the last step returns the denoiser's x0 itself.

    Args:
        denoise: ``denoise(z, logsnr) -> x0`` with logsnr [B], float64.
        z: start noise [B, ...], standard normal.
        logsnrs: [N+1], rising from noise to data, see `logsnr_grid`.
        step: `ddim_step`, `ancestral_step`, or either with options bound by `functools.partial`.
        noise: ``noise(i)`` gives the standard normal of step i, shape of ``z``; None for
            deterministic steps.
        callback: called as ``callback(i, z, x0)`` with the state before step i and its prediction.

    Returns:
        Sample(x0, nfe): nfe is N.

    Raises:
        ValueError: if ``logsnrs`` is not one-dimensional with at least two values.

    Source: Song et al. 2020 (2010.02502), section 4.

    >>> result = sample(lambda z, logsnr: 0 * z, torch.randn(2, 3), torch.linspace(-20, 20, 5))
    >>> result.nfe, result.x0.abs().max().item()
    (4, 0.0)
    """
    if logsnrs.ndim != 1 or len(logsnrs) < 2:
        raise ValueError(
            f"expected logsnrs of shape [N+1] with N >= 1, got shape {tuple(logsnrs.shape)}"
        )
    steps = len(logsnrs) - 1
    x0 = z
    for i in range(steps):
        logsnr_t, logsnr_s = (logsnrs[j].double().expand(z.shape[0]) for j in (i, i + 1))
        x0 = denoise(z, logsnr_t)
        if callback is not None:
            callback(i, z, x0)
        if i < steps - 1:
            z = step(z, x0, logsnr_t, logsnr_s, noise=noise(i) if noise else None)
    return Sample(x0, steps)
