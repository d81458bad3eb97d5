"""One sampling step t -> s (s < t), given a prediction of x0."""

import torch
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import Scalar, as_logsnr, linear_combination, same_shape
from vfn.ops.process import posterior_mean, posterior_std, posterior_times
from vfn.ops.words import VarType


def ddim_step(
    z: Tensor,
    x0: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """DDIM step: ``z_s = alpha_s x0 + sqrt(sigma_s^2 - var) eps + sqrt(var) noise``.

    ``var = eta^2 (1-r) sigma_s^2``, ``r = exp(l_t - l_s)``, and eps is the one implied by z and x0.
    With eps eliminated the coefficient of z is ``sqrt(sigma_s^2 - var) / sigma_t`` and that of x0
    ``alpha_s q / (1 + sqrt(1-q))``, ``q = (1-r)(1 + eta^2 r)``, which does not cancel for close
    neighbours (``alpha_s (1 - sqrt(r))`` for ``eta=0``). ``eta=0`` is deterministic, ``eta=1``
    equals `ancestral_step` with fixed_small.

    Args:
        z: noisy data at t [B, ...].
        x0: predicted data, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, ``>= logsnr_t``.
        eta: share of the posterior's standard deviation that is drawn anew, in [0, 1].
        noise: standard normal, shape of ``z``; needed where ``eta > 0``.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if shapes do not fit, ``eta`` is not in [0, 1], or noise is missing.

    Source: Song et al. 2020 (2010.02502), eq. 12.

    >>> z, x0 = torch.ones(1, 2), torch.zeros(1, 2)
    >>> ddim_step(z, x0, torch.zeros(1), torch.full((1,), 40.0))
    tensor([[2.9149e-09, 2.9149e-09]])
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"expected eta in [0, 1], got {eta}")
    same_shape(z, x0, "z", "x0")
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    if eta == 0:
        return linear_combination(_coef.sigma_ratio(ls, lt), z, _of_x0(lt, ls), x0)
    if noise is None:
        raise ValueError(f"expected noise of shape {tuple(z.shape)} for eta={eta}, got None")
    same_shape(z, noise, "z", "noise")
    r, gap = _coef.snr_ratio(lt, ls), _coef.one_minus_snr_ratio(lt, ls)
    kept = (1 - eta**2) + eta**2 * r  # 1 - var / sigma_s^2
    q = gap * (1 + eta**2 * r)
    coef_z = _coef.sigma_ratio(ls, lt) * torch.sqrt(kept)
    coef_x0 = _coef.alpha(ls) * q / (1 + torch.sqrt(r * kept))
    std = (eta * torch.sqrt(gap) * _coef.sigma(ls)).to(z.dtype)
    return torch.addcmul(linear_combination(coef_z, z, coef_x0, x0), std, noise)


def ddim_inverse_step(z: Tensor, x0: Tensor, logsnr_s: Scalar, logsnr_t: Scalar) -> Tensor:
    """Deterministic DDIM step backwards, s -> t: the inverse of `ddim_step` for the same x0.

    ``z_t = (sigma_t/sigma_s) z + alpha_t (1 - exp((l_s - l_t)/2)) x0``.

    Args:
        z: less noisy data at s [B, ...].
        x0: predicted data, shape of ``z``.
        logsnr_s: [B] or broadcasting from the left; not +inf, where z holds no noise to amplify,
            and in float32 below 177.
        logsnr_t: likewise, ``<= logsnr_s``.

    Returns:
        z_t, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Song et al. 2020 (2010.02502), section 4.3.

    >>> z, x0, low, high = torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1), torch.ones(1)
    >>> ddim_step(ddim_inverse_step(z, x0, high, low), x0, low, high)
    tensor([[1.0000, 1.0000]])
    """
    same_shape(z, x0, "z", "x0")
    ls, lt = as_logsnr(logsnr_s, z, "logsnr_s"), as_logsnr(logsnr_t, z, "logsnr_t")
    return linear_combination(_coef.sigma_ratio(lt, ls), z, _of_x0_back(ls, lt), x0)


def flow_step(z: Tensor, x0: Tensor, logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """`ddim_step` where s is less noisy than t, and `ddim_inverse_step` where it is noisier.

    Returns:
        z_s, shape and dtype of ``z``.
    """
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    back, none = ls < lt, torch.zeros_like(ls)
    # The other way is asked of levels at which it, and its derivative, are numbers.
    ahead = _of_x0(torch.where(back, none, lt), torch.where(back, none, ls))
    behind = _of_x0_back(torch.where(back, lt, none), torch.where(back, ls, none))
    coef_x0 = torch.where(back, behind, ahead)
    return linear_combination(_coef.sigma_ratio(ls, lt), z, coef_x0, x0)


def _of_x0(low: Tensor, high: Tensor) -> Tensor:
    """What a step of the flow takes of x0, from a level to one that is less noisy."""
    return _coef.alpha(high) * _coef.one_minus_exp(0.5 * _coef.gap(low, high))


def _of_x0_back(high: Tensor, low: Tensor) -> Tensor:
    """The same backwards; alpha_low exp(h) = sigma_low alpha_high/sigma_high is finite at 0."""
    share = _coef.one_minus_exp(0.5 * _coef.gap(low, high))
    return -_coef.sigma(low) * _coef.alpha_over_sigma(high) * share


def ancestral_step(
    z: Tensor,
    x0: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    noise: Tensor,
    var_type: VarType = "fixed_small",
    intp_frac: float | Tensor | None = None,
) -> Tensor:
    """Ancestral step: a draw from the posterior, ``z_s = mean + std noise``.

    Args:
        z: noisy data at t [B, ...].
        x0: predicted data, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, ``>= logsnr_t``.
        noise: standard normal, shape of ``z``.
        var_type: which variance: fixed_small, the true one given x0, fixed_large, fixed_medium
            between them, or learned, which the network gives.
        intp_frac: for fixed_medium a number in [0, 1], for learned a tensor in the shape of ``z``.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if shapes, ``var_type`` or ``intp_frac`` do not fit.

    Source: Ho et al. 2020 (2006.11239), algorithm 2.

    >>> z = x0 = noise = torch.ones(1, 2)
    >>> ancestral_step(z, x0, torch.zeros(1), torch.zeros(1), noise)
    tensor([[1., 1.]])
    """
    same_shape(z, noise, "z", "noise")
    lt, ls, gap = posterior_times(z, x0, logsnr_t, logsnr_s)
    std = posterior_std(z, lt, ls, gap, var_type, intp_frac)
    return torch.addcmul(posterior_mean(z, x0, lt, ls, gap), std, noise)
