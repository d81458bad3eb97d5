"""Processes, and runs that tests of several rooms are held against."""

import pytest

from tests.helpers.processes import STEPS, Forks


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Commands in forked processes."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def undisturbed(forks, tmp_path_factory):
    """``undisturbed(processes, accumulate)``: a run that nothing happened to, made when asked."""
    made = {}

    def run(processes, accumulate):
        layout = processes, accumulate
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp("undisturbed")
            options = ["--accumulate", accumulate, "--steps", STEPS]
            half = ["--checkpoint-every", STEPS // 2]
            forks.train(made[layout], *options, *half, processes=processes)
            forks.end()
        return made[layout]

    return run
