"""Networks from files, of this version and of the first one, and settings of sampling."""

import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vfn
import vfn.configs
import vfn.runs
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn.configs import override
from vfn.data import Labels
from vfn.footprint import Footprint
from vfn.model import build_model
from vfn.runs import (
    RunFiles,
    export_model,
    find_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from vfn.sampling import ask, untrained, write_samples

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def first_version(tmp_path_factory):
    """What the first version of this library wrote: a run, a distilled stage, an exported file."""
    folder = tmp_path_factory.mktemp("first_version")
    for name in ("run", "range"):
        with tarfile.open(GOLDEN / f"first_version_{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def first_pictures():
    """The pictures that the first version drew from them, uint8 [N, H, W, C]."""
    with np.load(GOLDEN / "first_version.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize(
    ("file", "name", "opened", "settings"),
    [
        ("run", "ema", {}, {}),
        ("run", "raw", {"ema": False}, {}),
        ("run", "heun", {}, {"sampler": "heun", "churn": 0.2, "guidance": 1.0}),
        ("run/checkpoints/step-00000010.safetensors", "ema", {}, {}),
        ("model.safetensors", "ema", {}, {}),
        ("range/steps-2", "range", {}, {"guidance": 2.0, "labels": ["3", "7"]}),
    ],
)
def test_files_of_the_first_version(first_version, first_pictures, file, name, opened, settings):
    drawn = vfn.load(first_version / file, "cpu", **opened).sample(8, steps=4, **settings)
    found = drawn.images.movedim(1, -1).numpy().astype(int)
    # Processors sum in other orders, by 1e-6; a value between two grey levels may go either way.
    assert np.abs(found - first_pictures[name]).max() <= 1
    assert (found != first_pictures[name]).mean() < 0.01


def test_a_distilled_network_of_the_first_version_knows_its_guidance(first_version):
    network = vfn.load(first_version / "range" / "steps-2", "cpu")
    assert network.config.model.guidance_range == (0.0, 4.0)
    with pytest.raises(ValueError, match=r"expected guidance in 0..4, .*got 5"):
        network.settings(guidance=5.0)
    with pytest.raises(ValueError, match="expected neither guidance_interval nor"):
        network.settings(guidance=1.0, guidance_rescale=0.5)


@pytest.mark.parametrize("run", ["run", "range/steps-2"])
def test_a_run_of_the_first_version_can_be_resumed(first_version, run):
    """All that a resumed run needs is in its checkpoint, and fits the network."""
    checkpoint = find_checkpoint(first_version / run)
    model = build_model(checkpoint.config, checkpoint.shape)
    found = newest_checkpoint(
        RunFiles(first_version / run), dict(model.named_parameters()), resumed=True
    )
    assert found.step == checkpoint.step
    assert set(found.counters) >= {"updates", "skipped", "in_row", "loss_scale", "since_change"}


def test_a_run_of_the_first_version_goes_on(first_version, first_pictures, tmp_path):
    """With the losses that the first version would have had."""
    from vfn.train import train

    shutil.copytree(first_version / "run", tmp_path / "run")
    config = vfn.configs.override(find_checkpoint(tmp_path / "run").config, {"steps": 12})
    train(config, tmp_path / "run", resume=True, device="cpu")
    entries = vfn.runs.read_log(RunFiles(tmp_path / "run").log)
    losses = [e["loss"] for e in entries if "loss" in e and e["step"] > 10]
    np.testing.assert_allclose(losses, first_pictures["losses"], rtol=1e-5)


def test_a_run_a_checkpoint_and_an_exported_file_hold_the_same(run, trained, tmp_path):
    checkpoint = find_checkpoint(run)
    export_model(checkpoint, tmp_path / "model.safetensors")
    write_checkpoint(tmp_path / "any name.safetensors", checkpoint)
    expected = trained.sample(4)
    for path in (tmp_path / "model.safetensors", str(tmp_path / "any name.safetensors"), str(run)):
        opened = vfn.load(path, "cpu")
        assert torch.equal(opened.sample(4).images, expected.images)
        assert opened.step == 3
        assert opened.digest == trained.digest
        assert str(opened.origin) == str(path)


def test_the_average_is_taken_unless_it_is_not_wanted(run, trained):
    checkpoint, raw = find_checkpoint(run), vfn.load(run, "cpu", ema=False)
    for name, value in trained.params.items():
        assert torch.equal(value, checkpoint.ema[name])
        assert torch.equal(raw.params[name], checkpoint.params[name])
    assert (trained.averaged, raw.averaged) == (True, False)
    assert not torch.equal(raw.sample(4).images, trained.sample(4).images)


def test_half_precision_changes_the_pictures_a_little(run, trained):
    half = vfn.load(run, "cpu", precision="bf16").sample(10, steps=8).images.float()
    exact = trained.sample(10, steps=8).images.float()
    assert 0 < (half - exact).abs().mean() < 5


def test_a_compiled_network_draws_the_same(run, trained, monkeypatch):
    """With the compiler's front end alone: what the other one does takes half a minute."""
    compile_, graphs = torch.compile, []

    def seen(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda call, **_: compile_(call, backend=seen))
    compiled = vfn.load(run, "cpu", compiled=True)
    assert torch.equal(compiled.sample(3).images, trained.sample(3).images)
    assert len(graphs) == 1
    assert compiled.draws(3).record() == trained.draws(3).record()


def test_the_newest_intact_checkpoint_is_opened(tmp_path, capsys):
    run = RunFiles(tmp_path)
    for step in (3, 4):
        save_checkpoint(run, small_checkpoint(step=step), keep=2)
    run.checkpoint(5).write_bytes(b"damaged")
    assert vfn.load(tmp_path, "cpu").step == 4
    assert capsys.readouterr().err.count("passed over: ") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "expected precision fp32 or bf16, got 'fp16'"),
        ({"device": "gpu"}, "expected device auto, cpu or cuda, got 'gpu'"),
        ({"network": torch.nn.Linear(1, 1)},
         "the checkpoint is one of network unet, got one of torch.nn.modules.linear:Linear"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened(run, options, message):
    with pytest.raises(ValueError, match=message):
        vfn.load(run, **{"device": "cpu", **options})


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist; expected a run directory or a file"):
        vfn.load(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no intact checkpoint"):
        vfn.load(tmp_path)


def test_a_network_that_is_given(run, trained):
    """As is needed for a class that cannot be found by its name."""
    model = build_model(small_config(), SHAPE)
    given = vfn.load(run, "cpu", network=model)
    assert given.model is model
    assert torch.equal(given.sample(3).images, trained.sample(3).images)
    with pytest.raises(ValueError, match="and configuration differ"):
        vfn.load(run, "cpu", network=build_model(small_config(embedding_dim=16), SHAPE))


def test_settings_are_the_runs_unless_they_are_given(trained):
    settings = trained.settings(steps=7, batch=5, sampler="heun", churn=0.1)
    assert (settings.sample_timesteps, settings.sample_batch) == (7, 5)
    assert (settings.guidance, settings.churn) == (0.5, 0.1)
    assert trained.settings() == trained.config.sample


def test_a_grid_takes_the_place_of_a_runs_times():
    """Even the grid that the run names beside them."""
    network = untrained(override(small_config(), {"sample_timesteps": 2, "times": (1, 0.7)}))
    assert network.settings().times == (1.0, 0.7)
    assert network.settings(grid="time").times is None
    assert network.settings(grid="logsnr", times=None).grid == "logsnr"
    assert network.settings(times=(1, 0.6)).times == (1.0, 0.6)


def test_a_solver_from_outside_may_take_times(trained):
    """Whether it does is not known."""
    outside = "vfn.ops.solvers:ddim_solver"
    given, plain = (
        trained.sample(2, sampler=s, steps=2, times=(1, 0.6)) for s in (outside, "ddim")
    )
    assert torch.equal(given.images, plain.images)


def test_as_many_are_drawn_at_a_time_as_fit(trained, monkeypatch, capsys):
    """By the memory that is free just then; of several draws one line tells of it."""
    need = Footprint(trained.config, trained.shape).draw(2 * 200)  # both branches of guidance
    for share, fitting in ((0.5, range(60, 110)), (2, [250]), (0.5, range(60, 110))):
        free = int(share * need)
        monkeypatch.setattr("vfn.sampling.trained.free_memory", lambda _, free=free: free)
        assert trained.draws(200, guidance=1.0).settings.sample_batch in fitting
    told = capsys.readouterr().err
    assert told.count("drawing 200 pictures at a time might take more memory than the ") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 3}, "unknown setting of sampling 'step', expected among steps, batch, sampler"),
        ({"conflicts": 3}, "unknown setting of sampling 'conflicts'"),
        ({"churn": 0.1}, "solver abm2 takes no churn, which belongs to heun; name"),
        ({"sampler": "heun", "eta": 0.0}, "solver heun takes no eta, which belongs to ddim"),
        (
            {"sampler": "hoin"},
            "unknown solver 'hoin', expected one of ddim, .*adaptive, or",
        ),
        ({"sampler": None}, "unknown solver None, expected one of ddim, .*adaptive, or"),
        ({"sampler": print}, "unknown solver <built-in function print>, expected one of ddim"),
        ({"guidance_rule": None}, "expected guidance_rule to be one of plain, .* got None"),
        ({"steps": 2, "times": (1, 0.5), "grid": "time"}, "expected grid or times, one in place"),
        (
            {"steps": 2, "times": (1, 0.5), "sampler": "adaptive"},
            "expected a sampler that takes times, got adaptive, which chooses its steps itself; na",
        ),
        (
            {"sampler": "ancestral", "intp_frac": 0.3},
            "expected var_type fixed_medium with intp_frac, got fixed_small; name that, or leave",
        ),
        ({"steps": 0}, "^expected steps at least 1, got 0"),
        ({"sample_timesteps": 0}, "^expected sample_timesteps at least 1, got 0"),
        ({"batch": np.bool_(True)}, "^expected batch to be int, got True"),
        ({"steps": np.array([2, 4])}, r"^expected steps to be int, got \[2, 4\]"),
        ({"var_type": "learned", "sampler": "ancestral"}, "needs a model trained with learned"),
    ],
)
def test_settings_that_do_not_fit(trained, settings, message):
    with pytest.raises(ValueError, match=message):
        trained.settings(**settings)
    with pytest.raises(ValueError, match=message):
        trained.sample_batches(3, **settings)


