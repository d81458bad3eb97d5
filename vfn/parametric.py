"""Settings that the entries of a table take, filled up with defaults and checked; without torch."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from vfn.files import few, shortened
from vfn.tables import Table


def check_options(owner: str, given: Collection[str], taken: Collection[str]) -> None:
    """Refuse settings that are not taken, naming those that are."""
    unknown = [name for name in given if name not in taken]
    if unknown:
        expected = ("only " + ", ".join(taken)) if taken else "no settings"
        raise ValueError(f"expected {expected} for {owner}, got {few(unknown)}")


@dataclass(frozen=True, kw_only=True)
class Parametric:
    """An entry whose function takes parameters.

    parameters: name -> default; None for a function from outside, which has its own. positive:
    those that have to be > 0, numbers or sequences of numbers. within: name -> lowest and highest
    value. whole: those that count something, such as 3, or 3.0. rising: numbers of which none is
    larger than the next. together: what is wrong with all of them where nothing is with each alone,
    empty for nothing. chooses: those that are words of another table, whose own parameters are
    taken beside them.
    """

    parameters: Mapping[str, Any] | None = field(default_factory=dict)
    positive: tuple[str, ...] = ()
    within: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    rising: tuple[str, ...] = ()
    together: Callable[[Mapping[str, Any]], str] | None = None
    chooses: Mapping[str, Table[Any]] = field(default_factory=dict)

    def filled(
        self, owner: str, function: Callable[..., Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The given parameters with the defaults of the others, for a call of the function."""
        if self.parameters is None:
            own = keywords(function)
            if own is not None:
                check_options(owner, given, own)
            return dict(given)
        taken = self.taken(given)
        if taken is not None:
            check_options(owner, given, taken)
        for fault in self.faults(given):
            raise ValueError(fault)
        return {**self.parameters, **given}

    def taken(self, given: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Names of the parameters that may be given beside some; None where any may."""
        if self.parameters is None:
            return None
        names = [*self.parameters]
        for chosen in self._chosen(given):
            more = chosen.taken(given)
            if more is None:
                return None
            names += more
        return tuple(dict.fromkeys(names))

    def faults(self, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the values that are given; tensors are left alone.

        To look at those on a device would wait for it.

        Returns:
            a text for each.
        """
        own = self.parameters or {}
        found = []
        for name, value in given.items():
            if name in own:
                fault = self._fault(name, value, own[name])
                found += [fault] if fault else []
        order = [{**own, **given}[name] for name in self.rising]
        if not found and any(a > b for a, b in pairwise(order)):
            found = [f"expected {' <= '.join(self.rising)}, got {' and '.join(map(str, order))}"]
        if not found and self.together is not None:
            fault = self.together({**own, **given})
            found = [fault] if fault else []
        return found + [fault for chosen in self._chosen(given) for fault in chosen.faults(given)]

    def _fault(self, name: str, value: Any, default: Any) -> str:
        if name in self.chooses:
            table = self.chooses[name]
            try:
                table.check(value)
            except ValueError:
                return f"expected {name} to be {table.expected()}, got {shortened(repr(value))}"
            return ""
        wanted, (low, high) = "", self.within.get(name, (-math.inf, math.inf))
        several = isinstance(default, tuple)
        values = value if isinstance(value, list | tuple) else (value,)
        numbers = [v for v in values if isinstance(v, int | float)]
        if any(isinstance(v, str | bool) for v in values) or (several and not values):
            wanted = f"to be {'numbers' if several else 'a number'}"
        elif not several and values is value:
            wanted = "to be a number"
        elif name in self.positive and any(not v > 0 for v in numbers):
            wanted = "> 0"
        elif name in self.within and not all(low <= v <= high for v in numbers):
            wanted = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
        elif name not in self.within and not all(map(math.isfinite, numbers)):
            wanted = "finite"
        elif name in self.whole and any(v != int(v) for v in numbers):
            wanted = "to be a whole number"
        return wanted and f"expected {name} {wanted}, got {shortened(repr(value))}"

    def _chosen(self, given: Mapping[str, Any]) -> list["Parametric"]:
        """The entries of other tables that parameters choose; of wrong words none."""
        words = {name: given.get(name, (self.parameters or {})[name]) for name in self.chooses}
        found = []
        for name, word in words.items():
            with suppress(ValueError):  # whoever looks for faults finds it
                found.append(self.chooses[name].find(word))
        return found


def keywords(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names that a function takes by keyword; None where it takes any, or does not tell.

    The parameters without a default are the quantities that it is a function of.

    Returns:
        the names.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return tuple(
        p.name
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
        or (p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty)
    )
