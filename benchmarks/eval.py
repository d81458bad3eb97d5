"""Are the figures those of the established tools, and how fast are they beside them?

`python -m benchmarks.eval speed` and `python -m benchmarks.eval agreement`, which takes each tool
minutes. Smaller: `speed 256 500` takes a width and a number of rows, `agreement 100` pictures.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_prc import calculate_precision_recall_part

from benchmarks.common import interleaved, write_table
from tests.helpers.networks import (
    blots,
    by_torch_fidelity,
    pytorch_fid_distance,
    pytorch_fid_statistics,
    random_inception,
)
from vfn.data import Dataset
from vfn.evaluation import Sides, evaluate, open_extractor
from vfn.ops import fit_gaussian, frechet_distance, precision_recall

WIDTH, ROWS, ROUNDS, PICTURES, EXTRACTED = 2048, 10_000, 3, 1000, 32
FIGURES = ["fid", "kid", "is", "pr"]


def scipy_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy()).real
    return float((mean1 - mean2).square().sum() + (cov1 + cov2).trace() - 2 * root.trace())


def agreement(pictures: int = PICTURES) -> None:
    """The figures of every tool on the same pictures with the same weights."""
    real, fake = blots(pictures, seed=1), blots(pictures, seed=2, contrast=1.3)
    sides = Sides(Dataset(real), Dataset(fake))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "inception.pth"
        random_inception(weights)

        def ours() -> dict[str, float]:
            extractor = open_extractor("inception", weights, "cpu")
            return {f.title: f.value for f in evaluate(sides, FIGURES, extractor=extractor)}

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
            found[tool] = run()
    names = list(found["vfn"])
    table = []
    for tool, figures in found.items():
        table.append([tool, *(f"{figures[n]:.7g}" if n in figures else "" for n in names)])
        if tool != "vfn":
            away = (abs(found["vfn"][n] / figures[n] - 1) if n in figures else None for n in names)
            table.append(["", *("" if d is None else f"{d:.1e}" for d in away)])
    write_table(
        "eval_agreement",
        f"Figures of {pictures} pictures of 32 x 32 a side through Inception (D = 2048)",
        ["tool", *names],
        table,
        "The same random weights for all, from the pictures to the figures; below each tool how "
        "far vfn is from it, relative. Network and resizing are torch-fidelity's own here too: "
        "what is compared with it are the figures. pytorch-fid scales and resizes pictures "
        "otherwise than TensorFlow did, and random weights tell such pictures apart; fed the "
        "same, its network and its distance are compared alone.",
    )


def extraction() -> dict[str, float]:
    """Seconds of a batch through Inception, here and in torch-fidelity."""
    images = blots(EXTRACTED, seed=1)
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "inception.pth"
        theirs = random_inception(weights)
        ours = open_extractor("inception", weights, "cpu")

    def run() -> object:
        with torch.inference_mode():
            return theirs(images)

    return interleaved({"vfn": lambda: ours.run(images), "torch-fidelity": run}, ROUNDS)


def speed(width: int = WIDTH, rows: int = ROWS) -> None:
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
        for what, times in (
            ("Fréchet distance", distance),
            ("precision, recall", neighbours),
            (f"{EXTRACTED} pictures through Inception", extraction()),
        )
        for name, seconds in times.items()
    ]
    note = (
        f"Fréchet distances differ by {abs(ours / theirs - 1):.1e} of their value. Inception is "
        "torch-fidelity's own network here too, in channels_last."
    )
    title = f"Evaluation, {rows} rows a side, D = {width}, median of {ROUNDS}"
    write_table("eval", title, ["part", "s", "times vfn"], table, note)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    jobs: dict[str, Callable[..., None]] = {"speed": speed, "agreement": agreement}
    jobs[sys.argv[1]](*map(int, sys.argv[2:]))
