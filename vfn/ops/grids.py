"""Sampling grids: the noise levels that a sampler visits, from noise to data."""

import math
import numbers

import torch
from torch import Tensor

from vfn.ops.schedules import LogSNRSchedule, check_finite, check_range, level_at
from vfn.ops.words import Grid, check_choice


def uniform_logsnr_grid(
    logsnr_min: float, logsnr_max: float, steps: int, device: torch.device | None = None
) -> Tensor:
    """A sampling grid that is uniform in logsnr.

    Args:
        logsnr_min: where it starts.
        logsnr_max: where it ends.
        steps: N >= 1.
        device: where to put it.

    Returns:
        logsnrs [N+1], float64, increasing.

    Raises:
        ValueError: if ``steps < 1`` or ``logsnr_min >= logsnr_max``.

    >>> uniform_logsnr_grid(-20.0, 20.0, 2)
    tensor([-20.,   0.,  20.], dtype=torch.float64)
    """
    check_range(logsnr_min, logsnr_max)
    check_finite(logsnr_min, logsnr_max)
    _check_steps(steps)
    return torch.linspace(logsnr_min, logsnr_max, steps + 1, dtype=torch.float64, device=device)


def karras_grid(
    steps: int,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    device: torch.device | None = None,
) -> Tensor:
    """EDM's sampling grid: ``sigma_i^(1/rho)`` falls linearly, ``logsnr = -2 log sigma``.

    Here sigma is EDM's, that is ``sigma/alpha``. The last level is sigma = 0, so logsnr = +inf.

    Args:
        steps: N >= 1.
        sigma_min: last noise level before 0, > 0.
        sigma_max: first noise level, > sigma_min.
        rho: how much the grid prefers low noise, > 0.
        device: where to put it.

    Returns:
        logsnrs [N+1], float64, increasing, the last is +inf.

    Raises:
        ValueError: for a number out of range.

    Source: Karras et al. 2022 (2206.00364), eq. 5.

    >>> karras_grid(2).exp()
    tensor([1.5625e-04, 2.5000e+05,        inf], dtype=torch.float64)
    """
    _check_steps(steps)
    if not (0 < sigma_min < sigma_max < math.inf and 0 < rho < math.inf):
        raise ValueError(
            "expected 0 < sigma_min < sigma_max and rho > 0, all finite, got "
            f"{sigma_min}, {sigma_max}, {rho}"
        )
    ramp = torch.arange(steps, dtype=torch.float64, device=device) / max(steps - 1, 1)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigma = (first + ramp * (last - first)) ** rho
    return torch.cat([-2 * torch.log(sigma), sigma.new_full((1,), math.inf)])


def logsnr_grid(schedule: LogSNRSchedule, steps: int, device: torch.device | None = None) -> Tensor:
    """The sampling grid, uniform in time: ``logsnr(i / N)`` for i = N down to 0.

    Args:
        schedule: time to noise level and back, as `logsnr_schedule` makes one.
        steps: N >= 1.
        device: where to put it.

    Returns:
        logsnrs [N+1], float64, increasing, from noise to data.

    Raises:
        ValueError: if ``steps < 1``.

    >>> from vfn.ops import logsnr_schedule
    >>> logsnr_grid(logsnr_schedule("sigmoid"), 4)
    tensor([-20., -10.,   0.,  10.,  20.], dtype=torch.float64)
    """
    _check_steps(steps)
    t = torch.arange(steps, -1, -1, dtype=torch.float64, device=device) / steps
    return schedule.logsnr(t)


def sampling_grid(
    name: Grid, schedule: LogSNRSchedule, steps: int, device: torch.device | None = None
) -> Tensor:
    """A sampling grid by name, within the limits of a schedule.

    Args:
        name: ``time``, uniform in time; ``logsnr``, uniform in logsnr; ``karras``, EDM's from
            sigma/alpha = 80, or the schedule's own limit, to 0.002 and 0.
        schedule: time to noise level and back, as `logsnr_schedule` makes one.
        steps: N >= 1.
        device: where to put it.

    Returns:
        logsnrs [N+1], float64, increasing, from noise to data.

    Raises:
        ValueError: if ``steps < 1``, for an unknown name, or if the schedule has infinite limits
            that a grid uniform in logsnr cannot reach.

    >>> from vfn.ops import logsnr_schedule
    >>> sampling_grid("logsnr", logsnr_schedule("cosine"), 2)
    tensor([-20.,   0.,  20.], dtype=torch.float64)
    """
    check_choice(name, Grid, "grid")
    if name == "time":
        return logsnr_grid(schedule, steps, device)
    low, high = (level_at(schedule, t).item() for t in (1.0, 0.0))
    if name == "logsnr":
        return uniform_logsnr_grid(low, high, steps, device)
    sigma_min, sigma_max = math.exp(-high / 2), math.exp(-low / 2)
    return karras_grid(steps, max(sigma_min, 0.002), min(sigma_max, 80.0), device=device)


def _check_steps(steps: int) -> None:
    if not isinstance(steps, numbers.Integral) or steps < 1:
        raise ValueError(f"expected at least 1 sampling step, got {steps!r}")
