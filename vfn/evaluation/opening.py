"""The sides of an evaluation, from whatever stands for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn import configs
from vfn.configs import DataConfig, SampleConfig
from vfn.data import (
    Dataset,
    Labels,
    as_dataset,
    load_held_out,
    read_pictures,
    same_data,
    spec_settings,
)
from vfn.data.labels import TAG_SEPARATOR
from vfn.evaluation.features import Statistics, holds_statistics, read_statistics
from vfn.evaluation.needs import Content, Size
from vfn.files import few, given_path
from vfn.runs import RunFiles, seconds_until
from vfn.runs.directory import run_of
from vfn.sampling import Asked, Drawn, Draws, Trained, ask, load, split_text
from vfn.sampling.output import open_output
from vfn.sampling.provenance import RECORD, read_record

# What stands for pictures that are there, by a spec of the command line or in memory.
Pictures = str | Path | Tensor | np.ndarray | Dataset | Drawn
# What stands for a side: those, statistics, or a network.
Given = Pictures | Statistics | Trained | Draws
# What a record of `vfn sample` says that an evaluation of its pictures says as well; the last are
# what `Draws.told` adds to the settings.
_TOLD = ("run", "step", "precision", *vars(SampleConfig()),
         "guide_step", "guide_sha256", "condition_sha256")  # fmt: skip
_IN_MEMORY = "pictures in memory"
MANY = 100  # labels that a record of an evaluation lists
_BLOCK = 1024  # pictures that are read at a time


class Opened(NamedTuple):
    """A side: what it is called, and what it is; pictures of a network are not drawn yet.

    told: what its pictures depend on, where a record of `vfn sample` says so.
    """

    text: str
    content: Content
    told: Mapping[str, Any] = {}


def open_network(given: Given, device: str) -> Trained | Draws | None:
    """The network that a side stands for, loaded if need be; None for pictures and statistics."""
    run = run_of(given)
    if run is not None:
        return load(run, device)
    return given if isinstance(given, Trained | Draws) else None


def open_side(
    given: Given, data: DataConfig, lean: bool, size: Size | None = None, labelled: bool = True
) -> Opened:
    """A side that no network draws.

    Args:
        given: a spec, pictures or statistics.
        data: how the data set of its name is prepared; where all data are.
        lean: whether statistics do, of a file that holds pictures as well.
        size: what pictures of several sizes in a folder are brought to.
        labelled: whether anybody asks for their labels.

    Returns:
        Opened.

    Raises:
        ValueError: if there is nothing there, it cannot be read, or is something else.
    """
    if isinstance(given, Statistics):
        return Opened("statistics in memory", given)
    if isinstance(given, str | Path):
        path = given_path(given)
        if path.suffix.lower() == ".npz" and holds_statistics(path, lean):
            return Opened(str(given), read_statistics(path))
    return open_pictures(given, data, size, labelled, ", statistics, or a run or network")


def open_pictures(
    given: Given,
    data: DataConfig,
    size: Size | None = None,
    labelled: bool = True,
    others: str = "",
) -> Opened:
    """Pictures that no network draws, named by a path or spec, or in memory."""
    if isinstance(given, str | Path):
        return _open_path(str(given), data, size, labelled)
    if isinstance(given, Drawn):
        return _open_drawn(given)
    if isinstance(given, np.ndarray):
        given = _channels_first(given)
    if isinstance(given, Tensor):
        given = as_dataset(given)
    if not isinstance(given, Dataset):
        raise ValueError(
            "expected pictures as a path, dataset:NAME, uint8 tensor [N, C, H, W], uint8 array of "
            f"that order or [N, H, W, C], data set, or what sample() gives{others}, got "
            f"{type(given).__name__}"
        )
    return Opened(_IN_MEMORY, given)


def _open_drawn(drawn: Drawn) -> Opened:
    """What a network drew; which labels it knows beside those asked, nobody says."""
    if fault := drawn.fault:
        raise ValueError(
            f"expected finite pictures to judge, but {fault}; use another checkpoint, or less "
            "guidance"
        )
    if not drawn.labels:
        return Opened(_IN_MEMORY, Dataset(drawn.images))
    tags = drawn.classes.ndim == 2
    legend = Labels(_among(drawn.labels, tags), tags)
    asked = Asked(legend.parse(drawn.labels), drawn.labels)
    told = {"labels": labels_text(asked, Labels((), tags))}
    return Opened(_IN_MEMORY, Dataset(drawn.images, asked.labels, legend), told)


def _channels_first(array: np.ndarray) -> Tensor:
    """An array as a tensor, where its shape leaves no doubt which axis the channels are."""
    axes = [axis for axis in (1, 3) if array.ndim == 4 and array.shape[axis] in (1, 3)]
    if array.dtype != np.uint8 or len(axes) != 1:
        raise ValueError(
            "expected a uint8 array [N, C, H, W] or [N, H, W, C] whose shape tells which, C being "
            f"1 or 3, got {array.dtype} {list(array.shape)}; give a tensor [N, C, H, W]"
        )
    # A tensor shares no memory that cannot be written.
    images = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return images.movedim(axes[0], 1)


def _open_path(spec: str, data: DataConfig, size: Size | None, labelled: bool) -> Opened:
    folder = given_path(spec)
    record = None if spec.startswith("dataset:") else _record_of(folder)
    if record is not None:
        return Opened(spec, _samples(folder, record), _told(record))
    inside = [path for path in sorted(folder.glob("*")) if (path / RECORD).is_file()]
    if inside:
        raise ValueError(
            f"{spec} holds several folders of vfn sample; name one of them: "
            f"{few(path.name for path in inside)}"
        )
    return Opened(spec, read_pictures(spec, data, size, labelled))


def _record_of(folder: Path) -> dict[str, Any] | None:
    """The record of `vfn sample`; a settings.json without such pictures is somebody else's."""
    try:
        return read_record(folder)
    except ValueError:
        if any((folder / name).exists() for name in ("images", "samples.npz")):
            raise
        return None


