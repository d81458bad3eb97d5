"""Networks led away from weaker ones: closed forms, where those are found, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import vfn
from tests.helpers.distilling import Gaussian
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn.cli import app
from vfn.configs import Config, DiffusionConfig, SampleConfig, override
from vfn.data import Labels
from vfn.evaluation import judge
from vfn.ops import guidance_rule, interval_strength
from vfn.runs import RunFiles, export_model, load_checkpoint, save_checkpoint, write_checkpoint
from vfn.sampling import Trained, untrained, variants, write_samples
from vfn.sampling.weaker import find_weaker, run_holding

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of 30 steps with the checkpoints of steps 10 and 20."""
    run = RunFiles(tmp_path_factory.mktemp("kept"))
    for step in (10, 20, 30):
        save_checkpoint(run, small_checkpoint(step=step), keep=3)
    return run.path


@pytest.fixture(scope="module")
def strong(kept):
    return vfn.load(kept, "cpu")


def exact(spread, step, **diffusion):
    """The network of data that are normal with some deviation, of any parametrisation."""
    settings = DiffusionConfig(**diffusion)
    shape = SHAPE._replace(legend=Labels())
    return Trained(Gaussian(settings, spread), {}, Config(diffusion=settings), shape, CPU, step)


def by_hand(z, logsnr, spread):
    alpha, sigma = 1 / np.sqrt(1 + np.exp(-logsnr)), 1 / np.sqrt(1 + np.exp(logsnr))
    gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
    return gain[:, None, None, None] * z


OTHERS = [
    {"model_out_type": "v"},
    {"model_out_type": "eps", "logsnr_schedule": "linear"},
    {"model_out_type": "x0", "logsnr_schedule": "sigmoid"},
    {"model_out_type": "both", "logsnr_schedule": "legacy"},
]


@pytest.mark.parametrize("diffusion", OTHERS, ids=str)
def test_the_guided_prediction_is_that_of_the_formula(diffusion):
    """strong + w (strong - weak), whatever each of them predicts under which schedule."""
    strong, weak = exact(0.3, 2), exact(0.5, 1, **diffusion)
    z = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    logsnr = torch.tensor([-9.0, -2.0, 1.0, 7.0], dtype=torch.float64)
    clear, vague = (by_hand(z.numpy(), logsnr.numpy(), spread) for spread in (0.3, 0.5))
    denoise = strong.denoiser(guide_with=weak, guide_weight=0.75, clip=False)
    # The way through a network's time costs eps and legacy some digits.
    np.testing.assert_allclose(denoise(z, logsnr), clear + 0.75 * (clear - vague), atol=1e-8)
    middle = interval_strength(0.75, -3.0, 3.0)
    within = strong.denoiser(guide_with=weak, guide_weight=middle, clip=False)(z, logsnr).numpy()
    inside = np.array([0, 0.75, 0.75, 0])[:, None, None, None]
    np.testing.assert_allclose(within, clear + inside * (clear - vague), atol=1e-8)
    clipped = strong.denoiser(guide_with=weak, guide_weight=0.75)(3 * z, logsnr).numpy()
    clear, vague = (
        by_hand(3 * z.numpy(), logsnr.numpy(), spread).clip(-1, 1) for spread in (0.3, 0.5)
    )
    np.testing.assert_allclose(clipped, clear + 0.75 * (clear - vague), atol=1e-8)


def test_both_guidances_add_up(strong):
    """cond + w (cond - uncond) + g (cond - weak), of what three denoisers say."""
    weak, labels = strong.weaker(10), torch.tensor([3, 7])
    z, logsnr = torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.float64)
    cond, uncond = strong.denoiser(labels)(z, logsnr), strong.denoiser()(z, logsnr)
    other = weak.denoiser(labels)(z, logsnr)
    both = strong.denoiser(["2", "6"], 0.5, guide_with=weak, guide_weight=2.0)(z, logsnr)
    torch.testing.assert_close(both, cond + 0.5 * (cond - uncond) + 2.0 * (cond - other))
    rule = guidance_rule("apg", parallel=1.0)
    again = strong.denoiser(labels, 0.5, weak, 2.0, rule=rule)(z, logsnr)
    torch.testing.assert_close(again, both)


