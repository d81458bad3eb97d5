"""A network so small that it draws in milliseconds, and the digits."""

import pytest
import torch

from vfn.configs import load, override
from vfn.data import Labels, load_dataset
from vfn.model import DataShape, build_model
from vfn.sampling import Trained

SMALL = {
    "hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,), "num_res_blocks": 1,
    "sample_timesteps": 2,
}  # fmt: skip


def small_network(legend, **settings):
    """Random weights; all of them matter, as after some training."""
    config = override(load("digits"), {**SMALL, **settings})
    shape = DataShape(1, 8, 8, legend)
    torch.manual_seed(0)
    model = build_model(config, shape).eval()
    params = {name: p.detach() + 0.02 * torch.randn_like(p) for name, p in model.named_parameters()}
    return Trained(model, params, config, shape, torch.device("cpu"), step=7)


@pytest.fixture(scope="session")
def trained():
    return small_network(Labels(tuple("0123456789")))


@pytest.fixture(scope="session")
def real():
    return load_dataset("digits", "train")


@pytest.fixture(scope="session")
def held_out():
    return load_dataset("digits", "test")
