"""A network so small that a step takes milliseconds, and a teacher."""

from dataclasses import replace

import pytest

from tests.helpers.small import DIGITS_FILE
from vfn.configs import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    SampleConfig,
    TrainConfig,
    load,
    override,
)
from vfn.train import train


@pytest.fixture(scope="session")
def config() -> Config:
    return Config(
        data=DataConfig(dataset=DIGITS_FILE),
        model=ModelConfig(
            hid_channels=32, ch_multipliers=(1,), apply_attn=(False,), num_res_blocks=1
        ),
        diffusion=DiffusionConfig(),
        train=TrainConfig(steps=4, batch_size=16, warmup=2, lr=1e-3, log_every=1),
        sample=SampleConfig(sample_timesteps=2),
    )


@pytest.fixture(scope="session")
def teacher(config, tmp_path_factory):
    """A run of a few steps that is sampled with guidance."""
    out = tmp_path_factory.mktemp("teacher")
    preset = load("digits")
    sample = replace(preset.sample, sample_timesteps=2)
    small = replace(preset, data=config.data, model=config.model, sample=sample)
    settings = {
        "steps": 3,
        "batch_size": 16,
        "log_every": 1,
        "lr_schedule": "constant",
        "warmup": 0,  # so that it says something after three
    }
    train(override(small, settings), out, device="cpu")
    return out
