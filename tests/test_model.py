"""What a configuration describes, as live objects; networks of somebody else among them."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.helpers.gpu import tf32_flags
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn import ops
from vfn.configs import (
    Config,
    DiffusionConfig,
    DistillConfig,
    ModelConfig,
    SampleConfig,
    override,
)
from vfn.data import Labels
from vfn.model import (
    DataShape,
    autocast,
    build_model,
    check_sampling,
    float32_products,
    sampler_of,
    schedule_of,
    strength_of,
)
from vfn.nn import UNet
from vfn.sampling.trained import untrained

SMALL_NET = ModelConfig(hid_channels=32, ch_multipliers=(1,), apply_attn=(False,), num_res_blocks=1)

MODULE = """
from torch import nn

class Small(nn.Module):
    def __init__(self, in_channels, out_channels, num_classes=0, multitags=False, width=4,
                 guidance_range=None):
        super().__init__()
        self.given = (in_channels, out_channels, num_classes, multitags, width)
        self.guidance_range = guidance_range
        self.inner = nn.Conv2d(in_channels, width, 3, padding=1)
        self.outer = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, z, t, y=None, w=None):
        return self.outer(self.inner(z) * (1 + t.to(z.dtype).view(-1, 1, 1, 1)))

class Careful(Small):
    def __init__(self, width, **options):
        if width % 2:
            raise ValueError(f"expected an even width, got {width}")
        super().__init__(**options, width=width)

def made(in_channels, out_channels, **_others):
    return nn.Conv2d(in_channels, out_channels, 1)

