"""Students that take the guidance weight as an input: what they learn, start from and refuse."""

import json
import signal

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tests.helpers.distilling import SMALL_STAGES, Recorder, batch_at, go, plan
from tests.helpers.outside import Abrupt, Small
from tests.helpers.processes import differing, last_step, losses, wait_until
from tests.helpers.small import DIGITS_FILE
from vfn import load, ops
from vfn.cli import app
from vfn.configs import DiffusionConfig, SampleConfig, override
from vfn.model import schedule_of, strength_of
from vfn.nn import UNet, denoiser
from vfn.objective import Batch
from vfn.runs import find_checkpoint
from vfn.train import train
from vfn.train.distillation import Limits, distill, distill_objective, plan_of
from vfn.train.distillation.teaching import taught_by

RANGE = (0.0, 4.0)
LABELS = torch.tensor([1, 2, 2])
WEIGHTS = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)


class Labelled(nn.Module):
    """Says x0 = 1/4 for a label and 1/8 without, whatever z: guided by w it is 1/4 + w/8."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, z, _t, labels, *guidance):
        self.calls.append((len(z), labels.tolist(), [w.tolist() for w in guidance]))
        return torch.where(labels.view(-1, 1, 1, 1) > 0, 0.25, 0.125).to(z.dtype).expand_as(z)


class Student(Labelled):
    """What `Labelled` guided by w says, with w as an input."""

    guidance_range = RANGE

    def forward(self, z, _t, labels, w):
        super().forward(z, _t, labels, w)
        return (0.25 + 0.125 * w).view(-1, 1, 1, 1).to(z.dtype).expand_as(z)


def labelled_batch():
    batch = batch_at(torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
    return batch._replace(labels=LABELS, guidance=WEIGHTS)


@pytest.fixture(scope="module")
def students(teacher, tmp_path_factory):
    """A distillation with guidance from 0 to 4 as an input."""
    out = tmp_path_factory.mktemp("students")
    assert go(teacher, out, guidance_range=RANGE, lr=1e-2) == (1, 5, 0)
    return out


@pytest.mark.parametrize("reweight", ["constant", "truncated_snr"])
def test_a_student_that_equals_two_steps_at_every_weight_has_no_loss(reweight):
    diffusion = DiffusionConfig(model_out_type="x0", reweight_type=reweight)
    batch, loss = labelled_batch(), distill_objective(Labelled(), 0.0, 4)
    assert loss(Student(), batch, diffusion).max() < 1e-20
    swapped = Recorder(Student()(batch.x0, batch.t, LABELS, WEIGHTS.flip(0)))
    assert loss(swapped, batch, diffusion)[[0, 2]].min() > 1e-3


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "u"])
def test_with_one_weight_for_all_the_target_is_that_of_fixed_guidance(kind):
    torch.manual_seed(0)
    network = UNet(1, 1, 32, (1,), 1, num_classes=3).double().requires_grad_(False)
    for param in network.parameters():
        param.normal_(std=0.1)
    diffusion = DiffusionConfig(model_out_type=kind)
    batch, student = labelled_batch(), Recorder(torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    fixed = distill_objective(network, 0.5, 4)(student, batch._replace(guidance=None), diffusion)
    alike = batch._replace(guidance=torch.full_like(WEIGHTS, 0.5))
    given = distill_objective(network, 0.0, 4)(student, alike, diffusion)
    torch.testing.assert_close(given, fixed, rtol=1e-12, atol=0)
    assert (distill_objective(network, 0.0, 4)(student, batch, diffusion) != given)[1]


def test_the_first_teacher_is_guided_in_a_doubled_batch_and_later_ones_are_given_the_weight():
    diffusion, batch = DiffusionConfig(model_out_type="x0"), labelled_batch()
    student, first, later = Student(), Labelled(), Student()
    distill_objective(first, 0.0, 4)(student, batch, diffusion)
    assert first.calls == [(6, [1, 2, 2, 0, 0, 0], [])] * 2
    assert student.calls == [(3, [1, 2, 2], [WEIGHTS.tolist()])]
    assert distill_objective(later, 0.0, 4)(student, batch, diffusion).max() < 1e-20
    assert later.calls == [(3, [1, 2, 2], [WEIGHTS.tolist()])] * 2


def test_students_start_as_the_teacher_whatever_the_weight(teacher, tmp_path):
    go(teacher, tmp_path, lr=0.0, guidance_range=RANGE)
    theirs = find_checkpoint(teacher).ema
    for steps in (4, 2, 1):
        ours = find_checkpoint(tmp_path / f"steps-{steps}").params
        added = {name for name in ours if name not in theirs}
        assert added == {"guidance_embed.weight", "guidance_embed.bias"}
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
        assert not any(ours[name].any() for name in added)


def sampled(teacher, **settings):
    """The teacher as if it were sampled with these settings."""
    found = find_checkpoint(teacher)
    return found._replace(config=override(found.config, settings))


@pytest.mark.parametrize("clip", [True, False])
def test_a_teacher_says_what_it_does_in_a_job_with_these_settings(clip):
    """Within an interval and rescaled, bit for bit; with one weight a picture, too."""
    network = UNet(1, 1, 32, (1,), 1, num_classes=3).requires_grad_(False)
    for param in network.parameters():
        param.normal_(std=0.1)
    diffusion, z = DiffusionConfig(), torch.randn(3, 1, 8, 8)
    schedule, t = schedule_of(diffusion), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    batch, logsnr = Batch(z, LABELS, t, z), schedule.logsnr(t)
    strength = strength_of(SampleConfig(guidance=2.0, guidance_interval=(-2.0, 2.0)))
    wanted = denoiser(network, None, schedule, "v", LABELS, strength, clip, rescale=0.7)

    def said(batch, w, limits):
        return taught_by(network, batch, diffusion, w, clip=clip, limits=limits)(z, logsnr)

    found = said(batch, 2.0, Limits((-2.0, 2.0), 0.7))
    assert torch.equal(found, wanted(z, logsnr))
    each = said(batch._replace(guidance=torch.full((3,), 2.0)), 0.0, Limits((-2.0, 2.0), 0.7))
    torch.testing.assert_close(each, found)
    for other in (Limits(), Limits((-2.0, 2.0)), Limits(None, 0.7)):
        assert not torch.allclose(said(batch, 2.0, other), found)


@pytest.mark.parametrize("method", ["progressive", "consistency", "ect", "moment_matching"])
def test_the_teacher_s_interval_and_rescale_are_distilled(teacher, tmp_path, method):
    """Losses are others, and the picture shows what is taught; later students have it in them."""
    limits = {"guidance_interval": (-2.0, 2.0), "guidance_rescale": 0.7}
    few = {"method": method, "steps": 1, "eval_every": 0, "preview_every": 0, "batch_size": 16,
           "student_steps": 2, "log_every": 1, "lr": 1e-3}  # fmt: skip
    if method == "progressive":
        few |= {"teacher_steps": 8, "last_steps": 1}
    if method == "consistency":
        few["method_options"] = {"regress_updates": 0}
    found, shown = {}, {}
    for name, more in (("plain", {}), ("limited", limits)):
        out = tmp_path / name
        distill(sampled(teacher, guidance=2.0, **more), out, device="cpu", **few)
        first = min(out.glob("steps-*"), key=lambda path: -int(path.name[6:]))
        found[name], shown[name] = losses(first), (out / "teacher.png").read_bytes()
    assert found["plain"] != found["limited"]
    assert shown["plain"] != shown["limited"]
    plan = find_checkpoint(first).config.distill
    assert plan.teacher_guidance_interval == (-2.0, 2.0)
    assert plan.teacher_guidance_rescale == 0.7
    if method == "progressive":
        later = find_checkpoint(out / "steps-2").config.distill
        assert (later.teacher_guidance_interval, later.teacher_guidance_rescale) == (None, None)
    # They are kept with it, so that it goes on.
    distill(None, out, resume=True, device="cpu", eval_every=0)


def test_limits_of_the_teacher_s_guidance_can_be_asked_for(teacher):
    limited = sampled(teacher, guidance_interval=(-2.0, 2.0), guidance_rescale=0.7)

    def limits_of(**more):
        found = plan_of(limited, "digits_distill", more).distill
        return found.teacher_guidance_interval, found.teacher_guidance_rescale

    assert limits_of() == ((-2.0, 2.0), 0.7)
    assert limits_of(guidance_range=RANGE) == ((-2.0, 2.0), 0.7)
    assert limits_of(teacher_guidance=0.0) == (None, None)
    everywhere = {"teacher_guidance_interval": (-700.0, 700.0), "teacher_guidance_rescale": 0.0}
    assert limits_of(**everywhere) == ((-700.0, 700.0), 0.0)
    with pytest.raises(ValueError, match="teacher_guidance_rescale 0.5 goes with guidance of the"):
        limits_of(teacher_guidance=0.0, teacher_guidance_rescale=0.5)
    with pytest.raises(ValueError, match="expected teacher_guidance_interval to be the lowest and"):
        limits_of(teacher_guidance_interval=(3.0, -3.0))


def test_a_rule_is_not_distilled_and_a_line_says_so(teacher, tmp_path, capsys):
    """The picture of the teacher is without, too."""
    few = {"method": "ect", "steps": 1, "eval_every": 0, "preview_every": 0, "batch_size": 16,
           "log_every": 1}  # fmt: skip
    ruled = {"guidance_rule": "apg", "guidance_options": {"norm": 0.01}, "zero_init": 1}
    pictures = []
    for name, more in (("plain", {}), ("ruled", ruled)):
        capsys.readouterr()
        distill(sampled(teacher, guidance=2.0, **more), tmp_path / name, device="cpu", **few)
        pictures.append((tmp_path / name / "teacher.png").read_bytes())
        told = capsys.readouterr().err.count(
            "students learn the teacher without its guidance_rule apg and zero_init 1"
        )
        assert told == (name == "ruled")
    assert pictures[0] == pictures[1]


def test_stages_keep_the_input_and_are_sampled_at_the_teacher_s_weight(students):
    for steps in (4, 2, 1):
        config = find_checkpoint(students / f"steps-{steps}").config
        assert config.model.guidance_range == RANGE
        assert not config.distill.teacher_guidance
        assert config.sample.guidance == 0.5
    opened = load(students / "steps-1", "cpu")
    z, t, y = torch.randn(1, 1, 8, 8).expand(2, -1, -1, -1), torch.ones(2), torch.tensor([3, 3])
    with torch.no_grad():
        out = torch.func.functional_call(
            opened.model, opened.params, (z, t, y, torch.tensor([0.0, 4.0]))
        )
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_held_out_weights_are_others_than_those_of_the_training(teacher, tmp_path, monkeypatch):
    """Keyed by the same numbers, yet drawn from a stream of their own."""
    training, held_out = [], []

    def recording(*arguments):
        loss = distill_objective(*arguments)

        def recorded(network, batch, diffusion):
            (held_out if torch.is_inference_mode_enabled() else training).append(batch)
            return loss(network, batch, diffusion)

        return recorded

    monkeypatch.setattr("vfn.train.distillation.progressive.distill_objective", recording)
    go(teacher, tmp_path, student_steps=4, guidance_range=RANGE)
    ours, theirs = training[0].guidance, held_out[0].guidance
    assert not torch.isin(theirs, ours).any()
    assert 0 <= theirs.min() < theirs.max() <= 4


def test_the_weight_a_student_is_sampled_at_is_one_it_knows(teacher):
    assert plan(teacher, guidance_range=(1.0, 3.0)).sample.guidance == 1.0  # the teacher's is 0.5


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments), obj=list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_sampling_gives_the_weight_to_one_evaluation_a_step(students, tmp_path, monkeypatch):
    seen, forward = [], UNet.forward

    def counting(self, z, t, y=None, w=None):
        seen.append((len(z), w.tolist()))
        return forward(self, z, t, y, w)

    monkeypatch.setattr(UNet, "forward", counting)
    options = ["--num", "3", "--guidance", "2.5", "--no-animate", "--device", "cpu"]
    run("sample", "--checkpoint", str(students / "steps-4"), "--out", str(tmp_path), *options)
    assert seen == [(3, [2.5] * 3)] * 4


def test_such_a_network_is_judged_described_and_exported_like_any(students, tmp_path):
    stage = students / "steps-2"
    judge = [
        "eval",
        "--real",
        f"dataset:{DIGITS_FILE}:train",
        "--fake",
        f"run:{stage}",
        "--num",
        "20",
    ]
    figures = {}
    for w in ("0", "4"):
        path = tmp_path / f"{w}.json"
        run(*judge, "--guidance", w, "--json", str(path), "--device", "cpu")
        figures[w] = json.loads(path.read_text())["loss_by_logsnr"]
    assert figures["0"] != figures["4"]
    assert "guidance 0..4 as an input" in run("info", str(stage))
    run("report", str(stage))
    exported = tmp_path / "student.safetensors"
    run("export", str(stage), "--out", str(exported))
    out = tmp_path / "samples"
    options = ["--num", "1", "--guidance", "1", "--device", "cpu", "--no-animate"]
    run("sample", "--checkpoint", str(exported), "--out", str(out), *options)
    assert (out / "grid.png").is_file()


@pytest.mark.slow
def test_killed_in_the_middle_of_stage_2_it_resumes_to_the_same_bits(teacher, forks, tmp_path):
    longer = [*SMALL_STAGES, "--last-steps", 40, "--checkpoint-every", 7, "--student-steps", 2]
    first = ["distill", "--teacher", teacher, *longer, "--guidance-range", "0,4", "--device", "cpu"]
    forks.run(*first, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    forks.start(*first, "--out", out)
    wait_until(lambda: last_step(out / "steps-2") > 10, forks.alive)
    forks.end(-signal.SIGKILL, signal.SIGKILL)
    assert find_checkpoint(out / "steps-2").step < 40
    forks.run("distill", "--out", out, "--resume", "--device", "cpu")
    for stage in ("steps-4", "steps-2"):
        assert differing(tmp_path / "whole" / stage, out / stage) == []
        assert losses(tmp_path / "whole" / stage) == losses(out / stage)


@pytest.mark.slow
def test_two_processes_draw_the_weights_of_one(teacher, forks, tmp_path):
    arguments = ["--teacher", teacher, *SMALL_STAGES, "--guidance-range", "0,4",
                 "--student-steps", 4, "--lr", 0, "--device", "cpu"]  # fmt: skip
    for processes in (1, 2):
        out = tmp_path / str(processes)
        forks.run("distill", "--out", out, *arguments, processes=processes)
    one, two = (losses(tmp_path / name / "steps-4") for name in "12")
    assert two == pytest.approx(one, rel=1e-6)


def test_a_student_teaches_its_own_range_only(students, tmp_path):
    student = students / "steps-4"
    inherited = plan(student, teacher_steps=4)
    assert inherited.model.guidance_range == RANGE
    with pytest.raises(ValueError, match="guidance_range 0,4, what this student learned, got 0,2"):
        go(student, tmp_path / "out", teacher_steps=4, guidance_range=(0.0, 2.0))
    assert not (tmp_path / "out").exists()
    assert go(student, tmp_path / "out", teacher_steps=4, student_steps=2) == (2, 5, 0)


def test_a_student_of_fixed_guidance_cannot_be_guided(teacher, tmp_path):
    go(teacher, tmp_path, student_steps=4)
    for asked, message in (
        ({"guidance_range": RANGE}, "guidance_range unset, what this student learned, got 0,4"),
        ({"teacher_guidance": 1.0}, "teacher_guidance 0, since this student has its guidance in"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(tmp_path / "steps-4", teacher_steps=4, **asked)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"guidance_range": (4.0, 0.0)}, "guidance_range to be the lowest and the highest w"),
        ({"guidance_range": (1.0, 1.0)}, "guidance_range to be the lowest and the highest w"),
        ({"guidance_range": (1.0,)}, "guidance_range to be the lowest and the highest w"),
        ({"guidance_range": (-1.0, 1.0)}, "expected guidance_range at least 0, got -1"),
        ({"guidance_range": RANGE, "teacher_guidance": 1.0}, "one w, or guidance_range, many"),
        ({"guidance_range": RANGE, "teacher_steps": 0}, "guidance_range with teacher_steps"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(teacher, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        go(teacher, tmp_path / "out", **overrides)
    assert not (tmp_path / "out").exists()


def test_an_unconditional_teacher_has_no_range(config, tmp_path):
    train(override(config, {"conditional": False}), tmp_path / "teacher", device="cpu")
    message = "guidance 4.0 needs a class-conditional model, .*; leave out --guidance-range$"
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "teacher", tmp_path / "out", guidance_range=RANGE)
    message = "guidance 1.0 needs a class-conditional model, .*; use --teacher-guidance 0$"
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "teacher", tmp_path / "out", teacher_guidance=1.0)


def test_a_teacher_that_never_dropped_a_label_has_no_guidance(teacher):
    never = sampled(teacher, p_uncond=0.0)
    with pytest.raises(ValueError, match="saw a picture without one; use --teacher-guidance 0, or"):
        plan_of(never, "digits_distill", {"teacher_guidance": 1.0})
    with pytest.raises(ValueError, match="without one; leave out --guidance-range, or train with"):
        plan_of(never, "digits_distill", {"guidance_range": RANGE})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance", "5"], "expected guidance in 0..4, the weights this network was distilled"),
        (["--guidance", "1,5"], "expected guidance in 0..4, the weights this network was"),
        (["--guidance-interval", "-3,5"], "expected neither guidance_interval nor guidance_res"),
        (["--guidance-rescale", "0.5"], "expected neither guidance_interval nor guidance_rescale"),
    ],
)
def test_sampling_refuses_what_the_network_cannot(students, forks, tmp_path, options, message):
    out = tmp_path / "samples"
    arguments = ["sample", "--checkpoint", students / "steps-4", "--out", out, *options]
    err = forks.run(*arguments, code=2)
    assert err.startswith(f"vfn: {message}")
    assert err.count("\n") == 1
    assert not out.exists()


def test_networks_without_the_input_have_the_names_they_had(teacher, students, config, tmp_path):
    """And do not start from one that has it without a word."""
    assert not any("guidance" in name for name in find_checkpoint(teacher).ema)
    with pytest.raises(ValueError, match=r"guidance_embed.bias is \(128,\), expected none"):
        train(config, tmp_path, device="cpu", init_from=students / "steps-4")


def test_a_denoiser_of_it_checks_the_number():
    schedule = ops.logsnr_schedule("cosine")

    with pytest.raises(ValueError, match=r"expected guidance in 0\.\.4"):
        denoiser(Student(), None, schedule, "x0", LABELS, 4.5)
    with pytest.raises(ValueError, match="expected neither guidance_interval"):
        denoiser(Student(), None, schedule, "x0", LABELS, ops.interval_strength(1.0, -1.0, 1.0))


def outside_teacher(config, out, cls):
    torch.manual_seed(1)
    train(config, out, model=cls(1, 1, 10, False), device="cpu")
    return out


def test_a_network_of_somebody_else_takes_the_weight_through_a_layer_of_any_name(config, tmp_path):
    teacher = outside_teacher(config, tmp_path / "teacher", Small)
    assert go(teacher, tmp_path / "out", guidance_range=RANGE, student_steps=2) == (2, 5, 0)
    first, own = (find_checkpoint(path) for path in (tmp_path / "out" / "steps-4", teacher))
    assert first.params.keys() - own.params.keys() == {"by_weight.weight", "by_weight.bias"}
    assert first.params["by_weight.weight"].any()  # it has learnt something
    opened = load(tmp_path / "out" / "steps-2", "cpu")
    assert opened.sample(2, guidance=3.0).nfe == 2


def test_one_whose_guidance_does_not_start_at_zero_is_refused(config, tmp_path):
    teacher = outside_teacher(config, tmp_path / "teacher", Abrupt)
    with pytest.raises(ValueError, match="to start as its teacher whatever the guidance"):
        go(teacher, tmp_path / "out", guidance_range=RANGE)
