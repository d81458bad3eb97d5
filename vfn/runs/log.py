"""What a run, or a distillation, has noted about itself: each file has one reader, which checks it.

``log.jsonl`` is one JSON object a line, each with a whole "step" and otherwise numbers, or a list
of them for each bin of logsnr; null stands for a number that was not finite. ``stages.json`` is a
list of such objects, one for each stage.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from vfn.files import given_path, printable, short, shortened
from vfn.numbers import whole

RISEN = 0.01  # of a loss; what differs by less has not changed
_LISTED = "_by_logsnr"  # end of the names of what has a number for each bin


def read_log(path: str | Path) -> list[dict[str, Any]]:
    r"""Entries of a log; a last line that was cut off by a kill is left out.

    Args:
        path: ``log.jsonl``; it may be missing.

    Returns:
        the entries in order, without the values that are null.

    Raises:
        ValueError: if a line that was written whole is not what a run writes.

    >>> _ = Path("log.jsonl").write_text('{"step": 20, "loss": 0.5}\n{"step": 40, "lo')
    >>> read_log("log.jsonl")
    [{'step': 20, 'loss': 0.5}]
    """
    return [entry for entry, _ in log_lines(path)]


def log_lines(path: str | Path) -> list[tuple[dict[str, Any], str]]:
    r"""Entries of a log as `read_log` gives them, each with its line as it stands there.

    Args:
        path: ``log.jsonl``; it may be missing.

    Returns:
        entries and lines in order.

    Raises:
        ValueError: if a line that was written whole is not what a run writes.

    >>> _ = Path("log.jsonl").write_text('{"step": 20, "loss": null}\n')
    >>> log_lines("log.jsonl")
    [({'step': 20}, '{"step": 20, "loss": null}\n')]
    """
    path = given_path(path)
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    found = []
    for number, line in enumerate(lines, 1):
        place = f"{path} line {number}"
        found.append((_entry(_parsed(line, place), "step", place), line.decode() + "\n"))
    return found


def read_stages(path: str | Path) -> list[dict[str, Any]]:
    """What the stages of a distillation came to.

    Args:
        path: ``stages.json``.

    Returns:
        for each stage its "student_steps" and figures, without those that are null.

    Raises:
        ValueError: if it is not what a distillation writes.
        OSError: if it cannot be read.

    >>> _ = Path("stages.json").write_text('[{"student_steps": 2, "updates": 800, "fd": null}]')
    >>> read_stages("stages.json")
    [{'student_steps': 2, 'updates': 800}]
    """
    path = given_path(path)
    rows = _parsed(path.read_bytes(), str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a list of objects, got {_short(rows)}")
    return [_entry(row, "student_steps", str(path)) for row in rows]


def seconds_until(path: str | Path, step: int) -> float | None:
    r"""How long a training took up to a step; None where its log does not say so.

    Args:
        path: ``log.jsonl``; it may be missing.
        step: the last one that counts.

    Returns:
        seconds.

    Raises:
        ValueError: if the log is damaged, or ``step`` is no whole number.

    >>> lines = ('{"step": 20, "seconds": 1.5}', '{"step": 40, "seconds": 2.5}', "")
    >>> _ = Path("log.jsonl").write_text("\n".join(lines))
    >>> seconds_until("log.jsonl", 30), seconds_until("nowhere.jsonl", 30)
    (1.5, None)
    """
    step = whole(step, "step", 0)
    passed = [e["seconds"] for e in read_log(path) if "seconds" in e and e["step"] <= step]
    return max(passed, default=None)


def loss_curve(log: Iterable[Mapping[str, Any]], key: str) -> dict[int, float]:
    """One number of a log by step.

    Args:
        log: entries as `read_log` gives them.
        key: such as "loss" or "held_out_loss".

    Returns:
        of the entries that have it.

    >>> loss_curve([{"step": 20, "loss": 0.5}, {"step": 20, "held_out_loss": 0.6}], "loss")
    {20: 0.5}
    """
    return {entry["step"]: entry[key] for entry in log if key in entry}


def overfits_since(training: Mapping[int, float], held_out: Mapping[int, float]) -> int | None:
    """Where a held-out loss was least, if it has risen since and that of training has not.

    Both by more than a percent; a run that diverges does not overfit.

    Args:
        training: losses by step, of batches.
        held_out: losses by step, of the same pictures and noise.

    Returns:
        step; None where the last held-out loss is about the least, and without losses.

    >>> held_out = {500: 0.5, 1000: 0.4, 1500: 0.42}
    >>> overfits_since({800: 0.4, 900: 0.4, 1200: 0.3}, held_out)
    1000
    >>> overfits_since({800: 0.4, 900: 0.4, 1200: 0.6}, held_out)
    """
    least = min(held_out, key=lambda step: held_out[step], default=None)
    if least is None or not _risen(held_out[least], held_out[max(held_out)]):
        return None
    after = [training[step] for step in sorted(training) if step > least]
    before = [training[step] for step in sorted(training) if step <= least][-len(after) :]
    diverges = after and before and _risen(median(before), median(after))
    return None if diverges else least


def _risen(earlier: float, later: float) -> bool:
    return later - earlier > RISEN * abs(earlier)


def _parsed(text: bytes, place: str) -> Any:
    try:
        return json.loads(text.decode(), parse_constant=lambda _name: None)
    except (ValueError, RecursionError) as error:  # also nesting and numbers without end
        reason = short(" ".join(str(error).split()), 200)
        raise ValueError(f"{place} is not JSON: {reason}; mend or remove it") from None


def _entry(value: Any, whole: str, place: str) -> dict[str, Any]:
    """An object of numbers, one of them whole and at least 0, without its nulls."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object, got {_short(value)}; mend or remove it")
    numbers = ((name, _number(item)) for name, item in value.items())
    entry = {name: item for name, item in numbers if item is not None}
    number = value.get(whole)
    if type(number) is not int or not 0 <= number < 2**63:
        raise ValueError(
            f'{place}: expected a whole "{whole}" of at least 0, got {_short(number)}; mend or '
            "remove it"
        )
    for name, item in entry.items():
        listed = isinstance(item, list) and name.endswith(_LISTED)
        items = item if listed else [item]
        if not all((each is None and listed) or type(each) in (int, float) for each in items):
            raise ValueError(
                f'{place}: expected "{shortened(name, 40)}" to be a number'
                f"{' for each bin' if listed else ''}, got {_short(item)}; mend or remove it"
            )
    return entry


def _number(value: Any) -> Any:
    """What is not finite, or no float can hold, as None; anything else as it is."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if type(value) is int and value.bit_length() > 1023:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    """A value in a message of bounded length."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 63:
        return "a number of more than 63 bits"
    text = printable(repr(value))
    return text if len(text) < 60 else f"{text[:57]}..."
