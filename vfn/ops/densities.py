"""The table of densities that training times are drawn from, without torch.

A new one, with its parameters, is one entry here, or a function ``draw(draws, schedule,
**parameters) -> WeightedTime`` named as ``package.module:Name``. The functions import torch when
they are called, as whoever has tensors to draw from has done.

Sources: low_discrepancy: Kingma et al. 2021 (2107.00630), appendix I.1. logit_normal: Esser et al.
2024 (2403.03206), eq. 19. lognormal: Karras et al. 2022 (2206.00364), table 1. importance: Nichol &
Dhariwal 2021 (2102.09672), eq. 18, in continuous time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfn.ops._options import Parametric
from vfn.tables import Table, load_object

if TYPE_CHECKING:
    from torch import Tensor

    from vfn.ops.schedules import LogSNRSchedule
    from vfn.ops.times import BatchDraws, WeightedTime


@dataclass(frozen=True, kw_only=True)
class TimeDensity(Parametric):
    """A density of training times behind a word.

    text: one line that says what it is. draw: ``draw(draws, schedule, **parameters) ->
    WeightedTime`` of `BatchDraws` and a `LogSNRSchedule`, or the ``package.module:Name`` of such a
    function; the time of a position depends on that position's draw, the common one, the position
    and the batch's size alone. parameters: name -> default. positive: those that are > 0. undone:
    whether the loss is divided by the density, which keeps its mean that of uniform times;
    otherwise the preference for some times is meant, and the density is given as 1.

    >>> TIME_DENSITIES["logit_normal"].parameters
    {'mean': 0.0, 'std': 1.0}
    """

    text: str
    draw: "Callable[..., WeightedTime] | str"
    undone: bool = False

    def load(self) -> "Callable[..., WeightedTime]":
        """The function ``draw``, imported now if it was named.

        Returns:
            the function.

        Raises:
            ValueError: if the name cannot be imported.

        >>> TIME_DENSITIES["uniform"].load().__name__
        '_uniform'
        """
        if isinstance(self.draw, str):
            loaded: Callable[..., WeightedTime] = load_object(self.draw)
            return loaded
        return self.draw


def _uniform(draws: "BatchDraws", _schedule: "LogSNRSchedule") -> "WeightedTime":
    return _as_meant(draws.u)


def _stratified(draws: "BatchDraws", _schedule: "LogSNRSchedule") -> "WeightedTime":
    from vfn.ops.times import stratified_time

    return _as_meant(stratified_time(draws.u, draws.position, draws.batch_size))


def _low_discrepancy(draws: "BatchDraws", _schedule: "LogSNRSchedule") -> "WeightedTime":
    from vfn.ops.times import low_discrepancy_time

    return _as_meant(low_discrepancy_time(draws.common, draws.position, draws.batch_size))


def _logit_normal(
    draws: "BatchDraws", _schedule: "LogSNRSchedule", mean: float, std: float
) -> "WeightedTime":
    from vfn.ops.times import logit_normal_time

    return _as_meant(logit_normal_time(_normal(draws.u), mean, std))


def _lognormal(
    draws: "BatchDraws", schedule: "LogSNRSchedule", mean: float, std: float
) -> "WeightedTime":
    """Where the schedule has the levels; at its ends for those beyond."""
    from vfn.ops.times import lognormal_logsnr

    lowest, highest = schedule.logsnr(draws.u.new_tensor([1.0, 0.0]))
    logsnr = lognormal_logsnr(_normal(draws.u), mean, std).clamp(lowest, highest)
    return _as_meant(schedule.time(logsnr).clamp(0, 1))


def _importance(
    draws: "BatchDraws", _schedule: "LogSNRSchedule", weights: "Sequence[float] | Tensor"
) -> "WeightedTime":
    import torch

    from vfn.ops.times import importance_time

    shares = torch.as_tensor(weights, dtype=torch.float64, device=draws.u.device)
    return importance_time(draws.u, shares)


def _normal(u: "Tensor") -> "Tensor":
    """Standard normal draws of uniform ones, by the inverse distribution function."""
    import torch

    return torch.special.ndtri(u)


def _as_meant(t: "Tensor") -> "WeightedTime":
    """Times whose density is not to be undone."""
    from vfn.ops.times import WeightedTime

    return WeightedTime(t, t.new_ones(t.shape))


def _outside(name: str) -> TimeDensity:
    return TimeDensity(text=f"what {name}(draws, schedule) draws", draw=name, parameters=None)


TIME_DENSITIES: Table[TimeDensity] = Table(
    "time density",
    {
        "uniform": TimeDensity(text="uniform in time, each on its own", draw=_uniform),
        "stratified": TimeDensity(
            text="uniform, one time in each of as many equal strata as the batch has pictures",
            draw=_stratified,
        ),
        "low_discrepancy": TimeDensity(
            text="uniform, the batch evenly spaced from one common offset",
            draw=_low_discrepancy,
        ),
        "logit_normal": TimeDensity(
            text="logit(t) ~ N(mean, std^2), which prefers the middle",
            draw=_logit_normal,
            parameters={"mean": 0.0, "std": 1.0},
            positive=("std",),
        ),
        "lognormal": TimeDensity(
            text="ln(sigma/alpha) ~ N(mean, std^2), the noise levels of EDM",
            draw=_lognormal,
            parameters={"mean": -1.2, "std": 1.2},
            positive=("std",),
        ),
        "importance": TimeDensity(
            text="as often as the weights of equal intervals of time say, and undone in the loss",
            draw=_importance,
            parameters={"weights": (1.0,)},
            positive=("weights",),
            undone=True,
        ),
    },
    _outside,
)
