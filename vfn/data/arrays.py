"""Pictures in one ``.npy`` or ``.npz`` file."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vfn.data.dataset import own_splits
from vfn.data.labels import MOST_NAMES, check_names
from vfn.data.source import Source, checked_labels, checked_vectors, nth_array, nth_picture
from vfn.data.values import KINDS
from vfn.files import few, printable, shortened
from vfn.progress import say

SUFFIXES = {".npy", ".npz"}


# Arrays beside these are passed by: ADM's files of statistics hold pictures as well.
KEYS = ("arr_0", "arr_1", "class_names", "vectors", "vector_names")
_LABEL_KEYS = {"label", "labels", "class", "classes", "target", "targets", "tags", "y"}


def array_source(
    path: Path,
    test_share: float,
    labelled: bool = True,
    scaled: bool = False,
    partly: bool = False,
) -> Source:
    """The pictures of an array file.

    Args:
        path: ``.npy`` holds uint8, uint16, float16 or float32 [N, H, W] or [N, H, W, C]; ``.npz``
            the same as ``arr_0``, perhaps labels as ``arr_1``, classes [N] or 0/1 tags [N, K], and
            perhaps ``class_names``, K texts, ``vectors``, numbers of each picture [N, D], and
            ``vector_names``, D texts. Classes count from 0 if there are names or a 0 among them,
            as in the files of ADM and torch-fidelity; else from 1. Where they count from 0, -1 is
            no class.
        test_share: share of the test split.
        labelled: without, nothing but the pictures matters.
        scaled: whether settings say what uint8 numbers mean, which are not pictures then.
        partly: whether pictures of no class are good; their label is 0.

    Returns:
        Source.

    Raises:
        ValueError: if the file holds anything else.
    """
    where = printable(str(path))
    try:
        images, labels, class_names, vectors, vector_names = _load(path, labelled)
    except Exception as error:  # a damaged file can make zip and npy readers raise nearly anything
        raise ValueError(
            f"{where} is not an array file of pictures (uint8 [N, H, W, C]): "
            f"{shortened(' '.join(str(error).split()) or type(error).__name__, 200)}"
        ) from None
    parts = (images, labels, vectors)
    if not all(isinstance(part, np.ndarray) for part in parts if part is not None):
        raise ValueError(f"expected arr_0, arr_1 and vectors in {where} to be arrays, got bytes")
    _check_axes(images, where)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype.name not in KINDS or not images.dtype.isnative or images.ndim != 4:
        raise ValueError(
            f"expected {where} to hold {', '.join(KINDS)} [N, H, W] or [N, H, W, C], "
            f"got {shortened(str(images.dtype))} {list(images.shape)}"
        )
    if 0 in images.shape:
        raise ValueError(f"{where} holds no pictures: {list(images.shape)}")
    if labels is not None:
        labels, class_names = _named(labels, class_names, len(images), where)

    if vectors is not None:
        vectors = checked_vectors(vectors, vector_names, len(images), where)

    names = [f"{path.name}[{i}]" for i in range(len(images))]
    splits = own_splits(len(images), test_share, labels)
    pictures = images.dtype == np.uint8 and not scaled
    if pictures and images.shape[3] not in (1, 3):
        raise ValueError(
            f"expected uint8 pictures of 1 or 3 channels in {where}, got {list(images.shape)}; "
            "drop an alpha channel with array[..., :3], or say with --value-range or --standardise "
            "what other numbers mean"
        )
    read: Callable[[int], Any] = partial(nth_picture if pictures else nth_array, images)
    if labels is not None and labels.ndim == 1 and not partly:
        read = partial(_read_labelled, read, labels)
    numbers = "" if pictures else images.dtype.name
    return Source(
        str(path), names, read, labels, class_names, splits, vectors, vector_names, numbers
    )


def _read_labelled(read: Callable[[int], Any], labels: np.ndarray, number: int) -> Any:
    if not labels[number]:
        raise ValueError("no label in arr_1")
    return read(number)


def _check_axes(images: np.ndarray, where: str) -> None:
    """Refuse axes in another order, of which some would be trained on as pictures all the same."""
    shape = list(images.shape)
    if images.ndim == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4:
        raise ValueError(
            f"expected {where} to hold [N, H, W, C], got {shape}, which looks like [N, C, H, W]; "
            "save array.transpose(0, 2, 3, 1)"
        )
    if images.ndim == 3 and shape[2] in (3, 4) and min(shape[:2]) > 4:
        raise ValueError(
            f"expected {where} to hold [N, H, W] or [N, H, W, C], got {shape}, which looks like "
            f"one picture [H, W, C]; save array[None], or pictures of width {shape[2]} as "
            "array[..., None]"
        )


def npz_labels(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays beside ``arr_0`` that say what pictures show, as `array_source` reads them back.

    Args:
        labels: classes [N], 1..K, or 0/1 tags [N, K].
        class_names: K texts.

    Returns:
        ``arr_1``, classes 0..K-1 as everybody's files have them (-1 for none) or the tags, and
        ``class_names``.

    >>> npz_labels(np.array([2, 1]), ("cat", "dog"))
    {'arr_1': array([1, 0]), 'class_names': array(['cat', 'dog'], dtype='<U3')}
    """
    return {
        "arr_1": labels - 1 if labels.ndim == 1 else labels,
        "class_names": np.array(class_names, dtype=np.str_),
    }


