"""The table of densities that training times are drawn from, without torch.

A new one, with its parameters, is one entry here, or a function ``draw(draws, schedule,
**parameters) -> WeightedTime`` named as ``package.module:Name``. The functions import torch when
they are called, as whoever has tensors to draw from has done.

Sources: low_discrepancy: Kingma et al. 2021 (2107.00630), appendix I.1. logit_normal: Esser et al.
2024 (2403.03206), eq. 19. lognormal: Karras et al. 2022 (2206.00364), table 1. laplace: Hang et al.
2024 (2407.03297), table 1. importance: Nichol & Dhariwal 2021 (2102.09672), eq. 18, in continuous
time. weighted: the density of least variance where the v error is the same at all levels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vfn.memory import moved
from vfn.ops.weightings import WEIGHTINGS
from vfn.parametric import Parametric
from vfn.tables import Table, load_object

if TYPE_CHECKING:
    from torch import Tensor

    from vfn.ops.schedules import LogSNRSchedule
    from vfn.ops.times import BatchDraws


@dataclass(frozen=True, kw_only=True)
class TimeDensity(Parametric):
    """A density of training times behind a word.

    text: one line that says what it is. draw: ``draw(draws, schedule, **parameters) -> t`` of
    `BatchDraws` and a `LogSNRSchedule`; the time of a position depends on that position's draw, the
    common one, the position and the batch's size alone. Of a function from outside its
    ``package.module:Name``; it gives a `WeightedTime`. density: ``density(t, schedule,
    **parameters)``, what one time is drawn with, which integrates to 1 over [0, 1]; +inf at an end
    that whatever lies beyond is moved to. None from outside. parameters: name -> default. positive:
    those that are > 0. kept: whether, if nobody says otherwise, the loss is divided by the density,
    which keeps its mean that of uniform times.

    >>> TIME_DENSITIES["logit_normal"].parameters
    {'mean': 0.0, 'std': 1.0}
    """

    text: str
    draw: "Callable[..., Tensor] | str"
    density: "Callable[..., Tensor] | None" = None
    kept: bool = False

    def load(self) -> "Callable[..., Any]":
        """The function ``draw``, imported now if it was named.

        Returns:
            the function.

        Raises:
            ValueError: if the name cannot be imported.

        >>> TIME_DENSITIES["uniform"].load().__name__
        '_uniform'
        """
        if isinstance(self.draw, str):
            loaded: Callable[..., Any] = load_object(self.draw)
            return loaded
        return self.draw


def _uniform(draws: "BatchDraws", _schedule: "LogSNRSchedule") -> "Tensor":
    return draws.u


def _stratified(draws: "BatchDraws", _schedule: "LogSNRSchedule") -> "Tensor":
    from vfn.ops.times import stratified_time

    return stratified_time(draws.u, draws.position, draws.batch_size)


def _low_discrepancy(draws: "BatchDraws", _schedule: "LogSNRSchedule") -> "Tensor":
    from vfn.ops.times import low_discrepancy_time

    return low_discrepancy_time(draws.common, draws.position, draws.batch_size)


def _one(t: "Tensor", _schedule: "LogSNRSchedule") -> "Tensor":
    return t.new_ones(t.shape)


def _logit_normal(
    draws: "BatchDraws", _schedule: "LogSNRSchedule", mean: float, std: float
) -> "Tensor":
    from vfn.ops.times import logit_normal_time

    return logit_normal_time(_normal(draws.u), mean, std)


def _logit_normal_density(
    t: "Tensor", _schedule: "LogSNRSchedule", mean: float, std: float
) -> "Tensor":
    return _gauss(t.logit(), mean, std) / (t * (1 - t))


def _lognormal(
    draws: "BatchDraws", schedule: "LogSNRSchedule", mean: float, std: float
) -> "Tensor":
    from vfn.ops.times import lognormal_logsnr

    return _time_of(lognormal_logsnr(_normal(draws.u), mean, std), draws, schedule)


def _lognormal_density(
    t: "Tensor", schedule: "LogSNRSchedule", mean: float, std: float
) -> "Tensor":
    return _by_level(lambda logsnr: 0.5 * _gauss(-0.5 * logsnr, mean, std), t, schedule)


def _laplace(
    draws: "BatchDraws", schedule: "LogSNRSchedule", mean: float, scale: float
) -> "Tensor":
    from vfn.ops.times import laplace_logsnr

    return _time_of(laplace_logsnr(draws.u, mean, scale), draws, schedule)


def _laplace_density(
    t: "Tensor", schedule: "LogSNRSchedule", mean: float, scale: float
) -> "Tensor":
    return _by_level(
        lambda logsnr: (-(logsnr - mean).abs() / scale).exp() / (2 * scale), t, schedule
    )


def _importance(
    draws: "BatchDraws", _schedule: "LogSNRSchedule", weights: "Sequence[float] | Tensor"
) -> "Tensor":
    from vfn.ops.times import importance_time

    return importance_time(draws.u, _on_host(weights)).t


def _importance_density(
    t: "Tensor", _schedule: "LogSNRSchedule", weights: "Sequence[float] | Tensor"
) -> "Tensor":
    return _stairs(t, _on_host(weights))


def _weighted(
    draws: "BatchDraws", schedule: "LogSNRSchedule", weighting: str, **options: Any
) -> "Tensor":
    from vfn.ops.times import importance_time

    return importance_time(draws.u, _weights(schedule, weighting, options)).t


def _weighted_density(
    t: "Tensor", schedule: "LogSNRSchedule", weighting: str, **options: Any
) -> "Tensor":
    return _stairs(t, _weights(schedule, weighting, options))


def _normal(u: "Tensor") -> "Tensor":
    """Standard normal draws of uniform ones, by the inverse distribution function."""
    import torch

    return torch.special.ndtri(u)


def _gauss(x: "Tensor", mean: float, std: float) -> "Tensor":
    return (-0.5 * ((x - mean) / std).square()).exp() / (std * math.sqrt(2 * math.pi))


def _time_of(logsnr: "Tensor", draws: "BatchDraws", schedule: "LogSNRSchedule") -> "Tensor":
    """Where the schedule has the levels; at its ends for those beyond."""
    import torch

    ends = torch.linspace(1, 0, 2, dtype=draws.u.dtype, device=draws.u.device)
    lowest, highest = schedule.logsnr(ends)
    t = schedule.time(logsnr.clamp(lowest, highest)).clamp(0, 1)
    # Exactly, where the inverse of a schedule is rounded: a density is not that of its ends.
    return torch.where(logsnr >= highest, 0, torch.where(logsnr <= lowest, 1, t))


def _by_level(
    law: "Callable[[Tensor], Tensor]", t: "Tensor", schedule: "LogSNRSchedule"
) -> "Tensor":
    """A density of noise levels as one of times; at the ends stands all that lies beyond."""
    from vfn.ops.schedules import logsnr_slope

    density = law(schedule.logsnr(t)) * logsnr_slope(schedule, t).abs()
    return density.masked_fill((t <= 0) | (t >= 1), math.inf)


def _on_host(weights: "Sequence[float] | Tensor") -> "Tensor":
    import torch

    return torch.as_tensor(weights, dtype=torch.float64, device="cpu")


def _stairs(t: "Tensor", weights: "Tensor") -> "Tensor":
    """A density that is constant on equal intervals of time."""
    count = weights.shape[0]
    step = (t * count).long().clamp(0, count - 1)
    return moved(weights * (count / weights.sum()), t.device)[step]


INTERVALS = 1024  # of time, on which a weighting is taken as constant


def _weights(schedule: "LogSNRSchedule", weighting: str, options: Mapping[str, Any]) -> "Tensor":
    """The weight of the v error, which is alike at all levels, in the middle of each interval."""
    import torch

    from vfn.ops.losses import loss_weight

    # On the host, where sums have one order.
    middles = (torch.arange(INTERVALS, dtype=torch.float64) + 0.5) / INTERVALS
    logsnr = schedule.logsnr(middles)
    return loss_weight(logsnr, weighting, **options) * torch.sigmoid(-logsnr)


def _outside(name: str) -> TimeDensity:
    text = f"what {name}(draws, schedule) draws"
    return TimeDensity(text=text, draw=name, parameters=None, kept=True)


TIME_DENSITIES: Table[TimeDensity] = Table(
    "time density",
    {
        "uniform": TimeDensity(
            text="uniform in time, each on its own", draw=_uniform, density=_one
        ),
        "stratified": TimeDensity(
            text="uniform, one time in each of as many equal strata as the batch has pictures",
            draw=_stratified,
            density=_one,
        ),
        "low_discrepancy": TimeDensity(
            text="uniform, the batch evenly spaced from one common offset",
            draw=_low_discrepancy,
            density=_one,
        ),
        "logit_normal": TimeDensity(
            text="logit(t) ~ N(mean, std^2), which prefers the middle",
            draw=_logit_normal,
            density=_logit_normal_density,
            parameters={"mean": 0.0, "std": 1.0},
            positive=("std",),
        ),
        "lognormal": TimeDensity(
            text="ln(sigma/alpha) ~ N(mean, std^2), the noise levels of EDM",
            draw=_lognormal,
            density=_lognormal_density,
            parameters={"mean": -1.2, "std": 1.2},
            positive=("std",),
        ),
        "laplace": TimeDensity(
            text="logsnr ~ Laplace(mean, scale), which prefers levels near the mean",
            draw=_laplace,
            density=_laplace_density,
            parameters={"mean": 0.0, "scale": 0.5},
            positive=("scale",),
        ),
        "importance": TimeDensity(
            text="as often as the weights of equal intervals of time say, and undone in the loss",
            draw=_importance,
            density=_importance_density,
            parameters={"weights": (1.0,)},
            positive=("weights",),
            kept=True,
        ),
        "weighted": TimeDensity(
            text="as often as a weighting of the v error says, and undone in the loss",
            draw=_weighted,
            density=_weighted_density,
            parameters={"weighting": "truncated_snr"},
            chooses={"weighting": WEIGHTINGS},
            kept=True,
        ),
    },
    _outside,
)
