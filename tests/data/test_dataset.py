"""Splits, scaling, and the digits that come with scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from vfn.data import Labels, as_dataset, hold_out, load_dataset, to_uint8, to_unit

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


def test_a_data_set_without_splits_has_no_other_ones():
    assert hold_out(3, "all").tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="expected split train, test, all, got 'valid'; name one"):
        hold_out(10, "valid")


def test_every_level_survives_the_scaling():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)


PICTURES = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("labels", "names", "legend", "dtype"),
    [
        (None, None, Labels(), None),
        (torch.tensor([3, 1, 1]), None, Labels(("1", "2", "3")), torch.int64),
        (torch.tensor([2, 1, 1], dtype=torch.uint8), ["a", "b"], Labels(("a", "b")), torch.int64),
        (torch.tensor([1, 1, 1]), ["a", "b"], Labels(("a", "b")), torch.int64),
        (torch.ones(3, 2).bool(), None, Labels(("1", "2"), tags=True), torch.uint8),
        (torch.eye(3, 2).int(), ("a", "b"), Labels(("a", "b"), tags=True), torch.uint8),
    ],
)
def test_pictures_in_memory_are_a_data_set(labels, names, legend, dtype):
    """Tags are told from classes by the shape."""
    found = as_dataset(PICTURES, labels, names)
    assert found.images is PICTURES
    assert found.legend == legend
    assert found.labels is None if labels is None else found.labels.dtype == dtype
    if labels is not None:
        assert found.labels.tolist() == labels.int().tolist()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int64])
def test_labels_of_any_whole_numbers(kind):
    found = as_dataset(PICTURES, np.array([2, 3, 1], kind))
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == [2, 3, 1]
    tags = as_dataset(PICTURES, np.eye(3, 2).astype(kind))
    assert tags.labels.tolist() == [[1, 0], [0, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"expected classes in 1..3, got 0..3"):
        as_dataset(PICTURES, np.array([0, 3, 1], kind))


@pytest.mark.parametrize("make", [np.array, list, torch.tensor])
def test_arrays_and_lists_are_taken_for_all(make):
    """Each part becomes the tensor of its numbers."""
    pictures = [[[[10 * n, 1], [2, 3]]] for n in range(3)]
    vectors, labels = [[0.5, 1.0], [2.0, -1.0], [0.0, 3.5]], [1, 2, 2]
    images = np.array(pictures, np.uint8)
    beside = torch.from_numpy(images) if make is torch.tensor else images
    found = as_dataset(images, make(labels), vectors=make(vectors), beside=beside)
    assert (found.vectors.dtype, found.vectors.tolist()) == (torch.float32, vectors)
    assert (found.beside.dtype, found.beside.tolist()) == (torch.uint8, pictures)
    assert (found.labels.dtype, found.labels.tolist()) == (torch.int64, labels)
    assert found.images.tolist() == pictures


def test_whole_numbers_are_vectors_and_no_pictures():
    vectors = as_dataset(PICTURES, vectors=[[1, 2], [3, 4], [5, 6]]).vectors
    assert (vectors.dtype, vectors.tolist()) == (torch.float32, [[1, 2], [3, 4], [5, 6]])
    with pytest.raises(ValueError, match=r"got int64 .*; convert them with \.to\(torch\.uint8\)"):
        as_dataset(PICTURES.tolist())
    with pytest.raises(ValueError, match=r"got float32 .*; convert them with vfn\.data\.to_uint8"):
        as_dataset(PICTURES.float())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vectors": ["a", "b", "c"]}, r"expected vectors as a tensor, .*, got list \(.*str"),
        ({"labels": ["a", "b", "c"]}, "expected labels as a tensor, array or list of numbers, got"),
        ({"beside": "a.npy"}, "expected beside as a tensor, array or list of numbers, got str"),
        ({"images": [[1], [1, 2]]}, "expected pictures as a tensor, array or list of numbers"),
        ({"vectors": 3.0}, "expected vectors of 3 pictures, got one number"),
        ({"vectors": np.ones((2, 1))}, "expected vectors of 3 pictures, got 2"),
    ],
)
def test_what_is_no_numbers_is_one_line(given, message):
    with pytest.raises(ValueError, match=message) as refused:
        as_dataset(**{"images": PICTURES, **given})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (PICTURES.float(), None, None, r"uint8 pictures .*, got float32 \[3, 1, 2, 2\]; convert"),
        (PICTURES[0], None, None, r"got uint8 \[1, 2, 2\]"),
        (PICTURES.expand(3, 2, 2, 2), None, None, r"with C 1 or 3, got uint8 \[3, 2, 2, 2\]"),
        (PICTURES[:0], None, None, r"expected pictures, got none: \[0, 1, 2, 2\]"),
        (PICTURES, torch.ones(3), None, r"labels as integers \[3\] or .*, got torch.float32 \[3\]"),
        (PICTURES, torch.ones(2).int(), None, r"got torch.int32 \[2\]"),
        (PICTURES, torch.tensor([0, 1, 2]), None, "expected classes in 1..2, got 0..2"),
        (PICTURES, torch.tensor([1, 1, 3]), ["a", "b"], "expected classes in 1..2, got 1..3"),
        (PICTURES, torch.full((3, 2), 2), None, "expected 0 and 1 as tags, got 2..2"),
        (PICTURES, torch.tensor([1, 1, 10**9]), None, "100000 classes or tags at most, got 10{9}"),
        (PICTURES, torch.ones(3, 2).int(), ["a"], "expected 2 names of tags, got 1"),
    ],
)
def test_what_is_no_data_set(images, labels, names, message):
    with pytest.raises(ValueError, match=message):
        as_dataset(images, labels, names)
