"""Averages of several lengths in the loop, their snapshots, and checkpoints that stay."""

import numpy as np
import pytest
import torch

from tests.helpers.processes import differing, losses, saved_steps, tensors
from vfn.configs import override
from vfn.ops import sigma_rel_to_gamma
from vfn.runs import RunFiles, find_checkpoint, load_checkpoint, load_snapshot
from vfn.train import train
from vfn.train.state import checkpoint_of, init_state, restore

PROFILES = (0.05, 0.1)


@pytest.fixture(scope="module")
def averaged(config):
    """A configuration of 9 steps, with averages and a snapshot of every second."""
    return override(config, {"ema_profiles": PROFILES, "ema_snapshot_every": 2, "steps": 9})


@pytest.fixture(scope="module")
def whole(averaged, tmp_path_factory):
    """Its run, with a checkpoint of every step."""
    out = tmp_path_factory.mktemp("whole")
    train(override(averaged, {"checkpoint_every": 1, "max_checkpoints": 9}), out, device="cpu")
    return RunFiles(out)


@pytest.mark.parametrize("length", PROFILES)
def test_an_average_is_the_weighted_sum_of_all_steps(whole, length):
    """Update i of n weighs (i^(g+1) - (i-1)^(g+1)) / n^(g+1), where the recursion telescopes."""
    power = sigma_rel_to_gamma(length) + 1
    edges = np.arange(10.0) ** power
    found = {step: load_checkpoint(path) for step, path in whole.checkpoint_steps().items()}
    for n in (1, 4, 9):
        for name, value in found[n].profiles[length].items():
            parts = [(edges[i] - edges[i - 1]) / edges[n] * found[i].params[name].double()
                     for i in range(1, n + 1)]  # fmt: skip
            torch.testing.assert_close(value.double(), sum(parts), rtol=0, atol=1e-6)


def test_snapshots_are_the_averages_of_their_steps(whole):
    assert list(whole.snapshot_steps()) == [9, 8, 6, 4, 2]
    for step, path in whole.snapshot_steps().items():
        expected, found = load_checkpoint(whole.checkpoint(step)), load_snapshot(path)
        assert found.step == step
        for length in PROFILES:
            for name, value in expected.profiles[length].items():
                assert torch.equal(found.profiles[length][name], value)


def test_a_resumed_run_is_bit_identical(averaged, whole, tmp_path):
    """Averages and snapshots too, and snapshots of steps that were lost are written again."""
    train(override(averaged, {"steps": 5}), tmp_path, device="cpu")
    assert list(RunFiles(tmp_path).snapshot_steps()) == [5, 4, 2]  # the end has one as well
    stale = RunFiles(tmp_path).snapshot(7)
    stale.write_bytes(b"of a way that was not taken")
    train(averaged, tmp_path, resume=True, device="cpu")
    assert differing(whole.path, tmp_path) == []
    assert any(name.startswith("profile1.") for name in tensors(tmp_path))
    assert not stale.exists()
    names = [9, 8, 6, 5, 4, 2]
    assert list(RunFiles(tmp_path).snapshot_steps()) == names
    for step in (9, 8, 6):
        found, expected = (
            load_snapshot(RunFiles(p).snapshot(step)) for p in (tmp_path, whole.path)
        )
        for length in PROFILES:
            for name, value in expected.profiles[length].items():
                assert torch.equal(found.profiles[length][name], value)


def test_averages_change_nothing_else(config, whole, tmp_path):
    """Parameters, moments and the run's own average have the bits that they had without."""
    plain = override(config, {"steps": 9})
    train(plain, tmp_path, device="cpu")
    with_averages, without = tensors(whole.path), tensors(tmp_path)
    assert all(torch.equal(with_averages[name], value) for name, value in without.items())
    added = with_averages.keys() - without.keys()
    assert {name.partition(".")[0] for name in added} == {"profile0", "profile1"}
    assert losses(whole.path) == losses(tmp_path)
    assert not RunFiles(tmp_path).snapshots.exists()


def test_accumulation_is_only_a_layout(averaged, whole, tmp_path):
    """As are processes, see test_loop.py."""
    train(override(averaged, {"accumulate": 4}), tmp_path, device="cpu")
    ours, theirs = find_checkpoint(tmp_path).profiles, find_checkpoint(whole.path).profiles
    for length in PROFILES:
        flat = [torch.cat([v.flatten() for v in each[length].values()]) for each in (ours, theirs)]
        # Sums in another order: float32 rounding, amplified by a few Adam steps.
        assert (flat[0] - flat[1]).norm() < 1e-4 * flat[1].norm()


def test_a_profile_cannot_begin_in_the_middle(averaged, whole, config, tmp_path):
    found = find_checkpoint(whole.path)
    for asked, message in (
        (
            (0.05, 0.15),
            "has ema_profiles 0.05, 0.1, got 0.15 as well, which average from the first",
        ),
        ((0.15, 0.2), "got 0.15, 0.2 as well"),
    ):
        state = init_state(_net(found), override(averaged, {"ema_profiles": asked}).train)
        with pytest.raises(ValueError, match=message):
            restore(state, found)
    # One that is given up is no longer tracked, and cannot begin again.
    state = init_state(_net(found), override(averaged, {"ema_profiles": (0.1,)}).train)
    restore(state, found)
    again = checkpoint_of(state, averaged, found.shape).profiles
    assert list(again) == [0.1]
    assert all(torch.equal(again[0.1][name], v) for name, v in found.profiles[0.1].items())
    train(config, tmp_path, device="cpu")
    with pytest.raises(ValueError, match="has ema_profiles none, got 0.05, 0.1 as well"):
        train(averaged, tmp_path, resume=True, device="cpu")


def _net(checkpoint):
    from vfn.model import build_model

    return build_model(checkpoint.config, checkpoint.shape)


def test_a_sixteenth_of_the_run_is_the_usual_distance(config):
    settings = override(config, {"ema_profiles": PROFILES, "steps": 100}).train
    assert settings.snapshot_every == 7
    assert config.train.snapshot_every is None


def test_checkpoints_that_are_to_be_kept_stay(config, tmp_path):
    more = {"steps": 8, "keep_at": (3, 5), "checkpoint_every": 4, "max_checkpoints": 1}
    train(override(config, more), tmp_path, device="cpu")
    assert saved_steps(tmp_path) == [3, 5, 8]
    # Resumed, from a step before, it takes the same way.
    train(override(config, {**more, "steps": 4}), tmp_path / "parts", device="cpu")
    assert saved_steps(tmp_path / "parts") == [3, 4]
    train(override(config, more), tmp_path / "parts", resume=True, device="cpu")
    assert saved_steps(tmp_path / "parts") == [3, 5, 8]
    assert differing(tmp_path, tmp_path / "parts") == []
    ours, theirs = (
        load_checkpoint(RunFiles(p).checkpoint(5)) for p in (tmp_path / "parts", tmp_path)
    )
    assert all(torch.equal(ours.ema[name], value) for name, value in theirs.ema.items())
