"""Evaluation on the way, by processes that all have to take part in it."""

import os
import signal
import subprocess

import pytest

from tests.helpers.comparing import losses
from tests.helpers.processes import logged, start_of, workers

FIGURES = ("frechet_distance", "precision", "recall")
LIMIT = 60  # seconds; a process that waits for the others would wait for half an hour
# Nothing is learnt, so that all networks are the same and only the evaluation is compared.
OPTIONS = ("--steps", "4", "--eval-every", "2", "--eval-num", "75", "--lr", "0", "--device", "cpu")


def evaluations(run):
    return [{name: e[name] for name in FIGURES} for e in logged(run) if FIGURES[0] in e]


def finish(processes, out):
    """Train; a run that does not end by itself is a failure."""
    process = subprocess.Popen(
        start_of(processes, out, *OPTIONS), stderr=subprocess.PIPE, text=True
    )
    try:
        _, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        for worker in workers(process).values():
            os.kill(worker, signal.SIGKILL)  # torchrun then ends by itself
        process.communicate(timeout=LIMIT)
        pytest.fail(f"no end after {LIMIT} s: some process waits for one that does not come")
    assert process.returncode == 0, err


def test_all_processes_take_part_and_agree_with_one(tmp_path):
    """75 pictures do not divide; the last is sampled twice and must count once."""
    for processes in (1, 2):
        finish(processes, tmp_path / str(processes))
    one, two = (evaluations(tmp_path / name) for name in "12")
    assert len(one) == len(two) == 2
    assert len(losses(tmp_path / "2")) == 4
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
