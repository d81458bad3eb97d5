"""Arrays of other numbers than pictures: read, scaled, trained on, drawn, written, judged."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.small import small_config
from vfn.configs import DataConfig, override
from vfn.data import Dataset, as_dataset, load_dataset, prepare, read_pictures
from vfn.data.values import PLAIN, Values, measured, ranged
from vfn.evaluation import judge
from vfn.model import shape_of
from vfn.runs import find_checkpoint
from vfn.runs.checkpoint import parse_shape
from vfn.sampling import load, untrained, write_samples
from vfn.train import train

KINDS = {
    "uint16": lambda x: (x * 60_000).astype(np.uint16),
    "float16": lambda x: (8 * x - 3).astype(np.float16),
    "float32": lambda x: (8 * x - 3).astype(np.float32),
}


def stack(kind, count=40, channels=5):
    """Blurred spots in several channels, [N, H, W, C]."""
    draw = np.random.default_rng(0)
    place = draw.uniform(1, 6, (count, channels, 2))
    row, column = np.mgrid[:8, :8]
    distance = (row - place[..., :1, None]) ** 2 + (column - place[..., 1:, None]) ** 2
    return np.ascontiguousarray(np.moveaxis(KINDS[kind](np.exp(-distance / 4)), 1, -1))


def settings(tmp_path, array, name="stack.npy", **more):
    path = tmp_path / name
    np.save(path, array)
    return DataConfig(dataset=str(path), data_dir=str(tmp_path), **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["stack.npy", "stack.npz"])
def test_numbers_come_back_from_the_disk_as_they_were(kind, name, tmp_path):
    """Rows of the splits, mapped to memory; by numpy's own reader."""
    array = stack(kind)
    data = settings(tmp_path, array)
    if name.endswith("npz"):
        np.savez(tmp_path / name, arr_0=array)
        data = DataConfig(dataset=str(tmp_path / name), data_dir=str(tmp_path))
    splits = [load_dataset(data, split) for split in ("train", "test")]
    assert [len(found.images) for found in splits] == [36, 4]
    rows = np.concatenate([found.images[torch.arange(len(found.images))] for found in splits])
    assert rows.dtype == array.dtype
    wanted = {image.tobytes() for image in np.moveaxis(array, -1, 1)}
    assert {row.tobytes() for row in rows} == wanted
    assert type(splits[0].images).__name__ == "MappedPictures"
    assert splits[0].values == splits[1].values
    assert prepare(data).summary().splitlines()[0].endswith(splits[0].values.describe())


def test_ranges_are_found_given_or_those_of_whole_numbers(tmp_path):
    floats = torch.from_numpy(np.moveaxis(stack("float32"), -1, 1).copy())
    low, high = floats.min().item(), floats.max().item()
    found = measured(floats, "float32")
    assert found.to_unit(floats).min() == pytest.approx(-1, abs=1e-6)
    assert found.to_unit(floats).max() == pytest.approx(1, abs=1e-6)
    assert found.describe() == f"float32, {low:g} to {high:g}"
    assert measured(floats.to(torch.uint16), "uint16") == ranged("uint16", 0, 65535)
    assert measured(floats, "float32", (-5, 15)) == Values("float32", (5.0,), (10.0,))
    data = settings(tmp_path, stack("uint16"), value_range=(0, 60_000))
    assert load_dataset(data).values == ranged("uint16", 0, 60_000)


def test_standardised_numbers_have_mean_0_and_deviation_1_by_channel(tmp_path):
    """Of those that are trained on, to float32; and drawn ones are not clipped."""
    data = settings(tmp_path, stack("float32") * np.array([1, 10, 100, 0.1, 1], np.float32),
                    standardise=True)  # fmt: skip
    found = load_dataset(data)
    x0 = found.values.to_unit(found.images[:])
    torch.testing.assert_close(x0.mean((0, 2, 3)), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(x0.std((0, 2, 3), correction=0), torch.ones(5), rtol=1e-5, atol=0)
    assert x0.abs().max() > 1.5
    torch.testing.assert_close(found.values.from_unit(x0), found.images[:], rtol=1e-4, atol=1e-5)


@given(st.sampled_from(sorted(KINDS)), st.floats(-1e3, 1e3), st.floats(1e-2, 1e3), st.data())
def test_stored_numbers_survive_a_round_trip(kind, low, width, data):
    """Whole ones to the bit; floats to what is lost beside their range."""
    if kind == "uint16":
        low, width = abs(low), max(width, 1.0)
    values = ranged(kind, low, low + width)
    share = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4)))
    stored = (low + width * share.double()).view(1, 1, 2, 2)
    if kind == "uint16":
        stored = stored.ceil().clamp(max=low + width).floor()
    stored = stored.to(getattr(torch, kind))
    again = values.from_unit(values.to_unit(stored))
    if kind == "uint16":
        inside = (stored.double() >= low) & (stored.double() <= low + width)
        assert torch.equal(again[inside], stored[inside])
    else:
        last = 2e-3 if kind == "float16" else 2e-7
        most = last * max(abs(low), abs(low + width))
        assert (again.double() - stored.double()).abs().max() <= most


