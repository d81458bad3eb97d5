"""Steps are laid out so that they fit into memory; the trajectory stays the same."""

import pytest

from tests.helpers.processes import entries
from vfn.configs import Config, ModelConfig, load, override
from vfn.data import load_dataset
from vfn.distributed import ALONE
from vfn.footprint import Footprint
from vfn.model import DataShape, shape_of
from vfn.runs import RunFiles, find_checkpoint
from vfn.train import layout, train
from vfn.train.layout import AT_ONCE, fitted

SHAPE = DataShape(3, 32, 32)
BATCH = 48


@pytest.fixture
def wide(config):
    return override(config, {"batch_size": BATCH, "sample_batch": 8})


@pytest.fixture
def free(monkeypatch):
    """``free(bytes)``: as many are free from now on."""

    def now(size):
        monkeypatch.setattr(layout, "free_memory", lambda _device: size and round(size))

    return now


def step(config, pictures):
    return Footprint(config, SHAPE).step(pictures)


def test_what_fits_is_left_in_one_piece(wide, free, capsys):
    for size in (10**15, step(wide, BATCH) / 0.89, None):
        free(size)
        found = fitted(wide, SHAPE, ALONE)
        assert found == override(wide, {"accumulate": 1})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("share", "parts"), [(0.8, 2), (0.3, 4), (0.15, 8)])
