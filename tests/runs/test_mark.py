"""Which pictures a run is of, whatever they are read from."""

import hashlib
import shutil

import numpy as np
import pytest

from tests.helpers.formats import noise, save_pictures
from vfn.configs import DataConfig
from vfn.data import Dataset, Labels, load_dataset
from vfn.model import shape_of
from vfn.runs import DataMark, mark_of, other_pictures, read_pictured

CHANGES = {
    "names: class 2 is c, before b": {"names": "ac"},
    "labels, 3 classes, before 2 classes": {"names": "abc"},
    "labels, no labels, before 2 classes": {"names": ""},
    "number of pictures 16, before 18": {"count": 18},
    "sizes (1, 12, 12), before (1, 8, 8)": {"side": 12},
    "pictures, labels or conditions, as many as before": {"seed": 1},
}


def write(folder, kind, names="ab", count=20, side=8, seed=0):
    """Pictures of classes in turn, as files of some kind; the path that they are named by."""
    pictures = [noise(side, side, seed=seed + i) for i in range(count)]
    files = [f"{i:02}.png" for i in range(count)]
    classes = [names[i % len(names)] if names else "" for i in range(count)]
    if kind == "npz":
        numbers = np.arange(count) % max(1, len(names))
        more = {"arr_1": numbers, "class_names": list(names)} if names else {}
        np.savez(folder.with_suffix(".npz"), arr_0=np.stack(pictures), **more)
        return folder.with_suffix(".npz")
    inside = [f"{c}/" if c and kind == "folder" else "" for c in classes]
    paths = [f"{before}{name}" for before, name in zip(inside, files, strict=True)]
    save_pictures(folder, dict(zip(paths, pictures, strict=True)))
    if kind == "csv" and names:
        rows = "".join(f"{name},{c}\n" for name, c in zip(files, classes, strict=True))
        (folder / "labels.csv").write_text(f"file,label\n{rows}")
    return folder


@pytest.mark.parametrize("kind", ["folder", "npz", "csv"])
def test_what_differs_is_told(tmp_path, kind):
    def loaded(path):
        return load_dataset(DataConfig(dataset=str(path), data_dir=str(tmp_path / "data")))

    place = write(tmp_path / "same", kind)
    before = loaded(place)
    shape, mark = shape_of(before), mark_of(before)
    moved = shutil.move(place, tmp_path / f"moved{place.suffix}")
    assert other_pictures(loaded(moved), shape, mark) == ""
    for i, (message, change) in enumerate(CHANGES.items()):
        assert (
            other_pictures(loaded(write(tmp_path / str(i), kind, **change)), shape, mark) == message
        )


def test_pictures_of_all_sources_are_told_apart_by_their_content(tmp_path):
    settings = {"data_dir": str(tmp_path / "data"), "split": "all"}
    found = [
        load_dataset(DataConfig(dataset=str(write(tmp_path / kind, kind)), **settings))
        for kind in ("npz", "csv")
    ]
    assert mark_of(found[0]) == mark_of(found[1])


def test_the_standard_set():
    digits, test = load_dataset("digits"), load_dataset("digits", "test")
    assert other_pictures(digits, shape_of(digits), mark_of(digits)) == ""
    assert other_pictures(test, shape_of(digits), mark_of(digits)).startswith("number of pictures")
    assert other_pictures(test, shape_of(digits), None) == ""
    plain = Dataset(digits.images)
    assert other_pictures(plain, shape_of(digits), None) == "labels, no labels, before 10 classes"


def test_tags_and_classes_of_the_same_names():
    digits = load_dataset("digits")
    tags = digits.labels[:, None] == np.arange(1, 11)
    tagged = Dataset(digits.images, tags.byte(), Labels(digits.legend.names, tags=True))
    assert other_pictures(tagged, shape_of(digits), None) == "labels, 10 tags, before 10 classes"


def test_digests_of_earlier_versions_are_understood():
    """They had no names in them, and no word before them."""
    digits, sha = load_dataset("digits"), hashlib.sha256()
    for values in (digits.images, digits.labels):
        sha.update(f"{values.dtype} {tuple(values.shape)};".encode())
        sha.update(values.numpy().tobytes())
    mark, shape = DataMark(len(digits.images), sha.hexdigest()), shape_of(digits)
    assert other_pictures(digits, shape, mark) == ""
    turned = digits._replace(images=digits.images.flip(3))
    assert (
        other_pictures(turned, shape, mark) == "pictures, labels or conditions, as many as before"
    )


def test_a_header_that_says_nothing(tmp_path):
    for content in (b"", b"\xff" * 20, b"\2\0\0\0\0\0\0\0{}"):
        (tmp_path / "a.safetensors").write_bytes(content)
        assert read_pictured(tmp_path / "a.safetensors") is None
    assert read_pictured(tmp_path / "none.safetensors") is None
