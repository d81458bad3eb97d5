"""How good are the pictures? Each figure stands beside the same figure for real pictures."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vfn.configs import DiffusionConfig
from vfn.data import Dataset, to_unit
from vfn.distributed import World
from vfn.evaluation.extractors import PIXELS, Extractor, pixels
from vfn.evaluation.features import ALONE, Statistics, describe
from vfn.model import schedule_of
from vfn.nn import with_params
from vfn.objective import Batch, held_out_loss, logsnr_edges
from vfn.ops import (
    Gaussian,
    Interval,
    Neighbourhood,
    bootstrap_indices,
    bootstrap_interval,
    discrete_time,
    epoch_permutation,
    fit_gaussian,
    frechet_distance,
    frechet_infinity,
    inception_score,
    kernel_distance,
    keyed_normal,
    keyed_uniform,
    nearest_distances,
    neighbourhood,
)
from vfn.streams import Stream

NEIGHBOURS = 3  # of precision and recall
DENSITY_NEIGHBOURS = 5  # of density and coverage
LOSS_BATCH = 256  # pictures at a time
SPLITS = 10  # of the Inception Score
# torch-fidelity shuffles with this seed before it splits; with the same order scores are the same.
SHUFFLE_SEED = 2020
# What stands beside a figure.
HALVES = "two halves of the real pictures against each other"
HELD_OUT = "held-out pictures"
REAL = "the real pictures themselves"

Side = TypeVar("Side")


class Metric(NamedTuple):
    """A figure beside that of real pictures; ``baseline`` says which, ``better`` the direction.

    reference: None where the real side is statistics that hold no features. interval: of the
    bootstrap, 95 %. error: standard error, or standard deviation as the note says.
    """

    name: str
    value: float
    reference: float | None
    better: str
    note: str
    baseline: str
    interval: Interval | None = None
    error: float | None = None


class Sides(NamedTuple):
    """What is compared: real, fake, and real pictures that training has not seen (or None).

    Statistics in place of pictures serve the metrics that need no more.
    """

    real: Dataset | Statistics
    fake: Dataset | Statistics
    held_out: Dataset | None


class Judged(NamedTuple):
    """What a metric sees: the sides, their statistics, and how many bootstrap draws are wanted."""

    sides: Sides
    real: Statistics
    fake: Statistics
    held_out: Statistics | None
    extractor: str
    seed: int
    draws: int

    def interval(
        self, value: float, count: int, statistic: Callable[[Tensor], float]
    ) -> Interval | None:
        """95 % interval of a figure, from its values for resampled rows."""
        if not self.draws:
            return None
        drawn = (
            bootstrap_indices(self.seed, draw, count, Stream.BOOTSTRAP)
            for draw in range(self.draws)
        )
        return bootstrap_interval(value, torch.tensor([statistic(rows) for rows in drawn]))


def halves(features: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves of the real features: what a perfect model would get."""
    order = epoch_permutation(seed, 0, len(features))
    return features[order[::2]], features[order[1::2]]


def frechet_metric(judged: Judged) -> list[Metric]:
    """Fréchet distance of Gaussians of the features; of Inception's it is the FID."""
    real, fake = judged.real, judged.fake
    mean, cov = _gaussian(real, "real")
    value = frechet_distance(mean, cov, *_gaussian(fake, "fake"))
    features, interval = fake.features, None
    if features is not None:
        interval = judged.interval(
            value,
            len(features),
            lambda rows: frechet_distance(mean, cov, *fit_gaussian(features[rows])),
        )
    best = None
    if real.features is not None and len(real.features) >= 4:
        a, b = halves(real.features, judged.seed)
        best = frechet_distance(*fit_gaussian(a), *fit_gaussian(b))
    scale = ", values scaled to [0, 1]" if judged.extractor == "pixels" else ""
    note = f"of means and covariances{scale}{_rank_note(judged, len(mean))}"
    return [Metric(_frechet_name(judged), value, best, "lower", note, HALVES, interval)]


