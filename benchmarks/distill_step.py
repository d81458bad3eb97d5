"""What does an update of distillation cost beside a plain training step of the same batch?

By count of forward passes, a backward pass taken as two: plain 3, distilled 5 (1.67), distilled
with guidance 7 (2.33). All parts are timed in turn within one run, on one network, one batch and
one optimizer.

python -m benchmarks.distill_step [ROUNDS]
"""

import sys

import torch

from benchmarks.common import interleaved, write_table
from vfn.configs import load
from vfn.data import load_dataset
from vfn.model import build_model, shape_of
from vfn.objective import Objective, batch_loss
from vfn.train.batches import make_batch
from vfn.train.distillation import distill_objective
from vfn.train.state import init_state, train_step

ROUNDS, STEPS, GUIDANCE = 30, 8, 0.5
BOUNDS = {"plain": 1.0, "distilled": 1.8, "distilled, guided": 2.5}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    torch.manual_seed(0)
    config, dataset, cpu = load("digits"), load_dataset("digits"), torch.device("cpu")
    shape = shape_of(dataset)
    teacher = build_model(config, shape).eval().requires_grad_(False)
    model = build_model(config, shape)
    model.load_state_dict(teacher.state_dict())
    state = init_state(model, config.train)
    size = config.train.batch_size
    batch = make_batch(dataset, config, torch.arange(size), cpu)
    batch = batch._replace(t=torch.ceil(batch.t * STEPS) / STEPS)  # the student's own times

    def update(objective: Objective):
        return lambda: train_step(state, model, [batch], config, objective)

    parts = {
        "plain": update(batch_loss),
        "distilled": update(distill_objective(teacher, 0.0, STEPS)),
        "distilled, guided": update(distill_objective(teacher, GUIDANCE, STEPS)),
    }
    seconds = interleaved(parts, rounds)
    rows = [
        [name, f"{1e3 * s:.1f}", f"{s / seconds['plain']:.2f}", f"{BOUNDS[name]:g}"]
        for name, s in seconds.items()
    ]
    title = f"Updates of distillation, preset digits, batch {size}, median of {rounds}"
    write_table("distill_step", title, ["update", "ms", "x plain", "bound"], rows,
                "By count 1, 1.67 and 2.33.")  # fmt: skip


if __name__ == "__main__":
    main()
