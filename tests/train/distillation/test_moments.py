"""Moment matching: what is learned of a teacher, two networks in one state, what is refused."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.distilling import Gaussian
from tests.helpers.processes import differing, last_step, logged, losses, tensors, wait_until
from vfn import load as load_model
from vfn import ops
from vfn.configs import DiffusionConfig, override
from vfn.data import load_dataset
from vfn.footprint import SLACK, Footprint
from vfn.info import cost
from vfn.model import build_model, shape_of
from vfn.objective import Batch
from vfn.runs import RunFiles, export_model, find_checkpoint, newest_checkpoint, save_checkpoint
from vfn.train import train
from vfn.train.ahead import check_room
from vfn.train.batches import make_batch
from vfn.train.companions import init_auxiliary
from vfn.train.distillation import distill, moment_objective, plan_of
from vfn.train.state import init_state, train_step

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


def slope_at_half(size):
    """Of x~ on z_s at s = 0.5 over 200,000 draws, for x~ = size z of pure noise, and its error."""
    seen, diffusion = {}, DiffusionConfig(**WIDE)
    teacher = Gaussian(diffusion, SPREAD)

    def student(z, t, _labels):
        seen["x0"] = size * z
        return ops.v_from_x0(z, size * z, ops.logsnr_schedule("cosine", -60.0, 60.0).logsnr(t))

    def auxiliary(z, t, _labels):
        seen["z"] = z
        return teacher(z, t)

    whole = batch(200_000, u=torch.ones(200_000, dtype=torch.float64))
    moment_objective(teacher, 0.0, 1)(student, whole, diffusion, auxiliary=auxiliary)
    z, x0 = seen["z"].flatten(), seen["x0"].flatten()
    fitted = (x0 * z).mean() / z.square().mean()
    return fitted, ((x0 - fitted * z).square().mean() / z.square().sum()).sqrt()


def test_the_states_of_an_exact_generator_have_the_teacher_s_mean():
    """x~ = 0.6 z draws normal data exactly in one step: its z_s are those of data.

    So the slope of x~ on z_s is that of the teacher's prediction, within four standard errors; that
    of a generator of half the size is another.
    """
    half = torch.full((1,), 0.5, dtype=torch.float64)
    exact = ops.predict(
        z := torch.ones(1, 1, 1, 1, dtype=torch.float64),
        Gaussian(DiffusionConfig(**WIDE), SPREAD)(z, half),
        ops.logsnr_schedule("cosine", -60.0, 60.0).logsnr(half),
        "v",
    ).x0.item()
    fitted, error = slope_at_half(SPREAD)
    assert error < 0.002
    assert abs(fitted - exact) < 4 * error
    assert abs(slope_at_half(SPREAD / 2)[0] - exact) > 0.1


@pytest.mark.parametrize(("k", "weighting"), [(1, "snr"), (4, "alpha2")])
def test_losses_are_those_of_a_step_from_t_to_s_weighted_at_s(k, weighting):
    """Against the two losses of vfn.ops, of what each network was asked and said."""
    diffusion, asked = DiffusionConfig(reweight_type=weighting), {}
    teacher = Gaussian(diffusion, SPREAD)
    given = batch(64, t=torch.linspace(0.1, 0.9, 64, dtype=torch.float64))
    schedule = ops.logsnr_schedule("cosine")

    def network(name, share):
        def said(z, t, _labels):
            asked[name] = z, t, share * z
            return ops.v_from_x0(z, share * z, schedule.logsnr(t))

        return said

    found = moment_objective(teacher, 0.0, k)(
        network("student", 0.4), given, diffusion, auxiliary=network("auxiliary", 0.7)
    )
    (z_t, t, x0), (z_s, s, mean) = asked["student"], asked["auxiliary"]
    torch.testing.assert_close(t, (given.t + given.u / k).clamp(max=1))
    assert torch.equal(s, given.t)
    levels = schedule.logsnr(t), schedule.logsnr(s)
    torch.testing.assert_close(z_t, ops.q_sample(given.x0, levels[0], given.noise))
    torch.testing.assert_close(z_s, ops.ancestral_step(z_t, x0, *levels, given.step_noise))
    wanted = ops.predict(z_s, teacher(z_s, s), levels[1], "v").x0
    weight = ops.loss_weight(levels[1], weighting)
    torch.testing.assert_close(found.loss, weight * ops.moment_loss(x0, x0, mean, wanted))
    theirs = weight * ops.auxiliary_loss(mean, x0, wanted)
    torch.testing.assert_close(found.auxiliary, theirs)


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
        (found.loss.sum() + found.auxiliary.sum()).backward()
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
    """Networks of a range are asked for the w of each picture, and the teacher is led by it."""
    found = []
    for name, span in (("low", (0, 0.5)), ("high", (2, 4))):
        go(teacher, tmp_path / name, guidance_range=span, lr=0.03)
        found.append(losses(tmp_path / name / "steps-2"))
    assert found[1][1] > 4 * found[0][1]  # both networks are the teacher without guidance
    drawn = load_model(tmp_path / "high" / "steps-2", "cpu")
    low, high = (drawn.sample(2, guidance=w).images for w in (2.0, 4.0))
    assert not torch.equal(low, high)


def test_guidance_is_distilled_in(teacher, tmp_path):
    found = []
    for w in (0.0, 3.0):
        go(teacher, tmp_path / f"{w}", teacher_guidance=w, steps=1)
        found.append(losses(tmp_path / f"{w}" / "steps-2")[1])
    assert found[1] > 2 * found[0]


def test_a_weaker_network_guides_the_teacher(config, teacher, tmp_path):
    train(override(config, {"steps": 1}), tmp_path / "weak", device="cpu")
    weak = {"teacher_guide_with": str(tmp_path / "weak"), "teacher_guide_weight": 0.5}
    go(teacher, tmp_path / "led", **weak, steps=2)
    go(teacher, tmp_path / "plain", teacher_guidance=0.0, steps=2)
    found = [losses(tmp_path / name / "steps-2") for name in ("led", "plain")]
    assert found[0] != found[1]


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(forks, teacher, tmp_path):
    """The gradients of both networks are averaged over processes, once a step."""
    words = ["distill", "--teacher", teacher, *WORDS, "--steps", 8, "--lr", 0.003]
    forks.run(*words, "--out", tmp_path / "1")
    forks.run(*words, "--out", tmp_path / "2", "--accumulate", 2, processes=2)
    one, two = ([e for e in logged(tmp_path / n / "steps-4") if "loss" in e] for n in "12")
    for name in ("loss", "auxiliary_loss"):
        # Sums in another order: float32 rounding, amplified by a few Adam steps.
        assert [e[name] for e in two] == pytest.approx([e[name] for e in one], rel=2e-3)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_checkpoint_without_its_auxiliary_network_is_refused(teacher, tmp_path, kept):
    """All of it, or a part."""
    go(teacher, tmp_path, steps=2)
    files = RunFiles(tmp_path / "steps-2")
    found = newest_checkpoint(files)
    part = dict(list(found.auxiliary.items())[: kept * 9])
    save_checkpoint(files, found._replace(auxiliary=part), keep=1)
    before = {path: path.read_bytes() for path in files.checkpoint_files()}
    with pytest.raises(ValueError, match="the checkpoint's auxiliary network and this one differ"):
        go(teacher, tmp_path, resume=True)
    assert before == {path: path.read_bytes() for path in files.checkpoint_files()}


@pytest.mark.slow
def test_held_out_losses_are_the_same_after_resuming_and_in_processes(forks, teacher, tmp_path):
    """With dropout, which the loss of held-out pictures does without."""
    more = ["--preview-every", 2, "--dropout", 0.3, "--checkpoint-every", 2,
            "--lr-schedule", "constant"]  # fmt: skip
    words = ["distill", "--teacher", teacher, *WORDS, *more]
    runs = {name: tmp_path / name for name in ("whole", "cut", "two")}
    forks.run(*words, "--steps", 4, "--out", runs["whole"])
    forks.run(*words, "--steps", 2, "--out", runs["cut"])
    forks.run(*words, "--steps", 4, "--out", runs["cut"], "--resume")
    forks.run(*words, "--steps", 4, "--out", runs["two"], processes=2)
    found = {
        name: [e["held_out_loss"] for e in logged(out / "steps-4") if "held_out_loss" in e]
        for name, out in runs.items()
    }
    assert len(found["whole"]) == 2
    assert found["cut"] == found["whole"]
    # Sums in another order: float32 rounding, amplified by a few Adam steps.
    assert found["two"] == pytest.approx(found["whole"], rel=2e-3)


def test_where_one_gradient_is_not_finite_neither_network_moves(config):
    """In fp16 the loss scale falls for either, until both are."""
    halved = override(config, {"precision": "fp16"})
    dataset = load_dataset("digits")
    model = build_model(halved, shape_of(dataset))
    state = init_state(model, halved.train)
    state.auxiliary = init_auxiliary(model, halved.train)
    batch = make_batch(dataset, halved, torch.arange(8), torch.device("cpu"), takes_step=True)
    beside = state.auxiliary.module

    def objective(size):
        def loss(network, batch, _diffusion):
            own, other = (net(batch.x0, batch.t, batch.labels).mean((1, 2, 3)) for net in
                          (network, beside))  # fmt: skip
            return ops.Learned(own, {}, size * other)

        return loss

    before = {name: value.clone() for name, value in state.auxiliary.saved().items()}
    kept = {name: value.clone() for name, value in state.params.items()}
    train_step(state, model, [batch], halved, objective(1e38), auxiliary=beside)
    assert state.counters["skipped"] == 1
    assert state.counters["loss_scale"] == 2.0**15
    assert all(torch.equal(state.params[name], value) for name, value in kept.items())
    assert all(torch.equal(state.auxiliary.saved()[name], v) for name, v in before.items())
    train_step(state, model, [batch], halved, objective(1.0), auxiliary=beside)
    assert state.counters["updates"] == state.auxiliary.saved()["updates"] == 1


def test_an_objective_has_to_teach_the_auxiliary_network(config):
    dataset = load_dataset("digits")
    model = build_model(config, shape_of(dataset))
    state = init_state(model, config.train)
    state.auxiliary = init_auxiliary(model, config.train)
    batch = make_batch(dataset, config, torch.arange(8), torch.device("cpu"))
    with pytest.raises(ValueError, match="the loss of the auxiliary network as well"):
        train_step(state, model, [batch], config, auxiliary=state.auxiliary.module)


def test_memory_and_room_count_both_networks(teacher, monkeypatch):
    plan = plan_of(find_checkpoint(teacher), "digits_moments", FEW)
    shape = find_checkpoint(teacher).shape
    one, two = (Footprint(plan, shape, networks=n) for n in (1, 2))
    copies = one.parameters * SLACK["cpu"]
    assert two.step(1) - one.step(1) > 3 * copies  # parameters, two moments, and gradients
    assert two.step(512) > 1.7 * one.step(512)
    assert two.draw(1, state=True) - one.draw(1, state=True) == pytest.approx(3 * copies, rel=1e-3)
    memory = cost(plan, shape).memory()
    assert memory["the auxiliary network"] == 3 * memory["parameters"] == 3 * one.parameters
    assert memory["gradients"] == 2 * one.parameters
    wanted = []
    monkeypatch.setattr(
        "vfn.train.ahead.check_space", lambda _path, size, *_words: wanted.append(size)
    )
    for each in (plan, override(plan, {"method": "progressive", "teacher_steps": 4})):
        check_room([(RunFiles(Path("nowhere")), each)], 1000)
    assert wanted[0] * 4 == wanted[1] * 7


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
        ({"learned_weight": True}, "two networks with losses of their own, which a learned weight"),
        ({"time_embedding": "smooth"}, "expected the teacher's time_embedding sinusoidal"),
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


def test_the_second_network_weighs_times_and_clips_as_the_network_does(config):
    """A time that is drawn twice as often counts half; gradients have at most ``grad_norm``."""
    config, dataset = override(config, {"grad_norm": 1e-3}), load_dataset("digits")
    plain = make_batch(dataset, config, torch.arange(8), torch.device("cpu"), takes_step=True)
    found = []
    for size, weight, most in ((1.0, None, 1e-3), (0.5, None, 1e6), (1.0, 0.5, 1e6)):
        own = override(config, {"grad_norm": most})
        torch.manual_seed(0)
        model = build_model(own, shape_of(dataset))
        state = init_state(model, own.train)
        state.auxiliary = init_auxiliary(model, own.train)
        beside = state.auxiliary.module
        batch = plain if weight is None else plain._replace(weight=torch.full((8,), weight))

        def loss(network, batch, _diffusion, size=size, beside=beside):
            both = (net(batch.x0, batch.t, batch.labels).mean((1, 2, 3)) for net in
                    (network, beside))  # fmt: skip
            own, other = both
            return ops.Learned(own, {}, size * other)

        train_step(state, model, [batch], own, loss, auxiliary=beside)
        saved = state.auxiliary.saved()
        moments = [v.flatten() for name, v in saved.items() if name.startswith("exp_avg.")]
        found.append(torch.cat(moments) / (1 - own.train.beta1))  # after one step: the gradient
    clipped, halved, weighed = found
    assert clipped.norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert halved.norm() > 1e-2
    torch.testing.assert_close(weighed, halved)
