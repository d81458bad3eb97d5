"""The presets that ship are the published settings; the numbers here were written independently."""

import re
from importlib import resources

import pytest
import torch

from vfn.configs import load, presets
from vfn.data import Labels, datasets
from vfn.data.standard import DATASETS
from vfn.model import DataShape, build_model

TEN = Labels(tuple("0123456789"))
FORTY = Labels(tuple(f"tag{k}" for k in range(40)), tags=True)
NONE = Labels()
# What a network has to know of the pictures that a preset trains on.
SHAPES = {
    "128": DataShape(3, 128, 128, TEN),
    "64": DataShape(3, 64, 64, TEN),
    "celeba": DataShape(3, 64, 64, FORTY),
    "cifar10_cond": DataShape(3, 32, 32, TEN),
    "cifar10_uncond": DataShape(3, 32, 32, NONE),
    "ddpm": DataShape(3, 32, 32, NONE),
    "digits": DataShape(1, 8, 8, TEN),
    "digits_meanflow": DataShape(1, 8, 8, TEN),
    "digits_transformer": DataShape(1, 8, 8, TEN),
    "glyphs": DataShape(1, 32, 32, DATASETS["glyphs"].legend),
    "mnist": DataShape(1, 28, 28, TEN),
    "mnist5k": DataShape(1, 28, 28, TEN),
    "patches": DataShape(3, 32, 32, DATASETS["patches"].legend),
    "small": DataShape(3, 32, 32, TEN),
}
OWN = ("small", "64", "128")  # for pictures of one's own
# Data and network are the teacher's.
DISTILLED = ["cifar10_consistency", "cifar10_distill", "digits_consistency", "digits_distill",
             "digits_ect", "digits_moments"]  # fmt: skip

CIFAR10 = {
    "dataset": "cifar10", "split": "train", "flip": True,
    "hid_channels": 256, "ch_multipliers": (1, 1, 1), "num_res_blocks": 3,
    "apply_attn": (False, True, True), "num_heads": 1, "head_dim": None, "dropout": 0.2,
    "lr": 2e-4, "batch_size": 128, "ema_decay": 0.9999,
    "beta1": 0.9, "beta2": 0.999, "grad_norm": 1.0, "lr_schedule": "constant",
}  # fmt: skip
COSINE = {"logsnr_schedule": "cosine", "logsnr_min": -20.0, "logsnr_max": 20.0,
          "reweight_type": "truncated_snr", "train_timesteps": 0}  # fmt: skip
PUBLISHED = {
    "cifar10_cond": {
        **CIFAR10, **COSINE, "conditional": True, "p_uncond": 0.1, "model_out_type": "v",
        "var_type": "fixed_medium", "intp_frac": 0.3, "weight_decay": 1e-3, "warmup": 10_000,
    },
    "cifar10_uncond": {
        **CIFAR10, **COSINE, "conditional": False, "model_out_type": "x0",
        "var_type": "fixed_large", "weight_decay": 1e-3, "warmup": 1_000,
    },
    "ddpm": {
        **CIFAR10, "conditional": False, "logsnr_schedule": "legacy", "train_timesteps": 1_000,
        "model_out_type": "eps", "var_type": "fixed_large", "reweight_type": "snr",
        "weight_decay": 0.0, "warmup": 5_000,
    },
    "celeba": {
        **COSINE, "dataset": "celeba", "split": "all", "conditional": True, "p_uncond": 0.1,
        "crop": (40, 15, 148, 148), "image_size": (64, 64), "flip": True,
        "hid_channels": 192, "ch_multipliers": (1, 2, 3, 4), "num_res_blocks": 3,
        "apply_attn": (False, True, True, True), "head_dim": 64, "num_heads": None,
        "embedding_dim": 768, "dropout": 0.1,
        "model_out_type": "both", "var_type": "fixed_large",
        "lr": 3e-4, "batch_size": 128, "warmup": 1_000, "ema_decay": 0.9999,
        "beta1": 0.9, "beta2": 0.999, "grad_norm": 1.0, "lr_schedule": "constant",
    },
    "cifar10_distill": {
        "teacher_steps": 8192, "student_steps": 1, "steps": 50_000, "last_steps": 100_000,
        "lr": 5e-5, "lr_schedule": "linear", "warmup": 0, "batch_size": 128, "grad_norm": 1.0,
        "ema_decay": 0.0,
    },
    "cifar10_consistency": {  # the paper's mean is that of log(sigma / 0.5)
        "time_options": {"mean": -1.693, "std": 1.4}, "learned_weight": True,
        "objective_options": {"tangent_warmup": 10_000, "tangent_floor": 0.1},
    },
    "mnist": {"dataset": "mnist", "image_size": (28, 28), "flip": False},
}  # fmt: skip


def values(name):
    config = load(name)
    return {key: value for section in vars(config).values() for key, value in vars(section).items()}


def test_every_preset_is_tested():
    assert presets() == sorted([*SHAPES, *DISTILLED])


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_are_the_published_ones(name):
    found = values(name)
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_network_is_built_and_fits_the_pictures(name):
    config, shape = load(name), SHAPES[name]
    size, legend = shape.size, shape.legend
    with torch.device("meta"):
        model = build_model(config, shape)
        labels = torch.zeros(2, len(legend.names)) if legend.tags else torch.zeros(2)
        given = labels if legend.names else None
        out = model(torch.zeros(2, *size), torch.zeros(2), given)
    twice = 2 if config.diffusion.model_out_type == "both" else 1
    assert out.shape == (2, twice * size[0], *size[1:])
    assert config.data.dataset in datasets()
    assert config.data.conditional == bool(legend.names)
    if config.data.image_size:
        assert config.data.image_size == size[1:]


@pytest.mark.parametrize("name", OWN)
def test_own_pictures_need_a_preset_and_their_place(name):
    """Of one size, or of none, and guided alike where they have labels."""
    config = load(name)
    size = () if name == "small" else (int(name), int(name))
    assert (config.data.image_size or ()) == size
    assert config.model.network == "unet"
    assert config.sample.guidance > 0
    assert config.diffusion.p_uncond > 0
    assert config.train.accumulate is None  # as memory allows


def test_larger_pictures_come_in_smaller_batches():
    batches, rates, samples = (
        [getattr(getattr(load(name), section), field) for name in OWN]
        for section, field in (("train", "batch_size"), ("train", "lr"), ("sample", "sample_batch"))
    )
    for values in (batches, rates, samples):
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("name", "epochs", "pictures"),
    [
        ("cifar10_cond", 5120, 50_000),
        ("cifar10_uncond", 5120, 50_000),
        ("ddpm", 2048, 50_000),
        ("celeba", 1024, 202_599),
    ],
)
def test_length_of_the_training(name, epochs, pictures):
    train = load(name).train
    assert train.steps * train.batch_size == epochs * pictures


@pytest.mark.parametrize("name", presets())
def test_every_line_has_a_comment(name):
    text = (resources.files("vfn.configs") / f"{name}.toml").read_text()
    for line in text.splitlines():
        assert not line or line.startswith(("#", "[")) or re.search(r"\S {2,}# \S", line), line
