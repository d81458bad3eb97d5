"""Exported networks and samplers, run by torch.export and onnxruntime, beside the run."""

import numpy as np
import pytest
import torch

from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn.configs import Config, override
from vfn.data import Labels
from vfn.interop import export_onnx, export_pt2, graph_export
from vfn.interop.graph_export import exported
from vfn.interop.graphs import factors_of, plan_of
from vfn.model import schedule_of
from vfn.nn import with_params
from vfn.ops import karras_grid, logsnr_grid, logsnr_schedule, sampler
from vfn.ops.predictions import predict
from vfn.runs import write_checkpoint
from vfn.sampling import load, untrained

DETERMINISTIC = ["ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ab2", "abm2"]
COSINE = logsnr_schedule("cosine")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A file of a network whose graph is small: attention is in its middle alone."""
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    write_checkpoint(path, small_checkpoint())
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of a network from outside, of a few layers: its graph is written in a second."""
    config = override(Config(), {"network": "tests.helpers.outside:Small", "dataset": "digits"})
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    write_checkpoint(path, small_checkpoint(config))
    return path


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """The same of pictures without labels."""
    given = {"network": "tests.helpers.outside:Small", "dataset": "digits", "guidance": 0.0}
    config, shape = override(Config(), given), SHAPE._replace(legend=Labels())
    path = tmp_path_factory.mktemp("unlabelled") / "model.safetensors"
    write_checkpoint(path, small_checkpoint(config, shape))
    return path


def drawn(trained, name, steps, z, labels, guidance):
    """The library's own pictures."""
    denoise = trained.denoiser(labels, guidance)
    grid = logsnr_grid(schedule_of(trained.config.diffusion), steps)
    with torch.no_grad():
        return sampler(name)(denoise, z, grid).x0


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_solvers_as_sums(run, name):
    """One picture a weight, and two pictures with their own."""
    made = exported(load(run, "cpu"), name, 4)
    z, labels, w = torch.randn(2, 1, 8, 8), torch.tensor([3, 7]), torch.tensor([0.0, 1.5])
    with torch.no_grad():
        found = made.module(z, labels, w)
    for i in range(2):
        one = slice(i, i + 1)
        expected = drawn(load(run, "cpu"), name, 4, z[one], labels[one], w[i].item())
        torch.testing.assert_close(found[one], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ancestral", "ancestral draws noise in each of its 3 steps.*; give --steps 1 or a determ"),
        ("dpmpp_2m_sde", "dpmpp_2m_sde draws noise in each of its 3 steps"),
        ("consistency", "consistency draws noise in each of its 3 steps"),
        ("adaptive", "steps are sums of states and predictions"),
    ],
)
def test_solvers_that_are_no_sums(run, name, message):
    with pytest.raises(ValueError, match=message):
        exported(load(run, "cpu"), name, 3)


@pytest.mark.parametrize("name", ["consistency", "ancestral"])
def test_one_step_draws_no_noise(run, name):
    """So that it can be exported whatever the solver."""
    trained = load(run, "cpu")
    made = exported(trained, name, 1)
    z, labels, w = torch.randn(1, 1, 8, 8), torch.tensor([3]), torch.tensor([0.0])
    with torch.no_grad():
        found = made.module(z, labels, w)
        start = schedule_of(trained.config.diffusion).logsnr(torch.ones(1, dtype=torch.float64))
        expected = trained.denoiser(labels, 0.0)(z, start)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(made.drawn(z, labels, w), expected, rtol=0, atol=1e-5)


def test_a_solver_that_is_no_sum_is_noticed():
    def squares(denoise, z, logsnrs, **_options):
        x0 = denoise(z, logsnrs[:1])
        return type("Drawn", (), {"x0": x0 * x0 + z})()

    with pytest.raises(ValueError, match="steps are sums"):
        plan_of(squares, logsnr_grid(logsnr_schedule("cosine"), 3))


