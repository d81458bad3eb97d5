"""What a network takes beside labels, from whatever stands for it when pictures are asked for."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn.configs import Config
from vfn.data import Dataset, load_dataset, read_pictures, spec_settings
from vfn.data.derived import known, with_mask
from vfn.data.given import check_numbers, derived_kind
from vfn.data.load import read_alike
from vfn.data.values import Values
from vfn.files import few, given_path, printable, shortened, shown
from vfn.model import DataShape, fixed_conditions, image_channels
from vfn.nn import Conditions
from vfn.numbers import whole
from vfn.progress import say
from vfn.sampling.asked import Asked, ask, of_each
from vfn.tables import load_object

if TYPE_CHECKING:
    from vfn.sampling.trained import Trained

# A path or ``dataset:NAME[:split]``, numbers [N, D], a data set, or what a network is given.
ConditionSource = str | Path | Tensor | np.ndarray | Dataset | Conditions
OPTION = "--condition"


def conditioned_text(config: Config, shape: DataShape) -> str:
    """What a network takes beside labels, for a message.

    Args:
        config: of the network.
        shape: of its data.

    Returns:
        a few words, empty for nothing.

    >>> from vfn.configs import load
    >>> conditioned_text(load("digits"), DataShape(1, 8, 8))
    ''
    """
    parts = []
    if shape.vector.dim:
        parts.append(f"the numbers {few(shape.vector.names, 5)} of each picture")
    if image_channels(config, shape):
        kind = derived_kind(config.data.condition)
        parts.append(
            f"pictures ({config.data.condition})" if kind else "pictures beside those drawn"
        )
    return " and ".join(parts)


def check_condition(config: Config, shape: DataShape, given: Conditions) -> None:
    """Refuse to draw without what a network takes, or with what it does not.

    Args:
        config: of the network.
        shape: of its data.
        given: what is asked.

    Raises:
        ValueError: it says what is missing, or of another size.
    """
    _check_axes(given, shape)
    wanted = [shape.vector.dim, image_channels(config, shape)]
    there = [0 if value is None else value.shape[1] for value in (given.vector, given.image)]
    if wanted == there:
        return
    text = conditioned_text(config, shape)
    if not text:
        raise ValueError("this model takes nothing but labels; leave out the condition")
    if not any(there):
        raise ValueError(f"this model takes {text}: give them with {OPTION}, or condition=")
    raise ValueError(f"this model takes {text}, got {few(given.keywords())} of {max(there)}")


def _check_axes(given: Conditions, shape: DataShape) -> None:
    """Refuse conditions of no picture, or on other axes than a network has."""
    vector, image, (height, width) = given.vector, given.image, shape.size[1:]
    if vector is not None and (vector.ndim != 2 or not len(vector)):
        raise ValueError(f"expected vector of the conditions as [N, D], got {list(vector.shape)}")
    if image is None:
        return
    if image.ndim != 4 or not len(image) or tuple(image.shape[2:]) != (height, width):
        raise ValueError(
            f"expected image of the conditions as [N, C, {height}, {width}], got "
            f"{list(image.shape)}"
        )


class Beside(NamedTuple):
    """Conditions of some pictures, and their labels where they have those that a network knows."""

    conditions: Conditions
    labels: Tensor | None = None


def open_condition(
    given: ConditionSource, config: Config, shape: DataShape, num: int | None = None
) -> Beside:
    """What somebody has, as the conditions that a network takes.

    Args:
        given: see `vfn.sampling.Trained.condition`.
        config: of the network.
        shape: of its data.
        num: how many rows are wanted; all if None.

    Returns:
        Beside, of as many pictures as there are rows.

    Raises:
        ValueError: if they are not what the network takes.
    """
    num = None if num is None else whole(num, "num", 1)
    if isinstance(given, Conditions):
        return Beside(given)
    if not conditioned_text(config, shape):
        raise ValueError("this model takes nothing but labels; leave out the condition")
    name = f"condition {shown(str(given))}" if isinstance(given, str | Path) else "the condition"
    if isinstance(given, Tensor | np.ndarray):
        return Beside(_of_numbers(_numbers(given, name), shape, name))
    if isinstance(given, str | Path):
        found = _of_file(given, name, config, shape)
        if found is not None:
            return Beside(found)
        given = _read(str(given), config, shape)
    if not isinstance(given, Dataset):
        raise ValueError(
            f"expected {name} as a path, numbers [N, D] or a data set, got {type(given).__name__}"
        )
    rows = torch.arange(len(given.images) if num is None else min(num, len(given.images)))
    labels = given.labels if given.legend == shape.legend else None
    found = _of_pictures(given, rows, config, shape, name)
    return Beside(found, None if labels is None else labels[rows])


def as_pictures(trained: "Trained", like: Dataset) -> Asked:
    """Labels, and all else that a network takes, as pictures have it.

    Args:
        trained: the network.
        like: the pictures, with labels if the network knows some.

    Returns:
        Asked, for as many pictures.

    Raises:
        ValueError: if they lack what the network takes.

    >>> from vfn.configs import load, override
    >>> from vfn.sampling import untrained
    >>> fourfold = untrained(override(load("digits"), {"condition": "downscale:4"}))
    >>> as_pictures(fourfold, fourfold.own_pictures("test")).names[:2]
    ['2', '0']
    """
    legend = trained.shape.legend
    if not legend.names:
        asked = ask(legend)
    elif like.labels is None or like.legend.names != legend.names:
        raise ValueError(
            f"expected pictures with the labels {legend.listed()} of the model, got "
            f"{like.legend.listed() if like.labels is not None else 'none'}"
        )
    else:
        asked = of_each(like.labels, legend)
    return asked._replace(conditions=trained.condition(like))


def _of_file(given: str | Path, name: str, config: Config, shape: DataShape) -> Conditions | None:
    """Numbers of a file, or its pictures under a mask; None of what holds pictures alone."""
    if str(given).startswith("dataset:"):
        return None
    path = given_path(given)
    numbers = _read_numbers(path, name)
    if numbers is not None:
        return _of_numbers(numbers, shape, name)
    return _masked(path, name, config, shape)


def _read(text: str, config: Config, shape: DataShape) -> Dataset:
    """Pictures by their name; those of the network's own data set with all that stands beside."""
    if text.startswith("dataset:"):
        return load_dataset(spec_settings(text, config.data))
    kind, (height, width) = derived_kind(config.data.condition), shape.size[1:]
    found = read_pictures(text)
    size = tuple(found.images.shape[2:])
    small = kind is not None and kind.number and (size[0] < height or size[1] < width)
    if small or size == (height, width):
        return found
    say(
        f"{printable(text)}: pictures of {size[0]} x {size[1]} are cropped and brought to {height} "
        f"x {width} as those of the training were"
    )
    like = config.data if kind is not None else replace(config.data, channels=None)
    return read_alike(text, like, (height, width))


