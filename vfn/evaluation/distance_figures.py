"""Distances between the sides: of Gaussians and of kernels."""

from typing import Any

from torch import Tensor

from vfn.evaluation.features import Statistics
from vfn.evaluation.perfect import perfect_frechet
from vfn.evaluation.sides import UNBIASED, Figure, Judged, features_of
from vfn.ops import (
    Gaussian,
    fit_gaussian,
    frechet_distance,
    frechet_distance_of_features,
    frechet_infinity,
    kernel_distance,
)


def frechet_figures(judged: Judged) -> list[Figure]:
    """Fréchet distance of Gaussians of the features; of Inception's it is the FID."""
    real, fake = judged.real, judged.fake
    value = _frechet(real, fake)
    features, interval = fake.features, None
    if features is not None:
        interval = judged.interval(
            value,
            len(features),
            lambda rows: _frechet(real, _features_alone(fake, features[rows])),
        )
    scale = ", values scaled to [0, 1]" if judged.extractor == "pixels" else ""
    note, warning = f"of means and covariances{scale}", _rank_warning(judged, _width(real))
    beside = _beside(judged, fake.num)
    return [
        judged.figure(
            "frechet_distance", value, note=note, interval=interval, warning=warning, **beside
        )
    ]  # fmt: skip


def frechet_infinity_figures(judged: Judged) -> list[Figure]:
    """The Fréchet distance extrapolated to endless fakes."""
    fake = features_of(judged.fake)
    least = max(fake.shape[1] + 1, len(fake) // 10, 2)
    if len(fake) <= 2 * least:
        raise ValueError(
            f"fid_infinity needs more than {2 * least} fake pictures for {fake.shape[1]} "
            f"features, got {len(fake)}; make more with --num"
        )
    least = max(least, min(4 * fake.shape[1], (len(fake) - 1) // 2))
    found = frechet_infinity(*_gaussian(judged.real), fake, least, seed=judged.seed)
    note = f"extrapolated from {least} .. {len(fake)} pictures; ± is the standard error"
    beside = _beside(judged, None)
    return [
        judged.figure(
            "frechet_distance_infinite", found.value, note=note, error=found.error, **beside
        )
    ]  # fmt: skip


def kernel_figures(judged: Judged) -> list[Figure]:
    """Kernel distance; of Inception's features it is the KID."""
    real, fake = features_of(judged.real), features_of(judged.fake)
    value, error = kernel_distance(real, fake)
    note = "unbiased, over all pairs, kernel (x y / D + 1)^3; ± is the standard error"
    return [judged.figure("kernel_distance", value, 0.0, note, baseline=UNBIASED, error=error)]


def _beside(judged: Judged, fakes: int | None) -> dict[str, Any]:
    """What a perfect sampler would get: the distance of so many pictures is not 0."""
    if not judged.references or (judged.real.num or 2) < 2 or (fakes or 2) < 2:
        return {"reference": None}
    found = perfect_frechet(judged.real, fakes)  # the same beside the samples of every seed
    return {
        "reference": found.value,
        "reference_interval": found.interval,
        "baseline": found.text,
    }


def _frechet(real: Statistics, fake: Statistics) -> float:
    """Of the features where a side has too few pictures for a covariance, else of Gaussians."""
    if (_few(real) or _few(fake)) and real.features is not None and fake.features is not None:
        return frechet_distance_of_features(real.features, fake.features)
    return frechet_distance(*_gaussian(real), *_gaussian(fake))


def _few(side: Statistics) -> bool:
    """Whether a covariance would be singular, and has not been made."""
    return side.gaussian is None and len(features_of(side)) <= _width(side)


def _features_alone(side: Statistics, features: Tensor) -> Statistics:
    return side._replace(gaussian=None, features=features)


def _gaussian(side: Statistics) -> Gaussian:
    return side.gaussian or fit_gaussian(features_of(side))


def _width(side: Statistics) -> int:
    return len(side.gaussian.mean) if side.gaussian else features_of(side).shape[1]


def _rank_warning(judged: Judged, width: int) -> str:
    """What to know of covariances that cannot have full rank."""
    few = [
        f"{side.num} {name}"
        for side, name in ((judged.real, "real"), (judged.fake, "fake"))
        if side.num is not None and side.num <= width
    ]
    if not few:
        return ""
    return (
        f"{' and '.join(few)} pictures for {width} features: the covariance is singular, and the "
        "distance far above that of more pictures"
    )
