"""What a data set is: pictures as uint8 [N, C, H, W], labels, and the names of the labels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.configs import Split
from vfn.ops import epoch_permutation

HELD_OUT = 0.2
# The held-out pictures belong to the data set, not to a run: no run's seed moves them.
_SPLIT_SEED = 0


class Dataset(NamedTuple):
    """Pictures and what they show.

    images: uint8 [N, C, H, W]. labels: int64 [N], classes 1..K (0 is kept for 'unconditional'), or
    uint8 [N, K], 0/1 for each of K tags, or None. class_names: K names, ``class_names[k - 1]`` is
    class or tag k.
    """

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]

    @property
    def multitags(self) -> bool:
        """Whether a picture has any number of tags instead of one class."""
        return self.labels is not None and self.labels.ndim == 2


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


def hold_out(count: int, split: Split, share: float = HELD_OUT) -> Tensor:
    """Indices of a split for a data set that comes without one: a fixed share is held out.

    >>> len(hold_out(1797, "train")), len(hold_out(1797, "test"))
    (1437, 360)
    """
    order = epoch_permutation(_SPLIT_SEED, 0, count)
    held = math.ceil(count * share)
    chosen = {"train": order[held:], "test": order[:held], "all": order}[split]
    return chosen.sort().values


def own_splits(count: int, share: float = HELD_OUT) -> dict[str, list[int]]:
    """Indices of the splits train and test of pictures that come without; see `hold_out`.

    >>> own_splits(4, 0.25)
    {'train': [0, 1, 3], 'test': [2]}
    """
    splits: tuple[Split, Split] = ("train", "test")
    return {split: hold_out(count, split, share).tolist() for split in splits}
