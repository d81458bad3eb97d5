"""A network so small that a step takes milliseconds: options, configuration, checkpoint.

And a hundred digits: held-out pictures of a larger data set would take most of a test's time.
"""

from pathlib import Path

import torch

from vfn.configs import Config, DataConfig, ModelConfig, SampleConfig, TrainConfig
from vfn.data import Labels
from vfn.model import DataShape, build_model
from vfn.runs import Checkpoint
from vfn.runs.checkpoint import MOMENTS

DIGITS_FILE = str(Path(__file__).parents[1] / "golden" / "digits.npz")
TRAINED_ON = 90  # of them

SMALL = [
    "--hid-channels", "32", "--ch-multipliers", "1", "--apply-attn", "false",
    "--num-res-blocks", "1", "--batch-size", "16", "--lr-schedule", "constant",
    "--sample-timesteps", "2", "--log-every", "1",
]  # fmt: skip
SHAPE = DataShape(1, 8, 8, Labels(tuple("0123456789")))


def small_config(**model):
    """A configuration for the digits; ``model``: more fields of [model]."""
    fields = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,),
              "num_res_blocks": 1, "embedding_dim": 8}  # fmt: skip
    return Config(
        data=DataConfig(dataset="digits"),
        model=ModelConfig(**{**fields, **model}),
        train=TrainConfig(steps=4, batch_size=16, warmup=2, lr=1e-3, log_every=1),
        sample=SampleConfig(sample_timesteps=2, guidance=0.5),
    )


def small_checkpoint(config=None, shape=SHAPE, step=3):
    """A checkpoint with random parameters, another average, and moments."""
    config = config or small_config()
    named = dict(build_model(config, shape).named_parameters())
    draw = torch.Generator().manual_seed(step)

    def moved(size):
        return {
            name: value.detach() + size * torch.randn(value.shape, generator=draw)
            for name, value in named.items()
        }

    moments = {kind: {n: v.abs() for n, v in moved(0.01).items()} for kind in MOMENTS}
    counters = {"updates": torch.tensor(float(step)), "loss_scale": torch.tensor(1.0)}
    return Checkpoint(step, config, shape, moved(0.05), moved(0.05), moments, counters)
