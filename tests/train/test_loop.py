"""Training runs: layout, resume, signals, processes."""

import json
import math
import signal
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.processes import (
    differing,
    entries,
    last_step,
    losses,
    saved_steps,
    tensors,
    wait_until,
)
from tests.helpers.small import TRAINED_ON
from vfn.configs import override
from vfn.data import load_dataset
from vfn.distributed import ALONE, World
from vfn.objective import batch_loss
from vfn.runs import RunFiles, export_model, find_checkpoint, load_checkpoint
from vfn.train import Observer, loop, session, train
from vfn.train.batches import image_indices
from vfn.train.state import FIRST_LOSS_SCALE, StepResult


@pytest.mark.usefixtures("deterministic")
def test_the_same_seed_gives_the_same_run_and_another_seed_another(config, tmp_path, each_device):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(override(config, {"seed": seed}), tmp_path / name, device=each_device)
    assert differing(tmp_path / "a", tmp_path / "b") == []
    assert differing(tmp_path / "a", tmp_path / "c")


@pytest.mark.usefixtures("deterministic")
def test_resumed_run_is_bit_identical(config, tmp_path, each_device):
    train(config, tmp_path / "whole", device=each_device)
    train(override(config, {"steps": 2}), tmp_path / "parts", device=each_device)
    train(config, tmp_path / "parts", resume=True, device=each_device)
    assert differing(tmp_path / "whole", tmp_path / "parts") == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_run_is_not_overwritten(config, tmp_path):
    train(config, tmp_path, device="cpu")
    with pytest.raises(ValueError, match="already holds a run at step 4; add --resume"):
        train(config, tmp_path, device="cpu")


def test_accumulation_is_only_a_layout(config, tmp_path, each_device):
    train(config, tmp_path / "one", device=each_device)
    train(override(config, {"accumulate": 4}), tmp_path / "four", device=each_device)
    # Sums in another order: float32 rounding, amplified by a few Adam steps.
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.usefixtures("deterministic")
def test_dropout_does_not_break_resuming(config, tmp_path, each_device):
    config = override(config, {"dropout": 0.5})
    train(config, tmp_path / "whole", device=each_device)
    train(override(config, {"steps": 2}), tmp_path / "parts", device=each_device)
    train(config, tmp_path / "parts", resume=True, device=each_device)
    assert differing(tmp_path / "whole", tmp_path / "parts") == []


def test_training_learns(config, tmp_path):
    train(override(config, {"steps": 60, "log_every": 10}), tmp_path, device="cpu")
    assert losses(tmp_path)[60] < 0.8 * losses(tmp_path)[10]


def test_the_network_is_trained_without_labels_too(config, tmp_path):
    """With every label dropped the label weights get no gradient; their bias does."""
    train(override(config, {"p_uncond": 1.0}), tmp_path, device="cpu")
    moments = find_checkpoint(tmp_path).moments["exp_avg_sq"]
    assert moments["label_embed.weight"].count_nonzero() == 0
    assert moments["label_embed.bias"].count_nonzero() > 0


def test_gradients_that_stay_infinite_stop_the_run(config, tmp_path):
    """With a checkpoint, and with the last batch's pictures by number."""
    hopeless = {"lr": 1e3, "weight_decay": 1e3, "warmup": 0, "steps": 40, "max_bad_steps": 3}
    with pytest.raises(ValueError, match=r"no finite gradient in 3 steps in a row up to step"):
        train(override(config, hopeless), tmp_path, device="cpu")
    (record,) = tmp_path.glob("not-finite-*.json")
    record = json.loads(record.read_text())
    assert record["bad_steps"] == 3
    found = find_checkpoint(tmp_path)
    assert found.step == record["step"]
    assert found.counters["skipped"] == 3
    assert found.counters["updates"] == found.step - 3
    draws = torch.arange(16) + 16 * (found.step - 1)
    assert record["pictures"] == image_indices(0, draws, TRAINED_ON).tolist()
    assert entries(tmp_path, "skipped")[-1]["skipped"] == 3


