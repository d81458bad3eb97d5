"""Consistency distillation: what is learned of a teacher, warm-up, resuming, what is refused."""

import math
import signal
from dataclasses import replace

import pytest
import torch

from tests.helpers.distilling import Gaussian
from tests.helpers.processes import differing, last_step, logged, losses, wait_until
from tests.helpers.small import small_checkpoint, small_config
from vfn import load as load_model
from vfn import ops
from vfn.configs import DiffusionConfig, ModelConfig, load, override
from vfn.objective import Batch, path_loss
from vfn.runs import find_checkpoint
from vfn.train import train
from vfn.train.distillation import METHODS, distill, path_objective, plan_of, stages_of

FEW = {"method": "consistency", "steps": 4, "batch_size": 16, "log_every": 1, "eval_every": 0,
       "preview_every": 0, "checkpoint_every": 2, "warmup": 0,
       "method_options": {"regress_updates": 2}}  # fmt: skip
WORDS = ["--batch-size", 16, "--log-every", 1, "--eval-every", 0, "--preview-every", 0,
         "--checkpoint-every", 3, "--device", "cpu"]  # fmt: skip
SPREAD = 0.6


def go(teacher, out, **options):
    return distill(teacher, out, device="cpu", **{**FEW, **options})


@pytest.fixture(scope="module")
def weaker(config, tmp_path_factory):
    """A network of fewer steps than the teacher."""
    out = tmp_path_factory.mktemp("weaker")
    train(override(config, {"steps": 1}), out, device="cpu")
    return out


def batch(update=None, **more):
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 64, 1, 2, 2, generator=draw, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    return Batch(SPREAD * x0, None, t, noise, update=update, **more)


def consistent(z, t, _labels=None):
    """The network that says where paths of Gaussian data end."""
    logsnr = ops.logsnr_schedule("cosine").logsnr(t).view(-1, 1, 1, 1)
    alpha2 = torch.sigmoid(logsnr)
    end = z * SPREAD / (alpha2 * SPREAD**2 + 1 - alpha2).sqrt()
    return ops.v_from_x0(z, end, logsnr)


def test_the_exact_consistency_function_of_a_teacher_has_nothing_to_learn():
    """Its tangent vanishes, float64; one that says what the teacher does has a lot to learn."""
    diffusion = DiffusionConfig(objective="consistency")
    loss = path_objective(Gaussian(diffusion, SPREAD), 0.0)
    done = loss(consistent, batch(), diffusion)
    assert done.figures["tangent_rms"] < 1e-10
    assert done.loss.max() < 1e-16
    wrong = loss(Gaussian(diffusion, SPREAD), batch(), diffusion)
    assert wrong.figures["tangent_rms"] > 0.01


def test_pairs_of_the_exact_function_agree_up_to_the_teacher_s_step():
    """The distance falls with the square of the gap, as a DDIM step is of first order.

    Distances far below c are squared: two stages, a gap four times smaller, are 4^4 = 256.
    """
    errors = []
    for stage in (8, 10):
        diffusion = DiffusionConfig(objective="ect", objective_options={"first_stage": stage})
        loss = path_objective(Gaussian(diffusion, SPREAD), 0.0, regress_updates=1)
        found = loss(consistent, batch(), diffusion)
        logsnr = ops.logsnr_schedule("cosine").logsnr(batch().t)
        errors.append(found.loss / ops.pair_weight(logsnr, ops.ect_level(logsnr, stage)))
    ratio = errors[0] / errors[1]
    assert 230 < ratio.min() <= ratio.max() < 280


def test_pairs_are_those_of_the_data_where_nothing_guides():
    """A teacher is not asked then; where it is, its step leads elsewhere."""
    diffusion = DiffusionConfig(objective="ect", objective_options={"first_stage": 3})
    plain = path_objective(None, 0.0)(consistent, batch(), diffusion)
    assert torch.equal(plain.loss, path_loss(consistent, batch(), diffusion).loss)
    asked = path_objective(Gaussian(diffusion, SPREAD), 0.0, regress_updates=1)
    led = asked(consistent, batch(), diffusion)
    assert not torch.allclose(led.loss, plain.loss)


