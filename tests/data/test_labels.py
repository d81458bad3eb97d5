"""Labels as text, there and back, and which pictures get which."""

import csv
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn.data import Labels, in_turn
from vfn.data.labels import check_names, joined_names, tag_row

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


@given(st.lists(st.integers(0, 4), min_size=1))
def test_classes_and_none_survive_as_a_list(labels):
    assert CLASSES.parse(CLASSES.texts(torch.tensor(labels))).tolist() == labels


def test_a_class_that_is_called_all():
    """The word stands for every class, also where one has that name."""
    assert Labels(("all", "none")).parse("all").tolist() == [1, 2]
    assert Labels(("all", "none")).parse("all,none").tolist() == [1, 2]


PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)
WRITTEN = st.sampled_from(["a,b", '"', "all", 'x"', ",", '"a","b"', "a b", "a, b", "+"]) | PRINTABLE


@given(st.lists(WRITTEN, min_size=1, max_size=5, unique=True))
def test_any_name_can_be_written(names):
    check_names(names, False, "here")
    legend = Labels(tuple(names))
    numbers = list(range(1, len(names) + 1))
    assert legend.parse(joined_names(names)).tolist() == numbers
    assert legend.parse(", ".join(map(joined_names, [[n] for n in names]))).tolist() == numbers
    assert legend.parse(legend.texts(torch.tensor(numbers))).tolist() == numbers
    # Python's own CSV writes what we read.
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(names)
    if buffer.getvalue() != "all":
        assert legend.parse(buffer.getvalue()).tolist() == numbers


def test_one_name_with_commas_needs_no_quotes():
    assert Labels(("salt, pepper", "zz")).parse("salt, pepper").tolist() == [1]
    assert Labels(("salt, pepper", "salt", "pepper")).parse("salt, pepper").tolist() == [2, 3]
    assert Labels(("all", "zz")).parse('"all"').tolist() == [1]


@pytest.mark.parametrize(
    ("names", "tags", "message"),
    [
        (["a", ""], False, "here has the class '', which is empty; rename it"),
        (["a", " "], True, "here has the tag ' ', which is empty"),
        (["a "], False, "'a ', with a blank at an end"),
        (["a\x00"], False, "with control characters"),
        (["a\u2028b"], False, "with control characters"),
        (["\udcff"], False, "which is no UTF-8"),
        (["C++"], True, r"the tag 'C\+\+', with a \+, which joins tags"),
        (["a", "b", "a"], False, "'a', 2 times"),
        (["a"] * 100_001, False, "has 100001 names, expected 100000 at most"),
        (["\n" * 10**6], False, "which is empty"),
    ],
)
def test_names_that_nobody_could_ask_for(names, tags, message):
    with pytest.raises(ValueError, match=message) as raised:
        check_names(names, tags, "here")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


def test_messages_do_not_grow_with_the_number_of_classes():
    legend = Labels(tuple(f"class {k} {'x' * 500}" for k in range(50_000)))
    for text in ("nothing", "", "x" * 10**6, "\x1b[31m", '"open'):
        with pytest.raises(ValueError, match="expected names") as raised:
            legend.parse(text)
        assert len(str(raised.value)) < 1500
        assert str(raised.value).isprintable()
    with pytest.raises(ValueError, match="cat, dog, old, 5_o_Clock, separated by commas, or all"):
        CLASSES.parse("fox")
    with pytest.raises(ValueError, match="9, 10 and 40 more, got an empty list"):
        Labels(tuple(str(k) for k in range(1, 51))).parse([])


def test_labels_in_turn():
    assert in_turn(torch.tensor([3, 7]), torch.tensor([5, 0, 2])).tolist() == [7, 3, 3]
    rows = torch.tensor([[1, 0], [0, 1]])
    assert in_turn(rows, torch.tensor([1, 2])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("legend", "text"), [(CLASSES, "4 classes"), (TAGS, "4 tags"), (Labels(), "no labels")]
)
def test_labels_are_described(legend, text):
    assert legend.describe() == text
