"""What sections of a configuration are made of: fields that are described once, and checked."""

import dataclasses
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vfn.files import few, shortened, shown
from vfn.tables import Table

FAR = 100.0  # an upper end from here on is one that nobody comes to by himself


def option(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    table: Table[Any] | None = None,
) -> Any:
    """A field with its help text, its inclusive range, and the table that its words are from."""
    metadata = {"help": text, "low": low, "high": high, "table": table}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# Of a section's fields; to look them up takes longer than to check the values.
hints_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of the configuration; construction raises one ValueError naming all faults."""

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        faults = []
        for f in dataclasses.fields(self):
            value = _coerce(getattr(self, f.name), hints[f.name])
            object.__setattr__(self, f.name, value)
            faults += _faults(f.name, value, hints[f.name], f.metadata)
        faults += [] if faults else self.conflicts()
        if faults:
            raise ValueError(told(faults))

    def conflicts(self) -> list[str]:
        """What is wrong with the fields in combination."""
        return []

    def unused(self, given: Collection[str]) -> list[str]:
        """What is wrong with fields that are named and not used; in files they may wait."""
        del given
        return []


def plain_hint(hint: Any) -> tuple[Any, bool]:
    """The hint without its None, and whether it had one."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None)), True
    return hint, False


def _coerce(value: Any, hint: Any) -> Any:
    """Lists become tuples and whole numbers floats where the field wants them."""
    hint, _ = plain_hint(hint)
    value = plain_value(value)
    if get_origin(hint) is dict and isinstance(value, Mapping):
        own = {k: plain_value(v) for k, v in value.items()}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(item, get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value if _huge(value) else float(value)
    return value


def plain_value(value: Any) -> Any:
    """Numbers and arrays of numpy and torch as Python's own, as records and TOML hold them."""
    return value.tolist() if hasattr(value, "tolist") else value


def _huge(value: Any) -> bool:
    """Whether an integer is one that no tensor can hold."""
    return isinstance(value, int) and value.bit_length() > 63


def told(faults: Sequence[str]) -> str:
    """All faults, or of very many the first."""
    return shortened(few(faults, 20, 1500, "; "), 1500)


def _is_a(value: Any, hint: Any) -> bool:
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _faults(name: str, value: Any, hint: Any, metadata: Any) -> list[str]:
    hint, optional = plain_hint(hint)
    if value is None and optional:
        return []
    if any(map(_huge, value if isinstance(value, tuple) else (value,))):
        return [f"expected {name} to be a number of at most 63 bits, got a larger one"]
    if get_origin(hint) is dict:
        return _dict_faults(name, value)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return []
        return [f"expected {name} to be one of {', '.join(get_args(hint))}, got {shown(value)}"]
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if not isinstance(value, tuple) or not value or not all(_is_a(v, item) for v in value):
            advice = "; for none leave it out, or give None" if optional and value == () else ""
            return [f"expected {name} to be a list of {item.__name__}, got {shown(value)}{advice}"]
        numbers = value if item in (int, float) else ()
        return [fault for number in numbers for fault in _range(name, number, metadata)][:1]
    if table := metadata.get("table"):
        return _word_faults(name, value, table)
    if not _is_a(value, hint):
        return [f"expected {name} to be {hint.__name__}, got {shown(value)}"]
    if value == "":
        return [f"expected {name} to be a text, got an empty one"]
    return _range(name, value, metadata) if hint in (int, float) else []


def _word_faults(name: str, word: Any, table: Table[Any]) -> list[str]:
    try:
        table.check(word)
    except ValueError:
        return [f"expected {name} to be {table.expected()}, got {shown(word)}"]
    return []


def _dict_faults(name: str, value: Any) -> list[str]:
    """What is wrong with a table of plain values, such as options of a network."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return [f"expected {name} to be a table of names and values, got {shown(value)}"]
    plain = (bool, int, float, str)
    lists = {key: v if isinstance(v, tuple) else (v,) for key, v in value.items()}
    return [
        f"expected {name}.{shortened(key, 40)} to be numbers, texts, true or false, "
        f"got {shown(item)}"
        for key, items in lists.items()
        for item in items
        if not isinstance(item, plain) or _huge(item)
    ]


def _range(name: str, value: float, metadata: Any) -> list[str]:
    low, high = metadata["low"], metadata["high"]
    if low <= value <= high:  # which no nan is
        return []
    bounds = f"at least {low}" if value < low and high >= FAR else f"in {low}..{high}"
    return [f"expected {name} {bounds}, got {value}"]