def test_grey_levels_are_what_they_were():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(PLAIN.to_unit(levels), levels.float() / 127.5 - 1)
    assert torch.equal(PLAIN.from_unit(PLAIN.to_unit(levels)), levels)
    assert ranged("uint8", 0, 255) == PLAIN


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.3), (-0.3, 2.7)])
def test_a_range_ends_where_its_type_does(low, high, tmp_path):
    """Numpy's nearest half is within it, as it was in training, and the next one is not."""
    array = np.linspace(low, high, 40 * 64).astype(np.float16).reshape(40, 8, 8, 1)
    first, last = array.min(), array.max()
    assert float(first) < low
    data = load_dataset(settings(tmp_path, array, value_range=(low, high)), "all")
    assert judge(data, data, ["fd"], device="cpu").figures[0].value == pytest.approx(0, abs=1e-6)
    ends = data.values.from_unit(torch.tensor([[[[-1.5, -1.0, 1.0, 1.5]]]])).flatten()
    assert np.array_equal(ends.numpy(), np.stack([first, first, last, last]))
    for end, way in ((first, -np.inf), (last, np.inf)):
        beyond = np.nextafter(end, np.float16(way)).reshape(1, 1, 1, 1)
        with pytest.raises(ValueError, match=f"expected pictures within {low}..{high}, got"):
            data.values.check(torch.from_numpy(beyond), "pictures")


def test_numbers_that_a_type_does_not_hold_are_not_drawn():
    halves = ranged("float16", 0, 1e5).from_unit(torch.ones(1, 1, 1, 1))
    assert halves.item() == float(np.finfo(np.float16).max)
    whole = ranged("uint16", 0.5, 3.5).from_unit(torch.tensor([[[[-1.0, 1.0]]]]))
    assert whole.flatten().tolist() == [1, 3]


def test_each_channel_has_its_own_range():
    values = Values("float32", (0.5, 105.0), (0.5, 5.0))
    images = torch.tensor([[0.0, 100.0], [1.0, 110.0]]).view(2, 2, 1, 1)
    assert as_dataset(images, values=values).values == values
    images[1, 1] = 99.0
    with pytest.raises(ValueError, match=r"within 100..110, got 99 in picture 1"):
        as_dataset(images, values=values)


def test_whole_numbers_beyond_their_range_are_refused():
    images = torch.tensor([10, 4001]).to(torch.uint16).view(2, 1, 1, 1)
    with pytest.raises(
        ValueError, match=r"expected pictures within 0..4000, got 4001 in picture 1"
    ):
        as_dataset(images, values=ranged("uint16", 0, 4000))
    for values in (ranged("uint16", 0, 65535), Values("uint16", (9.0,), (1.0,), bounded=False)):
        assert as_dataset(images, values=values).values == values


def test_shown_are_the_channels_that_were_chosen():
    values = ranged("float32", 0, 1)
    images = torch.arange(5.0).view(1, 5, 1, 1).expand(2, 5, 3, 3) / 4
    assert values.shown(images)[0, :, 0, 0].tolist() == [0, 64, 128]
    assert values.shown(images, (4,))[0, :, 0, 0].tolist() == [255]
    assert values.shown(images[:, :2])[0, :, 0, 0].tolist() == [0]
    with pytest.raises(ValueError, match=r"channels to be shown in 0..4, got \[5\]"):
        values.shown(images, (5,))


