"""Figures of two sides: check what the metrics need, extract it, compute."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from vfn.configs.schema import SEED
from vfn.data import Dataset
from vfn.data.values import PLAIN, Values
from vfn.distributed import ALONE, World
from vfn.evaluation.extractors import PIXELS, Extractor
from vfn.evaluation.features import Kept, Statistics
from vfn.evaluation.metrics import Metric, Need
from vfn.evaluation.needs import (
    Planned,
    check_bootstrap,
    check_needs,
    comparable,
    find_metrics,
    needed,
)
from vfn.evaluation.sides import Figure, Judged, Sides
from vfn.files import short
from vfn.numbers import whole
from vfn.tables import is_object_name, load_object, outside

_LARGE = 1e12  # of features, whose powers are summed
_REAL: frozenset[Need] = frozenset({"gaussian", "real features", "logits"})
_FAKE: frozenset[Need] = frozenset({"gaussian", "fake features", "logits"})


def evaluate(
    sides: Sides,
    names: str | Sequence[str],
    seed: int = 0,
    extractor: Extractor = PIXELS,
    bootstrap: int = 0,
    world: World = ALONE,
    references: bool = True,
) -> list[Figure]:
    """Compute some metrics.

    Args:
        sides: real, fake and held-out pictures, all of one shape, or statistics.
        names: words of `vfn.evaluation.METRICS`, or ``package.module:Name`` of a function of
            `Judged`.
        seed: chooses the order of the extrapolation and the bootstrap.
        extractor: gives the features.
        bootstrap: resampled sets for the intervals; 0 for none.
        world: all processes extract features and have to call this; the first computes the rest.
        references: whether to compute what stands beside the figures.

    Returns:
        the figures, in order; on other processes than the first an empty list.

    Raises:
        ValueError: for an unknown name, pictures of different shapes or types, or what a metric
            lacks.

    >>> from vfn.data import load_dataset
    >>> sides = Sides(load_dataset("digits"), load_dataset("digits", "test"))
    >>> [figure.title for figure in evaluate(sides, ["pr"])]
    ['Precision', 'Recall']
    """
    metrics = find_metrics(names)
    seed, bootstrap = whole(seed, "seed", 0, SEED), check_bootstrap(bootstrap)
    sides, values = _in_one_unit(sides)
    check_needs(metrics, Planned(*sides, extractor, values=values), bootstrap)
    judged = extracted(sides, metrics, extractor, world)
    if world.rank:
        return []
    judged = judged._replace(seed=seed, bootstrap=bootstrap, references=references)
    return [figure for word in metrics for figure in computed(word, metrics[word], judged)]


def _in_one_unit(sides: Sides) -> tuple[Sides, Values]:
    """Sides with their numbers as metrics compare them, and what these mean on the real one."""
    known = [side.values for side in sides if isinstance(side, Dataset)]
    if all(values.plain for values in known):
        return sides, PLAIN
    roles = ("real", "fake", "held-out")
    each = (comparable(side, known[0], role) for side, role in zip(sides, roles, strict=True))
    return Sides(*each), known[0]


def extracted(
    sides: Sides,
    metrics: Mapping[str, Metric],
    extractor: Extractor,
    world: World = ALONE,
    kept: Kept | None = None,
) -> Judged:
    """What the metrics see: the features that they need, by all processes together.

    Args:
        sides: the pictures or statistics, which `check_needs` has let through.
        metrics: by their words.
        extractor: gives the features.
        world: the processes; all of them have to call this.
        kept: of the real and held-out sides, where they come again.

    Returns:
        Judged.

    Raises:
        ValueError: if the features of the sides do not fit.
    """
    needs = needed(metrics.values())

    def statistics(name: str, side: Dataset | Statistics, extract: bool) -> Statistics:
        if isinstance(side, Statistics):
            return side
        if not extract:
            return Statistics(len(side.images), None, None, None, extractor.provenance)
        here = kept if kept is not None and name != "fake" else Kept()
        return here.statistics(name, side.images, extractor, world, "gaussian" in needs)

    held_out = "held-out features" in needs and sides.held_out is not None
    judged = Judged(
        sides,
        statistics("real", sides.real, bool(needs & _REAL)),
        statistics("fake", sides.fake, bool(needs & _FAKE)),
        statistics("held-out", sides.held_out, True) if held_out and sides.held_out else None,
        extractor.name,
    )
    real, fake = _width(judged.real), _width(judged.fake)
    if real is not None and fake is not None and real != fake:
        raise ValueError(
            f"the real side has {real} features and the fake {fake}; "
            "compute both with the same extractor, of pictures of one size"
        )
    if "logits" in needs and judged.fake.logits is None:
        raise ValueError(
            f"Inception Score needs the logits of a classifier, and {extractor.name} gives none"
        )
    return judged


def computed(word: str, metric: Metric, judged: Judged) -> list[Any]:
    """What a metric gives, as a list: figures, or rows of another part of an evaluation.

    Args:
        word: of the metric.
        metric: it may give a list of `Figure`, or a dictionary of numbers by name.
        judged: what it sees.

    Returns:
        figures, or the rows.

    Raises:
        ValueError: if the function of the user's gives something else, or the features cannot be
            computed with.
    """
    try:
        with outside(f"metric {word} fails") if is_object_name(word) else nullcontext():
            found = load_object(metric.target)(judged)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            f"{word} cannot be computed ({short(str(error))}): {reason_of(judged)}"
        ) from None
    if isinstance(found, Mapping):
        found = [Figure(str(name), str(name), _float(word, value)) for name, value in found.items()]
    if metric.part == "figures" and not (
        isinstance(found, list) and all(isinstance(figure, Figure) for figure in found)
    ):
        raise ValueError(
            f"expected metric {word} to give a list of Figure or numbers by name, got "
            f"{short(found)}"
        )
    if metric.part == "figures":
        found = [figure._replace(value=_float(word, figure.value)) for figure in found]
    return found


def _float(word: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"expected metric {word} to give numbers, got {short(value)}") from None


def reason_of(judged: Judged) -> str:
    """What makes figures that are not finite.

    Args:
        judged: what the metric saw.

    Returns:
        a part of a message.

    >>> import torch
    >>> huge = Statistics(2, None, torch.full((2, 1), 1e30), None, {})
    >>> reason_of(Judged(Sides(huge, huge), huge, huge, None, "mine"))
    'features of real pictures reach 1e+30, too large to compute with'
    """
    sides = {"real": judged.real, "fake": judged.fake, "held-out": judged.held_out}
    for name, side in sides.items():
        most = _largest(side)
        if most > _LARGE:
            return f"features of {name} pictures reach {most:.3g}, too large to compute with"
    if judged.subject is not None:
        return "the network gives no finite numbers; use another checkpoint, or less guidance"
    return "what computes it gave that"


def _largest(side: Statistics | None) -> float:
    """The largest feature, or mean of one."""
    if side is None:
        return 0.0
    found = side.gaussian
    values = [] if side.features is None else [side.features]
    values += [] if found is None else [found.mean, found.cov.diagonal().abs().sqrt()]
    return max((value.abs().max().item() for value in values), default=0.0)


def _width(side: Statistics) -> int | None:
    if side.gaussian:
        return len(side.gaussian.mean)
    return None if side.features is None else side.features.shape[1]