def frechet_infinity_metric(judged: Judged) -> list[Metric]:
    """The Fréchet distance extrapolated to endless fakes."""
    mean, cov = _gaussian(judged.real, "real")
    fake = _features(judged.fake, "fid_infinity", "fake")
    least = max(len(mean) + 1, len(fake) // 10, 2)
    if len(fake) <= 2 * least:
        raise ValueError(
            f"fid_infinity needs more than {2 * least} fake pictures for {len(mean)} "
            f"features, got {len(fake)}; make more with --num"
        )
    found = frechet_infinity(mean, cov, fake, least, seed=judged.seed)
    note = f"extrapolated from {least} .. {len(fake)} pictures; ± is the error of the fit"
    name = f"{_frechet_name(judged)}, infinite"
    return [Metric(name, found.value, None, "lower", note, HALVES, error=found.error)]


def kernel_metric(judged: Judged) -> list[Metric]:
    """Kernel distance; of Inception's features it is the KID."""
    real = _features(judged.real, "kid", "real", 2)
    fake = _features(judged.fake, "kid", "fake", 2)
    value, error = kernel_distance(real, fake)
    best = kernel_distance(*halves(real, judged.seed)).value if len(real) >= 4 else None
    name = "KID" if judged.extractor == "inception" else f"Kernel distance ({judged.extractor})"
    note = "unbiased, over all pairs, kernel (x y / D + 1)^3; ± is the standard error"
    return [Metric(name, value, best, "lower", note, HALVES, error=error)]


def inception_metric(judged: Judged) -> list[Metric]:
    """Inception Score, with its standard deviation over the splits."""

    def score(side: Statistics, rows: Tensor) -> tuple[float, float]:
        assert side.logits is not None
        return inception_score(side.logits[rows], min(SPLITS, len(rows)))

    def shuffled(side: Statistics) -> Tensor:
        assert side.logits is not None
        order = np.random.RandomState(SHUFFLE_SEED).permutation(len(side.logits))
        return torch.from_numpy(order)

    fake = judged.fake
    if fake.logits is None:
        raise ValueError(
            f"is needs the logits of a classifier, and {judged.extractor} gives none; "
            "use --features inception"
        )
    mean, std = score(fake, shuffled(fake))
    best = None if judged.real.logits is None else score(judged.real, shuffled(judged.real))[0]
    interval = judged.interval(mean, len(fake.logits), lambda rows: score(fake, rows)[0])
    note = f"mean over {min(SPLITS, len(fake.logits))} splits; ± is their standard deviation"
    return [Metric("Inception Score", mean, best, "higher", note, REAL, interval, std)]


def precision_recall_metric(judged: Judged) -> list[Metric]:
    """Improved precision and recall."""
    real = _features(judged.real, "pr", "real", NEIGHBOURS + 1)
    fake = _features(judged.fake, "pr", "fake", NEIGHBOURS + 1)
    ours = neighbourhood(real, fake, NEIGHBOURS)
    best = _among_halves(real, judged.seed, NEIGHBOURS)
    return [
        _mean_metric(
            judged,
            "Precision",
            ours.precise,
            best and best.precise,
            f"share of pictures near a real one, k = {NEIGHBOURS}",
        ),
        _mean_metric(
            judged,
            "Recall",
            ours.recalled,
            best and best.recalled,
            f"share of real pictures near one of these, k = {NEIGHBOURS}",
        ),
    ]


def density_coverage_metric(judged: Judged) -> list[Metric]:
    """Density and coverage."""
    real = _features(judged.real, "dc", "real", DENSITY_NEIGHBOURS + 1)
    fake = _features(judged.fake, "dc", "fake", DENSITY_NEIGHBOURS + 1)
    ours = neighbourhood(real, fake, DENSITY_NEIGHBOURS)
    best = _among_halves(real, judged.seed, DENSITY_NEIGHBOURS)
    return [
        _mean_metric(
            judged,
            "Density",
            ours.density,
            best and best.density,
            f"real neighbourhoods around a picture, over k = {DENSITY_NEIGHBOURS}",
        ),
        _mean_metric(
            judged,
            "Coverage",
            ours.covered,
            best and best.covered,
            f"share of real neighbourhoods with one of these, k = {DENSITY_NEIGHBOURS}",
        ),
    ]


def memorisation_metric(judged: Judged) -> list[Metric]:
    """Share of fakes that are nearer to a training picture than held-out pictures are."""
    held_out = _needs(judged.held_out, "memorisation", "held-out pictures")
    real = _features(judged.real, "memorisation", "real")
    unseen = nearest_distances(_features(held_out, "memorisation", "held-out"), real)
    made = nearest_distances(_features(judged.fake, "memorisation", "fake"), real)
    near = unseen.double().quantile(0.05)
    return [
        Metric(
            "Memorised",
            _share(made < unseen.min()),
            0.0,
            "lower",
            "nearest training picture closer than any held-out picture's",
            HELD_OUT,
        ),
        Metric(
            "Near-copies",
            _share(made < near),
            _share(unseen < near),
            "lower",
            "nearest training picture closer than 95 % of the held-out ones'",
            HELD_OUT,
        ),
    ]


def agreement_metric(judged: Judged) -> list[Metric]:
    """Share of fakes that a classifier of pixels trained on the real ones gives the asked label."""
    from sklearn.svm import SVC

    def examples(side: Dataset | Statistics, name: str) -> tuple[Any, Any]:
        if isinstance(side, Statistics):
            raise ValueError(f"agreement needs {name} pictures, got stored statistics")
        if side.labels is None:
            raise ValueError(f"agreement needs labels, and the {name} pictures have none")
        if side.multitags:
            raise ValueError(f"agreement needs one class a picture, the {name} ones have tags")
        return (pixels(side.images) * 16).numpy(), side.labels.numpy()

    sides = judged.sides
    held_out = _needs(sides.held_out, "agreement", "held-out pictures")
    classifier = SVC(kernel="rbf", gamma=0.001, C=10).fit(*examples(sides.real, "real"))
    return [
        Metric(
            "Label agreement",
            float(classifier.score(*examples(sides.fake, "fake"))),
            float(classifier.score(*examples(held_out, "held-out"))),
            "higher",
            "a support vector classifier trained on the real pictures finds the label",
            HELD_OUT,
        )
    ]


METRICS: dict[str, Callable[[Judged], list[Metric]]] = {
    "fd": frechet_metric,
    "pr": precision_recall_metric,
    "memorisation": memorisation_metric,
    "agreement": agreement_metric,
    "fid": frechet_metric,
    "fid_infinity": frechet_infinity_metric,
    "kid": kernel_metric,
    "is": inception_metric,
    "dc": density_coverage_metric,
}
# Only these need mean and covariance, which are large for large pictures.
GAUSSIAN = {"fd", "fid", "fid_infinity"}
# These do with the mean and covariance of the real side.
NO_REAL_FEATURES = GAUSSIAN | {"is"}


def evaluate(
    sides: Sides,
    names: list[str],
    seed: int = 0,
    extractor: Extractor = PIXELS,
    bootstrap: int = 0,
    world: World = ALONE,
    progress: Callable[[int], object] | None = None,
) -> list[Metric]:
    """Compute some metrics.

    Args:
        sides: real, fake and held-out pictures, all of one shape, or statistics.
        names: keys of `METRICS`.
        seed: chooses the real halves, the order of the extrapolation and the bootstrap.
        extractor: gives the features.
        bootstrap: resampled sets for the intervals; 0 for none.
        world: all processes extract features and have to call this; the first computes the rest.
        progress: called with the number of pictures of a side that are done.

    Returns:
        the figures, in order; on other processes than the first an empty list.

    Raises:
        ValueError: for an unknown name, pictures of different shapes, or what a metric lacks.
    """
    if bootstrap == 1:
        raise ValueError("an interval needs at least 2 resampled sets, got --bootstrap 1")
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}, expected among {', '.join(METRICS)}")
    shapes = {tuple(side.images.shape[1:]) for side in sides if isinstance(side, Dataset)}
    if len(shapes) > 1:
        raise ValueError(
            f"expected real, fake and held-out pictures of one shape, got {sorted(shapes)}"
        )
    covariance = bool(GAUSSIAN & set(names))

    def statistics(side: Dataset | Statistics) -> Statistics:
        if isinstance(side, Statistics):
            return side
        return describe(side.images, extractor, world, covariance, progress=progress)

    needs_held_out = sides.held_out is not None and "memorisation" in names
    judged = Judged(
        sides,
        statistics(sides.real),
        statistics(sides.fake),
        statistics(sides.held_out) if needs_held_out and sides.held_out else None,
        extractor.name,
        seed,
        bootstrap,
    )
    widths = {width for side in judged[1:3] if (width := _width(side)) is not None}
    if len(widths) > 1:
        raise ValueError(
            f"the real side has {_width(judged.real)} features and the fake {_width(judged.fake)}; "
            "compute both with the same extractor, of pictures of one size"
        )
    if world.rank:
        return []
    return [metric for name in names for metric in METRICS[name](judged)]


