"""Training times and noise levels, as functions of uniform or normal draws.

The draws are arguments: with `vfn.ops.keyed_uniform` and `keyed_normal` the result for (seed, step,
position) does not depend on the layout of the batch. `draw_times` draws them by a word of
`TIME_DENSITIES`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.memory import moved
from vfn.ops._coef import as_float64
from vfn.ops.densities import TIME_DENSITIES
from vfn.ops.schedules import LogSNRSchedule


class WeightedTime(NamedTuple):
    """Time and the density it was drawn with; divide the loss by it to undo the preference."""

    t: Tensor
    density: Tensor


class BatchDraws(NamedTuple):
    """What the times of a batch, or of a part of it, are made of.

    u: uniform draws in (0, 1) [B], float64, one for each position. common: one more [], the same
    for all parts of the batch, such as u of position 0. position: places in the global batch [B],
    integers. batch_size: how many places there are.
    """

    u: Tensor
    common: Tensor
    position: Tensor
    batch_size: int


def discrete_time(u: Tensor, timesteps: int) -> Tensor:
    """Discrete times: ``t = ceil(u T) / T``, uniform on {1/T, 2/T, ..., 1}.

    Args:
        u: uniform draws in (0, 1), any shape.
        timesteps: T >= 1.

    Returns:
        t, shape and dtype of ``u``.

    Raises:
        ValueError: if ``timesteps < 1``, or no whole number.

    Source: Ho et al. 2020 (2006.11239), algorithm 1.

    >>> discrete_time(torch.tensor([0.1, 0.9]), 4)
    tensor([0.2500, 1.0000])
    """
    if not timesteps >= 1 or timesteps % 1:
        raise ValueError(f"expected whole timesteps >= 1, got {timesteps}")
    step = torch.ceil(as_float64(u, "u") * timesteps).clamp(1, timesteps)
    return (step / timesteps).to(u.dtype)


def stratified_time(u: Tensor, position: Tensor, batch_size: int) -> Tensor:
    """One time in each of ``batch_size`` equal strata: ``t = (position + u) / batch_size``.

    Args:
        u: uniform draws in (0, 1), one for each position.
        position: place in the global batch, integers 0..batch_size-1, shape of ``u``.
        batch_size: size of the global batch.

    Returns:
        t in (0, 1), shape and dtype of ``u``; uniform over positions taken together.

    Raises:
        ValueError: if ``batch_size < 1``.

    >>> stratified_time(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), 2)
    tensor([0.2500, 0.7500])
    """
    _check_batch(batch_size)
    return _inside((position + as_float64(u, "u")) / batch_size, u.dtype)


def low_discrepancy_time(u: Tensor, position: Tensor, batch_size: int) -> Tensor:
    """Evenly spaced times with one common offset: ``t = frac(u + position / batch_size)``.

    Args:
        u: one uniform draw for the step, or its copies in the shape of ``position``.
        position: place in the global batch, integers 0..batch_size-1.
        batch_size: size of the global batch.

    Returns:
        t in (0, 1), shape of ``position``, dtype of ``u``. Each alone is uniform.

    Raises:
        ValueError: if ``batch_size < 1``.

    Source: Kingma et al. 2021 (2107.00630), appendix I.1.

    >>> low_discrepancy_time(torch.tensor(0.75), torch.arange(2), 2)
    tensor([0.7500, 0.2500])
    """
    _check_batch(batch_size)
    return _inside(torch.frac(as_float64(u, "u") + position.double() / batch_size), u.dtype)


def lognormal_logsnr(normal: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """Noise levels of EDM: ``ln(sigma/alpha) ~ N(mean, std^2)``, so ``logsnr = -2 (mean + std n)``.

    Args:
        normal: standard normal draws, any shape.
        mean: of ln(sigma/alpha).
        std: of ln(sigma/alpha), > 0.

    Returns:
        logsnr, shape and dtype of ``normal``.

    Raises:
        ValueError: if ``std <= 0``.

    Source: Karras et al. 2022 (2206.00364), table 1.

    >>> lognormal_logsnr(torch.zeros(1))
    tensor([2.4000])
    """
    return (-2 * (mean + _positive(std, "std") * as_float64(normal, "normal"))).to(normal.dtype)


def laplace_logsnr(u: Tensor, mean: float = 0.0, scale: float = 0.5) -> Tensor:
    """Noise levels around one: ``logsnr ~ Laplace(mean, scale)``, by its inverse distribution.

    ``logsnr = mean - scale log(2u)`` for u below 1/2, ``mean + scale log(2 - 2u)`` above.

    Args:
        u: uniform draws in (0, 1), any shape.
        mean: of logsnr, which is preferred.
        scale: mean distance from it, > 0.

    Returns:
        logsnr, shape and dtype of ``u``; it falls in u, as a schedule does in time.

    Raises:
        ValueError: if ``scale <= 0``.

    Source: Hang et al. 2024 (2407.03297), table 1.

    >>> laplace_logsnr(torch.tensor([0.25, 0.5, 0.75]))
    tensor([ 0.3466,  0.0000, -0.3466])
    """
    value = as_float64(u, "u")
    away = torch.where(value < 0.5, -torch.log(2 * value), torch.log(2 * (1 - value)))
    return (mean + _positive(scale, "scale") * away).to(u.dtype)


def logit_normal_time(normal: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Times whose logit is normal: ``t = sigmoid(mean + std n)``.

    Args:
        normal: standard normal draws, any shape.
        mean: of logit(t); above 0 prefers noise.
        std: of logit(t), > 0.

    Returns:
        t in (0, 1), shape and dtype of ``normal``.

    Raises:
        ValueError: if ``std <= 0``.

    Source: Esser et al. 2024 (2403.03206), eq. 19.

    >>> logit_normal_time(torch.zeros(1))
    tensor([0.5000])
    """
    logit = mean + _positive(std, "std") * as_float64(normal, "normal")
    return _inside(torch.sigmoid(logit), normal.dtype)


