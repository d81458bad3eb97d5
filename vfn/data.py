"""Data sets: every one is a uint8 array [N, C, H, W] with labels 1..K."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from vfn.ops import epoch_permutation

Split = Literal["train", "test", "all"]
HELD_OUT = 0.2
# The held-out pictures belong to the data set, not to a run: no run's seed moves them.
_SPLIT_SEED = 0


class Dataset(NamedTuple):
    """Pictures and what they show.

    images: uint8 [N, C, H, W]. labels: int64 [N], classes 1..K (0 is kept for 'unconditional'), or
    None. class_names: K names, ``class_names[k - 1]`` is class k.
    """

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]


def to_unit(images: Tensor) -> Tensor:
    """Scale uint8 0..255 to float32 [-1, 1].

    >>> to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Scale [-1, 1] to uint8, rounding to the nearest and clipping what lies outside.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def load_dataset(name: str, split: Split = "train") -> Dataset:
    """A data set by name.

    Args:
        name: see `datasets`.
        split: ``train``, ``test`` (held out, never trained on) or ``all``.

    Returns:
        Dataset.

    Raises:
        ValueError: for an unknown name or split.

    >>> load_dataset("digits", "test").images.shape
    torch.Size([360, 1, 8, 8])
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown data set {name!r}, expected one of {', '.join(datasets())}")
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(get_args(Split))}")
    return _LOADERS[name](split)


def datasets() -> list[str]:
    """Names of the data sets.

    >>> "digits" in datasets()
    True
    """
    return sorted(_LOADERS)


def parse_labels(text: str, class_names: tuple[str, ...]) -> list[int]:
    """Class names separated by commas, as labels 1..K.

    Args:
        text: for example ``"3,7"``; ``"all"`` is every class once.
        class_names: the data set's names.

    Returns:
        labels 1..K in the order given.

    Raises:
        ValueError: for a name that is not a class.

    >>> parse_labels("b,a", ("a", "b"))
    [2, 1]
    """
    names = list(class_names) if text == "all" else [part.strip() for part in text.split(",")]
    unknown = [name for name in names if name not in class_names]
    if unknown:
        raise ValueError(
            f"unknown label {unknown[0]!r}, expected names among {', '.join(class_names)}, "
            "separated by commas, or all"
        )
    return [class_names.index(name) + 1 for name in names]


def hold_out(count: int, split: Split) -> Tensor:
    """Indices of a split for a data set that comes without one: a fixed 20 % is held out.

    >>> len(hold_out(1797, "train")), len(hold_out(1797, "test"))
    (1437, 360)
    """
    order = epoch_permutation(_SPLIT_SEED, 0, count)
    held = math.ceil(count * HELD_OUT)
    chosen = {"train": order[held:], "test": order[:held], "all": order}[split]
    return chosen.sort().values


def _digits(split: Split) -> Dataset:
    from sklearn.datasets import load_digits

    source = load_digits()
    levels = torch.from_numpy(source.images.astype(np.float64))  # 0..16
    images = (levels * 255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(source.target.astype(np.int64)) + 1
    index = hold_out(len(images), split)
    return Dataset(images[index], labels[index], tuple(str(d) for d in range(10)))


_LOADERS: dict[str, Callable[[Split], Dataset]] = {"digits": _digits}
