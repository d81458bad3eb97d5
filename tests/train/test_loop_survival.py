"""Runs that are killed, stopped and go on: nothing of it shows in the result."""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.processes import (
    STEPS,
    alive,
    checkpoints,
    differing,
    ended,
    last_step,
    losses,
    running,
    saved_steps,
    torchrun,
    wait_until,
    workers,
)

# torchrun shares one store over all restarts, where new workers find addresses of dead ones
# (pytorch issue 135712); with this each restart gets a store of its own.
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
KILLS, OF_EACH_KIND = 20, 4


def unfinished(run, process):
    """Files that a process has begun and not renamed."""
    return list((run / "checkpoints").glob(f".*.{process.pid}.tmp"))


def wait_for_moment(run, process, kind, rng):
    """A step or more after the start: while a checkpoint is written, within a step, anywhere."""
    before, saved = last_step(run), saved_steps(run)
    wait_until(lambda: last_step(run) > before, process.alive)
    if kind == "writing":
        wait_until(lambda: unfinished(run, process), process.alive)
    elif kind == "computing":
        wait_until(lambda: saved_steps(run) > saved, process.alive)
        time.sleep(rng.uniform(0, 0.02))
    else:
        time.sleep(rng.uniform(0, 0.1))


def doing_at_death(run, process):
    """What a killed process was at, from what it left behind."""
    if unfinished(run, process):
        return "writing"
    return "computing" if saved_steps(run)[-1:] == [last_step(run)] else "between"


@pytest.mark.slow
def test_twenty_kills_do_not_change_a_bit(forks, tmp_path):
    """Some while a checkpoint is written, some between the micro-batches of a step."""
    options = ["--resume", "--accumulate", "2", "--checkpoint-every", "1"]
    killed, whole, rng = tmp_path / "killed", tmp_path / "whole", random.Random(0)
    deaths, kinds = Counter(), ("writing", "computing", "anywhere")
    while deaths.total() < KILLS or min(deaths[kind] for kind in kinds[:2]) < OF_EACH_KIND:
        assert deaths.total() < 3 * KILLS, deaths
        forks.train(killed, *options, "--steps", "100000")
        wait_for_moment(killed, forks, kinds[deaths.total() % len(kinds)], rng)
        forks.end(-signal.SIGKILL, signal.SIGKILL)
        deaths[doing_at_death(killed, forks)] += 1
    steps = last_step(killed) + 3
    for run in (killed, whole):
        forks.train(run, *options, "--steps", steps)
        forks.end()
    assert differing(killed, whole) == []
    assert losses(killed) == losses(whole)
    assert not list((killed / "checkpoints").glob(".*"))  # what was half written is gone


@pytest.mark.slow
def test_torchrun_replaces_killed_workers(undisturbed, tmp_path):
    """First the one that writes the files, then the other one."""
    options = ["--steps", str(STEPS), "--checkpoint-every", "7"]
    command = torchrun(2, tmp_path, *options, launcher=["--max-restarts", "3"])
    with running(command, env=os.environ | FRESH_STORE) as launcher:
        for rank, step in ((0, 12), (1, 27)):
            wait_until(lambda step=step: last_step(tmp_path) >= step, alive(launcher))
            os.kill(workers(launcher)[rank], signal.SIGKILL)
        ended(launcher)
    assert differing(tmp_path, undisturbed(2, 1)) == []
    assert losses(tmp_path) == losses(undisturbed(2, 1))


def test_machines_need_not_count_the_same_restarts(undisturbed, forks, tmp_path):
    """torchrun counts only on the machine where a process died; on others it joins anew.

    The run is still locked by the first process of before, which was on another machine.
    """
    shutil.copytree(undisturbed(2, 1), tmp_path / "run")
    checkpoints(tmp_path / "run")[-1].unlink()
    lock = tmp_path / "run" / "run.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "start": ""}))
    restarts = [{"TORCHELASTIC_RESTART_COUNT": str(rank)} for rank in range(2)]
    forks.train(tmp_path / "run", "--steps", STEPS // 2 + 1, variables=restarts)
    forks.end()


def send(process, run, signum):
    """A signal to a run that has gone on; the step that it was in."""
    before = last_step(run)
    wait_until(lambda: last_step(run) > before + 2, process.alive)
    os.kill(process.pid, signal.SIGSTOP)
    stopped = Path(f"/proc/{process.pid}/stat")
    wait_until(
        lambda: stopped.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T",
        process.alive,
    )
    os.kill(process.pid, signum)
    step = last_step(run) + 1
    os.kill(process.pid, signal.SIGCONT)
    return step


def test_signals_leave_a_checkpoint_within_a_step_and_not_a_trace(undisturbed, forks, tmp_path):
    options = ["--resume", "--accumulate", 4, "--steps", STEPS]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        forks.train(tmp_path, *options)
        step = send(forks, tmp_path, signum)
        assert "checkpoint written" in forks.end(128 + signum)
        assert step - 1 <= saved_steps(tmp_path)[-1] <= step
        assert losses(tmp_path).keys() == set(range(1, saved_steps(tmp_path)[-1] + 1))
    forks.train(tmp_path, *options)
    forks.end()
    assert differing(tmp_path, undisturbed(1, 4)) == []
    assert losses(tmp_path) == losses(undisturbed(1, 4))


def test_a_signal_ends_the_sampling_of_a_preview(forks, tmp_path):
    endless = ["--preview-every", 1, "--sample-timesteps", 1000000]
    kept = ["--ema-profiles", 0.1, "--ema-snapshot-every", 1]
    forks.train(tmp_path, "--steps", 9, *endless, *kept)
    # Signals are looked for before a snapshot, and then in the sampling.
    wait_until(lambda: list(tmp_path.glob("ema/step-*.safetensors")), forks.alive)
    forks.end(128 + signal.SIGTERM, signal.SIGTERM)
    assert saved_steps(tmp_path) == [1]


@pytest.mark.slow
def test_all_processes_stop_when_one_or_torchrun_gets_a_signal(undisturbed, forks, tmp_path):
    options = ["--resume", "--steps", str(STEPS)]
    for to_one in (True, False):
        before = last_step(tmp_path)
        with running(torchrun(2, tmp_path, *options)) as launcher:
            wait_until(lambda before=before: last_step(tmp_path) > before + 2, alive(launcher))
            if to_one:
                os.kill(workers(launcher)[1], signal.SIGUSR1)
            else:
                launcher.terminate()
            ended(launcher, 1)  # its own code: its workers' are in its table
        assert saved_steps(tmp_path)[-1] == last_step(tmp_path)
    forks.train(tmp_path, *options, processes=2)
    forks.end()
    assert differing(tmp_path, undisturbed(2, 1)) == []
    assert losses(tmp_path) == losses(undisturbed(2, 1))
