"""Runs of the command line as processes, and what they left behind, read without vfn's own code."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.helpers.small import DIGITS_FILE, SMALL

TRAIN = ["train", "--config", "digits", "--device", "cpu", *SMALL,
         "--dataset", DIGITS_FILE]  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
STEPS = 50  # of an undisturbed run
PATIENCE = 120  # seconds until a test gives up; nothing is measured with it
# Starting Python costs seconds, so processes are forked from one that has imported everything. It
# tells the process numbers of each command, and how they ended. Those of one command are told of
# each other as torchrun would tell them. They end at once: taking down an interpreter with so much
# in it costs a second.
FORKS = """
import atexit, json, os, resource, runpy, socket, sys, traceback
import sklearn.datasets, torch._dynamo, torch.distributed, vfn.train.distillation.stages
import vfn.evaluation.judging, vfn.sampling.job
from vfn.cli import main

def start(words, script, variables, limit, err):
    file = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ.update(variables)
    if "WORLD_SIZE" in variables:
        torch.set_num_threads(1)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = [script or "vfn", *words]
    try:
        runpy.run_path(script, run_name="__main__") if script else main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    os._exit(code)

for line in sys.stdin:
    asked = json.loads(line)
    several = asked.pop("several")
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": str(len(several)), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    children = []
    for rank, own in enumerate(several):
        children.append(os.fork())
        if not children[-1]:
            if len(several) > 1:
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **together, **own}
            start(variables=own, **asked)
    print(*children, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


def torchrun(processes, out, *options, launcher=()):
    """The command line of a training run of several processes."""
    several = [*TORCHRUN, str(processes), *launcher]
    return [sys.executable, *several, "-m", "vfn", *TRAIN, "--out", str(out), *options]


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


def alive(process):
    """Whether a command still runs, as something to be called."""
    return lambda: process.poll() is None


def workers(launcher):
    """Process numbers of the workers of torchrun by their rank."""
    children = (
        Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        .read_text(encoding="utf-8")
        .split()
    )
    found = {}
    for pid in children:
        variables = dict(
            line.partition("=")[::2]
            for line in Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
        )
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(pid)
    return found


class Forks:
    """Commands, one after the other, in processes forked from one that has imported everything."""

    def __init__(self, folder):
        self._err = folder / "err"
        self._server = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *words, processes=1, script=None, variables=(), limit=None):
        """Begin ``vfn`` or a script, in one process or in several that work together.

        Args:
            words: Those after the program's name.
            processes: How many.
            script: The path of a Python script in place of ``vfn``.
            variables: More environment variables, of each process.
            limit: Bytes at which their files end, as on a disk that is full.
        """
        self._err.unlink(missing_ok=True)
        asked = {
            "words": [*map(str, words)], "script": script and str(script), "limit": limit,
            "several": [*variables] or [{}] * processes, "err": str(self._err),
        }  # fmt: skip
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        self.pid, *_ = map(int, self._server.stdout.readline().split())

    def train(self, out, *options, **layout):
        """Begin a training run."""
        self.start(*TRAIN, "--out", out, *options, **layout)

    def alive(self):
        return Path(f"/proc/{self.pid}").exists()

    def end(self, code=0, signum=None):
        """Wait for the command, whose first process is sent a signal first; its standard error.

        ``code`` is how every process has to end; a set of codes where they end in different ways.
        """
        if signum is not None:
            os.kill(self.pid, signum)
        codes = set(map(int, self._server.stdout.readline().split()))
        err = self._err.read_text() if self._err.exists() else ""
        assert codes == (code if isinstance(code, set) else {code}), err
        return err

    def run(self, *words, code=0, **layout):
        """A whole command; its standard error."""
        self.start(*words, **layout)
        return self.end(code)

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


def entries(run, key):
    """Lines of the log that have a key."""
    return [entry for entry in logged(run) if key in entry]


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


def killed_while_writing(path, content=b"half of it"):
    """What a process leaves that is killed while it writes a file whole or not at all."""
    code = (
        "import os, sys, signal; from pathlib import Path; from vfn.files import open_atomic\n"
        f"with open_atomic(Path(sys.argv[1])) as file:\n    file.write({content!r}); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    code_of_end = subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode
    assert code_of_end == -signal.SIGKILL
    (left,) = path.parent.glob(f".{path.name}.*.tmp")
    assert left.read_bytes() == content
    return left
