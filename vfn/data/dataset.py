"""What a data set is: pictures [N, C, H, W], labels, and the names of the labels."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn.configs import Split
from vfn.data.given import Vector, vector_of
from vfn.data.labels import Labels, check_count, check_names
from vfn.data.values import PLAIN, Values, checked_values
from vfn.files import shortened, shown
from vfn.ops import epoch_permutation

Numbers = Tensor | np.ndarray | Sequence[Any]
HELD_OUT = 0.2
# The held-out pictures belong to the data set, not to a run: no run's seed moves them.
_SPLIT_SEED = 0


class Dataset(NamedTuple):
    """Pictures and what they show.

    images: uint8 [N, C, H, W]. labels: int64 [N], classes 1..K (0 is kept for 'unconditional'), or
    uint8 [N, K], 0/1 for each of K tags, or None. legend: what the labels mean. vectors: float32
    [N, D], numbers of each picture, or None. vector: what they are called, and the statistics of
    those that are trained on. beside: pictures [N, C', H, W] that are a condition, or None. values:
    what the numbers of the images mean; images are uint8 with 1 or 3 channels where nothing else is
    said. beside_values: the same of those beside.
    """

    images: Tensor
    labels: Tensor | None = None
    legend: Labels = Labels()
    vectors: Tensor | None = None
    vector: Vector = Vector()
    beside: Tensor | None = None
    values: Values = PLAIN
    beside_values: Values = PLAIN

    def rows(self, index: Tensor) -> "Dataset":
        """Some of the pictures with all that is theirs.

        Args:
            index: numbers of pictures.

        Returns:
            Dataset.

        >>> as_dataset(torch.zeros(3, 1, 8, 8).byte()).rows(torch.tensor([2])).images.shape
        torch.Size([1, 1, 8, 8])
        """
        parts = ("images", "labels", "vectors", "beside")
        kept: dict[str, Any] = {
            name: value[index] for name in parts if (value := getattr(self, name)) is not None
        }
        return self._replace(**kept)


def as_dataset(
    images: Numbers,
    labels: Numbers | None = None,
    names: Sequence[str] | None = None,
    vectors: Numbers | None = None,
    vector_names: Sequence[str] = (),
    beside: Numbers | None = None,
    values: Values = PLAIN,
    beside_values: Values = PLAIN,
) -> Dataset:
    """Pictures in memory as a data set, checked.

    All that is given may be tensors or arrays; labels and vectors may be lists, too.

    Args:
        images: uint8 [N, C, H, W], C 1 (grey) or 3 (RGB).
        labels: classes 1..K, integers [N]; or 0/1 tags [N, K]; or None.
        names: of the K classes or tags; their numbers if None.
        vectors: floats [N, D], numbers of each picture that are a condition; or None.
        vector_names: of the D numbers; their numbers if there are none.
        beside: uint8 [N, C', H, W], pictures that are a condition; or None.
        values: what the numbers mean, for images of other types or channels, see
            `vfn.data.values.measured`.
        beside_values: the same of pictures beside.

    Returns:
        Dataset.

    Raises:
        ValueError: for another type or shape, labels that are out of range, or values that no
            checkpoint can keep.

    >>> as_dataset(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([2, 1])).legend.names
    ('1', '2')
    """
    images = _tensor(images, "pictures")
    values = _meant(images, values)
    if not images.numel():
        raise ValueError(f"expected pictures, got none: {list(images.shape)}")
    more = _conditions(images, vectors, tuple(vector_names), beside, beside_values)
    if not values.plain:
        values.check(images, "pictures")
        more["values"] = values
    if labels is None:
        if names:
            raise ValueError("expected labels with the names, got None; leave out the names")
        return Dataset(images, **more)
    labels = _tensor(labels, "labels")
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
    labels = labels.long()  # there is no least one of most unsigned ones
    tags, low, high = labels.ndim == 2, int(labels.min()), int(labels.max())
    count = labels.shape[1] if tags else len(names) if names is not None else high
    check_count(count)
    if low < (0 if tags else 1) or high > (1 if tags else count):
        raise ValueError(
            f"expected {'0 and 1 as tags' if tags else f'classes in 1..{count}'}, got {low}..{high}"
        )
    texts = [str(k) for k in range(1, count + 1)] if names is None else list(names)
    if len(texts) != count:
        raise ValueError(f"expected {count} names of tags, got {len(texts)}")
    check_names(texts, tags, "names")
    kept = labels.to(torch.uint8) if tags else labels
    return Dataset(images, kept, Labels(tuple(texts), tags), **more)


def _tensor(given: Numbers, name: str) -> Tensor:
    """Numbers of a caller's as a tensor."""
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"expected {name} as a tensor, array or list of numbers, got {type(given).__name__} "
            f"({shortened(str(error))})"
        ) from None


def _meant(images: Tensor, values: Values) -> Values:
    """What the numbers of pictures mean, refused where they are others or no pictures."""
    kind = str(images.dtype).removeprefix("torch.")
    got = f"got {kind} {list(images.shape)}"
    if values != PLAIN:
        values = checked_values(values, images.shape[1] if images.ndim == 4 else 1, "pictures")
    if values != PLAIN and (kind != values.dtype or images.ndim != 4):
        raise ValueError(
            f"expected {values.dtype} pictures [N, C, H, W], as values say, {got}; convert one of "
            "them"
        )
    if values == PLAIN and (kind != "uint8" or images.ndim != 4 or images.shape[1] not in (1, 3)):
        way = "vfn.data.to_uint8" if images.is_floating_point() else ".to(torch.uint8)"
        raise ValueError(
            f"expected uint8 pictures [N, C, H, W] with C 1 or 3, {got}; convert them with {way}, "
            "or say with values what the numbers mean"
        )
    return values


def _conditions(
    images: Tensor,
    vectors: Numbers | None,
    names: tuple[str, ...],
    beside: Numbers | None,
    beside_values: Values,
) -> dict[str, Any]:
    """Numbers and pictures that are conditions, checked."""
    more: dict[str, Any] = {}
    vectors = None if vectors is None else _tensor(vectors, "vectors")
    beside = None if beside is None else _tensor(beside, "beside")
    for name, given in (("vectors", vectors), ("beside", beside)):
        if given is not None and given.shape[:1] != images.shape[:1]:
            count = len(given) if given.ndim else "one number"
            raise ValueError(f"expected {name} of {len(images)} pictures, got {count}")
    if vectors is not None:
        whole = vectors.dtype != torch.bool and not vectors.dtype.is_floating_point
        vectors = vectors.double() if whole and not vectors.is_complex() else vectors
        more |= {"vectors": vectors.float(), "vector": vector_of(vectors, names)}
    elif names:
        raise ValueError("expected vectors with vector_names, got None; leave out the names")
    if beside is not None:
        sizes = beside.ndim == 4 and beside.shape[2:] == images.shape[2:]
        channels = beside.shape[1] if sizes else 1
        beside_values = checked_values(beside_values, channels, "pictures beside")
        if beside.dtype != getattr(torch, beside_values.dtype) or not sizes:
            raise ValueError(
                f"expected beside to be {beside_values.dtype} [N, C, {images.shape[2]}, "
                f"{images.shape[3]}], got {str(beside.dtype).removeprefix('torch.')} "
                f"{list(beside.shape)}; of other numbers beside_values says what they mean"
            )
        beside_values.check(beside, "pictures beside")
        more |= {"beside": beside, "beside_values": beside_values}
    return more


def hold_out(count: int, split: Split, share: float = HELD_OUT) -> Tensor:
    """Indices of a split for a data set that comes without one: a fixed share is held out.

    Args:
        count: pictures N of the data set.
        split: ``train``, ``test`` or ``all``.
        share: of the pictures that are held out, in [0, 1].

    Returns:
        int64 in 0..N-1, rising; the same at every call.

    Raises:
        ValueError: for another split, such as ``valid``.

    >>> len(hold_out(1797, "train")), len(hold_out(1797, "test"))
    (1437, 360)
    """
    order = epoch_permutation(_SPLIT_SEED, 0, count)
    held = math.ceil(count * share)
    chosen = {"train": order[held:], "test": order[:held], "all": order}
    if split not in chosen:
        raise ValueError(
            f"expected split {', '.join(chosen)}, got {shown(split)}; name one of them"
        )
    return chosen[split].sort().values


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
