"""Log-SNR schedules: time t in [0, 1] to logsnr, and back.

Time runs from t=0 (data, ``logsnr_max``) to t=1 (noise, ``logsnr_min``). Each function computes in
float64 and returns the dtype of its argument (float64 for a Python number).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.ops._coef import Scalar, as_float64
from vfn.ops._types import Schedule, check_choice

LOGSNR_MIN, LOGSNR_MAX = -20.0, 20.0


class LogSNRSchedule(NamedTuple):
    """A schedule as two functions: ``logsnr(t)`` and its inverse ``time(logsnr)``."""

    logsnr: Callable[[Scalar], Tensor]
    time: Callable[[Scalar], Tensor]


def _result(value: Tensor, like: Scalar) -> Tensor:
    return value.to(like.dtype) if isinstance(like, Tensor) else value


def _check_range(logsnr_min: float, logsnr_max: float) -> None:
    if not logsnr_min < logsnr_max:
        raise ValueError(
            f"expected logsnr_min < logsnr_max, got logsnr_min={logsnr_min} and "
            f"logsnr_max={logsnr_max}; time 0 is data and has the larger logsnr"
        )


def _angles(logsnr_min: float, logsnr_max: float) -> tuple[float, float, float]:
    """Start angle, span, and the remainder to pi/2 at the end, none by subtraction near pi/2."""
    start, rest = math.atan(math.exp(-logsnr_max / 2)), math.atan(math.exp(logsnr_min / 2))
    return start, math.pi / 2 - start - rest, rest


def cosine_logsnr(
    t: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Cosine schedule: the angle of (alpha, sigma) moves linearly in time.

    ``logsnr = -2 log tan(a t + b)``, ``b = atan(exp(-logsnr_max/2))``,
    ``a = atan(exp(-logsnr_min/2)) - b``. Written with the angle and its complement, so that both
    ends keep their digits.

    Args:
        t: time, any shape, in [0, 1].
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        logsnr, shape and dtype of ``t`` (float64 for a number).

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.
        TypeError: if ``t`` is an integer tensor.

    Source: Salimans & Ho 2022 (2202.00512), appendix; Kingma et al. 2021 (2107.00630).

    >>> cosine_logsnr(torch.tensor([0.0, 0.5, 1.0]))
    tensor([ 20.,   0., -20.])
    """
    _check_range(logsnr_min, logsnr_max)
    start, span, rest = _angles(logsnr_min, logsnr_max)
    time = as_float64(t, "t")
    angle, complement = start + span * time, rest + span * (1 - time)
    return _result(2 * (torch.log(torch.sin(complement)) - torch.log(torch.sin(angle))), t)


