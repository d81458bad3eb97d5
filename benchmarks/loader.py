"""How long does a training step wait for its pictures?

Steps as `vfn train` makes them, the next batch made by a thread meanwhile; beside it what a batch
costs by itself. Pictures at the size of digits and of CIFAR-10, memory-mapped, random access.
"""

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import interleaved, write_table
from vfn.configs import Config, load, override
from vfn.data import Dataset, load_dataset
from vfn.model import build_model, shape_of
from vfn.objective import Batch
from vfn.ops import keyed_normal
from vfn.streams import Stream
from vfn.train.batches import make_batch, prefetch
from vfn.train.state import init_state, train_step

CPU = torch.device("cpu")
PICTURES = 50_000
CASES = {
    "digits preset, 1x8x8": ((8, 8), {}, 30),
    "CIFAR-10 size, 3x32x32": ((32, 32, 3), {"hid_channels": 64, "batch_size": 128}, 5),
}


def random_pictures(shape: tuple[int, ...], folder: Path) -> Config:
    """The digits preset on a data set of random pictures."""
    path = folder / f"{len(shape)}.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (PICTURES, *shape), dtype=np.uint8)
    np.savez(path, arr_0=images, arr_1=rng.integers(1, 11, PICTURES))
    return override(load("digits"), {"dataset": str(path), "data_dir": str(folder)})


def waits(config: Config, dataset: Dataset, steps: int) -> tuple[float, float]:
    """Median seconds of a step, and of its waiting for the batch."""
    torch.manual_seed(0)
    model = build_model(config, shape_of(dataset))
    state = init_state(model, config.train)
    size = config.train.batch_size

    def make(number: int) -> Batch:
        draws = torch.arange(size) + number * size
        return make_batch(dataset, override(config, {"flip": True}), draws, CPU)

    batches = prefetch(make, range(steps + 1))
    train_step(state, model, [next(batches)], config)
    whole, waited = [], []
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(batches)
        waited.append(time.perf_counter() - start)
        train_step(state, model, [batch], config)
        whole.append(time.perf_counter() - start)
    return statistics.median(whole), statistics.median(waited)


def main() -> None:
    rows = []
    for name, (shape, values, steps) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            config = override(random_pictures(shape, Path(folder)), values)
            dataset = load_dataset(config.data)
            size = config.train.batch_size
            draws = torch.arange(size)
            picture = tuple(dataset.images.shape[1:])
            whole, waited = waits(config, dataset, steps)
            alone = interleaved(
                {
                    "batch": partial(
                        make_batch, dataset, override(config, {"flip": True}), draws, CPU
                    ),
                    "noise": partial(keyed_normal, 0, Stream.NOISE, draws, picture),
                },
                steps,
            )
        parts = {"waiting": waited, "batch, if nothing overlapped": alone["batch"],
                 "of that, keyed noise": alone["noise"]}  # fmt: skip
        rows.append([name, "whole step", f"{1e3 * whole:.1f}", ""])
        rows += [
            ["", part, f"{1e3 * seconds:.2f}", f"{100 * seconds / whole:.1f} %"]
            for part, seconds in parts.items()
        ]
    title = f"Waiting for data, batch {size}, {PICTURES:,} pictures"
    write_table("loader", title, ["pictures", "part", "ms, median", "share of the step"], rows)


if __name__ == "__main__":
    main()
