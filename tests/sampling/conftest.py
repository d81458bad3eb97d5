"""A run that is small and random, as directory and as it is loaded; what is drawn and written."""

import pytest
import torch

import vfn
from tests.helpers.small import small_checkpoint
from vfn.runs import RunFiles, save_checkpoint
from vfn.sampling import Draws


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


def contents(folder):
    """Name and bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def drawn(monkeypatch):
    """How many pictures each batch has that is drawn."""
    calls = []
    whole = Draws.batch

    def counting(self, indices, watch=None):
        calls.append(len(indices))
        return whole(self, indices, watch)

    monkeypatch.setattr(Draws, "batch", counting)
    return calls
