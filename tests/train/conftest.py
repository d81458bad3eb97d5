"""A network so small that a step takes milliseconds, and runs that others are held against."""

import pytest

from tests.helpers.small import SMALL
from vfn.configs import Config, DataConfig, DiffusionConfig, ModelConfig, SampleConfig, TrainConfig


@pytest.fixture
def config() -> Config:
    return Config(
        data=DataConfig(dataset="digits"),
        model=ModelConfig(
            hid_channels=32, ch_multipliers=(1,), apply_attn=(False,), num_res_blocks=1
        ),
        diffusion=DiffusionConfig(),
        train=TrainConfig(steps=4, batch_size=16, warmup=2, lr=1e-3, log_every=1),
        sample=SampleConfig(sample_timesteps=2),
    )


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A run of a few steps that is sampled with guidance."""
    from click.testing import CliRunner

    from vfn.cli import app

    out = tmp_path_factory.mktemp("teacher")
    arguments = ["train", "--out", str(out), "--steps", "3", "--device", "cpu", *SMALL]
    result = CliRunner().invoke(app, arguments, obj=arguments)
    assert result.exit_code == 0, result.output
    return out
