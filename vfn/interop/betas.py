"""Noise levels of discrete diffusion as a schedule: exact at its times, between them linear."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from vfn.files import shown
from vfn.ops import LogSNRSchedule
from vfn.ops.schedules import LOGSNR_MAX, LOGSNR_MIN

KINDS = ("linear", "scaled_linear", "squaredcos_cap_v2")
MOST_BETAS = 10_000
MOST_BETA = 0.999  # of the squared cosine
AFTER = 1e-6  # what logsnr falls by after the last time, so that every time has a level of its own
NAME = "vfn.interop.betas:betas_schedule"


def betas_schedule(
    logsnr_min: float = LOGSNR_MIN,
    logsnr_max: float = LOGSNR_MAX,
    kind: str = "linear",
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    timesteps: int = 1000,
    betas: Sequence[float] = (),
) -> LogSNRSchedule:
    """The schedule of T discrete steps, whose time i stands at ``t = i/T``.

    ``alpha^2(i/T) = prod_{j <= i} (1 - beta_j)`` for i = 0..T-1, linear in logsnr between them.
    After the last time noise grows no more, and the network is asked about that time.

    Args:
        logsnr_min: not to be chosen, as the betas say it.
        logsnr_max: not to be chosen, as the betas say it.
        kind: how the betas rise: ``linear``, ``scaled_linear`` (their roots do), or
            ``squaredcos_cap_v2``, of ``alpha^2 = cos^2((t + 0.008)/1.008 pi/2)``.
        beta_start: of the first step, in (0, 1).
        beta_end: of the last, in (0, 1).
        timesteps: T.
        betas: all of them, in place of the above.

    Returns:
        LogSNRSchedule.

    Raises:
        ValueError: for betas out of range, or limits.

    Source: Ho et al. 2020 (2006.11239), eq. 4; Nichol & Dhariwal 2021 (2102.09672), eq. 17.

    >>> schedule = betas_schedule()
    >>> schedule.logsnr(torch.tensor([0.0, 0.5, 0.999, 1.0], dtype=torch.float64))
    tensor([  9.2102,  -2.4727, -10.1177, -10.1177], dtype=torch.float64)
    """
    if (logsnr_min, logsnr_max) != (LOGSNR_MIN, LOGSNR_MAX):
        raise ValueError("expected no logsnr_min or logsnr_max for a schedule of betas; leave them")
    found = _checked(betas) if len(betas) else _made(kind, beta_start, beta_end, timesteps)
    log_alpha2 = torch.log1p(-found).cumsum(0)
    levels = log_alpha2 - torch.log(-torch.expm1(log_alpha2))
    levels = torch.cat([levels, levels[-1:] - AFTER])
    on = partial(_on, (kind, beta_start, beta_end, timesteps, *betas), levels)
    return LogSNRSchedule(partial(_logsnr, on), partial(_time, on))


# Levels on other devices than the host, by what they are of: schedules are made anew and asked at
# each step, where a GPU would be waited for.
_COPIES: dict[tuple[object, ...], Tensor] = {}


def _on(betas: tuple[object, ...], levels: Tensor, device: torch.device) -> Tensor:
    """The levels on a device."""
    if device == levels.device:
        return levels
    there = _COPIES.get((betas, device))
    if there is None:
        there = levels.to(device)
        if type(there) is Tensor and not torch.compiler.is_compiling():  # else it has no numbers
            _COPIES[betas, device] = there
    return there


def _checked(betas: Sequence[float]) -> Tensor:
    numbers = all(isinstance(value, int | float) for value in betas)
    if not numbers or not 2 <= len(betas) <= MOST_BETAS or not all(0 < b < 1 for b in betas):
        raise ValueError(
            f"expected 2 to {MOST_BETAS} betas above 0 and below 1, got {shown(betas)}"
        )
    return torch.tensor(betas, dtype=torch.float64)


def _made(kind: str, start: float, end: float, timesteps: int) -> Tensor:
    if kind not in KINDS:
        raise ValueError(f"expected betas of kind {', '.join(KINDS)}, got {shown(kind)}")
    if type(timesteps) is not int or not 2 <= timesteps <= MOST_BETAS:
        raise ValueError(f"expected 2 to {MOST_BETAS} timesteps, got {shown(timesteps)}")
    if kind == "squaredcos_cap_v2":
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        alpha2 = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - alpha2[1:] / alpha2[:-1]).clamp(max=MOST_BETA)
    numbers = all(isinstance(value, int | float) for value in (start, end))
    if not numbers or not 0 < start <= end < 1:
        raise ValueError(
            f"expected 0 < beta_start <= beta_end < 1, got {shown(start)} and {shown(end)}"
        )
    power = 2 if kind == "scaled_linear" else 1
    ends = (start ** (1 / power), end ** (1 / power))
    return torch.linspace(*ends, timesteps, dtype=torch.float64) ** power


def _logsnr(on: Callable[[torch.device], Tensor], t: Tensor) -> Tensor:
    levels = on(t.device)
    place = t * (len(levels) - 1)
    i = place.floor().long().clamp(0, len(levels) - 2)
    here, there = levels[i], levels[i + 1]
    return here + (place - i) * (there - here)


def _time(on: Callable[[torch.device], Tensor], logsnr: Tensor) -> Tensor:
    """The last time before which the level is reached; at most that of the last beta."""
    levels = on(logsnr.device)[:-1]
    i = (logsnr.unsqueeze(-1) <= levels).sum(-1).sub(1).clamp(0, len(levels) - 2)
    here, there = levels[i], levels[i + 1]
    return (i + ((logsnr - here) / (there - here)).clamp(0, 1)) / len(levels)
