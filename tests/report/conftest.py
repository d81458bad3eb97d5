"""Runs with nothing, with everything, and of a distillation."""

import json

import pytest
import torch

from tests.helpers.reported import EVALUATION, PICTURES, write_log
from vfn.configs import dumps, load
from vfn.pictures import grid, save_animation, save_png
from vfn.report import report


def begin(place):
    """A run that has nothing but its configuration."""
    run = place / "my-run"
    run.mkdir()
    (run / "config.toml").write_text(dumps(load("digits")))
    return run


def fill(bare):
    """A run with everything."""
    lines = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in range(20, 801, 20)]
    lines += [{"step": 400, "held_out_loss": 0.25}, {"step": 800, "held_out_loss": 0.125}]
    write_log(bare, lines)
    tiles = torch.arange(4 * 64, dtype=torch.uint8).reshape(4, 1, 8, 8)
    for i, name in enumerate((*PICTURES, "samples/step-00000400.png", "samples/step-00000800.png")):
        frames = [grid(tiles + 16 * i + j, 2) for j in range(2)]
        if name.endswith(".webp"):
            save_animation(bare / name, frames, 80, 800)
        else:
            save_png(bare / name, frames[0])
    (bare / "metrics-w0.json").write_text(json.dumps(EVALUATION))
    return bare


@pytest.fixture
def bare(tmp_path):
    return begin(tmp_path)


@pytest.fixture
def run(bare):
    return fill(bare)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a run with everything and two evaluations, to look at."""
    run = fill(begin(tmp_path_factory.mktemp("written")))
    text = (run / "metrics-w0.json").read_text()
    other = text.replace('"guidance": 0.0', '"guidance": 1.0').replace("0.0391834", "0.0191834")
    (run / "metrics-w1.json").write_text(other)
    return report(run)


@pytest.fixture
def distilled(bare):
    """A distillation whose second stage has only begun."""
    (bare / "config.toml").write_text(dumps(load("digits_distill")))
    rows = [
        {"student_steps": 32, "updates": 100, "loss": 0.5, "recall": 0.25, "seconds": 90.0},
        {"student_steps": 16, "updates": 10, "loss": 0.125, "seconds": 9.0},
    ]
    (bare / "stages.json").write_text(json.dumps(rows))
    tiles = torch.arange(4 * 64, dtype=torch.uint8).reshape(4, 1, 8, 8)
    for i, name in enumerate(("teacher", "steps-32/samples/step-00000100")):
        save_png(bare / f"{name}.png", grid(tiles + i, 2))
    save_png(bare / "steps-32/samples/step-00000050.png", grid(tiles, 1))
    return bare
