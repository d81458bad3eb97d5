"""What metrics cannot do without, checked for all of them before any work."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vfn.data import Dataset, Labels
from vfn.evaluation.extractors import Extractor
from vfn.evaluation.features import Statistics
from vfn.evaluation.metrics import METRICS, Metric, Need
from vfn.sampling import Draws

Content = Dataset | Statistics | Draws


class Planned(NamedTuple):
    """The sides of an evaluation before any work; pictures of a network are not drawn yet."""

    real: Content
    fake: Content
    held_out: Dataset | None
    extractor: Extractor


def find_metrics(names: str | Sequence[str]) -> dict[str, Metric]:
    """Metrics by their words, in order.

    Args:
        names: words of `METRICS` or ``package.module:Name``, in a list or separated by commas.

    Returns:
        metrics by their words.

    Raises:
        ValueError: if there is none of them, or a word is unknown.

    >>> list(find_metrics("fd, pr"))
    ['fd', 'pr']
    """
    words = names.split(",") if isinstance(names, str) else names
    found = {word.strip(): METRICS.find(word.strip()) for word in words}
    if not found:
        raise ValueError(f"expected metrics, {METRICS.expected()}, got none")
    return found


def needed(metrics: Iterable[Metric]) -> frozenset[Need]:
    """What some metrics need together."""
    return frozenset[Need]().union(*(metric.needs for metric in metrics))


def check_needs(metrics: dict[str, Metric], planned: Planned, bootstrap: int = 0) -> None:
    """Refuse metrics that lack something.

    Args:
        metrics: by their words.
        planned: the sides.
        bootstrap: how many resampled sets are wanted.

    Raises:
        ValueError: for pictures of different shapes, or what the first metric lacks.
    """
    if bootstrap == 1 or bootstrap < 0:
        raise ValueError(
            f"an interval needs at least 2 resampled sets, got --bootstrap {bootstrap}"
        )
    shapes = {shape for side in planned[:3] if (shape := shape_of_side(side))}
    if len(shapes) > 1:
        raise ValueError(
            f"expected real, fake and held-out pictures of one shape, got {sorted(shapes)}"
        )
    check_model(metrics, isinstance(planned.fake, Draws))
    for word, metric in metrics.items():
        for need, fault in _FAULTS.items():
            if need in metric.needs and (text := fault(planned, metric)):
                raise ValueError(f"{word} needs {text}")


def check_model(metrics: dict[str, Metric], drawn: bool) -> None:
    """Refuse metrics of a network where none draws the fakes.

    Args:
        metrics: by their words.
        drawn: whether a network draws the fakes.

    Raises:
        ValueError: it names the first metric.
    """
    for word, metric in metrics.items():
        if "model" in metric.needs and not drawn:
            raise ValueError(
                f"{word} goes with --fake run:DIR, or a loaded network; leave it out for pictures "
                "without one"
            )


def shape_of_side(side: Content | None) -> tuple[int, ...] | None:
    """[C, H, W] of pictures, or of those that statistics are of; None where they do not say."""
    if isinstance(side, Statistics):
        shape = side.provenance.get("shape")
        return tuple(shape[1:]) if isinstance(shape, list) and len(shape) == 4 else None
    if isinstance(side, Draws):
        return side.trained.shape.size
    return tuple(side.images.shape[1:]) if isinstance(side, Dataset) else None


def count_of_side(side: Content) -> int | None:
    """Number of pictures; None for statistics that do not say."""
    return len(side.images) if isinstance(side, Dataset) else side.num


def _few(side: Content, role: str, metric: Metric) -> str:
    count = count_of_side(side)
    few = count is not None and count < metric.fewest
    return f"at least {metric.fewest} {role} pictures, got {count}" if few else ""


def _no_gaussian(planned: Planned, metric: Metric) -> str:
    for side, role in ((planned.real, "real"), (planned.fake, "fake")):
        if fault := _few(side, role, metric):
            return fault
        if isinstance(side, Statistics) and side.gaussian is None and side.features is None:
            return f"the mean and covariance of the {role} pictures, and these statistics lack them"
    return ""


def _no_features(side: Content, role: str, metric: Metric) -> str:
    if isinstance(side, Statistics) and side.features is None:
        return (
            f"the features of every {role} picture, and these statistics hold only "
            "mean and covariance; use --metrics fid, or pictures"
        )
    return _few(side, role, metric)


def _no_logits(planned: Planned, _: Metric) -> str:
    fake, extractor = planned.fake, planned.extractor
    known = fake.logits is not None if isinstance(fake, Statistics) else extractor.logits
    if known is not False:
        return ""
    return f"the logits of a classifier, and {extractor.name} gives none; use --features inception"


def _no_held_out(planned: Planned, _: Metric) -> str:
    return "" if planned.held_out else "held-out pictures; name them with --held-out"


def _no_labels(planned: Planned, _: Metric) -> str:
    for side, role in (
        (planned.real, "real"),
        (planned.fake, "fake"),
        (planned.held_out, "held-out"),
    ):
        if isinstance(side, Statistics):
            return f"{role} pictures, got stored statistics"
        labels = _kind_of_labels(side)
        if labels is None:
            return f"labels, and the {role} pictures have none"
        if labels.tags:
            return f"one class a picture, the {role} ones have tags"
    return ""


def _kind_of_labels(side: Dataset | Draws | None) -> Labels | None:
    """What the labels of pictures mean; None without labels."""
    if isinstance(side, Draws):
        legend = side.trained.shape.legend
        return legend if legend.names else None
    return None if side is None or side.labels is None else side.legend


# What is wrong, or nothing; in the order in which it is said.
_FAULTS: dict[Need, Callable[[Planned, Metric], str]] = {
    "held-out pictures": _no_held_out,
    "held-out features": _no_held_out,
    "labels": _no_labels,
    "gaussian": _no_gaussian,
    "real features": lambda planned, metric: _no_features(planned.real, "real", metric),
    "fake features": lambda planned, metric: _no_features(planned.fake, "fake", metric),
    "logits": _no_logits,
}