def nothing(**_options):
    return 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of networks in the current directory."""
    (tmp_path / "nets_of_them.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("nets_of_them", None)


def outside(name, **options):
    model = ModelConfig(network=f"nets_of_them:{name}", options=options)
    return Config(model=model, sample=SampleConfig(sample_timesteps=2))


def test_a_unet_is_built_from_its_fields():
    network = build_model(small_config(), SHAPE)
    assert isinstance(network, UNet)
    assert network.num_classes == 10
    assert SHAPE.size == (1, 8, 8)


@pytest.mark.parametrize(
    ("fields", "outputs"),
    [
        ({}, 1),
        ({"model_out_type": "both"}, 2),
        ({"learned_variance": True, "train_timesteps": 10}, 2),
        ({"model_out_type": "both", "learned_variance": True, "train_timesteps": 10}, 3),
    ],
)
@pytest.mark.usefixtures("nets")
def test_a_network_puts_out_what_it_predicts(fields, outputs):
    shape = DataShape(3, 4, 4, Labels(("a", "b"), tags=True))
    network = build_model(override(outside("Small", width=6), fields), shape)
    assert network.given == (3, 3 * outputs, 2, True, 6)
    assert build_model(override(small_config(), fields), shape).out_channels == 3 * outputs


@pytest.mark.usefixtures("nets")
def test_a_function_may_make_a_network():
    assert isinstance(build_model(outside("made"), SHAPE), nn.Conv2d)


@pytest.mark.usefixtures("nets")
def test_a_network_that_takes_guidance():
    config = override(outside("Small"), {"guidance_range": [0, 4], "teacher_steps": 4})
    assert build_model(config, SHAPE).guidance_range == (0.0, 4.0)


@pytest.mark.usefixtures("nets")
def test_a_network_of_somebody_else_is_saved_opened_and_sampled(tmp_path):
    import vfn
    from vfn.runs import write_checkpoint

    checkpoint = small_checkpoint(outside("Small", width=6))
    write_checkpoint(tmp_path / "a.safetensors", checkpoint)
    opened = vfn.load(tmp_path / "a.safetensors", "cpu")
    assert opened.config == checkpoint.config
    assert opened.sample(3, ["7"], guidance=0.5).images.shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "Small",
            {"widht": 3},
            r"network nets_of_them:Small: got an unexpected keyword argument 'widht'; it takes "
            "in_channels, out_channels, num_classes, multitags, width, guidance_range",
        ),
        ("Careful", {}, "network nets_of_them:Careful: missing a required argument: 'width'"),
        ("Careful", {"width": 3}, "expected an even width, got 3"),
        ("nothing", {}, "expected network nets_of_them:nothing to be an nn.Module, got int"),
        ("Large", {}, "nets_of_them:Large: there is no Large in nets_of_them"),
    ],
)
@pytest.mark.usefixtures("nets")
def test_a_network_that_cannot_be_built_is_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        build_model(outside(name, **options), SHAPE)
    assert "\n" not in str(raised.value)


def test_a_module_that_is_not_there():
    config = Config(model=ModelConfig(network="no.such_module:Net"))
    with pytest.raises(ValueError, match="no.such_module:Net cannot be imported .ModuleNotFound"):
        build_model(config, SHAPE)


def test_the_schedule_is_the_configurations():
    schedule = schedule_of(DiffusionConfig(logsnr_schedule="linear", logsnr_min=-9, logsnr_max=5))
    assert schedule.logsnr(1.0).item() == pytest.approx(-9)
    assert schedule.logsnr(0.0).item() == pytest.approx(5)


def test_the_schedule_is_mixed_and_shifted_as_the_configuration_says():
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    flow = ops.logsnr_schedule("flow", -12, 12)
    given = {"logsnr_schedule": "flow", "logsnr_min": -12, "logsnr_max": 12}
    assert torch.equal(schedule_of(DiffusionConfig(**given)).logsnr(t), flow.logsnr(t))
    shifted = schedule_of(DiffusionConfig(**given, shift=3.0))
    torch.testing.assert_close(shifted.logsnr(t), flow.logsnr(t) - 2 * math.log(3))
    mixed = schedule_of(DiffusionConfig(**given, shift=3.0, interpolation=(32, 128, 256)))
    low, high = 2 * math.log(32 / 256), 2 * math.log(128 / 256)
    expected = shifted.logsnr(t) + t * low + (1 - t) * high
    torch.testing.assert_close(mixed.logsnr(t), expected)
    torch.testing.assert_close(mixed.time(mixed.logsnr(t)), t, rtol=0, atol=1e-9)
    betas = {"beta_end": 0.01, "timesteps": 400}
    legacy = schedule_of(DiffusionConfig(logsnr_schedule="legacy", schedule_options=betas))
    assert torch.equal(legacy.logsnr(t), ops.legacy_logsnr(t, **betas))


def test_the_sampler_takes_its_own_settings():
    """Those of other solvers are not given to it."""
    assert SampleConfig(sampler="heun", churn=0.1).solver_options() == {"churn": 0.1}
    assert SampleConfig(sampler="ab2").solver_options() == {}
    draw = sampler_of(SampleConfig(sampler="heun"))
    drawn = draw(lambda z, _logsnr: 0 * z, torch.randn(2, 1, 2, 2), torch.linspace(-9, 9, 4))
    assert drawn.nfe == 4  # two evaluations a step but for the last


def test_guidance_as_settings_ask_for_it():
    assert strength_of(SampleConfig(guidance=2.0)) == 2.0
    assert strength_of(SampleConfig(guidance_interval=(-3, 5))) == 0.0
    inside = strength_of(SampleConfig(guidance=2.0, guidance_interval=(-3, 5)))
    assert inside(torch.tensor([-4.0, 0.0, 6.0])).tolist() == [0.0, 2.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "legend", "known", "message"),
    [
        ({"guidance": 1.0}, Labels(), None, "guidance 1.0 needs a class-conditional model"),
        ({"guidance": 5.0}, Labels(("a",)), (0.0, 4.0), "expected guidance in 0..4"),
        (
            {"guidance": 1.0, "guidance_interval": (-3, 5)},
            Labels(("a",)),
            (0.0, 4.0),
            "expected neither guidance_interval nor guidance_rescale",
        ),
        (
            {"sampler": "ancestral", "var_type": "learned"},
            Labels(("a",)),
            None,
            "var_type learned needs a model trained with learned_variance",
        ),
    ],
)
def test_settings_that_a_network_cannot_follow(settings, legend, known, message):
    shape = SHAPE._replace(legend=legend)
    with pytest.raises(ValueError, match=message):
        check_sampling(SampleConfig(**settings), Config(), shape, known)


def breaks():
    def solve(denoise, z, logsnrs, **_):
        return denoise(z, logsnrs[0]).no_such_thing

    return solve


def shrinks():
    from vfn.ops import Sample

    return lambda _denoise, z, _logsnrs, **_: Sample(z[..., :1], 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": "logsnr"}, "expected finite limits"),
        ({"sampler": "no.such:solver"}, "no.such:solver cannot be imported"),
        ({"sampler": f"{__name__}:breaks"}, ":breaks fails: AttributeError"),
        (
            {"sampler": f"{__name__}:shrinks"},
            r":shrinks to give \(1, 1, 2, 2\), got \(1, 1, 2, 1\)",
        ),
    ],
)
def test_grids_and_solvers_are_tried_before_they_are_needed(settings, message):
    """A first preview comes after a thousand steps."""
    config = Config(diffusion=DiffusionConfig(logsnr_schedule="legacy"))
    with pytest.raises(ValueError, match=message):
        check_sampling(SampleConfig(**settings), config, SHAPE)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_of_products(precision, dtype):
    with autocast(precision, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(diffusion=DiffusionConfig(p_uncond=0)), "never saw a picture without one"),
        (Config(diffusion=DiffusionConfig(p_uncond=1)), "never saw a picture with one"),
        (Config(distill=DistillConfig(teacher_steps=4)), "has its guidance in it"),
    ],
)
def test_guidance_of_a_network_that_never_learned_both_branches(config, message):
    shape = SHAPE._replace(legend=Labels(("a",)))
    check_sampling(SampleConfig(guidance=0), config, shape)
    with pytest.raises(ValueError, match=message):
        check_sampling(SampleConfig(guidance=0.5), config, shape)
    trained = untrained(replace(config, model=SMALL_NET), shape)
    trained.denoiser(torch.tensor([1]))
    for strength in (0.5, torch.tensor([0.5]), lambda _logsnr: 0.5):
        with pytest.raises(ValueError, match=message):
            trained.denoiser(torch.tensor([1]), strength)
    with pytest.raises(ValueError, match=message):
        trained.settings(guidance=0.5)


def test_classes_counted_from_0_are_refused_where_there_is_guidance():
    shape = SHAPE._replace(legend=Labels(("a", "b")))
    trained = untrained(Config(model=SMALL_NET), shape)
    with pytest.raises(ValueError, match=r"labels in 1..2 with guidance, got 0 at 1"):
        trained.denoiser(torch.tensor([1, 0]), 0.5)
    trained.denoiser(torch.tensor([1, 0]))  # some with, some without


def test_products_of_float32_are_a_caller_s_again():
    """Each in a process of its own: PyTorch's two ways of setting them do not mix."""
    code = """import os, torch
from torch import backends as b
from vfn.model import float32_products

parts = b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.matmul, b.mkldnn.conv, b.cudnn, b
readings = (
    lambda: b.cuda.matmul.allow_tf32, lambda: b.cudnn.allow_tf32, torch.get_float32_matmul_precision
)

def state():
    return [part.fp32_precision for part in parts]

def read(reading):
    try:
        return reading()
    except RuntimeError:
        return None  # refused, as the caller has set it in the other way

for word in (
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high')",
    "b.cuda.matmul.allow_tf32 = True",
    "b.cudnn.allow_tf32 = False",
    "b.cudnn.conv.fp32_precision = 'ieee'",
    "b.cuda.matmul.fp32_precision = 'tf32'",
    "b.cudnn.fp32_precision = 'ieee'",
    "b.fp32_precision = 'tf32'",
):
    child = os.fork()
    if child == 0:
        exec(word)
        before, told = state(), [read(each) for each in readings]
        for tf32 in (False, True):
            with float32_products(tf32):
                assert state()[:3] == ["tf32" if tf32 else "ieee"] * 3, (word, state())
                assert (b.cuda.matmul.allow_tf32, b.cudnn.allow_tf32) == (tf32, tf32), word
                assert state()[3:5] == before[3:5], (word, state())  # of the CPU
            assert state() == before, (word, state(), before)
            for reading, value in zip(readings, told):
                assert value is None or reading() == value, word
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, word
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_products_of_float32_of_two_threads():
    """Whose blocks end in the order in which they began, as nested ones never do."""

    before = tf32_flags()
    blocks = [float32_products(tf32) for tf32 in (True, False, True)]
    for block in blocks:
        block.__enter__()
    for block in (blocks[1], blocks[0]):
        block.__exit__(None, None, None)
        assert tf32_flags() == (True, True)  # of the third
    blocks[2].__exit__(None, None, None)
    assert tf32_flags() == before
