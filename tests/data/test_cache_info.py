"""What stands beside prepared pictures: told, kept as a digest, read or refused."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data.conftest import COUNT, data
from tests.helpers.formats import noise, save_pictures
from vfn.data import Dataset, data_digest, load_dataset, prepare
from vfn.data.cache import open_cache


@pytest.mark.parametrize("name", ["images.bin", "info.json"])
def test_damaged_prepared_data_are_named(pictures, name):
    path = prepare(data(pictures)).path
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-5])
    with pytest.raises(ValueError, match=f"prepared data in {path} is damaged .*remove that dir"):
        prepare(data(pictures))
    assert len(prepare(data(pictures), fresh=True).images) == COUNT


def test_summary_says_what_is_there(tmp_path):
    save_pictures(tmp_path / "p", {f"{c}/{i}.png": noise(4, 6) for c in "abb" for i in range(5)})
    (tmp_path / "p" / "b" / "x.png").write_bytes(b"")
    found = prepare(data(tmp_path / "p", on_bad="skip", test_share=0.2))
    lines = found.summary().splitlines()
    assert lines[0] == "pictures  8 train, 2 test; 1 x 4 x 6"
    assert lines[1] == "labels    2 classes: a (5), b (5)"
    assert lines[2].startswith("left out  1: b/x.png (cannot identify")
    assert lines[3] == f"prepared  {found.path}, 0.0 MB"
    assert json.loads((found.path / "info.json").read_text())["origin"] == str(tmp_path / "p")


def test_summary_counts_tags_and_shortens_what_is_long(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=noise(3, 2, 2), arr_1=np.tri(3, 12, dtype=int))
    line = prepare(data(path)).summary().splitlines()[1]
    assert line.startswith("labels    12 tags: 1 (3), 2 (2), 3 (1), 4 (0)")
    assert line.endswith("10 (0) and 2 more")
    assert torch.equal(load_dataset(data(path), "all").labels.sum(0)[:3], torch.tensor([3, 2, 1]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.integers() | st.floats() | st.text()
    | st.sampled_from([10**400, -(10**18), 10**18]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Prepared data of two classes."""
    home = tmp_path_factory.mktemp("labelled")
    np.savez(home / "a.npz", arr_0=noise(20, 4, 4), arr_1=np.arange(20) % 2, class_names=["a", "b"])
    return prepare(data(home / "a.npz", data_dir=str(home))).path


def opened(path):
    """Everything that is done with prepared data, or one line."""
    fault = ""
    try:
        found = open_cache(path)
    except ValueError as error:
        fault = str(error)
    if fault:
        assert fault.startswith(f"the prepared data in {path} is damaged (")
        assert fault.isprintable()
        assert len(fault) < 600
        return
    for split in [name for name, count in found.splits.items() if count] + ["all"]:
        part = found.dataset(split)
        if part.labels is not None:  # the file may say that there are none
            assert len(part.legend.texts(part.labels)) == len(part.images)
        data_digest(part)
    found.summary()


@given(st.dictionaries(st.sampled_from(
    ["shape", "labels", "class_names", "splits", "bad", "sha256", "format"]), VALUES,
    min_size=1))  # fmt: skip
def test_any_info_is_read_or_refused(labelled, changes):
    content = (labelled / "info.json").read_text()
    try:
        (labelled / "info.json").write_text(json.dumps(json.loads(content) | changes))
        opened(labelled)
    finally:
        (labelled / "info.json").write_text(content)


DAMAGED = [b"[" * 10**5, b'{"a":' * 10**5, b"1" * 10**5, b"\xff", b"\0" * 9]


@given(VALUES.map(json.dumps).map(str.encode) | st.binary() | st.sampled_from(DAMAGED))
def test_any_bytes_in_the_place_of_info(labelled, content):
    before = (labelled / "info.json").read_bytes()
    try:
        (labelled / "info.json").write_bytes(content)
        opened(labelled)
    finally:
        (labelled / "info.json").write_bytes(before)


def test_labels_without_a_dimension_are_refused(labelled):
    path = labelled / "labels.npy"
    before = path.read_bytes()
    try:
        np.save(path, np.int64(3))
        with pytest.raises(ValueError, match="labels"):
            open_cache(labelled)
    finally:
        path.write_bytes(before)


@given(st.data())
def test_any_labels_are_read_or_refused(labelled, data):
    before = (labelled / "labels.npy").read_bytes()
    damaged = bytearray(before)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(before) - 1))] = data.draw(st.integers(0, 255))
    try:
        cut = data.draw(st.integers(0, len(before)) | st.just(len(before)))
        (labelled / "labels.npy").write_bytes(bytes(damaged[:cut]))
        opened(labelled)
    finally:
        (labelled / "labels.npy").write_bytes(before)


def test_the_digest_is_stored_and_is_that_of_the_content(pictures):
    found = prepare(data(pictures, test_share=0.2))
    for split in ("train", "test", "all"):
        part = found.dataset(split)
        assert found.known[split] == hashlib.sha256(part.images.numpy().tobytes()).hexdigest()
        assert data_digest(part) == data_digest(Dataset(part.images.clone()))
    assert found.digest == data_digest(found.dataset("all"))
    # Data that were prepared by an earlier version have none, and get the same.
    info = json.loads((found.path / "info.json").read_text())
    del info["sha256"]
    (found.path / "info.json").write_text(json.dumps(info))
    assert prepare(data(pictures, test_share=0.2)).digest == found.digest