def test_first_the_teacher_s_velocity_is_learned():
    diffusion = DiffusionConfig(objective="consistency")
    teacher = Gaussian(diffusion, SPREAD)
    loss = path_objective(teacher, 0.0, regress_updates=5)
    assert loss(teacher, batch(update=4), diffusion).loss.max() < 1e-20
    assert loss(consistent, batch(update=4), diffusion).loss.mean() > 1e-4
    assert loss(teacher, batch(update=4), diffusion).figures == {}
    # What comes then is warmed up from its own beginning.
    later = loss(teacher, batch(update=5 + 7), diffusion)
    own = path_objective(teacher, 0.0)(teacher, batch(update=7), diffusion)
    assert torch.equal(later.loss, own.loss)


def test_a_run_of_its_own_with_its_sampler(teacher, tmp_path):
    outcome = go(teacher, tmp_path, teacher_guidance=0.5)
    assert outcome[:3] == (2, 4, 0)
    found = find_checkpoint(tmp_path / "steps-2").config
    assert (found.sample.sampler, found.sample.sample_timesteps) == ("consistency", 2)
    assert found.sample.guidance == 0
    assert (found.diffusion.objective, found.distill.teacher_guidance) == ("consistency", 0.5)
    assert found.model.time_embedding == "smooth"
    entries = logged(tmp_path / "steps-2")
    assert ["tangent_rms" in entry for entry in entries if "loss" in entry] == [False] * 2 + [
        True
    ] * 2
    drawn = load_model(tmp_path / "steps-2", "cpu")
    assert [drawn.sample(2, steps=n).nfe for n in (1, 2, 4)] == [1, 2, 4]
    with pytest.raises(ValueError, match="guidance 1 was asked of a distilled model"):
        drawn.sample(2, guidance=1.0)


@pytest.mark.parametrize("method", ["consistency", "ect"])
def test_guidance_as_an_input(teacher, tmp_path, method):
    options = {"guidance_range": (0, 2), "method": method, "method_options": {}}
    go(teacher, tmp_path, **options, steps=2)
    drawn = load_model(tmp_path / "steps-2", "cpu")
    assert drawn.sample(2, guidance=1.5).nfe == 2


def test_pairs_of_a_teacher_that_predicts_the_data(config, tmp_path):
    settings = {"model_out_type": "x0", "reweight_type": "truncated_snr", "steps": 1}
    train(override(config, settings), tmp_path / "teacher", device="cpu")
    go(tmp_path / "teacher", tmp_path, method="ect", method_options={}, steps=2)
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "steps-2").values())


def test_a_weaker_network_guides_the_teacher(teacher, weaker, tmp_path):
    go(teacher, tmp_path, teacher_guide_with=str(weaker), teacher_guide_weight=0.5, steps=3)
    assert (tmp_path / "weak.safetensors").is_file()


