"""How the sides cover each other, by nearest neighbours."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vfn.evaluation.metrics import DENSITY_NEIGHBOURS, NEIGHBOURS
from vfn.evaluation.perfect import interval_of_another
from vfn.evaluation.sides import HALVES, Figure, Judged, features_of, halves, share_of
from vfn.ops import Neighbourhood, neighbourhood

# Of references: ways to halve the real pictures, and pairs of pictures compared for all of them.
_MOST_WAYS, _MOST_PAIRS = 8, 10**8


def precision_recall_figures(judged: Judged) -> list[Figure]:
    """Improved precision and recall."""
    real, fake = features_of(judged.real), features_of(judged.fake)
    ours = neighbourhood(real, fake, NEIGHBOURS)
    best = _among_halves(judged, real, NEIGHBOURS)
    return [
        _mean_figure(
            judged,
            "precision",
            ours.precise,
            [one.precise for one in best],
            f"share of pictures near a real one, k = {NEIGHBOURS}",
        ),
        _mean_figure(
            judged,
            "recall",
            ours.recalled,
            [one.recalled for one in best],
            f"share of real pictures near one of these, k = {NEIGHBOURS}",
        ),
    ]


def density_coverage_figures(judged: Judged) -> list[Figure]:
    """Density and coverage."""
    real, fake = features_of(judged.real), features_of(judged.fake)
    ours = neighbourhood(real, fake, DENSITY_NEIGHBOURS)
    best = _among_halves(judged, real, DENSITY_NEIGHBOURS)
    return [
        _mean_figure(
            judged,
            "density",
            ours.density,
            [one.density for one in best],
            f"real neighbourhoods around a picture, over k = {DENSITY_NEIGHBOURS}",
        ),
        _mean_figure(
            judged,
            "coverage",
            ours.covered,
            [one.covered for one in best],
            f"share of real neighbourhoods with one of these, k = {DENSITY_NEIGHBOURS}",
        ),
    ]


def _among_halves(judged: Judged, real: Tensor, k: int) -> list[Neighbourhood]:
    """What halves of the real pictures get, for each of several splits; none of too few."""
    if not judged.references or len(real) // 2 <= k:
        return []
    pairs = 3 * len(real) ** 2 // 4  # between the halves, and within either
    count = min(_MOST_WAYS, max(1, _MOST_PAIRS // pairs))
    return [neighbourhood(*halves(real, way), k) for way in range(count)]


def _mean_figure(
    judged: Judged, key: str, ours: Tensor, best: Sequence[Tensor], note: str
) -> Figure:
    """A figure that is a mean over pictures; its interval keeps everyone's neighbours."""
    values = ours.double()
    value = values.mean().item()
    interval = judged.interval(value, len(values), lambda rows: values[rows].mean().item())
    beside = _beside(judged, best)
    return judged.figure(key, value, note=note, interval=interval, **beside)


def _beside(judged: Judged, best: Sequence[Tensor]) -> dict[str, Any]:
    """The mean over the ways to halve the real pictures; of one split its luck would be seen."""
    if not best:
        return {"reference": None}
    means = np.array([share_of(each) for each in best])
    most = 1.0 if best[0].dtype == torch.bool else math.inf
    real, fake = len(features_of(judged.real)), len(features_of(judged.fake))
    ways = f", the mean of {len(best)} splits" if len(best) > 1 else ""
    return {
        "reference": means.mean().item(),
        "reference_interval": interval_of_another(means, most) if len(best) > 1 else None,
        "baseline": f"{HALVES}{ways}, {real // 2} in place of {fake} against {real - real // 2} of "
        f"{real}",
    }
