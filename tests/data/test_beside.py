"""Pictures beside others stay with theirs, and arrays mean what their numbers say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.conditioned import told_config
from tests.helpers.formats import save_pictures
from vfn.configs import DataConfig
from vfn.data import as_dataset, load_dataset, prepare
from vfn.sampling import load as load_run
from vfn.train import train


def test_pictures_beside_stay_with_theirs_through_the_splits(shapes, tmp_path):
    paths = {}
    for name, images in (("own", shapes.images), ("beside", shapes.beside)):
        paths[name] = tmp_path / f"{name}.npy"
        np.save(paths[name], images.movedim(1, -1).numpy())
    settings = DataConfig(
        dataset=str(paths["own"]), condition=str(paths["beside"]), data_dir=str(tmp_path)
    )
    for split in ("train", "test"):
        found = load_dataset(settings, split)
        assert torch.equal(found.beside[:], 255 - found.images[:])
    np.save(paths["beside"], np.zeros((59, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="to have a picture for each of the 60, got 59"):
        prepare(settings)
    np.save(paths["beside"], np.zeros((60, 4, 8), np.uint8))
    with pytest.raises(ValueError, match="of the size of the others, 8 x 8, got 4 x 8"):
        prepare(settings)


@pytest.mark.parametrize(
    ("own", "beside"),
    [
        pytest.param("{}.png", "{}.png", id="the same names"),
        pytest.param("{}.bmp", "{}.webp", id="other suffixes, in another order"),
        pytest.param("{}/a.png", "{}/a.webp", id="the same paths"),
        pytest.param("x/{}.png", "{}.webp", id="the file names alone"),
    ],
)
def test_folders_are_paired_by_names(own, beside, tmp_path):
    """Each picture has one level of its own, and that beside it the rest of 255."""
    # 1.bmp comes before 1.m.bmp, and 1.webp after 1.m.webp.
    for k, name in enumerate(["1", "1.m", *range(2, 20)]):
        level = np.full((8, 8), 10 * k, np.uint8)
        save_pictures(tmp_path / "own", {own.format(name): level})
        file = tmp_path / "beside" / beside.format(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - level).save(file, lossless=True)
    paths = {name: str(tmp_path / name) for name in ("own", "beside")}
    settings = DataConfig(
        dataset=paths["own"], condition=paths["beside"], data_dir=str(tmp_path / "data"), channels=1
    )
    found = load_dataset(settings, "all")
    levels = found.beside[:].amax((1, 2, 3)).int()  # webp has three channels
    assert torch.equal(found.images[:].amax((1, 2, 3)).int() + levels, torch.full((20,), 255))


def test_folders_whose_names_do_not_pair_are_refused(tmp_path):
    """As many pictures, of which one is another one: sorted, all but a few would be off by one."""
    level = np.zeros((8, 8), np.uint8)
    save_pictures(tmp_path / "own", {f"{k}.png": level for k in range(10)})
    names = ["00", *range(9)]
    save_pictures(tmp_path / "beside", {f"{name}.png": level for name in names})
    settings = DataConfig(
        dataset=str(tmp_path / "own"),
        condition=str(tmp_path / "beside"),
        data_dir=str(tmp_path / "data"),
    )
    with pytest.raises(ValueError, match=r"without a partner 9 in \S+own and 00 in \S+beside; re"):
        load_dataset(settings)
    save_pictures(tmp_path / "own", {"9.bmp": level, "00.png": level})
    save_pictures(tmp_path / "beside", {"9.png": level, "9.jpg": level})
    with pytest.raises(ValueError, match=r"partner 9.bmp in \S+own and 9.jpg in \S+beside; rename"):
        load_dataset(settings)


@pytest.mark.parametrize("first", [{"channels": 1}, {"on_bad": "refuse", "channels": 3}])
def test_pictures_that_are_left_out_have_none_beside(first, tmp_path):
    """Also where the conditions were prepared by settings that leave none out."""
    for k in range(8):
        level = np.full((8, 8) if k != 3 else (8, 8, 3), 10 * k, np.uint8)
        save_pictures(tmp_path / "own", {f"{k}.png": level})
    np.save(tmp_path / "beside.npy", np.stack([np.full((8, 8), 255 - 10 * k) for k in range(8)])
            .astype(np.uint8))  # fmt: skip
    settings = DataConfig(
        dataset=str(tmp_path / "own"), condition=str(tmp_path / "beside.npy"),
        data_dir=str(tmp_path / "data"), on_bad="skip",
    )  # fmt: skip
    found = load_dataset(replace(settings, **first), "all")
    assert torch.equal(found.beside[:], 255 - found.images[:, :1])
    with pytest.raises(ValueError, match="for each of the 8, 1 of which are left out, got 8"):
        load_dataset(settings, "all")


def test_arrays_beside_are_scaled_as_their_numbers_say(shapes, tmp_path):
    """Five channels of floats: trained with, kept in checkpoints, asked for, refused."""
    depths = np.random.default_rng(0).uniform(-3, 5, (60, 8, 8, 5)).astype(np.float32)
    own, beside = tmp_path / "own.npy", tmp_path / "depths.npy"
    np.save(own, shapes.images.movedim(1, -1).numpy())
    np.save(beside, depths)
    more = {"dataset": str(own), "condition": str(beside), "data_dir": str(tmp_path)}
    train(told_config(conditional=False, **more), tmp_path / "run", device="cpu")
    trained = load_run(tmp_path / "run", "cpu")
    low, high = float(depths.min()), float(depths.max())
    made = trained.condition(str(beside)).image
    expected = torch.from_numpy(depths).double().movedim(-1, 1)
    expected = 2 * (expected - low) / (high - low) - 1
    torch.testing.assert_close(made[:, :5].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(made[:, 5], torch.ones(60, 8, 8))
    data = trained.own_pictures("test")
    assert data.beside.dtype == torch.float32
    assert data.beside_values == trained.shape.beside_values
    np.save(beside, depths + 1)
    with pytest.raises(ValueError, match=r"expected condition .* within -.*, got .* in picture"):
        trained.condition(str(beside))
    np.save(beside, depths.astype(np.float16))
    with pytest.raises(ValueError, match="to be of float32, got float16"):
        trained.condition(str(beside))
    depths[7, 1, 2, 3] = np.nan
    np.save(beside, depths)
    with pytest.raises(
        ValueError, match=r"cannot be used: depths.npy\[7\] \(nan at channel 3, row 1"
    ):
        prepare(told_config(**more).data)
    with pytest.raises(ValueError, match="expected beside to be uint8 .* beside_values says what"):
        as_dataset(shapes.images, beside=torch.zeros(60, 5, 8, 8))
