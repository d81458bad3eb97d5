"""Coefficients of the variance-preserving process, and how they meet the data.

Everything here takes ``logsnr`` as float64 and returns float64. The forms are chosen so that no
subtraction of nearly equal numbers occurs, so that ``logsnr = ±inf`` gives the limit, and so that
autograd's derivative keeps its digits (``sigmoid(l).sqrt()`` loses them all for large ``l``).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.ops.words import FARTHEST

Scalar = Tensor | float
NUMBER = (int, float)  # the compiler of torch 2.9 knows no isinstance() of a union
_ENDLESS = 1e300  # in place of infinity where two of them are subtracted


def as_logsnr(logsnr: Scalar, data: Tensor, name: str = "logsnr") -> Tensor:
    """``logsnr`` in float64, checked against the data and shaped to broadcast over it."""
    return from_left(check_logsnr(logsnr, data, name), data)


def check_logsnr(logsnr: Scalar, data: Tensor, name: str = "logsnr") -> Tensor:
    """``logsnr`` in float64 with its shape checked against the data's leading dimensions."""
    check_data(data)
    if isinstance(logsnr, NUMBER) and FARTHEST < abs(logsnr) < math.inf:
        raise ValueError(
            f"expected {name} within ±{FARTHEST:g}, or ±inf for its limits, got {logsnr}"
        )
    logsnr = as_float64(logsnr, name, data.device)
    lead = data.shape[: logsnr.ndim]
    fits = logsnr.shape == lead or (
        logsnr.ndim <= data.ndim
        and all(a == b or a == 1 for a, b in zip(logsnr.shape, lead, strict=True))
    )
    if not fits:
        raise ValueError(
            f"expected {name} of a shape that broadcasts from the left over data of shape "
            f"{tuple(data.shape)}, such as ({data.shape[0] if data.ndim else ''},), "
            f"got {tuple(logsnr.shape)}"
        )
    return logsnr


def each_logsnr(logsnr: Scalar, data: Tensor, name: str = "logsnr") -> Tensor:
    """``logsnr`` in float64, one for each sample of the data, [B]."""
    level = check_logsnr(logsnr, data, name)
    if level.shape[1:].numel() != 1:
        raise ValueError(
            f"expected {name} of shape ({data.shape[0]},), one for each sample, "
            f"got {tuple(level.shape)}"
        )
    return level.reshape(-1).expand(data.shape[0])


def rows(value: Tensor) -> Tensor:
    """Each sample in a line, [B, values of one]; those of [B] have one value."""
    return value.reshape(value.shape[0], math.prod(value.shape[1:]))


def check_data(data: Any, name: str = "data") -> None:
    """Refuse what is no floating-point tensor."""
    check_tensor(data, name)
    if not data.is_floating_point():
        raise TypeError(
            f"expected floating-point {name}, got {data.dtype}; convert it first, "
            "for example images.float() / 127.5 - 1"
        )


def check_tensor(value: Any, name: str) -> None:
    """Refuse arrays, lists and whatever else is no tensor, in the place of data."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"expected {name} to be a tensor, got {type(value).__name__}; "
            "torch.as_tensor makes one of arrays and lists"
        )


def as_float64(value: Scalar, name: str, device: torch.device | None = None) -> Tensor:
    """Numbers as float64: one, a list or array of them, or a floating-point tensor.

    Integers in tensors are refused, as they may be something else: labels, or indices.

    Returns:
        float64, on the device if one is given.

    Raises:
        TypeError: if they are no numbers.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"expected {name} to be floating-point, got {value.dtype}")
        value = value.double()
        if device is not None and value.device != device:
            value = value.to(device, non_blocking=device.type != "cpu")
        return value
    try:
        if isinstance(value, int | float):  # filled by the device; a copy would be waited for
            return torch.full((), value, dtype=torch.float64, device=device)
        return torch.as_tensor(value, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"expected {name} to be a number, a tensor or an array of numbers, got "
            f"{' '.join(repr(value).split()):.60}"
        ) from None


def like(value: Tensor, argument: Scalar) -> Tensor:
    """A float64 result in the dtype of the argument it was computed of."""
    return value.to(argument.dtype) if isinstance(argument, Tensor) else value


def same_shape(a: Tensor, b: Tensor, name_a: str, name_b: str) -> None:
    """Refuse two tensors of data that differ in shape, dtype or device."""
    check_tensor(a, name_a)
    check_tensor(b, name_b)
    if a.shape != b.shape:
        raise ValueError(
            f"expected {name_b} to have the shape of {name_a}, {tuple(a.shape)}, "
            f"got {tuple(b.shape)}"
        )
    if a.dtype != b.dtype:
        raise TypeError(
            f"expected {name_b} to have the dtype of {name_a}, {a.dtype}, got {b.dtype}; "
            "convert one of them"
        )
    if a.device != b.device:
        raise ValueError(
            f"expected {name_b} on the device of {name_a}, {a.device}, got {b.device}; "
            f"move it with {name_b}.to({name_a}.device)"
        )


def not_in_half(data: Tensor, name: str) -> None:
    """Refuse float16 where a coefficient or a product leaves its range.

    From logsnr 22 on (or -22 down) the coefficients exceed float16's largest number, 65,504.

    Raises:
        TypeError: for float16.
    """
    if isinstance(data, Tensor) and data.dtype == torch.float16:
        raise TypeError(
            f"expected float32, bfloat16 or float64 for {name}, whose terms leave the range "
            "of float16 near the end of a schedule, got float16; convert with .float()"
        )