def test_a_weaker_network_that_is_no_path(trained):
    with pytest.raises(ValueError, match=r"expected a path, got 3\.5; give a text"):
        trained.draws(2, guide_with=3.5)


def test_guidance_needs_labels():
    network = untrained(small_config(), SHAPE._replace(legend=Labels()))
    with pytest.raises(ValueError, match="needs a class-conditional model, and this one is uncond"):
        network.draws(3, guidance=1.0)
    with pytest.raises(ValueError, match="is unconditional and takes no --labels"):
        network.draws(3, ["7"], guidance=0.0)


def test_how_many_pictures(trained):
    assert trained.draws().num == 100
    assert trained.draws(labels=["3", "7"]).num == 20
    assert trained.draws(labels=ask(trained.shape.legend, "7")).num == 10
    network = untrained(small_config(), SHAPE._replace(legend=Labels()))
    assert network.draws(guidance=0).num == 100
    assert trained.draws(np.int64(3), seed=np.int32(2)).record()["num"] == 3
    for num in (0, 1.5, "3"):
        with pytest.raises(
            ValueError, match="expected num to be a whole number of at least 1, got"
        ):
            trained.draws(num)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"steps": np.int64(2), "times": np.array([1, 0.5])}, {"steps": 2, "times": (1.0, 0.5)}),
        ({"steps": torch.tensor(2), "eta": np.int32(1)}, {"steps": 2, "eta": 1.0}),
        (
            {"guidance": np.float32(0.1), "guidance_interval": np.array([-3, 5])},
            {"guidance": float(np.float32(0.1)), "guidance_interval": (-3.0, 5.0)},
        ),
        (
            {"guidance_rule": "apg", "guidance_options": {"norm": np.float32(2)}},
            {"guidance_rule": "apg", "guidance_options": {"norm": 2.0}},
        ),
    ],
)
def test_settings_of_numpy_are_numbers(trained, given, plain):
    drawn, again = (trained.draws(2, **{"sampler": "ddim", **each}) for each in (given, plain))
    assert repr(drawn.settings) == repr(again.settings)
    assert drawn.record() == again.record()
    assert torch.equal(drawn.all().images, again.all().images)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, None, True])
