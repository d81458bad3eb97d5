"""Checkpoints: whole or refused by name; the newest intact one wins."""

import json
import os
import pickle
import subprocess
import sys
from textwrap import dedent

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.helpers.processes import killed_while_writing
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn import files
from vfn.configs import override
from vfn.data import Labels
from vfn.model import build_model
from vfn.runs import (
    RunFiles,
    check_usable,
    export_model,
    find_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from vfn.runs.checkpoint import write_tensors

# Tensors of a checkpoint by the names of its parts.
PARTS = {
    "params": lambda c: c.params,
    "ema": lambda c: c.ema,
    "exp_avg": lambda c: c.moments["exp_avg"],
    "exp_avg_sq": lambda c: c.moments["exp_avg_sq"],
    "counters": lambda c: c.counters,
}


@pytest.fixture
def run(tmp_path):
    return RunFiles(tmp_path / "run")


@pytest.fixture
def checkpoint():
    return small_checkpoint(step=7)


@pytest.fixture
def saved(run, checkpoint):
    return save_checkpoint(run, checkpoint, keep=3)


def test_round_trip_is_exact(saved, checkpoint):
    found = load_checkpoint(saved)
    assert (found.step, found.config, found.shape) == (7, small_config(), SHAPE)
    for part in PARTS.values():
        assert part(found).keys() == part(checkpoint).keys()
        for name, value in part(checkpoint).items():
            assert torch.equal(part(found)[name], value)


def test_a_training_state_survives(run):
    from vfn.train.state import checkpoint_of, init_state, restore

    def fresh(seed):
        torch.manual_seed(seed)
        return init_state(build_model(small_config(), SHAPE), small_config().train)

    state, other = fresh(0), fresh(1)
    for param in state.params.values():
        param.grad = torch.randn_like(param)
    state.optimizer.step()
    state.step = 7
    state.counters["updates"] += 7
    saved = save_checkpoint(run, checkpoint_of(state, small_config(), SHAPE), keep=3)
    restore(other, load_checkpoint(saved))
    for name, param in state.params.items():
        assert torch.equal(other.params[name], param)
        assert torch.equal(other.ema[name], state.ema[name])
        for kind in ("exp_avg", "exp_avg_sq", "step"):
            ours, theirs = state.optimizer.state[param], other.optimizer.state[other.params[name]]
            assert torch.equal(theirs[kind], ours[kind])


@pytest.mark.parametrize(
    "legend", [Labels(), Labels(("a", "b c")), Labels(("x+y", "ü"), tags=True)], ids=str
)
def test_labels_are_kept(tmp_path, legend):
    shape = SHAPE._replace(channels=3, height=4, legend=legend)
    write_checkpoint(tmp_path / "a", small_checkpoint(shape=shape))
    assert load_checkpoint(tmp_path / "a").shape == shape


@pytest.mark.parametrize("keep", [0, -1, 1.5, "2", True])
def test_at_least_the_one_that_is_written_is_kept(run, keep):
    save_checkpoint(run, small_checkpoint(step=1), keep=1)
    with pytest.raises(ValueError, match="expected keep to be a whole number of at least 1, got"):
        save_checkpoint(run, small_checkpoint(step=2), keep=keep)
    assert [*run.checkpoint_steps()] == [1]


def test_only_the_newest_are_kept(run):
    for step in range(5):
        save_checkpoint(run, small_checkpoint(step=step), keep=2)
    assert run.checkpoint_files() == [run.checkpoint(4), run.checkpoint(3)]
    assert len(list(run.checkpoints.iterdir())) == 2  # no temporary file is left


def test_the_best_one_is_not_counted(run):
    write_checkpoint(run.best, small_checkpoint(step=1))
    for step in range(3):
        save_checkpoint(run, small_checkpoint(step=step), keep=1)
    assert {path.name for path in run.checkpoints.iterdir()} == {
        run.best.name, run.checkpoint(2).name
    }  # fmt: skip
    assert find_checkpoint(run.best).step == 1
    assert find_checkpoint(run.path).step == 2


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
def test_damaged_files_are_refused_by_name_and_passed_over(saved, run, capsys, damage):
    newer = save_checkpoint(run, small_checkpoint(step=8), keep=3)
    damage(newer)
    with pytest.raises(ValueError, match=f"{newer.name} is damaged"):
        load_checkpoint(newer)
    assert saved.exists()
    assert newest_checkpoint(run).step == 7
    heard = capsys.readouterr().err.splitlines()
    assert len(heard) == 1
    assert newer.name in heard[0]


def test_if_all_are_damaged_that_is_said(saved, run):
    truncate(saved)
    with pytest.raises(ValueError, match=f"{saved.name} is damaged"):
        newest_checkpoint(run)
    assert newest_checkpoint(RunFiles(run.path / "nothing")) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other-1"}, "is not a checkpoint of this library: expected format vfn-check"),
        ({"step": "-1"}, "expected a step of at least 0"),
        ({"step": "x"}, "does not hold what it should .ValueError"),
        ({"config": "[nope]"}, r"does not hold what it should .*unknown section \[nope\]"),
        ({"shape": json.dumps({"channels": 1})}, "does not hold what it should .KeyError"),
        (
            {"shape": json.dumps({"channels": 1, "height": 8, "width": 0, "class_names": []})},
            "expected the shape of pictures with class names",
        ),
        (
            {"shape": json.dumps({"channels": 2**53, "height": 8, "width": 8, "class_names": []})},
            "expected the shape of pictures with class names",
        ),
    ],
)
def test_texts_that_are_whole_and_wrong(saved, change, message):
    """With a checksum that is right: somebody wrote it so."""
    from vfn.runs import digest

    with safe_open(saved, "pt") as file:
        metadata = {**file.metadata(), **change}
    tensors = load_file(saved)
    save_file(tensors, saved, {**metadata, "sha256": digest(tensors, metadata)})
    with pytest.raises(ValueError, match=message) as raised:
        load_checkpoint(saved)
    assert "\n" not in str(raised.value)


