"""Labels as text, there and back, and which pictures get which."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn.data import Labels, in_turn
from vfn.data.labels import tag_row

NAMES = ("cat", "dog", "old", "5_o_Clock")
CLASSES, TAGS = Labels(NAMES), Labels(NAMES, tags=True)


def test_classes_by_name():
    assert CLASSES.parse("dog, cat,dog").tolist() == [2, 1, 2]
    assert CLASSES.parse("all").tolist() == [1, 2, 3, 4]
    assert CLASSES.parse("all").dtype == torch.int64


def test_tags_by_name():
    rows = [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert TAGS.parse("old+dog, cat,").tolist() == rows
    assert TAGS.parse("all").tolist() == torch.eye(4).int().tolist()
    assert TAGS.parse("all").dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "legend"), [("1", CLASSES), ("cat+1", TAGS), ("cat+", TAGS), ("", CLASSES)]
)
def test_unknown_names_are_refused_and_the_known_ones_listed(text, legend):
    with pytest.raises(ValueError, match=r"unknown label '1?', expected names among cat, dog, old"):
        legend.parse(text)


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1))
def test_tags_survive_as_text(rows):
    texts = TAGS.texts(torch.tensor(rows))
    assert TAGS.parse(",".join(texts)).tolist() == rows
    assert [tag_row(text, NAMES) for text in texts] == rows


@given(st.lists(st.integers(1, 4), min_size=1))
def test_classes_survive_as_text(labels):
    assert CLASSES.parse(",".join(CLASSES.texts(torch.tensor(labels)))).tolist() == labels


def test_a_class_that_is_called_all():
    """The word stands for every class, also where one has that name."""
    assert Labels(("all", "none")).parse("all").tolist() == [1, 2]
    assert Labels(("all", "none")).parse("all,none").tolist() == [1, 2]


def test_labels_in_turn():
    assert in_turn(torch.tensor([3, 7]), torch.tensor([5, 0, 2])).tolist() == [7, 3, 3]
    rows = torch.tensor([[1, 0], [0, 1]])
    assert in_turn(rows, torch.tensor([1, 2])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("legend", "text"), [(CLASSES, "4 classes"), (TAGS, "4 tags"), (Labels(), "no labels")]
)
def test_labels_are_described(legend, text):
    assert legend.describe() == text
