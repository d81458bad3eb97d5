"""The table of guidance rules, without torch: how a prediction is led away from another one.

A new rule, with its parameters, is one entry here, or a function ``rule(z, cond, other, logsnr, w,
**parameters) -> x0`` named as ``package.module:Name``. One that has an argument ``memory`` is given
what it remembered at the last step, None at the first, and returns `vfn.ops.Remembered`.

Sources: plain: Ho & Salimans 2021 (2207.12598), eq. 6. zero_star: Fan et al. 2025 (2503.18886),
algorithm 1. apg: Sadat et al. 2024 (2410.02416), algorithm 1.
"""

import math
from dataclasses import dataclass

from vfn.parametric import Parametric
from vfn.tables import Entry, Table


@dataclass(frozen=True, kw_only=True)
class GuidanceRuleEntry(Entry, Parametric):
    """A guidance rule behind a word.

    text: its formula in one line. target: the ``package.module:Name`` of a function ``combine(z,
    cond, other, logsnr, w, **parameters)``, of x0 [B, ...] and a strength that is a number or [B].
    parameters: name -> default. memory: the parameter that is 0 where nothing is remembered; None
    where the function's arguments say it.

    >>> GUIDANCE_RULES["apg"].parameters
    {'parallel': 0.0, 'norm': 0.0, 'momentum': 0.0}
    """

    memory: str | None = None


def _outside(name: str) -> GuidanceRuleEntry:
    return GuidanceRuleEntry(
        text=f"{name}(z, cond, other, logsnr, w)", target=name, parameters=None
    )


GUIDANCE_RULES: Table[GuidanceRuleEntry] = Table(
    "guidance rule",
    {
        "plain": GuidanceRuleEntry(
            text="cond + w (cond - other)", target="vfn.ops.guidance:plain_rule"
        ),
        "zero_star": GuidanceRuleEntry(
            text="CFG-Zero*: plain, the other's velocity scaled to fit that of cond",
            target="vfn.ops.guidance:zero_star_guide",
        ),
        "apg": GuidanceRuleEntry(
            text="APG: the part of the difference that is parallel to cond damped, its norm "
            "limited, with momentum over the steps",
            target="vfn.ops.guidance:apg_rule",
            parameters={"parallel": 0.0, "norm": 0.0, "momentum": 0.0},
            within={"parallel": (0, math.inf), "norm": (0, math.inf), "momentum": (-0.99, 0.99)},
            memory="momentum",
        ),
    },
    _outside,
)
