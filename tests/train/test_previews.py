"""Evaluation on the way, by processes that all have to take part in it."""

import pytest

from tests.helpers.processes import logged, losses

FIGURES = ("frechet_distance", "precision", "recall")
# Nothing is learnt, so that all networks are the same and only the evaluation is compared.
OPTIONS = ("--steps", "4", "--eval-every", "2", "--eval-num", "75", "--lr", "0")


def evaluations(run):
    return [{name: e[name] for name in FIGURES} for e in logged(run) if FIGURES[0] in e]


def test_all_processes_take_part_and_agree_with_one(forks, tmp_path):
    """75 pictures do not divide; the last is sampled twice and must count once."""
    for processes in (1, 2):
        forks.train(tmp_path / str(processes), *OPTIONS, processes=processes)
        forks.end()
    one, two = (evaluations(tmp_path / name) for name in "12")
    assert len(one) == len(two) == 2
    assert len(losses(tmp_path / "2")) == 4
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
