"""Where else the log goes."""

import subprocess
import sys

import pytest

from tests.helpers.processes import logged, losses
from vfn.configs import override
from vfn.train import TRACKERS, train

LIGHT = """
import sys
import vfn.train.trackers, vfn.train.observers, vfn.train.distillation.methods
print(*sorted({"torch", "tensorboard", "vfn.train.loop"} & sys.modules.keys()))
"""


def test_tensorboard_gets_the_numbers_of_the_log(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(override(config, {"trackers": ("tensorboard",)}), tmp_path, device="cpu")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in losses(tmp_path).items()]
    assert "held_out_loss" in events.Tags()["scalars"]


def test_a_tracker_of_somebody_else(config, tmp_path):
    settings = {"trackers": ("tests.helpers.outside:Lines",), "steps": 2}
    train(override(config, settings), tmp_path, device="cpu")
    train(override(config, {**settings, "steps": 3}), tmp_path, resume=True, device="cpu")
    first, second = logged(tmp_path)[:2], logged(tmp_path)[3:]
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert lines[:2] == [f"0 {e['step']} {len(e)}" for e in first]
    assert lines[-2:] == [f"2 {e['step']} {len(e)}" for e in second]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("board", "unknown tracker 'board', expected one of tensorboard, or package.module:Name"),
        ("nowhere.at:All", r"nowhere.at:All cannot be imported \(ModuleNotFoundError"),
        ("tests.helpers.outside:Nobody", "there is no Nobody in tests.helpers.outside"),
    ],
)
def test_trackers_that_do_not_exist_are_refused_before_anything_is_written(
    config, tmp_path, word, message
):
    with pytest.raises(ValueError, match=message) as refused:
        train(override(config, {"trackers": (word,)}), tmp_path / "run", device="cpu")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_missing_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[tensorboard\]' in the clone"):
        train(override(config, {"trackers": ("tensorboard",)}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_factory_has_to_give_an_observer(config, tmp_path):
    settings = {"trackers": ("tests.helpers.outside:nothing",)}
    with pytest.raises(ValueError, match="to give an Observer, got NoneType"):
        train(override(config, settings), tmp_path, device="cpu")


def test_every_tracker_of_the_table_is_there_and_says_what_it_is():
    for entry in TRACKERS.values():
        assert callable(entry.load())
        assert entry.text


def test_tables_are_read_without_torch():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
