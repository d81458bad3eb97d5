"""Steps of higher order, as functions of the predictions that they use.

A step is exact for a constant x0, as `ddim_step` is; nearly all solvers only say which mixture of
predictions stands for x0 between t and s, with ``h = (l_s - l_t) / 2``, the step's length in
log(alpha/sigma). The Adams steps instead follow the flow as a function of the angle phi,
``alpha = cos phi``, ``sigma = sin phi``, in which it is ``dz/dphi = v``: regular from pure noise to
pure data, where h is infinite.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import Scalar, as_logsnr, linear_combination, same_shape


class _Before(NamedTuple):
    """An earlier prediction and where it was made."""

    x0: Tensor
    logsnr: Tensor


def renoise_step(z: Tensor, logsnr_s: Scalar, logsnr_t: Scalar, noise: Tensor) -> Tensor:
    """A draw from the forward process, s -> t: noise is added to noisy data.

    ``z_t = (alpha_t/alpha_s) z + sqrt(1-r) sigma_t noise``, ``r = exp(l_t - l_s)``.

    Args:
        z: less noisy data at s [B, ...].
        logsnr_s: [B] or broadcasting from the left; not -inf.
        logsnr_t: likewise, ``<= logsnr_s``.
        noise: standard normal, shape of ``z``.

    Returns:
        z_t, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma et al. 2021 (2107.00630), appendix A.1.

    >>> z, noise = torch.ones(1), torch.zeros(1)
    >>> renoise_step(z, torch.full((1,), float("inf")), torch.zeros(1), noise)
    tensor([0.7071])
    """
    same_shape(z, noise, "z", "noise")
    ls, lt = as_logsnr(logsnr_s, z, "logsnr_s"), as_logsnr(logsnr_t, z, "logsnr_t")
    std = torch.sqrt(_coef.one_minus_snr_ratio(lt, ls)) * _coef.sigma(lt)
    return linear_combination(_coef.alpha_ratio(lt, ls), z, std, noise)


def heun_step(z: Tensor, x0: Tensor, logsnr_t: Scalar, logsnr_s: Scalar, x0_next: Tensor) -> Tensor:
    """Heun's step t -> s: the noise is the mean of that implied at t and after a DDIM step, at s.

    The step of ``x0 + exp(h)/2 (x0_next - x0)``. For a long step the factor is large, 1,000 at
    h = 7.6 and beyond float32 at 89: take such a step, as the first from logsnr -20 is, with
    `ddim_step` instead.

    Args:
        z: noisy data at t [B, ...].
        x0: prediction at t, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left; finite.
        logsnr_s: likewise, ``>= logsnr_t``; finite.
        x0_next: prediction at s, of ``ddim_step(z, x0, logsnr_t, logsnr_s)``.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Karras et al. 2022 (2206.00364), algorithm 1.

    >>> z, x0 = torch.ones(1, 2), torch.zeros(1, 2)
    >>> heun_step(z, x0, 0.0, 1.0, x0)  # sigma_s / sigma_t
    tensor([[0.7334, 0.7334]])
    """
    _check(z, x0=x0, x0_next=x0_next)
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    share = 0.5 * torch.exp(0.5 * (ls - lt))
    return _step(z, lt, ls, [(1 - share, x0), (share, x0_next)])


def dpmpp_2m_step(
    z: Tensor,
    x0: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    x0_prev: Tensor | None = None,
    logsnr_prev: Scalar | None = None,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """DPM-Solver++(2M): the step of the prediction extrapolated to the middle of the step.

    ``x0 + (h / 2 h_prev) (x0 - x0_prev)``. With ``eta`` it follows the stochastic equation that
    brings in, in short steps, eta times the variance of ancestral sampling's noise: the coefficient
    of z is ``(sigma_s/sigma_t) exp(-eta h)``, that of x0 ``alpha_s (1 - exp(-(1 + eta) h))`` and
    that of the noise ``sigma_s sqrt(1 - exp(-2 eta h))``. ``eta=1`` is SDE-DPM-Solver++(2M).

    The step to the end of a grid, far longer than the one before, is better taken with `ddim_step`.

    Args:
        z: noisy data at t [B, ...].
        x0: prediction at t, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, ``>= logsnr_t``; finite.
        x0_prev: prediction of the step before; None in the first step, which is of first order.
        logsnr_prev: where that was made, ``< logsnr_t``.
        eta: >= 0; 0 is deterministic.
        noise: standard normal, shape of ``z``; needed where ``eta > 0``.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if shapes do not fit, ``eta < 0``, noise is missing, or only one of x0_prev and
            logsnr_prev is given.

    Source: Lu et al. 2022 (2211.01095), algorithm 2.

    >>> z, x0 = torch.ones(1, 2), torch.zeros(1, 2)
    >>> dpmpp_2m_step(z, x0, 0.0, 1.0, x0, -1.0)
    tensor([[0.7334, 0.7334]])
    """
    _check(z, x0=x0)
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    before = _before(z, x0_prev, logsnr_prev)
    if before is None:
        return _step(z, lt, ls, [(1.0, x0)], eta, noise)
    ahead = 0.5 * (ls - lt) / (lt - before.logsnr)
    return _step(z, lt, ls, [(1 + ahead, x0), (-ahead, before.x0)], eta, noise)


def dpmpp_3m_step(
    z: Tensor,
    x0: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    x0_prev: Tensor,
    logsnr_prev: Scalar,
    x0_prev2: Tensor,
    logsnr_prev2: Scalar,
    curvature: float = 0.5,
) -> Tensor:
    """DPM-Solver++(3M): x0 as a parabola in h through the last three predictions.

    ``x0 + (phi_2/phi_1) D_1 + 2 curvature (phi_3/phi_1) D_2`` with the slope ``D_1`` and the half
    second derivative ``D_2`` of the parabola, per step, and ``phi_k`` the integral of
    ``exp(-h (1-u)) u^(k-1) / (k-1)!`` over u in [0, 1]. ``curvature=1`` is the integral of the
    parabola and of third order; 0.5 is what the authors' and other programs compute, of second
    order, and often closer at few steps.

    Args:
        z: noisy data at t [B, ...].
        x0: prediction at t, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, ``> logsnr_t``; finite.
        x0_prev: prediction of the step before.
        logsnr_prev: where that was made, ``< logsnr_t``.
        x0_prev2: prediction of the step before that.
        logsnr_prev2: where that was made, ``< logsnr_prev``.
        curvature: share of the parabola's second derivative.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Lu et al. 2022 (2211.01095), their program.

    >>> z, x0 = torch.ones(1, 2), torch.zeros(1, 2)
    >>> dpmpp_3m_step(z, x0, 0.0, 1.0, x0, -1.0, x0, -2.0)
    tensor([[0.7334, 0.7334]])
    """
    _check(z, x0=x0, x0_prev=x0_prev, x0_prev2=x0_prev2)
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    lp = as_logsnr(logsnr_prev, z, "logsnr_prev")
    gap, gap_prev = ls - lt, lt - lp
    gap_prev2 = lp - as_logsnr(logsnr_prev2, z, "logsnr_prev2")
    square, bulge = _moments(0.5 * gap)
    # D_2 is the difference of both slopes over the two steps back; D_1 is the nearer slope plus
    # D_2 times one step back. Steps back in units of this one.
    near, far = gap_prev / gap, gap_prev2 / gap
    bend = ((square + bulge) * near + curvature * square) / (near + far)
    of_near, of_far = (square + bulge + bend) / near, bend / far
    return _step(z, lt, ls, [(1 + of_near, x0), (-of_near - of_far, x0_prev), (of_far, x0_prev2)])


def unic_step(
    z: Tensor,
    x0: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    x0_next: Tensor,
    x0_prev: Tensor | None = None,
    logsnr_prev: Scalar | None = None,
) -> Tensor:
    """UniC-2, the corrector of UniPC: the step t -> s again, with the prediction made at s.

    The step of x0 as the parabola in h through the predictions at prev, t and s; without
    ``x0_prev`` (UniC-1) of the mean of x0 and x0_next. Its predictor is `dpmpp_2m_step`.

    Args:
        z: noisy data at t [B, ...].
        x0: prediction at t, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, ``> logsnr_t``; finite.
        x0_next: prediction at s, of the predictor's z_s.
        x0_prev: prediction of the step before; None in the first step.
        logsnr_prev: where that was made, ``< logsnr_t``.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit, or only one of x0_prev and logsnr_prev is given.

    Source: Zhao et al. 2023 (2302.04867), UniC with B(h) = exp(h) - 1 and predictions of x0.

    >>> z, x0 = torch.ones(1, 2), torch.zeros(1, 2)
    >>> unic_step(z, x0, 0.0, 1.0, x0, x0, -1.0)
    tensor([[0.7334, 0.7334]])
    """
    _check(z, x0=x0, x0_next=x0_next)
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    before = _before(z, x0_prev, logsnr_prev)
    if before is None:
        return _step(z, lt, ls, [(0.5, x0), (0.5, x0_next)])
    gap = ls - lt
    ratio = gap / (lt - before.logsnr)
    square, bulge = _moments(0.5 * gap)
    ahead, back = square + bulge / (1 + ratio), bulge * ratio * (ratio / (1 + ratio))
    return _step(z, lt, ls, [(1 - ahead + back, x0), (ahead, x0_next), (-back, before.x0)])


def ab2_step(
    z: Tensor,
    v: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    v_prev: Tensor,
    logsnr_prev: Scalar,
) -> Tensor:
    """Adams-Bashforth step of second order along the angle, in which z turns at rate v.

    ``z_s = z - d (v + (d / 2 d_prev) (v - v_prev))`` with the angles ``d = phi_t - phi_s`` and
    ``d_prev = phi_prev - phi_t``. It is regular at both ends, logsnr -inf and +inf.

    Args:
        z: noisy data at t [B, ...].
        v: velocity at t, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise; ``< logsnr_t`` goes back towards noise.
        v_prev: velocity at the step before.
        logsnr_prev: where that was, on the other side of t than s; ``d / d_prev`` is a number.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Salimans & Ho 2022 (2202.00512), appendix D, for dz/dphi = v; Bashforth & Adams 1883.

    >>> z, v, pure_noise, pure_data = torch.ones(1), torch.zeros(1), -float("inf"), float("inf")
    >>> ab2_step(z, v, 0.0, pure_data, v - 2, pure_noise)  # 1 - pi/4 (0 + (0 + 2) / 2)
    tensor([0.2146])
    """
    _check(z, v=v, v_prev=v_prev)
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    angle = turn(lt, ls)
    ahead = 0.5 * angle / turn(as_logsnr(logsnr_prev, z, "logsnr_prev"), lt)
    return add_terms(z, [(-angle * (1 + ahead), v), (angle * ahead, v_prev)])


def am2_step(z: Tensor, v: Tensor, logsnr_t: Scalar, logsnr_s: Scalar, v_next: Tensor) -> Tensor:
    """Adams-Moulton step of second order along the angle: the corrector that goes with `ab2_step`.

    The trapezoidal rule ``z_s = z - d (v + v_next) / 2`` with the angle ``d = phi_t - phi_s``.

    Args:
        z: noisy data at t [B, ...].
        v: velocity at t, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise; ``< logsnr_t`` goes back towards noise.
        v_next: velocity at s, of the predictor's z_s.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Salimans & Ho 2022 (2202.00512), appendix D, for dz/dphi = v; Moulton 1926.

    >>> am2_step(torch.ones(1), torch.ones(1), -float("inf"), float("inf"), torch.zeros(1))
    tensor([0.2146])
    """
    _check(z, v=v, v_next=v_next)
    half = -0.5 * turn(as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s"))
    return add_terms(z, [(half, v), (half, v_next)])


def turn(logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """The angle ``phi_t - phi_s`` that (alpha, sigma) turns by from t to s, float64.

    From l to l + 2h, the less noisy end, its tangent is ``(1 - exp(-h)) / (exp(l/2) +
    exp(-l/2 - h))``, as ``tan phi = exp(-l/2)``; nothing cancels, and both ends may be infinite.

    Returns:
        angle in [-pi/2, pi/2], negative where s is noisier.
    """
    back = logsnr_s < logsnr_t
    low, high = torch.where(back, logsnr_s, logsnr_t), torch.where(back, logsnr_t, logsnr_s)
    gap = _coef.one_minus_exp(0.5 * _coef.gap(low, high))
    angle = torch.atan(gap / (torch.exp(0.5 * low) + torch.exp(-0.5 * high)))
    return torch.where(back, -angle, angle)


def add_terms(z: Tensor, terms: list[tuple[Tensor, Tensor]]) -> Tensor:
    """``z`` plus each tensor times its coefficient, cast once to the dtype of z.

    Returns:
        shape and dtype of ``z``.
    """
    for coef, value in terms:
        z = torch.addcmul(z, coef.to(z.dtype), value)
    return z


def _step(
    z: Tensor,
    lt: Tensor,
    ls: Tensor,
    mixture: list[tuple[Tensor | float, Tensor]],
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """The exact step for an x0 that is a mixture of the given ones; eta is `dpmpp_2m_step`'s."""
    if not eta >= 0:
        raise ValueError(f"expected eta >= 0, got {eta}")
    minus_h, of_z = 0.5 * _coef.gap(lt, ls), _coef.sigma_ratio(ls, lt)
    of_x0 = _coef.alpha(ls) * _coef.one_minus_exp((1 + eta) * minus_h)
    terms = [(of_x0 * weight, x0) for weight, x0 in mixture]
    if eta:
        if noise is None:
            raise ValueError(f"expected noise of shape {tuple(z.shape)} for eta={eta}, got None")
        _check(z, noise=noise)
        with_eta = of_z * torch.exp(0.5 * eta * lt) * torch.exp(-0.5 * eta * ls)
        of_z = torch.where(lt == ls, of_z, with_eta)  # also at the infinities
        std = _coef.sigma(ls) * torch.sqrt(_coef.one_minus_exp(2 * eta * minus_h))
        terms.append((std, noise))
    return add_terms(of_z.to(z.dtype) * z, terms)


