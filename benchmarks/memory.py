"""Does a training step take the memory that is estimated before it?

Each case is a process of its own that trains some steps on noise; what it takes is the growth of
its resident memory from before the network is built to the most that the system has seen.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch._dynamo  # as the optimizer does, so that it is there before

from benchmarks.common import write_table
from vfn.configs import load, override
from vfn.data import as_dataset
from vfn.footprint import Footprint
from vfn.model import DataShape
from vfn.train import train

STEPS = 4  # the second one has the optimizer's moments too
# Preset, other settings, channels, height, width, pictures at once.
CASES = [
    ("digits", {}, (3, 64, 64), 32),
    ("digits", {}, (3, 96, 128), 12),
    ("digits", {"checkpoint_activations": True}, (3, 64, 64), 32),
    ("mnist", {}, (1, 28, 28), 32),
    ("small", {}, (3, 32, 32), 64),
    ("64", {}, (3, 64, 64), 4),
    ("128", {}, (3, 128, 128), 1),
    ("cifar10_uncond", {}, (3, 32, 32), 4),
]
QUIET = {"steps": STEPS, "preview_every": 0, "accumulate": 1, "guidance": 0.0, "log_every": STEPS,
         "sample_batch": 1}  # fmt: skip


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * resource.getpagesize()


def measure(number: int) -> tuple[int, int]:
    """Resident bytes before, and the most after some steps."""
    name, settings, size, batch = CASES[number]
    config = override(load(name), {**QUIET, **settings, "batch_size": batch})
    dataset = as_dataset(torch.randint(0, 256, (2 * batch, *size), dtype=torch.uint8))
    before = resident()
    with tempfile.TemporaryDirectory() as out:
        train(config, out, dataset=dataset, device="cpu")
    return before, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    rows, numbers = [], map(int, sys.argv[1:])
    for number in numbers if len(sys.argv) > 1 else range(len(CASES)):
        name, settings, size, batch = CASES[number]
        config = override(load(name), {**QUIET, **settings})
        need = Footprint(config, DataShape(*size)).step(batch)
        command = [sys.executable, "-m", "benchmarks.memory", "--measure", str(number)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        before, most = json.loads(done.stdout)
        assert need is not None  # torch knows the operations of these
        what = f"{name}{' ' if settings else ''}{', '.join(settings)}"
        cells = [f"{value / 1e6:,.0f}" for value in (need, most - before, before + need, most)]
        ratios = [need / (most - before), (before + need) / most]
        rows.append([what, " x ".join(map(str, size)), str(batch), *cells,
                     *(f"{ratio:.2f}" for ratio in ratios)])  # fmt: skip
        print(rows[-1], file=sys.stderr)
    head = ["preset", "pictures", "at once", "estimated", "measured", "whole process, estimated",
            "measured", "ratio", "ratio, whole process"]  # fmt: skip
    title = f"Memory of training on a CPU in MB, estimated before and measured over {STEPS} steps"
    write_table("memory", title, head, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main()
