"""The table of densities that training times are drawn from, without torch.

A new one is one function ``draw(draws, schedule, **parameters) -> WeightedTime`` and its entry
here, or its ``package.module:Name`` in place of a word.
"""

from dataclasses import dataclass

from vfn.ops._options import Parametric
from vfn.tables import Entry, Table


@dataclass(frozen=True, kw_only=True)
class TimeDensity(Entry, Parametric):
    """A density of training times behind a word.

    target: ``draw(draws, schedule, **parameters) -> WeightedTime`` of `BatchDraws` and a
    `LogSNRSchedule`; the time of a position depends on that position's draw, the common one, the
    position and the batch's size alone. parameters: name -> default. positive: those that are > 0.
    undone: whether the loss is divided by the density, which keeps its mean that of uniform times;
    otherwise the preference for some times is meant, and the density is given as 1.

    >>> TIME_DENSITIES["logit_normal"].parameters
    {'mean': 0.0, 'std': 1.0}
    """

    undone: bool = False


def _outside(name: str) -> TimeDensity:
    return TimeDensity(text=f"what {name}(draws, schedule) draws", target=name, parameters=None)


TIME_DENSITIES: Table[TimeDensity] = Table(
    "time density",
    {
        "uniform": TimeDensity(
            text="uniform in time, each on its own",
            target="vfn.ops.times:draw_uniform",
        ),
        "stratified": TimeDensity(
            text="uniform, one time in each of as many equal strata as the batch has pictures",
            target="vfn.ops.times:draw_stratified",
        ),
        "low_discrepancy": TimeDensity(
            text="uniform, the batch evenly spaced from one common offset",
            target="vfn.ops.times:draw_low_discrepancy",
        ),
        "logit_normal": TimeDensity(
            text="logit(t) ~ N(mean, std^2), which prefers the middle",
            target="vfn.ops.times:draw_logit_normal",
            parameters={"mean": 0.0, "std": 1.0},
            positive=("std",),
        ),
        "lognormal": TimeDensity(
            text="ln(sigma/alpha) ~ N(mean, std^2), the noise levels of EDM",
            target="vfn.ops.times:draw_lognormal",
            parameters={"mean": -1.2, "std": 1.2},
            positive=("std",),
        ),
        "importance": TimeDensity(
            text="as often as the weights of equal intervals of time say, and undone in the loss",
            target="vfn.ops.times:draw_importance",
            parameters={"weights": (1.0,)},
            positive=("weights",),
            undone=True,
        ),
    },
    _outside,
)
