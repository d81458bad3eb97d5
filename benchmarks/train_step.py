"""Where does a training step of the digits preset spend its time?

Each part is timed in turn within one run; shares are of the whole step.
"""

import torch

from benchmarks.common import interleaved, write_table
from vfn.configs import load
from vfn.data import load_dataset
from vfn.model import build_model, shape_of
from vfn.objective import Batch, batch_loss
from vfn.train.batches import make_batch
from vfn.train.state import init_state, train_step

ROUNDS = 30


def main() -> None:
    torch.manual_seed(0)
    config, dataset, cpu = load("digits"), load_dataset("digits"), torch.device("cpu")
    model = build_model(config, shape_of(dataset))
    state = init_state(model, config.train)
    size = config.train.batch_size
    draws = torch.arange(size)

    def draw() -> Batch:
        return make_batch(dataset, config, draws, cpu)

    fixed = draw()

    def forward() -> None:
        with torch.no_grad():
            batch_loss(model, fixed, config.diffusion)

    def forward_backward() -> None:
        batch_loss(model, fixed, config.diffusion).mean().backward()
        state.optimizer.zero_grad()

    parts = {
        "whole step": lambda: train_step(state, model, [draw()], config),
        "batch: pictures, times, keyed noise, labels": draw,
        "forward": forward,
        "forward and backward": forward_backward,
    }
    seconds = interleaved(parts, ROUNDS)
    whole = seconds["whole step"]
    rows = [[n, f"{1e3 * s:.1f}", f"{100 * s / whole:.1f} %"] for n, s in seconds.items()]
    rows.append(["images/s of the whole step", f"{size / whole:.0f}", ""])
    title = f"Training step, preset digits, batch {size}, median of {ROUNDS}"
    write_table("train_step", title, ["part", "ms", "share"], rows)


if __name__ == "__main__":
    main()