def loss_by_logsnr(
    model: nn.Module,
    params: dict[str, Tensor],
    diffusion: DiffusionConfig,
    held_out: Dataset,
    seed: int,
    device: torch.device,
    guidance: float | None = None,
    batch: int = LOSS_BATCH,
) -> list[dict[str, float]]:
    """Training loss on held-out pictures, for equal bins of the schedule's logsnr.

    Within a bin each picture gets one logsnr, drawn uniformly.

    Args:
        model: the network, in evaluation mode.
        params: its parameters.
        diffusion: objective and schedule.
        held_out: pictures that training has not seen.
        seed: of the noise and the draws.
        device: where to compute.
        guidance: w of a network that takes it as an input.
        batch: pictures at a time, bounds the memory; the value is the same.

    Returns:
        for each bin ``low``, ``high``, ``loss`` and ``count``.
    """
    schedule = schedule_of(diffusion)
    edges = logsnr_edges(diffusion).tolist()
    count = len(held_out.images)
    network = with_params(model, params)

    def batches(number: int, low: float, high: float) -> Iterator[Batch]:
        for rows in torch.arange(count).split(batch):
            x0 = to_unit(held_out.images[rows].to(device))
            labels = None if held_out.labels is None else held_out.labels[rows].to(device)
            keys = rows.to(device) + number * count
            u = keyed_uniform(seed, Stream.HELD_OUT_TIME, keys, dtype=torch.float64)
            noise = keyed_normal(seed, Stream.HELD_OUT_NOISE, keys, tuple(x0.shape[1:]))
            given = None if guidance is None else x0.new_full((len(x0),), guidance)
            t = schedule.time(low + u * (high - low))
            if diffusion.uses_bound:
                t = discrete_time(t, diffusion.train_timesteps)
            yield Batch(x0, labels, t, noise, given)

    rows = []
    for number, (low, high) in enumerate(pairwise(edges)):
        loss = held_out_loss(network, batches(number, low, high), diffusion).mean().item()
        rows.append({"low": low, "high": high, "loss": loss, "count": count})
    return rows


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()


