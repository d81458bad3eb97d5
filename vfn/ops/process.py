"""The forward process: z = alpha x0 + sigma eps, and its posterior between two times."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import Scalar, as_float64, as_logsnr, like, linear_combination, same_shape
from vfn.ops.words import FixedVarType, VarType, check_choice


class AlphaSigma(NamedTuple):
    """Signal and noise scale: ``alpha^2 + sigma^2 = 1``."""

    alpha: Tensor
    sigma: Tensor


class LogAlphaSigma(NamedTuple):
    """Their natural logarithms."""

    log_alpha: Tensor
    log_sigma: Tensor


class Posterior(NamedTuple):
    """Mean in the data's shape; log-variance and standard deviation, which broadcast over it."""

    mean: Tensor
    logvar: Tensor
    std: Tensor


def alpha_sigma(logsnr: Scalar) -> AlphaSigma:
    """Signal and noise scale: ``alpha = sqrt(sigmoid(l))``, ``sigma = sqrt(sigmoid(-l))``.

    Args:
        logsnr: any shape, any value including ±inf.

    Returns:
        AlphaSigma(alpha, sigma), shape and dtype of ``logsnr``.

    Raises:
        TypeError: if ``logsnr`` is an integer tensor.

    Source: Kingma et al. 2021 (2107.00630), eq. 4.

    >>> alpha_sigma(torch.tensor([-float("inf"), 0.0, float("inf")])).alpha
    tensor([0.0000, 0.7071, 1.0000])
    """
    value = as_float64(logsnr, "logsnr")
    return AlphaSigma(like(_coef.alpha(value), logsnr), like(_coef.sigma(value), logsnr))


def log_alpha_sigma(logsnr: Scalar) -> LogAlphaSigma:
    """Logarithms of the scales: ``logsigmoid(±l) / 2``.

    Args:
        logsnr: any shape.

    Returns:
        LogAlphaSigma(log_alpha, log_sigma), shape and dtype of ``logsnr``.

    Raises:
        TypeError: if ``logsnr`` is an integer tensor.

    >>> log_alpha_sigma(torch.tensor(-100.0)).log_alpha
    tensor(-50.)
    """
    value = as_float64(logsnr, "logsnr")
    return LogAlphaSigma(
        like(0.5 * _coef.log_sigmoid(value), logsnr), like(0.5 * _coef.log_sigmoid(-value), logsnr)
    )


def q_sample(x0: Tensor, logsnr: Scalar, noise: Tensor) -> Tensor:
    """Diffuse data: ``z = alpha x0 + sigma noise``.

    Args:
        x0: data [B, ...], usually in [-1, 1].
        logsnr: [B] or any shape that broadcasts from the left.
        noise: standard normal, shape of ``x0``.

    Returns:
        z, shape, dtype and device of ``x0``.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if ``x0`` or ``logsnr`` are integers.

    Source: Kingma et al. 2021 (2107.00630), eq. 1.

    >>> x0, noise = torch.ones(2, 3), torch.zeros(2, 3)
    >>> q_sample(x0, torch.tensor([0.0, 20.0]), noise)[:, 0]
    tensor([0.7071, 1.0000])
    """
    logsnr = as_logsnr(logsnr, x0)
    same_shape(x0, noise, "x0", "noise")
    return linear_combination(_coef.alpha(logsnr), x0, _coef.sigma(logsnr), noise)