@pytest.mark.parametrize(
    ("spoil", "more", "message"),
    [
        (np.nan, {}, r"1 of 40 .* stack.npy\[7\] \(nan at channel 2, row 1, column 3\)"),
        (-np.inf, {}, r"stack.npy\[7\] \(-inf at channel 2, row 1, column 3\)"),
        (
            9.0,
            {"value_range": (-3, 5)},
            r"stack.npy\[7\] \(9 at channel 2, .* is not within -3..5\)",
        ),
    ],
)
def test_numbers_that_cannot_be_used_are_named(spoil, more, message, tmp_path):
    array = stack("float32")
    array[7, 1, 3, 2] = spoil
    with pytest.raises(ValueError, match=message):
        prepare(settings(tmp_path, array, **more))
    left = prepare(settings(tmp_path, array, on_bad="skip", **more))
    assert sum(left.splits.values()) == 39


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image_size": (4, 4)}, "8 x 8 numbers, which are not resized"),
        ({"channels": 3}, "5 channels, which are not made 3"),
        ({"crop": (4, 4, 8, 8)}, "8 x 8 does not hold the crop"),
    ],
)
def test_numbers_are_not_resized_or_recoloured(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare(settings(tmp_path, stack("float32"), **more))
    cut = load_dataset(settings(tmp_path, stack("float32"), crop=(1, 2, 4, 5)))
    assert cut.images.shape[1:] == (5, 4, 5)


def test_floats_in_memory_need_their_meaning():
    floats = torch.rand(4, 5, 8, 8)
    with pytest.raises(ValueError, match="got float32 .* or say with values what the numbers mean"):
        as_dataset(floats)
    found = as_dataset(floats, values=ranged("float32", 0, 1))
    assert found.values.bounded
    with pytest.raises(ValueError, match="expected pictures within 0..0.1, got .* in picture 0"):
        as_dataset(floats, values=ranged("float32", 0, 0.1))


@pytest.mark.parametrize("kind", [torch.float64, torch.int16, torch.bfloat16, torch.int64])
def test_numbers_that_no_checkpoint_holds_are_refused(kind, tmp_path):
    """A run on such ones was trained to its end, and its checkpoints could not be opened."""
    name = str(kind).removeprefix("torch.")
    images = (torch.randn(20, 2, 8, 8) * 100).to(kind)
    message = rf"uint8, uint16, float16, float32, got '{name}'; convert them with .float\(\)"
    with pytest.raises(ValueError, match=f"expected numbers of {message}"):
        measured(images, name)
    with pytest.raises(ValueError, match=f"expected pictures of {message}"):
        as_dataset(images, values=Values(name, (0.0,), (400.0,)))
    pictures = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"expected pictures beside of {message}"):
        as_dataset(pictures, beside=images, beside_values=Values(name, (0.0,), (400.0,)))
    with pytest.raises(ValueError, match=f"expected pictures of {message}"):
        train(small_config(), tmp_path / "run", dataset=Dataset(images, values=Values(name)))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("offset", "scale", "message"),
    [
        ((0.0,), (0.0,), r"scales above 0, got \(0.0,\) and \(0.0,\)"),
        ((0.0,), (-2.0, 3.0), r"scales above 0, got"),
        ((np.inf,), (1.0,), "finite offsets of pictures"),
        ((0.0,), (np.nan,), "finite scales above 0"),
        ((0.0,) * 3, (2.0,) * 3, "expected 1 or 2 offsets of pictures, one for each .*, got 3"),
        ((0.0,), (), "expected 1 or 2 scales of pictures, .*, got 0"),
        (0.0, 1.0, "expected offset and scale of pictures as numbers, .*, got 0.0"),
    ],
)
def test_scales_that_no_checkpoint_holds_are_refused(offset, scale, message):
    with pytest.raises(ValueError, match=message):
        as_dataset(torch.rand(3, 2, 8, 8), values=Values("float32", offset, scale))


def test_scales_of_other_types_are_kept_as_floats(tmp_path):
    """As a checkpoint gives them back, or the run would not go on with its own pictures."""
    values = Values("float32", [np.float32(0.5), 1], torch.tensor([1.0, 2.0]))
    dataset = as_dataset(torch.rand(20, 2, 8, 8), values=values)
    assert dataset.values == Values("float32", (0.5, 1.0), (1.0, 2.0))
    train(override(small_config(), {"guidance": 0.0}), tmp_path, dataset=dataset, device="cpu")
    assert load(tmp_path, "cpu").shape.values == dataset.values


def test_a_type_that_values_do_not_name_is_told():
    with pytest.raises(ValueError, match="expected float16 pictures .* as values say, got float32"):
        as_dataset(torch.rand(3, 1, 8, 8), values=ranged("float16", 0, 1))


