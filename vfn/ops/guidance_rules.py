"""The table of guidance rules, without torch: how a prediction is led away from another one.

A new rule, with its parameters, is one entry here, or a function ``rule(z, cond, other, logsnr, w,
**parameters) -> x0`` named as ``package.module:Name``. One that has an argument ``memory`` is given
what it remembered at the last step, None at the first, and returns `vfn.ops.Remembered`.

Sources: plain: Ho & Salimans 2021 (2207.12598), eq. 6. zero_star: Fan et al. 2025 (2503.18886),
algorithm 1. apg: Sadat et al. 2024 (2410.02416), algorithm 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vfn.ops._options import Parametric
from vfn.tables import Table, load_object

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GuidanceRuleEntry(Parametric):
    """A guidance rule behind a word.

    text: its formula in one line. combine: the ``package.module:Name`` of a function ``combine(z,
    cond, other, logsnr, w, **parameters)``, of x0 [B, ...] and a strength that is a number or [B].
    parameters: name -> default. ranges: least and most of those that have limits. memory: the
    parameter that is 0 where nothing is remembered; None where the function's arguments say it.

    >>> GUIDANCE_RULES["apg"].parameters
    {'parallel': 0.0, 'norm': 0.0, 'momentum': 0.0}
    """

    text: str
    combine: str
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    memory: str | None = None

    def load(self) -> "Callable[..., Any]":
        """The function ``combine``, imported now.

        Returns:
            the function.

        Raises:
            ValueError: if it cannot be imported.

        >>> GUIDANCE_RULES["plain"].load().__name__
        'plain_rule'
        """
        loaded: Callable[..., Tensor] = load_object(self.combine)
        return loaded

    def filled(
        self, owner: str, function: Callable[..., Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The given parameters with the defaults of the others, within their ranges.

        Args:
            owner: what they belong to, for messages.
            function: what they are given to.
            given: by name.

        Returns:
            all of them by name.

        Raises:
            ValueError: for a parameter that is not taken, or out of its range.

        >>> GUIDANCE_RULES["apg"].filled("guidance rule apg", print, {"norm": -1.0})
        Traceback (most recent call last):
        ValueError: expected norm at least 0, got -1.0
        """
        values = super().filled(owner, function, given)
        for name, (low, high) in self.ranges.items():
            value = values[name]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                limits = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
                raise ValueError(f"expected {name} {limits}, got {value!r}")
        return values


def _outside(name: str) -> GuidanceRuleEntry:
    return GuidanceRuleEntry(
        text=f"{name}(z, cond, other, logsnr, w)", combine=name, parameters=None
    )


GUIDANCE_RULES: Table[GuidanceRuleEntry] = Table(
    "guidance rule",
    {
        "plain": GuidanceRuleEntry(
            text="cond + w (cond - other)", combine="vfn.ops.guidance:plain_rule"
        ),
        "zero_star": GuidanceRuleEntry(
            text="CFG-Zero*: plain, the other's velocity scaled to fit that of cond",
            combine="vfn.ops.guidance:zero_star_guide",
        ),
        "apg": GuidanceRuleEntry(
            text="APG: the part of the difference that is parallel to cond damped, its norm "
            "limited, with momentum over the steps",
            combine="vfn.ops.guidance:apg_rule",
            parameters={"parallel": 0.0, "norm": 0.0, "momentum": 0.0},
            ranges={"parallel": (0, math.inf), "norm": (0, math.inf), "momentum": (-0.99, 0.99)},
            memory="momentum",
        ),
    },
    _outside,
)
