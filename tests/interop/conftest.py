"""A run of digits, the same as a folder of diffusers, and random parameters."""

import json
import shutil

import pytest
import torch

from tests.helpers.reported import EVALUATION
from tests.helpers.small import small_checkpoint
from vfn.interop import export_diffusers
from vfn.runs import RunFiles, write_checkpoint


def moved(net):
    """Random parameters everywhere: zeros would hide what is out of place."""
    for param in net.parameters():
        torch.nn.init.normal_(param, std=0.1)
    return net.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of digits with an evaluation."""
    files = RunFiles(tmp_path_factory.mktemp("runs") / "digits")
    write_checkpoint(files.checkpoint(3), small_checkpoint())
    files.metrics.write_text(json.dumps(EVALUATION))
    return files.path


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The same for diffusers."""
    folder = tmp_path_factory.mktemp("exported") / "digits"
    assert "outputs differ by" in export_diffusers(run, folder, licence="mit")
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """A copy to be changed."""
    return shutil.copytree(exported, tmp_path / "copy")
