"""Pictures in one ``.npy`` or ``.npz`` file."""

from pathlib import Path

import numpy as np

from vfn.data.dataset import own_splits
from vfn.data.source import Source, checked_labels, to_picture

SUFFIXES = {".npy", ".npz"}


def array_source(path: Path, test_share: float) -> Source:
    """The pictures of an array file.

    Args:
        path: ``.npy`` holds uint8 [N, H, W] or [N, H, W, C], C 1 or 3; ``.npz`` the same as
            ``arr_0``, perhaps labels as ``arr_1``, classes 1..K [N] or 0/1 tags [N, K], and perhaps
            ``class_names``, K texts.
        test_share: share of the test split.

    Returns:
        Source.

    Raises:
        ValueError: if the file holds anything else.
    """
    try:
        images, labels, class_names = _load(path)
    except Exception as error:  # a damaged file can make zip and npy readers raise nearly anything
        raise ValueError(
            f"{path} is not an array file of pictures (uint8 [N, H, W, C]): {error}"
        ) from None
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"expected {path} to hold uint8 [N, H, W] or [N, H, W, C] with C 1 or 3, "
            f"got {images.dtype} {list(images.shape)}"
        )
    if 0 in images.shape:
        raise ValueError(f"{path} holds no pictures: {list(images.shape)}")
    if labels is not None:
        labels = checked_labels(labels, len(images), class_names, f"arr_1 in {path}")

    names = [f"{path.name}[{i}]" for i in range(len(images))]
    splits = own_splits(len(images), test_share)
    return Source(str(path), names, lambda i: to_picture(images[i]), labels, class_names, splits)


def _load(path: Path) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    if path.suffix == ".npy":
        return np.lib.format.open_memmap(path, mode="r"), None, ()
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        class_names = tuple(str(name) for name in file.get("class_names", ()))
        return file["arr_0"], file.get("arr_1"), class_names
