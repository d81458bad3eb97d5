"""The sides of an evaluation, from whatever stands for them."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.configs import DataConfig
from vfn.data import (
    Dataset,
    Labels,
    as_dataset,
    load_held_out,
    read_pictures,
    same_data,
    spec_settings,
)
from vfn.evaluation.extractors import Extractor
from vfn.evaluation.features import Statistics, holds_statistics, read_statistics
from vfn.evaluation.needs import Content
from vfn.files import shortened
from vfn.ops import epoch_permutation
from vfn.runs import other_pictures
from vfn.runs.directory import run_of
from vfn.sampling import Asked, Draws, Trained, ask, load, of_each
from vfn.sampling.output import RECORD

# What stands for a side: a spec of the command line, pictures, statistics, or a network.
Given = str | Path | Tensor | Dataset | Statistics | Trained | Draws
RUN = "run:"


class Opened(NamedTuple):
    """A side: what it is called, and what it is; pictures of a network are not drawn yet."""

    text: str
    content: Content


def open_network(given: Given, device: str) -> Trained | Draws | None:
    """The network that a side stands for, loaded if need be; None for pictures and statistics."""
    run = run_of(given)
    if run is not None:
        return load(run, device)
    return given if isinstance(given, Trained | Draws) else None


def usual_labels(
    trained: Trained,
    num: int,
    seed: int = 0,
    data_dir: str | None = None,
    as_data: bool = False,
) -> Asked:
    """What a network is asked for where nobody says what: every class in turn.

    Of a network of tags: tags as its training pictures have them, in an order of the seed. Each
    tag alone is what no picture has; the figures would be those of another distribution.

    Args:
        trained: the network.
        num: how many pictures.
        seed: of the order.
        data_dir: where the data are; as the run says if None.
        as_data: classes too as the training pictures have them, as often as there.

    Returns:
        Asked.

    Raises:
        ValueError: if the pictures that the network was trained on are wanted, and not there.
    """
    legend = trained.shape.legend
    if not legend.names or not (legend.tags or as_data):
        return ask(legend)
    pictures = trained.with_data(data_dir=data_dir).own_pictures()
    known = pictures.labels
    if known is None or pictures.legend.describe() != legend.describe():
        raise ValueError(
            f"expected labels as {trained.origin or 'the network'} was trained with, got other "
            f"{other_pictures(pictures, trained.shape, None)} in {trained.config.data.dataset}; "
            "name them with --labels"
        )
    order = epoch_permutation(seed, 0, len(known))
    return of_each(known[order[torch.arange(num) % len(known)]], legend)


def open_side(given: Given, data: DataConfig, extractor: Extractor, lean: bool) -> Opened:
    """A side that no network draws.

    Args:
        given: a spec, pictures or statistics.
        data: how the data set of its name is prepared; where all data are.
        extractor: whose features statistics have to be.
        lean: whether statistics do, of a file that holds pictures as well.

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
            return Opened(str(given), read_statistics(path, extractor))
    return open_pictures(given, data)


def open_pictures(given: Given, data: DataConfig) -> Opened:
    """Pictures that no network draws, named by a path or spec, or in memory."""
    if isinstance(given, str | Path):
        return Opened(str(given), read_pictures(str(pictures_of(given)), data))
    if isinstance(given, Tensor):
        given = as_dataset(given)
    if not isinstance(given, Dataset):
        raise ValueError(
            "expected pictures as a path, dataset:NAME, uint8 tensor [N, C, H, W] or data set, "
            f"got {type(given).__name__}"
        )
    return Opened("pictures in memory", given)


def pictures_of(given: str | Path) -> str | Path:
    """Where the pictures are: in a folder that `vfn sample` wrote beside their settings.

    Args:
        given: a folder, a file or a spec.

    Returns:
        the folder or file of pictures; ``given`` itself if it is no such folder.
    """
    folder = Path(given)
    if not (folder / RECORD).is_file():
        return given
    images, packed = folder / "images", folder / "samples.npz"
    found = [path for path in (images, packed) if path.exists()]
    return found[0] if len(found) == 1 else given


def open_held_out(real: Given, held_out: Given | None, data: DataConfig) -> Dataset | None:
    """Real pictures never trained on: those given, or what the data set of ``real`` holds out."""
    if held_out is not None:
        content = open_pictures(held_out, data).content
        assert isinstance(content, Dataset)
        return content
    if not isinstance(real, str) or not real.startswith("dataset:"):
        return None
    asked = spec_settings(real, data)
    # `data` has the split that the run was trained on.
    if same_data(asked.dataset, data.dataset) and load_held_out(data) is None:
        return None
    return load_held_out(asked)


def check_legend(legend: Labels, like: Labels) -> None:
    """Refuse classes that others do not have.

    Raises:
        ValueError: it names the first.
    """
    known = set(like.names)
    strange = [name for name in legend.names if name not in known]
    if strange and like.names and not legend.tags:
        raise ValueError(
            f"label '{shortened(strange[0])}' is not among the real pictures' {like.listed()}"
        )


def relabelled(pictures: Dataset, like: Labels) -> Dataset:
    """Number the classes as another data set does, by their names."""
    legend = pictures.legend
    if pictures.labels is None or legend.tags or not legend.names or not like.names:
        return pictures
    number = {name: k for k, name in enumerate(like.names, 1)}
    numbers = torch.tensor([0, *(number[name] for name in legend.names)])
    return pictures._replace(labels=numbers[pictures.labels], legend=like)
