"""Snapshots of averages: whole or refused; averages of other lengths beside those tracked."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn.files import write_atomic
from vfn.ops import power_ema_decay, sigma_rel_to_gamma
from vfn.runs import (
    RunFiles,
    Snapshot,
    find_checkpoint,
    load_checkpoint,
    load_snapshot,
    reconstruct,
    save_snapshot,
    stored_averages,
    write_checkpoint,
)
from vfn.runs.snapshots import drop_snapshots_after

STEPS, PAIR, TRUTH = 400, (0.05, 0.10), (0.03, 0.07, 0.15, 0.2)
SMOOTH = torch.arange(3) / 7


def parameters(step):
    """Parameters on a way that all averages of can be computed: they turn and settle."""
    return {"a.weight": torch.cos(step / 60 + SMOOTH) * math.exp(-step / 300), "b": SMOOTH * step}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run with a snapshot of every 20 steps, and the averages of all lengths after each step."""
    run = RunFiles(tmp_path_factory.mktemp("averaged"))
    true = {}
    state = {length: parameters(1) for length in (*PAIR, *TRUTH)}
    for step in range(1, STEPS + 1):
        for length, average in state.items():
            decay = power_ema_decay(step, sigma_rel_to_gamma(length))
            state[length] = {
                name: torch.lerp(average[name].double(), value.double(), 1 - decay)
                for name, value in parameters(step).items()
            }
        if step % 20 == 0:
            true[step] = dict(state)
            profiles = {
                length: {name: value.float() for name, value in state[length].items()}
                for length in PAIR
            }
            save_snapshot(run, Snapshot(step, small_config(), SHAPE, profiles))
    return run, true


def test_a_snapshot_is_what_was_tracked(averaged):
    run, true = averaged
    found = load_snapshot(run.snapshot(200))
    assert (found.step, found.config, found.shape) == (200, small_config(), SHAPE)
    assert list(found.profiles) == list(PAIR)
    for length in PAIR:
        for name, value in found.profiles[length].items():
            assert torch.equal(value, true[200][length][name].float())
    tensors = load_file(run.snapshot(200))
    assert set(tensors) == {f"profile{i}.{name}" for i in (0, 1) for name in ("a.weight", "b")}
    assert {value.dtype for value in tensors.values()} == {torch.float32}


@pytest.mark.parametrize("length", [*TRUTH, *PAIR])
@pytest.mark.parametrize("step", [STEPS, 300])
def test_an_average_is_near_the_one_tracked(averaged, length, step):
    """To thousandths of its size; the tracked ones to float32."""
    run, true = averaged
    got = reconstruct(run.path, length, step)
    assert got.step == step
    assert got.params is got.ema
    for name, value in true[step][length].items():
        assert got.ema[name].dtype == torch.float32
        error = (got.ema[name] - value).norm() / value.norm()
        # 15 and 20 snapshots; 0.2 reaches back to where there are few: measured 8e-3, others 3e-3.
        assert error < (1e-6 if length in PAIR else 1e-2), (name, error)


def test_fewer_snapshots_are_worse(averaged, tmp_path):
    run, true = averaged
    sparse = RunFiles(tmp_path)
    sparse.snapshots.mkdir()
    for step in (100, 200, 300, 400):
        sparse.snapshot(step).write_bytes(run.snapshot(step).read_bytes())

    def error(files):
        got = reconstruct(files.path, 0.07).ema["a.weight"]
        return (got - true[400][0.07]["a.weight"]).norm()

    assert error(sparse) > 10 * error(run)


@pytest.mark.parametrize(
    ("sigma_rel", "message"),
    [
        (
            0.005,
            r"expected sigma_rel that the 20 snapshots of .* up to step 400 span, 0.02..0.26, ",
        ),
        (0.28, r"span, 0.02..0.26, got 0.28; more of them span more, by a smaller --ema-snapshot"),
        (0.5, "got 0.5"),
        (-1.0, "got -1"),
        (0.0, "got 0"),
        (float("nan"), "got nan"),
        ("0.07", "expected sigma_rel to be a finite number, got '0.07'"),
        (None, "expected sigma_rel to be a finite number, got None"),
        (np.str_("0.07"), "expected sigma_rel to be a finite number, got .*0.07"),
        (torch.tensor(True), r"expected sigma_rel to be a finite number, got tensor\(True\)"),
    ],
)
def test_lengths_that_are_not_spanned(averaged, sigma_rel, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(averaged[0].path, sigma_rel)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"step": 19},
            "expected a step in 20..400, from the first snapshot of .* to the last, got",
        ),
        ({"step": 401}, "expected a step in 20..400"),
        ({"step": "40"}, "expected step to be a whole number of at least 0, got '40'"),
        ({"profiles": 0.05}, "expected profiles as a list of numbers, got 0.05"),
        ({"profiles": "0.05"}, "expected profiles as a list of numbers, got '0.05'"),
        ({"profiles": ["0.05"]}, "expected each of profiles to be a finite number, got '0.05'"),
        (
            {"profiles": (0.05, 0.07)},
            "expected ema_profiles 0.05, 0.07 in every snapshot, and that",
        ),
    ],
)
def test_what_was_not_kept(averaged, asked, message):
    with pytest.raises(ValueError, match=message):
        stored_averages(averaged[0].path, **asked)


