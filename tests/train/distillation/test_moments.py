"""Moment matching: what is learned of a teacher, two networks in one state, what is refused."""

import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.distilling import Gaussian
from tests.helpers.processes import differing, last_step, logged, losses, tensors, wait_until
from vfn import load as load_model
from vfn import ops
from vfn.configs import DiffusionConfig, override
from vfn.objective import Batch
from vfn.runs import RunFiles, export_model, find_checkpoint, newest_checkpoint, save_checkpoint
from vfn.train import train
from vfn.train.distillation import distill, moment_objective, plan_of

FEW = {"method": "moment_matching", "steps": 4, "batch_size": 16, "log_every": 1, "eval_every": 0,
       "preview_every": 0, "checkpoint_every": 2, "warmup": 0, "student_steps": 2}  # fmt: skip
WORDS = ["--method", "moment_matching", "--batch-size", 16, "--log-every", 1, "--eval-every", 0,
         "--preview-every", 0, "--checkpoint-every", 3, "--device", "cpu"]  # fmt: skip
SPREAD, WIDE = 0.6, {"logsnr_min": -60.0, "logsnr_max": 60.0}


def go(teacher, out, **options):
    return distill(teacher, out, device="cpu", **{**FEW, **options})


def batch(count, **more):
    """Normal data at s = 0.5, with steps of all lengths."""
    draw = torch.Generator().manual_seed(0)
    x0, noise, again = torch.randn(3, count, 1, 1, 1, generator=draw, dtype=torch.float64)
    u = torch.rand(count, generator=draw, dtype=torch.float64)
    t = torch.full((count,), 0.5, dtype=torch.float64)
    return Batch(SPREAD * x0, None, t, noise, u=u, step_noise=again)._replace(**more)


def test_an_exact_generator_keeps_the_teacher_s_mean():
    """From pure noise: E[x~ | z_s] is the slope that the closed form of normal data has.

    x~ = 0.6 z is exact there. Its step of length 1 leads to s, where the slope of x~ on z_s is
    measured on 200,000 draws, four standard errors wide. A generator of half the size has another.
    """
    diffusion, seen = DiffusionConfig(**WIDE), {}
    teacher = Gaussian(diffusion, SPREAD)

    def slope(size):
        def student(z, t, _labels):
            seen["x0"] = size * z
            return ops.v_from_x0(z, size * z, ops.logsnr_schedule("cosine", -60.0, 60.0).logsnr(t))

        def auxiliary(z, t, _labels):
            seen["z"], seen["t"] = z, t
            return teacher(z, t)

        whole = batch(200_000, u=torch.ones(200_000, dtype=torch.float64))
        moment_objective(teacher, 0.0, 1)(student, whole, diffusion, auxiliary=auxiliary)
        z, x0 = seen["z"].flatten(), seen["x0"].flatten()
        fitted = (x0 * z).mean() / z.square().mean()
        error = ((x0 - fitted * z).square().mean() / z.square().sum()).sqrt()
        return fitted, error

    at_s = ops.logsnr_schedule("cosine", -60.0, 60.0).logsnr(torch.tensor(0.5).double())
    alpha2 = torch.sigmoid(at_s)
    exact = alpha2.sqrt() * SPREAD**2 / (alpha2 * SPREAD**2 + 1 - alpha2)
    fitted, error = slope(SPREAD)
    assert error < 0.002
    assert abs(fitted - exact) < 4 * error
    wrong, _ = slope(SPREAD / 2)
    assert abs(wrong - exact) > 0.1


def test_each_network_gets_the_gradient_of_its_own_loss():
    """Where the auxiliary network says what the teacher does, the student stands still."""
    diffusion = DiffusionConfig()
    teacher = Gaussian(diffusion, SPREAD).requires_grad_(False)

    def gradients(offset):
        own = torch.zeros((), dtype=torch.float64, requires_grad=True)
        other = torch.full((), offset, dtype=torch.float64, requires_grad=True)
        found = moment_objective(teacher, 0.0, 4)(
            lambda z, t, _labels: teacher(z, t) + own,
            batch(64),
            diffusion,
            auxiliary=lambda z, t, _labels: teacher(z, t) + other,
        )
        (found.loss.sum() + found.beside.sum()).backward()
        return own.grad, other.grad, found

    own, other, found = gradients(0.0)
    assert abs(own) < 1e-12
    assert abs(other) > 1
    assert found.loss.max() < 1e-24
    assert found.figures["moment_error"] < 1e-24
    own, _, found = gradients(0.1)
    assert abs(own) > 1
    assert found.loss.min() > 0


