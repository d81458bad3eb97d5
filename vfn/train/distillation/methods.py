"""How students are taught: a table of methods, each a file of its own.

A method offers a `Method`: which stages there are, and what the student of a stage learns. The rest
(runs, resuming, logs, evaluations) is the same for all. This module does not import torch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from vfn.configs import Config
from vfn.tables import Entry, Table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vfn.nn import Conditions
    from vfn.objective import Objective
    from vfn.ops import Denoiser


class Weak(NamedTuple):
    """A weaker network that a teacher is led away from.

    denoiser: what it says of a batch with some labels, or None, and other conditions. guidance: w
    of it.
    """

    denoiser: "Callable[[Tensor | None, Conditions], Denoiser]"
    guidance: float


class Method(NamedTuple):
    """What a method of distillation is made of.

    stages: the configurations of its runs, in order, from that of the whole distillation; each
    has another ``distill.student_steps``. The student of a stage teaches the next one.
    objective: what a student learns, from its teacher (a network without gradients, in evaluation
    mode, that holds its averaged parameters) and the configuration of the stage.
    guided: the same from a teacher that is led away from a weaker network, its third argument;
    None where the method knows none.
    """

    stages: Callable[[Config], list[Config]]
    objective: Callable[["nn.Module", Config], "Objective"]
    guided: "Callable[[nn.Module, Config, Weak], Objective] | None" = None


METHODS: Table[Entry] = Table(
    "method",
    {
        "progressive": Entry(
            text="one DDIM step does what two of the teacher's do, stage after stage",
            target="vfn.train.distillation.progressive:PROGRESSIVE",
        )
    },
    lambda name: Entry(text=name, target=name),
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
