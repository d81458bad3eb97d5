"""The labels that a person asks for, as pictures get them in turn."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.data import Labels, in_turn
from vfn.data.labels import TAG_SEPARATOR, split_names
from vfn.files import shortened
from vfn.nn import Conditions, check_labels

PER_LABEL = 10  # pictures, where their number is not given


class Asked(NamedTuple):
    """Labels [L] or [L, K] that pictures get in turn, and their names; no names without labels.

    rows, columns: the two lists of tags whose combinations the labels are, if they are. each: there
    is a label for each picture, as data have them, and not some in turn. conditions: what else is
    asked, in turn likewise. paired: all of it is that of the pictures that an evaluation compares
    with, evenly spread over them and in their order. split: of the network's data, whose pictures
    have these labels, if they do.
    """

    labels: Tensor
    names: list[str]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    each: bool = False
    conditions: Conditions = Conditions()
    paired: bool = False
    split: str = ""

    def conditions_of(self, indices: Tensor) -> Conditions:
        """What else some pictures are to follow, on the CPU."""
        return self.conditions.each(lambda value: in_turn(value, indices))

    def of(self, indices: Tensor) -> Tensor:
        """The labels of some pictures."""
        return in_turn(self.labels, indices)

    def texts(self, indices: Tensor) -> list[str]:
        """What stands beside some pictures; nothing where they have no labels."""
        return [self.names[i % len(self.names)] for i in indices.tolist()] if self.names else []


def ask(
    legend: Labels, names: str | Sequence[str] | None = None, tags: Sequence[str] = ()
) -> Asked:
    """The labels that names stand for; every one by default.

    Args:
        legend: what the network knows.
        names: names of classes, or tags joined by ``+``, in a list or separated by commas.
        tags: the same for a network of tags; of two texts every combination, the first the slower.

    Returns:
        Asked; for an unconditional network one label 0 without a name.

    Raises:
        ValueError: for names that the network does not know, or labels for a network without any.

    >>> ask(Labels(("a", "b", "c"), tags=True), tags=["a,b", "c"]).names
    ['a+c', 'b+c']
    >>> ask(Labels(("3", "7")), ["7", "3"]).of(torch.arange(3))
    tensor([2, 1, 2])
    """
    option = "--tags" if tags else "--labels"
    if (names is not None or tags) and not legend.names:
        raise ValueError(f"this model is unconditional and takes no {option}; leave them out")
    if not legend.names:
        return Asked(torch.zeros(1, dtype=torch.long), [])
    if tags and not legend.tags:
        raise ValueError(f"this model has classes, not tags; use --labels, among {legend.listed()}")
    if (tags and names is not None) or len(tags) > 2:
        raise ValueError("expected --labels, or --tags once or twice; leave out the others")
    for text in (*tags, *([names] if isinstance(names, str) else [])):
        _check_text(text, legend)
    if len(tags) == 2:
        return _combined(tags[0], tags[1], legend)
    asked = "all" if names is None else names
    labels = legend.parse(tags[0] if tags else asked)
    return Asked(labels, legend.texts(labels))


def _check_text(text: str, legend: Labels) -> None:
    """Refuse no tag at all where somebody typed it, as by a comma at the end."""
    if legend.tags and "" in split_names(text):
        raise ValueError(
            f"expected names among {legend.listed()}, separated by commas, got an empty one in "
            f"'{shortened(text)}'"
        )


def asked_by(labels: Tensor, legend: Labels) -> Asked:
    """Labels as a network takes them, which pictures get in turn.

    Args:
        labels: classes [L] in 0..K, 0 for none, or 0/1 tags [L, K].
        legend: what the network knows.

    Returns:
        Asked.

    Raises:
        ValueError: for labels that it does not know, or for a network without any.

    >>> asked_by(torch.tensor([2, 1]), Labels(("cat", "dog"))).names
    ['dog', 'cat']
    """
    if not legend.names:
        return ask(legend, "")
    check_labels(labels, len(legend.names), legend.tags)
    if not len(labels):
        raise ValueError(f"expected one label at least, got shape {tuple(labels.shape)}")
    labels = labels.long().cpu()
    return Asked(labels, legend.texts(labels))


def of_each(labels: Tensor, legend: Labels) -> Asked:
    """One label for each picture, as the data have them, instead of some in turn.

    Args:
        labels: [N] or [N, K].
        legend: what they mean.

    Returns:
        Asked.

    >>> of_each(torch.tensor([2, 2, 1]), Labels(("cat", "dog"))).names
    ['dog', 'dog', 'cat']
    """
    return Asked(labels, legend.texts(labels) if legend.names else [], each=True)


def _combined(first: str, second: str, legend: Labels) -> Asked:
    """Every combination of two lists of tags."""
    rows, columns = (legend.texts(legend.parse(text)) for text in (first, second))
    labels = legend.parse([f"{a}{TAG_SEPARATOR}{b}" for a in rows for b in columns])
    return Asked(labels, legend.texts(labels), rows, columns)
