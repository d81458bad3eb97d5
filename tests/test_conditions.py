"""Conditions beside labels: made of pictures, trained with, asked for, judged, distilled."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.distilling import MINI
from tests.helpers.formats import save_pictures
from vfn.cli import main
from vfn.configs import DataConfig, load, override
from vfn.data import as_dataset, load_dataset, prepare, to_unit
from vfn.data.derived import downscaled, grey, masked, with_mask
from vfn.data.given import Vector, derived_kind, vector_of
from vfn.data.values import measured, ranged
from vfn.evaluation import Sides, evaluate, judge
from vfn.interop.exports import exporter
from vfn.model import DataShape, fixed_conditions, shape_of
from vfn.nn import Conditions, Transformer, denoiser
from vfn.ops import logsnr_schedule
from vfn.runs import find_checkpoint
from vfn.sampling import load as load_run
from vfn.sampling import untrained, write_samples
from vfn.train import train
from vfn.train.batches import make_batch
from vfn.train.distillation import distill

MINI_MODEL = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,)}
TOLD = "tests.helpers.outside:Told"
QUICK = {"steps": 4, "batch_size": 8, "sample_timesteps": 2, "log_every": 1, "checkpoint_every": 2,
         "preview_every": 4, "lr_schedule": "constant"}  # fmt: skip


def told_config(**more):
    return override(load("digits"), {"network": TOLD, **QUICK, **more})


@pytest.fixture(scope="module")
def shapes():
    """Sixty squares, with place and side as numbers, classes by side, and pictures beside."""
    draw = np.random.default_rng(0)
    images = np.zeros((60, 1, 8, 8), np.uint8)
    numbers = np.stack(
        [draw.integers(0, 5, 60), draw.integers(0, 5, 60), draw.integers(2, 4, 60)], 1
    )
    for image, (top, left, side) in zip(images, numbers, strict=True):
        image[0, top : top + side, left : left + side] = 255
    labels = torch.from_numpy(numbers[:, 2] - 1)
    return as_dataset(
        torch.from_numpy(images), labels, ["small", "large"],
        torch.from_numpy(numbers.astype(np.float32)), ["top", "left", "side"],
        torch.from_numpy(255 - images),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """A run of a network from outside the package that takes labels, numbers and pictures."""
    out = tmp_path_factory.mktemp("told") / "run"
    train(told_config(eval_every=4, eval_num=20), out, dataset=(shapes, shapes), device="cpu")
    return out


# What conditions are made of


def test_small_pictures_are_means_of_squares():
    """The mean of each square by numpy; a gradient comes back as it was but for its ends."""
    x0 = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    made = downscaled(x0, torch.zeros(2, 4), 4)
    means = x0.numpy().reshape(2, 3, 2, 4, 3, 4).mean((3, 5))
    again = torch.nn.functional.interpolate(torch.from_numpy(means), size=(8, 12), mode="bicubic")
    torch.testing.assert_close(made[:, :3], again)
    assert torch.equal(made[:, 3], torch.ones(2, 8, 12, dtype=torch.float64))


def test_grey_is_what_pillow_makes():
    """To half a level: Pillow rounds."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    ours = grey(to_unit(torch.from_numpy(colours).movedim(-1, 0))[None], torch.zeros(1, 4), 0)[0, 0]
    theirs = np.asarray(Image.fromarray(colours).convert("L"), np.float32)
    assert np.abs((ours.numpy() + 1) * 127.5 - theirs).max() <= 0.51


def test_masks_hide_a_rectangle_of_a_quarter_to_three_quarters():
    u = torch.rand(200, 4, generator=torch.manual_seed(0))
    made = masked(torch.ones(200, 1, 12, 16), u, 0)
    hidden = made[:, 1] == 0
    heights, widths = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), heights * widths)  # one rectangle each
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (3, 9, 4, 12)
    assert torch.equal(made[:, 0], made[:, 1])  # nothing of the pictures shows through
    assert hidden[:, 0].any()
    assert hidden[:, -1].any()
    assert torch.equal(with_mask(torch.ones(200, 1, 12, 16), made[:, 1]), made)


