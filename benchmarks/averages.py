"""How close do averages made of snapshots come to those tracked, and how good is which length?

vfn train --config digits --steps 1600 --out runs/averaged --ema-snapshot-every 25 \
    --ema-profiles 0.02,0.03,0.05,0.10,0.15,0.20,0.25
python -m benchmarks.averages runs/averaged
"""

import sys
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from benchmarks.common import markdown, write_table
from benchmarks.judged import DISTANCE, NUM, judge
from vfn.ops import combine, posthoc_ema_fit, posthoc_ema_weights, sigma_rel_to_gamma
from vfn.runs import RunFiles, find_checkpoint, load_snapshot
from vfn.train import posthoc_ema

PAIR, TRUTH = (0.05, 0.10), (0.02, 0.03, 0.15, 0.20, 0.25)
EVERY = (25, 50, 100, 200)
SEEDS = (0, 1, 2)


def flat(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for _, value in sorted(params.items())])


def errors(run: RunFiles, every: int) -> list[list[str]]:
    """For each length that was tracked, the error of what the pair's snapshots make of it."""
    steps = sorted(run.snapshot_steps())
    last, params = steps[-1], flat(find_checkpoint(run.path).params)
    used = [step for step in steps if step % every == 0]
    stored = {step: load_snapshot(run.snapshot(step)).profiles for step in used}
    pairs = [(step, length) for step in used for length in PAIR]
    ts, gammas = [t for t, _ in pairs], [sigma_rel_to_gamma(length) for _, length in pairs]
    averages = [stored[step][length] for step, length in pairs]
    half = [{name: v.half().float() for name, v in average.items()} for average in averages]
    rows = []
    for length in TRUTH:
        gamma, true = sigma_rel_to_gamma(length), flat(stored[last][length])
        weights = posthoc_ema_weights(ts, gammas, last, gamma)
        off, rounded = (flat(combine(each, weights)) - true for each in (averages, half))
        rows.append(
            [
                str(len(used)),
                f"{length:g}",
                f"{posthoc_ema_fit(ts, gammas, last, gamma):.3f}",
                f"{off.norm() / true.norm():.1e}",
                f"{off.norm() / (true - params).norm():.3f}",
                f"{rounded.norm() / true.norm():.1e}",
            ]
        )
    return rows


def main() -> None:
    run = Path(sys.argv[1])
    made = posthoc_ema(run, [0.03, 0.05, 0.07, 0.10, 0.15, 0.20, 0.25]).files
    sweep = []
    for length, file in {**made, 0.0: run}.items():
        found = [
            judge(file, "fd,pr", seed, sampler="abm2", steps=16, guidance=0.0) for seed in SEEDS
        ]
        values = [each[DISTANCE] for each in found]
        sweep.append(
            [
                f"{length:g}" if length else "the run's own, decay 0.998",
                f"{mean(values):.4f} ± {stdev(values):.4f}",
                f"{mean(each['precision'] for each in found):.4f}",
                f"{mean(each['recall'] for each in found):.4f}",
            ]
        )
    head = ["sigma_rel", "Fréchet distance", "precision", "recall"]
    write_table(
        "averages",
        "Averages of other lengths: error of the reconstruction, and quality by length",
        [
            "snapshots",
            "sigma_rel",
            "error of the profile",
            "of the parameters",
            "of what averaging moves",
            "of the parameters, float16",
        ],
        [row for every in EVERY for row in errors(RunFiles(run), every)],
        "Digits, 1600 steps, whose learning rate falls to zero. The averages of 0.05 "
        "and 0.10 were kept and others tracked beside them. Errors are norms over all parameters, "
        "relative to the norm of the true average, and of its difference from the last step's "
        "parameters.\n\n"
        f"## Digits by length, {NUM} pictures, {len(SEEDS)} seeds, abm2 in 16 steps\n\n"
        "Made of all snapshots and all averages that were tracked.\n\n"
        f"{markdown(head, sweep)}",
    )


if __name__ == "__main__":
    main()
