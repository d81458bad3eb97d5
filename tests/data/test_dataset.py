"""Splits, scaling, and the digits that come with scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from vfn.data import Dataset, hold_out, load_dataset, to_uint8, to_unit

HELD_OUT_START = [2, 0, 1, 5, 6, 6, 5, 3, 1, 2, 2, 3]


def test_digits_are_the_library_s():
    source = load_digits()
    whole = load_dataset("digits", "all")
    # 0..16 comes back exactly from 0..255.
    levels = (whole.images[:, 0].double() * 16 / 255).round()
    rows = torch.cat([levels.flatten(1), whole.labels.unsqueeze(1) - 1], dim=1).tolist()
    source_rows = np.hstack([source.data, source.target[:, None]]).tolist()
    assert sorted(rows) == sorted(source_rows)


def test_splits_are_parts_of_the_whole():
    whole, train, test = (load_dataset("digits", s) for s in ("all", "train", "test"))
    assert (len(train.images), len(test.images)) == (1437, 360)
    assert torch.equal(torch.cat([train.images, test.images]), whole.images)
    assert torch.equal(torch.cat([train.labels, test.labels]), whole.labels)


def test_the_split_never_moves():
    """A run's seed, or another version of this code, must not mix up what was held out."""
    assert load_dataset("digits", "test").labels[:12].sub(1).tolist() == HELD_OUT_START


@given(count=st.integers(0, 300), share=st.floats(0, 0.9))
def test_held_out_pictures_are_a_fixed_share(count, share):
    train, test = (hold_out(count, split, share).tolist() for split in ("train", "test"))
    assert sorted(train + test) == list(range(count))
    assert train == sorted(train)
    assert 0 <= len(test) - count * share <= 1


def test_every_level_survives_the_scaling():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)


@pytest.mark.parametrize(
    ("labels", "multitags"), [(None, False), (torch.ones(3), False), (torch.ones(3, 2), True)]
)
def test_tags_are_told_from_classes(labels, multitags):
    assert Dataset(torch.zeros(3, 1, 2, 2), labels, ("a", "b")).multitags == multitags