def posterior_logvar(
    logsnr_t: Tensor, logsnr_s: Tensor, var_type: FixedVarType, intp_frac: float | None = None
) -> Tensor:
    """Log-variance of a step t -> s, float64, -inf where s = t.

    ``(1-r) sigma_s^2`` (fixed_small), ``(1-r) sigma_t^2`` (fixed_large), or their interpolation in
    the logarithm by ``intp_frac`` in [0, 1] (fixed_medium), with ``r = exp(l_t - l_s)``.

    Args:
        logsnr_t: float tensor at the noisier time.
        logsnr_s: float tensor at the cleaner time, ``logsnr_s >= logsnr_t``.
        var_type: which variance.
        intp_frac: for fixed_medium: 0 is small, 1 is large.

    Returns:
        log-variance, broadcast shape of the two.

    Raises:
        ValueError: for an unknown ``var_type``, or an ``intp_frac`` missing or not in [0, 1].

    Source: Ho et al. 2020 (2006.11239), section 3.2; Salimans & Ho 2022 (2202.00512), appendix.

    >>> zero, ten = torch.zeros(()), torch.tensor(10.0)
    >>> posterior_logvar(zero, ten, "fixed_large").exp()
    tensor(0.5000, dtype=torch.float64)
    """
    check_choice(var_type, FixedVarType, "var_type")
    lt, ls = as_float64(logsnr_t, "logsnr_t"), as_float64(logsnr_s, "logsnr_s")
    log_gap = torch.log(_coef.one_minus_snr_ratio(lt, ls))
    if var_type == "fixed_small":
        return log_gap + _coef.log_sigmoid(-ls)
    if var_type == "fixed_large":
        return log_gap + _coef.log_sigmoid(-lt)
    small, large = _coef.log_sigmoid(-ls), _coef.log_sigmoid(-lt)
    return log_gap + _between(small, large, small.new_full((), _fraction(intp_frac)))


def _fraction(intp_frac: float | None) -> float:
    if intp_frac is None or not 0 <= intp_frac <= 1:
        raise ValueError(
            f"expected intp_frac in [0, 1] with var_type fixed_medium, got {intp_frac}"
        )
    return intp_frac


def learned_logvar(logsnr_t: Tensor, logsnr_s: Tensor, frac: Tensor) -> Tensor:
    """Log-variance of a step, interpolated between small (0) and large (1) for every element.

    Args:
        logsnr_t: [B] at the noisier time.
        logsnr_s: [B] at the cleaner time.
        frac: in [0, 1], [B, ...]: the sigmoid of what the network gives.

    Returns:
        log-variance, shape and dtype of ``frac``; -inf where s = t. At ``logsnr_s = +inf`` the
        small one is a point and there is nothing to interpolate: it is -inf but where ``frac`` is
        1; give a finite one, as `vlb_bpd` does.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Nichol & Dhariwal 2021 (2102.09672), eq. 15.

    >>> frac = torch.tensor([[0.0, 1.0]])
    >>> learned_logvar(torch.zeros(1), torch.full((1,), 40.0), frac)
    tensor([[-40.0000,  -0.6931]])
    """
    lt, ls = as_logsnr(logsnr_t, frac, "logsnr_t"), as_logsnr(logsnr_s, frac, "logsnr_s")
    log_gap = torch.log(_coef.one_minus_snr_ratio(lt, ls))
    small, large = _coef.log_sigmoid(-ls), _coef.log_sigmoid(-lt)
    log_gap, small, large = (x.to(frac.dtype) for x in (log_gap, small, large))
    return log_gap + _between(small, large, frac)


def _between(small: Tensor, large: Tensor, frac: Tensor) -> Tensor:
    """Log-variances, interpolated; where the small one is that of a point, only 1 leads away."""
    point = small.isneginf() & (frac < 1)
    mixed = torch.lerp(
        torch.where(small.isneginf(), torch.finfo(small.dtype).min, small), large, frac
    )
    return torch.where(point, -torch.inf, mixed)