def _of_pictures(
    given: Dataset, rows: Tensor, config: Config, shape: DataShape, name: str
) -> Conditions:
    """The conditions that some pictures of a data set make, or are."""
    vector = None
    if shape.vector.dim:
        if given.vectors is None or given.vectors.shape[1] != len(shape.vector.names):
            raise ValueError(
                f"expected {name} to have the numbers {few(shape.vector.names, 5)} of each picture "
                "as vectors [N, D]"
            )
        vector = shape.vector.of(given.vectors[rows])
    image = None
    if channels := image_channels(config, shape):
        image = _image(given, rows, config, shape, name)
        if image.shape[1] != channels:
            raise ValueError(
                f"expected {name} to have pictures of {channels - 1} channels, got "
                f"{given.images.shape[1]}"
            )
    return Conditions(vector, image)


def _image(given: Dataset, rows: Tensor, config: Config, shape: DataShape, name: str) -> Tensor:
    """Pictures that stand beside z, made of those that are given or these themselves."""
    size, kind = shape.size[1:], derived_kind(config.data.condition)
    values = shape.beside_values if kind is None else shape.values
    images = given.images if given.beside is None or kind is not None else given.beside
    pictures = _to_unit(images[rows], values, name)
    if kind is None:
        return known(pictures, size)
    if tuple(pictures.shape[1:]) == shape.size:  # like those that are drawn
        alone = Dataset(given.images)
        found = fixed_conditions(alone, rows, pictures, config.data.condition).image
        assert found is not None
        return found
    if not kind.entry.given:
        raise ValueError(
            f"expected {name} to have pictures {list(shape.size)}, or an .npz file with mask "
            f"[N, H, W], got {list(pictures.shape[1:])}"
        )
    made: Tensor = load_object(kind.entry.given)(pictures, size, kind.number)
    return made