def test_numbers_are_standardised_and_a_one_tells_that_there_are_some():
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    made = vector_of(values, ("a", "b")).of(values)
    assert made[:, 0].mean().abs() < 1e-6
    assert made[:, 0].std(correction=0) == pytest.approx(1, rel=1e-6)
    assert torch.equal(made[:, 1:], torch.tensor([[0.0, 1.0]] * 3))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("downscale", "expected condition downscale with a number from 2 on"),
        ("downscale:1", "expected condition downscale with a number from 2 on"),
        ("mask:3", "expected condition mask without a number, got 'mask:3'"),
    ],
)
def test_conditions_that_are_none_are_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        derived_kind(condition)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("downscale:3", "downscale:3 to divide height and width, got 8 x 8"),
        ("grey", "expected colours for condition grey, got pictures of one channel"),
        ("/nowhere/x.npy", "condition '/nowhere/x.npy' to be downscale, grey, mask, or the path"),
    ],
)
def test_conditions_that_the_data_do_not_give_are_refused(condition, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(override(load("digits"), {**QUICK, "condition": condition}), tmp_path / "run")


# Training


def test_a_batch_has_what_belongs_to_its_pictures(shapes):
    """Numbers and pictures beside follow the rows and the mirror; dropped ones are all zero."""
    config = told_config(flip=True, p_uncond=0.4)
    batch = make_batch(shapes, config, torch.arange(64), torch.device("cpu"))
    torch.testing.assert_close(batch.image[:, :1], -batch.x0 * batch.image[:, 1:])
    kept = batch.vector[:, 3] == 1
    assert 20 < kept.sum() < 60
    assert torch.equal(batch.labels > 0, kept)  # all of a picture's conditions are dropped together
    assert torch.equal(batch.image[:, 1].amin((1, 2)) == 1, kept)
    assert not batch.vector[~kept].any()
    vector = shapes.vector
    tops = batch.vector[:, 0] * vector.deviation[0] + vector.mean[0]
    rows = (batch.x0 > 0).any(3).float().argmax(2)[:, 0]
    torch.testing.assert_close(tops[kept], rows[kept].float(), rtol=1e-4, atol=1e-4)
    some = make_batch(shapes, config, torch.arange(40, 50), torch.device("cpu"))
    assert torch.equal(some.image, batch.image[40:50])


def test_masks_of_training_belong_to_draws():
    digits, config = load_dataset("digits"), override(load("digits"), {"condition": "mask"})
    whole = make_batch(digits, config, torch.arange(32), torch.device("cpu")).image
    part = make_batch(digits, config, torch.arange(8, 16), torch.device("cpu")).image
    assert torch.equal(part, whole[8:16])
    assert len({tuple(mask.flatten().tolist()) for mask in whole[:, 1]}) > 20


def test_a_run_of_an_outside_network_resumes_bit_for_bit(run, shapes, tmp_path):
    out = tmp_path / "run"
    train(told_config(steps=2), out, dataset=(shapes, shapes), device="cpu")
    train(told_config(), out, dataset=(shapes, shapes), device="cpu", resume=True)
    whole, parts = find_checkpoint(run), find_checkpoint(out)
    assert (whole.step, parts.step) == (4, 4)
    assert all(torch.equal(value, parts.params[name]) for name, value in whole.params.items())
    assert all(torch.equal(value, parts.ema[name]) for name, value in whole.ema.items())
    assert parts.shape.vector.names == ("top", "left", "side")
    assert parts.shape == whole.shape


def test_other_numbers_of_the_pictures_are_not_what_a_run_was_begun_with(run, shapes):
    other = shapes._replace(vectors=shapes.vectors + 1)
    with pytest.raises(ValueError, match="begun with: other pictures, labels or conditions"):
        train(told_config(steps=6), run, dataset=(other, other), device="cpu", resume=True)


def test_a_network_that_takes_no_numbers_is_refused(shapes, tmp_path):
    config = told_config(network="tests.helpers.outside:Small")
    with pytest.raises(ValueError, match="unexpected keyword argument 'vector_dim'; it takes"):
        train(config, tmp_path / "run", dataset=shapes, device="cpu")


# Sampling


def test_a_picture_follows_its_own_conditions_in_any_batch(run, shapes):
    trained = load_run(run, "cpu")
    whole = trained.sample(6, condition=shapes, guidance=1.0, batch=6, steps=2)
    assert whole.labels == [shapes.legend.names[k - 1] for k in shapes.labels[:6]]
    parts = trained.sample(6, condition=shapes, guidance=1.0, batch=2, steps=2)
    assert (whole.images.int() - parts.images.int()).abs().max() <= 1  # sums in another order
    swapped = shapes.rows(torch.tensor([1, 0, 2, 3, 4, 5]))
    other = trained.sample(6, condition=swapped, guidance=1.0, steps=2)
    assert not torch.equal(whole.images[:2], other.images[:2])
    assert (whole.images[2:].int() - other.images[2:].int()).abs().max() <= 1


def test_guidance_leads_away_from_no_condition(run, shapes):
    trained = load_run(run, "cpu")
    z, logsnr, labels = torch.randn(2, 1, 8, 8), torch.zeros(2), shapes.labels[:2]
    given = trained.condition(shapes, 2)
    none = given.each(torch.zeros_like)
    cond, uncond, guided = (
        trained.denoiser(each, w, clip=False, conditions=c)(z, logsnr)
        for each, w, c in ((labels, 0.0, given), (0 * labels, 0.0, none), (labels, 2.0, given))
    )
    torch.testing.assert_close(guided, cond + 2 * (cond - uncond), rtol=1e-4, atol=1e-5)
    assert (cond - uncond).abs().max() > 1e-3


def test_numbers_alone_are_enough_for_guidance():
    model = Transformer(1, 1, 2, 16, 1, 2, vector_dim=2)
    schedule = logsnr_schedule("cosine")
    vector = Conditions(vector=torch.ones(3, 2))
    denoise = denoiser(model, None, schedule, "v", guidance=1.0, conditions=vector)
    assert denoise(torch.randn(3, 1, 4, 4), torch.zeros(3)).shape == (3, 1, 4, 4)
    with pytest.raises(ValueError, match="expected labels for guidance 1.0, got None"):
        denoiser(model, None, schedule, "v", guidance=1.0)


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
    config = override(load("digits"), {**MINI_MODEL, **data})
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


def test_a_mask_of_a_file_says_what_is_known(tmp_path):
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    images = load_dataset("digits", "test").images[:2]
    mask = np.ones((2, 8, 8), np.uint8)
    mask[:, 2:5, 1:7] = 0
    np.savez(tmp_path / "holes.npz", arr_0=images.movedim(1, -1).numpy(), mask=mask)
    given = trained.condition(str(tmp_path / "holes.npz")).image
    assert torch.equal(given[:, 1], torch.from_numpy(mask).float())
    torch.testing.assert_close(given[:, :1], to_unit(images) * given[:, 1:])
    np.savez(tmp_path / "holes.npz", arr_0=images.movedim(1, -1).numpy(), mask=mask[:, :4])
    with pytest.raises(ValueError, match=r"expected a mask \[2, 8, 8\], got \[2, 4, 8\]"):
        trained.condition(str(tmp_path / "holes.npz"))


@pytest.mark.parametrize(
    ("value", "told"), [(0.5, "0.5"), (-0.4, "-0.4"), (256, "256"), (math.nan, "nan")]
)
def test_a_mask_of_other_values_is_refused_as_it_is(value, told, tmp_path):
    """Cast to whole bytes each of them was 0: nothing known."""
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    mask = np.ones((2, 8, 8))
    mask[1, 2, 3] = value
    np.savez(tmp_path / "holes.npz", arr_0=np.full((2, 8, 8, 1), 200, np.uint8), mask=mask)
    with pytest.raises(ValueError, match=f"expected a mask of 0 and 1, got {told}; compare"):
        trained.condition(tmp_path / "holes.npz")


@pytest.mark.parametrize("kind", [bool, np.int64, np.float32, np.uint16])
def test_a_mask_may_be_of_any_type(kind, tmp_path):
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    mask = np.random.default_rng(0).integers(0, 2, (2, 8, 8)).astype(kind)
    np.savez(tmp_path / "HOLES.NPZ", arr_0=np.full((2, 8, 8, 1), 200, np.uint8), mask=mask)
    (tmp_path / "HOLES.NPZ.npz").rename(tmp_path / "HOLES.NPZ")
    made = trained.condition(tmp_path / "HOLES.NPZ").image.numpy()
    grey = 200 / 255 * 2 - 1
    np.testing.assert_allclose(made[:, 0], grey * mask.astype(np.float32), atol=1e-6)
    assert (made[:, 1] == mask.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 8, 8, 1), 200 / 255, np.float32), "to be of uint8, got float32"),
        (np.full((2, 4, 4, 1), 200, np.uint8), r"pictures \[1, 8, 8\], got \[1, 4, 4\]"),
        (np.full((2, 8, 8, 3), 200, np.uint8), r"pictures \[1, 8, 8\], got \[3, 8, 8\]"),
    ],
)
def test_pictures_under_a_mask_are_like_those_of_the_network(images, message, tmp_path):
    """Floats of 0..1 would all be taken for nearly black."""
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    np.savez(tmp_path / "holes.npz", arr_0=images, mask=np.ones(images.shape[:3], np.uint8))
    with pytest.raises(ValueError, match=message):
        trained.condition(tmp_path / "holes.npz")