def importance_time(u: Tensor, weights: Tensor) -> WeightedTime:
    """Times from a piecewise constant density, by its inverse distribution function.

    Args:
        u: uniform draws in (0, 1), any shape.
        weights: positive weight of each of K equal intervals of [0, 1], [K]; any scale. On the
            CPU: a GPU may add them up in another order each time.

    Returns:
        WeightedTime(t, density), shape of ``u``; t in (0, 1) in its dtype, and the density, which
        integrates to 1.

    Raises:
        ValueError: if ``weights`` is not one-dimensional.

    Source: Nichol & Dhariwal 2021 (2102.09672), eq. 18, in continuous time.

    >>> importance_time(torch.tensor([0.5]), torch.tensor([1.0, 3.0]))
    WeightedTime(t=tensor([0.6667]), density=tensor([1.5000], dtype=torch.float64))
    """
    if weights.ndim != 1 or weights.shape[0] < 1:
        raise ValueError(f"expected weights of shape [K], got {tuple(weights.shape)}")
    count = weights.shape[0]
    share = as_float64(weights, "weights") / weights.double().sum()
    share, ends = (moved(each, u.device) for each in (share, share.cumsum(0)))
    value = as_float64(u, "u")
    bin_of = torch.searchsorted(ends, value.contiguous()).clamp(max=count - 1)
    inside = (value - (ends - share)[bin_of]) / share[bin_of]
    return WeightedTime(_inside((bin_of + inside) / count, u.dtype), count * share[bin_of])


def _inside(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Times rounded to a dtype, but never to 0 or 1, where a schedule may be infinite."""
    info = torch.finfo(dtype)
    return t.clamp(max(_SOONEST, info.tiny), 1 - 0.5 * info.eps).to(dtype)


_SOONEST = 2.0**-64


def _check_batch(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")


def _positive(value: float, name: str) -> float:
    if not value > 0:
        raise ValueError(f"expected {name} > 0, got {value}")
    return value


def draw_times(
    name: str,
    draws: BatchDraws,
    schedule: LogSNRSchedule,
    keep_expectation: bool | None = None,
    **parameters: Any,
) -> WeightedTime:
    """Training times by the name of their density.

    Args:
        name: a word of `TIME_DENSITIES`, such as ``uniform``, or the ``package.module:Name`` of a
            function ``draw(draws, schedule, **parameters) -> WeightedTime``.
        draws: the draws of the batch or of a part of it, [B] each.
        schedule: which noise level a time has; for densities of noise levels.
        keep_expectation: whether the loss is to keep the mean that it has over uniform times;
            otherwise the preference for some times is meant. None: as `TIME_DENSITIES` says, it is
            kept by ``importance``, ``weighted`` and whatever comes from outside.
        **parameters: those of the density, such as mean and std of ``logit_normal``; the defaults
            are in `TIME_DENSITIES`.

    Returns:
        WeightedTime(t, density), [B] each, float64: divide the loss by ``density``. It is 1 where
        the preference is meant. Otherwise it is +inf, so that they do not count, where levels
        beyond the schedule were moved to its end.

    Raises:
        ValueError: for an unknown name, a parameter that the density does not take or that is out
            of range, or a function from outside that gives something else.

    >>> from vfn.ops import logsnr_schedule
    >>> u, position = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.arange(2)
    >>> draws = BatchDraws(u, u[0], position, batch_size=2)
    >>> draw_times("stratified", draws, logsnr_schedule("cosine")).t
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    entry = TIME_DENSITIES.find(name)
    draw = entry.load()
    values = entry.filled(f"time density {name}", draw, parameters)
    keep = entry.kept if keep_expectation is None else keep_expectation
    drawn = draw(draws, schedule, **values)
    if entry.density is not None:
        t = drawn
        density = entry.density(t, schedule, **values) if keep else t.new_ones(t.shape)
        return WeightedTime(t, density)
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise ValueError(
            f"expected time density {name} to give a WeightedTime(t, density), got "
            f"{type(drawn).__name__}"
        )
    t, density = drawn
    return WeightedTime(t, density if keep else t.new_ones(t.shape))


def time_density(name: str, t: Tensor, schedule: LogSNRSchedule, **parameters: Any) -> Tensor:
    """How often a time is drawn, relative to uniform times.

    Args:
        name: a word of `TIME_DENSITIES`, such as ``logit_normal``.
        t: times in (0, 1), any shape.
        schedule: which noise level a time has; for densities of noise levels.
        **parameters: those of the density, such as mean and std of ``logit_normal``; the defaults
            are in `TIME_DENSITIES`.

    Returns:
        density, float64, shape of ``t``; over [0, 1] it integrates to 1, less what lies beyond the
        ends of the schedule.

    Raises:
        ValueError: for an unknown name or one from outside, or a parameter that the density does
            not take or that is out of range.

    >>> from vfn.ops import logsnr_schedule
    >>> time_density("logit_normal", torch.tensor([0.1, 0.5]), logsnr_schedule("flow"))
    tensor([0.3966, 1.5958], dtype=torch.float64)
    """
    entry = TIME_DENSITIES.find(name)
    if entry.density is None:
        raise ValueError(
            f"expected a word of TIME_DENSITIES, {TIME_DENSITIES.words()}, got {name}, which tells "
            "its density of what it draws alone"
        )
    values = entry.filled(f"time density {name}", entry.density, parameters)
    return entry.density(as_float64(t, "t"), schedule, **values)