def test_a_checkpoint_of_more_scales_than_channels_is_refused():
    told = {"dtype": "float32", "offset": [0.0] * 3, "scale": [1.0] * 3, "bounded": True}
    shape = {"channels": 1, "height": 8, "width": 8, "class_names": [], "values": told}
    with pytest.raises(ValueError, match="expected 1 offsets of values, .*, got 3"):
        parse_shape(json.dumps(shape))


@pytest.fixture(scope="module", params=["range", "deviation"])
def run(request, tmp_path_factory):
    """A run on five channels of floats."""
    place = tmp_path_factory.mktemp(request.param)
    data = settings(place, stack("float32"), standardise=request.param == "deviation",
                    shown_channels=(1, 2, 4))  # fmt: skip
    config = override(small_config(), {**vars(data), "guidance": 0.0, "eval_every": 4,
                                       "eval_num": 20, "preview_every": 4})  # fmt: skip
    train(config, place / "run", device="cpu")
    return place


def test_five_channels_of_floats_are_trained_drawn_and_judged(run):
    trained = load(run / "run", "cpu")
    data = load_dataset(trained.config.data)
    assert trained.shape == find_checkpoint(run / "run").shape
    assert trained.shape.values == data.values
    drawn = trained.sample(6, steps=2)
    assert (drawn.images.dtype, drawn.images.shape) == (torch.float32, (6, 5, 8, 8))
    span = 1.001 * data.values.scale[0]
    if data.values.bounded:
        assert (drawn.images - data.values.offset[0]).abs().max() <= span
    else:
        assert data.values.to_unit(drawn.images).abs().max() > 1  # deviations are not cut at one
    with pytest.raises(ValueError, match="expected 8-bit pictures, grey or RGB, got float32 of 5"):
        drawn.pil()
    found = judge(data, trained, ["fd", "pr", "loss"], num=20, device="cpu")
    assert [figure.key for figure in found.figures] == ["frechet_distance", "precision", "recall"]
    with pytest.raises(ValueError, match="bpd needs the 256 levels of 8-bit pictures, got float32"):
        judge(data, trained, "bpd", num=20, device="cpu")
    with pytest.raises(
        ValueError, match="expected real pictures of float32, as the others are, got"
    ):
        judge("dataset:digits", trained, "fd", num=20, device="cpu")
    if data.values.bounded:
        far = data._replace(images=data.images[:] + 100)
        with pytest.raises(
            ValueError, match="expected real pictures within .*, got .* in picture 0"
        ):
            judge(far, trained, "fd", num=20, device="cpu")


@pytest.mark.parametrize("kind", ["npz", "npy", "tiff", "safetensors"])
def test_drawn_numbers_are_written_as_they_are(run, kind, tmp_path):
    trained = load(run / "run", "cpu")
    draws = trained.draws(5, steps=2, batch=2)
    (written,) = write_samples(draws, tmp_path / "out", kind)
    assert written.shown.name == "grid.png"
    assert (tmp_path / "out" / "denoising.webp").is_file()
    again = read_of[kind](tmp_path / "out")
    assert again.dtype == np.float32
    assert np.array_equal(again, draws.all().images.numpy())
    data = load_dataset(trained.config.data)
    found = judge(data, str(tmp_path / "out"), "fd", device="cpu")
    assert found.figures[0].value == judge(data, draws, "fd", device="cpu").figures[0].value
    with pytest.raises(ValueError, match="expected fake pictures of uint8, as the others are, got"):
        judge("dataset:digits", str(tmp_path / "out"), "fd", device="cpu")
    if kind == "npz":
        assert torch.equal(read_pictures(str(tmp_path / "out/samples.npz")).images,
                           draws.all().images)  # fmt: skip


@pytest.mark.parametrize("kind", ["npz", "npy", "tiff", "safetensors"])
def test_drawn_halves_are_judged_from_any_format(kind, tmp_path):
    array = stack("float16", channels=2)
    data = load_dataset(settings(tmp_path, array, name=f"{kind}.npy"))
    network = untrained(override(small_config(), {"guidance": 0.0}), shape_of(data))
    draws = network.draws(5, steps=1)
    write_samples(draws, tmp_path / "out", kind, animate=False)
    found, wanted = (judge(data, side, "fd", device="cpu").figures[0].value
                     for side in (str(tmp_path / "out"), draws))  # fmt: skip
    assert found == wanted
    again = read_of[kind](tmp_path / "out").astype(np.float32)
    assert np.array_equal(again, draws.all().images.float().numpy())


