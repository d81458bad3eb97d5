"""What does an update of a few-step method cost beside a plain training step of the same batch?

By count of forward passes, a backward pass taken as two and forward differentiation as one and a
half more: plain 3; progressive 5, guided 7; ect 4, guided 6; consistency 5.5 and its teacher, which
is 1 or 2; moment matching 6 and its teacher; mean flow 5.5. All are timed in turn within one run,
each with one network, one batch and one optimizer: CPU seconds of one thread.

python -m benchmarks.distill_step [ROUNDS]
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.common import interleaved, write_table
from vfn.configs import Config, load, override
from vfn.data import load_dataset
from vfn.model import build_model, shape_of
from vfn.objective import batch_loss, path_loss
from vfn.train.batches import make_batch
from vfn.train.companions import init_auxiliary
from vfn.train.distillation import distill_objective, moment_objective, path_objective
from vfn.train.state import init_state, train_step

ROUNDS, SIZE, STEPS, GUIDANCE = 30, 64, 8, 0.5
BOUNDS = {"progressive": "1.8", "progressive, guided": "2.5", "consistency": "2.5", "ect": "1.5"}


def update(
    config: Config,
    objective: Callable[..., Any],
    discrete: bool = False,
    auxiliary: bool = False,
) -> Callable[[], object]:
    """An update that can be repeated."""
    dataset, cpu = load_dataset("digits"), torch.device("cpu")
    model: nn.Module = build_model(config, shape_of(dataset))
    state = init_state(model, config.train)
    draws, second = torch.arange(SIZE), config.model.second_time
    batch = make_batch(dataset, config, draws, cpu, second_time=second, takes_step=auxiliary)
    batch = batch._replace(update=10**6)  # after any warm-up
    if discrete:  # the times of a progressive student
        batch = batch._replace(t=torch.ceil(batch.t * STEPS) / STEPS)
    beside = None
    if auxiliary:
        state.auxiliary = init_auxiliary(model, config.train)
        beside = state.auxiliary.module
        objective = partial(objective, auxiliary=beside)
    return lambda: train_step(state, model, [batch], config, objective, auxiliary=beside)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = override(load("digits"), {"batch_size": SIZE})
    teacher = build_model(plain, shape_of(load_dataset("digits"))).eval().requires_grad_(False)

    def learning(word: str) -> Config:
        chosen = {"objective": word, "time_density": "lognormal",
                  "time_options": {"mean": -1.0, "std": 1.4}}  # fmt: skip
        return override(plain, chosen)

    parts = {"plain": update(plain, batch_loss)}
    for told, w in (("", 0.0), (", guided", GUIDANCE)):
        progressive, moments = distill_objective(teacher, w, STEPS), moment_objective(teacher, w, 2)
        parts[f"progressive{told}"] = update(plain, progressive, discrete=True)
        for word in ("consistency", "ect"):
            parts[f"{word}{told}"] = update(learning(word), path_objective(teacher, w))
        parts[f"moment matching{told}"] = update(plain, moments, auxiliary=True)
    flow = override(load("digits_meanflow"), {"batch_size": SIZE})
    parts["mean flow"] = update(flow, path_loss)
    seconds = interleaved(parts, rounds, time.process_time)
    rows = [
        [name, f"{1e3 * s:.1f}", f"{s / seconds['plain']:.2f}", BOUNDS.get(name, "")]
        for name, s in seconds.items()
    ]
    title = f"Updates of few-step methods, preset digits, batch {SIZE}, median of {rounds}"
    write_table("distill_step", title, ["update", "CPU ms", "x plain", "bound"], rows,
                "Of one thread. Bounds are what was aimed at.")  # fmt: skip


if __name__ == "__main__":
    main()
