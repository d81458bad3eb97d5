"""What metrics cannot do without, checked for all of them before any work."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.data import Dataset, Labels
from vfn.data.values import PLAIN, Values
from vfn.evaluation.extractors import Extractor, Outlook
from vfn.evaluation.features import Statistics
from vfn.evaluation.metrics import METRICS, Metric, Need, usual_metrics
from vfn.files import shortened
from vfn.numbers import whole
from vfn.sampling import Draws
from vfn.tables import load_object

Content = Dataset | Statistics | Draws
Size = tuple[int, int]  # height, width


class Planned(NamedTuple):
    """The sides of an evaluation before any work; pictures of a network are not drawn yet.

    extractor: what is known of it. size: height and width that all pictures are brought to. unseen:
    held-out pictures of the data of the network itself; a text says why there are none. values:
    what the numbers of both sides mean, which are scaled by them.
    """

    real: Content
    fake: Content
    held_out: Dataset | None
    extractor: Extractor | Outlook
    size: Size | None = None
    unseen: Dataset | str | None = None
    values: Values = PLAIN


def comparable(side: Content | None, values: Values, role: str) -> Any:
    """A side with its numbers as metrics compare them.

    Args:
        side: pictures; anything else stays as it is.
        values: what the numbers of all sides mean.
        role: what the side is called in messages.

    Returns:
        the side, of 8-bit pictures or of floats.

    Raises:
        ValueError: for numbers of another type, or out of their range.
    """
    if not isinstance(side, Dataset):
        return side
    if side.images.dtype != getattr(torch, values.dtype):
        raise ValueError(
            f"expected {role} pictures of {values.dtype}, as the others are, got "
            f"{str(side.images.dtype).removeprefix('torch.')}"
        )
    if values.plain:
        return side
    values.check(side.images, f"{role} pictures")
    return side._replace(images=values.compared(side.images), values=PLAIN)


def find_metrics(names: str | Sequence[str]) -> dict[str, Metric]:
    """Metrics by their words, in order, each once; functions of the user's are imported.

    Args:
        names: words of `METRICS` or ``package.module:Name``, in a list or separated by commas.

    Returns:
        metrics by their words; of several words for one metric the first.

    Raises:
        ValueError: if there is none of them, a word is unknown, or a function cannot be imported.

    >>> list(find_metrics("fd, pr, fid"))
    ['fd', 'pr']
    """
    once: dict[str, tuple[str, Metric]] = {}
    for word in map(str.strip, names.split(",") if isinstance(names, str) else names):
        metric = METRICS.find(word)
        once.setdefault(metric.target, (word, metric))
    found = dict(once.values())
    if not found:
        raise ValueError(f"expected metrics, {METRICS.expected()}, got none")
    for word, metric in found.items():
        if word not in METRICS and not callable(load_object(metric.target)):
            raise ValueError(f"expected metric {word} to be a function of vfn.evaluation.Judged")
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
    check_bootstrap(bootstrap)
    check_shapes(planned)
    check_model(metrics, isinstance(planned.fake, Draws))
    for word, metric in metrics.items():
        if text := lack(metric, planned):
            raise ValueError(f"{word} needs {text}")


def find_usual(planned: Planned) -> tuple[dict[str, Metric], list[str]]:
    """The usual metrics that lack nothing, where nobody says which.

    Args:
        planned: the sides.

    Returns:
        metrics by their words, and for each that is left out a line that says why.

    Raises:
        ValueError: for pictures of different shapes, or if all of them lack something.
    """
    check_shapes(planned)
    usual = {word: METRICS[word] for word in usual_metrics(isinstance(planned.fake, Draws))}
    faults = {word: lack(metric, planned) for word, metric in usual.items()}
    if all(faults.values()):
        first = next(iter(faults))
        raise ValueError(f"{first} needs {faults[first]}")
    left_out = [f"left out: {word}, which needs {text}" for word, text in faults.items() if text]
    return {word: metric for word, metric in usual.items() if not faults[word]}, left_out


def check_bootstrap(bootstrap: int) -> int:
    """A number of resampled sets, of any kind; one that gives no interval is refused."""
    number = whole(bootstrap, "bootstrap", 0)
    if number == 1:
        raise ValueError(f"an interval needs at least 2 resampled sets, got --bootstrap {number}")
    return number


def check_shapes(planned: Planned) -> None:
    """Refuse pictures that cannot be compared; it says what would help."""
    sides = (planned.real, planned.fake, planned.held_out)
    shapes = {shape for side in sides if (shape := shape_of_side(side, planned.size))}
    if len(shapes) < 2:
        return
    alike = len({channels for channels, *_ in shapes}) == 1
    advice = "bring them together with --image-size" if alike else "make all of them grey, or RGB"
    raise ValueError(
        f"expected real, fake and held-out pictures of one shape, got {sorted(shapes)}; {advice}"
    )


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


def lack(metric: Metric, planned: Planned) -> str:
    """What a metric lacks first, as the end of a message; nothing if it lacks nothing."""
    texts = (fault(planned, metric) for need, fault in _FAULTS.items() if need in metric.needs)
    return next(filter(None, texts), "")


def shape_of_side(side: Content | None, size: Size | None = None) -> tuple[int, ...] | None:
    """[C, H, W] of pictures, or of those that statistics are of; None where they do not say.

    Args:
        side: as it is.
        size: what its pictures are brought to; not those that statistics are of.

    Returns:
        the shape that is compared.
    """
    if isinstance(side, Statistics):
        shape = side.provenance.get("shape")
        return tuple(shape[1:]) if isinstance(shape, list) and len(shape) == 4 else None
    if side is None:
        return None
    own = side.trained.shape.size if isinstance(side, Draws) else tuple(side.images.shape[1:])
    return (own[0], *size) if size else own


def count_of_side(side: Content) -> int | None:
    """Number of pictures; None for statistics that do not say."""
    return len(side.images) if isinstance(side, Dataset) else side.num


def width_of_side(side: Content) -> int | None:
    """How many features stored statistics have; None for pictures."""
    if not isinstance(side, Statistics):
        return None
    if side.gaussian:
        return len(side.gaussian.mean)
    return None if side.features is None else side.features.shape[1]


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


def _no_fake_features(planned: Planned, metric: Metric) -> str:
    fault, fakes = _no_features(planned.fake, "fake", metric), count_of_side(planned.fake)
    widths = (width_of_side(planned.real), width_of_side(planned.fake), planned.extractor.width)
    width = next(filter(None, widths), None)
    if fault or width is None or fakes is None or fakes > metric.per_feature * (width + 1):
        return fault
    return (
        f"more than {metric.per_feature * (width + 1)} fake pictures for {width} features, "
        f"got {fakes}; make more with --num"
    )


def _no_logits(planned: Planned, _: Metric) -> str:
    fake, extractor = planned.fake, planned.extractor
    known = fake.logits is not None if isinstance(fake, Statistics) else extractor.logits
    if known is not False:
        return ""
    return f"the logits of a classifier, and {extractor.name} gives none; use --features inception"


def _no_held_out(planned: Planned, _: Metric) -> str:
    return "" if planned.held_out else "held-out pictures; name them with --held-out"


def _no_labels(planned: Planned, _: Metric) -> str:
    legends = []
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
        if fault := _unlabelled(side, role):
            return fault
        legends.append(labels)
    real, *others = legends
    known_names = set(real.names)
    strange = [name for legend in others for name in legend.names if name not in known_names]
    if strange and real.names:
        return (
            f"classes of the same names, and label '{shortened(strange[0])}' is not among the real "
            f"pictures' {real.listed()}"
        )
    if isinstance(planned.real, Dataset) and planned.real.labels is not None:
        known = planned.real.labels
        if len(known) and bool((known == known[0]).all()):
            return "real pictures of two classes or more, got those of one"
    return ""


def _unlabelled(side: Dataset | Draws | None, role: str) -> str:
    """What is said of a side some of whose pictures have no label; nothing if all have one."""
    if isinstance(side, Draws):
        labels: Tensor | None = side.asked.of(torch.arange(side.num))
    else:
        labels = None if side is None else side.labels
    count = 0 if labels is None else int((labels == 0).sum())
    if labels is None or not count:
        return ""
    return f"a label of every picture, and {count} of {len(labels)} {role} ones have none"


def _no_model(planned: Planned, _: Metric) -> str:
    if isinstance(planned.unseen, Dataset):
        return ""
    why = planned.unseen or "there are none"
    return f"held-out pictures of the network's own data, and {why}"


def _no_pairs(planned: Planned, _: Metric) -> str:
    real, fake = planned.real, planned.fake
    if not isinstance(real, Dataset) or isinstance(fake, Statistics):
        return "pictures on both sides, fake beside real, got statistics or a network"
    if isinstance(fake, Draws) and fake.asked.paired:
        return ""
    if isinstance(fake, Draws) and not fake.trained.conditioned:
        return "a fake picture for each real one, and this model takes no condition of those"
    counts = count_of_side(real), count_of_side(fake)
    return "" if counts[0] == counts[1] else f"as many fake as real pictures, got {counts}"


def _no_levels(planned: Planned, _: Metric) -> str:
    fake = planned.fake
    if not isinstance(fake, Draws) or fake.trained.shape.values.plain:
        return ""
    return f"the 256 levels of 8-bit pictures, got {fake.trained.shape.values.describe()}"


def _no_range(planned: Planned, _: Metric) -> str:
    if planned.values.bounded:
        return ""
    return (
        f"numbers of a known range, whose width is its peak, got {planned.values.describe()}; "
        "train on data with --value-range in place of --standardise"
    )


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
    "fake features": _no_fake_features,
    "logits": _no_logits,
    "model": _no_model,
    "pairs": _no_pairs,
    "grey levels": _no_levels,
    "range": _no_range,
}