@pytest.mark.parametrize("out_type", ["x0", "eps", "v", "u", "both"])
def test_predictions_as_sums(out_type):
    levels = torch.tensor([-9.0, 0.3, 7.0])
    z = torch.randn(3, 2, dtype=torch.float64)
    out = torch.randn(3, 4 if out_type == "both" else 2, dtype=torch.float64)
    expected = predict(z, out, levels, out_type).x0
    weights = factors_of(out_type, levels)
    parts = [z, *out.chunk(weights.shape[1] - 1, dim=1)]
    found = sum(weights[:, i, None] * part for i, part in enumerate(parts))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_other_conditions():
    """Tags, no labels at all, guidance as an input, and one distilled into the network."""
    shapes = {
        "tags": (SHAPE._replace(legend=Labels(("a", "b"), tags=True)), {},
                 ("noise", "labels", "guidance")),
        "none": (SHAPE._replace(legend=Labels()), {}, ("noise",)),
        "input": (SHAPE, {"guidance_range": (0.0, 4.0), "teacher_steps": 2, "student_steps": 1},
                  ("noise", "labels", "guidance")),
        "distilled": (SHAPE, {"teacher_steps": 2, "student_steps": 1}, ("noise", "labels")),
        "never without": (SHAPE, {"p_uncond": 0.0}, ("noise", "labels")),
    }  # fmt: skip
    for shape, changes, inputs in shapes.values():
        config = override(small_config(), {"guidance": 0.0, **changes})
        made = exported(untrained(config, shape), "ddim", 2)
        assert made.inputs == inputs
        assert made.module(*made.example(3)).shape == (3, 1, 8, 8)
        assert graph_export.gap(made, made.module) == 0  # and it draws as the run does


def test_other_inputs_are_refused():
    trained = untrained(override(small_config(), {"guidance": 0.0}), SHAPE)
    trained.model.second_time = True
    with pytest.raises(ValueError, match="to export, got one with second_time"):
        exported(trained)


@pytest.mark.parametrize(
    "settings",
    [{"guidance_rule": "apg"}, {"guidance_rescale": 0.5}, {"zero_init": 1},
     {"guidance_interval": (-3.0, 3.0)}],
)  # fmt: skip
def test_guidance_of_another_form_is_refused(settings):
    trained = untrained(override(small_config(), settings), SHAPE)
    with pytest.raises(ValueError, match="expected plain guidance, at all levels"):
        exported(trained, "ddim", 2)


@pytest.mark.slow
def test_torch_export_takes_any_batch(run, tmp_path):
    assert "reloaded, it differs by" in export_pt2(run, tmp_path / "net.pt2")
    net = torch.export.load(tmp_path / "net.pt2").module()
    trained = load(run, "cpu")
    for batch in (1, 2, 5):
        z, t, y = torch.randn(batch, 1, 8, 8), torch.rand(batch), torch.arange(batch)
        with torch.no_grad():
            expected = exported(trained).module(z, t, y)
            torch.testing.assert_close(net(z, t, y), expected, rtol=0, atol=1e-5)


