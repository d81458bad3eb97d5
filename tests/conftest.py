"""Golden numbers, what rooms share, settings of property-based tests, and tests on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.helpers.conditioned import shapes, told_run
from tests.helpers.fixtures import forks, undisturbed
from tests.helpers.gpu import (
    cuda,
    deterministic,
    each_device,
    exact_on_gpu,
    gpu,
    pytest_collection_modifyitems,
    pytest_ignore_collect,
    pytest_runtest_setup,
)

__all__ = [
    "cuda",
    "deterministic",
    "each_device",
    "exact_on_gpu",
    "forks",
    "gpu",
    "pytest_collection_modifyitems",
    "pytest_ignore_collect",
    "pytest_runtest_setup",
    "shapes",
    "told_run",
    "undisturbed",
]

# No deadline: the first call of an operator is slow. Derandomized: a failure repeats.
settings.register_profile("vfn", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("vfn")


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)


def pytest_fixture_setup(fixturedef):
    """What tests share is made before they are seeded: from the same numbers, too."""
    if fixturedef.scope != "function":
        torch.manual_seed(0)


def _load(name: str) -> dict[str, torch.Tensor]:
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="session")
def golden_math():
    """Numbers of the original implementation's formulas."""
    return _load("math")


@pytest.fixture(scope="session")
def golden_unet():
    """Parameters, inputs and outputs of the original implementation's UNet."""
    return _load("unet_class_v")
