"""Whole numbers as callers give them, and as people read them."""

import math
import operator
from typing import Any

from vfn.files import shown


def whole(value: Any, name: str, low: int, high: int | None = None) -> int:
    """A whole number of any kind, of Python, numpy or torch, as Python's own.

    Args:
        value: the number; true and false are none.
        name: what it is called.
        low: the least that it may be.
        high: the most, if there is one.

    Returns:
        the number.

    Raises:
        ValueError: for anything else.

    >>> import numpy as np
    >>> whole(np.int64(3), "num", 1)
    3
    >>> whole(1.5, "num", 1)
    Traceback (most recent call last):
    ValueError: expected num to be a whole number of at least 1, got 1.5
    """
    try:
        number = low - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = low - 1
    if number < low or (high is not None and number > high):
        span = f"of at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"expected {name} to be a whole number {span}, got {shown(value)}")
    return number


def number(value: Any, name: str) -> float:
    """A finite number of any kind, of Python, numpy or torch, as Python's own.

    Args:
        value: the number; true, false and texts are none.
        name: what it is called.

    Returns:
        the number.

    Raises:
        ValueError: for anything else.

    >>> number(1, "within")
    1.0
    >>> number("0.07", "sigma_rel")
    Traceback (most recent call last):
    ValueError: expected sigma_rel to be a finite number, got '0.07'
    """
    try:
        kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
        none = isinstance(value, bool | str | bytes) or kind == "bool"
        found = math.nan if none else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: of several, by torch
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"expected {name} to be a finite number, got {shown(value)}")
    return found


def number_of(count: int, noun: str) -> str:
    """So many of something, in words.

    Args:
        count: how many.
        noun: what one of them is called.

    Returns:
        text.

    >>> number_of(1, "step"), number_of(1200, "step")
    ('1 step', '1,200 steps')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