def _before(z: Tensor, x0_prev: Tensor | None, logsnr_prev: Scalar | None) -> _Before | None:
    """Both, checked against the data, or None if there are none."""
    if x0_prev is None and logsnr_prev is None:
        return None
    if x0_prev is None or logsnr_prev is None:
        raise ValueError("expected both x0_prev and logsnr_prev or neither, got one of them")
    _check(z, x0_prev=x0_prev)
    return _Before(x0_prev, as_logsnr(logsnr_prev, z, "logsnr_prev"))


def _check(z: Tensor, **values: Tensor) -> None:
    for name, value in values.items():
        same_shape(z, value, "z", name)


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """Means of u^2 and of u (1-u) over u in [0, 1], under the weight exp(h u) of a step's x0.

    Their sum is the mean of u. 1/3 and 1/6 for a short step; 1 and 0 for a long one.

    Returns:
        both, shape of ``h``.
    """
    short = h < 2
    small, large = torch.where(short, h, 0.0), torch.where(short, 2.0, h)
    series = torch.zeros_like(h)
    for k in reversed(range(_TERMS)):  # the integral of u (1-u) exp(h u), all terms positive
        series = series * small + (k + 1) / math.factorial(k + 3)
    far = ((large - 2) + (large + 2) * torch.exp(-large)) / large**3
    bulge = torch.where(short, torch.exp(-small) * series, far)
    total = _coef.one_minus_exp(-h) / h
    return (1 - 2 * bulge) / ((2 + h) * total), bulge / total


_TERMS = 25  # 2^25 26 / 28! is 1e-19 of the sum
