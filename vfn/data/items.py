"""Pictures of any map-style data set: `torch.utils.data.Dataset`, `datasets.Dataset`, a list."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vfn.configs import DataConfig
from vfn.data.cache import in_memory
from vfn.data.dataset import Dataset, as_dataset
from vfn.data.labels import check_count
from vfn.data.source import Source, to_picture
from vfn.files import few

PICTURES = ("image", "img", "picture", "png", "jpg", "pixel_values")  # keys of items
LABELS = ("label", "labels", "fine_label", "class", "cls")


def is_map_style(given: object) -> bool:
    """Whether an object has items by their numbers, as map-style data sets have.

    Args:
        given: any object.

    Returns:
        whether it does; tensors and texts do not count.

    >>> is_map_style([1, 2]), is_map_style("text")
    (True, False)
    """
    if isinstance(given, Dataset | Tensor | np.ndarray | str | bytes | Mapping):
        return False
    return hasattr(given, "__getitem__") and hasattr(given, "__len__")


def from_items(items: Any, settings: DataConfig, names: Sequence[str] = ()) -> Dataset:
    """All pictures of a map-style data set, read into memory once.

    Args:
        items: item i is a picture, a picture and its class, or a mapping with a picture as
            ``image`` (``img``, ...) and perhaps a class as ``label``. Pictures are PIL's, or uint8:
            arrays [H, W] or [H, W, C], tensors [C, H, W]. Classes are whole numbers from 0 on, or
            texts.
        settings: size, crop, channels, and what to do about bad pictures.
        names: of all classes, where the data set does not name them itself.

    Returns:
        Dataset.

    Raises:
        ValueError: if an item is something else, or pictures cannot be used.

    >>> grey = Image.new("L", (8, 8))
    >>> found = from_items([(grey, "cat"), (grey, "dog")], DataConfig())
    >>> found.images.shape, found.labels.tolist(), found.legend.names
    (torch.Size([2, 1, 8, 8]), [1, 2], ('cat', 'dog'))
    """
    count = len(items)
    if not count:
        raise ValueError("expected a data set with pictures, got an empty one")
    classes: dict[int, Any] = {}

    def read(number: int) -> Image.Image:
        picture, classes[number] = _parts(items[number])
        return _picture(picture)

    called = [f"item {i}" for i in range(count)]
    source = Source("the data set", called, read, None, (), {"train": range(count)})
    # What a data set of somebody's does in several threads nobody knows.
    prepared = in_memory(source, replace(settings, num_workers=settings.num_workers or 1))
    bad = {fault.name for fault in prepared.bad}
    kept = [i for i, name in enumerate(called) if name not in bad]
    found = [classes[i] for i in kept]
    if all(value is None for value in found):
        return as_dataset(prepared.images)
    if lacking := [i for i in kept if classes[i] is None]:
        raise ValueError(f"{called[lacking[0]]} has no class, and others have one")
    own = _names_of(items)
    labels, texts = _classes(found, own or list(names))
    if names and not own and texts != list(names):
        raise ValueError(
            f"expected names of all classes, which are {few(texts)}, got {few(names)}; name each, "
            "or leave out the names"
        )
    return as_dataset(prepared.images, labels, texts)


def _parts(item: Any) -> tuple[Any, Any]:
    """The picture of an item and its class, None without one."""
    if isinstance(item, Mapping):
        pictures = [item[key] for key in PICTURES if key in item]
        classes = [item[key] for key in LABELS if key in item]
        if not pictures:
            raise ValueError(
                f"expected an item with {PICTURES[0]}, got {', '.join(map(str, item))}"
            )
        return pictures[0], classes[0] if classes else None
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _picture(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        return given
    kind = f"{given.dtype} {list(given.shape)}" if hasattr(given, "dtype") else type(given).__name__
    if isinstance(given, Tensor):
        given = given.movedim(0, -1).numpy() if given.ndim == 3 else given.numpy()
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim in (2, 3):
        if given.ndim == 3 and not 1 <= given.shape[2] <= 4:
            raise ValueError(
                f"{kind}, expected 1 to 4 channels: tensors are [C, H, W], arrays [H, W, C]"
            )
        return to_picture(np.ascontiguousarray(given))
    raise ValueError(
        f"{kind}, expected a PIL picture or uint8; leave out transforms of the data set"
    )


def _names_of(items: Any) -> list[str] | None:
    """Names of the classes, where a data set of torchvision or datasets knows them."""
    features = getattr(items, "features", None)
    if isinstance(features, Mapping):
        for key in LABELS:
            if key in features and getattr(features[key], "names", None):
                return [str(name) for name in features[key].names]
    known = getattr(items, "classes", None)
    return [str(name) for name in known] if isinstance(known, list | tuple) else None


def _classes(found: list[Any], names: list[str] | None) -> tuple[Tensor, list[str]]:
    """Classes counted from 1, and their names."""
    texts = [value for value in found if isinstance(value, str)]
    if len(texts) == len(found):
        called = names if names and set(texts) <= set(names) else sorted(set(texts))
        place = {name: k for k, name in enumerate(called, 1)}
        return torch.tensor([place[text] for text in texts]), called
    try:
        numbers = [int(value) for value in found]
        whole = all(float(value) == number for value, number in zip(found, numbers, strict=True))
    except (TypeError, ValueError, OverflowError):  # of texts, nan, and infinity
        whole = False
    if not whole or min(numbers) < 0:
        raise ValueError(
            "expected classes as whole numbers from 0 on or as texts, for each picture"
        )
    count = max(numbers) + 1
    check_count(count)  # before any name is made
    called = names if names and len(names) >= count else [str(k) for k in range(count)]
    return torch.tensor(numbers) + 1, called
