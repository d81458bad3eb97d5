"""Stored statistics stand for their pictures."""

from inspect import Parameter, signature

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import SMALL
from tests.helpers.processes import killed_while_writing
from vfn.configs import load, override
from vfn.data import as_dataset, hold_out, load_dataset
from vfn.data.values import Values
from vfn.evaluation.judging import judge
from vfn.evaluation.stored import store_reference
from vfn.model import DataShape, shape_of
from vfn.sampling import untrained, write_samples


def test_stored_statistics_give_the_figures_of_the_pictures(tmp_path):
    out = tmp_path / "r.npz"
    stored = store_reference("dataset:digits", out, device="cpu")
    assert stored == (out, 1437, True)
    assert stored.line == f"{out}: mean, covariance and features of 1437 pictures"
    one, other = (
        judge(side, "dataset:digits:test", "fid,kid,pr,dc", bootstrap=3, device="cpu")
        for side in ("dataset:digits", out)
    )
    assert one.figures == other.figures
    low, high = one.figure("precision").interval
    assert low < one.figure("precision").value < high
    assert one.figure("kernel_distance").error > 0


def numbers(kind, values):
    """Pictures of other numbers than grey levels, with one value for each channel or for all."""
    draw = np.random.default_rng(0).integers(10, 200, (40, 2, 4, 4))
    return as_dataset(torch.from_numpy(draw).to(getattr(torch, kind)), values=values)


OTHERS = {
    "uint16": Values("uint16", (400.0,), (400.0,)),
    "float32": Values("float32", (90.0, 110.0), (30.0, 50.0), bounded=False),
    "uint8": Values("uint8", (150.0,), (150.0,)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_stored_statistics_are_in_units_of_their_data(kind, tmp_path):
    """By numpy; and the figures of the pictures themselves, whichever side they stand for."""
    values, out = OTHERS[kind], str(tmp_path / "r.npz")
    data = numbers(kind, values)
    store_reference(data, out, device="cpu")
    offset, scale = (np.array(each).reshape(-1, 1, 1) for each in (values.offset, values.scale))
    expected = ((data.images.numpy() - offset) / scale + 1) / 2
    with np.load(out) as file:
        np.testing.assert_allclose(file["features"], expected.reshape(40, -1), rtol=1e-5, atol=1e-6)
    few = data.rows(torch.arange(25))
    for sides in ((data, few), (few, data)):
        stored = [out if side is data else side for side in sides]
        one, other = (judge(*each, "fid,kid,pr", device="cpu") for each in (sides, stored))
        assert [figure.value for figure in one.figures] == [f.value for f in other.figures]


def network(values):
    settings = {**SMALL, "guidance": 0.0}
    return untrained(override(load("digits"), settings), DataShape(2, 4, 4, values=values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (Values("float32", (90.0,), (31.0,), bounded=False), "float32, standardised scaled other"),
        (Values("float32", (100.0,), (500.0,)), "standardised, and this evaluation float32, -400 "),
    ],
)
def test_statistics_in_other_units_are_refused(values, message, tmp_path):
    out = str(tmp_path / "r.npz")
    store_reference(numbers("float32", OTHERS["float32"]), out, device="cpu")
    with pytest.raises(ValueError, match=f"r.npz has features of numbers .*{message}"):
        judge(out, network(values), "fid", num=4, device="cpu")
    assert judge(out, network(OTHERS["float32"]), "fid", num=4, device="cpu").figures[0].value > 0


@pytest.mark.parametrize("kind", ["drawn", "written"])
def test_numbers_that_say_nothing_of_themselves_are_not_stored(kind, tmp_path):
    """As statistics of grey levels they would be held to such."""
    draws = network(Values("uint16", (32767.5,), (32767.5,))).draws(4, steps=1)
    given = draws.all()
    if kind == "written":
        given = str(tmp_path / "samples")
        write_samples(draws, given, kind="npz")
    with pytest.raises(ValueError, match=r"whose numbers have a meaning, got uint16; give vfn\.d"):
        store_reference(given, str(tmp_path / "r.npz"), device="cpu")
    assert not (tmp_path / "r.npz").exists()


def test_statistics_without_units_are_of_grey_levels(tmp_path):
    """Those of earlier versions, and of others."""
    np.savez(tmp_path / "a.npz", mu=np.zeros(32), sigma=np.eye(32))
    with pytest.raises(ValueError, match="of numbers uint8, 0 to 255, and this .* standardised;"):
        judge(tmp_path / "a.npz", network(OTHERS["float32"]), "fid", num=4, device="cpu")


def test_mean_and_covariance_alone_serve_the_distance(held_out, tmp_path):
    stored = store_reference(held_out, tmp_path / "a.npz", keep=False, device="cpu")
    assert not stored.kept
    found = judge(tmp_path / "a.npz", "dataset:digits:test", "fid", device="cpu")
    assert found.figures[0].value == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="these statistics hold only mean and covariance"):
        judge(tmp_path / "a.npz", "dataset:digits:test", "pr", device="cpu")


def test_files_of_pytorch_fid_serve_the_distance(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.eye(64))
    found = judge(tmp_path / "a.npz", "dataset:digits:test", "fid", device="cpu")
    assert found.figures[0].title == "Fréchet distance (pixels)"


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("new/r.txt", {}, "expected --out to end in .npz"),
        ("new/r.npz", {"features": "x"}, "unknown features 'x'"),
    ],
)
def test_mistakes_leave_nothing_behind(held_out, tmp_path, out, options, message):
    with pytest.raises(ValueError, match=message):
        store_reference(held_out, tmp_path / out, device="cpu", **options)
    assert [*tmp_path.iterdir()] == []


