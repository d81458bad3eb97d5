"""Runs of the command line as processes, and what they left behind, read without vfn's own code."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.helpers.small import SMALL

TRAIN = ["-m", "vfn", "train", "--config", "digits", "--device", "cpu", *SMALL]
STEPS = 50  # of an undisturbed run
PATIENCE = 120  # seconds until a test gives up; nothing is measured with it
# Starting Python costs seconds, so processes that are killed by the dozen are forked from one that
# has imported everything. It tells the process number of each, and how it ended.
FORKS = """
import os, sys
import sklearn.datasets, torch._dynamo, vfn.train.loop
from vfn.cli import main
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = ["vfn", *line.split()]
        main()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def start_of(processes, out, *options, launcher=()):
    """The command line of a training run; of several processes through torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    several = [*torchrun, *launcher] if processes > 1 else []
    return [sys.executable, *several, *TRAIN, "--out", str(out), *options]


@contextmanager
def running(command, **options):
    """A command that runs beside the test; `ended` waits for it."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def ended(process, code=0):
    """The standard error of a command that ends by itself, and as expected."""
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return err


def finish(command, code=0, **options):
    """Run a command to its end; its standard error."""
    with running(command, **options) as process:
        return ended(process, code)


def alive(process):
    """Whether a command still runs, as something to be called."""
    return lambda: process.poll() is None


def workers(launcher):
    """Process numbers of the workers of torchrun by their rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    found = {}
    for pid in children:
        variables = dict(
            line.partition("=")[::2]
            for line in Path(f"/proc/{pid}/environ").read_text().split("\0")
        )
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(pid)
    return found


class Forks:
    """Training processes, one after the other, forked from one that has imported everything."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, out, *options):
        print(*TRAIN[2:], "--out", out, *options, file=self._server.stdin, flush=True)
        self.pid = int(self._server.stdout.readline())

    def alive(self):
        return Path(f"/proc/{self.pid}").exists()

    def end(self, signum=None):
        """The exit code of the process, which is sent a signal first or awaited."""
        if signum is not None:
            os.kill(self.pid, signum)
        return int(self._server.stdout.readline())

    def close(self):
        self._server.communicate(timeout=PATIENCE)


def wait_until(condition, alive):
    """Poll ``condition``, closely, as long as the process is ``alive``."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert alive(), "the process ended before its time"
        assert time.monotonic() < end, "the run did not get anywhere"
        time.sleep(0.0005)


def logged(run):
    """Lines of a run's log that were written whole, as dictionaries."""
    path = run / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(run):
    """The loss of each step."""
    return {entry["step"]: entry["loss"] for entry in logged(run) if "loss" in entry}


def last_step(run):
    return max(losses(run), default=0)


def checkpoints(run):
    return sorted((run / "checkpoints").glob("step-*.safetensors"))


def saved_steps(run):
    return [int(path.stem.removeprefix("step-")) for path in checkpoints(run)]


def tensors(run):
    """Everything in a run's newest checkpoint: parameters, EMA, moments, counters."""
    return load_file(checkpoints(run)[-1])


def differing(a, b):
    """Names of what is not bit for bit the same in the newest checkpoints of two runs."""
    assert checkpoints(a)[-1].name == checkpoints(b)[-1].name
    a, b = tensors(a), tensors(b)
    bits = [{n: v.reshape(-1).view(torch.uint8) for n, v in each.items()} for each in (a, b)]
    assert a.keys() == b.keys()
    return [n for n in a if not torch.equal(*(each[n] for each in bits))]
