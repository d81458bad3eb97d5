"""Labels as a user asks for them."""

import pytest
import torch

from vfn.data import Labels
from vfn.sampling import ask, of_each

CLASSES = Labels(("cat", "dog", "owl"))
TAGS = Labels(("Bangs", "Bald", "Male", "Wavy"), tags=True)
PLAIN = Labels()


def test_every_class_in_turn():
    asked = ask(CLASSES)
    assert asked.names == ["cat", "dog", "owl"]
    assert asked.of(torch.tensor([0, 4, 5])).tolist() == [1, 2, 3]
    assert asked.texts(torch.tensor([4, 3])) == ["dog", "cat"]


@pytest.mark.parametrize("names", ["owl,cat", ["owl", "cat"]])
def test_labels_in_the_order_asked(names):
    assert ask(CLASSES, names).of(torch.arange(3)).tolist() == [3, 1, 3]


@pytest.mark.parametrize("options", [{"names": "Male+Bald,Wavy"}, {"tags": ["Male+Bald,Wavy"]}])
def test_tags_of_one_list(options):
    asked = ask(TAGS, **options)
    assert asked.labels.tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert asked.columns == ()


def test_every_combination_of_two_lists_of_tags():
    asked = ask(TAGS, tags=["Bald,Male+Bald", "Bangs,Wavy,Male"])
    assert asked.rows == ["Bald", "Bald+Male"]
    assert asked.columns == ["Bangs", "Wavy", "Male"]
    assert asked.names == [
        "Bangs+Bald", "Bald+Wavy", "Bald+Male", "Bangs+Bald+Male", "Bald+Male+Wavy", "Bald+Male"
    ]  # fmt: skip
    assert asked.labels[1].tolist() == [0, 1, 0, 1]


def test_no_labels_for_an_unconditional_network():
    asked = ask(PLAIN)
    assert asked.of(torch.arange(3)).tolist() == [0, 0, 0]
    assert asked.names == []
    assert asked.texts(torch.arange(3)) == []


@pytest.mark.parametrize(
    ("legend", "labels", "names"),
    [
        (CLASSES, torch.tensor([3, 3, 1]), ["owl", "owl", "cat"]),
        (TAGS, torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]]), ["Bangs+Male", ""]),
        (PLAIN, torch.zeros(2, dtype=torch.long), []),
    ],
)
def test_a_label_for_each_picture(legend, labels, names):
    asked = of_each(labels, legend)
    assert torch.equal(asked.of(torch.arange(len(labels))), labels)
    assert asked.texts(torch.arange(len(labels))) == names


@pytest.mark.parametrize(
    ("legend", "options", "message"),
    [
        (CLASSES, {"names": "bat"}, "unknown label 'bat', expected names among cat, dog, owl"),
        (CLASSES, {"tags": ["cat"]}, "has classes, not tags; use --labels, among cat, dog, owl"),
        (TAGS, {"tags": ["Bald", "Bold"]}, "unknown label 'Bold', expected .* Bangs, Bald, Male"),
        (TAGS, {"tags": ["Bold"]}, "unknown label 'Bold'"),
        (TAGS, {"tags": ["Bald"] * 3}, "expected --labels, or --tags once or twice"),
        (TAGS, {"names": "Bald", "tags": ["Bald"]}, "expected --labels, or --tags once or twice"),
        (TAGS, {"names": ""}, "names among Bangs, Bald, Male, Wavy, .* got an empty one in ''"),
        (TAGS, {"names": "Bald,"}, "got an empty one in 'Bald,'"),
        (TAGS, {"tags": ["Bald,", "Male"]}, "got an empty one in 'Bald,'"),
        (PLAIN, {"names": "cat"}, "is unconditional and takes no --labels"),
        (PLAIN, {"tags": ["cat"]}, "is unconditional and takes no --tags"),
    ],
)
def test_labels_that_do_not_fit(legend, options, message):
    with pytest.raises(ValueError, match=message):
        ask(legend, **options)
