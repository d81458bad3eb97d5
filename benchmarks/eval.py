"""How fast are the Fréchet distance and precision and recall, beside the established tools?

`python benchmarks/eval.py 256 500` takes a smaller width and fewer rows.
"""

import sys
import warnings

import scipy.linalg
import torch
from common import interleaved, write_table
from torch_fidelity.metric_prc import calculate_precision_recall_part

from vfn.ops import fit_gaussian, frechet_distance, precision_recall

WIDTH, ROWS, ROUNDS = 2048, 10_000, 3


def scipy_distance(mean1, cov1, mean2, cov2) -> float:
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
    return float((mean1 - mean2).square().sum() + (cov1 + cov2).trace() - 2 * root.trace())


def main(width: int = WIDTH, rows: int = ROWS) -> None:
    torch.manual_seed(0)
    real = torch.randn(rows, width) @ torch.randn(width, width) / width**0.5
    fake = 0.9 * torch.randn(rows, width) @ torch.randn(width, width) / width**0.5 + 0.1
    sides = (*fit_gaussian(real), *fit_gaussian(fake))
    ours, theirs = frechet_distance(*sides), scipy_distance(*sides)
    distance = interleaved(
        {"vfn": lambda: frechet_distance(*sides), "scipy": lambda: scipy_distance(*sides)}, ROUNDS
    )
    neighbours = interleaved(
        {
            "vfn": lambda: precision_recall(real, fake),
            "torch-fidelity": lambda: calculate_precision_recall_part(fake, real),
        },
        ROUNDS,
    )
    table = [
        [f"{what}: {name}", f"{seconds:.3f}", f"{seconds / times['vfn']:.2f}"]
        for what, times in (("Fréchet distance", distance), ("precision, recall", neighbours))
        for name, seconds in times.items()
    ]
    note = f"Fréchet distances differ by {abs(ours / theirs - 1):.1e} of their value."
    title = f"Evaluation, {rows} rows a side, D = {width}, median of {ROUNDS}"
    write_table("eval", title, ["part", "s", "times vfn"], table, note)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    main(*map(int, sys.argv[1:]))