def test_a_mask_is_of_numbers(tmp_path):
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    grey = np.full((2, 8, 8, 1), 200, np.uint8)
    np.savez(tmp_path / "text.npz", arr_0=grey, mask=np.full((2, 8, 8), "yes"))
    with pytest.raises(ValueError, match="expected a mask of 0 and 1, got <U3"):
        trained.condition(tmp_path / "text.npz")


def test_conditions_on_other_axes_are_refused_before_the_network():
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    for size in ((2, 2, 4, 4), (2, 8, 8), (0, 2, 8, 8)):
        with pytest.raises(ValueError, match=r"image of the conditions as \[N, C, 8, 8\], got"):
            trained.draws(2, condition=Conditions(image=torch.ones(size)))
    with pytest.raises(ValueError, match=r"vector of the conditions as \[N, D\], got \[4\]"):
        trained.draws(2, condition=Conditions(vector=torch.ones(4)))


# Pictures beside others


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


# Evaluation


def test_fakes_are_judged_beside_the_pictures_whose_condition_they_have(run, shapes):
    """By numpy, of pictures drawn by hand."""
    trained = load_run(run, "cpu")
    found = judge(shapes, trained, ["psnr", "ssim"], num=12, device="cpu")
    rows = torch.arange(12) * 60 // 12
    drawn = trained.sample(12, condition=shapes.rows(rows)).images.numpy().astype(float)
    real = shapes.images[rows].numpy().astype(float)
    errors = ((drawn - real) ** 2).mean((1, 2, 3))
    expected = (10 * np.log10(255**2 / errors)).mean()
    assert {figure.key for figure in found.figures} == {"psnr", "ssim"}
    assert found.figures[0].value == pytest.approx(expected, rel=1e-6)
    with pytest.raises(
        ValueError, match="held-out pictures of the network's own data, and its data"
    ):
        judge(
            shapes, trained, "loss", num=12, device="cpu"
        )  # it was trained on others than it names


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_the_peak_of_pairs_is_the_width_of_their_range(kind):
    """By numpy; numbers without a range were judged as if two deviations were one."""
    draw = np.random.default_rng(0)
    real, fake = (draw.uniform(100, 500, (6, 2, 12, 12)).astype(kind) for _ in range(2))
    one, other = (torch.from_numpy(each) for each in (real, fake))
    values = ranged(kind, 100, 500)
    sides = [as_dataset(each, values=values) for each in (one, other)]
    errors = ((real.astype(float) - fake.astype(float)) ** 2).mean((1, 2, 3))
    found = judge(*sides, ["psnr", "ssim"], device="cpu").figures
    alone = evaluate(Sides(*sides), ["psnr", "ssim"])
    assert [figure.value for figure in alone] == [figure.value for figure in found]
    assert found[0].value == pytest.approx((10 * np.log10(400**2 / errors)).mean(), rel=1e-5)
    standardised = measured(one, kind, standardise=True)
    sides = [as_dataset(each, values=standardised) for each in (one, other)]
    for metric in ("psnr", "ssim"):
        message = f"{metric} needs numbers of a known range, .*, got {kind}, standardised; train on"
        with pytest.raises(ValueError, match=message):
            judge(*sides, metric, device="cpu")
        with pytest.raises(ValueError, match=message):
            evaluate(Sides(*sides), [metric])


