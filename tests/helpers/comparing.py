"""What tests ask of runs: their losses, whether two are the same, whether one has got somewhere."""

import json
import subprocess
import time

import torch

from vfn.runs.checkpoint import find_checkpoint


def losses(run):
    entries = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if "loss" in entry]


def same(a, b):
    """Bit-identical parameters, EMA and moments."""
    a, b = find_checkpoint(a), find_checkpoint(b)
    groups = [
        (a.params, b.params),
        (a.ema, b.ema),
        *((a.moments[k], b.moments[k]) for k in a.moments),
    ]
    return a.step == b.step and all(torch.equal(x[name], y[name]) for x, y in groups for name in x)


def wait_for_step(run, step, process):
    """Until the log has passed a step."""
    for _ in range(600):
        if (run / "log.jsonl").is_file() and len(
            (run / "log.jsonl").read_text().splitlines()
        ) > step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the run did not get anywhere")


def finish(arguments):
    """Run a command to its end; what it printed is the message of a failure."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
