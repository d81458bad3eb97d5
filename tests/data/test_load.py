"""Data sets by name and path, and the pictures that an evaluation names."""

import numpy as np
import pytest
import torch

from tests.helpers.formats import fake_mnist, noise, save_pictures
from vfn.configs import DataConfig
from vfn.data import (
    data_home,
    data_name,
    find_prepared,
    load_dataset,
    load_held_out,
    pictures_of,
    prepare,
    read_pictures,
    settled,
    spec_settings,
)


def test_folder_and_npz_hold_the_same(tmp_path):
    images = noise(5, 4, 6, 3)
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(1, 6))
    save_pictures(tmp_path, {f"{i}.png": picture for i, picture in enumerate(images)})
    (tmp_path / "labels.csv").write_text(
        "file,label\n" + "".join(f"{i}.png,c{i}\n" for i in range(5))
    )
    npz, folder = read_pictures(str(tmp_path / "a.npz")), read_pictures(str(tmp_path))
    assert np.array_equal(npz.images.movedim(1, -1), images)
    assert torch.equal(folder.images, npz.images)
    assert npz.labels.tolist() == folder.labels.tolist() == [1, 2, 3, 4, 5]
    assert folder.legend.names == ("c0", "c1", "c2", "c3", "c4")


def test_training_and_evaluation_read_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "home"))
    save_pictures(tmp_path / "p", {f"{c}/{i}.png": noise(3, 5) for c in "ab" for i in range(9)})
    direct, prepared = read_pictures(str(tmp_path / "p")), load_dataset(str(tmp_path / "p"), "all")
    assert direct.legend.names == prepared.legend.names
    pairs = [
        sorted(zip(found.images.flatten(1).tolist(), found.labels.tolist(), strict=True))
        for found in (direct, prepared)
    ]
    assert pairs[0] == pairs[1]


def test_a_name_alone_stands_for_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_DATA", str(tmp_path))
    settings = DataConfig(dataset="digits")
    for function in (prepare, find_prepared):
        assert function("digits").splits == function(settings).splits
    assert torch.equal(load_dataset("digits").images, load_dataset(settings).images)
    assert torch.equal(load_held_out("digits").images, load_dataset("digits", "test").images)
    for function in (prepare, find_prepared, load_dataset, load_held_out):
        with pytest.raises(ValueError, match=r"as a vfn.configs.DataConfig, name or path, got 3; "):
            function(3)


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "digits", {"a.png": noise(3, 3), "b.png": noise(3, 3)})
    assert len(load_dataset("digits", "all").images) == 1797
    assert len(load_dataset("./digits", "all").images) == 2


def test_one_path_is_one_data_set_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    for name in ("d", "d/", "./d", "d/../d", str(tmp_path / "d"), "link", "~/d"):
        assert data_name(name) == str(tmp_path / "d")
        run = DataConfig(dataset=name, image_size=(16,))
        assert spec_settings("dataset:d:test", run).image_size == (16,)
        assert spec_settings(f"dataset:{name}", DataConfig(dataset="d", flip=True)).flip
    for name in ("digits", "mnist", "mine.data:Cats"):
        assert data_name(name) == name
        assert spec_settings(f"dataset:{name}", DataConfig(dataset=name, flip=True)).flip
    assert not spec_settings("dataset:e", DataConfig(dataset="d", flip=True)).flip
    for settings in ({"data_dir": "~nobody-here"}, {"dataset": "~nobody-here/d"}):
        with pytest.raises(ValueError, match=r"'~nobody-here.*' is no path \(Could not determine"):
            settled(DataConfig(**settings))
    with pytest.raises(ValueError, match=r"'~nobody-here' is no path"):
        data_home(DataConfig(data_dir="~nobody-here"))
    with pytest.raises(ValueError, match=r"'d\\x00' is no path"):
        data_name("d\0")


def test_data_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VFN_DATA", "~/there")
    assert data_home(DataConfig()) == tmp_path / "there"
    assert data_home(DataConfig(data_dir="~/here")) == tmp_path / "here"
    monkeypatch.delenv("VFN_DATA")
    assert data_home(DataConfig()) == tmp_path / ".cache" / "vfn"


def test_an_evaluation_prepares_the_run_s_data_set_as_the_run_did(tmp_path, monkeypatch):
    fake_mnist(tmp_path, monkeypatch)
    run = DataConfig(dataset="mnist", data_dir=str(tmp_path), image_size=(16,), conditional=False)
    found = read_pictures("dataset:mnist:test", run)
    assert found.images.shape == (8, 1, 16, 16)
    assert found.legend.names == tuple("0123456789")
    # Another data set has its own settings.
    assert read_pictures("dataset:digits", run).images.shape == (1437, 1, 8, 8)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "dataset:cats",
            "unknown data set 'cats', expected one of digits, mnist5k, glyphs, patches, ",
        ),
        ("dataset:digits:dev", "expected split to be one of train, valid, test, all, got 'dev'"),
        ("dataset:digits:valid", "unknown split 'valid', expected one of train, test, all"),
        ("none", "expected pictures at 'none': an existing folder, an .npy or .npz file"),
        ("none.npz", "expected pictures at 'none.npz'"),
    ],
)
def test_what_is_not_there(spec, message):
    with pytest.raises(ValueError, match=message):
        read_pictures(spec)


def test_settings_that_mean_the_same_from_any_directory(tmp_path, monkeypatch):
    (tmp_path / "pics").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pics")
    monkeypatch.chdir(tmp_path)
    given = DataConfig(dataset="link", data_dir="data", test_share=0.2)
    found = settled(given)
    assert (found.dataset, found.data_dir) == (str(tmp_path / "pics"), str(tmp_path / "data"))
    assert found.test_share == 0.2
    monkeypatch.chdir("/")
    assert settled(found) == found
    assert settled(DataConfig()) == DataConfig()
    assert settled(DataConfig(dataset="mine.data:Cats")).dataset == "mine.data:Cats"


def test_a_path_without_anything_is_told_as_one(tmp_path):
    for name in (str(tmp_path / "pics"), "pics/", "../pics", "pics.npz"):
        with pytest.raises(ValueError, match="there is no folder, .npy or .npz file at /"):
            load_dataset(name)
    message = "no folder, .npy or .npz file at .*/pics, where the pictures of runs/a were; if they"
    with pytest.raises(ValueError, match=message), pictures_of("runs/a"):
        load_dataset("pics")


def test_an_archive_is_to_be_unpacked(tmp_path):
    for name in ("a.tar.gz", "a.zip"):
        (tmp_path / name).write_bytes(b"packed")
        with pytest.raises(ValueError, match=f"got '{name}'; unpack an archive, and name what was"):
            load_dataset(DataConfig(dataset=str(tmp_path / name)))


def test_a_data_directory_that_cannot_be_written(tmp_path):
    np.save(tmp_path / "a.npy", noise(4, 8, 8))
    message = "the data directory cannot be written: /proc/nope/.*; name another with --data-dir or"
    with pytest.raises(OSError, match=message):
        load_dataset(DataConfig(dataset=str(tmp_path / "a.npy"), data_dir="/proc/nope"))