def _to_unit(images: Tensor, values: Values, name: str) -> Tensor:
    """Pictures as a network sees them, if they are of the kind that it was trained on."""
    if images.dtype != getattr(torch, values.dtype):
        raise ValueError(
            f"expected {name} to be of {values.dtype}, got "
            f"{str(images.dtype).removeprefix('torch.')}"
        )
    values.check(images, name)
    return values.to_unit(images)


def _numbers(given: Tensor | np.ndarray, name: str) -> Tensor:
    """Numbers in memory, of any type that holds some, as floats; of the right axes or not."""
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "fiu":
            raise ValueError(f"expected {name} as numbers [N, D], got an array of {given.dtype}")
        given = torch.from_numpy(np.array(given, dtype=np.float64))
    if given.ndim != 2:
        raise ValueError(
            f"expected {name} as numbers [N, D] or a data set, got {list(given.shape)}"
        )
    are_whole = not given.is_floating_point() and not given.is_complex()
    return given.double() if are_whole and given.dtype != torch.bool else given


def _of_numbers(numbers: Tensor, shape: DataShape, name: str) -> Conditions:
    check_numbers(numbers, name)
    names = shape.vector.names
    if len(names) != numbers.shape[1]:
        raise ValueError(
            f"expected {name} to have the {len(names)} numbers {few(names, 5)} of each picture, "
            f"got {numbers.shape[1]}"
            if names
            else f"expected {name} to be pictures, got numbers {list(numbers.shape)}"
        )
    found = shape.vector.of(numbers.float())
    if not (finite := found.isfinite()).all():
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"expected {name} to be numbers like those of the training, got "
            f"{numbers[row, column]:g} at {row}, {column}, which float32 does not hold standardised"
        )
    return Conditions(found)


def _read_numbers(path: Path, name: str) -> Tensor | None:
    """Numbers of an .npy file with two axes, or of a .csv file; None for anything else."""
    suffix = path.suffix.lower()
    if suffix == ".csv" and path.is_file():
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = [[float(text) for text in row] for row in csv.reader(file) if row]
            return torch.tensor(rows, dtype=torch.float64)
        except (ValueError, OSError, csv.Error) as error:
            raise ValueError(
                f"expected {name} to be rows of numbers ({shortened(str(error))})"
            ) from None
    if suffix != ".npy" or not path.is_file():
        return None
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # whoever reads pictures says what is wrong
        return None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        return None
    return torch.from_numpy(np.array(array, dtype=np.float64))


def _masked(path: Path, name: str, config: Config, shape: DataShape) -> Conditions | None:
    """Pictures with a mask of what is known of them; None of a file without one."""
    kind = derived_kind(config.data.condition)
    if kind is None or kind.word != "mask" or path.suffix.lower() != ".npz" or not path.is_file():
        return None
    try:
        # numpy leaves a file open that is no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if "mask" not in file:
                return None
            mask = np.asarray(file["mask"])
    except Exception as error:  # a damaged file: nearly anything
        raise ValueError(
            f"{name} cannot be read ({shortened(' '.join(str(error).split()))})"
        ) from None
    images = read_pictures(str(path), labelled=False).images
    if tuple(images.shape[1:]) != shape.size:
        raise ValueError(
            f"expected {name} to have pictures {list(shape.size)}, got {list(images.shape[1:])}"
        )
    return Conditions(image=with_mask(_to_unit(images, shape.values, name), _zeros_and_ones(mask)))


def _zeros_and_ones(mask: np.ndarray) -> Tensor:
    """A mask of any type; other values are refused before they are cut to whole ones."""
    if mask.dtype.kind not in "biuf":
        raise ValueError(f"expected a mask of 0 and 1, got {shortened(str(mask.dtype))}")
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        raise ValueError(
            f"expected a mask of 0 and 1, got {mask[wrong][0].item():g}; compare it with a "
            "threshold, as mask > 0.5"
        )
    return torch.from_numpy(np.asarray(mask == 1))
