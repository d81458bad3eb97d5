"""Stages of a distillation, one after the other: what teaches them, resuming, what is refused."""

import json
import shutil
import signal
from typing import NamedTuple

import pytest
import torch

from tests.helpers.distilling import MINI, SMALL_STAGES, go, plan
from tests.helpers.outside import Recorder
from tests.helpers.processes import differing, last_step, losses, wait_until
from vfn import load as load_model
from vfn.configs import load, override
from vfn.runs import find_checkpoint
from vfn.train import train
from vfn.train.distillation import distill, distill_objective


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


def test_one_call_teaches_and_tells(teacher, tmp_path):
    """From an opened model; observers hear of every stage, and the figures come as a table."""
    recorder, opened = Recorder(), load_model(teacher, "cpu")
    settings = {**MINI, "student_steps": 2}
    done = distill(opened, tmp_path, callbacks=[recorder], device="cpu", **settings)
    assert done[:3] == (2, 5, 0)
    assert [e for e in recorder.heard if e[0] in ("begun", "ended")] == [
        ("begun", 0), ("ended", (4, 0)), ("begun", 0), ("ended", (5, 0))
    ]  # fmt: skip
    assert done.stages == json.loads((tmp_path / "stages.json").read_text())
    head, *rows = done.table().splitlines()
    assert head.split()[:3] == ["student_steps", "updates", "loss"]
    assert [row.split()[:2] for row in rows] == [["4", "4"], ["2", "5"]]
    kept = find_checkpoint(tmp_path / "teacher.safetensors").ema
    assert all(torch.equal(value, opened.params[name]) for name, value in kept.items())
    # It goes on with the teacher and the settings that it has.
    again = distill(None, tmp_path, resume=True, device="cpu", student_steps=1)
    assert again[:3] == (1, 5, 0)


def test_a_method_of_somebody_else(teacher, tmp_path):
    assert go(teacher, tmp_path, method="tests.helpers.outside:AGAIN", student_steps=2) == (2, 5, 0)
    assert [path.name for path in tmp_path.glob("steps-*")] == ["steps-2"]
    with pytest.raises(ValueError, match="expected method math:tau to be a Method, got float"):
        go(teacher, tmp_path / "other", method="math:tau")


@pytest.mark.parametrize(
    ("name", "fault", "begun"),
    [
        ("NO_STAGES", "to have stages of different student_steps, got none", False),
        ("TWICE", "to have stages of different student_steps, got 2, 2", False),
        ("NOT_LISTED", "NOT_LISTED fails: TypeError", False),
        ("FORGETFUL", "to give an objective, a function of .*, got None", True),
        ("TEACHES_NOBODY", "TEACHES_NOBODY fails: TypeError", True),
        ("BROKEN", "BROKEN fails: AttributeError", True),
    ],
)
def test_a_method_of_somebody_else_fails_in_one_line(teacher, tmp_path, name, fault, begun):
    """Once it is mended it begins in the same place."""
    out = tmp_path / "fast"
    with pytest.raises(ValueError, match=rf"^(expected )?method .*{fault}"):
        go(teacher, out, method=f"tests.helpers.outside:{name}", student_steps=2)
    assert out.exists() == begun
    assert go(teacher, out, method="tests.helpers.outside:AGAIN", student_steps=2) == (2, 5, 0)


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

    def recording(network, guidance, steps, *led):
        params = {name: value.clone() for name, value in network.named_parameters()}
        seen.append(Lesson(network, params, guidance, steps, []))
        loss, batches = distill_objective(network, guidance, steps, *led), seen[-1].batches

        def recorded(student, batch, diffusion):
            batches.append(batch)
            return loss(student, batch, diffusion)

        return recorded

    monkeypatch.setattr("vfn.train.distillation.progressive.distill_objective", recording)
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


@pytest.mark.slow
def test_distilling_lowers_the_loss(teacher, tmp_path):
    go(teacher, tmp_path, steps=60, last_steps=60, teacher_steps=2, lr=1e-3)
    seen = losses(tmp_path / "steps-1")
    ends = [sum(seen[step] for step in steps) for steps in (range(1, 6), range(56, 61))]
    assert ends[1] < 0.7 * ends[0]


