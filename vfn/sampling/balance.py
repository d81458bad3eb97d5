"""Labels as the training pictures have them, where a network is asked for as many of each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vfn.data import Labels
from vfn.data.labels import AS_DATA
from vfn.ops import epoch_permutation
from vfn.progress import say
from vfn.runs import other_pictures
from vfn.sampling.asked import PER_LABEL, Asked, ask, of_each

if TYPE_CHECKING:
    from vfn.sampling.trained import Trained


def usual_labels(
    trained: "Trained",
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
        ValueError: if ``as_data`` is asked of an unconditional network, or its data cannot be read.
    """
    legend = trained.shape.legend
    if as_data and not legend.names:
        raise ValueError(
            f"this model is unconditional and takes no --labels {AS_DATA}; leave them out"
        )
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


def as_data(trained: "Trained", num: int | None = None, seed: int = 0) -> Asked:
    """Labels as the training pictures have them, each as often as there; a line tells how often.

    Args:
        trained: the network.
        num: how many pictures; ten for each label if None.
        seed: of the order.

    Returns:
        Asked, with a label for each picture.

    Raises:
        ValueError: for an unconditional network, or if its data cannot be read.
    """
    legend = trained.shape.legend
    asked = usual_labels(trained, num or PER_LABEL * len(legend.names), seed, as_data=True)
    if shares := class_shares(asked.labels, legend):
        say(f"labels as in the data: {legend.describe()}, {balance_text(shares)}")
    return asked


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
