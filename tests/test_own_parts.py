"""Parts of a package that builds on this library: they work as documented, or fail in one line."""

import sys
import textwrap

import numpy as np
import pytest
import torch

import vfn
from vfn import ops
from vfn.configs import load, override
from vfn.data import as_dataset, load_dataset
from vfn.evaluation import judge
from vfn.info import cost
from vfn.model import shape_of
from vfn.nn import UNet, denoiser
from vfn.report import compare
from vfn.sampling import untrained
from vfn.train import Observer, train

PARTS = """
    import functools
    import torch
    from torch import nn
    from vfn.train import Observer

    FREQUENCIES = torch.arange(4).float()

    class Net(nn.Module):
        def __init__(self, in_channels, out_channels, num_classes, multitags):
            super().__init__()
            self.num_classes, self.multitags = num_classes, multitags
            self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1)
            self.time = nn.Linear(4, out_channels)

        def forward(self, z, t, y=None):
            wave = torch.cos(t.to(z.dtype)[:, None] * FREQUENCIES)
            return self.first(z) + self.time(wave)[..., None, None]

    class Numpy(Net):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.largest = float(self.first.weight.detach().numpy().max())

    class Narrow(Net):
        def __init__(self, in_channels, out_channels, num_classes, multitags, width="wide"):
            super().__init__(in_channels, out_channels, num_classes, multitags)
            self.more = nn.Linear(width, 1)

    class Hungry(Net):
        def __init__(self, in_channels, out_channels, num_classes, multitags):
            raise MemoryError

    def two(a, b):
        return a

    def nothing(z, cond, other, logsnr, w):
        return None

    def fails(judged):
        raise RuntimeError("boom")

    def distance(judged):
        return {"frechet_distance": 5.0}

    class Lonely(Observer):
        pass
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The name of a module that nobody has imported yet."""
    name = f"parts_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(PARTS))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def few():
    small = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,),
             "num_res_blocks": 1, "batch_size": 8}  # fmt: skip
    return override(load("digits"), {**small, "steps": 2, "preview_every": 0})


def test_constants_of_a_network_s_module_have_their_values(parts, few, tmp_path):
    """The first who imports it builds a network without values."""
    config = override(few, {"network": f"{parts}:Net"})
    assert train(config, tmp_path / "run", device="cpu").step == 2
    assert vfn.load(tmp_path / "run", "cpu").sample(2, steps=2).nfe == 2


def test_a_network_that_looks_at_its_values_is_counted(parts, few):
    config = override(few, {"network": f"{parts}:Numpy"})
    assert cost(config, shape_of(load_dataset("digits", "train"))).total > 10


def test_what_cannot_be_built_is_one_line(parts, few, tmp_path):
    config = override(few, {"network": f"{parts}:Narrow"})
    with pytest.raises(ValueError, match=rf"network {parts}:Narrow cannot be built: TypeError"):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_memory_that_is_not_enough_is_said_as_ever(parts, few, tmp_path):
    config = override(few, {"network": f"{parts}:Hungry"})
    with pytest.raises(ValueError, match="out of memory while building the network"):
        train(config, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("rule", "fault"),
    [("two", "guidance rule .*:two fails: TypeError"), ("nothing", "to give .*, got NoneType")],
)
def test_a_guidance_rule_is_tried_before_any_work(parts, rule, fault, few, tmp_path):
    with pytest.raises(ValueError, match=fault):
        untrained("digits").draws(2, guidance=1.0, guidance_rule=f"{parts}:{rule}", steps=2)
    with pytest.raises(ValueError, match=fault):  # which may lead away from a weaker network
        untrained("digits").draws(2, guidance=0.0, guidance_rule=f"{parts}:{rule}", steps=2)
    config = override(
        few, {"guidance_rule": f"{parts}:{rule}", "guidance": 1.0, "preview_every": 2}
    )
    with pytest.raises(ValueError, match=fault):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_metrics_and_trackers_that_fail_are_one_line(parts, few, tmp_path):
    sides = ("dataset:digits:train", "dataset:digits:test")
    with pytest.raises(ValueError, match=rf"metric {parts}:fails fails: RuntimeError: boom"):
        judge(*sides, ["fd", f"{parts}:fails"], device="cpu")
    with pytest.raises(ValueError, match="different names, got frechet_distance twice"):
        judge(*sides, ["fd", f"{parts}:distance"], device="cpu")
    with pytest.raises(ValueError, match=rf"tracker {parts}:Lonely cannot be made: TypeError"):
        train(override(few, {"trackers": [f"{parts}:Lonely"]}), tmp_path / "run", device="cpu")


def test_a_schedule_of_functions_of_tensors_serves_everywhere():
    def logsnr(t):
        return (20 - 40 * t).clamp(-10, 10)

    own = ops.LogSNRSchedule(logsnr, lambda level: (20 - level) / 40)
    net = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    assert denoiser(net, None, own, "v")(torch.randn(1, 1, 8, 8), torch.zeros(1)).shape[0] == 1
    assert ops.sampling_grid("karras", own, 2).shape == (3,)
    x0 = torch.zeros(2, 1, 4, 4)
    found = ops.vlb_bpd(lambda z, _: 0 * z, x0, own, 3, lambda _: torch.randn_like(x0))
    assert found.total.isfinite().all()


@pytest.mark.parametrize("noise", [torch.zeros(2, 3), torch.Generator()])
def test_noise_is_a_function(noise):
    grid, z = torch.linspace(-9, 9, 4), torch.randn(2, 3)
    with pytest.raises(TypeError, match="expected noise to be a function of the step's number"):
        ops.sample(lambda z, _: 0 * z, z, grid, ops.ancestral_step, noise=noise)


@pytest.mark.parametrize("labels", [np.array([2, 1]), [2, 1]])
def test_arrays_become_a_data_set(labels):
    images = np.arange(128, dtype=np.uint8).reshape(2, 1, 8, 8)
    made = as_dataset(images, labels, ["a", "b"])
    assert torch.equal(made.images, torch.from_numpy(images))
    assert made.labels.tolist() == [2, 1]


def test_configurations_are_found_by_paths(tmp_path, few):
    path = tmp_path / "own.toml"
    path.write_text(vfn.configs.dumps(few))
    assert load(path) == few
    assert untrained(path).config == few


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_run_trains_where_gradients_are_switched_off(off, few, tmp_path):
    with off():
        assert train(few, tmp_path / "off", device="cpu").step == 2
        assert not torch.is_grad_enabled()
    train(few, tmp_path / "on", device="cpu")
    digests = {vfn.load(tmp_path / name, "cpu").digest for name in ("off", "on")}
    assert len(digests) == 1


def test_what_is_no_list_or_no_function_is_one_line(few, tmp_path):
    with pytest.raises(ValueError, match="expected 2 to 4 runs to compare, got 1"):
        compare("runs/a")
    for one in (Observer(), print):
        with pytest.raises(ValueError, match="expected callbacks in a list, got one"):
            train(few, tmp_path / "run", device="cpu", callbacks=one)
    with pytest.raises(ValueError, match="expected objective to be a function of network, batch"):
        train(few, tmp_path / "run", device="cpu", objective="mine.objectives:nearest")
    assert not (tmp_path / "run").exists()


def test_a_model_is_shown_in_a_line():
    model = untrained("digits")
    for shown in (repr(model), repr(model.draws(2, steps=2))):
        assert len(shown) < 300
        assert "pictures [1, 8, 8]" in shown
