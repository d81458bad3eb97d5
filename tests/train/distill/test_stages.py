"""Progressive distillation: the objective, the stages, resuming, and what is refused."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch

from tests.helpers.comparing import finish, losses, same, wait_for_step
from tests.helpers.distilling import SMALL_STAGES, Gaussian, Recorder, batch_at, command, go
from tests.helpers.processes import ended, running
from vfn import ops
from vfn.configs import DiffusionConfig, load, override
from vfn.runs.checkpoint import find_checkpoint
from vfn.train.distill import distill_objective, halvings, plan_of, stage_config
from vfn.train.loop import train


def gaussian_ddim(z, levels, spread=0.3):
    """DDIM on normal data in closed form: z scales by a factor that depends on the ends alone."""
    for t, s in pairwise(levels):
        (a_t, s_t), (a_s, s_s) = ((torch.sigmoid(x).sqrt(), torch.sigmoid(-x).sqrt())
                                  for x in (t, s))  # fmt: skip
        gain = a_t * spread**2 / (a_t**2 * spread**2 + s_t**2)
        z = (a_s * gain + s_s / s_t * (1 - a_t * gain)) * z
    return z


def test_for_a_linear_gaussian_teacher_the_target_is_the_closed_form():
    """Independent of `distill_target`: two DDIM steps on normal data are products of scales."""
    steps, diffusion = 4, DiffusionConfig(model_out_type="x0", reweight_type="constant")
    schedule = ops.logsnr_schedule("cosine")
    t = torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)
    batch = batch_at(t)
    levels = [schedule.logsnr(t - k / (2 * steps)).view(-1, 1, 1, 1) for k in range(3)]
    z_t = ops.q_sample(batch.x0, schedule.logsnr(t), batch.noise)
    z_s = gaussian_ddim(z_t, levels)
    (a_t, s_t), (a_s, s_s) = ((torch.sigmoid(x).sqrt(), torch.sigmoid(-x).sqrt())
                              for x in (levels[0], levels[2]))  # fmt: skip
    exact = (z_s - s_s / s_t * z_t) / (a_s - s_s / s_t * a_t)
    loss = distill_objective(Gaussian(diffusion), 0.0, steps)
    assert loss(Recorder(exact), batch, diffusion).max() < 1e-20
    assert loss(Recorder(exact + 0.1), batch, diffusion).tolist() == pytest.approx([0.01] * 3)


def test_at_the_last_step_the_target_is_the_teacher_s_last_x0():
    steps, diffusion = 2, DiffusionConfig(model_out_type="x0", reweight_type="constant")
    schedule = ops.logsnr_schedule("cosine")
    t = torch.tensor([0.5], dtype=torch.float64)
    batch = batch_at(t)
    z_t = ops.q_sample(batch.x0, schedule.logsnr(t), batch.noise)
    levels = [schedule.logsnr(x).view(-1, 1, 1, 1) for x in (t, t / 2)]
    teacher = Gaussian(diffusion)
    last = teacher(gaussian_ddim(z_t, levels), t / 2)
    loss = distill_objective(teacher, 0.0, steps)
    assert loss(Recorder(last), batch, diffusion).item() < 1e-20


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "both"])
@pytest.mark.parametrize("reweight", ["constant", "snr", "truncated_snr", "alpha2", "min_snr"])
def test_a_student_that_equals_two_steps_of_the_teacher_has_no_loss(kind, reweight):
    """A teacher that always says the same x0 is its own student, whatever is predicted."""
    diffusion = DiffusionConfig(model_out_type=kind, reweight_type=reweight)

    class Constant(Gaussian):
        def forward(self, z, t, _labels=None):
            logsnr = ops.logsnr_schedule("cosine").logsnr(t).view(-1, 1, 1, 1)
            x0 = torch.full_like(z, 0.25)
            eps = ops.eps_from_x0(z, x0, logsnr)
            v = ops.v_from_x0(z, x0, logsnr)
            return {"x0": x0, "eps": eps, "v": v, "both": torch.cat([x0, eps], 1)}[kind]

    batch = batch_at(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    network = Constant(diffusion)
    loss = distill_objective(network, 0.0, 4)
    assert loss(network, batch, diffusion).max() < 1e-20
    assert loss(Gaussian(diffusion), batch, diffusion).min() > 1e-4


def test_two_teacher_forwards_and_a_doubled_batch_for_guidance():
    diffusion = DiffusionConfig()
    seen = []

    class Counting(Gaussian):
        def forward(self, z, t, labels=None):
            seen.append((len(z), torch.is_inference_mode_enabled(), labels))
            return super().forward(z, t, labels)

    batch = batch_at(torch.tensor([0.5, 1.0], dtype=torch.float64))
    student = Recorder(torch.zeros(2, 1, 2, 2, dtype=torch.float64))
    distill_objective(Counting(diffusion), 0.0, 2)(student, batch, diffusion)
    assert [entry[:2] for entry in seen] == [(2, True)] * 2
    seen.clear()
    labelled = batch._replace(labels=torch.tensor([1, 2]))
    distill_objective(Counting(diffusion), 0.5, 2)(student, labelled, diffusion)
    assert [entry[:2] for entry in seen] == [(4, True)] * 2
    assert seen[0][2].tolist() == [1, 2, 0, 0]


def test_stages_are_runs_that_know_their_grid(teacher, tmp_path):
    outcome = go(teacher, tmp_path)
    assert outcome == (1, 5, 0)
    for steps, updates in ((4, 4), (2, 5), (1, 5)):
        found = find_checkpoint(tmp_path / f"steps-{steps}")
        assert found.step == updates
        assert found.config.sample.sample_timesteps == steps
        assert found.config.sample.guidance == 0
        assert all(torch.equal(v, found.params[n]) for n, v in found.ema.items())
    first, second = (find_checkpoint(tmp_path / f"steps-{n}").config.distill for n in (4, 2))
    assert (first.teacher_guidance, second.teacher_guidance) == (0.5, 0)
    rows = json.loads((tmp_path / "stages.json").read_text())
    assert [row["student_steps"] for row in rows] == [4, 2, 1]
    assert all({"loss", "held_out_loss", "seconds"} <= row.keys() for row in rows)


class Lesson(NamedTuple):
    """What a stage was taught by, and what at."""

    teacher: torch.nn.Module
    params: dict
    guidance: float
    steps: int
    batches: list


@pytest.fixture
def lessons(monkeypatch):
    """Every stage's `Lesson` of the distillations that follow, in order."""
    seen = []

    def recording(network, guidance, steps):
        params = {name: value.clone() for name, value in network.named_parameters()}
        seen.append(Lesson(network, params, guidance, steps, []))
        loss, batches = distill_objective(network, guidance, steps), seen[-1].batches

        def recorded(student, batch, diffusion):
            batches.append(batch)
            return loss(student, batch, diffusion)

        return recorded

    monkeypatch.setattr("vfn.train.distill.distill_objective", recording)
    return seen