def test_a_run_of_its_own_with_its_sampler(teacher, tmp_path):
    outcome = go(teacher, tmp_path, teacher_guidance=0.5)
    assert outcome[:3] == (2, 4, 0)
    found = find_checkpoint(tmp_path / "steps-2")
    assert (found.config.sample.sampler, found.config.sample.sample_timesteps) == ("ancestral", 2)
    assert found.config.sample.guidance == 0
    assert {"moment_error", "auxiliary_loss"} <= logged(tmp_path / "steps-2")[-1].keys()
    drawn = load_model(tmp_path / "steps-2", "cpu")
    assert drawn.sample(2).nfe == 2
    # The auxiliary network begins as the student does, and has gone its own way.
    auxiliary = {name for name in found.auxiliary if name in found.params}
    assert auxiliary == found.params.keys()
    assert any(not torch.equal(found.auxiliary[n], found.params[n]) for n in auxiliary)
    assert found.auxiliary["updates"] == 4
    with pytest.raises(ValueError, match="guidance 1 was asked of a distilled model"):
        drawn.sample(2, guidance=1.0)
    export_model(found, tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == found.params.keys()


def test_both_networks_begin_as_the_teacher(teacher, tmp_path):
    go(teacher, tmp_path, lr=0.0, steps=1)
    taught, found = find_checkpoint(teacher).ema, find_checkpoint(tmp_path / "steps-2")
    for part in (found.params, found.auxiliary):
        assert all(torch.equal(part[name], value) for name, value in taught.items())


def test_guidance_as_an_input(teacher, tmp_path):
    go(teacher, tmp_path, guidance_range=(0, 2), steps=2)
    assert load_model(tmp_path / "steps-2", "cpu").sample(2, guidance=1.5).nfe == 2


def test_a_weaker_network_guides_the_teacher(config, teacher, tmp_path):
    train(override(config, {"steps": 1}), tmp_path / "weak", device="cpu")
    weak = {"teacher_guide_with": str(tmp_path / "weak"), "teacher_guide_weight": 0.5}
    go(teacher, tmp_path / "led", **weak, steps=2)
    go(teacher, tmp_path / "plain", teacher_guidance=0.0, steps=2)
    found = [losses(tmp_path / name / "steps-2") for name in ("led", "plain")]
    assert found[0] != found[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_distillation_is_bit_identical(teacher, tmp_path, precision):
    """A signal between steps, and micro-batches; with a loss scale, too."""
    options = {"accumulate": 2, "precision": precision}
    go(teacher, tmp_path / "whole", **options)

    def stop(entry):
        if entry.get("step") == 2 and "loss" in entry:
            signal.raise_signal(signal.SIGTERM)

    cut = distill(teacher, tmp_path / "cut", device="cpu", callbacks=[stop], **FEW, **options)
    assert cut.signum == signal.SIGTERM
    go(teacher, tmp_path / "cut", resume=True, **options)
    whole, cut = tmp_path / "whole" / "steps-2", tmp_path / "cut" / "steps-2"
    assert "auxiliary.updates" in tensors(whole)
    assert differing(whole, cut) == []
    assert losses(whole) == losses(cut)


@pytest.mark.slow
def test_a_killed_distillation_goes_on_to_the_same_result(forks, teacher, tmp_path):
    words = ["distill", "--teacher", teacher, *WORDS, "--steps", 16]
    forks.run(*words, "--out", tmp_path / "whole")
    killed = tmp_path / "killed"
    forks.start(*words, "--out", killed)
    wait_until(lambda: last_step(killed / "steps-4") > 5, forks.alive)
    forks.end(-signal.SIGKILL, signal.SIGKILL)
    forks.run(*words, "--out", killed, "--resume")
    whole, killed = tmp_path / "whole" / "steps-4", killed / "steps-4"
    assert differing(whole, killed) == []
    assert losses(whole) == losses(killed)


def test_two_processes_give_the_losses_of_one(forks, teacher, tmp_path):
    """The gradients of both networks are averaged over processes, once a step."""
    words = ["distill", "--teacher", teacher, *WORDS, "--steps", 8, "--lr", 0.003]
    forks.run(*words, "--out", tmp_path / "1")
    forks.run(*words, "--out", tmp_path / "2", "--accumulate", 2, processes=2)
    one, two = ([e for e in logged(tmp_path / n / "steps-4") if "loss" in e] for n in "12")
    for name in ("loss", "auxiliary_loss"):
        # Sums in another order: float32 rounding, amplified by a few Adam steps.
        assert [e[name] for e in two] == pytest.approx([e[name] for e in one], rel=2e-3)


def test_an_auxiliary_network_of_another_kind_is_refused(teacher, tmp_path):
    go(teacher, tmp_path, steps=2)
    files = RunFiles(tmp_path / "steps-2")
    found = newest_checkpoint(files)
    save_checkpoint(files, found._replace(auxiliary={}), keep=1)
    before = {path: path.read_bytes() for path in files.checkpoint_files()}
    with pytest.raises(ValueError, match="the checkpoint's auxiliary network and this one differ"):
        go(teacher, tmp_path, resume=True)
    assert before == {path: path.read_bytes() for path in files.checkpoint_files()}


def test_a_stopped_distillation_can_be_moved(teacher, tmp_path):
    go(teacher, tmp_path / "here", steps=2)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert go(None, tmp_path / "there", resume=True).step == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"teacher_steps": 8},
            "method moment_matching takes no steps of the teacher, got teacher_",
        ),
        ({"objective": "ect"}, "method moment_matching teaches the objective diffusion, got ect"),
        ({"method_options": {"regress_updates": 3}}, "expected no settings for method moment"),
        ({"student_steps": 0}, "student_steps"),
        ({"hid_channels": 64}, "expected the teacher's hid_channels 32, got 64"),
    ],
)
def test_what_does_not_fit_is_refused(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        plan_of(find_checkpoint(teacher), "digits_moments", {**FEW, **options})


def test_a_student_teaches_nobody(teacher, tmp_path):
    go(teacher, tmp_path, steps=1)
    with pytest.raises(ValueError, match="own velocity, which a student of method moment_matching"):
        distill(tmp_path / "steps-2", tmp_path / "next", device="cpu", method="moment_matching")