def test_pairs_are_needed(shapes):
    assert judge(shapes, shapes, "psnr,ssim", device="cpu").figures[0].value == 100
    with pytest.raises(
        ValueError, match=r"psnr needs as many fake as real pictures, got \(60, 6\)"
    ):
        judge(shapes, shapes.rows(torch.arange(6)), "psnr", device="cpu")
    with pytest.raises(ValueError, match="psnr needs a fake picture for each real one, and this"):
        judge("dataset:digits", untrained("digits"), "psnr", num=4, device="cpu")


# Distillation, export


@pytest.mark.parametrize("word", ["pt2", "diffusers"])
def test_formats_without_a_place_for_conditions_say_so(word, run, tmp_path):
    with pytest.raises(
        ValueError, match="has no place for what this model takes beside labels: the"
    ):
        exporter(word)(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("span", [{"teacher_guidance": 0.5}, {"guidance_range": (0.0, 1.0)}])
def test_an_outside_network_with_conditions_is_distilled_and_exported(
    span, shapes, tmp_path, monkeypatch
):
    """From files, since a distillation opens the data set anew."""
    np.savez(
        tmp_path / "shapes.npz", arr_0=shapes.images.movedim(1, -1).numpy(),
        vectors=shapes.vectors.numpy(), arr_1=shapes.labels.numpy(),
    )  # fmt: skip
    config = told_config(dataset=str(tmp_path / "shapes.npz"), condition="downscale:4",
                         data_dir=str(tmp_path), guidance=0.0)  # fmt: skip
    train(config, tmp_path / "teacher", device="cpu")
    settings = {**MINI, "student_steps": 4, "last_steps": 2, "preview_every": 2, **span}
    done = distill(tmp_path / "teacher", tmp_path / "fast", device="cpu", **settings)
    assert done.student_steps == 4
    monkeypatch.setattr("sys.argv", ["vfn", "export", str(tmp_path / "fast/steps-4"), "--out",
                                     str(tmp_path / "fast.safetensors")])  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    own, exported = (
        load_run(tmp_path / name, "cpu") for name in ("fast/steps-4", "fast.safetensors")
    )
    draws = [each.draws(3, condition=own.own_pictures()) for each in (own, exported)]
    assert torch.equal(draws[0].all().images, draws[1].all().images)
    (written,) = write_samples(draws[0], tmp_path / "out", animate=False)
    assert written.num == 3
    assert "condition_sha256" in draws[0].record()
    real = load_dataset(own.config.data, "test")
    found = judge(real, own, ["psnr", "loss", "bpd"], num=2, device="cpu")
    assert math.isfinite(found.figures[0].value)
    assert all(math.isfinite(row["loss"]) for row in found.loss_by_logsnr)
    assert all(math.isfinite(figure.value) for figure in found.bits_per_dim)


def test_pictures_beside_are_augmented_as_their_pictures_are(shapes):
    """Which they are the negatives of; a change is linear in the pixels."""
    config = told_config(augment=0.5, p_uncond=0.0)
    batch = make_batch(shapes, config, torch.arange(64), torch.device("cpu"))
    assert (batch.augment != 0).any(1).sum() > 30
    torch.testing.assert_close(batch.image[:, :1], -batch.x0, rtol=0, atol=1e-5)


def test_labels_of_other_classes_are_not_taken_for_those_of_a_network():
    fourfold = untrained(override(load("digits"), {"condition": "downscale:4"}))
    test = load_dataset("digits", "test").rows(torch.arange(20))
    assert fourfold.draws(condition=test).asked.names[:2] == ["2", "0"]
    names = [f"class {k}" for k in range(10)]
    others = as_dataset(test.images, test.labels, names)
    assert fourfold.draws(condition=others).asked.names == [*"0123456789"]


def test_numbers_beside_a_mask_are_within_the_range_of_the_network(tmp_path):
    config = override(load("digits"), {"condition": "mask"})
    network = untrained(config, DataShape(1, 8, 8, values=ranged("float32", 0, 1)))
    images, mask = np.full((2, 8, 8, 1), 0.5, np.float32), np.ones((2, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images, mask=mask)
    assert network.condition(tmp_path / "a.npz").image.shape == (2, 2, 8, 8)
    np.savez(tmp_path / "b.npz", arr_0=4 * images, mask=mask)
    with pytest.raises(ValueError, match="b.npz' within 0..1, got 2 in picture 0"):
        network.condition(tmp_path / "b.npz")