def test_a_weaker_network_need_not_know_labels(strong, tmp_path):
    """As the network without labels that others guide with, too."""
    plain = SHAPE._replace(legend=Labels())
    write_checkpoint(tmp_path / "plain", small_checkpoint(shape=plain, step=5))
    weak, labels = strong.weaker(tmp_path / "plain"), torch.tensor([3, 7])
    z, logsnr = torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.float64)
    cond, other = strong.denoiser(labels)(z, logsnr), weak.denoiser()(z, logsnr)
    got = strong.denoiser(labels, guide_with=weak)(z, logsnr)
    torch.testing.assert_close(got, 2 * cond - other)


def test_where_the_weaker_network_is_found(kept, strong, tmp_path):
    file = RunFiles(kept).checkpoint(10)
    export_model(load_checkpoint(file), tmp_path / "model.safetensors")
    expected = strong.weaker(10)
    assert expected.origin == file
    assert expected.model is strong.model  # the same network with other parameters
    assert strong.weaker(f"run:{file}").origin == file
    for guide_with in ("10", file, str(file), tmp_path / "model.safetensors"):
        found = strong.weaker(guide_with)
        assert (found.step, found.averaged) == (10, True)
        assert found.digest == expected.digest
        assert strong.weaker(guide_with) is found  # loaded once
    wide = small_checkpoint(small_config(hid_channels=64), step=9)
    write_checkpoint(tmp_path / "wide", wide)
    assert strong.weaker(tmp_path / "wide").model is not strong.model
    # Of the newest checkpoint alone, and of a file that stands in the run.
    for path in (RunFiles(kept).checkpoint(30), kept):
        assert find_weaker(20, path)[1].step == 20
    assert run_holding(RunFiles(kept).posthoc / "ema").path == kept.absolute()
    assert run_holding(tmp_path / "model.safetensors") is None


def test_raw_parameters_are_guided_by_an_average(kept):
    raw = vfn.load(kept, "cpu", ema=False)
    assert raw.weaker(10).digest == vfn.load(RunFiles(kept).checkpoint(10), "cpu").digest
    assert raw.weaker(30).averaged


def small(**changed):
    """A checkpoint in memory that differs from the run's in something."""
    shape = SHAPE._replace(**changed.pop("shape", {}))
    return small_checkpoint(override(small_config(), changed), shape, step=5)


@pytest.mark.parametrize(
    ("guide_with", "message"),
    [
        (
            7,
            r"has no checkpoint of step 7 to guide with, but of 30, 20, 10; name one of these, or ",
        ),
        ("7", "has no checkpoint of step 7"),
        (
            "nothing/here",
            "checkpoint nothing/here does not exist; expected a run directory or a fi",
        ),
        (30, "30 to guide with is the guided network itself, from which nothing leads away; name"),
        (
            small(shape={"height": 4}),
            r"expected .*weak to guide with to be a network of pictures of \(1, 8, 8\), got one of "
            r"\(1, 4, 8\); name another one of the same data",
        ),
        (
            small(shape={"legend": Labels(("a", "b"))}),
            "expected .*weak to guide with to know the labels of the network it guides, or none: "
            "10 classes, got 2 classes",
        ),
        (small(shape={"legend": Labels(tuple("9876543210"))}), "10 classes of the same names in o"),
        (
            small(teacher_steps=4, student_steps=2),
            "guiding with .*weak needs two denoisers, and .*weak is a distilled one, which says",
        ),
        (
            small(objective="ect"),
            "guiding with .*weak needs two denoisers, and .*weak was trained by objective ect, who",
        ),
    ],
    ids=["no step", "text", "nothing", "itself", "sizes", "classes", "order", "distilled", "ect"],
)
def test_what_cannot_guide_is_refused_before_a_picture_is_drawn(
    strong, tmp_path, guide_with, message
):
    if not isinstance(guide_with, int | str):
        write_checkpoint(tmp_path / "weak", guide_with)
        guide_with = tmp_path / "weak"
    with pytest.raises(ValueError, match=message) as refused:
        strong.draws(2, guide_with=guide_with)
    assert "\n" not in str(refused.value)
    strong.draws(2, guide_with=guide_with, guide_weight=0)  # not even looked for


