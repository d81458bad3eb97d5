"""Pictures in one ``.npy`` or ``.npz`` file."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vfn.data.dataset import own_splits
from vfn.data.labels import MOST_NAMES, check_names
from vfn.data.source import Source, checked_labels, nth_picture
from vfn.files import printable, shortened

SUFFIXES = {".npy", ".npz"}


def array_source(path: Path, test_share: float, labelled: bool = True) -> Source:
    """The pictures of an array file.

    Args:
        path: ``.npy`` holds uint8 [N, H, W] or [N, H, W, C], C 1 or 3; ``.npz`` the same as
            ``arr_0``, perhaps labels as ``arr_1``, classes [N] or 0/1 tags [N, K], and perhaps
            ``class_names``, K texts. Classes count from 0 if there are names or a 0 among them,
            as in the files of ADM and torch-fidelity; else from 1.
        test_share: share of the test split.
        labelled: without, nothing but the pictures matters.

    Returns:
        Source.

    Raises:
        ValueError: if the file holds anything else.
    """
    where = printable(str(path))
    try:
        images, labels, class_names = _load(path, labelled)
    except Exception as error:  # a damaged file can make zip and npy readers raise nearly anything
        raise ValueError(
            f"{where} is not an array file of pictures (uint8 [N, H, W, C]): "
            f"{shortened(' '.join(str(error).split()) or type(error).__name__, 200)}"
        ) from None
    if not all(isinstance(part, np.ndarray) for part in (images, labels) if part is not None):
        raise ValueError(f"expected arr_0 and arr_1 in {where} to be arrays, got bytes")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"expected {where} to hold uint8 [N, H, W] or [N, H, W, C] with C 1 or 3, "
            f"got {shortened(str(images.dtype))} {list(images.shape)}"
        )
    if 0 in images.shape:
        raise ValueError(f"{where} holds no pictures: {list(images.shape)}")
    if labels is not None:
        labels, class_names = _named(labels, class_names, len(images), where)

    names = [f"{path.name}[{i}]" for i in range(len(images))]
    splits = own_splits(len(images), test_share, labels)
    return Source(str(path), names, partial(nth_picture, images), labels, class_names, splits)


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
    from_zero = bool(class_names) or (labels.dtype.kind in "iu" and bool((labels == 0).any()))
    from_zero = from_zero and labels.ndim == 1
    checked = checked_labels(labels, count, class_names, f"arr_1 in {where}", 0 if from_zero else 1)
    check_names(class_names, checked.ndim == 2, f"class_names in {where}")
    if from_zero and not class_names:  # they are called by the numbers that they have in the file
        class_names = tuple(str(k) for k in range(int(checked.max())))
    return checked, class_names


def _load(path: Path, labelled: bool) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    if path.suffix == ".npy":
        return np.lib.format.open_memmap(path, mode="r"), None, ()
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        if not labelled:
            return file["arr_0"], None, ()
        class_names = _texts(file["class_names"]) if "class_names" in file else ()
        return file["arr_0"], file.get("arr_1"), class_names


def _texts(names: np.ndarray) -> tuple[str, ...]:
    """Names as texts; bytes are UTF-8."""
    if names.ndim != 1 or names.dtype.kind not in "USiu" or len(names) > MOST_NAMES:
        raise ValueError(
            f"expected class_names to be K texts, {MOST_NAMES} at most, got "
            f"{names.dtype} {list(names.shape)}"
        )
    return tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist())
