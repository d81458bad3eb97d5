"""Log-SNR schedules: time t in [0, 1] to logsnr, and back.

Time runs from t=0 (data, ``logsnr_max``) to t=1 (noise, ``logsnr_min``). Each function computes in
float64 and returns the dtype of its argument (float64 for a Python number). A time before 0 or
after 1 has the noise level of that end, and a noise level beyond the limits the time of the limit.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.ops._coef import Scalar, as_float64, like, log_sigmoid
from vfn.ops.schedule_table import SCHEDULES
from vfn.ops.words import FARTHEST, OutType, check_choice

LOGSNR_MIN, LOGSNR_MAX = -20.0, 20.0


class LogSNRSchedule(NamedTuple):
    """A schedule as two functions: ``logsnr(t)`` and its inverse ``time(logsnr)``.

    They take tensors; those that `logsnr_schedule` makes take numbers as well.
    """

    logsnr: Callable[[Any], Tensor]
    time: Callable[[Any], Tensor]


def level_at(schedule: LogSNRSchedule, t: float) -> Tensor:
    """The logsnr at one time, asked for by a tensor, as functions of anybody take it.

    Returns:
        scalar, float64.
    """
    return schedule.logsnr(torch.tensor(t, dtype=torch.float64))


def check_range(logsnr_min: float, logsnr_max: float) -> None:
    """Refuse limits in the wrong order, and finite ones that exp() cannot follow.

    Raises:
        ValueError: it says which is which.
    """
    if not logsnr_min < logsnr_max:
        raise ValueError(
            f"expected logsnr_min < logsnr_max, got logsnr_min={logsnr_min} and "
            f"logsnr_max={logsnr_max}; time 0 is data and has the larger logsnr"
        )
    if any(FARTHEST < abs(limit) < math.inf for limit in (logsnr_min, logsnr_max)):
        raise ValueError(
            f"expected limits within ±{FARTHEST:g}, or infinite, got logsnr_min={logsnr_min} and "
            f"logsnr_max={logsnr_max}"
        )


def check_finite(logsnr_min: float, logsnr_max: float) -> None:
    """Refuse infinite limits where logsnr is linear in something finite.

    Raises:
        ValueError: it names the schedules that have such limits.
    """
    if not (math.isfinite(logsnr_min) and math.isfinite(logsnr_max)):
        raise ValueError(
            f"expected finite limits, got {logsnr_min} and {logsnr_max}; logsnr that is linear in "
            "time cannot reach infinity, use the cosine or linear schedule"
        )


def _angles(logsnr_min: float, logsnr_max: float) -> tuple[float, float, float]:
    """Start angle, span, and the remainder to pi/2 at the end, none by subtraction near pi/2."""
    start, rest = math.atan(math.exp(-logsnr_max / 2)), math.atan(math.exp(logsnr_min / 2))
    near, far = sorted((abs(logsnr_min), abs(logsnr_max)))
    if logsnr_min < 0 < logsnr_max:
        span = math.pi / 2 - start - rest
    else:  # both next to 0, or both next to pi/2
        span = math.atan(math.exp(-near / 2)) - math.atan(math.exp(-far / 2))
    return start, span, rest


def cosine_logsnr(
    t: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Cosine schedule: the angle of (alpha, sigma) moves linearly in time.

    ``logsnr = -2 log tan(a t + b)``, ``b = atan(exp(-logsnr_max/2))``,
    ``a = atan(exp(-logsnr_min/2)) - b``. Written with the angle and its complement, so that both
    ends keep their digits.

    Args:
        t: time, any shape, in [0, 1]; beyond, the end's logsnr is returned.
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
    check_range(logsnr_min, logsnr_max)
    start, span, rest = _angles(logsnr_min, logsnr_max)
    time = as_float64(t, "t").clamp(0, 1)
    angle, complement = start + span * time, rest + span * (1 - time)
    return like(2 * (torch.log(torch.sin(complement)) - torch.log(torch.sin(angle))), t)


def cosine_time(
    logsnr: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Inverse of `cosine_logsnr`: ``t = (atan(exp(-logsnr/2)) - b) / a``.

    Args:
        logsnr: any shape, in [logsnr_min, logsnr_max]; beyond, the limit's time is returned.
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> cosine_time(0.0)
    tensor(0.5000, dtype=torch.float64)
    """
    check_range(logsnr_min, logsnr_max)
    start, span, rest = _angles(logsnr_min, logsnr_max)
    value = as_float64(logsnr, "logsnr")
    if logsnr_max > 0:
        t = (torch.atan(torch.exp(-0.5 * value)) - start) / span
    else:  # every angle next to pi/2
        t = 1 - (torch.atan(torch.exp(0.5 * value)) - rest) / span
    return like(t.clamp(0, 1), logsnr)


