"""What a network takes beside labels, asked for from files, in memory and by the command."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.conditioned import QUICK, TOLD, told_config
from vfn.cli import main
from vfn.configs import load, override
from vfn.data import as_dataset, load_dataset
from vfn.data.given import Vector
from vfn.data.values import to_unit
from vfn.model import DataShape, fixed_conditions, shape_of
from vfn.nn import Conditions
from vfn.runs import find_checkpoint
from vfn.sampling import load as load_run
from vfn.sampling import untrained
from vfn.train import train

ONE_LEVEL = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,)}


def test_a_picture_follows_its_own_conditions_in_any_batch(told_run, shapes):
    trained = load_run(told_run, "cpu")
    whole = trained.sample(6, condition=shapes, guidance=1.0, batch=6, steps=2)
    assert whole.labels == [shapes.legend.names[k - 1] for k in shapes.labels[:6]]
    parts = trained.sample(6, condition=shapes, guidance=1.0, batch=2, steps=2)
    assert (whole.images.int() - parts.images.int()).abs().max() <= 1  # sums in another order
    swapped = shapes.rows(torch.tensor([1, 0, 2, 3, 4, 5]))
    other = trained.sample(6, condition=swapped, guidance=1.0, steps=2)
    assert not torch.equal(whole.images[:2], other.images[:2])
    assert (whole.images[2:].int() - other.images[2:].int()).abs().max() <= 1


def test_guidance_leads_away_from_no_condition(told_run, shapes):
    trained = load_run(told_run, "cpu")
    z, logsnr, labels = torch.randn(2, 1, 8, 8), torch.zeros(2), shapes.labels[:2]
    given = trained.condition(shapes, 2)
    none = given.each(torch.zeros_like)
    cond, uncond, guided = (
        trained.denoiser(each, w, clip=False, conditions=c)(z, logsnr)
        for each, w, c in ((labels, 0.0, given), (0 * labels, 0.0, none), (labels, 2.0, given))
    )
    torch.testing.assert_close(guided, cond + 2 * (cond - uncond), rtol=1e-4, atol=1e-5)
    assert (cond - uncond).abs().max() > 1e-3


@pytest.fixture
def numbers_only(shapes, tmp_path):
    """A run on numbers alone, of files."""
    file = tmp_path / "shapes.npz"
    images = shapes.images.movedim(1, -1).numpy()
    np.savez(
        file, arr_0=images, vectors=shapes.vectors.numpy(), vector_names=["top", "left", "side"]
    )
    config = override(load("digits"), {**QUICK, "dataset": str(file), "network": TOLD,
                                       "data_dir": str(tmp_path)})  # fmt: skip
    train(config, tmp_path / "run", device="cpu")
    return tmp_path / "run"


def test_numbers_of_a_file_are_asked_for_by_the_command(
    numbers_only, tmp_path, monkeypatch, capsys
):
    checkpoint = find_checkpoint(numbers_only)
    assert checkpoint.shape.vector.names == ("top", "left", "side")
    trained_on = load_dataset(checkpoint.config.data)
    assert checkpoint.shape.vector.mean == pytest.approx(trained_on.vectors.mean(0).tolist())
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("\ufeff1,2,3\n4,0,2\n")  # as spreadsheets begin a file
    words = ["sample", "--checkpoint", str(numbers_only), "--device", "cpu", "--no-animate"]

    def sample(*more):
        monkeypatch.setattr("sys.argv", ["vfn", *words, *more])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr().err

    assert sample("--condition", str(wanted), "--out", str(tmp_path / "out"))[0] == 0
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 2
    code, text = sample("--out", str(tmp_path / "none"))
    assert code == 2
    assert "takes the numbers top, left, side of each picture: give them with --condition" in text
    for content, message in (("1,2\n", "to have the 3 numbers top, left, side"),
                             ("1,nan,3\n", "got nan at 0, 1"),
                             ("a,b,c\n", "to be rows of numbers")):  # fmt: skip
        wanted.write_text(content)
        code, text = sample("--condition", str(wanted), "--out", str(tmp_path / "bad"))
        assert (code, message in text) == (2, True), text
        assert len(text.splitlines()) == 1


def numbered():
    """A network on two numbers of mean 1 and deviation 2."""
    shape = DataShape(1, 8, 8, vector=Vector(("row", "column"), (1.0, 1.0), (2.0, 2.0)))
    return untrained(told_config(), shape)


@pytest.mark.parametrize("name", ["v.csv", "V.CSV", "v.npy", "V.NPY"])
def test_files_of_numbers_are_found_by_any_spelling(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    if name.lower().endswith("csv"):
        (tmp_path / name).write_text("1,5\n-1,3\n")
    else:
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.array([[1.0, 5.0], [-1.0, 3.0]]))
    expected = torch.tensor([[0.0, 2.0, 1.0], [-1.0, 1.0, 1.0]])
    for place in (f"~/{name}", tmp_path / name):
        assert torch.equal(numbered().condition(place).vector, expected)


def test_numbers_in_memory_are_of_any_type():
    """As those of files are: (5 - 1) / 2 and (3 - 1) / 2."""
    whole = [[5, 3]]
    for given in (torch.tensor(whole), np.array(whole), np.array(whole, np.uint16),
                  torch.tensor(whole, dtype=torch.uint8), np.array(whole, ">f4")):  # fmt: skip
        assert numbered().condition(given).vector.tolist() == [[2.0, 1.0, 1.0]]
    for given, message in ((torch.tensor([[True, False]]), "as floats .* got bool"),
                           (np.array([["5", "3"]]), "got an array of <U1"),
                           (torch.ones(2), r"or a data set, got \[2\]"),
                           (np.ones((1, 2, 3, 4)), r"or a data set, got \[1, 2, 3, 4\]"),
                           ("", "expected a path, got ''")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            numbered().condition(given)


def test_numbers_that_float32_does_not_hold_are_refused(tmp_path):
    large = torch.tensor([[0.0, 1e39]], dtype=torch.float64)
    np.save(tmp_path / "v.npy", large.numpy())
    for given in (large, tmp_path / "v.npy"):
        with pytest.raises(ValueError, match="to be finite in float32, got 1e.39.* at 0, 1"):
            numbered().condition(given)
    with pytest.raises(ValueError, match="expected vectors to be finite in float32, got 1e.39"):
        as_dataset(torch.zeros(1, 1, 8, 8).byte(), vectors=large)
    vector = Vector(("row", "column"), (0.0, 0.0), (1.0, 1e-3))
    tight = untrained(told_config(), DataShape(1, 8, 8, vector=vector))
    with pytest.raises(ValueError, match="got 3e.38 at 0, 1, which float32 does not hold stan"):
        tight.condition(torch.tensor([[0.0, 3e38]]))


@pytest.mark.parametrize("num", [0, -1, 1.5, True])
def test_rows_are_a_whole_number(num):
    fourfold = untrained(override(load("digits"), {"condition": "downscale:4"}))
    with pytest.raises(ValueError, match="expected num to be a whole number of at least 1, got"):
        fourfold.condition("dataset:digits:test", num)


def test_as_many_rows_are_given_as_are_wanted_of_anything(tmp_path):
    rows = torch.arange(10.0).view(5, 2)
    np.save(tmp_path / "v.npy", rows.numpy())
    for given in (rows, tmp_path / "v.npy", numbered().condition(rows)):
        found = numbered().condition(given, 3).vector
        torch.testing.assert_close(found[:, :2], (rows[:3] - 1) / 2)
    assert numbered().condition(rows, 9).vector.shape == (5, 3)


def test_pictures_stand_for_what_is_made_of_them():
    """Small ones, and whole ones that are made small."""
    trained = untrained(override(load("digits"), {"condition": "downscale:4"}))
    test = load_dataset("digits", "test")
    whole = trained.condition(test, 3).image
    small = torch.nn.functional.avg_pool2d(test.images[:3].float(), 4)
    assert torch.equal(small, small.round()) is False  # 8 bits round
    rounded = as_dataset(small.round().byte())
    assert (trained.condition(rounded).image - whole).abs().max() < 0.51 / 127.5 * 1.4
    with pytest.raises(ValueError, match="expected pictures of 2 x 2 for downscale:4, got 4 x 4"):
        trained.condition(as_dataset(torch.zeros(1, 1, 4, 4).byte()))
    with pytest.raises(ValueError, match=r"takes pictures \(downscale:4\): give them with"):
        trained.sample(2)
    with pytest.raises(ValueError, match="this model takes nothing but labels"):
        untrained("digits").sample(2, condition="dataset:digits")


@pytest.mark.parametrize(
    "settings",
    [
        {"condition": "grey", "crop": (2, 1, 8, 8)},
        {"condition": "grey", "crop": (2, 1, 8, 8), "image_size": (4, 4)},
        {"condition": "downscale:2", "image_size": (8, 8)},
        {"condition": "mask", "image_size": (4, 4), "channels": 1},
        {"condition": "others", "crop": (2, 1, 8, 8)},
    ],
)
def test_pictures_of_another_size_are_prepared_as_those_of_the_training(
    settings, tmp_path, monkeypatch, capsys
):
    """What is cut off in training, and how sizes are changed, is not seen in their size."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for folder in ("own", "others"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            array = draw.integers(0, 256, (13, 10, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    data = {"dataset": "own", "data_dir": "home", "test_share": 0.0, **settings}
    config = override(load("digits"), {**ONE_LEVEL, **data})
    known = load_dataset(config.data)
    asked = untrained(config, shape_of(known))
    given = "others" if settings["condition"] == "others" else "own"
    capsys.readouterr()
    found = asked.condition(given).image
    height, width = known.images.shape[2:]
    said = f"own: pictures of 13 x 10 are cropped and brought to {height} x {width} as those of the"
    assert said.replace("own", given) in capsys.readouterr().err
    rows = torch.arange(3)
    if given == "others":
        expected = torch.cat([to_unit(known.beside), torch.ones(3, 1, 8, 8)], 1)
    else:
        expected = fixed_conditions(known, rows, to_unit(known.images), config.data.condition).image
    assert torch.equal(found, expected)


def test_conditions_on_other_axes_are_refused_before_the_network():
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    for size in ((2, 2, 4, 4), (2, 8, 8), (0, 2, 8, 8)):
        with pytest.raises(ValueError, match=r"image of the conditions as \[N, C, 8, 8\], got"):
            trained.draws(2, condition=Conditions(image=torch.ones(size)))
    with pytest.raises(ValueError, match=r"vector of the conditions as \[N, D\], got \[4\]"):
        trained.draws(2, condition=Conditions(vector=torch.ones(4)))


def test_labels_of_other_classes_are_not_taken_for_those_of_a_network():
    fourfold = untrained(override(load("digits"), {"condition": "downscale:4"}))
    test = load_dataset("digits", "test").rows(torch.arange(20))
    assert fourfold.draws(condition=test).asked.names[:2] == ["2", "0"]
    names = [f"class {k}" for k in range(10)]
    others = as_dataset(test.images, test.labels, names)
    assert fourfold.draws(condition=others).asked.names == [*"0123456789"]