def test_an_embedding_of_sinusoids_is_fitted(teacher, tmp_path, capsys):
    """All else is the teacher's, and the student says nearly what it does."""
    go(teacher, tmp_path, lr=0.0)
    assert "time_embedding is smooth, unlike its teacher's: it is fitted" in capsys.readouterr().err
    found = find_checkpoint(tmp_path / "steps-2")
    student, taught = found.params, find_checkpoint(teacher).ema
    other = {name for name in student if not torch.equal(student[name], taught[name])}
    assert other == {f"time_embed.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    assert all(torch.equal(found.ema[name], value) for name, value in student.items())
    # Pairs need no derivative, and a student keeps what it has.
    go(teacher, tmp_path / "ect", method="ect", method_options={}, steps=1)
    pairs = find_checkpoint(tmp_path / "ect" / "steps-2").config
    assert pairs.model.time_embedding == "sinusoidal"


VARIED = "vfn.interop.varied_unet:"
SIZES = {"hid_channels": 32, "ch_multipliers": (1,), "num_res_blocks": 1, "apply_attn": (False,)}
OTHERS = {
    "transformer": {"patch_size": 4, "width": 32, "depth": 1, "num_heads": 2},
    f"{VARIED}VariedUNet": {**SIZES, "cos_first": True, "scales": False, "time_scale": 4000.0},
    f"{VARIED}PreconditionedUNet": SIZES,
}


@pytest.mark.parametrize("network", OTHERS, ids=lambda name: name.rsplit(":", maxsplit=1)[-1])
def test_students_of_other_networks_see_time_smoothly(config, tmp_path, network):
    """It is an option of theirs; the two layers alone are another's, and what was seen is kept."""
    taught = override(
        replace(config, model=ModelConfig(network=network, options=OTHERS[network])),
        {"steps": 1, "model_out_type": "x0", "reweight_type": "truncated_snr"},
    )
    train(taught, tmp_path / "teacher", device="cpu")
    go(tmp_path / "teacher", tmp_path, lr=0.0, steps=1)
    found = find_checkpoint(tmp_path / "steps-2")
    trained = [load_model(tmp_path / name, "cpu") for name in ("steps-2", "teacher")]
    for each in trained:
        each.model.load_state_dict(each.params)
    student, teacher = (each.model for each in trained)
    assert found.config.model == taught.model.seeing_time("smooth")
    before, after = (dict(net.named_parameters()) for net in (teacher, student))
    other = {name for name in after if not torch.equal(after[name], before[name])}
    assert other == {f"time_embed.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    t = torch.linspace(0.01, 0.99, 500, dtype=torch.float64)
    error = (student.embed(t, None) - teacher.embed(t, None)).square().mean()
    assert error < 0.7 * teacher.embed(t, None).var()  # of random layers little is smooth
    # Rates of 10 and less: 10 (1 + 10^(-8/15) + ...)^(1/2) = 11.9.
    change = student.time_features(t + 1e-4) - student.time_features(t)
    assert change.norm(dim=1).max() < 1.2e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "steps"),
    [
        ("consistency", ["--method-option", "regress_updates=8"], (4, 13)),
        ("ect", ["--objective-option", "stage_updates=5"], (7,)),
    ],
)
def test_a_killed_distillation_goes_on_to_the_same_result(
    forks, teacher, tmp_path, method, options, steps
):
    """Before the warm-up ends and after, in the middle of a stage; bit for bit."""
    words = ["distill", "--teacher", teacher, *WORDS, "--method", method, *options, "--steps", 24]
    forks.run(*words, "--out", tmp_path / "whole")
    killed = tmp_path / "killed"
    for step in steps:
        forks.start(*words, "--out", killed, "--resume")
        wait_until(lambda step=step: last_step(killed / "steps-2") > step, forks.alive)
        forks.end(-signal.SIGKILL, signal.SIGKILL)
    forks.run(*words, "--out", killed, "--resume")
    whole, killed = tmp_path / "whole" / "steps-2", killed / "steps-2"
    assert differing(whole, killed) == []
    assert losses(whole) == losses(killed)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(forks, teacher, tmp_path):
    consistency = ["--method", "consistency", "--method-option", "regress_updates=8"]
    words = ["distill", "--teacher", teacher, *WORDS, *consistency, "--steps", 12, "--lr", 0.003]
    forks.run(*words, "--out", tmp_path / "1")
    forks.run(*words, "--out", tmp_path / "2", "--accumulate", 2, processes=2)
    one, two = (losses(tmp_path / n / "steps-2") for n in "12")
    # Sums in another order: float32 rounding, amplified by a few Adam steps.
    assert two == pytest.approx(one, rel=2e-3)


def test_every_method_has_its_preset_and_says_what_it_takes():
    for name, entry in METHODS.items():
        assert load(entry.preset).distill.asked, name
        assert len(entry.text) < 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"time_embedding": "sinusoidal"},
            "differentiates the network in time, where sinusoids of 1000 t explode; leave out",
        ),
        ({"teacher_steps": 8}, "method consistency takes no steps of the teacher, got teacher_st"),
        ({"objective": "ect"}, "method consistency teaches the objective consistency, got ect"),
        (
            {"method_options": {"updates": 3}},
            "expected only regress_updates for method consistency, got updates",
        ),
        ({"method_options": {"regress_updates": -1}}, r"regress_updates in 0..1e\+09, got -1"),
        ({"objective_options": {"tangent_floor": 0}}, "expected tangent_floor > 0, got 0"),
        ({"hid_channels": 64}, "expected the teacher's hid_channels 32, got 64"),
        ({"method": "shortcut"}, "expected one of progressive, consistency, ect"),
    ],
)
def test_what_does_not_fit_is_refused(teacher, options, message):
    asked = {**FEW, **options}
    with pytest.raises(ValueError, match=message):
        plan_of(find_checkpoint(teacher), "digits_consistency", asked)


def test_a_consistency_student_teaches_nobody(teacher, tmp_path):
    go(teacher, tmp_path, steps=1)
    for method in ("consistency", "progressive"):
        with pytest.raises(ValueError, match="own velocity, which a student of method consistency"):
            distill(tmp_path / "steps-2", tmp_path / "next", device="cpu", method=method)


def taught(**changed):
    """A teacher in memory, of other settings than the usual ones."""
    return small_checkpoint(override(small_config(), changed))


