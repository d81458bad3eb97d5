"""Bits per dimension: three figures that do not depend on batches."""

import pytest

from vfn.evaluation import bits
from vfn.evaluation.bits import bits_per_dim


@pytest.fixture
def coarse(monkeypatch):
    """Few steps and draws; the notes stay those of many."""
    for name, value in (("STEPS", 3), ("DRAWS", 2), ("FLOW_STEPS", 2)):
        monkeypatch.setattr(bits, name, value)


@pytest.mark.usefixtures("coarse")
def test_bits_are_the_same_in_any_batches(trained, held_out, monkeypatch):
    whole = bits_per_dim(trained, held_out, 10, seed=2)
    monkeypatch.setattr(bits, "BATCH", 4)
    parts = bits_per_dim(trained, held_out, 10, seed=2)
    assert [f.key for f in whole] == ["bits_bound_discrete", "bits_bound_continuous", "bits_flow"]
    for one, other in zip(whole, parts, strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-4)
        assert one.value > 0
        assert one.error > 0
    assert whole[0].note.endswith("steps of fixed_large")


@pytest.mark.usefixtures("coarse")
def test_some_pictures_are_evenly_spread(trained, held_out):
    """Each has the noise that it has among all."""
    four = held_out._replace(images=held_out.images[:4], labels=held_out.labels[:4])
    rows = [0, 0, 2, 0]  # two of four are the first and the third
    same = four._replace(images=four.images[rows], labels=four.labels[rows])
    assert bits_per_dim(trained, four, 2) == bits_per_dim(trained, same, 2)
    rows = [0, 1, 1, 3]
    other = four._replace(images=four.images[rows], labels=four.labels[rows])
    assert bits_per_dim(trained, four, 2) != bits_per_dim(trained, other, 2)