def from_left(coef: Tensor, data: Tensor) -> Tensor:
    """A view of a coefficient that broadcasts over the data from the left."""
    return coef[(...,) + (None,) * (data.ndim - coef.ndim)]


def linear_combination(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """``a x + b y`` for coefficients a, b, in two passes over memory instead of three."""
    return torch.addcmul(a.to(x.dtype) * x, b.to(x.dtype), y)


def log_sigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), exact in float64 for every x."""
    # F.logsigmoid starts all threads even for a handful of numbers, a thousand times the cost.
    return -F.softplus(-x, threshold=50)  # log(1 + e^50) is 50 in float64


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) of the normal distribution, in the tail where both are small."""
    flip = low + high > 0
    near, far = torch.where(flip, -low, high), torch.where(flip, -high, low)
    log_near, log_far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
    return log_near + torch.log(one_minus_exp(log_far - log_near))


def alpha(logsnr: Tensor) -> Tensor:
    """``alpha = (1 + exp(-logsnr))^(-1/2)``."""
    return torch.rsqrt(1 + torch.exp(-logsnr))


def sigma(logsnr: Tensor) -> Tensor:
    """``sigma = (1 + exp(logsnr))^(-1/2)``."""
    return torch.rsqrt(1 + torch.exp(logsnr))


def inv_alpha(logsnr: Tensor) -> Tensor:
    return torch.sqrt(1 + torch.exp(-logsnr))


def inv_sigma(logsnr: Tensor) -> Tensor:
    return torch.sqrt(1 + torch.exp(logsnr))


def sigma_over_alpha(logsnr: Tensor) -> Tensor:
    return torch.exp(-0.5 * logsnr)


def alpha_over_sigma(logsnr: Tensor) -> Tensor:
    return torch.exp(0.5 * logsnr)


def line_scale(logsnr: Tensor) -> Tensor:
    """``1 / (alpha + sigma)``, which takes z to the straight path ``(1-t) x0 + t eps``."""
    return torch.rsqrt(1 + 1 / torch.cosh(0.5 * logsnr))  # (alpha + sigma)^2 = 1 + 2 alpha sigma


def inv_line_scale(logsnr: Tensor) -> Tensor:
    """``alpha + sigma``."""
    return torch.sqrt(1 + 1 / torch.cosh(0.5 * logsnr))


def line_time(logsnr: Tensor) -> Tensor:
    """``t = sigma / (alpha + sigma)`` of the straight path."""
    return 1 / (1 + torch.exp(0.5 * logsnr))


def line_rest(logsnr: Tensor) -> Tensor:
    """``1 - t = alpha / (alpha + sigma)`` of the straight path."""
    return 1 / (1 + torch.exp(-0.5 * logsnr))


def inv_line_time(logsnr: Tensor) -> Tensor:
    return 1 + torch.exp(0.5 * logsnr)


def inv_line_rest(logsnr: Tensor) -> Tensor:
    return 1 + torch.exp(-0.5 * logsnr)


def line_lead(logsnr: Tensor) -> Tensor:
    """``1 - 2t = (alpha - sigma) / (alpha + sigma)`` of the straight path."""
    return tanh(0.25 * logsnr)


def alpha_minus_sigma(logsnr: Tensor) -> Tensor:
    """``(alpha^2 - sigma^2) / (alpha + sigma)``, without the difference."""
    return tanh(0.5 * logsnr) * line_scale(logsnr)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, whose value and derivative both keep their digits."""
    # Autograd takes 1 - tanh^2 for the derivative, which is all rounding far from 0.
    far = x.sign() * (1 - 2 / (1 + torch.exp(2 * x.abs())))
    return torch.where(x.abs() > 0.5, far, torch.tanh(x))


def gap(logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """``logsnr_t - logsnr_s``, and 0 of an infinity and itself: a step of no length."""
    return logsnr_t.clamp(-_ENDLESS, _ENDLESS) - logsnr_s.clamp(-_ENDLESS, _ENDLESS)


def snr_ratio(logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """``r = SNR(t) / SNR(s)``, of two exact arguments instead of their rounded difference."""
    # Beyond the farthest, where one of them is no number any more, of the difference.
    near = torch.exp(logsnr_t.clamp(max=FARTHEST)) * torch.exp(-logsnr_s.clamp(min=-FARTHEST))
    far = (logsnr_t > FARTHEST) | (logsnr_s < -FARTHEST)
    return torch.where(far, torch.exp(gap(logsnr_t, logsnr_s)), near)


def sigma_ratio(logsnr_s: Tensor, logsnr_t: Tensor) -> Tensor:
    """``sigma_s / sigma_t``, 1 where both are 0."""
    # Beyond the farthest, where 1 / sigma_t is no number any more, of the difference.
    near = sigma(logsnr_s) * inv_sigma(logsnr_t.clamp(max=FARTHEST))
    far = torch.exp(0.5 * gap(logsnr_t, logsnr_s.clamp(min=0))) * alpha(logsnr_s.abs())
    return torch.where(logsnr_t > FARTHEST, far, near)


def alpha_ratio(logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """``alpha_t / alpha_s``, 1 where both are 0."""
    return sigma_ratio(-logsnr_t, -logsnr_s)


def one_minus_snr_ratio(logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
    """1 - r without cancellation for close neighbours."""
    return one_minus_exp(gap(logsnr_t, logsnr_s))


def one_minus_exp(x: Tensor) -> Tensor:
    """1 - exp(x) for x <= 0, whose value and derivative both keep their digits."""
    # Autograd takes expm1(x) + 1 for the derivative of expm1, which is all rounding far from 0.
    return torch.where(x > -0.5, -torch.expm1(x), 1 - torch.exp(x))