def test_a_batch_goes_into_as_few_parts_as_fit(wide, free, capsys, share, parts):
    """Parts are of equal size, and the estimate of one is within nine tenths of what is free."""
    free(share * step(wide, BATCH))
    found = fitted(wide, SHAPE, ALONE)
    assert found == override(wide, {"accumulate": parts})
    assert step(wide, BATCH // parts) < 0.9 * share * step(wide, BATCH)
    line = capsys.readouterr().err
    assert f"with {BATCH} pictures at once" in line
    assert f": {parts} micro-batches of {BATCH // parts} (--accumulate {parts})\n" in line


def test_a_number_that_is_named_stays_and_is_warned_of(wide, free, capsys):
    named = override(wide, {"accumulate": 2})
    free(0.95 * step(wide, BATCH // 2))
    assert fitted(named, SHAPE, ALONE) == named
    line = capsys.readouterr().err
    assert "with 24 pictures at once" in line
    assert line.endswith("are free; if it fails, use --accumulate 3\n")


def test_what_clearly_does_not_fit_is_refused(wide, free):
    """A quarter above what is free: so far an estimate is not wrong."""
    named = override(wide, {"accumulate": 1})
    free(step(wide, BATCH) / 1.27)
    with pytest.raises(ValueError, match=r"takes about [\d.]+ MB.* are free; use --accumulate 2$"):
        fitted(named, SHAPE, ALONE)
    free(step(wide, BATCH) / 1.23)
    assert fitted(named, SHAPE, ALONE) == named
    free(step(wide, BATCH) / 2)
    compiled = override(named, {"compile": True})  # keeps less than is estimated
    assert fitted(compiled, SHAPE, ALONE) == compiled


def test_one_picture_that_does_not_fit_is_refused(wide, free, capsys):
    small = override(wide, {"sample_batch": 1})
    one = step(small, 1)
    free(one / 1.1)
    assert fitted(small, SHAPE, ALONE).train.accumulate == BATCH
    assert "with 1 picture at once" in capsys.readouterr().err
    large = DataShape(3, 512, 512)
    need = Footprint(small, large).step(1)
    free(need / 1.3)
    with pytest.raises(ValueError, match="1 picture at once.*--checkpoint-activations true, small"):
        fitted(small, large, ALONE)


def test_parameters_that_do_not_fit_are_refused_at_once(wide, free, monkeypatch):
    monkeypatch.setattr(Footprint, "step", None)
    huge = override(wide, {"hid_channels": 2**14, "ch_multipliers": (256,)})
    free(10**11)
    with pytest.raises(ValueError, match="for its parameters alone, and 100 GB are free; use a"):
        fitted(huge, SHAPE, ALONE)
    size = 5 * Footprint(wide, SHAPE).parameters  # average, two moments and gradients beside them
    free(size / 1.3)
    with pytest.raises(ValueError, match="for its parameters alone"):
        fitted(wide, SHAPE, ALONE)


@pytest.mark.parametrize(
    ("settings", "teachers"),
    [({}, 1), ({"teacher_guide_with": "2", "teacher_guide_weight": 1.0}, 2)],
)
def test_a_student_s_teachers_take_their_place(wide, free, capsys, settings, teachers):
    """They come to the device when the layout is chosen."""
    steps = {"teacher_steps": 8, "student_steps": 4}
    student = override(wide, {**steps, "sample_batch": 1, **settings})
    fits = Footprint(student, SHAPE, frozen=teachers).step(BATCH) / 0.9
    free(fits + 10)
    assert fitted(student, SHAPE, ALONE).train.accumulate == 1
    free(fits - 10)
    assert fitted(student, SHAPE, ALONE).train.accumulate == 2
    capsys.readouterr()
    state = 5 + teachers  # copies: parameters, average, two moments and gradients beside them
    free(state * Footprint(wide, SHAPE).parameters / 1.27)
    with pytest.raises(ValueError, match="for its parameters alone"):
        fitted(student, SHAPE, ALONE)


def test_sampling_on_the_way_fits_too(wide, free, capsys):
    many = override(wide, {"sample_batch": 1000, "accumulate": BATCH})
    size = Footprint(many, SHAPE).draw(AT_ONCE * 1000, state=True)
    free(size / 0.89)
    assert fitted(many, SHAPE, ALONE) == many
    assert capsys.readouterr().err == ""
    free(size / 4)
    found = fitted(many, SHAPE, ALONE).sample.sample_batch
    assert 150 < found < 260
    assert f"{found} at a time (--sample-batch {found})" in capsys.readouterr().err


def test_a_network_that_nobody_knows_is_left_alone(free):
    network = "tests.test_footprint:Looking"
    config = Config(model=ModelConfig(network=network))
    free(10**6)
    assert fitted(config, SHAPE, ALONE).train.accumulate == 1


def test_a_run_takes_the_layout_and_keeps_it(config, free, tmp_path):
    """The losses are those of a run in one piece, and a resumed run goes on as it was begun."""
    config = override(config, {"steps": 3, "preview_every": 0})
    footprint = Footprint(config, shape_of(load_dataset(config.data)))
    train(config, tmp_path / "whole", device="cpu")
    free(0.75 * footprint.step(16))
    train(override(config, {"steps": 2}), tmp_path / "parts", device="cpu")
    saved = load(str(RunFiles(tmp_path / "parts").config))
    assert saved.train.accumulate > 1
    assert find_checkpoint(tmp_path / "parts").config == saved
    free(None)
    train(config, tmp_path / "parts", device="cpu", resume=True)
    again = load(str(RunFiles(tmp_path / "parts").config))
    assert again.train.accumulate == saved.train.accumulate
    losses = [
        [entry["loss"] for entry in entries(tmp_path / name, "loss")] for name in ("whole", "parts")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_layout_that_a_run_has_saved_is_not_one_that_is_named(config, free, tmp_path):
    """It goes on where less memory is free; another number is named, and stays."""
    config = override(config, {"steps": 1, "preview_every": 0, "batch_size": 24})
    shape = shape_of(load_dataset(config.data))
    little = Footprint(config, shape).step(4)
    train(override(config, {"accumulate": 2}), tmp_path, device="cpu")
    saved = load(str(RunFiles(tmp_path).config))
    free(little)
    anew = fitted(config, shape, ALONE).train.accumulate
    assert anew > 3
    for size, accumulate, parts in ((little, 2, anew), (None, anew, anew), (None, 3, 3)):
        free(size)
        asked = override(saved, {"steps": saved.train.steps + 1, "accumulate": accumulate})
        train(asked, tmp_path, device="cpu", resume=True)
        saved = load(str(RunFiles(tmp_path).config))
        assert saved.train.accumulate == parts
    free(little)
    with pytest.raises(ValueError, match=f"with 12 pictures at once.*use --accumulate {anew}$"):
        train(override(asked, {"accumulate": 2}), tmp_path, device="cpu", resume=True)


def test_a_run_that_does_not_fit_leaves_nothing(config, free, tmp_path):
    free(10**5)
    with pytest.raises(ValueError, match="for its parameters alone"):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_parts_of_before_that_do_not_divide_a_share_are_forgotten(wide, free):
    """As of a run that goes on with another batch, or on other processes."""
    free(None)
    found = [fitted(wide, SHAPE, ALONE, before=before).train.accumulate for before in (3, 5)]
    assert found == [3, 1]


def test_parts_of_before_stay_unless_they_clearly_do_not_fit(wide, free, capsys):
    """For the same bits: what is free is another number at each start."""
    for share, parts in ((1.2, 2), (1.3, 3)):
        free(step(wide, BATCH // 2) / share)
        assert fitted(wide, SHAPE, ALONE, before=2).train.accumulate == parts
        assert fitted(wide, SHAPE, ALONE).train.accumulate == 3
        assert fitted(wide, SHAPE, ALONE, before=1).train.accumulate == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("are free; if it fails, use --accumulate 3")