def asked_of(method, teacher, **more):
    return plan_of(teacher, METHODS[method].preset, {"method": method, **more})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", ["ect", "consistency"])
def test_a_network_that_was_trained_to_say_where_paths_end_teaches_nobody(method, objective):
    """Its velocity is not that of the flow, which every target is made of."""
    message = f"whose velocity is that of the flow, got one of objective {objective}; name another"
    with pytest.raises(ValueError, match=message):
        asked_of(method, taught(objective=objective, time_embedding="smooth"))


@pytest.mark.parametrize("method", METHODS)
def test_a_mean_flow_teaches(method):
    settings = {"objective": "mean_flow", "second_time": True, "time_embedding": "smooth"}
    assert asked_of(method, taught(**settings)).distill.method == method


FEW_STEPS = ["consistency", "ect"]


@pytest.mark.parametrize("method", FEW_STEPS)
def test_a_teacher_of_discrete_times_teaches_at_all_times(method):
    """By the square error, whatever it was trained by itself."""
    for settings in ({"train_timesteps": 100}, {"train_timesteps": 100, "loss_type": "kl"}):
        found = asked_of(method, taught(**settings)).diffusion
        assert (found.train_timesteps, found.loss_type) == (0, "mse")


@pytest.mark.slow
def test_a_student_of_a_teacher_of_discrete_times(config, tmp_path):
    train(override(config, {"train_timesteps": 50, "steps": 1}), tmp_path / "t", device="cpu")
    go(tmp_path / "t", tmp_path / "out", method="ect", method_options={}, steps=2)
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "out" / "steps-2").values())


@pytest.mark.parametrize("method", FEW_STEPS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learned_variance": True, "train_timesteps": 50},
            "a teacher without learned_variance for method METHOD; give another, or --method prog",
        ),
        (
            {"model_out_type": "both"},
            "a teacher whose model_out_type is not both for method METHOD; give another, or --met",
        ),
        (
            {"teacher_steps": 4, "student_steps": 2, "train_timesteps": 2},
            "own velocity, which a student of method progressive no longer says; distill what",
        ),
    ],
)
def test_what_a_teacher_cannot_is_told_as_its_own(method, settings, message):
    with pytest.raises(ValueError, match=message.replace("METHOD", method)):
        asked_of(method, taught(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_timesteps": 9}, "expected train_timesteps 0 with objective ect, got 9"),
        (
            {"train_timesteps": 9, "loss_type": "kl"},
            "train_timesteps 0 with objective ect, got 9; expected loss_type mse with objective",
        ),
        (
            {"train_timesteps": 9, "learned_variance": True},
            "got 9; expected no learned_variance with objective ect; leave it out",
        ),
    ],
)
def test_what_an_objective_does_not_go_with_is_named_alone(settings, message):
    with pytest.raises(ValueError, match=message):
        taught(objective="ect", **settings)


@pytest.mark.parametrize("method", [*FEW_STEPS, "moment_matching"])
@pytest.mark.parametrize("setting", ["first_steps", "last_steps"])
def test_settings_of_halvings_are_refused_where_there_are_none(method, setting):
    message = f"method {method} is one run, without halvings, got {setting} 8; leave it out"
    with pytest.raises(ValueError, match=message):
        asked_of(method, taught(), **{setting: 8})


def test_halvings_choose_their_times_themselves():
    message = "each student is trained at its own steps' times, got train_timesteps 7; leave it out"
    with pytest.raises(ValueError, match=message):
        asked_of("progressive", taught(), train_timesteps=7)
    # What a teacher was trained at is no such setting.
    asked_of("progressive", taught(train_timesteps=50))


@pytest.mark.parametrize("updates", [1.5, "1"])
def test_first_updates_are_a_whole_number(updates):
    with pytest.raises(ValueError, match="expected regress_updates to be a"):
        asked_of("ect", taught(), method_options={"regress_updates": updates})
    found = asked_of("ect", taught(), method_options={"regress_updates": 2.0})
    assert found.distill.method_options == {"regress_updates": 2}


def test_times_of_as_many_steps_are_those_of_the_student(teacher):
    given = {**FEW, "sample_timesteps": 2, "times": (1.0, 0.6)}
    found = []
    for steps in (2, 4):
        plan = plan_of(find_checkpoint(teacher), "digits_consistency",
                       {**given, "student_steps": steps})  # fmt: skip
        found.append(stages_of(plan)[steps].sample.times)
    assert found == [(1.0, 0.6), None]