def test_lengths_of_numpy_are_numbers(averaged):
    run = averaged[0].path
    found = reconstruct(run, np.float64(0.08), np.int64(400), np.array([0.05, 0.1]))
    expected = reconstruct(run, 0.08, 400, [0.05, 0.1])
    assert all(torch.equal(found.ema[name], value) for name, value in expected.ema.items())


def test_one_profile_alone_spans_less(averaged):
    one = stored_averages(averaged[0].path, profiles=[0.1])
    one.check(0.15)
    with pytest.raises(ValueError, match=r"span, 0.06..0.2\d*, got 0.03"):
        one.average(0.03)


def test_no_snapshots(tmp_path):
    write_checkpoint(RunFiles(tmp_path).checkpoint(3), small_checkpoint())
    with pytest.raises(
        ValueError, match="has no snapshots of averages in ema/; train with --ema-p"
    ):
        reconstruct(tmp_path, 0.05)


def test_a_distillation_has_runs_below_it(tmp_path):
    write_atomic(RunFiles(tmp_path).stage(2).config, "")
    with pytest.raises(ValueError, match="is a distillation, .*; name one of them: steps-2"):
        reconstruct(tmp_path, 0.05)


@pytest.mark.parametrize("damage", ["cut", "flip", "checkpoint", "nothing"])
def test_damaged_snapshots_are_named(averaged, tmp_path, damage):
    run, _ = averaged
    copy = RunFiles(tmp_path)
    copy.snapshots.mkdir()
    for step, path in run.snapshot_steps().items():
        copy.snapshot(step).write_bytes(path.read_bytes())
    path = copy.snapshot(200)
    content = bytearray(path.read_bytes())
    if damage == "checkpoint":
        write_checkpoint(path, small_checkpoint())
    else:
        content[-1] ^= damage == "flip"
        path.write_bytes(content[: {"cut": -8, "nothing": 0}.get(damage)])
    with pytest.raises(ValueError, match="step-00000200.safetensors is (damaged|not a snapshot)"):
        reconstruct(tmp_path, 0.07)


def test_a_snapshot_is_no_checkpoint(averaged):
    run, _ = averaged
    with pytest.raises(ValueError, match="is not a checkpoint of this library: .* got 'vfn-ema-1'"):
        load_checkpoint(run.snapshot(20))
    with pytest.raises(ValueError, match="holds no intact checkpoint"):
        find_checkpoint(run.path)


def test_snapshots_of_another_network_do_not_mix(averaged, tmp_path):
    run, _ = averaged
    copy = RunFiles(tmp_path)
    copy.snapshots.mkdir()
    for step, path in run.snapshot_steps().items():
        copy.snapshot(step).write_bytes(path.read_bytes())
    other = small_checkpoint(step=100)
    profiles = {0.05: other.ema, 0.1: other.params}
    save_snapshot(copy, Snapshot(100, other.config, SHAPE, profiles))
    with pytest.raises(
        ValueError, match="snapshot .*100.safetensors and the last one differ: .*mor"
    ):
        reconstruct(tmp_path, 0.07)


def test_what_comes_later_is_dropped(tmp_path):
    copy = RunFiles(tmp_path)
    copy.snapshots.mkdir()
    for step in (20, 40, 60):
        copy.snapshot(step).write_bytes(b"")
    drop_snapshots_after(copy, 40)
    assert list(copy.snapshot_steps()) == [40, 20]
    drop_snapshots_after(RunFiles(tmp_path / "none"), 0)


def test_snapshots_after_the_step_are_not_used(averaged):
    run, _ = averaged
    assert stored_averages(run.path, 90).steps == [20, 40, 60, 80]
    assert stored_averages(run.path, 80).steps == [20, 40, 60, 80]
