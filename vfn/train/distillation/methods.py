"""How students are taught: a table of methods, each a file of its own.

A method offers a `Method`: which stages there are, and what the student of a stage learns. The rest
(runs, resuming, logs, evaluations) is the same for all. This module does not import torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vfn.configs import Config, DistillConfig
from vfn.parametric import Parametric
from vfn.tables import Entry, Table

if TYPE_CHECKING:
    from vfn.objective import Objective
    from vfn.ops import Denoiser, Learned

# An objective that is given an auxiliary network, by the keyword ``auxiliary``. Its batches have
# ``u``, how long a step is, and ``step_noise``.
WithAuxiliary = Callable[..., "Learned"]


class Weak(NamedTuple):
    """A weaker network that a teacher is led away from.

    denoiser: ``denoiser(labels, conditions, clip=True)``, what it says of a batch with some labels,
    or None, and other conditions, held within [-1, 1] or not. guidance: w of it.
    """

    denoiser: "Callable[..., Denoiser]"
    guidance: float


class Limits(NamedTuple):
    """What limits the guidance of a teacher.

    interval: lowest and highest logsnr at which it is guided, None for all. rescale: phi, how far
    the contrast of what is guided is brought back, see `vfn.ops.rescale`.
    """

    interval: tuple[float, ...] | None = None
    rescale: float = 0.0


NO_LIMITS = Limits()


def limits_of(settings: DistillConfig) -> Limits:
    """What limits the teacher's guidance in a stage.

    Args:
        settings: of the stage, in which the teacher's own are filled in.

    Returns:
        Limits.

    >>> limits_of(DistillConfig(teacher_guidance_rescale=0.5))
    Limits(interval=None, rescale=0.5)
    """
    return Limits(settings.teacher_guidance_interval, settings.teacher_guidance_rescale or 0.0)


class Method(NamedTuple):
    """What a method of distillation is made of.

    stages: the configurations of its runs, in order, from that of the whole distillation; each
    has another ``distill.student_steps``. The student of a stage teaches the next one.
    objective: what a student learns, from its teacher (a `vfn.sampling.Trained`, whose ``model`` is
    without gradients, in evaluation mode, and holds the averaged parameters), the configuration of
    the stage, and, third, a `Weak` where the teacher is led away from a weaker network.
    takes_weak: whether the objective takes that; a weaker network is refused otherwise.
    auxiliary: whether a second network like the student, begun as it, is trained beside it; see
    `vfn.train.companions.init_auxiliary`.
    """

    stages: Callable[[Config], list[Config]]
    objective: "Callable[..., Objective | WithAuxiliary]"
    takes_weak: bool = False
    auxiliary: bool = False


@dataclass(frozen=True, kw_only=True)
class MethodEntry(Entry, Parametric):
    """A method behind a word.

    preset: the configuration that is taken where none is named. objective: what its students
    learn, a word of `vfn.ops.OBJECTIVES`, of methods that are one run without steps of the teacher;
    None where the teacher's steps are halved. own_times: each student is trained at the times of
    its own steps alone.
    """

    preset: str = "digits_distill"
    objective: str | None = None
    own_times: bool = False


_COUNTS = {"regress_updates": (0, 1e9)}

METHODS: Table[MethodEntry] = Table(
    "method",
    {
        "progressive": MethodEntry(
            text="one DDIM step does what two of the teacher's do, stage after stage",
            target="vfn.train.distillation.progressive:PROGRESSIVE",
            own_times=True,
        ),
        "consistency": MethodEntry(
            text="where the teacher's paths end, in continuous time (sCM)",
            target="vfn.train.distillation.few_steps:FEW_STEPS",
            preset="digits_consistency",
            objective="consistency",
            parameters={"regress_updates": 100},
            within=_COUNTS,
            whole=tuple(_COUNTS),
        ),
        "ect": MethodEntry(
            text="the same from pairs of noise levels that close in (ECT)",
            target="vfn.train.distillation.few_steps:FEW_STEPS",
            preset="digits_ect",
            objective="ect",
            parameters={"regress_updates": 0},
            within=_COUNTS,
            whole=tuple(_COUNTS),
        ),
        "moment_matching": MethodEntry(
            text="steps that keep the means the teacher knows, beside a second network",
            target="vfn.train.distillation.moments:MOMENT_MATCHING",
            preset="digits_moments",
            objective="diffusion",
        ),
    },
    lambda name: MethodEntry(text=name, target=name, parameters=None),
)


def method_of(config: Config) -> Method:
    """The method that a configuration names.

    Args:
        config: its ``distill.method`` is a word of `METHODS` or ``package.module:Name``.

    Returns:
        Method.

    Raises:
        ValueError: if there is no such method.

    >>> from vfn.configs import load
    >>> len(method_of(load("digits_distill")).stages(load("digits_distill")))
    6
    """
    name = config.distill.method
    method = METHODS.find(name).load()
    if not isinstance(method, Method):
        raise ValueError(f"expected method {name} to be a Method, got {type(method).__name__}")
    return method


class Networks(NamedTuple):
    """How many networks a run holds: those that it trains, and those that teach it."""

    trained: int
    frozen: int


def networks_of(config: Config) -> Networks:
    """How many networks a run of a configuration holds.

    Args:
        config: of a run, or of a whole distillation, whose first stage holds most.

    Returns:
        Networks: of a distillation a teacher, and what that is led away from.

    Raises:
        ValueError: if there is no such method.

    >>> from vfn.configs import load
    >>> networks_of(load("digits")), networks_of(load("digits_moments"))
    (Networks(trained=1, frozen=0), Networks(trained=2, frozen=1))
    """
    distill = config.distill
    led = bool(distill.teacher_guide_with and distill.teacher_guide_weight)
    return Networks(1 + trains_auxiliary(config), distill.asked * (1 + led))


def trains_auxiliary(config: Config) -> bool:
    """Whether a run of a configuration trains a second network beside its own.

    Args:
        config: of a run, or of a whole distillation.

    Returns:
        what its method says.

    Raises:
        ValueError: if there is no such method.

    >>> from vfn.configs import load
    >>> [trains_auxiliary(load(name)) for name in ("digits", "digits_ect", "digits_moments")]
    [False, False, True]
    """
    return config.distill.asked and method_of(config).auxiliary
