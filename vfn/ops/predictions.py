"""Conversions between x0, eps, v and u, named by both ends: ``x0_from_v(z, v, logsnr)``.

u is the velocity of flow matching's straight path ``x_t = (1-t) x0 + t eps``, ``u = eps - x0``; z
is that path on the circle, ``z = (alpha + sigma) x_t`` with ``t = sigma / (alpha + sigma)``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import Scalar, as_logsnr, linear_combination, not_in_half, same_shape
from vfn.ops.words import OutType, check_choice


class Prediction(NamedTuple):
    """One prediction in its forms, all in the shape of z."""

    x0: Tensor
    eps: Tensor
    v: Tensor

    @property
    def u(self) -> Tensor:
        """Velocity of the straight path, ``eps - x0``, at any noise level."""
        return self.eps - self.x0


class VarianceSplit(NamedTuple):
    """What a network predicts, and the fraction of its learned variance or None."""

    out: Tensor
    frac: Tensor | None


Coefficient = Callable[[Tensor], Tensor]


def _minus(coef: Coefficient) -> Coefficient:
    return lambda logsnr: -coef(logsnr)


def _mix(
    z: Tensor,
    out: Tensor,
    logsnr: Scalar,
    coef_z: Coefficient,
    coef_out: Coefficient,
    name: str,
    pole: float | None = None,
) -> Tensor:
    """``coef_z(logsnr) z + coef_out(logsnr) out``; ``pole``: the infinite logsnr without limit."""
    if isinstance(logsnr, _coef.NUMBER) and logsnr == pole:
        gone = "noise" if logsnr > 0 else "data"
        raise ValueError(
            f"expected another logsnr than {logsnr}, where z holds no {gone} and what is asked for "
            f"cannot be found from {name}"
        )
    value = as_logsnr(logsnr, z)
    same_shape(z, out, "z", name)
    return linear_combination(coef_z(value), z, coef_out(value), out)


def x0_from_eps(z: Tensor, eps: Tensor, logsnr: Scalar) -> Tensor:
    """Data from noise: ``x0 = (z - sigma eps) / alpha``.

    Args:
        z: noisy data [B, ...].
        eps: noise, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left; not -inf, where z holds no data, and
            in float32 above -177, from where on 1/alpha is a number.

    Returns:
        x0, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: for float16, in which the terms overflow near the end of a schedule.

    Source: Ho et al. 2020 (2006.11239), eq. 15.

    >>> x0_from_eps(torch.tensor([1.0]), torch.tensor([0.0]), torch.zeros(1))
    tensor([1.4142])
    """
    not_in_half(z, "x0_from_eps")
    return _mix(z, eps, logsnr, _coef.inv_alpha, _minus(_coef.sigma_over_alpha), "eps", -math.inf)


def x0_from_v(z: Tensor, v: Tensor, logsnr: Scalar) -> Tensor:
    """Data from velocity: ``x0 = alpha z - sigma v``.

    Args:
        z: noisy data [B, ...].
        v: velocity, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        x0, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Salimans & Ho 2022 (2202.00512), appendix D.

    >>> x0_from_v(torch.tensor([1.0]), torch.tensor([-1.0]), torch.zeros(1))
    tensor([1.4142])
    """
    return _mix(z, v, logsnr, _coef.alpha, _minus(_coef.sigma), "v")


def eps_from_x0(z: Tensor, x0: Tensor, logsnr: Scalar) -> Tensor:
    """Noise from data: ``eps = (z - alpha x0) / sigma``.

    Args:
        z: noisy data [B, ...].
        x0: data, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left; not +inf, where z holds no noise,
            and in float32 below 177, up to where 1/sigma is a number.

    Returns:
        eps, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: for float16, in which the terms overflow near the end of a schedule.

    >>> eps_from_x0(torch.tensor([1.0]), torch.tensor([0.0]), torch.zeros(1))
    tensor([1.4142])
    """
    not_in_half(z, "eps_from_x0")
    return _mix(z, x0, logsnr, _coef.inv_sigma, _minus(_coef.alpha_over_sigma), "x0", math.inf)


def eps_from_v(z: Tensor, v: Tensor, logsnr: Scalar) -> Tensor:
    """Noise from velocity: ``eps = sigma z + alpha v``.

    Args:
        z: noisy data [B, ...].
        v: velocity, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        eps, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Salimans & Ho 2022 (2202.00512), appendix D.

    >>> eps_from_v(torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(1))
    tensor([1.4142])
    """
    return _mix(z, v, logsnr, _coef.sigma, _coef.alpha, "v")


def v_from_x0(z: Tensor, x0: Tensor, logsnr: Scalar) -> Tensor:
    """Velocity from data: ``v = (alpha z - x0) / sigma``.

    Args:
        z: noisy data [B, ...].
        x0: data, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left; as for `eps_from_x0`.

    Returns:
        v, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: for float16, in which the terms overflow near the end of a schedule.

    >>> v_from_x0(torch.tensor([1.0]), torch.tensor([0.0]), torch.zeros(1))
    tensor([1.])
    """
    not_in_half(z, "v_from_x0")
    return _mix(z, x0, logsnr, _coef.alpha_over_sigma, _minus(_coef.inv_sigma), "x0", math.inf)


def v_from_eps(z: Tensor, eps: Tensor, logsnr: Scalar) -> Tensor:
    """Velocity from noise: ``v = (eps - sigma z) / alpha``.

    Args:
        z: noisy data [B, ...].
        eps: noise, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left; as for `x0_from_eps`.

    Returns:
        v, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: for float16, in which the terms overflow near the end of a schedule.

    >>> v_from_eps(torch.tensor([1.0]), torch.tensor([0.0]), torch.zeros(1))
    tensor([-1.])
    """
    not_in_half(z, "v_from_eps")
    return _mix(z, eps, logsnr, _minus(_coef.sigma_over_alpha), _coef.inv_alpha, "eps", -math.inf)


def v_from_x0_eps(x0: Tensor, eps: Tensor, logsnr: Scalar) -> Tensor:
    """Velocity: ``v = alpha eps - sigma x0``.

    Args:
        x0: data [B, ...].
        eps: noise, shape of ``x0``.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        v, shape and dtype of ``x0``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Salimans & Ho 2022 (2202.00512), appendix D.

    >>> v_from_x0_eps(torch.tensor([0.0]), torch.tensor([1.0]), torch.zeros(1))
    tensor([0.7071])
    """
    return _mix(x0, eps, logsnr, _minus(_coef.sigma), _coef.alpha, "eps")


def x0_from_u(z: Tensor, u: Tensor, logsnr: Scalar) -> Tensor:
    """Data from the straight path's velocity: ``x0 = x_t - t u``.

    That is ``(z - sigma u) / (alpha + sigma)``.

    Args:
        z: noisy data [B, ...].
        u: velocity ``eps - x0``, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        x0, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Lipman et al. 2022 (2210.02747), section 4.1; Liu et al. 2022 (2209.03003), eq. 1.

    >>> x0_from_u(torch.tensor([1.0]), torch.tensor([-1.0]), torch.zeros(1))
    tensor([1.2071])
    """
    return _mix(z, u, logsnr, _coef.line_scale, _minus(_coef.line_time), "u")


def eps_from_u(z: Tensor, u: Tensor, logsnr: Scalar) -> Tensor:
    """Noise from the straight path's velocity: ``eps = x_t + (1-t) u``.

    That is ``(z + alpha u) / (alpha + sigma)``.

    Args:
        z: noisy data [B, ...].
        u: velocity ``eps - x0``, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        eps, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Liu et al. 2022 (2209.03003), eq. 1.

    >>> eps_from_u(torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(1))
    tensor([1.2071])
    """
    return _mix(z, u, logsnr, _coef.line_scale, _coef.line_rest, "u")


def v_from_u(z: Tensor, u: Tensor, logsnr: Scalar) -> Tensor:
    """Velocity on the circle from that on the straight path.

    ``v = (u + (alpha - sigma) z) / (alpha + sigma)``.

    Args:
        z: noisy data [B, ...].
        u: velocity ``eps - x0``, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        v, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    >>> v_from_u(torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(1))
    tensor([0.7071])
    """
    return _mix(z, u, logsnr, _coef.line_lead, _coef.line_scale, "u")


def u_from_x0(z: Tensor, x0: Tensor, logsnr: Scalar) -> Tensor:
    """Velocity of the straight path from data: ``u = (x_t - x0) / t``.

    That is ``z / sigma - (1 + alpha/sigma) x0``.

    Args:
        z: noisy data [B, ...].
        x0: data, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left; not +inf, where z holds no noise.

    Returns:
        u, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit, or for +inf.
        TypeError: for float16, in which the terms overflow near the end of a schedule.

    Source: Li & He 2025 (2511.13720), table 1.

    >>> u_from_x0(torch.tensor([1.0]), torch.tensor([0.0]), torch.zeros(1))
    tensor([1.4142])
    """
    not_in_half(z, "u_from_x0")
    return _mix(z, x0, logsnr, _coef.inv_sigma, _minus(_coef.inv_line_time), "x0", math.inf)


def u_from_eps(z: Tensor, eps: Tensor, logsnr: Scalar) -> Tensor:
    """Velocity of the straight path from noise: ``u = (eps - x_t) / (1-t)``.

    That is ``(1 + sigma/alpha) eps - z / alpha``.

    Args:
        z: noisy data [B, ...].
        eps: noise, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left; not -inf, where z holds no data.

    Returns:
        u, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit, or for -inf.
        TypeError: for float16, in which the terms overflow near the end of a schedule.

    >>> u_from_eps(torch.tensor([1.0]), torch.tensor([0.0]), torch.zeros(1))
    tensor([-1.4142])
    """
    not_in_half(z, "u_from_eps")
    return _mix(z, eps, logsnr, _minus(_coef.inv_alpha), _coef.inv_line_rest, "eps", -math.inf)


def u_from_v(z: Tensor, v: Tensor, logsnr: Scalar) -> Tensor:
    """Velocity on the straight path from that on the circle.

    ``u = (alpha + sigma) v - (alpha - sigma) z``.

    Args:
        z: noisy data [B, ...].
        v: velocity ``alpha eps - sigma x0``, shape of ``z``.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        u, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    >>> u_from_v(torch.tensor([1.0]), torch.tensor([1.0]), torch.zeros(1))
    tensor([1.4142])
    """
    return _mix(z, v, logsnr, _minus(_coef.alpha_minus_sigma), _coef.inv_line_scale, "v")


def _halves(z: Tensor, both: Tensor, batched: bool) -> tuple[Tensor, ...]:
    """Split along the channels, where ``both`` is twice as long as ``z``."""
    for dim, size in list(enumerate(z.shape))[int(batched) : 2]:
        doubled = (*z.shape[:dim], 2 * size, *z.shape[dim + 1 :])
        if size and both.shape == doubled:
            return both.chunk(2, dim=dim)
    raise ValueError(
        f"expected both to have the shape of z, {tuple(z.shape)}, with twice its channels, "
        f"got {tuple(both.shape)}"
    )


def x0_from_both(z: Tensor, both: Tensor, logsnr: Scalar) -> Tensor:
    """Data from a network that predicts x0 and eps in 2C channels.

    ``x0 = sigma^2 x̂ + alpha^2 x0_from_eps(z, ε̂) = sigma^2 x̂ + alpha (z - sigma ε̂)``.

    Args:
        z: noisy data [B, C, ...].
        both: [B, 2C, ...], x̂ first, then ε̂.
        logsnr: [B] or any shape that broadcasts from the left.

    Returns:
        x0, shape and dtype of ``z``.

    Raises:
        ValueError: if ``both`` does not have twice the channels of ``z``.

    Source: Salimans & Ho 2022 (2202.00512), section 4.

    >>> z, both = torch.ones(1, 1, 1), torch.zeros(1, 2, 1)
    >>> x0_from_both(z, both, torch.zeros(1)).squeeze()
    tensor(0.7071)
    """
    value = as_logsnr(logsnr, z)
    x_hat, eps_hat = _halves(z, both, batched=isinstance(logsnr, Tensor) and logsnr.ndim > 0)
    alpha, sigma = _coef.alpha(value), _coef.sigma(value)
    return torch.addcmul(
        linear_combination(alpha, z, sigma.square(), x_hat),
        (alpha * sigma).to(z.dtype),
        eps_hat,
        value=-1,
    )


def split_variance(z: Tensor, out: Tensor, out_type: OutType) -> VarianceSplit:
    """Part a network's output into its prediction and, where it learned one, its variance.

    The C channels after those of the prediction, through a sigmoid, are the fraction of
    `learned_logvar`.

    Args:
        z: noisy data [B, C, ...].
        out: the network's output [B, C, ...], [B, 2C, ...] for ``both``; C more with variance.
        out_type: what the network predicts: x0, eps, v, u or both.

    Returns:
        VarianceSplit(out, frac): ``out`` for `predict`, and frac in (0, 1) in the shape of ``z`` or
        None.

    Source: Nichol & Dhariwal 2021 (2102.09672), section 3.1.

    >>> z = torch.zeros(1, 3, 8, 8)
    >>> split_variance(z, torch.zeros(1, 6, 8, 8), "v").frac.unique()
    tensor([0.5000])
    >>> split_variance(z, z, "v").frac is None
    True
    """
    channels = z.shape[1] * (2 if out_type == "both" else 1)
    if out.shape[1] != channels + z.shape[1]:
        return VarianceSplit(out, None)
    return VarianceSplit(out[:, :channels], torch.sigmoid(out[:, channels:]))


def predict(z: Tensor, out: Tensor, logsnr: Scalar, out_type: OutType) -> Prediction:
    """A network's output of any type, converted to x0, eps and v; u is their property.

    Args:
        z: noisy data [B, C, ...].
        out: the network's output, shape of ``z`` ([B, 2C, ...] for ``both``).
        logsnr: [B] or any shape that broadcasts from the left; of ``v`` any, of the others as for
            `eps_from_x0` and `x0_from_eps`.
        out_type: what the network predicts: x0, eps, v, u or both.

    Returns:
        Prediction(x0, eps, v), each in the shape and dtype of ``z``.

    Raises:
        ValueError: for an unknown ``out_type`` or shapes that do not fit, or a number for logsnr
            at which the others cannot be found: -inf for eps, +inf for x0 and both.
        TypeError: for float16 with another ``out_type`` than v and u.

    >>> z, v = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    >>> pred = predict(z, v, torch.zeros(2), "v")
    >>> torch.allclose(v_from_x0_eps(pred.x0, pred.eps, torch.zeros(2)), v, atol=1e-6)
    True
    """
    check_choice(out_type, OutType, "out_type")
    if out_type == "v":
        value = as_logsnr(logsnr, z)
        same_shape(z, out, "z", "out")
        alpha, sigma = _coef.alpha(value).to(z.dtype), _coef.sigma(value).to(z.dtype)
        x0 = torch.addcmul(alpha * z, sigma, out, value=-1)
        return Prediction(x0, torch.addcmul(sigma * z, alpha, out), out)
    if out_type == "u":
        x0, eps = x0_from_u(z, out, logsnr), eps_from_u(z, out, logsnr)
        return Prediction(x0, eps, v_from_u(z, out, logsnr))
    if out_type == "eps":
        return Prediction(x0_from_eps(z, out, logsnr), out, v_from_eps(z, out, logsnr))
    x0 = x0_from_both(z, out, logsnr) if out_type == "both" else out
    return Prediction(x0, eps_from_x0(z, x0, logsnr), v_from_x0(z, x0, logsnr))
