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

TRAIN = ["-m", "vfn", "train", "--config", "digits", "--device", "cpu", *SMALL,
         "--dataset", DIGITS_FILE]  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
STEPS = 50  # of an undisturbed run
PATIENCE = 120  # seconds until a test gives up; nothing is measured with it
# Starting Python costs seconds, so processes are forked from one that has imported everything. It
# tells the process numbers of each command, and how they ended. Those of one command are told of
# each other as torchrun would tell them.
FORKS = """
import json, os, socket, sys
import sklearn.datasets, torch._dynamo, vfn.train.distillation.stages
from vfn.cli import main
for line in sys.stdin:
    arguments, processes, err = json.loads(line)
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    children = []
    for rank in range(processes):
        children.append(os.fork())
        if not children[-1]:
            file = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if processes > 1:
                torch.set_num_threads(1)
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank),
                                  WORLD_SIZE=str(processes), MASTER_ADDR="localhost",
                                  MASTER_PORT=port)
            sys.argv = ["vfn", *arguments]
            main()
    print(*children, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


def start_of(processes, out, *options, launcher=()):
    """The command line of a training run; of several processes through torchrun."""
    several = [*TORCHRUN, str(processes), *launcher] if processes > 1 else []
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
    """Commands, one after the other, in processes forked from one that has imported everything."""

    def __init__(self, folder):
        self._err = folder / "err"
        self._server = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *arguments, processes=1):
        """Begin ``vfn`` with some arguments, in one process or in several that work together."""
        self._err.unlink(missing_ok=True)
        line = json.dumps([[*map(str, arguments)], processes, str(self._err)])
        print(line, file=self._server.stdin, flush=True)
        self.pid, *_ = map(int, self._server.stdout.readline().split())

    def train(self, out, *options, processes=1):
        """Begin a training run."""
        self.start(*TRAIN[2:], "--out", out, *options, processes=processes)

    def alive(self):
        return Path(f"/proc/{self.pid}").exists()

    def end(self, code=0, signum=None):
        """Wait for the command, whose first process is sent a signal first; its standard error."""
        if signum is not None:
            os.kill(self.pid, signum)
        codes = set(map(int, self._server.stdout.readline().split()))
        err = self._err.read_text() if self._err.exists() else ""
        assert codes == {code}, err
        return err

    def run(self, *arguments, processes=1, code=0):
        """A whole command; its standard error."""
        self.start(*arguments, processes=processes)
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
