"""Data sets and the ways that pictures come in."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from vfn.data import load_dataset, parse_labels, to_uint8, to_unit
from vfn.sources import read_pictures

HELD_OUT_START = [2, 0, 1, 5, 6, 6, 5, 3, 1, 2, 2, 3]


def test_digits_are_the_library_s_and_the_split_is_one():
    source = load_digits()
    whole, train, test = (load_dataset("digits", s) for s in ("all", "train", "test"))
    assert (len(train.images), len(test.images)) == (1437, 360)
    # 0..16 comes back exactly from 0..255.
    assert (whole.images[:, 0].float() * 16 / 255).round().numpy() == pytest.approx(source.images)
    assert (whole.labels - 1).tolist() == source.target.tolist()
    together = torch.cat([train.images, test.images]).flatten(1).double() @ torch.randn(
        64, dtype=torch.float64
    )
    assert len(together.unique()) == len(whole.images.flatten(1).unique(dim=0))
    assert len(together) == len(whole.images)


def test_the_split_never_moves():
    """A run's seed, or another version of this code, must not mix up what was held out."""
    assert load_dataset("digits", "test").labels[:12].sub(1).tolist() == HELD_OUT_START


def test_every_level_survives_the_scaling():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)


def test_labels_by_name():
    names = ("cat", "dog")
    assert parse_labels("dog, cat,dog", names) == [2, 1, 2]
    assert parse_labels("all", names) == [1, 2]
    with pytest.raises(ValueError, match="unknown label '1', expected names among cat, dog"):
        parse_labels("1", names)


def test_folder_and_npz_hold_the_same(tmp_path):
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    array = images.movedim(1, -1).numpy()
    np.savez(tmp_path / "a.npz", arr_0=array, arr_1=np.arange(1, 6))
    for i, picture in enumerate(array):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text(
        "file,label\n" + "".join(f"{i}.png,c{i}\n" for i in range(5))
    )
    npz, folder = read_pictures(str(tmp_path / "a.npz")), read_pictures(str(tmp_path))
    assert torch.equal(npz.images, images)
    assert torch.equal(folder.images, images)
    assert npz.labels.tolist() == folder.labels.tolist() == [1, 2, 3, 4, 5]
    assert folder.class_names == ("c0", "c1", "c2", "c3", "c4")


def test_faults_in_files_are_named(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="one size and mode in .*, b.png differs"):
        read_pictures(str(tmp_path))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="b.png cannot be read as a picture"):
        read_pictures(str(tmp_path))
    (tmp_path / "b.png").unlink()
    (tmp_path / "labels.csv").write_text("file,label\nz.png,1\n")
    with pytest.raises(ValueError, match="has no label for a.png"):
        read_pictures(str(tmp_path))
    np.savez(tmp_path / "bad.npz", arr_0=np.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="to be uint8"):
        read_pictures(str(tmp_path / "bad.npz"))
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is not an npz file of pictures"):
        read_pictures(str(tmp_path / "bad.npz"))