def test_a_distilled_network_is_not_guided(tmp_path):
    write_checkpoint(tmp_path / "student", small(teacher_steps=4, student_steps=2))
    student = vfn.load(tmp_path / "student", "cpu")
    with pytest.raises(ValueError, match="and the network that is guided is a distilled one"):
        student.weaker(untrained(small_config(), SHAPE))


def test_a_network_elsewhere_does_not_guide(strong):
    weak = untrained(small_config(), SHAPE)
    away = {name: value.to("meta") for name, value in weak.params.items()}
    with pytest.raises(
        ValueError, match="the network to guide with on cpu, .* got meta; load it t"
    ):
        strong.weaker(replace(weak, params=away, device=torch.device("meta")))


def test_a_step_needs_a_run(kept, tmp_path):
    file = tmp_path / "model.safetensors"
    export_model(load_checkpoint(RunFiles(kept).checkpoint(30)), file)
    with pytest.raises(ValueError, match="one of the network's own run, and .* is in none; name a"):
        vfn.load(file, "cpu").weaker(10)
    with pytest.raises(
        ValueError, match="own run, and it has none; name a run or a file, or --gui"
    ):
        untrained(small_config(), SHAPE).weaker(10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guide_with": 10, "guide_weight": -1}, "expected guide_weight at least 0, got -1"),
        ({"guide_weight": 0.5}, "guide_weight 0.5 goes with guide_with, the weaker network; name"),
        ({"guide_weight": 1}, "guide_weight 1 goes with guide_with"),
        ({"guide_with": ""}, "expected guide_with to be a text, got an empty one"),
        ({"guidance_rule": "agp"}, "expected guidance_rule to be one of plain, zero_star, apg, or"),
        ({"guidance_options": {"norm": 1}}, "guidance rule plain takes no options, got norm"),
        ({"guidance_rule": "apg", "guidance_options": {"norm": -1}}, "expected norm at least 0, g"),
        ({"zero_init": 2}, "expected zero_init below the 2 steps of sampling, got 2"),
        (
            {"guidance_rule": "apg", "guidance_options": {"momentum": 0.5}, "sampler": "adaptive"},
            "guidance rule apg remembers the steps before, and sampler adaptive takes steps ba",
        ),
    ],
)
def test_settings_that_do_not_fit(strong, settings, message):
    with pytest.raises(ValueError, match=message):
        strong.draws(2, **settings)


def test_a_weaker_network_knows_of_whole_steps_where_these_are_asked_for():
    flow = untrained(small_config(second_time=True, time_embedding="smooth"), SHAPE)
    poor = untrained(small_config(), SHAPE)
    with pytest.raises(ValueError, match="mean_flow takes whole steps, of which the network to gu"):
        flow.draws(2, guide_with=poor, sampler="mean_flow", guidance=0)
    assert flow.draws(2, guide_with=poor, sampler="ddim", guidance=0).weak is poor
    assert poor.draws(2, guide_with=flow, sampler="mean_flow", guidance=0).weak is flow


def test_settings_of_the_run_can_be_switched_off():
    sample = SampleConfig(guide_with="runs/weak", guide_weight=0.5, guidance_rule="apg",
                          guidance_options={"norm": 1.0})  # fmt: skip
    run = replace(untrained(small_config(), SHAPE), config=Config(sample=sample))
    assert run.settings(guide_with=None).guide_weight == 1
    assert run.settings(guide_with="other").guide_weight == 0.5
    assert run.settings(guidance_rule="plain").guidance_options == {}
    assert run.settings(guidance_options={"momentum": -0.5}).guidance_options == {
        "norm": 1.0, "momentum": -0.5
    }  # fmt: skip
    assert run.draws(2, guide_with=None, guidance=0).weak is None
    with pytest.raises(ValueError, match="checkpoint runs/weak does not exist"):
        run.draws(2)