def cosine_time(
    logsnr: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Inverse of `cosine_logsnr`: ``t = (atan(exp(-logsnr/2)) - b) / a``.

    Args:
        logsnr: any shape, in [logsnr_min, logsnr_max].
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> cosine_time(0.0)
    tensor(0.5000, dtype=torch.float64)
    """
    _check_range(logsnr_min, logsnr_max)
    start, span, _ = _angles(logsnr_min, logsnr_max)
    angle = torch.atan(torch.exp(-0.5 * as_float64(logsnr, "logsnr")))
    return _result((angle - start) / span, logsnr)


def linear_logsnr(
    t: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Linear schedule: alpha^2 is linear in time.

    ``logsnr = logit((1-t) sigmoid(logsnr_max) + t sigmoid(logsnr_min))``, computed as the log of
    alpha^2 less the log of sigma^2, each a sum of positive terms.

    Args:
        t: time, any shape, in [0, 1].
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        logsnr, shape and dtype of ``t``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> linear_logsnr(torch.tensor([0.0, 0.5, 1.0]))
    tensor([ 20.,   0., -20.])
    """
    _check_range(logsnr_min, logsnr_max)
    time = as_float64(t, "t")
    ends = torch.tensor([logsnr_max, logsnr_min], dtype=torch.float64, device=time.device)
    alpha2_0, alpha2_1 = torch.sigmoid(ends)
    sigma2_0, sigma2_1 = torch.sigmoid(-ends)
    alpha2 = (1 - time) * alpha2_0 + time * alpha2_1
    sigma2 = (1 - time) * sigma2_0 + time * sigma2_1
    return _result(torch.log(alpha2) - torch.log(sigma2), t)


def linear_time(
    logsnr: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Inverse of `linear_logsnr`.

    ``t = (sigmoid(max) - sigmoid(l)) / (sigmoid(max) - sigmoid(min))``, the differences taken as
    ``sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))``.

    Args:
        logsnr: any shape, in [logsnr_min, logsnr_max].
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> linear_time(0.0)
    tensor(0.5000, dtype=torch.float64)
    """
    _check_range(logsnr_min, logsnr_max)
    value = as_float64(logsnr, "logsnr")
    low, high = (
        torch.as_tensor(end, dtype=torch.float64, device=value.device)
        for end in (logsnr_min, logsnr_max)
    )
    ratio = torch.sigmoid(-value) * torch.expm1(value - high)
    return _result(ratio / (torch.sigmoid(-low) * torch.expm1(low - high)), logsnr)


def sigmoid_logsnr(
    t: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Sigmoid schedule: logsnr is linear in time, ``logsnr = max - t (max - min)``.

    Args:
        t: time, any shape, in [0, 1].
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        logsnr, shape and dtype of ``t``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> sigmoid_logsnr(torch.tensor([0.0, 0.25, 1.0]))
    tensor([ 20.,  10., -20.])
    """
    _check_range(logsnr_min, logsnr_max)
    time = as_float64(t, "t")
    return _result((1 - time) * logsnr_max + time * logsnr_min, t)


