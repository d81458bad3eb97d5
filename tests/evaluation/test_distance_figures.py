"""Distances: small between real pictures, large to noise, and warned of where they say little."""

import pytest
import torch

from vfn.data import Dataset
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.sides import Sides


def test_noise_is_far_away(real):
    noise = Dataset(torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8))
    (figure,) = evaluate(Sides(real, noise), ["fd"])
    assert figure.value > 5
    assert 0.15 < figure.reference < 0.22  # of 200 pictures


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