def data_of_samples(given: object) -> DataConfig | None:
    """How the data were prepared of the run that drew a folder of pictures, where it is at hand."""
    record = _record_of(given_path(given)) if isinstance(given, str | Path) else None
    run = record.get("run") if record else None
    if not isinstance(run, str) or not RunFiles(run).config.exists():
        return None
    return configs.load(str(RunFiles(run).config)).data


def _digest_name(record: Mapping[str, Any]) -> str:
    return "sha256" if record.get("parameters") == "raw" else "ema_sha256"


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation says of the pictures of a folder, as of those that it draws itself."""
    asked, legend = _asked_of(record)
    known = Labels(_classes(record), legend.tags)
    return {
        **{name: record[name] for name in _TOLD if name in record},
        "sample_seed": record["seed"],
        "train_seconds": _train_seconds(record),
        _digest_name(record): record["sha256"],
        **({"labels": labels_text(asked, known)} if asked.names else {}),
    }


def _train_seconds(record: Mapping[str, Any]) -> float | None:
    """How long the run was trained for these pictures; None where its log is not at hand."""
    run, step = record.get("run"), record.get("step")
    if not isinstance(run, str) or not isinstance(step, int):
        return None
    try:
        return seconds_until(RunFiles(run).log, step)
    except (ValueError, OSError):  # no figure depends on it
        return None


def labels_text(asked: Asked, legend: Labels) -> str:
    """What was asked of a network, in few words.

    Args:
        asked: labels.
        legend: all that the network knows; nothing where that is not known.

    Returns:
        text.

    >>> digits = Labels(tuple("0123456789"))
    >>> labels_text(ask(digits), digits), labels_text(ask(digits, "7,3"), digits)
    ('in turn', '7,3')
    """
    names = asked.names
    if asked.split:
        return split_text(asked)
    if not legend.tags and names == [*legend.names]:
        return "in turn"
    texts = [name or ("" if legend.tags else "no label") for name in names]
    return ",".join(texts) if len(names) <= MANY else f"{len(names)} of them, in turn"


def _samples(folder: Path, record: Mapping[str, Any]) -> Dataset:
    """The pictures that `vfn sample` wrote, and their labels; all of them have to be there."""
    num = record["num"]
    output = open_output(record["format"], folder, num)
    there = len(output.present())
    if there < num:
        raise ValueError(
            f"{folder} holds {there} of {num} pictures; the same vfn sample command draws the rest"
        )
    try:
        parts = [output.read(rows) for rows in torch.arange(num).split(_BLOCK)]
    except Exception as error:  # a damaged file: nearly anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the pictures in {folder} cannot be read ({reason:.200}); --fresh draws them anew"
        ) from None
    asked, legend = _asked_of(record)
    labels = asked.of(torch.arange(num)) if asked.names else None
    return Dataset(torch.cat(parts), labels, legend)


def _asked_of(record: Mapping[str, Any]) -> tuple[Asked, Labels]:
    """What was asked of which labels; records of earlier versions know only those asked."""
    names, split = record["labels"], record.get("labels_from", "")
    if not names:
        return ask(Labels()), Labels()
    tags = record.get("tags", any("+" in name for name in names)) is True
    legend = Labels(_classes(record) or _among(names, tags), tags)
    return Asked(legend.parse(names), names, split=str(split)), legend


def _classes(record: Mapping[str, Any]) -> tuple[str, ...]:
    """All that the network knows; nothing in records of earlier versions."""
    known = record.get("classes")
    return tuple(map(str, known)) if isinstance(known, list) else ()


def _among(names: Sequence[str], tags: bool) -> tuple[str, ...]:
    """The classes or tags that stand in some labels."""
    if not tags:
        return tuple(sorted({*names} - {""}))
    return tuple(sorted({tag for name in names for tag in name.split(TAG_SEPARATOR)} - {""}))


def open_held_out(
    real: Given, held_out: Given | None, data: DataConfig, size: Size | None = None
) -> Dataset | None:
    """Real pictures never trained on: those given, or what the data set of ``real`` holds out."""
    if held_out is not None:
        content = open_pictures(held_out, data, size).content
        assert isinstance(content, Dataset)
        return content
    if not isinstance(real, str) or not real.startswith("dataset:"):
        return None
    asked = spec_settings(real, data)
    # `data` has the split that the run was trained on.
    if same_data(asked.dataset, data.dataset) and load_held_out(data) is None:
        return None
    return load_held_out(asked)


def relabelled(pictures: Dataset, like: Labels) -> Dataset:
    """Number the classes as another data set does, by their names, if it has all of them."""
    legend = pictures.legend
    known = bool(legend.names) and {*legend.names} <= {*like.names}
    if pictures.labels is None or legend.tags or not known:
        return pictures
    number = {name: k for k, name in enumerate(like.names, 1)}
    numbers = torch.tensor([0, *(number[name] for name in legend.names)])
    return pictures._replace(labels=numbers[pictures.labels], legend=like)