def _named(
    labels: np.ndarray, class_names: tuple[str, ...], count: int, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as `Source` wants them, and the names of the classes that count from 0."""
    from_zero = bool(class_names) or (labels.dtype.kind in "biu" and bool((labels == 0).any()))
    from_zero = from_zero and labels.ndim == 1
    checked = checked_labels(labels, count, class_names, f"arr_1 in {where}", 0 if from_zero else 1)
    check_names(class_names, checked.ndim == 2, f"class_names in {where}")
    if from_zero and not class_names:  # they are called by the numbers that they have in the file
        class_names = tuple(str(k) for k in range(int(checked.max())))
    return checked, class_names


def _load(path: Path, labelled: bool) -> tuple[Any, Any, tuple[str, ...], Any, tuple[str, ...]]:
    """Pictures, labels and their names, numbers of each picture and their names."""
    if path.suffix.lower() == ".npy":
        return np.lib.format.open_memmap(path, mode="r"), None, (), None, ()
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        _check_keys(path, list(file), labelled)
        if not labelled:
            return file["arr_0"], None, (), None, ()
        class_names, vector_names = (
            _texts(file[name], name) if name in file else ()
            for name in ("class_names", "vector_names")
        )
        return (
            file["arr_0"], file.get("arr_1"), class_names, file.get("vectors"), vector_names,
        )  # fmt: skip


def _check_keys(path: Path, keys: Sequence[str], labelled: bool) -> None:
    """Refuse a file without pictures, or with labels under another name than theirs."""
    missed = _LABEL_KEYS & {key.lower() for key in keys} if "arr_1" not in keys and labelled else ()
    if "arr_0" not in keys or missed:
        raise ValueError(
            f"expected pictures as arr_0, their classes or tags as arr_1, and perhaps "
            f"{', '.join(KEYS[2:])}, got {few(keys)}; save np.savez(file, pictures, labels)"
        )
    if labelled and (others := [key for key in keys if key not in KEYS]):
        say(f"{printable(path.name)} has arrays that are passed by: {few(others)}")


def _texts(names: np.ndarray, what: str) -> tuple[str, ...]:
    """Names as texts; bytes are UTF-8."""
    if names.ndim != 1 or names.dtype.kind not in "USiu" or len(names) > MOST_NAMES:
        raise ValueError(
            f"expected {what} to be K texts, {MOST_NAMES} at most, got "
            f"{names.dtype} {list(names.shape)}"
        )
    return tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist())
