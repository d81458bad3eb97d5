"""What do other rules of guidance and weaker networks give on digits, and what do they cost?

vfn train --config digits --keep-at 200,400,600,900 --out runs/kept
python -m benchmarks.guidance runs/kept
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.common import interleaved, markdown, write_table
from benchmarks.judged import DISTANCE, NUM, judge
from vfn.configs import load
from vfn.data import Labels
from vfn.model import DataShape, build_model

SEEDS, HALF = (0, 1, 2), 600  # half of the preset's steps
SAMPLER: dict[str, Any] = {"sampler": "abm2", "steps": 16}
APG = {"guidance_rule": "apg"}
FIGURES = (DISTANCE, "precision", "recall")
AUTO = {"guidance": 0.0, "guide_with": HALF}
CFG = {"guidance": 0.5}
ASKED: dict[str, dict[str, Any]] = {
    "none": {"guidance": 0.0},
    **{f"away from step {HALF}, {w:g}": {**AUTO, "guide_weight": w} for w in (0.25, 0.5, 1.0, 2.0)},
    **{
        f"away from step {step}, 0.5": {**AUTO, "guide_with": step, "guide_weight": 0.5}
        for step in (200, 400, 900)
    },
    f"away from step {HALF}, 1, in logsnr -3..3": {
        **AUTO, "guide_weight": 1.0, "guidance_interval": (-3.0, 3.0)
    },
    "classifier-free, 0.5": CFG,
    "classifier-free, 0.5, in logsnr -3..3": {**CFG, "guidance_interval": (-3.0, 3.0)},
    "classifier-free, 0.5, zero_star": {**CFG, "guidance_rule": "zero_star"},
    "classifier-free, 0.5, zero_star and zero_init 1": {
        **CFG, "guidance_rule": "zero_star", "zero_init": 1
    },
    "classifier-free, 0.5, apg": {**CFG, **APG},
    "classifier-free, 0.5, apg, momentum -0.5": {
        **CFG, **APG, "guidance_options": {"momentum": -0.5}
    },
    "classifier-free, 0.5, apg, norm 1": {**CFG, **APG, "guidance_options": {"norm": 1.0}},
    f"classifier-free, 0.25, away from step {HALF}, 0.25": {
        **AUTO, "guidance": 0.25, "guide_weight": 0.25
    },
    "classifier-free, 3": {"guidance": 3.0},
    "classifier-free, 3, zero_star": {"guidance": 3.0, "guidance_rule": "zero_star"},
    "classifier-free, 3, apg": {"guidance": 3.0, **APG},
    "classifier-free, 3, apg, momentum -0.5": {
        "guidance": 3.0, **APG, "guidance_options": {"momentum": -0.5}
    },
}  # fmt: skip


def quality(run: Path, asked: dict[str, Any]) -> list[str]:
    """Figures over the seeds: means, and the deviation of the distance."""
    found = [judge(run, "fd,pr", seed, **SAMPLER, **asked) for seed in SEEDS]
    figures = {name: [each[name] for each in found] for name in FIGURES}
    cells = [f"{mean(values):.4f}" for values in figures.values()]
    return [f"{cells[0]} ± {stdev(figures[DISTANCE]):.4f}", *cells[1:]]


def cost(name: str, shape: DataShape, batch: int) -> list[str]:
    """Milliseconds of two networks of one kind: one after the other, and as one batched call."""
    config = load(name)
    nets = [build_model(config, shape).eval().requires_grad_(False) for _ in range(2)]
    z = torch.randn(batch, *shape.size)
    t, y = torch.full((batch,), 0.5, dtype=torch.float64), torch.ones(batch, dtype=torch.long)
    stacked, _ = stack_module_state(nets)
    both = vmap(
        lambda params, *inputs: functional_call(nets[0], params, inputs), (0, None, None, None)
    )
    parts: dict[str, Callable[[], object]] = {
        "one": partial(nets[0], z, t, y),
        "two": lambda: [net(z, t, y) for net in nets],
        "batched": partial(both, stacked, z, t, y),
    }
    with torch.inference_mode():
        seconds = interleaved(parts, rounds=15)
    return [f"{name}, {batch} pictures", *(f"{1e3 * seconds[part]:.0f}" for part in parts)]


def main() -> None:
    run = Path(sys.argv[1])
    classes = Labels(tuple("0123456789"))
    costs = [
        cost("digits", DataShape(1, 8, 8, classes), 64),
        cost("mnist", DataShape(1, 28, 28, classes), 8),
    ]
    head = ["two networks of one kind, ms", "one of them", "two calls", "vmap of stacked ones"]
    write_table(
        "guidance",
        "Digits by guidance: Fréchet distance of pixels, precision, recall",
        ["guidance", "Fréchet distance", "precision", "recall"],
        [[name, *quality(run, asked)] for name, asked in ASKED.items()],
        f"{NUM} pictures, means over {len(SEEDS)} seeds of the noise ± deviation, abm2, 16 steps, "
        "the digits preset after 1,200 steps; w is that of `cond + w (cond - other)`. Precision "
        "and recall with k = 3.\n\n## One batch or two calls\n\n"
        f"{markdown(head, costs)}",
    )


if __name__ == "__main__":
    main()
