"""Checkpoints: whole or refused by name; the newest intact one wins."""

import pickle

import pytest
import torch

from vfn.configs import override
from vfn.data import load_dataset
from vfn.model import build_model, shape_of
from vfn.runs.checkpoint import (
    checkpoint_files,
    find_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from vfn.train.state import init_state, restore

SHAPE = shape_of(load_dataset("digits"))


def fresh_state(config, seed=0):
    torch.manual_seed(seed)
    return init_state(build_model(config, SHAPE), config.train)


@pytest.fixture
def state(config):
    state = fresh_state(config)
    for param in state.params.values():
        param.grad = torch.randn_like(param)
    state.optimizer.step()
    state.step = 7
    state.counters["updates"] += 7
    return state


@pytest.fixture
def saved(tmp_path, state, config):
    return save_checkpoint(tmp_path / "checkpoints", state, config, SHAPE, keep=3)


def test_round_trip_is_exact(saved, state, config):
    found = load_checkpoint(saved)
    other = fresh_state(config, seed=1)
    restore(other, found)
    assert (found.step, found.config, found.shape) == (7, config, SHAPE)
    for name, param in state.params.items():
        assert torch.equal(other.params[name], param)
        assert torch.equal(other.ema[name], state.ema[name])
        for kind in ("exp_avg", "exp_avg_sq", "step"):
            ours, theirs = state.optimizer.state[param], other.optimizer.state[other.params[name]]
            expected = torch.tensor(7.0) if kind == "step" else ours[kind]
            assert torch.equal(theirs[kind], expected)


def test_only_the_newest_are_kept(tmp_path, state, config):
    for step in range(5):
        state.step = step
        save_checkpoint(tmp_path, state, config, SHAPE, keep=2)
    assert [f.name for f in checkpoint_files(tmp_path)] == [
        "step-00000004.safetensors",
        "step-00000003.safetensors",
    ]
    assert len(list(tmp_path.iterdir())) == 2  # no temporary file is left


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def code(path):
    path.write_bytes(pickle.dumps(print))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, code, empty])
def test_damaged_files_are_refused_by_name_and_passed_over(saved, state, config, damage):
    state.step = 8
    newer = save_checkpoint(saved.parent, state, config, SHAPE, keep=3)
    damage(newer)
    with pytest.raises(ValueError, match=f"{newer.name} is damaged"):
        load_checkpoint(newer)
    heard = []
    assert newest_checkpoint(saved.parent, heard.append).step == 7
    assert len(heard) == 1
    assert newer.name in heard[0]


def test_another_architecture_is_refused_with_names_and_shapes(saved, config):
    wider = override(config, {"hid_channels": 64})
    with pytest.raises(ValueError, match=r"differ: .* is \(32,\), expected \(64,\)"):
        restore(fresh_state(wider), load_checkpoint(saved))


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        find_checkpoint(tmp_path / "missing")
    with pytest.raises(ValueError, match="no intact checkpoint"):
        find_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_last_one(saved, state, config, monkeypatch):
    def full(_fd):
        raise OSError(28, "No space left on device")

    state.step = 8
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved.parent, state, config, SHAPE, keep=1)
    assert [f.name for f in saved.parent.iterdir()] == [saved.name]
    assert load_checkpoint(saved).step == 7
