"""The target of progressive distillation."""

import torch
from torch import Tensor

from vfn.ops._coef import Scalar, check_logsnr, from_left, gap, one_minus_exp
from vfn.ops.integration import Denoiser
from vfn.ops.steps import ddim_step


def distill_target(
    denoise: Denoiser, z: Tensor, logsnr_t: Scalar, logsnr_mid: Scalar, logsnr_s: Scalar
) -> Tensor:
    """The x0 with which one DDIM step t -> s lands where the teacher's two half steps do.

    ``x = (z_s - (sigma_s/sigma_t) z_t) / (alpha_s - (sigma_s/sigma_t) alpha_t)``, where z_s is the
    result of two steps over mid. Written as what it is, a mean of the teacher's two predictions,
    ``w x_t + (1-w) x_mid`` with ``1-w = (1 - q) / (1 - p q)``, ``p = exp((l_t - l_mid)/2)``,
    ``q = exp((l_mid - l_s)/2)``; nothing cancels.

    Args:
        denoise: the teacher, ``denoise(z, logsnr) -> x0``, called twice.
        z: noisy data at t [B, ...].
        logsnr_t: [B] or broadcasting from the left.
        logsnr_mid: likewise, half way in time.
        logsnr_s: likewise, ``> logsnr_t``; +inf at s = 0, where the target is the teacher's last
            x0.

    Returns:
        target x0, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Salimans & Ho 2022 (2202.00512), algorithm 2 and appendix G.

    >>> z = torch.randn(2, 3)
    >>> distill_target(lambda z, logsnr: 0 * z + 1, z, -1.0, 0.0, 1.0).mean()
    tensor(1.)
    """
    lt, lm = check_logsnr(logsnr_t, z, "logsnr_t"), check_logsnr(logsnr_mid, z, "logsnr_mid")
    ls = check_logsnr(logsnr_s, z, "logsnr_s")
    x0_t = denoise(z, lt)
    x0_mid = denoise(ddim_step(z, x0_t, lt, lm), lm)
    share = one_minus_exp(0.5 * gap(lm, ls)) / one_minus_exp(0.5 * gap(lt, ls))
    return torch.lerp(x0_t, x0_mid, from_left(share, z).to(z.dtype).expand_as(z))
