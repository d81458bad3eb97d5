"""A network so small that it draws in milliseconds, a run of it, and the digits."""

import json

import pytest
import torch

from vfn.configs import load, override
from vfn.data import Labels, load_dataset
from vfn.model import DataShape, build_model
from vfn.runs import Checkpoint, RunFiles, save_checkpoint
from vfn.sampling import Trained

REAL = "dataset:digits"
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


def values(evaluation):
    return {figure.key: figure.value for figure in evaluation.figures}


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run directory with the small network."""
    run = RunFiles(tmp_path_factory.mktemp("runs") / "small")
    params = dict(trained.params)

    def copies():
        return {name: value.clone() for name, value in params.items()}

    moments = {"exp_avg": copies(), "exp_avg_sq": copies()}
    checkpoint = Checkpoint(7, trained.config, trained.shape, copies(), params, moments, {})
    save_checkpoint(run, checkpoint, keep=1)
    lines = [{"step": 5, "seconds": 2.5}, {"step": 9, "seconds": 4.5}]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path
