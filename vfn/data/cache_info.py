"""What ``info.json`` and ``labels.npy`` of prepared data hold, read with nothing taken on trust."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vfn.data.labels import MOST_NAMES
from vfn.data.values import KINDS, PLAIN, Values
from vfn.files import shortened


class Info(NamedTuple):
    """Facts about prepared data.

    shape: [N, C, H, W]. labels: whether there are any. class_names: of the labels, or none.
    splits: pictures of each. bad: name and reason of pictures that were left out. sha256: of the
    pictures of each split and of ``all``; none in files of earlier versions. vectors: how many
    numbers each picture has, 0 for none. vector_names: of them, or none. values: what the numbers
    of the pictures mean, for other than 8-bit pictures.
    """

    shape: Sequence[int]
    labels: bool
    class_names: tuple[str, ...]
    splits: dict[str, int]
    bad: Sequence[tuple[str, str]]
    sha256: dict[str, str]
    vectors: int = 0
    vector_names: tuple[str, ...] = ()
    values: Values = PLAIN


def read_info(path: Path) -> Info:
    """The facts in ``info.json``.

    Args:
        path: the file.

    Returns:
        Info.

    Raises:
        ValueError: if it holds anything else.
        OSError: if it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")

    def field(name: str, fits: bool, what: str) -> None:
        if not fits:
            value = shortened(repr(found.get(name)), 60)
            raise ValueError(f"expected {name} in {path.name} to be {what}, got {value}")

    shape: Any = found.get("shape")
    names: Any = found.get("class_names")
    splits: Any = found.get("splits")
    bad: Any = found.get("bad")
    sums: Any = found.get("sha256", {})
    values = parse_values(found.get("values"))
    right = _are(shape, int) and _is_shape(shape, values != PLAIN)
    field("shape", right, "[N, C, H, W]")
    field("labels", isinstance(found.get("labels"), bool), "true or false")
    field("class_names", _are(names, str), "a list of texts")
    counts: Any = list(splits.values()) if isinstance(splits, dict) else None
    whole = _are(counts, int) and min(counts, default=-1) >= 0 and sum(counts) == shape[0]
    field("splits", whole and "all" not in splits, f"counts that make {shape[0]}")
    pairs = isinstance(bad, list) and all(_are(pair, str) and len(pair) == 2 for pair in bad)
    field("bad", pairs, "a list of pairs of texts")
    width, called = found.get("vectors", 0), found.get("vector_names", [])
    field("vectors", type(width) is int and width >= 0, "a number of numbers")
    field("vector_names", _are(called, str) and len(called) in (0, width), f"{width} texts")
    texts = isinstance(sums, dict) and _are(list(sums.values()), str)
    field("sha256", texts, "texts by name")
    return Info(
        shape,
        found["labels"],
        tuple(names),
        splits,
        [(name, reason) for name, reason in bad],
        sums,
        width,
        tuple(called),
        values,
    )


def read_labels(path: Path, info: Info) -> np.ndarray:
    """The labels of prepared data.

    Args:
        path: ``labels.npy``.
        info: about the same data.

    Returns:
        int64 [N], 1..K, or uint8 [N, K].

    Raises:
        ValueError: if they do not fit the pictures.
        OSError: if they cannot be read.
    """
    try:
        labels = np.load(path, mmap_mode="r", allow_pickle=False)
        labels = np.array(labels) if isinstance(labels, np.ndarray) else np.empty(0)
    except OSError:
        raise
    except Exception as error:  # bytes of any kind can make the reader fail in any way
        raise ValueError(f"{path.name} is no array: {error}") from None
    names, tags = len(info.class_names), labels.ndim == 2
    fits = labels.dtype == (np.uint8 if tags else np.int64) and labels.shape[:1] == (info.shape[0],)
    fits = fits and labels.ndim in (1, 2) and labels.size > 0
    if fits and tags:
        fits = labels.max() <= 1 and names in (0, labels.shape[1])
    elif fits:
        fits = labels.min() >= 0 and labels.max() <= (names or MOST_NAMES)
    if not fits:
        raise ValueError(
            f"expected {path.name} to have labels of {info.shape[0]} pictures with "
            f"{names or 'any number of'} names, got {shortened(str(labels.dtype))} "
            f"{list(labels.shape)}"
        )
    return labels


def read_vectors(path: Path, info: Info) -> np.ndarray:
    """The numbers of prepared pictures.

    Args:
        path: ``vectors.npy``.
        info: about the same data.

    Returns:
        float32 [N, D].

    Raises:
        ValueError: if they do not fit the pictures.
        OSError: if they cannot be read.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # bytes of any kind can make the reader fail in any way
        raise ValueError(f"{path.name} is no array: {error}") from None
    wanted = (info.shape[0], info.vectors)
    fits = isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == wanted
    if not fits or not np.isfinite(found).all():
        raise ValueError(f"expected {path.name} to have finite float32 {list(wanted)}")
    return found


def _are(values: Any, kind: type) -> bool:
    """Whether this is a list of values of that type alone; true and false are no numbers."""
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _is_shape(shape: Sequence[int], other: bool) -> bool:
    return len(shape) == 4 and min(shape) > 0 and (other or shape[1] in (1, 3))


def parse_values(told: Any) -> Values:
    """What numbers mean, as JSON tells it.

    Args:
        told: fields of `Values` by name; None for 8-bit pictures.

    Returns:
        Values.

    Raises:
        ValueError: if it says something else.

    >>> parse_values(None) == PLAIN
    True
    """
    if told is None:
        return PLAIN
    fits = isinstance(told, dict) and set(told) == set(Values._fields)
    if fits:
        numbers = [told["offset"], told["scale"]]
        fits = told["dtype"] in KINDS and isinstance(told["bounded"], bool)
        fits = fits and all(isinstance(row, list | tuple) and row for row in numbers)
        fits = fits and all(
            type(number) in (int, float) and math.isfinite(number)
            for row in numbers
            for number in row
        )
        fits = fits and min(told["scale"]) > 0
    if not fits:
        raise ValueError(f"expected the meaning of numbers, got {shortened(repr(told), 60)}")
    return Values(
        told["dtype"], tuple(map(float, told["offset"])), tuple(map(float, told["scale"])),
        told["bounded"],
    )  # fmt: skip
