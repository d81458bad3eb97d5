"""Are the figures those of the established tools, and how fast are they beside them?

`python benchmarks/eval.py 256 500 100` takes a smaller width and fewer rows for the speed, and
fewer pictures through Inception for the agreement, which take each tool minutes at the full size.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import scipy.linalg
import torch
from common import interleaved, write_table
from torch_fidelity.metric_prc import calculate_precision_recall_part

from vfn.data import Dataset
from vfn.evaluate import Sides, evaluate
from vfn.extractors import open_extractor
from vfn.ops import fit_gaussian, frechet_distance, precision_recall

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from networks import (
    blots,
    by_torch_fidelity,
    pytorch_fid_distance,
    pytorch_fid_statistics,
    random_inception,
)

WIDTH, ROWS, ROUNDS, PICTURES = 2048, 10_000, 3, 2000
FIGURES = ["fid", "kid", "is", "pr"]


def scipy_distance(mean1, cov1, mean2, cov2) -> float:
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
    return float((mean1 - mean2).square().sum() + (cov1 + cov2).trace() - 2 * root.trace())


def agreement(pictures: int) -> str:
    """The figures of every tool on the same pictures with the same weights, as a section."""
    real, fake = blots(pictures, seed=1), blots(pictures, seed=2, contrast=1.3)
    sides = Sides(*(Dataset(images, None, ()) for images in (real, fake)), None)
    found: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "inception.pth"
        random_inception(weights)

        def ours() -> dict[str, float]:
            extractor = open_extractor("inception", weights, torch.device("cpu"))
            return {m.name: m.value for m in evaluate(sides, FIGURES, extractor=extractor)}

        def pytorch_fid(same_input: bool) -> dict[str, float]:
            both = [
                pytorch_fid_statistics(images, weights, folder / f"{kind} {same_input}", same_input)
                for kind, images in (("real", real), ("fake", fake))
            ]
            return {"FID": pytorch_fid_distance(*both)}

        for tool, run in {
            "vfn": ours,
            "torch-fidelity": lambda: by_torch_fidelity(real, fake, weights),
            "pytorch-fid, fed the same": lambda: pytorch_fid(True),
            "pytorch-fid": lambda: pytorch_fid(False),
        }.items():
            start = time.perf_counter()
            found[tool] = run()
            seconds[tool] = time.perf_counter() - start
    names = list(found["vfn"])
    lines = [
        "## Agreement",
        "",
        f"{pictures} pictures of 32 x 32 a side through Inception (D = 2048) with the same random "
        "weights, from the pictures to the figures; below each tool how far vfn is from it, "
        "relative. vfn also computes the figures of real pictures in that time. pytorch-fid scales "
        "and resizes pictures otherwise than TensorFlow did, and random weights tell such pictures "
        "apart; fed the same, its network and its distance are compared alone.",
        "",
        f"| tool | {' | '.join(names)} | s |",
        f"| --- |{' --- |' * (len(names) + 1)}",
    ]
    for tool, figures in found.items():
        values = [f"{figures[n]:.7g}" if n in figures else "" for n in names]
        lines.append(f"| {tool} | {' | '.join(values)} | {seconds[tool]:.0f} |")
        if tool != "vfn":
            away = [
                f"{abs(found['vfn'][n] / figures[n] - 1):.1e}" if n in figures else ""
                for n in names
            ]
            lines.append(f"| | {' | '.join(away)} | |")
    return "\n".join(lines)


def main(width: int = WIDTH, rows: int = ROWS, pictures: int = PICTURES) -> None:
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
    note = f"{note}\n\n{agreement(pictures)}"
    write_table("eval", title, ["part", "s", "times vfn"], table, note)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    main(*map(int, sys.argv[1:]))
