"""How the sides cover each other, by nearest neighbours."""

from torch import Tensor

from vfn.evaluation.metrics import DENSITY_NEIGHBOURS, NEIGHBOURS
from vfn.evaluation.sides import HALVES, Figure, Judged, features_of, halves, share_of
from vfn.ops import Neighbourhood, neighbourhood


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
            best and best.precise,
            f"share of pictures near a real one, k = {NEIGHBOURS}",
        ),
        _mean_figure(
            judged,
            "recall",
            ours.recalled,
            best and best.recalled,
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
            best and best.density,
            f"real neighbourhoods around a picture, over k = {DENSITY_NEIGHBOURS}",
        ),
        _mean_figure(
            judged,
            "coverage",
            ours.covered,
            best and best.covered,
            f"share of real neighbourhoods with one of these, k = {DENSITY_NEIGHBOURS}",
        ),
    ]


def _among_halves(judged: Judged, real: Tensor, k: int) -> Neighbourhood | None:
    """What real pictures get, fewer than on the sides; None where half of them are too few."""
    if not judged.references:
        return None
    a, b = halves(real, judged.seed)
    return neighbourhood(a, b, k) if len(b) > k else None


def _mean_figure(judged: Judged, key: str, ours: Tensor, best: Tensor | None, note: str) -> Figure:
    """A figure that is a mean over pictures; its interval keeps everyone's neighbours."""
    values = ours.double()
    value = values.mean().item()
    interval = judged.interval(value, len(values), lambda rows: values[rows].mean().item())
    reference = None if best is None else share_of(best)
    real, fake = len(features_of(judged.real)), len(features_of(judged.fake))
    baseline = f"{HALVES}, {real // 2} in place of {fake} against {real - real // 2} of {real}"
    return judged.figure(key, value, reference, note, baseline=baseline, interval=interval)
