"""The table of what a network can learn, without torch.

A new objective, with its parameters, is one entry here, or a function ``learn(live, fixed, path,
update, **parameters) -> Learned`` named as ``package.module:Name``, see `vfn.ops.consistency`.

Sources: consistency: Lu & Song 2024 (2410.11081), algorithm 1. ect: Geng et al. 2024 (2406.14548).
mean_flow: Geng et al. 2025 (2505.13447), algorithm 1; own_velocity: 2512.02012.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfn.parametric import Parametric
from vfn.tables import Table, load_object

if TYPE_CHECKING:
    from vfn.ops.consistency import Learned


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry(Parametric):
    """What a network learns, behind a word.

    text: one line. learn: the ``package.module:Name`` of a function ``learn(live, fixed, path,
    update, **parameters)``; None for the diffusion's own loss, which other settings describe.
    parameters: name -> default. second_time: the network has to take a second time. smooth: the
    network is differentiated in time. led: guidance can lead its paths, with a weight of its own
    or one that the network takes. sampler: the word of the solver that goes with it.

    >>> OBJECTIVES["mean_flow"].second_time, OBJECTIVES["consistency"].sampler
    (True, 'consistency')
    """

    text: str
    learn: str | None
    second_time: bool = False
    smooth: bool = False
    led: bool = False
    sampler: str | None = None

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
            smooth=True,
            sampler="consistency",
        ),
        "ect": ObjectiveEntry(
            text="the same from pairs of noise levels that close in (ECT)",
            learn="vfn.ops.consistency:learn_pairs",
            parameters={"q": 2.0, "k": 8.0, "b": 1.0, "stage_updates": 100, "first_stage": 1,
                        "c": 0.0},
            within={"q": (1.01, 1e6), "k": (0, 1e6), "b": (0, 1e6), "stage_updates": (1, 1e9),
                    "first_stage": (0, 100), "c": (0, 1e6)},
            sampler="consistency",
        ),
        "mean_flow": ObjectiveEntry(
            text="the mean velocity between two times: one step or more",
            learn="vfn.ops.consistency:learn_mean_velocity",
            parameters={"same_time": 0.5, "power": 1.0, "offset": 0.001, "own_velocity": 0,
                        "guidance": 0.0},
            positive=("offset",),
            within={"same_time": (0, 1), "power": (0, 10), "own_velocity": (0, 1),
                    "guidance": (0, 1e6)},
            second_time=True,
            smooth=True,
            led=True,
            sampler="mean_flow",
        ),
    },
    lambda name: ObjectiveEntry(text=f"{name}(path)", learn=name, parameters=None),
)  # fmt: skip