def test_another_architecture_is_refused_with_names_and_shapes(saved, run):
    wider = build_model(override(small_config(), {"hid_channels": 64}), SHAPE)
    params = dict(wider.named_parameters())
    with pytest.raises(ValueError, match=r"differ: .* is \(32,\), expected \(64,\)"):
        check_usable(load_checkpoint(saved), params)
    with pytest.raises(ValueError, match=rf"{saved.name} and configuration differ: .* more"):
        newest_checkpoint(run, params)


def test_a_resumed_run_needs_moments(saved, tmp_path):
    checkpoint = load_checkpoint(saved)
    export_model(checkpoint, tmp_path / "model.safetensors")
    exported = load_checkpoint(tmp_path / "model.safetensors")
    assert exported.moments == {"exp_avg": {}, "exp_avg_sq": {}}
    assert exported.step == 7
    for name, value in checkpoint.ema.items():
        assert torch.equal(exported.params[name], value)
    check_usable(exported, checkpoint.params)
    with pytest.raises(ValueError, match="checkpoint and configuration differ: .* is missing"):
        check_usable(exported, checkpoint.params, resumed=True)


def test_an_exported_file_is_plain_tensors(saved, tmp_path):
    """Under the parameters' own names, for whoever reads safetensors."""
    checkpoint = load_checkpoint(saved)
    export_model(checkpoint, tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == checkpoint.params.keys()


def test_an_export_does_not_replace_a_run_s_checkpoint(saved, run, tmp_path):
    """Nor one elsewhere, nor what stands in its place and cannot be read; it does its own."""
    checkpoint, elsewhere = load_checkpoint(saved), tmp_path / "kept.safetensors"
    elsewhere.write_bytes(saved.read_bytes())
    damaged = run.checkpoint(99)
    damaged.write_bytes(b"damaged")
    for path in (saved, elsewhere, damaged):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="is a checkpoint that a run goes on from.*another --"):
            export_model(checkpoint, path)
        assert path.read_bytes() == before
        assert [*path.parent.glob(".*.tmp")] == []
    own = tmp_path / "model.safetensors"
    for _ in range(2):
        export_model(checkpoint, own)
    assert load_checkpoint(own).step == checkpoint.step


def test_an_export_clears_what_a_killed_one_left(saved, tmp_path):
    """That of one that still writes, or of another file, is left as it is."""
    path = tmp_path / "model.safetensors"
    left = killed_while_writing(path)
    alive = left.with_name(left.name.replace(f".{left.suffixes[-2][1:]}.", f".{os.getppid()}."))
    others = [alive, left.with_name(left.name.replace("model", "other"))]
    for other in others:
        other.write_bytes(b"theirs")
    export_model(load_checkpoint(saved), path)
    assert sorted(tmp_path.glob(".*.tmp")) == sorted(others)
    assert load_checkpoint(path).step == 7


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        find_checkpoint(tmp_path / "missing")
    with pytest.raises(ValueError, match="no intact checkpoint"):
        find_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_last_one(saved, run, monkeypatch):
    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(run, small_checkpoint(step=8), keep=1)
    assert [f.name for f in saved.parent.iterdir()] == [saved.name]
    assert load_checkpoint(saved).step == 7


def kept_at(step, *steps):
    return small_checkpoint(override(small_config(), {"keep_at": steps}), step=step)


def test_steps_that_are_to_be_kept_stay_and_are_not_counted(run):
    for step in range(1, 8):
        save_checkpoint(run, kept_at(step, 2, 3), keep=2)
    assert list(run.checkpoint_steps()) == [7, 6, 3, 2]
    assert load_checkpoint(run.checkpoint(2)).ema.keys() == small_checkpoint().ema.keys()


