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


def test_duplicates_among_held_out_pictures_hide_no_copies(real, held_out):
    """A share of 0.4 of the held-out pictures are also in the training set."""
    some = held_out.images[:60].clone()
    some[::3] = real.images[:20]
    copies = Dataset(real.images[100:200])
    memorised, near = evaluate(Sides(real, copies, Dataset(some)), ["memorisation"])
    assert (memorised.value, near.value) == (1, 1)
    assert memorised.reference == 0
    assert "20 of 60 held-out pictures are copies" in memorised.warning
    fresh = Dataset(held_out.images[100:200])
    assert evaluate(Sides(real, fresh, Dataset(some)), ["memorisation"])[0].value < 0.1
    only = Dataset(real.images[:5])
    memorised, near = evaluate(Sides(real, copies, only), ["memorisation"])
    assert (memorised.value, near.value, near.reference) == (1, 1, None)
    assert evaluate(Sides(real, fresh, only), ["memorisation"])[0].value == 0