def test_killed_in_the_middle_of_stage_2_it_resumes_to_the_same_bits(teacher, forks, tmp_path):
    longer = [*SMALL_STAGES, "--steps", 4, "--last-steps", 40, "--checkpoint-every", 7]
    first = ["distill", "--teacher", teacher, *longer, "--device", "cpu"]
    forks.run(*first, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    forks.start(*first, "--out", out)
    wait_until(lambda: last_step(out / "steps-2") > 10, forks.alive)
    forks.end(-signal.SIGKILL, signal.SIGKILL)
    assert find_checkpoint(out / "steps-2").step < 40
    forks.run("distill", "--out", out, "--resume", "--device", "cpu")
    for steps in (4, 2, 1):
        stage = f"steps-{steps}"
        assert differing(tmp_path / "whole" / stage, out / stage) == []
        assert losses(tmp_path / "whole" / stage) == losses(out / stage)


def test_a_signal_ends_with_a_checkpoint_and_a_line(teacher, forks, tmp_path):
    longer = [*SMALL_STAGES, "--last-steps", 100000, "--device", "cpu"]
    forks.start("distill", "--out", tmp_path, "--teacher", teacher, *longer)
    wait_until(lambda: last_step(tmp_path / "steps-2") > 3, forks.alive)
    last = forks.end(128 + signal.SIGTERM, signal.SIGTERM).strip().splitlines()[-1]
    step = find_checkpoint(tmp_path / "steps-2").step
    assert last.startswith(f"stopped at step {step} of the student of 2 steps")
    assert last.endswith(f"vfn distill --out {tmp_path} --resume")


@pytest.fixture(scope="module")
def by_two(teacher, forks, tmp_path_factory):
    """A distillation by two processes."""
    out = tmp_path_factory.mktemp("two")
    line = ["distill", "--teacher", teacher, *SMALL_STAGES, "--device", "cpu", "--out", out]
    forks.run(*line, processes=2)
    return out


def test_two_processes_give_the_losses_of_one(teacher, by_two, tmp_path):
    go(teacher, tmp_path)
    for steps in (4, 2, 1):
        # Sums in another order: float32 rounding, amplified by a few Adam steps.
        a, b = (losses(out / f"steps-{steps}") for out in (tmp_path, by_two))
        assert b == pytest.approx(a, rel=1e-3)


def test_machines_need_not_count_the_same_restarts(teacher, by_two, forks, tmp_path):
    """torchrun counts only on the machine where a process died; neither was told to resume."""
    out = shutil.copytree(by_two, tmp_path / "run")
    shutil.rmtree(out / "steps-1")
    (out / "steps-2" / "checkpoints" / "step-00000005.safetensors").unlink()
    (out / "steps-2" / ".no-checkpoint-yet").touch()  # as a run that dies before its first one
    restarts = [{"TORCHELASTIC_RESTART_COUNT": str(rank)} for rank in range(2)]
    line = ["--out", out, "--teacher", teacher, *SMALL_STAGES, "--device", "cpu"]
    forks.run("distill", *line, variables=restarts)
    for steps in (2, 1):
        assert differing(by_two / f"steps-{steps}", out / f"steps-{steps}") == []


def test_an_unconditional_teacher_and_another_prediction(config, tmp_path):
    settings = {"conditional": False, "model_out_type": "both", "reweight_type": "snr"}
    train(override(config, settings), tmp_path / "teacher", device="cpu")
    go(tmp_path / "teacher", tmp_path / "out", teacher_steps=2)
    found = find_checkpoint(tmp_path / "out" / "steps-1").config
    assert (found.diffusion.model_out_type, found.data.conditional) == ("both", False)
    with pytest.raises(ValueError, match="needs a class-conditional model"):
        plan(tmp_path / "teacher", teacher_guidance=1.0)


def test_a_teacher_of_flow_matching_and_a_learned_weight(config, tmp_path):
    """The student need not draw or weigh its times as the teacher did."""
    words = {"model_out_type": "u", "logsnr_schedule": "flow", "reweight_type": "flow"}
    train(override(config, words), tmp_path / "teacher", device="cpu")
    chosen = {"learned_weight": True, "time_density": "low_discrepancy", "keep_expectation": True}
    go(tmp_path / "teacher", tmp_path / "out", teacher_steps=2, **chosen)
    found = find_checkpoint(tmp_path / "out" / "steps-1")
    assert found.config.diffusion.model_out_type == "u"
    assert found.weight["updates"] == found.step == MINI["last_steps"]
    assert found.weight["weight"].any()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"logsnr_schedule": "linear"}, "the teacher's logsnr_schedule cosine, got linear"),
        ({"shift": 2.0}, "the teacher's shift 1.0, got 2.0"),
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
    assert go(student, tmp_path / "out", teacher_steps=4, student_steps=2)[0] == 2


def test_a_stage_without_the_one_before_is_refused(teacher, tmp_path):
    go(teacher, tmp_path)
    (checkpoint,) = (tmp_path / "steps-4" / "checkpoints").iterdir()
    checkpoint.unlink()
    with pytest.raises(ValueError, match=r"steps-1 has a checkpoint, but .*steps-4, has none"):
        go(teacher, tmp_path, resume=True)


def test_a_stage_from_which_a_later_one_has_learned_gets_no_more_updates(teacher, tmp_path):
    go(teacher, tmp_path)
    with pytest.raises(
        ValueError, match=r"steps-4 was begun for \d+ updates, got 9, and .*steps-1"
    ):
        go(teacher, tmp_path, resume=True, first_steps=9)


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
