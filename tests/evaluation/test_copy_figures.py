"""Copies of training pictures are seen."""

from vfn.data import Dataset
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.sides import Sides


def test_copies_of_training_pictures_are_memorised(real, held_out):
    copies = Dataset(real.images[:100])
    memorised, near, precision, _ = evaluate(Sides(real, copies, held_out), ["memorisation", "pr"])
    assert (memorised.value, memorised.reference) == (1, 0)
    assert near.value == 1
    assert precision.value == 1