def test_steps_between_two_lines_of_the_log_count_as_bad_too(config, tmp_path):
    """The run stops at the next line, also where gradients are finite again by then."""
    calls = []

    def poisoned(network, batch, diffusion):
        calls.append(None)
        loss = batch_loss(network, batch, diffusion)
        return loss * float("nan") if 2 <= len(calls) <= 9 else loss

    settings = override(config, {"steps": 20, "max_bad_steps": 3, "log_every": 10})
    with pytest.raises(ValueError, match=r"in 8 steps in a row up to step 9; .* of step 10 is"):
        train(settings, tmp_path, objective=poisoned, device="cpu")
    assert find_checkpoint(tmp_path).step == 10
    record = json.loads((tmp_path / "not-finite-00000009.json").read_text())
    assert record["bad_steps"] == 8
    assert record["pictures"] == image_indices(0, torch.arange(128, 144), TRAINED_ON).tolist()
    train(settings, tmp_path, resume=True, device="cpu", objective=poisoned)
    assert find_checkpoint(tmp_path).step == 20


def test_a_step_that_is_left_out_changes_nothing_and_is_resumed_over(config, tmp_path, monkeypatch):
    """One infinite loss: the run goes on, and a resumed one takes the same way."""
    calls = []

    def poisoned(network, batch, diffusion):
        loss = batch_loss(network, batch, diffusion)
        calls.append(None)
        return loss * float("inf") if len(calls) == 2 else loss

    config = override(config, {"steps": 6})
    monkeypatch.setattr(session, "objective_of", lambda _: poisoned)
    train(config, tmp_path / "whole", device="cpu")
    assert find_checkpoint(tmp_path / "whole").counters["skipped"] == 1
    assert find_checkpoint(tmp_path / "whole").counters["updates"] == 5
    assert all(torch.isfinite(p).all() for p in find_checkpoint(tmp_path / "whole").params.values())
    calls.clear()
    train(override(config, {"steps": 3}), tmp_path / "parts", device="cpu")
    monkeypatch.undo()
    train(config, tmp_path / "parts", resume=True, device="cpu")
    assert differing(tmp_path / "whole", tmp_path / "parts") == []


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


@pytest.mark.usefixtures("deterministic")
def test_a_network_that_leaves_parts_out_by_chance_resumes_exactly(config, tmp_path, each_device):
    """Adam counts the updates of each parameter, of which some are part of fewer than others."""
    settings = {"network": "tests.helpers.outside:Shallow", "steps": 12, "preview_every": 0}
    config = override(config, settings)
    train(config, tmp_path / "whole", device=each_device)
    train(override(config, {"steps": 7}), tmp_path / "parts", device=each_device)
    train(config, tmp_path / "parts", resume=True, device=each_device)
    counters = find_checkpoint(tmp_path / "whole").counters
    assert 0 < counters["updates of middle.weight"] < counters["updates"] == 12
    assert differing(tmp_path / "whole", tmp_path / "parts") == []


def test_a_run_that_goes_on_in_fp16_scales_its_loss_as_one_that_begins_so(config, tmp_path):
    """What the run before counted of a scale meant nothing."""
    settings = override(config, {"precision": "fp16", "preview_every": 0})
    for steps, precision in ((2, "fp32"), (3, "fp16"), (4, "fp16")):
        changed = override(settings, {"steps": steps, "precision": precision})
        train(changed, tmp_path, resume=steps > 2, device="cpu")
        found = find_checkpoint(tmp_path).counters
        scaled = precision == "fp16"
        assert found["loss_scale"] == (FIRST_LOSS_SCALE if scaled else 1)
        assert found["since_change"] == (steps - 2 if scaled else 0)


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_resumes_exactly(config, tmp_path, precision, each_device):
    config = override(config, {"precision": precision, "steps": 6, "batch_size": 8})
    train(config, tmp_path / "whole", device=each_device)
    train(override(config, {"steps": 2}), tmp_path / "parts", device=each_device)
    train(config, tmp_path / "parts", resume=True, device=each_device)
    assert differing(tmp_path / "whole", tmp_path / "parts") == []
    full = override(config, {"precision": "fp32"})
    train(full, tmp_path / "full", device=each_device)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "full"), rel=0.05)
    assert losses(tmp_path / "whole") != losses(tmp_path / "full")
    scale = find_checkpoint(tmp_path / "whole").counters["loss_scale"]
    assert scale == (2.0**16 if precision == "fp16" else 1)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_end_with_a_checkpoint_and_a_line(forks, tmp_path, signum):
    forks.train(tmp_path, "--steps", 100000)
    wait_until(lambda: last_step(tmp_path) > 3, forks.alive)
    last = forks.end(128 + signum, signum).strip().splitlines()[-1]
    assert last.startswith("stopped at step")
    assert last.endswith(f"vfn train --out {tmp_path} --resume")
    (step,) = saved_steps(tmp_path)
    assert f"step {step} of" in last
    err = forks.run("train", "--out", tmp_path, "--resume", "--steps", step + 2, "--device", "cpu")
    assert f"finished {step + 2} steps" in err


