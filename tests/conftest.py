"""Golden numbers, and the settings of the property-based tests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.helpers.fixtures import forks, undisturbed

__all__ = ["forks", "undisturbed"]

# No deadline: the first call of an operator is slow. Derandomized: a failure repeats.
settings.register_profile("vfn", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("vfn")


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws the same numbers, whichever ran before it."""
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
