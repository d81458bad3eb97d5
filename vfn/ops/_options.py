"""Settings that the entries of a table take, filled up with defaults and checked; without torch."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from vfn.files import few


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
    those that have to be > 0, numbers or sequences of numbers.
    """

    parameters: Mapping[str, Any] | None = field(default_factory=dict)
    positive: tuple[str, ...] = ()

    def filled(
        self, owner: str, function: Callable[..., Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The given parameters with the defaults of the others, for a call of the function."""
        if self.parameters is None:
            own = keywords(function)
            if own is not None:
                check_options(owner, given, own)
            return dict(given)
        check_options(owner, given, self.parameters)
        values = {**self.parameters, **given}
        for name in self.positive:
            _check_positive(name, values[name])
        return values


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


def _check_positive(name: str, value: Any) -> None:
    """Refuse a number that is not > 0; tensors are left alone, for which the device would wait."""
    values = value if isinstance(value, tuple | list) else (value,)
    if any(isinstance(v, int | float) and not v > 0 for v in values):
        raise ValueError(f"expected {name} > 0, got {value}")
