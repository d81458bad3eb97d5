"""What a data set is: pictures as uint8 [N, C, H, W], labels, and the names of the labels."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn.configs import Split
from vfn.data.labels import MOST_NAMES, Labels, check_names
from vfn.ops import epoch_permutation

HELD_OUT = 0.2
# The held-out pictures belong to the data set, not to a run: no run's seed moves them.
_SPLIT_SEED = 0


class Dataset(NamedTuple):
    """Pictures and what they show.

    images: uint8 [N, C, H, W]. labels: int64 [N], classes 1..K (0 is kept for 'unconditional'), or
    uint8 [N, K], 0/1 for each of K tags, or None. legend: what the labels mean.
    """

    images: Tensor
    labels: Tensor | None = None
    legend: Labels = Labels()


def as_dataset(
    images: Tensor, labels: Tensor | None = None, names: Sequence[str] | None = None
) -> Dataset:
    """Pictures in memory as a data set, checked.

    Args:
        images: uint8 [N, C, H, W], C 1 (grey) or 3 (RGB).
        labels: classes 1..K, integers [N]; or 0/1 tags [N, K]; or None.
        names: of the K classes or tags; their numbers if None.

    Returns:
        Dataset.

    Raises:
        ValueError: for another type or shape, or labels that are out of range.

    >>> as_dataset(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([2, 1])).legend.names
    ('1', '2')
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "expected uint8 pictures [N, C, H, W] with C 1 or 3, got "
            f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}; "
            "convert them with vfn.data.to_uint8"
        )
    if not images.numel():
        raise ValueError(f"expected pictures, got none: {list(images.shape)}")
    if labels is None:
        if names:
            raise ValueError("expected labels with the names, got None; leave out the names")
        return Dataset(images)
    if (
        labels.is_floating_point()
        or labels.ndim not in (1, 2)
        or 0 in labels.shape
        or len(labels) != len(images)
    ):
        raise ValueError(
            f"expected labels as integers [{len(images)}] or 0/1 tags [{len(images)}, K], "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    tags, low, high = labels.ndim == 2, int(labels.min()), int(labels.max())
    count = labels.shape[1] if tags else len(names) if names is not None else high
    if count > MOST_NAMES:
        raise ValueError(f"expected {MOST_NAMES} classes or tags at most, got {count}")
    if low < (0 if tags else 1) or high > (1 if tags else count):
        raise ValueError(
            f"expected {'0 and 1 as tags' if tags else f'classes in 1..{count}'}, got {low}..{high}"
        )
    texts = [str(k) for k in range(1, count + 1)] if names is None else list(names)
    if len(texts) != count:
        raise ValueError(f"expected {count} names of tags, got {len(texts)}")
    check_names(texts, tags, "names")
    kept = labels.to(torch.uint8 if tags else torch.int64)
    return Dataset(images, kept, Labels(tuple(texts), tags))


def to_unit(images: Tensor) -> Tensor:
    """Scale uint8 0..255 to float32 [-1, 1]: ``x / 127.5 - 1``.

    Args:
        images: uint8, of any shape.

    Returns:
        float32, shape of ``images``.

    >>> to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Scale [-1, 1] to uint8, rounding to the nearest and clipping what lies outside.

    Args:
        images: floating-point, of any shape.

    Returns:
        uint8, shape of ``images``.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def hold_out(count: int, split: Split, share: float = HELD_OUT) -> Tensor:
    """Indices of a split for a data set that comes without one: a fixed share is held out.

    Args:
        count: pictures N of the data set.
        split: ``train``, ``test`` or ``all``.
        share: of the pictures that are held out, in [0, 1].

    Returns:
        int64 in 0..N-1, rising; the same at every call.

    >>> len(hold_out(1797, "train")), len(hold_out(1797, "test"))
    (1437, 360)
    """
    order = epoch_permutation(_SPLIT_SEED, 0, count)
    held = math.ceil(count * share)
    chosen = {"train": order[held:], "test": order[:held], "all": order}[split]
    return chosen.sort().values


def own_splits(
    count: int, share: float = HELD_OUT, labels: np.ndarray | None = None
) -> dict[str, list[int]]:
    """Indices of the splits train and test of pictures that come without.

    Args:
        count: pictures N of the data set.
        share: of the pictures that are held out for ``test``, in [0, 1].
        labels: classes [N], 1..K, or 0/1 tags [N, K]. A class or tag that would have no picture to
            train on gets back one of those that are held out.

    Returns:
        for each split numbers in 0..N-1, rising, as `hold_out` gives them but for those given back.

    >>> own_splits(4, 0.25)
    {'train': [0, 1, 3], 'test': [2]}
    >>> own_splits(4, 0.25, np.array([1, 1, 2, 1]))
    {'train': [0, 1, 2, 3], 'test': []}
    """
    train, test = (hold_out(count, split, share).tolist() for split in ("train", "test"))
    back = set(_given_back(train, test, labels)) if labels is not None and share < 1 else set()
    return {"train": sorted({*train, *back}), "test": [i for i in test if i not in back]}


def _given_back(train: list[int], test: list[int], labels: np.ndarray) -> Iterator[int]:
    """The first held-out picture of each class or tag that no picture to train on has."""
    trained: set[int] = set()
    for numbers, kept in ((train, False), (test, True)):
        for number, row in zip(numbers, labels[numbers], strict=True):
            shown = {int(row)} - {0} if labels.ndim == 1 else set(row.nonzero()[0].tolist())
            if kept and shown - trained:
                yield number
            trained |= shown