def q_posterior(
    z: Tensor,
    x0: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    var_type: VarType = "fixed_small",
    intp_frac: float | Tensor | None = None,
) -> Posterior:
    """Posterior q(z_s | z_t, x0) for s < t.

    ``mean = r (alpha_s/alpha_t) z + (1-r) alpha_s x0``, ``r = exp(l_t - l_s)``; the log-variance
    of ``fixed_small`` is the true one; `posterior_logvar` and `learned_logvar` compute it.

    Args:
        z: noisy data at t [B, ...].
        x0: data, or a prediction of it, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: [B] or broadcasting from the left, ``>= logsnr_t``.
        var_type: fixed_small, fixed_large, fixed_medium or learned.
        intp_frac: for fixed_medium a number in [0, 1], for learned a tensor in the shape of ``z``.

    Returns:
        Posterior(mean, logvar, std): mean in the shape and dtype of ``z``; logvar and std in its
        dtype, ready to broadcast over ``z``. std is rounded once, exp(logvar / 2) is not.

    Raises:
        ValueError: if shapes, ``var_type`` or ``intp_frac`` do not fit.

    Source: Kingma et al. 2021 (2107.00630), appendix A.2.

    >>> z = x0 = torch.ones(1, 2)
    >>> q_posterior(z, x0, torch.zeros(1), torch.zeros(1)).mean
    tensor([[1., 1.]])
    """
    lt, ls, gap = posterior_times(z, x0, logsnr_t, logsnr_s)
    std = posterior_std(z, lt, ls, gap, var_type, intp_frac)
    if var_type == "learned":
        logvar = learned_logvar(lt, ls, cast(Tensor, intp_frac))
    else:
        logvar = posterior_logvar(lt, ls, var_type, cast("float | None", intp_frac)).to(z.dtype)
    return Posterior(posterior_mean(z, x0, lt, ls, gap), logvar, std)


def posterior_times(
    z: Tensor, x0: Tensor, logsnr_t: Scalar, logsnr_s: Scalar
) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends of a step in float64, checked against the data, and ``1 - r`` between them.

    Returns:
        logsnr at t, logsnr at s and ``1 - r``, shaped to broadcast over ``z``.
    """
    same_shape(z, x0, "z", "x0")
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    return lt, ls, _coef.one_minus_snr_ratio(lt, ls)


def posterior_mean(z: Tensor, x0: Tensor, lt: Tensor, ls: Tensor, gap: Tensor) -> Tensor:
    """Mean of the posterior, of what `posterior_times` gives.

    Returns:
        shape and dtype of ``z``.
    """
    # r alpha_s / alpha_t = sqrt(r) sigma_s / sigma_t stays finite at alpha_t = 0.
    coef_z = _coef.sigma_ratio(ls, lt) * torch.sqrt(_coef.snr_ratio(lt, ls))
    return linear_combination(coef_z, z, gap * _coef.alpha(ls), x0)


def posterior_std(
    z: Tensor,
    lt: Tensor,
    ls: Tensor,
    gap: Tensor,
    var_type: VarType,
    intp_frac: float | Tensor | None,
) -> Tensor:
    """Standard deviation of a step, of what `posterior_times` gives.

    Returns:
        dtype of ``z``, ready to broadcast over it.

    Raises:
        ValueError: if ``var_type`` or ``intp_frac`` do not fit.
    """
    check_choice(var_type, VarType, "var_type")
    if var_type == "learned":
        if not isinstance(intp_frac, Tensor):
            raise ValueError(
                "expected intp_frac to be a tensor in the shape of z with var_type learned, "
                f"got {intp_frac}"
            )
        same_shape(z, intp_frac, "z", "intp_frac")
        return torch.exp(0.5 * learned_logvar(lt, ls, intp_frac))
    if isinstance(intp_frac, Tensor):
        raise ValueError(
            f"expected intp_frac to be a number with var_type {var_type}, got a tensor"
        )
    if var_type == "fixed_small":
        scale = _coef.sigma(ls)
    elif var_type == "fixed_large":
        scale = _coef.sigma(lt)
    else:
        frac = _fraction(intp_frac)
        scale = _coef.sigma(ls) ** (1 - frac) * _coef.sigma(lt) ** frac
    return (torch.sqrt(gap) * scale).to(z.dtype)