def test_evaluations_of_both_networks_are_counted(strong, monkeypatch):
    seen, forward = [], type(strong.model).forward

    def counting(self, z, *rest):
        seen.append(len(z))
        return forward(self, z, *rest)

    monkeypatch.setattr(type(strong.model), "forward", counting)
    drawn = strong.sample(3, guide_with=10, guidance=0, sampler="heun", steps=3)
    assert (drawn.nfe, drawn.weak_nfe) == (4, 4)
    assert seen == [3] * 8
    seen.clear()
    drawn = strong.sample(3, guide_with=10, guidance=0.5, batch=2, steps=2)
    assert (drawn.nfe, drawn.weak_nfe) == (2, 2)
    assert sorted(seen) == [1] * 2 + [2] * 4 + [4] * 2
    assert strong.sample(3).weak_nfe == 0


def test_momentum_and_standing_still_reach_the_solver(strong):
    """As settings, beside the same through vfn.ops."""
    from vfn.data import to_uint8
    from vfn.ops import ddim_step, keyed_normal, sample, sampling_grid
    from vfn.streams import Stream

    schedule = vfn.model.schedule_of(strong.config.diffusion)
    grid, labels = sampling_grid("time", schedule, 4), torch.tensor([4, 8])
    start = keyed_normal(0, Stream.SAMPLE, torch.arange(2), (1, 8, 8))
    rule = guidance_rule("apg", momentum=-0.5)
    until = float(grid[:2].mean())
    denoise = strong.denoiser(labels, 2.0, 10, 3.0, rule=rule, zero_until=until)
    expected = to_uint8(sample(denoise, start, grid, ddim_step).x0)
    settings = {"sampler": "ddim", "steps": 4, "guidance": 2.0, "guide_with": 10}
    settings["guide_weight"] = 3.0
    rules = {"guidance_rule": "apg", "guidance_options": {"momentum": -0.5}, "zero_init": 1}
    asked = {"labels": ["3", "7"], **settings}
    drawn = strong.sample(2, **asked, **rules)
    assert torch.equal(drawn.images, expected)
    for without in rules:
        fewer = {name: value for name, value in rules.items() if name != without}
        if without != "guidance_rule":
            assert not torch.equal(strong.sample(2, **asked, **fewer).images, expected)


def test_an_interval_is_one_of_both_guidances(strong):
    """Where no level of the grid lies in it, nothing guides."""
    within = {"guidance_interval": (-30.0, -3.0), "steps": 4}
    guided = {"guide_with": 10, "guide_weight": 3.0, "guidance": 2.0}
    nowhere = strong.sample(3, guidance=0, steps=4).images
    outside = {"guidance_interval": (30.0, 40.0), "steps": 4}
    assert torch.equal(strong.sample(3, **guided, **outside).images, nowhere)
    assert not torch.equal(strong.sample(3, **guided, **within).images, nowhere)
    alone = {**guided, "guidance": 0.0}
    assert torch.equal(strong.sample(3, **alone, **outside).images, nowhere)
    assert not torch.equal(strong.sample(3, **alone, **within).images, nowhere)


# What is told of it.


def test_records_say_what_guided(strong):
    plain, guided = strong.draws(2).record(), strong.draws(2, guide_with=10).record()
    weak = strong.weaker(10)
    told = {name: value for name, value in guided.items() if name not in plain}
    assert told == {"guide_with": "10", "guide_weight": 1.0, "guide_step": 10,
                    "guide_sha256": weak.digest}  # fmt: skip
    off = strong.draws(2, guide_with=10, guide_weight=0).record()
    assert off == plain  # as records were before there was such a thing
    apg = strong.draws(2, guidance_rule="apg", guidance_options={"norm": 1.0}, zero_init=1).record()
    told = {name: value for name, value in apg.items() if name not in plain}
    assert told == {"guidance_rule": "apg", "guidance_options": {"norm": 1.0}, "zero_init": 1}


def test_an_evaluation_says_what_guided(strong):
    found = judge("dataset:digits", strong.draws(20, guide_with=10, guide_weight=0.5), ["fd"],
                  device="cpu")  # fmt: skip
    told = {name: found.settings[name] for name in found.settings if name.startswith("guide_")}
    assert told == {"guide_with": "10", "guide_weight": 0.5, "guide_step": 10,
                    "guide_sha256": strong.weaker(10).digest}  # fmt: skip


