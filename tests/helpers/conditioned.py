"""Data with numbers and pictures beside them, and a network from outside that takes them."""

import numpy as np
import pytest
import torch

from vfn.configs import load, override
from vfn.data import as_dataset

TOLD = "tests.helpers.outside:Told"
QUICK = {"steps": 4, "batch_size": 8, "sample_timesteps": 2, "log_every": 1, "checkpoint_every": 2,
         "preview_every": 4, "lr_schedule": "constant"}  # fmt: skip


def told_config(**more):
    return override(load("digits"), {"network": TOLD, **QUICK, **more})


@pytest.fixture(scope="session")
def shapes():
    """Sixty squares, with place and side as numbers, classes by side, and pictures beside."""
    draw = np.random.default_rng(0)
    images = np.zeros((60, 1, 8, 8), np.uint8)
    numbers = np.stack(
        [draw.integers(0, 5, 60), draw.integers(0, 5, 60), draw.integers(2, 4, 60)], 1
    )
    for image, (top, left, side) in zip(images, numbers, strict=True):
        image[0, top : top + side, left : left + side] = 255
    labels = torch.from_numpy(numbers[:, 2] - 1)
    return as_dataset(
        torch.from_numpy(images), labels, ["small", "large"],
        torch.from_numpy(numbers.astype(np.float32)), ["top", "left", "side"],
        torch.from_numpy(255 - images),
    )  # fmt: skip


@pytest.fixture(scope="session")
def told_run(shapes, tmp_path_factory):
    """A run of a network from outside the package that takes labels, numbers and pictures."""
    from vfn.train import train  # no other test has to wait for it

    out = tmp_path_factory.mktemp("told") / "run"
    train(told_config(eval_every=4, eval_num=20), out, dataset=(shapes, shapes), device="cpu")
    return out