def _among_halves(real: Tensor, seed: int, k: int) -> Neighbourhood | None:
    """What a perfect model would get; None where half of the pictures are too few."""
    a, b = halves(real, seed)
    return neighbourhood(a, b, k) if len(b) > k else None


def _mean_metric(judged: Judged, name: str, ours: Tensor, best: Tensor | None, note: str) -> Metric:
    """A figure that is a mean over pictures; its interval keeps everyone's neighbours."""
    values = ours.double()
    value = values.mean().item()
    interval = judged.interval(value, len(values), lambda rows: values[rows].mean().item())
    reference = None if best is None else _share(best)
    return Metric(name, value, reference, "higher", note, HALVES, interval)


def _frechet_name(judged: Judged) -> str:
    return "FID" if judged.extractor == "inception" else f"Fréchet distance ({judged.extractor})"


def _rank_note(judged: Judged, width: int) -> str:
    """What to know of covariances that cannot have full rank."""
    few = [
        f"{side.num} {name}"
        for side, name in ((judged.real, "real"), (judged.fake, "fake"))
        if side.num is not None and side.num <= width
    ]
    if not few:
        return ""
    return (
        f"; {' and '.join(few)} pictures for {width} features: the covariance is singular, and the "
        "distance far above that of more pictures"
    )


def _gaussian(side: Statistics, name: str) -> Gaussian:
    if side.gaussian is None:
        raise ValueError(f"a covariance needs at least 2 {name} pictures, got {side.num}")
    return side.gaussian


def _features(side: Statistics, metric: str, name: str, least: int = 1) -> Tensor:
    if side.features is None:
        raise ValueError(
            f"{metric} needs the features of every {name} picture, and these statistics hold only "
            "mean and covariance; use --metrics fid, or pictures"
        )
    if len(side.features) < least:
        raise ValueError(
            f"{metric} needs at least {least} {name} pictures, got {len(side.features)}"
        )
    return side.features


def _width(side: Statistics) -> int | None:
    if side.gaussian:
        return len(side.gaussian.mean)
    return None if side.features is None else side.features.shape[1]


def _needs(side: Side | None, metric: str, what: str) -> Side:
    if side is None:
        raise ValueError(f"{metric} needs {what}; name them with --held-out")
    return side