def test_each_stage_is_taught_by_the_average_of_the_one_before(teacher, tmp_path, lessons):
    """At rest and without gradients; the guidance is the first one's alone."""
    go(teacher, tmp_path, lr=1e-2, ema_decay=0.9)
    stages = [teacher, tmp_path / "steps-4", tmp_path / "steps-2"]
    for lesson, stage in zip(lessons, stages, strict=True):
        expected = find_checkpoint(stage)
        assert all(torch.equal(value, expected.ema[n]) for n, value in lesson.params.items())
        assert not all(torch.equal(value, expected.params[n]) for n, value in lesson.params.items())
        assert not lesson.teacher.training
        assert not any(p.requires_grad for p in lesson.teacher.parameters())
        assert all(torch.equal(p, lesson.params[n]) for n, p in lesson.teacher.named_parameters())
    assert [(lesson.guidance, lesson.steps) for lesson in lessons] == [(0.5, 4), (0, 2), (0, 1)]


def test_students_learn_at_their_own_times_only(teacher, tmp_path, lessons):
    """In training and for the held-out loss; all of them come up."""
    go(teacher, tmp_path, student_steps=4)
    (lesson,) = lessons
    times = torch.cat([batch.t for batch in lesson.batches])
    assert times.unique().tolist() == [0.25, 0.5, 0.75, 1.0]


def test_dropout_is_off_unless_asked_for(config, tmp_path):
    out = tmp_path / "teacher"
    train(override(config, {"dropout": 0.2}), out, device="cpu")
    found = find_checkpoint(out)
    assert plan_of(found, "digits_distill", {}).model.dropout == 0
    assert plan_of(found, "digits_distill", {"dropout": 0.1}).model.dropout == 0.1


