"""Labels as a user asks for them."""

import pytest
import torch
from vfn.model import DataShape
from vfn.sampling.asked import asked_labels

CLASSES = DataShape(1, 8, 8, ("cat", "dog", "owl"))
TAGS = DataShape(1, 8, 8, ("Bangs", "Bald", "Male", "Wavy"), multitags=True)
PLAIN = DataShape(1, 8, 8, ())


def test_every_class_in_turn():
    asked = asked_labels(CLASSES)
    assert asked.names == ["cat", "dog", "owl"]
    assert asked.of(torch.tensor([0, 4, 5])).tolist() == [1, 2, 3]
    assert asked.name(4) == "dog"


def test_labels_in_the_order_asked():
    assert asked_labels(CLASSES, "owl,cat").of(torch.arange(3)).tolist() == [3, 1, 3]


@pytest.mark.parametrize("options", [{"names": "Male+Bald,Wavy"}, {"tags": ["Male+Bald,Wavy"]}])
def test_tags_of_one_list(options):
    asked = asked_labels(TAGS, **options)
    assert asked.labels.tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert asked.columns == ()


def test_every_combination_of_two_lists_of_tags():
    asked = asked_labels(TAGS, tags=["Bald,Male+Bald", "Bangs,Wavy,Male"])
    assert asked.rows == ["Bald", "Bald+Male"]
    assert asked.columns == ["Bangs", "Wavy", "Male"]
    assert asked.names == [
        "Bangs+Bald", "Bald+Wavy", "Bald+Male", "Bangs+Bald+Male", "Bald+Male+Wavy", "Bald+Male"
    ]  # fmt: skip
    assert asked.labels[1].tolist() == [0, 1, 0, 1]


def test_no_labels_for_an_unconditional_network():
    asked = asked_labels(PLAIN)
    assert asked.of(torch.arange(3)).tolist() == [0, 0, 0]
    assert asked.names == []


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (CLASSES, {"names": "bat"}, "unknown label 'bat', expected names among cat, dog, owl"),
        (CLASSES, {"tags": ["cat"]}, "has classes, not tags; use --labels, among cat, dog, owl"),
        (TAGS, {"tags": ["Bald", "Bold"]}, "unknown label 'Bold', expected .* Bangs, Bald, Male"),
        (TAGS, {"tags": ["Bold"]}, "unknown label 'Bold'"),
        (TAGS, {"tags": ["Bald"] * 3}, "expected --labels, or --tags once or twice"),
        (TAGS, {"names": "Bald", "tags": ["Bald"]}, "expected --labels, or --tags once or twice"),
        (PLAIN, {"names": "cat"}, "is unconditional and takes no --labels"),
        (PLAIN, {"tags": ["cat"]}, "is unconditional and takes no --tags"),
    ],
)
def test_labels_that_do_not_fit(shape, options, message):
    with pytest.raises(ValueError, match=message):
        asked_labels(shape, **options)
