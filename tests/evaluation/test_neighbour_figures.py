"""Precision, recall, density, coverage: those of prdc, and each sees the fault it is there for."""

import contextlib
import io

import pytest
import torch

from vfn.data import Dataset
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.extractors import pixels
from vfn.evaluation.sides import Sides


def figures(real, fake, *names):
    return {f.key: f.value for f in evaluate(Sides(real, fake), names)}


def test_neighbours_are_those_of_prdc(real, held_out):
    """Sides in their roles and both numbers of neighbours; sides of different spread."""
    from prdc import compute_prdc

    some = Dataset(torch.cat([held_out.images, real.images[:300] // 2]))
    got = figures(real, some, "pr", "dc")
    with contextlib.redirect_stdout(io.StringIO()):
        three, five = (
            compute_prdc(*(pixels(side.images).numpy() for side in (real, some)), nearest_k=k)
            for k in (3, 5)
        )
    expected = {n: (three if n in ("precision", "recall") else five)[n] for n in three}
    # Pixels are whole numbers: some distances are those of the radius, which prdc leaves out.
    assert got == pytest.approx(expected, rel=2e-3)
    assert len({*expected.values(), 0.0, 1.0}) == 6


def test_few_pictures_have_no_reference(real, held_out):
    five = Dataset(real.images[:5])
    for figure in evaluate(Sides(five, held_out), ["pr"]):
        assert figure.reference is None


def test_one_class_alone_has_little_recall(real, held_out):
    zeros = held_out.labels == 1
    got = figures(real, Dataset(held_out.images[zeros], held_out.labels[zeros]), "pr")
    assert got["precision"] > 0.8
    assert got["recall"] < 0.3


def test_noise_is_not_precise(real):
    noise = Dataset(torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8))
    assert figures(real, noise, "pr")["precision"] == 0