def test_updates_of_the_first_and_the_last_halvings(teacher):
    plan = plan_of(find_checkpoint(teacher), "digits_distill", {"first_steps": 7, "steps": 3})
    steps = [stage_config(plan, n).train.steps for n in halvings(plan.distill)]
    assert steps == [7, 3, 3, 3, 400, 400]


def test_presets_let_the_rate_fall_and_keep_no_average():
    for name in ("digits_distill", "cifar10_distill"):
        preset = load(name)
        assert (preset.train.lr_schedule, preset.train.warmup) == ("linear", 0)
        assert (preset.train.ema_decay, preset.model.dropout) == (0, 0)


def test_the_teacher_s_picture_is_that_of_its_own_sampling(teacher, tmp_path):
    """The grid of its run: the same noise, steps and guidance, whatever the students' are."""
    go(teacher, tmp_path, student_steps=4)
    own = (teacher / "samples" / "step-00000003.png").read_bytes()
    assert (tmp_path / "teacher.png").read_bytes() == own
    go(teacher, tmp_path / "guided", student_steps=4, teacher_guidance=100.0)
    assert (tmp_path / "guided" / "teacher.png").read_bytes() != own


def test_a_student_starts_as_its_teacher(teacher, tmp_path):
    """Its average, too: nothing of it is left over from elsewhere."""
    go(teacher, tmp_path, lr=0.0, ema_decay=0.9)
    ours, theirs = find_checkpoint(tmp_path / "steps-1"), find_checkpoint(teacher)
    for values in (ours.params, ours.ema):
        assert all(torch.equal(value, theirs.ema[name]) for name, value in values.items())


def test_the_learning_rate_falls_linearly_in_every_stage(teacher, tmp_path):
    go(teacher, tmp_path, lr=1e-3)
    for steps, updates in ((4, 4), (1, 5)):
        lines = (tmp_path / f"steps-{steps}" / "log.jsonl").read_text().splitlines()
        rates = [e["lr"] for e in map(json.loads, lines) if "lr" in e]
        assert rates == pytest.approx([1e-3 * (1 - k / updates) for k in range(updates)])


def test_distilling_lowers_the_loss(teacher, tmp_path):
    go(teacher, tmp_path, steps=60, last_steps=60, teacher_steps=2, lr=1e-3)
    seen = losses(tmp_path / "steps-1")
    assert sum(seen[-5:]) < 0.7 * sum(seen[:5])