def test_the_next_one_clears_what_a_killed_one_left(held_out, tmp_path):
    out = tmp_path / "r.npz"
    killed_while_writing(out)
    store_reference(held_out, out, device="cpu")
    assert [*tmp_path.iterdir()] == [out]
    assert judge(out, held_out, "fid", device="cpu").figures[0].value == pytest.approx(0, abs=1e-7)


def test_one_picture_has_no_covariance(held_out, tmp_path):
    with pytest.raises(ValueError, match="a covariance needs at least 2 pictures, got 1"):
        store_reference(held_out.images[:1], tmp_path / "r.npz", device="cpu")


def test_statistics_of_another_shape_are_refused(held_out, tmp_path):
    """Even where they have as many values."""
    flat = held_out._replace(images=held_out.images.reshape(-1, 1, 4, 16))
    store_reference(flat, tmp_path / "r.npz", device="cpu")
    with pytest.raises(ValueError, match=r"of one shape, got \[\(1, 4, 16\), \(1, 8, 8\)\]"):
        judge(tmp_path / "r.npz", "dataset:digits:test", "fid", device="cpu")


def test_a_data_set_is_known_however_its_path_is_written(tmp_path, monkeypatch):
    from vfn.configs import DataConfig
    from vfn.data import spec_settings

    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    like = DataConfig(dataset="d", image_size=(16,), test_share=0.5)
    for name in ("d", "d/", "./d", str(tmp_path / "d"), "../" + tmp_path.name + "/d"):
        assert spec_settings(f"dataset:{name}", like).image_size == (16,)
    assert spec_settings("dataset:other", like).image_size is None


def test_what_all_evaluations_take_goes_by_name():
    kinds = {name: each.kind for name, each in signature(store_reference).parameters.items()}
    by_name = ["run", "keep", "weights", "image_size", "device", "data_dir"]
    assert [name for name, kind in kinds.items() if kind is Parameter.KEYWORD_ONLY] == by_name


@pytest.mark.parametrize(
    "settings", [{"standardise": True}, {"value_range": (-20.0, 30.0), "crop": (1, 0, 4, 4)}]
)
def test_statistics_beside_a_run_are_in_its_units(settings, tmp_path):
    """Of a split that was not trained on, by numpy; and the figures of `judge` beside the run."""
    draw = np.random.default_rng(0).normal(3, 5, (60, 6, 5, 1)).clip(-20, 30).astype(np.float32)
    np.save(tmp_path / "numbers.npy", draw)
    model = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,)}
    named = {"dataset": str(tmp_path / "numbers.npy"), "data_dir": str(tmp_path / "home")}
    config = override(load("digits"), {**model, **named, **settings, "test_share": 0.5})
    data = load_dataset(config.data)
    trained = untrained(config, shape_of(data))
    spec, out = f"dataset:{tmp_path / 'numbers.npy'}:test", tmp_path / "r.npz"
    assert store_reference(spec, out, run=trained, device="cpu").pictures == 30
    kept = draw[hold_out(60, "test", 0.5).numpy()]
    if "crop" in settings:
        kept, offset, scale = kept[:, 1:5, :4], 5, 25
    else:
        first = draw[hold_out(60, "train", 0.5).numpy()].astype(np.float64)
        offset, scale = first.mean(), first.std()
    expected = ((kept.astype(np.float64) - offset) / scale + 1) / 2
    with np.load(out) as file:
        np.testing.assert_allclose(file["features"], expected.reshape(30, -1), atol=1e-5)
    drawn = trained.draws(30, steps=1, guidance=0)
    stored, whole = (judge(side, drawn, "fid", device="cpu") for side in (out, spec))
    assert stored.figure("frechet_distance").value == whole.figure("frechet_distance").value


def test_a_run_is_not_taken_for_its_real_pictures(tmp_path):
    """Its folder holds sample grids, which were read as pictures."""
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text("")
    (tmp_path / "run" / "log.jsonl").write_text("")
    for real in (tmp_path / "run", f"run:{tmp_path / 'run'}"):
        with pytest.raises(ValueError, match=r"got the run .*; its own are dataset:NAME.* --run"):
            store_reference(real, tmp_path / "r.npz", device="cpu")
