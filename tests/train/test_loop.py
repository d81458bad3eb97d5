"""Training runs: layout, resume, signals, processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vfn.train.session as run_module
from tests.helpers.comparing import finish, losses, same, wait_for_step
from tests.helpers.small import SMALL
from vfn.configs import override
from vfn.data import load_dataset
from vfn.runs.checkpoint import export_model, find_checkpoint, load_checkpoint
from vfn.train.batches import image_indices
from vfn.train.loop import train
from vfn.train.session import micro_batch_size

ROOT = Path(__file__).parents[2]


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


def entries(run, key):
    """Lines of the log that have a key, as dictionaries."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [entry for entry in lines if key in entry]


def test_gradients_that_stay_infinite_stop_the_run(config, tmp_path):
    """With a checkpoint, and with the last batch's pictures by number."""
    hopeless = {"lr": 1e30, "warmup": 0, "steps": 40, "max_bad_steps": 3}
    with pytest.raises(ValueError, match=r"no finite gradient in the last 3 steps up to step"):
        train(override(config, hopeless), tmp_path, device="cpu")
    (record,) = tmp_path.glob("not-finite-*.json")
    record = json.loads(record.read_text())
    assert record["bad_steps"] == 3
    found = find_checkpoint(tmp_path)
    assert found.step == record["step"]
    assert found.counters["skipped"] == 3
    assert found.counters["updates"] == found.step - 3
    draws = torch.arange(16) + 16 * (found.step - 1)
    assert record["pictures"] == image_indices(0, draws, 1437).tolist()
    assert entries(tmp_path, "skipped")[-1]["skipped"] == 3


def test_a_step_that_is_left_out_changes_nothing_and_is_resumed_over(config, tmp_path, monkeypatch):
    """One infinite loss: the run goes on, and a resumed one takes the same way."""
    real = run_module.batch_loss
    calls = []

    def poisoned(network, batch, diffusion):
        loss = real(network, batch, diffusion)
        calls.append(None)
        return loss * float("inf") if len(calls) == 2 else loss

    config = override(config, {"steps": 6})
    monkeypatch.setattr(run_module, "batch_loss", poisoned)
    train(config, tmp_path / "whole", device="cpu")
    assert find_checkpoint(tmp_path / "whole").counters["skipped"] == 1
    assert find_checkpoint(tmp_path / "whole").counters["updates"] == 5
    assert all(torch.isfinite(p).all() for p in find_checkpoint(tmp_path / "whole").params.values())
    calls.clear()
    train(override(config, {"steps": 3}), tmp_path / "parts", device="cpu")
    monkeypatch.setattr(run_module, "batch_loss", real)
    train(config, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_the_log_tells_the_loss_by_logsnr(config, tmp_path):
    """Bins weighted by their counts are the mean of the window."""
    train(override(config, {"steps": 2, "log_every": 2, "batch_size": 64}), tmp_path, device="cpu")
    (entry,) = entries(tmp_path, "loss_by_logsnr")
    assert len(entry["loss_by_logsnr"]) == 8
    present = [value for value in entry["loss_by_logsnr"] if value is not None]
    assert min(present) <= entry["loss"] <= max(present)
    assert entry["memory_mib"] > 50


def test_evaluations_keep_the_best(config, tmp_path):
    settings = {"steps": 6, "eval_every": 2, "eval_num": 30, "lr": 0.0}
    train(override(config, settings), tmp_path, device="cpu")
    found = entries(tmp_path, "frechet_distance")
    assert [entry["step"] for entry in found] == [2, 4, 6]
    assert {"precision", "recall"} <= found[0].keys()
    best = min(found, key=lambda entry: entry["frechet_distance"])
    assert load_checkpoint(tmp_path / "checkpoints" / "best.safetensors").step == best["step"]


def test_tensorboard_gets_the_numbers_of_the_log(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(override(config, {"tensorboard": True}), tmp_path, device="cpu")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(i + 1, pytest.approx(loss)) for i, loss in enumerate(losses(tmp_path))]


def test_tensorboard_that_is_missing_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'vfn\[tensorboard\]'"):
        train(override(config, {"tensorboard": True}), tmp_path, device="cpu")


def test_a_new_run_starts_from_another_s_average(config, tmp_path):
    train(config, tmp_path / "first", device="cpu")
    export_model(find_checkpoint(tmp_path / "first"), tmp_path / "model.safetensors")
    for source in ("first", "model.safetensors"):
        out = tmp_path / f"from-{source}"
        settings = override(config, {"steps": 1, "lr": 0.0})
        train(settings, out, device="cpu", init_from=tmp_path / source)
        begun, first = find_checkpoint(out), find_checkpoint(tmp_path / "first")
        assert begun.step == 1
        assert all(torch.equal(begun.params[name], first.ema[name]) for name in first.ema)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_resumes_exactly(config, tmp_path, precision):
    config = override(config, {"precision": precision, "steps": 12})
    train(config, tmp_path / "whole", device="cpu")
    train(override(config, {"steps": 5}), tmp_path / "parts", device="cpu")
    train(config, tmp_path / "parts", resume=True, device="cpu")
    assert same(tmp_path / "whole", tmp_path / "parts")
    full = override(config, {"precision": "fp32"})
    train(full, tmp_path / "full", device="cpu")
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "full"), rel=0.05)
    assert losses(tmp_path / "whole") != losses(tmp_path / "full")
    scale = find_checkpoint(tmp_path / "whole").counters["loss_scale"]
    assert scale == (2.0**16 if precision == "fp16" else 1)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
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

    monkeypatch.setattr("vfn.train.session.load_dataset", odd)
    with pytest.raises(ValueError, match="expected labels in 0..10, 0 for unconditional, got 1"):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
