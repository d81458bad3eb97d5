"""Training runs: layout, resume, signals, processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small import SMALL

from vfn.configs import override
from vfn.data import load_dataset
from vfn.train.checkpoint import find_checkpoint, load_checkpoint
from vfn.train.loop import micro_batch_size, train

ROOT = Path(__file__).parents[2]


def losses(run):
    entries = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if "loss" in entry]


def same(a, b):
    """Bit-identical parameters, EMA and moments."""
    a, b = find_checkpoint(a), find_checkpoint(b)
    groups = [
        (a.params, b.params),
        (a.ema, b.ema),
        *((a.moments[k], b.moments[k]) for k in a.moments),
    ]
    return a.step == b.step and all(torch.equal(x[name], y[name]) for x, y in groups for name in x)


def command(*arguments):
    return [sys.executable, str(ROOT / "cli.py"), "train", "--config", "digits", *SMALL, *arguments]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(config, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(override(config, {"seed": seed}), tmp_path / name, device="cpu")
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_resumed_run_is_bit_identical(config, tmp_path):
    train(config, tmp_path / "whole", device="cpu")
    train(override(config, {"steps": 2}), tmp_path / "parts", device="cpu")
    train(config, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_run_is_not_overwritten(config, tmp_path):
    train(config, tmp_path, device="cpu")
    with pytest.raises(ValueError, match="already holds a run at step 4; add --resume"):
        train(config, tmp_path, device="cpu")


def test_accumulation_is_only_a_layout(config, tmp_path):
    train(config, tmp_path / "one", device="cpu")
    train(override(config, {"accumulate": 4}), tmp_path / "four", device="cpu")
    # Sums in another order: float32 rounding, amplified by a few Adam steps.
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_dropout_does_not_break_resuming(config, tmp_path):
    config = override(config, {"dropout": 0.5})
    train(config, tmp_path / "whole", device="cpu")
    train(override(config, {"steps": 2}), tmp_path / "parts", device="cpu")
    train(config, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_training_learns(config, tmp_path):
    train(override(config, {"steps": 60, "log_every": 10}), tmp_path, device="cpu")
    assert losses(tmp_path)[-1] < 0.8 * losses(tmp_path)[0]


def test_the_network_is_trained_without_labels_too(config, tmp_path):
    """With every label dropped the label weights get no gradient; their bias does."""
    train(override(config, {"p_uncond": 1.0}), tmp_path, device="cpu")
    moments = find_checkpoint(tmp_path).moments["exp_avg_sq"]
    assert moments["label_embed.weight"].count_nonzero() == 0
    assert moments["label_embed.bias"].count_nonzero() > 0


@pytest.mark.parametrize("size", [10, 2])
def test_batch_sizes_that_do_not_divide(size):
    with pytest.raises(ValueError, match=r"use (8 or 12|4)"):
        micro_batch_size(size, processes=2, accumulate=2)


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
    with pytest.raises(ValueError, match=r"the loss is .* at step"):
        train(override(config, {"lr": 1e30, "warmup": 0, "steps": 20}), tmp_path, device="cpu")


def wait_for_step(run, step, process):
    """Until the log has passed a step."""
    for _ in range(600):
        if (run / "log.jsonl").is_file() and len(
            (run / "log.jsonl").read_text().splitlines()
        ) > step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the run did not get anywhere")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_a_checkpoint_and_a_line(tmp_path, signum):
    process = subprocess.Popen(
        command("--out", str(tmp_path), "--steps", "100000"), stderr=subprocess.PIPE, text=True
    )
    wait_for_step(tmp_path, 3, process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    last = err.strip().splitlines()[-1]
    assert last.startswith("stopped at step")
    assert last.endswith(f"vfn train --out {tmp_path} --resume")
    step = find_checkpoint(tmp_path).step
    assert f"step {step} of" in last
    resumed = subprocess.run(
        [sys.executable, ROOT / "cli.py", "train", "--out", tmp_path, "--resume", "--steps",
         str(step + 2)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert f"finished {step + 2} steps" in resumed.stderr


def test_killed_run_resumes_to_the_same_result(tmp_path):
    arguments = ["--steps", "40", "--checkpoint-every", "7"]
    subprocess.run(
        command("--out", str(tmp_path / "whole"), *arguments), check=True, capture_output=True
    )
    killed = command("--out", str(tmp_path / "killed"), "--resume", *arguments)
    for step in (10, 25):
        process = subprocess.Popen(killed, stderr=subprocess.DEVNULL)
        wait_for_step(tmp_path / "killed", step, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(killed, check=True, capture_output=True)
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def finish(arguments):
    """Run a command to its end; what it printed is the message of a failure."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_two_processes_give_the_losses_of_one(tmp_path):
    arguments = ["--steps", "6", "--preview-every", "3"]
    finish(command("--out", str(tmp_path / "one"), *arguments))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    two = command("--out", str(tmp_path / "two"), "--device", "cpu", *arguments)
    finish([*launcher, "--nproc_per_node", "2", *two[1:]])
    # Sums in another order: float32 rounding, amplified by a few Adam steps.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert load_checkpoint(next((tmp_path / "two" / "checkpoints").iterdir())).step == 6


def test_labels_beyond_the_classes_are_refused_before_the_first_step(config, tmp_path, monkeypatch):
    def odd(*args, **options):
        found = load_dataset(*args, **options)
        return found._replace(labels=found.labels + 5)

    monkeypatch.setattr("vfn.train.loop.load_dataset", odd)
    with pytest.raises(ValueError, match="expected labels in 0..10, 0 for unconditional, got 1"):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