def test_killed_run_resumes_to_the_same_result(forks, tmp_path):
    arguments = ["--steps", 80, "--checkpoint-every", 7, "--keep-at", 9,
                 "--ema-profiles", "0.05,0.1", "--ema-snapshot-every", 3]  # fmt: skip
    forks.train(tmp_path / "whole", *arguments)
    forks.end()
    killed = tmp_path / "killed"
    for step in (10, 40):
        forks.train(killed, "--resume", *arguments)
        wait_until(lambda step=step: last_step(killed) > step, forks.alive)
        forks.end(-signal.SIGKILL, signal.SIGKILL)
    forks.train(killed, "--resume", *arguments)
    forks.end()
    assert differing(tmp_path / "whole", killed) == []
    assert losses(tmp_path / "whole") == losses(killed)
    assert saved_steps(killed) == saved_steps(tmp_path / "whole") == [9, 70, 77, 80]
    ours, theirs = (
        {path.name: load_file(path) for path in (run / "ema").iterdir()}
        for run in (killed, tmp_path / "whole")
    )
    assert (
        ours.keys()
        == theirs.keys()
        == {f"step-{n:08d}.safetensors" for n in (*range(3, 81, 3), 80)}
    )
    assert all(
        torch.equal(value, ours[file][name])
        for file in theirs
        for name, value in theirs[file].items()
    )


def test_two_processes_give_the_losses_of_one(forks, tmp_path):
    for processes in (1, 2):
        out = tmp_path / str(processes)
        averages = ["--ema-profiles", "0.05,0.1", "--ema-snapshot-every", 4, "--keep-at", 2]
        forks.train(out, "--steps", 6, "--preview-every", 3, *averages, processes=processes)
        forks.end()
    # Sums in another order: float32 rounding, amplified by a few Adam steps.
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    assert saved_steps(tmp_path / "2") == [2, 6]
    assert [path.stem for path in sorted((tmp_path / "2" / "ema").iterdir())] == [
        "step-00000004", "step-00000006"
    ]  # fmt: skip
    two, one = (
        torch.cat([v.flatten() for n, v in sorted(tensors(tmp_path / n_processes).items())
                   if n.startswith("profile")])
        for n_processes in "21"
    )  # fmt: skip
    assert (two - one).norm() < 1e-4 * one.norm()


def test_labels_beyond_the_classes_are_refused_before_the_first_step(config, tmp_path, monkeypatch):
    def odd(*args, **options):
        found = load_dataset(*args, **options)
        return found._replace(labels=found.labels + 5)

    monkeypatch.setattr("vfn.train.session.load_dataset", odd)
    with pytest.raises(ValueError, match="expected labels in 0..10, 0 for unconditional, got 1"):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_that_changed_nothing_says_so(config, tmp_path, capsys):
    """Too short to be stopped; one with a single step that counts says nothing."""

    def endless(network, batch, diffusion):
        return batch_loss(network, batch, diffusion) * math.inf

    def late(network, batch, diffusion):
        loss = batch_loss(network, batch, diffusion)
        return loss * (math.inf if batch.update == 0 else 1.0)

    settings = override(config, {"steps": 2, "preview_every": 0})
    told = "none of the 2 steps had a finite gradient, and the network is as it was begun"
    for objective, count in ((endless, 1), (late, 0)):
        capsys.readouterr()
        train(settings, tmp_path / objective.__name__, objective=objective, device="cpu")
        assert capsys.readouterr().err.count(told) == count