def from_tiff(out):
    """By Pillow, page by page."""
    from PIL import Image, ImageSequence

    found = []
    for path in sorted((out / "images").glob("*.tiff")):
        with Image.open(path) as picture:
            found.append(np.stack([np.array(page) for page in ImageSequence.Iterator(picture)]))
    return np.stack(found)


def from_safetensors(out):
    from safetensors.numpy import load_file

    return load_file(out / "samples.safetensors")["images"]


read_of = {
    "npz": lambda out: np.moveaxis(np.load(out / "samples.npz")["arr_0"], -1, 1),
    "npy": lambda out: np.moveaxis(np.load(out / "samples.npy", mmap_mode="r"), -1, 1),
    "tiff": from_tiff,
    "safetensors": from_safetensors,
}


def test_png_does_not_hold_them(run, tmp_path):
    trained = load(run / "run", "cpu")
    with pytest.raises(
        ValueError, match="expected format npz, npy, tiff or safetensors for float32"
    ):
        write_samples(trained.draws(2, steps=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_conditions_of_numbers_are_in_their_units(tmp_path):
    data = settings(tmp_path, stack("float32"), condition="downscale:2", value_range=(-4, 6))
    shape = shape_of(load_dataset(data))
    trained = untrained(override(small_config(), {**vars(data), "guidance": 0.0}), shape)
    given = trained.condition(load_dataset(data), 4).image
    x0 = (load_dataset(data).images[:4] - 1) / 5
    small = torch.nn.functional.avg_pool2d(x0, 2)
    again = torch.nn.functional.interpolate(small, size=(8, 8), mode="bicubic")
    torch.testing.assert_close(given[:, :5], again, rtol=1e-5, atol=1e-5)
    np.save(tmp_path / "small.npy", np.full((2, 4, 4, 5), 6.5, np.float32))
    with pytest.raises(ValueError, match="condition .* within -4..6, got 6.5 in picture 0"):
        trained.condition(tmp_path / "small.npy")
    with pytest.raises(ValueError, match="expected condition .* to be of float32, got uint8"):
        trained.condition("dataset:digits:test")


def test_a_resumed_run_knows_other_numbers(run, tmp_path):
    config = find_checkpoint(run / "run").config
    data = settings(tmp_path, stack("float32") * 2)
    changed = override(config, {"dataset": data.dataset, "steps": 6})
    with pytest.raises(ValueError, match="is not what .* was begun with: other numbers float32"):
        train(changed, run / "run", device="cpu", resume=True)


def test_other_kinds_are_other_data():
    """The same bytes and another meaning."""
    from vfn.data import data_digest

    images = torch.zeros(2, 1, 4, 4)
    one, other = (Dataset(images, values=ranged("float32", 0, high)) for high in (1, 2))
    assert data_digest(one) != data_digest(other)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_range_of_whole_numbers_of_8_bits_counts(channels, tmp_path):
    array = np.full((10, 8, 8, channels), 10, np.uint8)
    array[0] = 20
    found = load_dataset(settings(tmp_path, array, value_range=(0.0, 20.0)), "all")
    assert found.values == ranged("uint8", 0, 20)
    assert sorted(found.values.to_unit(found.images).unique().tolist()) == [0, 1]
    assert not load_dataset(settings(tmp_path, array, standardise=True)).values.bounded
    with pytest.raises(ValueError, match=r"20 at .* is not within 0..15"):
        load_dataset(settings(tmp_path, array, value_range=(0.0, 15.0)))


@pytest.mark.parametrize("given", [{"value_range": (0.0, 9.0)}, {"standardise": True}])
def test_what_pictures_mean_is_not_to_be_said(given, tmp_path):
    from PIL import Image

    from vfn.data import from_items

    (tmp_path / "pictures").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "pictures" / "a.png")
    message = f"expected --{next(iter(given)).replace('_', '-')} with numbers of an array"
    for name in ("digits", str(tmp_path / "pictures")):
        with pytest.raises(ValueError, match=message):
            load_dataset(DataConfig(dataset=name, data_dir=str(tmp_path), **given))
    with pytest.raises(ValueError, match=message):
        from_items([Image.new("L", (8, 8))], DataConfig(**given))


def test_a_channel_that_is_the_same_everywhere_is_moved_and_not_scaled():
    images = torch.tensor([2.0, 5.0]).view(1, 2, 1, 1) * torch.ones(3, 2, 2, 2)
    images[:, 1, 0] = 7.0
    values = measured(images, "float32", standardise=True)
    assert (values.offset, values.scale) == ((2.0, 6.0), (1.0, 1.0))
    assert not values.to_unit(images)[:, 0].any()
