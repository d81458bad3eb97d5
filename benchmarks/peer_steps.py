"""What does a training step cost, ours beside others' networks of about the same size?

VFN_REFERENCE=path/to/v-diffusion-torch VFN_EDM=path/to/edm python -m benchmarks.peer_steps

Whole steps of `benchmarks.peers`: batch, loss, gradients, optimizer and average, each with its own
network and loss, at the batch of the preset; in turn within one run, on one thread and on two. CPU
seconds are the process's, of all its threads.
"""

import statistics
import time
from collections.abc import Iterator

import click
import torch

from benchmarks.common import write_table
from benchmarks.implementations import LACKING, SHAPES, size_of
from benchmarks.peer_training import OURS, PLAIN, configuration, peer_of, shared_loop
from benchmarks.peers import chosen_of
from vfn.configs import Config
from vfn.data import load_dataset
from vfn.memory import keep_freed_memory
from vfn.model import build_model, shape_of
from vfn.train.batches import make_batch
from vfn.train.state import init_state, train_step

FIRST = 3  # steps that are not counted


def our_loop(config: Config) -> tuple[int, Iterator[float]]:
    """The number of parameters, and steps as `vfn train` does them."""
    data, cpu, size = (
        load_dataset(config.data.dataset),
        torch.device("cpu"),
        config.train.batch_size,
    )
    model = build_model(config, shape_of(data))
    state = init_state(model, config.train)

    def steps() -> Iterator[float]:
        model.train()
        for step in range(config.train.steps):
            batch = make_batch(data, config, step * size + torch.arange(size), cpu)
            yield train_step(state, model, [batch], config).loss.item()

    return size_of(model), steps()


def their_loop(row: str, config: Config) -> tuple[int, Iterator[float]]:
    """Likewise, in the loop that they share."""
    peer, data = peer_of(row, config), load_dataset(config.data.dataset)
    return size_of(peer.net), shared_loop(peer, data, config)


def medians(loops: dict[str, Iterator[float]], rounds: int) -> dict[str, tuple[float, float]]:
    """CPU seconds and seconds of a step of each, in turn."""
    taken: dict[str, list[tuple[float, float]]] = {row: [] for row in loops}
    for count in range(FIRST + rounds):
        for row, loop in loops.items():
            cpu, wall = time.process_time(), time.perf_counter()
            next(loop)
            if count >= FIRST:
                taken[row].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        row: (statistics.median(c for c, _ in found), statistics.median(w for _, w in found))
        for row, found in taken.items()
    }


@click.command(help=__doc__)
@click.option("--data", "names", default=",".join(SHAPES), show_default=True)
@click.option("--rounds", default=20, show_default=True)
@click.option("--threads", default="1,2", show_default=True)
def main(names: str, rounds: int, threads: str) -> None:
    keep_freed_memory()  # as `vfn train` does
    lines = []
    for data in names.split(","):
        configs = {row: configuration(row, data, steps=10**6) for row in chosen_of("", LACKING)}
        for count in map(int, threads.split(",")):
            torch.set_num_threads(count)
            made = {
                row: our_loop(config) if row in OURS else their_loop(row, config)
                for row, config in configs.items()
            }
            found = medians({row: loop for row, (_, loop) in made.items()}, rounds)
            base = found[PLAIN]
            for row, (cpu, wall) in found.items():
                lines.append([
                    data, str(count), row, f"{made[row][0] / 1e6:.2f} M", f"{1e3 * cpu:.0f}",
                    f"{1e3 * wall:.0f}", f"{base[0] / cpu:.2f}", f"{base[1] / wall:.2f}",
                ])  # fmt: skip
    torch.set_num_threads(max(map(int, threads.split(","))))
    write_table(
        "peer_steps",
        f"A training step beside other implementations, median of {rounds}",
        ["data", "threads", "implementation", "parameters", "CPU ms", "ms", "CPU: ours is x of it",
         "time: ours is x of it"],
        lines,
        "Batches are those of the presets.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
