"""What a metric sees, and what it gives."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vfn.data import Dataset
from vfn.evaluation.features import Statistics
from vfn.evaluation.metrics import KINDS, Better
from vfn.ops import Interval, bootstrap_indices, bootstrap_interval, epoch_permutation
from vfn.streams import Stream

if TYPE_CHECKING:
    from vfn.sampling import Trained

# What stands beside a figure.
HALVES = "two halves of the real pictures against each other"
UNBIASED = "the expectation of a perfect sampler: the estimate has no bias"
HELD_OUT = "held-out pictures"
REAL = "the real pictures themselves"


class Figure(NamedTuple):
    """A figure beside that of real pictures.

    key: its name in logs and files. title: its name for people. reference: the figure of real
    pictures, or what a perfect sampler would get; None where it is not known. better: the
    direction. note: how it was computed. baseline: what the reference is of. interval: of the
    bootstrap, 95 %. error: standard error, or standard deviation as the note says. warning: why it
    says little, if it does. reference_interval: where 95 % of perfect samplers, or of other halves,
    lie.

    >>> Figure("colours", "Colours", 3.0).reference
    """

    key: str
    title: str
    value: float
    reference: float | None = None
    better: Better = ""
    note: str = ""
    baseline: str = ""
    interval: Interval | None = None
    error: float | None = None
    warning: str = ""
    reference_interval: Interval | None = None

    @property
    def about(self) -> str:
        """The note, and what the reference is of if there is one."""
        return self.note + ("" if self.reference is None else f"; reference: {self.baseline}")


class Sides(NamedTuple):
    """What is compared: real, fake, and real pictures that training has not seen (or None).

    Statistics in place of pictures serve the metrics that need no more.
    """

    real: Dataset | Statistics
    fake: Dataset | Statistics
    held_out: Dataset | None = None


class Subject(NamedTuple):
    """The network that drew the fakes, for metrics of the network itself.

    held_out: pictures of its data set that it was not trained on. num: how many of them, where
    time matters. guidance: w of a network that takes it as an input.

    A metric of ``mine.metrics`` that needs it finds it in `Judged`:

    >>> def size(judged):
    ...     return {"step": judged.subject.trained.step, "pictures": judged.subject.num}
    >>> from types import SimpleNamespace
    >>> size(SimpleNamespace(subject=Subject(SimpleNamespace(step=800), None, num=100)))
    {'step': 800, 'pictures': 100}
    """

    trained: "Trained"
    held_out: Dataset
    num: int
    guidance: float | None = None


class Judged(NamedTuple):
    """What a metric sees.

    real, fake, held_out: statistics of the sides, with what the metric's needs name. extractor:
    name of the features. seed: of everything random. bootstrap: how many resampled sets are wanted.
    subject: the network, if one drew the fakes. references: whether to compute what stands beside
    the figures.
    """

    sides: Sides
    real: Statistics
    fake: Statistics
    held_out: Statistics | None
    extractor: str
    seed: int = 0
    bootstrap: int = 0
    subject: Subject | None = None
    references: bool = True

    def figure(
        self, key: str, value: float, reference: float | None, note: str, **more: Any
    ) -> Figure:
        """A figure of a known kind.

        Args:
            key: one of `vfn.evaluation.metrics.KINDS`.
            value: the figure.
            reference: that of real pictures.
            note: how it was computed.
            more: other fields; the baseline is `HALVES` unless it is given.

        Returns:
            Figure.
        """
        kind, more = KINDS[key], {"baseline": HALVES, **more}
        title = kind.title_of(self.extractor)
        return Figure(key, title, value, reference, kind.better, note, **more)

    def interval(
        self, value: float, count: int, statistic: Callable[[Tensor], float]
    ) -> Interval | None:
        """95 % interval of a figure, from its values for resampled rows; None if none is wanted.

        Args:
            value: the figure.
            count: rows.
            statistic: gives the figure of some of them.

        Returns:
            Interval, or None.
        """
        if not self.bootstrap:
            return None
        drawn = (
            bootstrap_indices(self.seed, draw, count, Stream.BOOTSTRAP)
            for draw in range(self.bootstrap)
        )
        return bootstrap_interval(value, torch.tensor([statistic(rows) for rows in drawn]))


def halves(features: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves of the real features.

    Args:
        features: [N, D].
        seed: which picture goes to which half.

    Returns:
        [N/2, D] each; the first has one more if N is odd.

    >>> one, other = halves(torch.arange(4.0)[:, None], seed=0)
    >>> sorted([*one.flatten().tolist(), *other.flatten().tolist()])
    [0.0, 1.0, 2.0, 3.0]
    """
    order = epoch_permutation(seed, 0, len(features))
    return features[order[::2]], features[order[1::2]]


def share_of(mask: Tensor) -> float:
    """The share of a mask that is set.

    Args:
        mask: truth values of any shape.

    Returns:
        a number in [0, 1].

    >>> share_of(torch.tensor([True, False]))
    0.5
    """
    return mask.double().mean().item()


def features_of(side: Statistics) -> Tensor:
    """The features of a side that was asked for them."""
    assert side.features is not None  # a metric that needs them is refused otherwise
    return side.features
