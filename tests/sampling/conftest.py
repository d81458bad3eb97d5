"""A run that is small and random, as directory and as it is loaded."""

import pytest
import torch

import vfn
from tests.helpers.small import small_checkpoint
from vfn.runs import RunFiles, save_checkpoint


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run directory; the average of its network differs from its parameters."""
    out = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_checkpoint(RunFiles(out), small_checkpoint(), keep=1)
    return out


@pytest.fixture(scope="session")
def trained(run):
    """The network of that run."""
    return vfn.load(run, "cpu")