def test_another_weaker_network_is_refused_on_continuing(kept, strong, tmp_path):
    write_samples(strong.draws(4, guide_with=10), tmp_path, animate=False)
    write_samples(
        strong.draws(4, guide_with=RunFiles(kept).checkpoint(10)), tmp_path, animate=False
    )
    for other, name in (
        ({"guide_with": 20}, "guide_sha256"),
        ({"guide_with": 10, "guide_weight": 2.0}, "guide_weight 1.0, now 2.0"),
        ({}, "guide_sha256"),
        ({"guide_with": 10, "guidance_rule": "apg"}, 'guidance_rule null, now "apg"'),
    ):
        with pytest.raises(ValueError, match="holds pictures of other settings") as refused:
            write_samples(strong.draws(4, **other), tmp_path, animate=False)
        assert name in str(refused.value)


def test_variants_have_folders_of_their_own(kept, strong, tmp_path):
    file = str(RunFiles(kept).checkpoint(20))
    compared = {"guide_with": [10, file], "guide_weight": [0.5, 2.0]}
    written = write_samples(variants(strong, compared, 10), tmp_path / "a")
    names = [one.folder.name for one in written]
    assert names[:2] == ["guide10-weight0.5", "guide10-weight2"]
    assert all(name.startswith("guide") and len(name) < 80 for name in names)
    assert len(set(names)) == 4
    assert (tmp_path / "a" / "sweep.png").is_file()
    written = write_samples(variants(strong, {"guide_weight": [0, 1.0]}, 10, guide_with=10),
                            tmp_path / "b")  # fmt: skip
    assert [one.folder.name for one in written] == ["weight0", "weight1"]
    assert (tmp_path / "b" / "guidance.webp").is_file()


def run_command(*words):
    arguments = list(map(str, words))
    return CliRunner().invoke(app, arguments, obj=arguments)


def test_commands_guide(kept, strong, tmp_path):
    options = ["--num", 10, "--device", "cpu"]
    done = run_command("sample", "--checkpoint", kept, "--out", tmp_path / "a", *options,
                       "--guide-with", 10, "--guide-with", 20, "--guide-weight", "0.5")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "NFE 2 of doubled batches for guidance, and 2 of the weaker network" in done.output
    assert "10 pictures at guidance 0.5 and away from step 10 at 0.5" in done.output
    write_samples(strong.draws(10, guide_with=20, guide_weight=0.5), tmp_path / "b", animate=False)
    ours = {p.name: p.read_bytes() for p in (tmp_path / "a" / "guide20" / "images").iterdir()}
    assert ours == {p.name: p.read_bytes() for p in (tmp_path / "b" / "images").iterdir()}
    judged = ["--real", "dataset:digits", "--fake", f"run:{kept}", "--metrics", "fd"]
    guided = ["--guide-with", 10, "--guidance-rule", "apg", "--guidance-option", "norm=2"]
    path = tmp_path / "found.json"
    done = run_command("eval", *judged, *guided, *options, "--json", path)
    assert done.exit_code == 0, done.output
    settings = json.loads(path.read_text())["settings"]
    assert (settings["guide_step"], settings["guidance_options"]) == (10, {"norm": 2})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guide-with", "7"], "no checkpoint of step 7"),
        (["--guide-with", "10", "--guide-weight", "-1"], "guide_weight at least 0, got -1"),
        (["--guide-weight", "2"], "guide_weight 2.0 goes with guide_with"),
        (
            ["--guidance-rule", "apg", "--guidance-option", "eta=1"],
            "takes parallel, norm, momentum",
        ),
    ],
)
def test_mistakes_of_the_command_line(kept, tmp_path, words, message):
    done = run_command("sample", "--checkpoint", kept, "--out", tmp_path / "a", *words)
    assert isinstance(done.exception, ValueError)  # which `main` makes one line and exit code 2
    assert message in str(done.exception)
    assert not (tmp_path / "a").exists()