def test_a_line_of_the_log_is_of_all_processes_and_of_finite_losses(config, tmp_path, monkeypatch):
    """And has the learning rate of the step, not of the next one."""
    monkeypatch.setattr(loop, "total", lambda value, world: world.size * value)
    monkeypatch.setattr(loop, "differs", lambda *_: False)
    numbers = {"in_row": torch.tensor(0.0), "skipped": torch.tensor(1.0)}
    config, state = override(config, {"warmup": 4}), SimpleNamespace(step=0, counters=numbers)
    state.weight = None
    world = World(0, 2, torch.device("cpu"))
    window = loop.Window(SimpleNamespace(config=config, files=RunFiles(tmp_path), world=world,
                                         state=state))  # fmt: skip
    for loss, stage in ((0.5, 3.0), (float("nan"), 4.0)):
        state.step += 1
        figures = {"stage": torch.tensor(stage)}
        window.add(StepResult(torch.tensor(loss), torch.ones(2, 8), torch.tensor(1.0), figures))
    entry = window.close()
    assert (entry["loss"], entry["stage"], entry["lr"]) == (0.5, 3.5, config.train.lr / 2)


def test_figures_that_some_processes_lack_are_refused(config, tmp_path, monkeypatch):
    """Sums over processes would be of others' figures, or wait for ever."""
    told = []
    monkeypatch.setattr(loop, "total", lambda value, world: world.size * value)
    monkeypatch.setattr(loop, "differs", lambda value, world: told.append((value, world)) or True)
    numbers = {"in_row": torch.tensor(0.0), "skipped": torch.tensor(0.0)}
    state = SimpleNamespace(step=1, counters=numbers, weight=None)
    world = World(0, 2, torch.device("cpu"))
    window = loop.Window(SimpleNamespace(config=config, files=RunFiles(tmp_path), world=world,
                                         state=state))  # fmt: skip
    one = torch.tensor(1.0)
    window.add(StepResult(one, torch.ones(2, 8), one, {"late": one}))
    with pytest.raises(ValueError, match="same figures on all processes, got others .* than late"):
        window.close()
    assert told == [({"late": 1}, world)]


def test_what_is_shown_on_the_way_is_no_time_of_training(config, tmp_path, monkeypatch):
    """And a run that goes on counts from where it was."""
    clock = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(Observer):
        def stepped(self, _step, /):
            clock[0] += 2.0

    def shown(run, _check):
        clock[0] += 100.0
        return run.files.preview(run.state.step)

    monkeypatch.setattr(loop, "preview", shown)
    for steps in (2, 3):
        settings = override(config, {"steps": steps, "preview_every": 1})
        train(settings, tmp_path, callbacks=[Slow()], resume=steps > 2, device="cpu")
    told = entries(tmp_path, "seconds")
    assert [entry["seconds"] for entry in told] == [2.0, 4.0, 6.0]
    assert {entry["images_per_s"] for entry in told} == {8.0}  # 16 pictures in 2 s


def test_each_process_and_micro_batch_draws_numbers_of_its_own(config):
    """Of torch's generator, from which a network may draw."""
    config, seeds = override(config, {"accumulate": 2}), []
    for step in (0, 1):
        for rank in (0, 1):
            world = World(rank, 2, torch.device("cpu"))
            run = SimpleNamespace(config=config, world=world, state=SimpleNamespace(step=step))
            seeds += [torch.initial_seed() for _ in loop._micro_batches(run, iter([None] * 2))]
    assert len({*seeds}) == 8


def test_the_seed_alone_says_how_a_network_begins(config, tmp_path):
    found = []
    for name, seed, before in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        torch.manual_seed(before)
        own = override(config, {"seed": seed})
        state = session.open_run(own, RunFiles(tmp_path / name), ALONE).state
        found.append(state.params["in_conv.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