def test_killed_in_the_middle_of_stage_2_it_resumes_to_the_same_bits(teacher, tmp_path):
    longer = [*SMALL_STAGES, "--steps", "4", "--last-steps", "40", "--checkpoint-every", "7"]
    first = ["--teacher", str(teacher), *longer]
    finish(command("--out", str(tmp_path / "whole"), *first))
    out = tmp_path / "killed"
    process = subprocess.Popen(command("--out", str(out), *first), stderr=subprocess.DEVNULL)
    wait_for_step(out / "steps-2", 10, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert find_checkpoint(out / "steps-2").step < 40
    finish(command("--out", str(out), "--resume"))
    for steps in (4, 2, 1):
        stage = f"steps-{steps}"
        assert same(tmp_path / "whole" / stage, out / stage)
        assert losses(tmp_path / "whole" / stage) == losses(out / stage)


def test_a_signal_ends_with_a_checkpoint_and_a_line(teacher, tmp_path):
    longer = [*SMALL_STAGES, "--last-steps", "100000"]
    process = subprocess.Popen(
        command("--out", str(tmp_path), "--teacher", str(teacher), *longer),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_step(tmp_path / "steps-2", 3, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    step = find_checkpoint(tmp_path / "steps-2").step
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"stopped at step {step} of the student of 2 steps")
    assert last.endswith(f"vfn distill --out {tmp_path} --resume")


def test_two_processes_give_the_losses_of_one(teacher, tmp_path):
    arguments = ["--teacher", str(teacher), *SMALL_STAGES]
    finish(command("--out", str(tmp_path / "one"), *arguments))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    two = command("--out", str(tmp_path / "two"), *arguments)
    finish([*launcher, "--nproc_per_node", "2", *two[1:]])
    for steps in (4, 2, 1):
        # Sums in another order: float32 rounding, amplified by a few Adam steps.
        a, b = (losses(tmp_path / name / f"steps-{steps}") for name in ("one", "two"))
        assert b == pytest.approx(a, rel=1e-3)


def test_machines_need_not_count_the_same_restarts(teacher, tmp_path):
    """torchrun counts only on the machine where a process died; neither was told to resume."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    begin = command("--out", str(tmp_path / "whole"), "--teacher", str(teacher), *SMALL_STAGES)
    finish([*launcher, "--nproc_per_node", "2", *begin[1:]])
    out = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(out / "steps-1")
    (out / "steps-2" / "checkpoints" / "step-00000005.safetensors").unlink()
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    # One thread each, as torchrun gives them: sums in another order have other last bits.
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
              "OMP_NUM_THREADS": "1"}  # fmt: skip
    own = [{"RANK": str(i), "TORCHELASTIC_RESTART_COUNT": str(i)} for i in range(2)]
    again = command("--out", str(out), "--teacher", str(teacher), *SMALL_STAGES)
    with (
        running(again, env=os.environ | common | own[0]) as first,
        running(again, env=os.environ | common | own[1]) as second,
    ):
        ended(first)
        ended(second)
    for steps in (2, 1):
        assert same(tmp_path / "whole" / f"steps-{steps}", out / f"steps-{steps}")


def test_an_unconditional_teacher_and_another_prediction(config, tmp_path):
    settings = {"conditional": False, "model_out_type": "both", "reweight_type": "snr"}
    train(override(config, settings), tmp_path / "teacher", device="cpu")
    go(tmp_path / "teacher", tmp_path / "out", teacher_steps=2)
    found = find_checkpoint(tmp_path / "out" / "steps-1").config
    assert (found.diffusion.model_out_type, found.data.conditional) == ("both", False)
    with pytest.raises(ValueError, match="needs a class-conditional model"):
        plan_of(find_checkpoint(tmp_path / "teacher"), "digits_distill", {"teacher_guidance": 1.0})


@pytest.mark.parametrize("numbers", [(6, 4), (12, 4), (4, 4), (2, 4), (1, 1)])
def test_steps_that_are_no_power_of_two_multiple(numbers):
    values = dict(zip(("teacher_steps", "student_steps"), numbers, strict=True))
    with pytest.raises(ValueError, match="expected teacher_steps to be 2, 4, 8, ... times"):
        override(load("digits_distill"), values)


def test_odd_numbers_are_halved_down_to_an_odd_one():
    settings = override(load("digits_distill"), {"teacher_steps": 24, "student_steps": 3})
    assert halvings(settings.distill) == [12, 6, 3]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"logsnr_schedule": "linear"}, "the teacher's logsnr_schedule cosine, got linear"),
        ({"logsnr_max": 10.0}, "the teacher's logsnr_max 20.0, got 10.0"),
        ({"model_out_type": "eps"}, "the teacher's model_out_type v, got eps"),
        ({"hid_channels": 64}, "the teacher's hid_channels 32, got 64"),
        ({"conditional": False}, "expected the teacher's pictures"),
    ],
)
def test_what_does_not_match_the_teacher_is_refused(teacher, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        go(teacher, tmp_path / "out", **overrides)
    assert not (tmp_path / "out").exists()


def test_a_student_teaches_only_on_its_own_grid(teacher, tmp_path):
    go(teacher, tmp_path / "first", student_steps=4)
    student = tmp_path / "first" / "steps-4"
    with pytest.raises(ValueError, match="teacher_steps 4, the only grid this student knows"):
        go(student, tmp_path / "out", teacher_steps=8)
    assert go(student, tmp_path / "out", teacher_steps=4, student_steps=2).student_steps == 2


def test_a_stage_without_the_one_before_is_refused(teacher, tmp_path):
    go(teacher, tmp_path)
    (checkpoint,) = (tmp_path / "steps-4" / "checkpoints").iterdir()
    checkpoint.unlink()
    with pytest.raises(ValueError, match=r"steps-1 has a checkpoint, but .*steps-4, has none"):
        go(teacher, tmp_path, resume=True)


def test_a_distillation_is_not_overwritten_nor_given_another_teacher(teacher, config, tmp_path):
    out = tmp_path / "out"
    go(teacher, out)
    with pytest.raises(ValueError, match="already holds a run; add --resume"):
        go(teacher, out)
    train(config, tmp_path / "other", device="cpu")
    with pytest.raises(ValueError, match="is not the teacher of"):
        go(tmp_path / "other", out, resume=True)


def test_training_refuses_a_distillation(tmp_path):
    with pytest.raises(ValueError, match="use vfn distill"):
        train(load("digits_distill"), tmp_path, device="cpu")
