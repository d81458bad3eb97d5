"""Labels as text, there and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn.data import label_names, parse_labels

NAMES = ("cat", "dog", "old", "5_o_Clock")


def test_classes_by_name():
    assert parse_labels("dog, cat,dog", NAMES) == [2, 1, 2]
    assert parse_labels("all", NAMES) == [1, 2, 3, 4]


def test_tags_by_name():
    rows = [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert parse_labels("old+dog, cat,", NAMES, multitags=True) == rows
    assert parse_labels("all", NAMES, multitags=True) == torch.eye(4).int().tolist()


@pytest.mark.parametrize(("text", "multitags"), [("1", False), ("cat+1", True), ("cat+", True)])
def test_unknown_names_are_refused_and_the_known_ones_listed(text, multitags):
    with pytest.raises(ValueError, match=r"unknown label '1?', expected names among cat, dog, old"):
        parse_labels(text, NAMES, multitags)


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1))
def test_tags_survive_as_text(rows):
    texts = label_names(torch.tensor(rows), NAMES)
    assert parse_labels(",".join(texts), NAMES, multitags=True) == rows


@given(st.lists(st.integers(1, 4), min_size=1))
def test_classes_survive_as_text(labels):
    assert parse_labels(",".join(label_names(torch.tensor(labels), NAMES)), NAMES) == labels