def test_seeds_that_no_record_could_hold(trained, seed):
    with pytest.raises(ValueError, match=r"expected seed to be a whole number in 0\.\.9223"):
        trained.draws(2, seed=seed)


@pytest.mark.parametrize("labels", [[3, 7], 3, np.array([3])])
def test_labels_that_are_no_texts(trained, labels):
    expected = "expected labels as texts, such as '3' or '3,7', or as a tensor of their numbers"
    with pytest.raises(ValueError, match=expected):
        trained.draws(2, labels)


def test_labels_as_the_network_takes_them(trained):
    """Those that were drawn are asked for again; 0 is none."""
    drawn = trained.draws(4, ["3", "7"])
    again = trained.draws(4, drawn.asked.labels)
    assert torch.equal(again.all().images, drawn.all().images)
    assert again.all().labels == ["3", "7"] * 2
    assert trained.draws(2, torch.tensor([0]), guidance=0.0).asked.names == [""]


def test_guidance_leads_to_labels_alone(trained, tmp_path):
    """It is refused before anything is written; of labels that no picture gets nothing is said."""
    none_among = torch.tensor([8, 0])
    for labels in (none_among, ["7", ""]):
        with pytest.raises(ValueError, match=r"labels in 1..10 with guidance, got 0 at 1, which"):
            write_samples(trained.draws(2, labels, guidance=0.5), tmp_path / "out")
        assert trained.draws(1, labels, guidance=0.5).num == 1
        drawn = trained.draws(2, labels, guidance=0.0).all()
        assert (drawn.labels, drawn.classes.tolist()) == (["7", ""], [8, 0])
    assert not (tmp_path / "out").exists()
    within = {"guidance": 0.5, "guidance_interval": (-3.0, 5.0)}
    with pytest.raises(ValueError, match="with guidance, got 0 at 1"):
        trained.draws(2, none_among, **within)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([11], r"expected labels in 0\.\.10, 0 for unconditional, got 11 at 0"),
        ([3.5], r"expected labels in 0\.\.10, 0 for unconditional, got 3.5 at 0"),
        ([], r"expected one label at least, got shape \(0,\)"),
        ([[0, 1]], r"expected labels of shape \[N\], got \(1, 2\)"),
    ],
)
def test_numbers_that_are_no_labels(trained, labels, expected):
    with pytest.raises(ValueError, match=expected):
        trained.draws(2, torch.tensor(labels))


