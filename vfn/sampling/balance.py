"""Labels as the training pictures have them, where a network is asked for as many of each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from vfn.configs import Split
from vfn.configs.schema import SEED
from vfn.data import Labels, find_prepared
from vfn.data.labels import AS_DATA
from vfn.numbers import whole
from vfn.ops import epoch_permutation
from vfn.progress import say
from vfn.runs import other_pictures
from vfn.sampling.asked import PER_LABEL, Asked, ask, of_each

if TYPE_CHECKING:
    from vfn.sampling.trained import Trained

MOST_SHOWN = 10  # sets of tags, as many as a grid has columns of their names


def usual_labels(
    trained: "Trained",
    num: int,
    seed: int = 0,
    data_dir: str | None = None,
    as_data: bool = False,
    split: str | None = None,
) -> Asked:
    """What a network is asked for where nobody says what: every class in turn.

    Of a network of tags: tags as pictures of its data have them, in an order of the seed. Each tag
    alone is what no picture has; the figures would be those of another distribution.

    Args:
        trained: the network.
        num: how many pictures.
        seed: of the order.
        data_dir: where the data are; as the run says if None.
        as_data: classes too as those pictures have them, as often as there.
        split: of its data, whose labels are meant; the one that it was trained on if None.

    Returns:
        Asked.

    Raises:
        ValueError: if ``as_data`` is asked of an unconditional network, its data cannot be read, or
            there is no such split.

    >>> from vfn.sampling import untrained
    >>> usual_labels(untrained("digits"), 3).names[:3]
    ['0', '1', '2']
    >>> usual_labels(untrained("digits"), 3, as_data=True).labels.tolist()
    [10, 10, 1]
    """
    num, seed = whole(num, "num", 1), whole(seed, "seed", 0, SEED)
    legend = trained.shape.legend
    if as_data and not legend.names:
        raise ValueError(
            f"this model is unconditional and takes no --labels {AS_DATA}; leave them out"
        )
    if not legend.names or not (legend.tags or as_data):
        return ask(legend)
    pictures = trained.with_data(data_dir=data_dir).own_pictures(cast(Split | None, split))
    known = pictures.labels
    if known is None or pictures.legend.describe() != legend.describe():
        raise ValueError(
            f"expected labels as {trained.origin or 'the network'} was trained with, got other "
            f"{other_pictures(pictures, trained.shape, None)} in {trained.config.data.dataset}; "
            "name them with --labels"
        )
    order = epoch_permutation(seed, 0, len(known))
    asked = of_each(known[order[torch.arange(num) % len(known)]], legend)
    return asked._replace(split=split or trained.config.data.split)


def as_data(
    trained: "Trained", num: int | None = None, seed: int = 0, split: str | None = None
) -> Asked:
    """Labels as pictures of the data have them, each as often as there; a line tells how often.

    Args:
        trained: the network.
        num: how many pictures; ten for each label if None.
        seed: of the order.
        split: of the data; the one that the network was trained on if None.

    Returns:
        Asked, with a label for each picture.

    Raises:
        ValueError: for an unconditional network, or if its data cannot be read.

    >>> from vfn.sampling import untrained
    >>> as_data(untrained("digits"), 4, split="test").labels.tolist()
    [1, 3, 9, 6]
    """
    legend = trained.shape.legend
    count = PER_LABEL * len(legend.names) if num is None else whole(num, "num", 1)
    asked = usual_labels(trained, count, seed, as_data=True, split=split)
    if shares := class_shares(asked.labels, legend):
        say(f"labels {split_text(asked)}: {legend.describe()}, {balance_text(shares)}")
    return asked


def shown_labels(trained: "Trained") -> Asked:
    """What is drawn where nobody says what: every class, or some sets of tags that pictures have.

    Each tag alone is what no picture has. Where the training pictures are not prepared, nobody
    knows better, and a line says so.

    Args:
        trained: the network.

    Returns:
        Asked; of tags at most `MOST_SHOWN` sets, spread over those of the training pictures.

    >>> from vfn.sampling import untrained
    >>> shown_labels(untrained("digits")).names[:3]
    ['0', '1', '2']
    """
    legend = trained.shape.legend
    if not legend.tags:
        return ask(legend)
    there = _tag_sets(trained)
    if there is None:
        say(
            "the training pictures are not prepared here, so each tag is drawn alone, which "
            "they may not have; name sets of tags with --labels"
        )
        return ask(legend)
    few = torch.linspace(0, len(there) - 1, min(len(there), MOST_SHOWN)).round().long()
    count = f"all {len(there)}" if len(few) == len(there) else f"{len(few)} of {len(there)}"
    say(f"drawing {count} sets of tags that the training pictures have; --labels names others")
    return Asked(there[few], legend.texts(there[few]))


def _tag_sets(trained: "Trained") -> Tensor | None:
    """Each set of tags that training pictures have, once [L, K]; None if they are not at hand."""
    data, legend = trained.config.data, trained.shape.legend
    try:
        prepared = find_prepared(data)
        pictures = prepared.dataset(data.split) if prepared is not None else None
    except (ValueError, OSError):
        return None
    if pictures is None or pictures.labels is None:
        return None
    if pictures.legend.describe() != legend.describe() or not pictures.labels.any():
        return None
    some = pictures.labels[pictures.labels.any(-1).bool()]
    return some.unique(dim=0).flip(0).long()  # in the order of the tags


def split_text(asked: Asked) -> str:
    """Which pictures have the labels that are asked for, in few words.

    Args:
        asked: labels of a split.

    Returns:
        text.

    >>> split_text(of_each(torch.tensor([1]), Labels(("cat",)))._replace(split="test"))
    'as in the data, split test'
    """
    return f"as in the data, split {asked.split}"


def class_shares(labels: Tensor, legend: Labels) -> tuple[float, float] | None:
    """The shares of the rarest and of the most frequent class among some pictures.

    Args:
        labels: classes [N], 1..K.
        legend: what they mean.

    Returns:
        two numbers in [0, 1]; None for tags, or without labels.

    >>> class_shares(torch.tensor([1, 2, 2, 2]), Labels(("cat", "dog")))
    (0.25, 0.75)
    """
    if legend.tags or not legend.names or not len(labels):
        return None
    counts = labels.bincount(minlength=len(legend.names) + 1)[1:].double() / len(labels)
    return counts.min().item(), counts.max().item()


def balance_text(shares: Sequence[float] | None) -> str:
    """Shares of classes in a few words.

    Args:
        shares: of the rarest and of the most frequent class, in [0, 1]; None where there are none.

    Returns:
        text, empty for None.

    >>> balance_text((0.25, 0.75)), balance_text((0.1, 0.1)), balance_text(None)
    ('25.0 % to 75.0 % each', '10.0 % each', '')
    """
    if shares is None:
        return ""
    low, high = (f"{100 * share:.1f} %" for share in shares)
    return f"{low} each" if low == high else f"{low} to {high} each"
