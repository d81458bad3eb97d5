"""Teachers that are led away from a weaker network: what students learn, resuming, mistakes."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.distilling import MINI, Gaussian, Recorder, batch_at, go, plan
from tests.helpers.memory import Alive, Counting
from tests.helpers.processes import differing, losses
from tests.helpers.small import small_checkpoint
from vfn.configs import DiffusionConfig, load, override
from vfn.model import schedule_of
from vfn.nn import denoiser
from vfn.ops import ddim_step, distill_target, guide, q_sample
from vfn.runs import RunFiles, find_checkpoint, load_checkpoint, write_checkpoint
from vfn.train import train
from vfn.train.distillation import (
    Method,
    Weak,
    distill,
    distill_objective,
    plan_distillation,
    stage_config,
    stages,
    teachers,
)
from vfn.train.distillation.teachers import find_weak
from vfn.train.distillation.teaching import taught_by

ALONE = Method(
    stages=lambda plan: [stage_config(plan, plan.distill.student_steps)],
    objective=lambda teacher, stage: lambda network, batch, diffusion: batch.t,
)


def given_weak(teacher, stage, weak=None):
    """An objective that is the weight of the weaker network, and has a gradient."""
    del teacher, stage
    by = 0.0 if weak is None else weak.guidance

    def loss(network, batch, _diffusion):
        said = network(batch.x0, batch.t, batch.labels)
        return by + 0 * said.flatten(1).sum(1)

    return loss


TAKING = Method(
    stages=lambda plan: [stage_config(plan, plan.distill.student_steps)],
    objective=given_weak,
    takes_weak=True,
)


class Constant(nn.Module):
    """Says the same x0 of everything; a quarter more of what has a label."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, z, _t, labels=None):
        if labels is None:
            return torch.full_like(z, self.value)
        level = self.value + 0.25 * (labels > 0).to(z.dtype)
        return level.view(-1, 1, 1, 1).expand_as(z)


def weak_of(model, diffusion, by):
    """A weaker network as methods get it."""
    schedule = schedule_of(diffusion)

    def said(_labels, _more, clip):
        return denoiser(model, None, schedule, diffusion.model_out_type, None, clip=clip)

    return Weak(said, by)


