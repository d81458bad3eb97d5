"""How good are the pictures? Each figure stands beside the same figure for real pictures."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn.configs import DiffusionConfig
from vfn.data import Dataset, to_unit
from vfn.nn import with_params
from vfn.ops import (
    epoch_permutation,
    fit_gaussian,
    frechet_distance,
    keyed_normal,
    keyed_uniform,
    nearest_distances,
    precision_recall,
)
from vfn.train.batch import Batch
from vfn.train.objective import held_out_loss, logsnr_edges, schedule_of
from vfn.train.streams import Stream

NEIGHBOURS = 3
# What stands beside a figure.
HALVES = "two halves of the real pictures against each other"
HELD_OUT = "held-out pictures"


class Metric(NamedTuple):
    """A figure beside that of real pictures; ``baseline`` says which, ``better`` the direction."""

    name: str
    value: float
    reference: float
    better: str
    note: str
    baseline: str


class Sides(NamedTuple):
    """What is compared: real, fake, and real pictures that training has not seen (or None)."""

    real: Dataset
    fake: Dataset
    held_out: Dataset | None


def pixels(images: Tensor) -> Tensor:
    """Pictures as their own features: uint8 [N, C, H, W] to float32 [N, C H W] in [0, 1].

    >>> pixels(torch.full((2, 1, 1, 1), 255, dtype=torch.uint8))
    tensor([[1.],
            [1.]])
    """
    return images.flatten(1).float() / 255


def halves(features: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves of the real features: what a perfect model would get."""
    order = epoch_permutation(seed, 0, len(features))
    return features[order[::2]], features[order[1::2]]


def frechet_metric(sides: Sides, seed: int) -> list[Metric]:
    """Fréchet distance of pixels in [0, 1]."""

    def distance(a: Tensor, b: Tensor) -> float:
        return frechet_distance(*fit_gaussian(a), *fit_gaussian(b))

    real, fake = pixels(sides.real.images), pixels(sides.fake.images)
    return [
        Metric(
            "Fréchet distance (pixels)",
            distance(real, fake),
            distance(*halves(real, seed)),
            "lower",
            "of means and covariances, values scaled to [0, 1]",
            HALVES,
        )
    ]


def precision_recall_metric(sides: Sides, seed: int) -> list[Metric]:
    """Improved precision and recall in pixel space."""
    real, fake = pixels(sides.real.images), pixels(sides.fake.images)
    ours = precision_recall(real, fake, NEIGHBOURS)
    best = precision_recall(*halves(real, seed), NEIGHBOURS)
    return [
        Metric(
            "Precision",
            ours.precision,
            best.precision,
            "higher",
            f"share of pictures near a real one, k = {NEIGHBOURS}",
            HALVES,
        ),
        Metric(
            "Recall",
            ours.recall,
            best.recall,
            "higher",
            f"share of real pictures near one of these, k = {NEIGHBOURS}",
            HALVES,
        ),
    ]


def memorisation_metric(sides: Sides, seed: int) -> list[Metric]:
    """Share of fakes that are nearer to a training picture than held-out pictures are."""
    del seed
    held_out = _needs(sides.held_out, "memorisation", "held-out pictures")
    real = pixels(sides.real.images)
    unseen = nearest_distances(pixels(held_out.images), real)
    made = nearest_distances(pixels(sides.fake.images), real)
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


def agreement_metric(sides: Sides, seed: int) -> list[Metric]:
    """Share of fakes that a classifier trained on the real pictures gives the asked label."""
    del seed
    from sklearn.svm import SVC

    def examples(side: Dataset, name: str) -> tuple[Any, Any]:
        if side.labels is None:
            raise ValueError(f"agreement needs labels, and the {name} pictures have none")
        if side.multitags:
            raise ValueError(f"agreement needs one class a picture, the {name} ones have tags")
        return (pixels(side.images) * 16).numpy(), side.labels.numpy()

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


METRICS: dict[str, Callable[[Sides, int], list[Metric]]] = {
    "fd": frechet_metric,
    "pr": precision_recall_metric,
    "memorisation": memorisation_metric,
    "agreement": agreement_metric,
}


def evaluate(sides: Sides, names: list[str], seed: int = 0) -> list[Metric]:
    """Compute some metrics.

    Args:
        sides: real, fake and held-out pictures, all of one shape.
        names: keys of `METRICS`.
        seed: chooses the real halves.

    Returns:
        the figures, in order.

    Raises:
        ValueError: for an unknown name, pictures of different shapes, or what a metric lacks.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}, expected among {', '.join(METRICS)}")
    shapes = {tuple(side.images.shape[1:]) for side in sides if side is not None}
    if len(shapes) > 1:
        raise ValueError(
            f"expected real, fake and held-out pictures of one shape, got {sorted(shapes)}"
        )
    return [metric for name in names for metric in METRICS[name](sides, seed)]


def loss_by_logsnr(
    model: nn.Module,
    params: dict[str, Tensor],
    diffusion: DiffusionConfig,
    held_out: Dataset,
    seed: int,
    device: torch.device,
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

    Returns:
        for each bin ``low``, ``high``, ``loss`` and ``count``.
    """
    schedule = schedule_of(diffusion)
    edges = logsnr_edges(diffusion).tolist()
    x0 = to_unit(held_out.images.to(device))
    labels = None if held_out.labels is None else held_out.labels.to(device)
    network = with_params(model, params)
    rows = []
    for i, (low, high) in enumerate(pairwise(edges)):
        keys = torch.arange(len(x0), device=device) + i * len(x0)
        u = keyed_uniform(seed, Stream.HELD_OUT_TIME, keys, dtype=torch.float64)
        noise = keyed_normal(seed, Stream.HELD_OUT_NOISE, keys, tuple(x0.shape[1:]))
        batch = Batch(x0, labels, schedule.time(low + u * (high - low)), noise)
        loss = held_out_loss(network, [batch], diffusion).mean().item()
        rows.append({"low": low, "high": high, "loss": loss, "count": len(x0)})
    return rows


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()


def _needs(side: Dataset | None, metric: str, what: str) -> Dataset:
    if side is None:
        raise ValueError(f"{metric} needs {what}; name them with --held-out")
    return side
