"""Distances between the sides, against the factors of their covariances."""

import resource

import numpy as np
import pytest
import scipy.linalg
import torch

from vfn.data import Dataset
from vfn.evaluation.evaluating import evaluate, extracted
from vfn.evaluation.extractors import PIXELS
from vfn.evaluation.features import compute_statistics, read_statistics
from vfn.evaluation.metrics import METRICS
from vfn.evaluation.sides import Sides


def pictures(count, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shade = torch.rand(count, 1, 1, 1, generator=generator)
    drawn = 200 * shade + 50 * torch.rand(count, 3, side, side, generator=generator)
    return Dataset(drawn.to(torch.uint8))


def of_factors(one, other):
    """Of uint8 pictures, values in [0, 1], by numpy and scipy."""
    a, b = (side.images.flatten(1).float().div(255).double().numpy() for side in (one, other))
    left, right = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    cross = scipy.linalg.svdvals(left @ right.T).sum()
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return gap + (left**2).sum() + (right**2).sum() - 2 * cross


def distance(real, fake, **options):
    return evaluate(Sides(real, fake), ["fid"], **options)[0]


@pytest.mark.parametrize("counts", [(40, 30), (40, 900), (900, 30)])
def test_distance_of_few_pictures_is_exact(counts):
    real, fake = pictures(counts[0]), pictures(counts[1], seed=1)
    found = distance(real, fake)
    assert found.value == pytest.approx(of_factors(real, fake), rel=1e-5)
    assert "the covariance is singular" in found.warning
    assert distance(real, real).value == pytest.approx(0, abs=1e-12)
    assert distance(real, real).value >= 0


def test_few_pictures_make_no_covariance():
    sides = Sides(pictures(40), pictures(900, seed=1))
    judged = extracted(sides, {"fid": METRICS["fid"]}, PIXELS)
    assert judged.real.gaussian is None
    assert judged.fake.gaussian is not None
    assert compute_statistics(sides.real.images, PIXELS).gaussian is not None  # to be stored


def test_large_pictures_stay_in_memory():
    """160 of 96 x 128: a covariance of 36,864 values takes 10.9 GB, and two of them more."""
    real, fake = (
        Dataset(torch.randint(256, (160, 3, 96, 128), generator=generator).byte())
        for generator in (torch.Generator().manual_seed(seed) for seed in (0, 1))
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = distance(real, fake)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB
    assert found.value == pytest.approx(of_factors(real, fake), rel=1e-5)


def test_bootstrap_of_few_pictures_has_an_interval():
    found = distance(pictures(12, 4), pictures(9, 4, seed=1), bootstrap=5)
    assert found.interval.low < found.interval.high


def test_stored_features_of_few_pictures_serve(tmp_path):
    real, fake = pictures(40), pictures(30, seed=1)
    kept = compute_statistics(real.images, PIXELS, covariance=False)
    np.savez(tmp_path / "real.npz", features=kept.features.numpy())
    stored = read_statistics(tmp_path / "real.npz", PIXELS)
    assert stored.gaussian is None
    assert distance(stored, fake).value == distance(real, fake).value


def test_noise_is_far_away(real):
    noise = Dataset(torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8))
    (figure,) = evaluate(Sides(real, noise), ["fd"])
    assert figure.value > 5
    assert 0.15 < figure.reference < 0.22  # of 200 pictures


def test_the_reference_is_the_same_beside_samples_of_every_seed(real, held_out):
    sides = Sides(real, held_out)
    first, other = (evaluate(sides, ["fd", "fid_infinity"], seed=seed) for seed in (0, 5))
    for one, two in zip(first, other, strict=True):
        assert one.reference == two.reference > 0
        assert one.reference_interval == two.reference_interval
    # As evaluations of seed 0 have always had it.
    assert first[0].reference == pytest.approx(0.1137, abs=1e-4)


@pytest.mark.parametrize(("count", "singular"), [(64, True), (65, False)])
def test_a_singular_covariance_is_warned_of(real, held_out, count, singular):
    few = Dataset(held_out.images[:count])
    (figure,) = evaluate(Sides(real, few), ["fid"])
    assert (f"{count} fake pictures for 64 features" in figure.warning) == singular
    assert bool(figure.warning) == singular


def test_the_extrapolation_needs_more_pictures_than_features(real, held_out):
    few = Dataset(held_out.images[:130])
    with pytest.raises(ValueError, match="needs more than 130 fake pictures for 64 feat"):
        evaluate(Sides(real, few), ["fid_infinity"])
    (figure,) = evaluate(Sides(real, held_out), ["fid_infinity"])
    assert figure.value < evaluate(Sides(real, held_out), ["fid"])[0].value
    assert figure.error > 0
    assert f"extrapolated from {(len(held_out.images) - 1) // 2} .. " in figure.note


@pytest.mark.parametrize(("count", "least"), [(25, 12), (70, 32), (400, 40)])
def test_the_extrapolation_begins_with_several_pictures_a_feature(count, least):
    """Pictures of 8 values: with four times as many, where there are twice as many as that."""
    draw = torch.Generator().manual_seed(0)
    real, fake = (
        Dataset(torch.randint(256, (size, 2, 2, 2), generator=draw, dtype=torch.uint8))
        for size in (900, count)
    )
    (figure,) = evaluate(Sides(real, fake), ["fid_infinity"], references=False)
    assert figure.note.startswith(f"extrapolated from {least} .. {count} pictures")
