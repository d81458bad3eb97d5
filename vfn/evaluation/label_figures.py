"""Whether the fakes show what was asked of them."""

from typing import Any

from vfn.data import Dataset
from vfn.evaluation.extractors import pixels
from vfn.evaluation.features import Statistics
from vfn.evaluation.sides import HELD_OUT, Figure, Judged

# Of the kernel, times the number of pixels: squared distances grow with it. 0.001 for 8x8.
GAMMA_OF_A_PIXEL = 0.064


def agreement_figures(judged: Judged) -> list[Figure]:
    """Share of fakes that a classifier of pixels trained on the real ones gives the asked label."""
    from sklearn.svm import SVC

    sides = judged.sides
    pictures, labels = _examples(sides.real)
    gamma = GAMMA_OF_A_PIXEL / pictures.shape[1]
    classifier = SVC(kernel="rbf", gamma=gamma, C=10).fit(pictures, labels)
    return [
        judged.figure(
            "label_agreement",
            float(classifier.score(*_examples(sides.fake))),
            float(classifier.score(*_examples(sides.held_out))),
            "a support vector classifier trained on the real pictures finds the label",
            baseline=HELD_OUT,
        )
    ]


def _examples(side: Dataset | Statistics | None) -> tuple[Any, Any]:
    # A metric that needs labels is refused without them.
    assert isinstance(side, Dataset)
    assert side.labels is not None
    return (pixels(side.images) * 16).numpy(), side.labels.numpy()