def test_a_step_stays_where_the_run_goes_on_with_others_to_keep(run):
    """What was to be kept for ever is, also by a run that no longer says so."""
    save_checkpoint(run, kept_at(2, 2), keep=1)
    save_checkpoint(run, small_checkpoint(step=3), keep=1)
    save_checkpoint(run, kept_at(4, 3), keep=1)
    assert list(run.checkpoint_steps()) == [4, 3, 2]
    save_checkpoint(run, kept_at(5, 9), keep=1)
    assert list(run.checkpoint_steps()) == [5, 2]
    run.checkpoint(2).write_bytes(b"damaged")
    save_checkpoint(run, small_checkpoint(step=6), keep=1)
    assert list(run.checkpoint_steps()) == [6]


def with_profiles(*lengths):
    checkpoint = small_checkpoint(step=7)
    averages = {s: {n: v + s for n, v in checkpoint.ema.items()} for s in lengths}
    return checkpoint._replace(profiles=averages)


def test_averages_of_several_lengths_are_kept(tmp_path):
    saved = with_profiles(0.1, 0.05)
    write_checkpoint(tmp_path / "a", saved)
    found = load_checkpoint(tmp_path / "a").profiles
    assert list(found) == [0.1, 0.05]
    for length, average in saved.profiles.items():
        assert all(torch.equal(found[length][name], value) for name, value in average.items())
    write_checkpoint(tmp_path / "b", with_profiles())
    with safe_open(tmp_path / "b", "pt") as file:
        assert "profiles" not in file.metadata()  # files are as they were
    export_model(load_checkpoint(tmp_path / "a"), tmp_path / "c", ema="made of something")
    exported = load_checkpoint(tmp_path / "c")
    assert exported.profiles == {}
    with safe_open(tmp_path / "c", "pt") as file:
        assert file.metadata()["ema"] == "made of something"


@pytest.mark.parametrize(
    "text", ["[0.1, 0.1]", "[0.1, 0.05, 0.2]", "0.1", '["a", "b"]', "[1, 2]", "{}", "[[0.1]]"]
)
def test_lengths_that_are_no_lengths(tmp_path, text):
    from vfn.runs import digest

    write_checkpoint(tmp_path / "a", with_profiles(0.1, 0.05))
    with safe_open(tmp_path / "a", "pt") as file:
        metadata = {**file.metadata(), "profiles": text}
    tensors = load_file(tmp_path / "a")
    save_file(tensors, tmp_path / "a", {**metadata, "sha256": digest(tensors, metadata)})
    with pytest.raises(ValueError, match="does not hold what it should"):
        load_checkpoint(tmp_path / "a")


def test_a_file_of_tensors_is_one_that_safetensors_reads(tmp_path):
    """Every type of numbers, numbers without a dimension, and none at all."""
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
             torch.int16, torch.int8, torch.uint8, torch.bool)  # fmt: skip
    tensors = {str(kind): torch.arange(3).to(kind) for kind in kinds}
    tensors |= {"one": torch.tensor(2.5), "none": torch.zeros(0, 4), "é": torch.ones(2, 3)}
    write_tensors(tmp_path / "new" / "a", tensors, {"text": 'a "b" \n ü'})
    found = load_file(tmp_path / "new" / "a")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    with safe_open(tmp_path / "new" / "a", framework="pt") as file:
        assert file.metadata() == {"text": 'a "b" \n ü'}


@pytest.mark.slow
def test_writing_a_checkpoint_holds_no_second_copy(tmp_path):
    """Of 400 MB: the most memory that a process of its own has had, before and after."""
    code = """
        import resource, sys, torch
        from pathlib import Path
        from vfn.runs.checkpoint import digest, write_tensors
        most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        tensors = {str(i): torch.ones(10**7) for i in range(10)}
        digest(tensors)
        before = most()
        write_tensors(Path(sys.argv[1]), tensors, {"sha256": digest(tensors)})
        print(most() - before)
    """
    command = [sys.executable, "-c", dedent(code), str(tmp_path / "a")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 0.25 * 4e8


def test_other_numbers_than_float32_are_refused(tmp_path):
    whole = small_checkpoint()
    halves = {name: value.half() for name, value in whole.ema.items()}
    export_model(whole._replace(ema=halves), tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="half.safetensors does not hold .* expected float32 ten"):
        load_checkpoint(tmp_path / "half.safetensors")


@pytest.mark.parametrize("durable", [True, False])
def test_the_name_of_a_file_is_forced_to_the_disk_too(tmp_path, monkeypatch, durable):
    """Without that of its directory a power cut may leave the file as it was, or none."""
    synced = []
    monkeypatch.setattr(files, "sync_directory", lambda path: synced.append([*path.iterdir()]))
    files.write_atomic(tmp_path / "a.json", "{}", durable)
    assert synced == [[tmp_path / "a.json"]] * durable
