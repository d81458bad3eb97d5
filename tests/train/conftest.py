"""A network so small that a step takes milliseconds."""

import pytest

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
