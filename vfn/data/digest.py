"""What tells one data set from another: a digest of pictures, labels and names."""

import hashlib
import json

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from vfn.data.dataset import Dataset

_BLOCK = 1 << 24  # bytes hashed at a time
# Of pictures that were hashed, or whose hash is known: how often they had been changed, and it.
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def data_digest(dataset: Dataset) -> str:
    """SHA-256 of the pictures, their labels and other conditions, and the names of the labels.

    Equal data sets have equal digests wherever they come from; one other pixel, label or name makes
    another one. That of prepared data was computed when they were prepared; that of others is
    computed once, at about a gigabyte a second.

    Args:
        dataset: a split of a data set.

    Returns:
        64 letters.

    >>> from vfn.data import load_dataset
    >>> data_digest(load_dataset("digits"))[:8]
    'a8f4c8ae'
    """
    labels, legend = dataset.labels, dataset.legend
    parts: list[object] = [
        "vfn-data-1",
        list(dataset.images.shape),
        images_digest(dataset.images),
        None if labels is None else [str(labels.dtype), list(labels.shape), images_digest(labels)],
        [list(legend.names), legend.tags],
    ]
    for name, values in (("vectors", dataset.vectors), ("beside", dataset.beside)):
        if values is not None:  # not told where there are none, as by earlier versions
            parts.append([name, str(values.dtype), list(values.shape), images_digest(values)])
    if not dataset.values.plain:
        parts.append(["values", *dataset.values])
    if not dataset.beside_values.plain:
        parts.append(["beside values", *dataset.beside_values])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def images_digest(values: Tensor) -> str:
    """SHA-256 of the bytes of a tensor, remembered as long as nothing is written to it."""
    changes = None if values.is_inference() else values._version
    known = _known.get(values)
    if known is not None and known[0] == changes is not None:
        return str(known[1])
    found, rows = hashlib.sha256(), max(1, _BLOCK // max(1, values[:1].numel()))
    for start in range(0, len(values), rows):
        # By their numbers, so that those in a file are read rather than mapped.
        block = values[torch.arange(start, min(start + rows, len(values)))]
        found.update(block.contiguous().cpu().view(-1).numpy().view("u1").data)
    remember_digest(values, found.hexdigest())
    return found.hexdigest()


def remember_digest(values: Tensor, digest: str) -> None:
    """Note what `images_digest` of a tensor is, so that it need not be computed."""
    if not values.is_inference():
        _known[values] = (values._version, digest)
