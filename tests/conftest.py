"""Golden numbers, runs that others are held against, settings of the property-based tests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

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
def undisturbed(tmp_path_factory):
    """``undisturbed(processes, accumulate)``: a run that nothing happened to, made when asked."""
    from tests.helpers.processes import STEPS, finish, start_of

    made = {}

    def run(processes, accumulate):
        layout = processes, accumulate
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp("undisturbed")
            options = ["--accumulate", str(accumulate), "--steps", str(STEPS)]
            half = ["--checkpoint-every", str(STEPS // 2)]
            finish(start_of(processes, made[layout], *options, *half))
        return made[layout]

    return run


@pytest.fixture(scope="session")
def golden_math():
    """Numbers of the original implementation's formulas."""
    return _load("math")


@pytest.fixture(scope="session")
def golden_unet():
    """Parameters, inputs and outputs of the original implementation's UNet."""
    return _load("unet_class_v")