def test_labels_of_numpy(trained):
    assert trained.draws(2, np.array(["3", "7"])).asked.names == ["3", "7"]


def test_a_setting_under_both_of_its_names(trained):
    with pytest.raises(ValueError, match="steps is sample_timesteps, and both are given"):
        trained.settings(steps=3, sample_timesteps=5)


def test_an_exported_model_has_no_raw_parameters(run, tmp_path):
    export_model(find_checkpoint(run), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is an exported model, which has the average alone"):
        vfn.load(tmp_path / "model.safetensors", "cpu", ema=False)


def test_a_denoiser_has_the_precision_of_the_network(run, trained):
    halved = vfn.load(run, "cpu", precision="bf16")
    z, logsnr = torch.randn(2, 1, 8, 8), torch.zeros(2)
    exact, rounded = (each.denoiser()(z, logsnr) for each in (trained, halved))
    with torch.autocast("cpu", torch.bfloat16):
        wanted = trained.denoiser()(z, logsnr)
    assert not torch.equal(exact, rounded)
    assert torch.equal(rounded, wanted)


def test_loading_and_drawing_leave_the_generator_alone(run):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    vfn.load(run, "cpu").sample(2, steps=1)
    assert torch.equal(torch.rand(3), wanted)


def test_threads_draw_the_same(trained):
    alone = [trained.sample(2, seed=seed).images for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: trained.sample(2, seed=seed).images, range(4)))
    assert all(map(torch.equal, alone, together))


def test_a_denoiser_for_any_function_of_ops(trained):
    """The same that sampling uses: its x0 at pure noise is where one step of DDIM ends."""
    from vfn.ops import keyed_normal
    from vfn.streams import Stream

    denoise = trained.denoiser(labels=["7", "3"], guidance=0.5)
    start = keyed_normal(0, Stream.SAMPLE, torch.arange(2), (1, 8, 8))
    with torch.inference_mode():
        x0 = denoise(start, torch.full((2,), -20.0, dtype=torch.float64))
    drawn = trained.sample(2, ["7", "3"], steps=1)
    expected = ((x0 + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(drawn.images, expected)


def test_untrained_networks():
    config = vfn.configs.override(small_config(), {"dataset": "celeba"})
    shape = untrained(config).shape
    assert shape.size == (3, 64, 64)
    assert (len(shape.legend.names), shape.legend.tags) == (40, True)
    plain = vfn.configs.override(config, {"conditional": False})
    assert untrained(plain).shape.legend == Labels()
    outside = vfn.configs.override(config, {"dataset": "some/folder"})
    with pytest.raises(ValueError, match="expected the shape of data set some/folder"):
        untrained(outside)


def test_a_configuration_of_a_larger_network_takes_no_memory(tmp_path):
    """16,384 channels would be ten gigabytes before anybody compares them."""
    made = small_checkpoint(small_config())
    model = replace(made.config.model, hid_channels=2**14)
    vfn.runs.export_model(
        made._replace(config=replace(made.config, model=model)), tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match=r"and configuration differ: .* expected \(16384,\)"):
        vfn.load(tmp_path / "a.safetensors", "cpu")


def test_parameters_are_in_memory_as_the_networks_own():
    """Arithmetic strides a 1x1 convolution its way; kernels for it may round differently."""
    digits = untrained("digits")
    own = {name: value.stride() for name, value in digits.params.items()}
    made = {name: value + torch.zeros_like(value) for name, value in digits.params.items()}
    assert {name: value.stride() for name, value in made.items()} != own
    other = replace(digits, params=made)
    assert {name: value.stride() for name, value in other.params.items()} == own
    assert all(torch.equal(other.params[name], value) for name, value in digits.params.items())
    assert torch.equal(other.sample(20, steps=2).images, digits.sample(20, steps=2).images)
    assert replace(digits, step=1).params is digits.params  # they may follow a training
