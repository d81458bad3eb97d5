"""The table of what a network can learn, without torch.

A new objective, with its parameters, is one entry here, or a function ``learn(live, fixed, path,
update, **parameters) -> Learned`` named as ``package.module:Name``, see `vfn.ops.consistency`.

Sources: consistency: Lu & Song 2024 (2410.11081), algorithm 1. ect: Geng et al. 2024 (2406.14548).
mean_flow: Geng et al. 2025 (2505.13447), algorithm 1; own_velocity: 2512.02012.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vfn.parametric import Parametric
from vfn.tables import Table, load_object

if TYPE_CHECKING:
    from vfn.ops.consistency import Learned


# The noise of a pair's levels differs by n / q^a of itself, n >= 1. Numbers of float32 are 2^-23 of
# themselves apart: from 16 of these on rounding is a small part of what the pair differs by.
_CLOSEST_PAIR = 19  # as a power of 1/2


def last_stage(q: float) -> int:
    """The last stage a of easy consistency tuning whose pairs float32 can tell apart.

    The largest one with ``q^-a >= 2^-19``: 16 units in the last place.

    Args:
        q: > 1, of `vfn.ops.consistency.ect_level`.

    Returns:
        a >= 0.

    Raises:
        ValueError: for other q.

    >>> last_stage(2.0), last_stage(16.0)
    (19, 4)
    """
    if not q > 1:
        raise ValueError(f"expected q > 1, got {q}")
    return math.floor(_CLOSEST_PAIR / math.log2(q))


def _first_stage_fault(given: Mapping[str, Any]) -> str:
    """What is wrong with a first stage beside q; empty if nothing is."""
    first, q = given["first_stage"], given["q"]
    if first <= last_stage(q):
        return ""
    return (
        f"expected first_stage in 0..{last_stage(q)} with q {q:g}, as float32 does not tell closer "
        f"pairs apart, got {first:g}"
    )


def _tell_last_stage(given: Mapping[str, Any], updates: int) -> str:
    """That the last stage is reached within a run; empty if it is not."""
    last = last_stage(given["q"])
    reached = int((last - given["first_stage"]) * given["stage_updates"])
    if reached >= updates:
        return ""
    return (
        f"pairs close in until update {reached:,} of {updates:,}, and stay at stage {last} from "
        f"then on; stage_updates {-(-updates // 10)} would close them in ten times in all"
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry(Parametric):
    """What a network learns, behind a word.

    text: one line. learn: the ``package.module:Name`` of a function ``learn(live, fixed, path,
    update, **parameters)``; None for the diffusion's own loss, which other settings describe.
    parameters: name -> default. second_time: the network has to take a second time. smooth: the
    network is differentiated in time. led: guidance can lead its paths, with a weight of its own
    or one that the network takes. flow: a network trained by it says the flow's velocity at a time,
    so that it can teach, and guide others; that of an objective from outside is taken to. sampler:
    the word of the solver that goes with it. remark: what to tell of a run, of all parameters and
    the number of its updates, empty for nothing.

    >>> OBJECTIVES["mean_flow"].second_time, OBJECTIVES["consistency"].sampler
    (True, 'consistency')
    """

    text: str
    learn: str | None
    second_time: bool = False
    smooth: bool = False
    led: bool = False
    flow: bool = True
    sampler: str | None = None
    remark: Callable[[Mapping[str, Any], int], str] | None = None

    @property
    def two_times(self) -> bool:
        """Whether it may ask for a second time, as those that need one or come from outside do."""
        return self.second_time or self.parameters is None

    def lacking(self, word: str, second_time: bool, time_embedding: str) -> list[str]:
        """What a network lacks for it.

        Args:
            word: of the objective.
            second_time: whether the network takes one.
            time_embedding: how the network sees time.

        Returns:
            a message for each.

        >>> OBJECTIVES["mean_flow"].lacking("mean_flow", False, "smooth")
        ['expected second_time true with objective mean_flow']
        """
        faults = []
        if self.second_time and not second_time:
            faults.append(f"expected second_time true with objective {word}")
        if self.smooth and time_embedding != "smooth":
            faults.append(
                f"expected time_embedding smooth with objective {word}, which differentiates the "
                f"network in time, got {time_embedding}"
            )
        return faults

    def remarked(self, given: Mapping[str, Any], updates: int) -> str:
        """What to tell before a run.

        Args:
            given: parameters that are not the defaults.
            updates: how many there will be.

        Returns:
            a line, empty for nothing.

        >>> OBJECTIVES["ect"].remarked({}, 1000), OBJECTIVES["ect"].remarked({}, 20_000)[:45]
        ('', 'pairs close in until update 1,800 of 20,000, ')
        """
        if self.remark is None or self.parameters is None:
            return ""
        return self.remark({**self.parameters, **given}, updates)

    def load(self) -> "Callable[..., Learned]":
        """The function ``learn``, imported now.

        Returns:
            the function.

        Raises:
            ValueError: if it cannot be imported, or there is none.

        >>> OBJECTIVES["ect"].load().__name__
        'learn_pairs'
        """
        if self.learn is None:
            raise ValueError("the diffusion's own loss is no function of a path")
        loaded: Callable[..., Learned] = load_object(self.learn)
        return loaded


OBJECTIVES: Table[ObjectiveEntry] = Table(
    "objective",
    {
        "diffusion": ObjectiveEntry(
            text="the data behind the noise, for solvers of many steps", learn=None
        ),
        "consistency": ObjectiveEntry(
            text="where a path ends, in continuous time (sCM): one or two steps",
            learn="vfn.ops.consistency:learn_consistency",
            parameters={"tangent_warmup": 100, "tangent_floor": 0.1},
            positive=("tangent_floor",),
            within={"tangent_warmup": (0, 1e9)},
            whole=("tangent_warmup",),
            smooth=True,
            flow=False,
            sampler="consistency",
        ),
        "ect": ObjectiveEntry(
            text="the same from pairs of noise levels that close in (ECT)",
            learn="vfn.ops.consistency:learn_pairs",
            parameters={"q": 2.0, "k": 8.0, "b": 1.0, "stage_updates": 100, "first_stage": 1,
                        "c": 0.0},
            within={"q": (1.01, 1e6), "k": (0, 1e6), "b": (0, 1e6), "stage_updates": (1, 1e9),
                    "first_stage": (0, 1e4), "c": (0, 1e6)},
            whole=("stage_updates", "first_stage"),
            together=_first_stage_fault,
            flow=False,
            sampler="consistency",
            remark=_tell_last_stage,
        ),
        "mean_flow": ObjectiveEntry(
            text="the mean velocity between two times: one step or more",
            learn="vfn.ops.consistency:learn_mean_velocity",
            parameters={"same_time": 0.5, "power": 1.0, "offset": 0.001, "own_velocity": 0,
                        "guidance": 0.0},
            positive=("offset",),
            within={"same_time": (0, 1), "power": (0, 10), "own_velocity": (0, 1),
                    "guidance": (0, 1e6)},
            whole=("own_velocity",),
            second_time=True,
            smooth=True,
            led=True,
            sampler="mean_flow",
        ),
    },
    lambda name: ObjectiveEntry(text=f"{name}(path)", learn=name, parameters=None),
)  # fmt: skip