def test_a_student_learns_the_guided_prediction():
    """1/4 with a label, 0 without, away by 1/2 from 0; and away by 2 from the weaker one's 1/8."""
    diffusion = DiffusionConfig(model_out_type="x0")
    batch = batch_at(torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
    batch = batch._replace(labels=torch.tensor([1, 2, 2]))
    loss = distill_objective(Constant(0.0), 0.5, 4, weak_of(Constant(0.125), diffusion, 2.0))
    wanted = 0.25 + 0.5 * 0.25 + 2.0 * (0.25 - 0.125)
    assert loss(Recorder(torch.full_like(batch.x0, wanted)), batch, diffusion).max() < 1e-20
    assert loss(Recorder(torch.full_like(batch.x0, 0.25)), batch, diffusion).min() > 1e-3


@pytest.mark.parametrize("kind", ["v", "eps"])
def test_two_steps_of_the_guided_teacher_are_the_target(kind):
    """Of exact networks, the weaker one of another prediction and schedule; by steps of DDIM."""
    ours = DiffusionConfig(model_out_type="x0", reweight_type="constant")
    theirs = DiffusionConfig(model_out_type=kind, logsnr_schedule="linear")
    strong, weak = Gaussian(ours, 0.3), Gaussian(theirs, 0.5)
    schedule, batch = schedule_of(ours), batch_at(torch.tensor([0.5, 0.75], dtype=torch.float64))
    z = q_sample(batch.x0, schedule.logsnr(batch.t), batch.noise)

    def guided(z, logsnr):
        each = [
            denoiser(net, None, schedule_of(d), d.model_out_type)(z, logsnr)
            for net, d in ((strong, ours), (weak, theirs))
        ]
        return guide(*each, 0.5)

    t, mid, s = (schedule.logsnr(batch.t - shift) for shift in (0, 0.125, 0.25))
    target = distill_target(guided, z, t, mid, s)
    half = ddim_step(z, guided(z, t), t, mid)
    torch.testing.assert_close(
        ddim_step(z, target, t, s), ddim_step(half, guided(half, mid), mid, s)
    )
    objective = distill_objective(strong, 0.0, 4, weak_of(weak, theirs, 0.5))
    said = Recorder(target)
    assert objective(said, batch, ours).max() < 1e-20
    assert distill_objective(strong, 0.0, 4)(said, batch, ours).min() > 1e-6


@pytest.fixture(scope="module")
def kept(config, tmp_path_factory):
    """A teacher with an earlier step that was kept, and guides its sample grids."""
    out = tmp_path_factory.mktemp("kept")
    sample = {"sample_timesteps": 2, "guidance": 0.5, "guide_with": "2", "guide_weight": 3.0}
    settings = {"steps": 3, "batch_size": 16, "log_every": 1, "lr_schedule": "constant",
                "keep_at": (2,), "preview_every": 0, "lr": 0.1, "warmup": 0}  # fmt: skip
    base = override(load("digits"), {"dataset": config.data.dataset, "hid_channels": 32,
                                     "ch_multipliers": (1,), "apply_attn": (False,),
                                     "num_res_blocks": 1})  # fmt: skip
    train(override(base, {**sample, **settings}), out, device="cpu")
    return out


def weights_of(path):
    return load_checkpoint(path).ema


def test_the_first_teacher_alone_is_led_away(kept, tmp_path):
    """By what it is sampled with, unless something else is asked; its copy is kept beside."""
    assert go(kept, tmp_path / "own", student_steps=2)[:2] == (2, 5)
    own = RunFiles(tmp_path / "own")
    expected = weights_of(RunFiles(kept).checkpoint(2))
    assert all(torch.equal(v, expected[n]) for n, v in weights_of(own.weak).items())
    asked = [find_checkpoint(own.stage(n).path).config.distill for n in (4, 2)]
    assert [each.teacher_guide_with for each in asked] == ["2", None]
    assert [each.teacher_guide_weight for each in asked] == [3.0, None]
    assert plan(f"run:{kept}") == plan(kept)
    weak = find_weak(plan(kept), f"run:{kept}", find_checkpoint(kept), RunFiles("none"), False)
    assert weak.step == 2
    go(kept, tmp_path / "none", student_steps=4, teacher_guide_weight=0)
    none = RunFiles(tmp_path / "none")
    assert not none.weak.exists()
    _, again = plan_distillation(None, none.path, resume=True)
    assert again.distill.teacher_guide_with is None
    first, other = (weights_of(run.stage(4).checkpoint(4)) for run in (own, none))
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    assert own.teacher_grid.read_bytes() != none.teacher_grid.read_bytes()


def test_a_method_of_somebody_else_gets_the_weaker_network_if_it_takes_one(kept, tmp_path):
    """The same function without one."""
    settings = {"method": f"{__name__}:TAKING", "student_steps": 2, "teacher_steps": 4, "steps": 1}
    for weight in (3.0, 0.0):
        out = tmp_path / str(weight)
        go(kept, out, teacher_guide_weight=weight, **settings)
        assert set(losses(out / "steps-2").values()) == {weight}


def test_it_goes_on_with_the_weaker_network_that_it_has(kept, tmp_path):
    """Exactly, and without the file that it came from."""
    go(kept, tmp_path / "whole", student_steps=4)
    shutil.copytree(kept, tmp_path / "teacher")
    out, settings = tmp_path / "parts", {**MINI, "student_steps": 4}

    def stop(entry):
        if entry["step"] == 3:
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        distill(tmp_path / "teacher", out, device="cpu", callbacks=[stop], **settings)
    assert RunFiles(out).stage(4).checkpoint_files()[0].name == "step-00000002.safetensors"
    RunFiles(tmp_path / "teacher").checkpoint(2).unlink()
    distill(None, out, resume=True, device="cpu", **settings)
    assert differing(tmp_path / "whole" / "steps-4", out / "steps-4") == []


def test_nothing_of_the_teachers_is_held_while_students_learn(kept, tmp_path, monkeypatch):
    """Their networks aside; a stage is gone when the next begins, and the last teaches nobody."""
    alive, before, here = Alive(), Alive(), []
    counting, opened = Counting(alive), stages.open_run

    def noted(path):
        return alive.note_checkpoint(find_checkpoint(path))

    def opening(*given, **options):
        here.append((alive.count(), before.count()))
        run = opened(*given, **options)
        before.note(run.state.params, run.state.ema)
        return run

    monkeypatch.setattr(teachers, "as_checkpoint", noted)
    earlier = RunFiles(kept).checkpoint(2)
    monkeypatch.setattr(teachers, "find_weaker", lambda *_: (earlier, noted(earlier)))
    monkeypatch.setattr(stages, "find_checkpoint", noted)
    monkeypatch.setattr(stages, "open_run", opening)
    average = len(find_checkpoint(kept).ema)
    settings = {**MINI, "student_steps": 2}
    distill(kept, tmp_path, device="cpu", callbacks=[counting], **settings)
    assert here == [(2 * average, 0), (average, 0)]
    assert counting.found == [0] * 9
    assert len(alive.parts) == 3 * 4 * average


def plain_teacher(teacher, folder, **changed):
    """A checkpoint like the teacher's, of something else."""
    checkpoint = find_checkpoint(teacher)
    shape = checkpoint.shape._replace(**changed)
    write_checkpoint(folder / "weak", small_checkpoint(checkpoint.config, shape, step=1))
    return str(folder / "weak")


def test_what_does_not_fit_is_refused_and_nothing_written(teacher, kept, tmp_path):
    for source, options, message in (
        (teacher, {"teacher_guide_with": "7"}, "has no checkpoint of step 7 to guide with"),
        (teacher, {"teacher_guide_weight": 2.0}, "teacher_guide_weight 2 goes with a weaker netw"),
        (teacher, {"teacher_guide_with": "2", "teacher_guide_weight": -1.0}, "at least 0, got -1"),
        (
            teacher,
            {"teacher_guide_with": plain_teacher(teacher, tmp_path, height=4)},
            "to guide with to be a network of pictures of",
        ),
        (
            kept,
            {"method": "tests.train.distillation.test_stages_weaker:ALONE", "student_steps": 4},
            "knows no teacher that is led away from a weaker network; leave out --guide-with",
        ),
        (find_checkpoint(kept), {}, "is one of the network's own run, and it has none"),
    ):
        with pytest.raises(ValueError, match=message):
            go(source, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
    assert plan(kept, teacher_guide_weight=0).distill.teacher_guide_with is None


def test_a_student_is_not_led_away(kept, tmp_path):
    go(kept, tmp_path / "a", student_steps=4)
    with pytest.raises(
        ValueError, match="teacher_guide_with unset, since this student has its gui"
    ):
        go(tmp_path / "a" / "steps-4", tmp_path / "b", teacher_steps=4, student_steps=2,
           teacher_guide_with=str(RunFiles(kept).checkpoint(2)))  # fmt: skip


def test_the_command_names_it_shortly(kept):
    from click.testing import CliRunner

    from vfn.cli import app

    words = ["distill", "--teacher", str(kept), "--out", "unused", "--dry-run", "--guide-with",
             str(Path("some") / "run"), "--guide-weight", "0.75"]  # fmt: skip
    done = CliRunner().invoke(app, words, obj=words)
    assert done.exit_code == 0, done.output
    assert 'teacher_guide_with = "some/run"' in done.output
    assert "teacher_guide_weight = 0.75" in done.output


def test_the_weight_of_another_weaker_network_is_not_that_of_the_teacher_s(kept):
    """Which has 3 for its own."""
    other = str(RunFiles(kept).checkpoint(2))
    assert plan(kept).distill.teacher_guide_weight == 3
    assert plan(kept, teacher_guide_with=other).distill.teacher_guide_weight == 1


@pytest.mark.parametrize("clip", [False, True])
def test_both_networks_are_held_within_the_range_or_neither(clip):
    """Away from itself nothing leads."""
    diffusion = DiffusionConfig(model_out_type="x0")
    batch, model = batch_at(torch.tensor([0.5, 1.0])), Constant(2.5)
    denoise = taught_by(model, batch, diffusion, 0.0, weak_of(model, diffusion, 1.0), clip=clip)
    assert (denoise(batch.noise, torch.zeros(2)) == (1.0 if clip else 2.5)).all()


def test_a_weaker_network_is_asked_about_the_labels_of_the_batch():
    asked = []
    weak = Weak(
        lambda labels, _more, _clip: asked.append(labels) or (lambda z, _logsnr: 0 * z), 1.0
    )
    batch = batch_at(torch.tensor([0.5, 1.0]))._replace(labels=torch.tensor([1, 2]))
    taught_by(Constant(0.0), batch, DiffusionConfig(model_out_type="x0"), 0.0, weak)
    assert [labels.tolist() for labels in asked] == [[1, 2]]
