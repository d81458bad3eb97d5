"""The sides of an evaluation, from whatever stands for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.configs import DataConfig
from vfn.data import (
    Dataset,
    Labels,
    as_dataset,
    in_turn,
    load_held_out,
    read_pictures,
    same_data,
    spec_settings,
)
from vfn.evaluation.features import Statistics, holds_statistics, read_statistics
from vfn.evaluation.needs import Content, Size
from vfn.files import few
from vfn.runs.directory import run_of
from vfn.sampling import Draws, Trained, load
from vfn.sampling.output import RECORD, open_output, read_record

# What stands for a side: a spec of the command line, pictures, statistics, or a network.
Given = str | Path | Tensor | Dataset | Statistics | Trained | Draws
# What a record of `vfn sample` says that an evaluation of its pictures says as well.
_TOLD = ("run", "step", "precision", "guidance", "sampler", "sample_timesteps", "grid",
         "guidance_interval", "guidance_rescale", "eta")  # fmt: skip
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
        path = Path(given)
        if path.suffix == ".npz" and holds_statistics(path, lean):
            return Opened(str(given), read_statistics(path))
    return open_pictures(given, data, size, labelled)


def open_pictures(
    given: Given, data: DataConfig, size: Size | None = None, labelled: bool = True
) -> Opened:
    """Pictures that no network draws, named by a path or spec, or in memory."""
    if isinstance(given, str | Path):
        return _open_path(str(given), data, size, labelled)
    if isinstance(given, Tensor):
        given = as_dataset(given)
    if not isinstance(given, Dataset):
        raise ValueError(
            "expected pictures as a path, dataset:NAME, uint8 tensor [N, C, H, W] or data set, "
            f"got {type(given).__name__}"
        )
    return Opened("pictures in memory", given)


def _open_path(spec: str, data: DataConfig, size: Size | None, labelled: bool) -> Opened:
    folder = Path(spec)
    record = None if spec.startswith("dataset:") else _record_of(folder)
    if record is not None:
        told = {name: record[name] for name in _TOLD if name in record}
        told |= {"sample_seed": record["seed"], _digest_name(record): record["sha256"]}
        told |= {"labels": text} if (text := _labels_text(record)) else {}
        return Opened(spec, _samples(folder, record), told)
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


def _digest_name(record: Mapping[str, Any]) -> str:
    return "sha256" if record.get("parameters") == "raw" else "ema_sha256"


def _labels_text(record: Mapping[str, Any]) -> str:
    """What was asked of the network, in few words; nothing if it has no labels."""
    names = record["labels"]
    if names and names == record.get("classes"):
        return "in turn"
    return ",".join(names) if len(names) <= MANY else f"{len(names)} of them, in turn"


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
    labels, legend = _labels_of(record)
    return Dataset(torch.cat(parts), labels, legend)


def _labels_of(record: Mapping[str, Any]) -> tuple[Tensor | None, Labels]:
    """The labels that were asked; records of earlier versions know only their names."""
    asked, num = record["labels"], record["num"]
    if not asked:
        return None, Labels()
    known = record.get("classes")
    tags = record.get("tags", any("+" in name for name in asked)) is True
    names = known if isinstance(known, list) and known else sorted({*asked})
    if tags and not known:
        names = sorted({tag for name in asked for tag in name.split("+")} - {""})
    legend = Labels(tuple(map(str, names)), tags)
    return in_turn(legend.parse(asked), torch.arange(num)), legend


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
    """Number the classes as another data set does, by their names."""
    legend = pictures.legend
    if pictures.labels is None or legend.tags or not legend.names or not like.names:
        return pictures
    number = {name: k for k, name in enumerate(like.names, 1)}
    numbers = torch.tensor([0, *(number[name] for name in legend.names)])
    return pictures._replace(labels=numbers[pictures.labels], legend=like)