def sigmoid_time(
    logsnr: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Inverse of `sigmoid_logsnr`: ``t = (max - logsnr) / (max - min)``.

    Args:
        logsnr: any shape, in [logsnr_min, logsnr_max].
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> sigmoid_time(10.0)
    tensor(0.2500, dtype=torch.float64)
    """
    _check_range(logsnr_min, logsnr_max)
    value = as_float64(logsnr, "logsnr")
    return _result((logsnr_max - value) / (logsnr_max - logsnr_min), logsnr)


# DDPM's betas 1e-4..0.02 over 1000 steps: alpha_n^2 falls linearly from 0.9999 to 0.98.
_LEGACY_STEPS, _LEGACY_START, _LEGACY_SLOPE = 1000.0, 0.9999, 0.98 - 0.9999
_LEGACY_TERMS = 10  # |u| < 0.02: the tenth term is below 1e-17 of the first


def _legacy_log_alpha2(t: Tensor) -> Tensor:
    """Integral of ``1000 log(0.9999 + k t)`` from 0, as a series that is exact near t=0."""
    u = _LEGACY_SLOPE * t / _LEGACY_START
    series = torch.zeros_like(t)
    for n in range(_LEGACY_TERMS + 1, 1, -1):  # Horner over (-u)^(n-2) / (n (n-1))
        series = series * -u + 1 / (n * (n - 1))
    return _LEGACY_STEPS * t * (math.log(_LEGACY_START) + u * series)


def legacy_logsnr(t: Scalar) -> Tensor:
    """DDPM's discrete beta schedule (1e-4..0.02, 1000 steps) in continuous time.

    ``log alpha^2(t) = (1000/k) [x log x - x]`` from ``x=0.9999`` to ``x=0.9999 + k t`` with
    ``k = 0.98 - 0.9999``; ``logsnr = -log(expm1(-log alpha^2))``. At t=0 it is +inf; it has no
    limits to choose.

    Args:
        t: time, any shape, in [0, 1].

    Returns:
        logsnr, shape and dtype of ``t``.

    Source: Ho et al. 2020 (2006.11239), section 4.

    >>> legacy_logsnr(torch.tensor([0.0, 0.5, 1.0]))
    tensor([     inf,  -2.4644, -10.1176])
    """
    return _result(-torch.log(torch.expm1(-_legacy_log_alpha2(as_float64(t, "t")))), t)


def legacy_time(logsnr: Scalar) -> Tensor:
    """Inverse of `legacy_logsnr`, by Newton's method from the quadratic approximation.

    Args:
        logsnr: any shape, at least ``legacy_logsnr(1)``.

    Returns:
        t, shape and dtype of ``logsnr``.

    >>> legacy_time(legacy_logsnr(0.3))
    tensor(0.3000, dtype=torch.float64)
    """
    log_alpha2 = F.logsigmoid(as_float64(logsnr, "logsnr"))
    start = math.log(_LEGACY_START)
    bend = _LEGACY_SLOPE / _LEGACY_START / 2
    # Root of bend t^2 + start t = log_alpha2 / 1000 in the form without cancellation.
    target = log_alpha2 / _LEGACY_STEPS
    t = 2 * target / (start - torch.sqrt(start**2 + 4 * bend * target))
    for _ in range(4):
        slope = _LEGACY_STEPS * torch.log(_LEGACY_START + _LEGACY_SLOPE * t)
        t = t - (_legacy_log_alpha2(t) - log_alpha2) / slope
    return _result(t, logsnr)


_BOUNDED = {
    "cosine": (cosine_logsnr, cosine_time),
    "linear": (linear_logsnr, linear_time),
    "sigmoid": (sigmoid_logsnr, sigmoid_time),
}


def logsnr_schedule(
    name: Schedule, logsnr_min: float | None = None, logsnr_max: float | None = None
) -> LogSNRSchedule:
    """A schedule by name, as a pair of functions.

    Args:
        name: ``cosine``, ``linear``, ``sigmoid`` or ``legacy``.
        logsnr_min: logsnr at t=1; -20 if None. ``legacy`` takes none.
        logsnr_max: logsnr at t=0; 20 if None. ``legacy`` takes none.

    Returns:
        LogSNRSchedule: ``.logsnr(t)`` and its inverse ``.time(logsnr)``.

    Raises:
        ValueError: for an unknown name, limits in the wrong order, or limits given to ``legacy``.

    >>> schedule = logsnr_schedule("cosine", logsnr_min=-10.0, logsnr_max=12.0)
    >>> schedule.time(schedule.logsnr(0.25))
    tensor(0.2500, dtype=torch.float64)
    """
    check_choice(name, Schedule, "schedule")
    if name == "legacy":
        if logsnr_min is not None or logsnr_max is not None:
            raise ValueError(
                "expected no logsnr_min or logsnr_max for the legacy schedule, whose ends are "
                f"fixed, got {logsnr_min} and {logsnr_max}; leave them out"
            )
        return LogSNRSchedule(legacy_logsnr, legacy_time)
    low = LOGSNR_MIN if logsnr_min is None else logsnr_min
    high = LOGSNR_MAX if logsnr_max is None else logsnr_max
    _check_range(low, high)
    forward, inverse = _BOUNDED[name]
    return LogSNRSchedule(
        partial(forward, logsnr_min=low, logsnr_max=high),
        partial(inverse, logsnr_min=low, logsnr_max=high),
    )


def logsnr_grid(schedule: LogSNRSchedule, steps: int, device: torch.device | None = None) -> Tensor:
    """The sampling grid, uniform in time: ``logsnr(i / N)`` for i = N down to 0.

    Args:
        schedule: see `logsnr_schedule`.
        steps: N >= 1.
        device: where to put it.

    Returns:
        logsnrs [N+1], float64, increasing, from noise to data.

    Raises:
        ValueError: if ``steps < 1``.

    >>> logsnr_grid(logsnr_schedule("sigmoid"), 4)
    tensor([-20., -10.,   0.,  10.,  20.], dtype=torch.float64)
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 sampling step, got {steps}")
    t = torch.arange(steps, -1, -1, dtype=torch.float64, device=device) / steps
    return schedule.logsnr(t)
