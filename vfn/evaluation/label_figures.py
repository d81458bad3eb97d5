"""Whether the fakes show what was asked of them."""

from typing import Any

import torch
from torch import Tensor

from vfn.data import Dataset
from vfn.evaluation.extractors import pixels
from vfn.evaluation.features import Statistics
from vfn.evaluation.held_out import some_of
from vfn.evaluation.sides import HELD_OUT, Figure, Judged

# Of the kernel, times the number of pixels: squared distances grow with it. 0.001 for 8x8.
GAMMA_OF_A_PIXEL = 0.064
# Real pictures that the classifier is trained on: its time grows with the square of their number,
# to a minute for so many of 32x32 in colour, and hours for 50,000.
MOST_TRAINED = 5000


def agreement_figures(judged: Judged) -> list[Figure]:
    """Share of fakes that a classifier of pixels trained on the real ones gives the asked label."""
    from sklearn.svm import SVC

    sides = judged.sides
    real = _labelled(sides.real)
    rows = _trained_rows(real.labels, MOST_TRAINED)
    pictures, labels = _examples(real.rows(rows))
    gamma = GAMMA_OF_A_PIXEL / pictures.shape[1]
    classifier = SVC(kernel="rbf", gamma=gamma, C=10).fit(pictures, labels)
    count = len(real.images)
    which = "the" if len(rows) == count else f"{len(rows):,} of the {count:,}"
    return [
        judged.figure(
            "label_agreement",
            float(classifier.score(*_examples(sides.fake))),
            float(classifier.score(*_examples(sides.held_out))),
            f"a support vector classifier trained on {which} real pictures finds the label",
            baseline=HELD_OUT,
        )
    ]


def _trained_rows(labels: Tensor | None, most: int) -> Tensor:
    """Pictures that the classifier is trained on: all, or of each class its share, one at least.

    Args:
        labels: classes [N].
        most: pictures; some more where there are classes of few.

    Returns:
        numbers of pictures, rising.

    >>> _trained_rows(torch.tensor([1, 1, 1, 1, 2, 1, 1, 1]), 2).tolist()
    [0, 4, 5]
    """
    assert labels is not None
    if len(labels) <= most:
        return torch.arange(len(labels))
    by_class = labels.argsort(stable=True)
    sorted_labels = labels[by_class]
    first = torch.cat([torch.ones(1).bool(), sorted_labels[1:] != sorted_labels[:-1]])
    return torch.cat([some_of(by_class, most), by_class[first]]).unique()


def _labelled(side: Dataset | Statistics | None) -> Dataset:
    # A metric that needs labels is refused without them.
    assert isinstance(side, Dataset)
    assert side.labels is not None
    return side


def _examples(side: Dataset | Statistics | None) -> tuple[Any, Any]:
    labelled = _labelled(side)
    assert labelled.labels is not None
    return (pixels(labelled.images) * 16).numpy(), labelled.labels.numpy()