def _sigmoid(limit: float) -> float:
    """Of a number of the host: a tensor on a GPU would have to be waited for."""
    return 1 / (1 + math.exp(-limit))


def linear_logsnr(
    t: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Linear schedule: alpha^2 is linear in time.

    ``logsnr = logit((1-t) sigmoid(logsnr_max) + t sigmoid(logsnr_min))``, computed as the log of
    alpha^2 less the log of sigma^2, each a sum of positive terms.

    Args:
        t: time, any shape, in [0, 1]; beyond, the end's logsnr is returned.
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        logsnr, shape and dtype of ``t``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> linear_logsnr(torch.tensor([0.0, 0.5, 1.0]))
    tensor([ 20.,   0., -20.])
    """
    check_range(logsnr_min, logsnr_max)
    time = as_float64(t, "t").clamp(0, 1)
    alpha2 = (1 - time) * _sigmoid(logsnr_max) + time * _sigmoid(logsnr_min)
    sigma2 = (1 - time) * _sigmoid(-logsnr_max) + time * _sigmoid(-logsnr_min)
    return like(torch.log(alpha2) - torch.log(sigma2), t)


def linear_time(
    logsnr: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Inverse of `linear_logsnr`.

    ``t = (sigmoid(max) - sigmoid(l)) / (sigmoid(max) - sigmoid(min))``, the differences taken as
    ``sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))``.

    Args:
        logsnr: any shape, in [logsnr_min, logsnr_max]; beyond, the limit's time is returned.
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> linear_time(0.0)
    tensor(0.5000, dtype=torch.float64)
    """
    check_range(logsnr_min, logsnr_max)
    value = as_float64(logsnr, "logsnr")
    # 0 from the limit on, which inf - inf would not be.
    endless = logsnr_max == math.inf
    gap = torch.full_like(value, -math.inf) if endless else (value - logsnr_max).clamp(max=0)
    ratio = torch.sigmoid(-value) * torch.expm1(gap)
    t = ratio / (_sigmoid(-logsnr_min) * math.expm1(logsnr_min - logsnr_max))
    return like(t.clamp(0, 1), logsnr)


def sigmoid_logsnr(
    t: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Sigmoid schedule: logsnr is linear in time, ``logsnr = max - t (max - min)``.

    Args:
        t: time, any shape, in [0, 1]; beyond, the end's logsnr is returned.
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        logsnr, shape and dtype of ``t``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> sigmoid_logsnr(torch.tensor([0.0, 0.25, 1.0]))
    tensor([ 20.,  10., -20.])
    """
    check_range(logsnr_min, logsnr_max)
    check_finite(logsnr_min, logsnr_max)
    time = as_float64(t, "t").clamp(0, 1)
    # From the nearest of both ends and the middle: exact there, and few places off where it is 0.
    span, span_rest = _two_sum(logsnr_max, -logsnr_min)
    ends, ends_rest = _two_sum(logsnr_max, logsnr_min)
    half = 0.5 - time
    between = 0.5 * ends + (half * span + (0.5 * ends_rest + half * span_rest))
    late = torch.where(time > 0.75, logsnr_min + (1 - time) * span, between)
    return like(torch.where(time < 0.25, logsnr_max - time * span, late), t)


def _two_sum(a: float, b: float) -> tuple[float, float]:
    """A sum as the nearest float, and exactly what that leaves out (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def sigmoid_time(
    logsnr: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Inverse of `sigmoid_logsnr`: ``t = (max - logsnr) / (max - min)``.

    Args:
        logsnr: any shape, in [logsnr_min, logsnr_max]; beyond, the limit's time is returned.
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> sigmoid_time(10.0)
    tensor(0.2500, dtype=torch.float64)
    """
    check_range(logsnr_min, logsnr_max)
    check_finite(logsnr_min, logsnr_max)
    value = as_float64(logsnr, "logsnr")
    return like(((logsnr_max - value) / (logsnr_max - logsnr_min)).clamp(0, 1), logsnr)


def _line_ends(logsnr_min: float, logsnr_max: float) -> tuple[float, float, float, float, float]:
    """Both parts of the straight path, noise and data, at both limits, and the span between.

    Returns:
        t and 1 - t at logsnr_max, t and 1 - t at logsnr_min, and how far t goes.
    """
    noise_0, data_0 = _shares(-logsnr_max / 2)
    noise_1, data_1 = _shares(-logsnr_min / 2)
    span = -noise_1 * data_0 * math.expm1((logsnr_min - logsnr_max) / 2)
    return noise_0, data_0, noise_1, data_1, span


def _shares(log_ratio: float) -> tuple[float, float]:
    """Two parts of 1 by the logarithm of their ratio."""
    ratio = math.exp(-abs(log_ratio))
    small = ratio / (1 + ratio)
    return (small, 1 - small) if log_ratio < 0 else (1 - small, small)


def flow_logsnr(
    t: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Flow matching's schedule: the straight path ``(1-t) x0 + t eps`` has ``2 log((1-t)/t)``.

    Time goes linearly from where that is ``logsnr_max`` to where it is ``logsnr_min``; without
    limits, -inf and inf, t is the flow's own. Computed as a difference of logarithms of sums of
    positive terms, and close to a limit as the limit plus what is gone from it.

    Args:
        t: time, any shape, in [0, 1]; beyond, the end's logsnr is returned.
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        logsnr, shape and dtype of ``t``; at the ends exactly the limits.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    Source: Lipman et al. 2022 (2210.02747), section 4.1; Liu et al. 2022 (2209.03003), eq. 1.

    >>> flow_logsnr(torch.tensor([0.0, 0.25, 0.5, 1.0]))
    tensor([ 20.0000,   2.1970,   0.0000, -20.0000])
    """
    check_range(logsnr_min, logsnr_max)
    noise_0, data_0, noise_1, data_1, span = _line_ends(logsnr_min, logsnr_max)
    t0 = as_float64(t, "t").clamp(0, 1)
    t1 = 1 - t0
    logsnr = 2 * (torch.log(t1 * data_0 + t0 * data_1) - torch.log(t1 * noise_0 + t0 * noise_1))
    # Up to half of what is there at the limit is added to it.
    if logsnr_max < math.inf:
        near, end = _first_half(t0, noise_0, span)
        gone = torch.log1p(near * (span / noise_0)) - torch.log1p(-near * (span / data_0))
        logsnr = torch.where(end, logsnr_max - 2 * gone, logsnr)
    if logsnr_min > -math.inf:
        near, end = _first_half(t1, data_1, span)
        gone = torch.log1p(near * (span / data_1)) - torch.log1p(-near * (span / noise_1))
        logsnr = torch.where(end, logsnr_min + 2 * gone, logsnr)
    return like(logsnr, t)


def _first_half(time: Tensor, there: float, span: float) -> tuple[Tensor, Tensor]:
    """Time until what is there at an end has grown by half, and where it has not yet."""
    last = min(0.5 * there / span, 0.5)  # half way the other end is as near
    return time.clamp(max=last), time < last


def flow_time(
    logsnr: Scalar, logsnr_min: float = LOGSNR_MIN, logsnr_max: float = LOGSNR_MAX
) -> Tensor:
    """Inverse of `flow_logsnr`: without limits ``t = 1 / (1 + exp(logsnr/2))``.

    Args:
        logsnr: any shape, in [logsnr_min, logsnr_max]; beyond, the limit's time is returned.
        logsnr_min: logsnr at t=1.
        logsnr_max: logsnr at t=0.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: if ``logsnr_min >= logsnr_max``.

    >>> flow_time(0.0)
    tensor(0.5000, dtype=torch.float64)
    """
    check_range(logsnr_min, logsnr_max)
    # sigmoid(-l/2) is linear in time here, as sigmoid(l) is in the linear schedule.
    half = 0.5 * as_float64(logsnr, "logsnr")
    return like(linear_time(half, 0.5 * logsnr_min, 0.5 * logsnr_max), logsnr)


# DDPM's betas 1e-4..0.02 over 1000 steps: alpha_n^2 falls linearly from 0.9999 to 0.98.
BETA_START, BETA_END, TIMESTEPS = 1e-4, 0.02, 1000
MOST_BETA, MOST_STEPS = 0.1, 6000  # exp(-log alpha^2) stays a float64


class _Betas(NamedTuple):
    """A discrete schedule of linear betas in continuous time."""

    steps: float
    start: float  # alpha_n^2 of the first step
    slope: float  # how much it falls to the last, < 0
    log_start: float  # without the rounding of start
    terms: int  # of the series: the last is below 1e-17 of the first

    @property
    def lowest(self) -> float:
        """Somewhat below logsnr at t = 1, by Simpson's rule."""
        ends = self.log_start + math.log(self.start + self.slope)
        log_alpha2 = self.steps * (ends + 4 * math.log(self.start + 0.5 * self.slope)) / 6
        return -math.log(math.expm1(-log_alpha2)) - 0.1


def _betas(beta_start: float, beta_end: float, timesteps: int) -> _Betas:
    if not (0 < beta_start <= beta_end <= MOST_BETA and 1 <= timesteps <= MOST_STEPS):
        raise ValueError(
            f"expected 0 < beta_start <= beta_end <= {MOST_BETA} and timesteps in 1..{MOST_STEPS}, "
            f"got {beta_start}, {beta_end} and {timesteps}"
        )
    start, slope = 1 - beta_start, beta_start - beta_end
    terms = 1 if not slope else math.ceil(-17 / math.log10(-slope / start))
    return _Betas(timesteps, start, slope, math.log1p(-beta_start), terms)


def _legacy_log_alpha2(t: Tensor, betas: _Betas) -> Tensor:
    """Integral of ``1000 log(0.9999 + k t)`` from 0, as a series that is exact near t=0."""
    u = betas.slope * t / betas.start
    series = torch.zeros_like(t)
    for n in range(betas.terms + 1, 1, -1):  # Horner over (-u)^(n-2) / (n (n-1))
        series = series * -u + 1 / (n * (n - 1))
    return betas.steps * t * (betas.log_start + u * series)


def legacy_logsnr(
    t: Scalar,
    beta_start: float = BETA_START,
    beta_end: float = BETA_END,
    timesteps: int = TIMESTEPS,
) -> Tensor:
    """DDPM's discrete beta schedule (1e-4..0.02, 1000 steps) in continuous time.

    ``log alpha^2(t) = (1000/k) [x log x - x]`` from ``x=0.9999`` to ``x=0.9999 + k t`` with
    ``k = 0.98 - 0.9999``; ``logsnr = -log(expm1(-log alpha^2))``. At t=0 it is +inf; it has no
    limits to choose.

    Args:
        t: time, any shape, in [0, 1]; beyond, the end's logsnr is returned.
        beta_start: variance of the noise of the first step, > 0.
        beta_end: of the last step, at least ``beta_start`` and at most 0.1.
        timesteps: how many steps there are, 1 to 6000.

    Returns:
        logsnr, shape and dtype of ``t``.

    Raises:
        ValueError: for a number out of range.

    Source: Ho et al. 2020 (2006.11239), section 4.

    >>> legacy_logsnr(torch.tensor([0.0, 0.5, 1.0]))
    tensor([     inf,  -2.4644, -10.1176])
    """
    betas = _betas(beta_start, beta_end, timesteps)
    time = as_float64(t, "t").clamp(0, 1)
    return like(-torch.log(torch.expm1(-_legacy_log_alpha2(time, betas))), t)


def legacy_time(
    logsnr: Scalar,
    beta_start: float = BETA_START,
    beta_end: float = BETA_END,
    timesteps: int = TIMESTEPS,
) -> Tensor:
    """Inverse of `legacy_logsnr`, by Newton's method from the quadratic approximation.

    Args:
        logsnr: any shape, at least ``legacy_logsnr(1)``, -10.12; below, 1 is returned.
        beta_start: variance of the noise of the first step, > 0.
        beta_end: of the last step, at least ``beta_start`` and at most 0.1.
        timesteps: how many steps there are, 1 to 6000.

    Returns:
        t, shape and dtype of ``logsnr``.

    Raises:
        ValueError: for a number out of range.

    >>> legacy_time(legacy_logsnr(0.3))
    tensor(0.3000, dtype=torch.float64)
    """
    betas = _betas(beta_start, beta_end, timesteps)
    log_alpha2 = log_sigmoid(as_float64(logsnr, "logsnr").clamp(min=betas.lowest))
    bend = betas.slope / betas.start / 2
    # Root of bend t^2 + log(0.9999) t = log_alpha2 / 1000 in the form without cancellation.
    target = log_alpha2 / betas.steps
    t = 2 * target / (betas.log_start - torch.sqrt(betas.log_start**2 + 4 * bend * target))
    for _ in range(4):
        slope = betas.steps * torch.log(betas.start + betas.slope * t)
        t = t - (_legacy_log_alpha2(t, betas) - log_alpha2) / slope
    return like(t.clamp(0, 1), logsnr)


def _pair(
    forward: Callable[..., Tensor], inverse: Callable[..., Tensor], **settings: Any
) -> LogSNRSchedule:
    """Both directions of a schedule with its settings."""
    return LogSNRSchedule(partial(forward, **settings), partial(inverse, **settings))


# The factories of `vfn.ops.schedule_table`.
_COSINE = partial(_pair, cosine_logsnr, cosine_time)
_LINEAR = partial(_pair, linear_logsnr, linear_time)
_SIGMOID = partial(_pair, sigmoid_logsnr, sigmoid_time)
_FLOW = partial(_pair, flow_logsnr, flow_time)
_LEGACY = partial(_pair, legacy_logsnr, legacy_time)


def logsnr_schedule(
    name: str,
    logsnr_min: float | None = None,
    logsnr_max: float | None = None,
    **parameters: Any,
) -> LogSNRSchedule:
    """A schedule by name, as a pair of functions.

    Args:
        name: a word of `SCHEDULES`, such as ``cosine``, or the ``package.module:Name`` of a
            function ``make(logsnr_min, logsnr_max, **parameters) -> LogSNRSchedule``.
        logsnr_min: logsnr at t=1; -20 if None. ``legacy`` takes none.
        logsnr_max: logsnr at t=0; 20 if None. ``legacy`` takes none.
        **parameters: those of the schedule, such as beta_end of ``legacy``; the defaults are in
            `SCHEDULES`.

    Returns:
        LogSNRSchedule: ``.logsnr(t)`` and its inverse ``.time(logsnr)``.

    Raises:
        ValueError: for an unknown name, limits in the wrong order, or limits given to ``legacy``; a
            parameter that the schedule does not take or that is out of range.

    >>> schedule = logsnr_schedule("cosine", logsnr_min=-10.0, logsnr_max=12.0)
    >>> schedule.time(schedule.logsnr(0.25))
    tensor(0.2500, dtype=torch.float64)
    """
    entry = SCHEDULES.find(name)
    make = entry.load()
    settings = entry.filled(f"schedule {name}", make, parameters)
    if not entry.limited:
        if logsnr_min is not None or logsnr_max is not None:
            raise ValueError(
                f"expected no logsnr_min or logsnr_max for the {name} schedule, whose ends are "
                f"fixed, got {logsnr_min} and {logsnr_max}; leave them out"
            )
    else:
        low = LOGSNR_MIN if logsnr_min is None else logsnr_min
        high = LOGSNR_MAX if logsnr_max is None else logsnr_max
        check_range(low, high)
        settings = {"logsnr_min": low, "logsnr_max": high, **settings}
    made = make(**settings)
    if not isinstance(made, LogSNRSchedule):
        raise ValueError(
            f"expected schedule {name} to give a LogSNRSchedule(logsnr, time), got "
            f"{type(made).__name__}"
        )
    if name in SCHEDULES:
        return made
    return LogSNRSchedule(partial(_logsnr_of, made), partial(_time_of, made))


def _logsnr_of(schedule: LogSNRSchedule, t: Scalar) -> Tensor:
    """As those of the package are called: of numbers too, beyond the ends, in any dtype."""
    return like(schedule.logsnr(as_float64(t, "t").clamp(0, 1)), t)


def _time_of(schedule: LogSNRSchedule, logsnr: Scalar) -> Tensor:
    return like(schedule.time(as_float64(logsnr, "logsnr")).clamp(0, 1), logsnr)


def logsnr_slope(schedule: LogSNRSchedule, t: Tensor) -> Tensor:
    """How fast logsnr falls: ``d logsnr / dt``.

    Args:
        schedule: one that autograd can follow, as all of this module can be.
        t: times in (0, 1), any shape.

    Returns:
        slope, shape and dtype of ``t``; below 0.

    >>> logsnr_slope(logsnr_schedule("sigmoid"), torch.tensor([0.1, 0.5]))
    tensor([-40., -40.])
    """
    # Each time has its own logsnr, so the gradient of the sum is the slope of each.
    slope: Tensor = torch.func.grad(lambda time: schedule.logsnr(time).sum())(as_float64(t, "t"))
    return like(slope, t)


def shift_schedule(schedule: LogSNRSchedule, resolution: float, base: float = 64) -> LogSNRSchedule:
    """The schedule for pictures of another size: ``logsnr - 2 log(resolution / base)``.

    Larger pictures keep more of their signal under the same noise, so they get more noise. The
    ratio is the shift k of flow matching, ``t -> k t / (1 + (k-1) t)``.

    Args:
        schedule: made for ``base``.
        resolution: side of the pictures, > 0; with ``base`` 1 the ratio.
        base: side that the schedule was made for, > 0.

    Returns:
        LogSNRSchedule; its ends move too.

    Raises:
        ValueError: if a size is not positive.

    Source: Hoogeboom et al. 2023 (2301.11093), eq. 4; Esser et al. 2024 (2403.03206), eq. 23.

    >>> shift_schedule(logsnr_schedule("cosine"), 128).logsnr(0.5)
    tensor(-1.3863, dtype=torch.float64)
    """
    _check_sizes(resolution=resolution, base=base)
    offset = 2 * math.log(base / resolution)
    return LogSNRSchedule(
        partial(_shifted_logsnr, schedule, offset), partial(_shifted_time, schedule, offset)
    )


def _shifted_logsnr(schedule: LogSNRSchedule, offset: float, t: Scalar) -> Tensor:
    return like(schedule.logsnr(as_float64(t, "t")) + offset, t)


def _shifted_time(schedule: LogSNRSchedule, offset: float, logsnr: Scalar) -> Tensor:
    return like(schedule.time(as_float64(logsnr, "logsnr") - offset), logsnr)


def interpolate_schedule(
    schedule: LogSNRSchedule, noise_d_low: int, noise_d_high: int, image_d: int
) -> LogSNRSchedule:
    """A schedule with the noise of small pictures near pure noise, of larger ones near the data.

    ``logsnr(t) = t shift(noise_d_low) + (1-t) shift(noise_d_high)``, each added to the schedule's,
    with ``shift(d) = 2 log(d / image_d)``: at t = 1 the picture, averaged down to a side of
    ``noise_d_low``, has the schedule's logsnr, at t = 0 averaged down to ``noise_d_high``.

    Args:
        schedule: of noise levels, as `logsnr_schedule` makes one.
        noise_d_low: side in pixels that counts at t = 1, > 0.
        noise_d_high: side that counts at t = 0, at least ``noise_d_low``.
        image_d: side of the pictures, at least ``noise_d_high``.

    Returns:
        LogSNRSchedule; the inverse is by bisection and a secant step, for limits that are finite.

    Raises:
        ValueError: if the sides are not ``0 < noise_d_low <= noise_d_high <= image_d``.

    Source: Hoogeboom et al. 2023 (2301.11093), eq. 5.

    >>> mixed = interpolate_schedule(logsnr_schedule("cosine"), 32, 256, image_d=512)
    >>> mixed.logsnr(torch.tensor([0.0, 0.5, 1.0]))
    tensor([ 18.6137,  -3.4657, -25.5452])
    """
    _check_sizes(noise_d_low=noise_d_low, noise_d_high=noise_d_high, image_d=image_d)
    if not noise_d_low <= noise_d_high <= image_d:
        raise ValueError(
            "expected noise_d_low <= noise_d_high <= image_d, sides of the picture averaged down "
            f"and of the picture itself, got {noise_d_low}, {noise_d_high} and {image_d}"
        )
    low, high = (2 * math.log(side / image_d) for side in (noise_d_low, noise_d_high))
    logsnr = partial(_between_logsnr, schedule, low, high)
    return LogSNRSchedule(logsnr, partial(_bisected_time, logsnr))


def _between_logsnr(schedule: LogSNRSchedule, low: float, high: float, t: Scalar) -> Tensor:
    time = as_float64(t, "t").clamp(0, 1)
    return like(schedule.logsnr(time) + time * low + (1 - time) * high, t)


def _bisected_time(logsnr: Callable[[Scalar], Tensor], value: Scalar) -> Tensor:
    """Where a falling ``logsnr`` has a value."""
    target = as_float64(value, "logsnr")
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        later = logsnr(middle) > target
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    # One step of the secant method: it carries the derivative, which bisection has not.
    t = 0.5 * (low + high).detach()
    before, after = (t - _SECANT).clamp(min=0), (t + _SECANT).clamp(max=1)
    slope = (logsnr(after) - logsnr(before)) / (after - before)
    step = (logsnr(t) - target) / slope
    return like((t - torch.where(step.isfinite(), step, 0.0)).clamp(0, 1), value)


_BISECTIONS, _SECANT = 40, 1e-6


def _check_sizes(**sizes: float) -> None:
    if any(not size > 0 for size in sizes.values()):
        raise ValueError(
            f"expected {' and '.join(sizes)} > 0, got {' and '.join(map(str, sizes.values()))}"
        )


def check_zero_snr(logsnr_min: float, out_type: OutType) -> None:
    """Refuse a prediction type that carries no information where the signal is gone.

    At logsnr = -inf the noisy data are all noise: predicting eps says nothing about x0. The other
    types have a limit there.

    Args:
        logsnr_min: logsnr at t = 1.
        out_type: what the network predicts.

    Raises:
        ValueError: for eps at -inf.

    Source: Lin et al. 2023 (2305.08891), section 3.2.

    >>> check_zero_snr(-float("inf"), "v")
    """
    check_choice(out_type, OutType, "out_type")
    if logsnr_min == -math.inf and out_type == "eps":
        raise ValueError(
            "expected out_type x0, v, u or both for a schedule that ends at zero signal "
            "(logsnr -inf), got eps, from which x0 cannot be found there"
        )