def test_torch_export_of_a_sampler(small, tmp_path):
    export_pt2(small, tmp_path / "net.pt2", "abm2", 3)
    draw = torch.export.load(tmp_path / "net.pt2").module()
    z, labels = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4])
    expected = drawn(load(small, "cpu"), "abm2", 3, z, labels, 0.5)
    with torch.no_grad():
        found = draw(z, labels, torch.full((4,), 0.5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def session(path):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_onnx_of_a_sampler(run, tmp_path):
    pytest.importorskip("onnxscript")
    assert "abm2 in 3 steps" in export_onnx(run, tmp_path / "digits.onnx", "abm2", 3)
    opened = session(tmp_path / "digits.onnx")
    assert [each.name for each in opened.get_inputs()] == ["noise", "labels", "guidance"]
    for batch in (1, 4):
        z, labels = torch.randn(batch, 1, 8, 8), torch.arange(batch) + 1
        expected = drawn(load(run, "cpu"), "abm2", 3, z, labels, 0.5)
        given = {"noise": z.numpy(), "labels": labels.numpy(),
                 "guidance": np.full(batch, 0.5, np.float32)}  # fmt: skip
        (found,) = opened.run(None, given)
        assert np.abs(found - expected.numpy()).max() <= 1e-5
    told = opened.get_modelmeta().custom_metadata_map
    assert told["size"] == "[1, 8, 8]"


def test_onnx_of_a_network(small, tmp_path):
    pytest.importorskip("onnxscript")
    export_onnx(small, tmp_path / "net.onnx")
    opened = session(tmp_path / "net.onnx")
    z, t, labels = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 3])
    with torch.no_grad():
        expected = exported(load(small, "cpu")).module(z, t, labels)
    (found,) = opened.run(None, {"z": z.numpy(), "t": t.numpy(), "labels": labels.numpy()})
    assert np.abs(found - expected.numpy()).max() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({"times": (1.0, 0.7, 0.2)}, COSINE.logsnr(torch.tensor([1.0, 0.7, 0.2, 0.0]).double())),
        ({"grid": "logsnr"}, torch.linspace(-20, 20, 4).double()),
        ({"grid": "karras"}, karras_grid(3)),
        ({}, COSINE.logsnr(torch.tensor([3.0, 2.0, 1.0, 0.0]).double() / 3)),
    ],
)
def test_steps_are_those_of_the_run(settings, levels):
    config = override(small_config(), {"sample_timesteps": 3, "sampler": "ddim", **settings})
    trained = untrained(config, SHAPE)
    made = exported(trained, "ddim")
    z, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 7])
    with torch.no_grad():
        expected = sampler("ddim")(trained.denoiser(labels, 0.5), z, levels).x0
        found = made.module(z, labels, torch.full((2,), 0.5))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_steps_elsewhere_are_noticed(run, monkeypatch):
    """A graph that is written as it was traced, but is not what the run draws."""
    elsewhere = torch.linspace(-20, 20, 4)
    monkeypatch.setattr(graph_export, "plan_of", lambda draw, _: plan_of(draw, elsewhere))
    made = exported(load(run, "cpu"), "ddim", 3)
    with pytest.raises(ValueError, match="draws differs from the run by .*; nothing was written"):
        graph_export.gap(made, made.module)


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_without_conditions(unlabelled, tmp_path, kind, steps):
    path, trained = tmp_path / f"net.{kind}", load(unlabelled, "cpu")
    given = (torch.randn(5, 1, 8, 8), torch.rand(5))
    if kind == "pt2":
        export_pt2(unlabelled, path, sample_timesteps=steps)
        found = torch.export.load(path).module()(*given[: 1 if steps else 2])
    else:
        pytest.importorskip("onnxscript")
        export_onnx(unlabelled, path, sample_timesteps=steps)
        names = ["noise"] if steps else ["z", "t"]
        arrays = {name: value.numpy() for name, value in zip(names, given, strict=False)}
        (array,) = session(path).run(None, arrays)
        found = torch.from_numpy(array)
    if steps:
        expected = drawn(trained, trained.config.sample.sampler, steps, given[0], None, 0.0)
    else:
        expected = with_params(trained.model, trained.params)(*given).detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", [lambda x: x + 3e-4, lambda x: x[..., 1:], lambda x: x / 0])
def test_what_differs_is_noticed(run, change):
    made = exported(load(run, "cpu"))
    assert graph_export.gap(made, made.module) == 0
    with pytest.raises(ValueError, match="more than rounding does; nothing was written"):
        graph_export.gap(made, lambda *given: change(made.module(*given)))


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("vfn.interop.graph_export.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, which is not .*pip install '\.\[onnx\]'"):
        export_onnx(run, tmp_path / "net.onnx")
