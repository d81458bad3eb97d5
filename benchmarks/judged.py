"""What the benchmarks of quality share: the figures of digits, as `vfn eval` gives them.

Pictures are judged against those that the network was trained on.
"""

from pathlib import Path
from typing import Any

import torch

import vfn
from vfn import evaluation
from vfn.data import load_dataset

NUM, REAL = 1000, "dataset:digits:train"
DISTANCE, AGREEMENT = "frechet_distance", "label_agreement"


def judge(run: Path, metrics: str, seed: int = 0, **asked: Any) -> dict[str, float]:
    """Metrics of `NUM` pictures by their keys; ``asked`` are settings of sampling."""
    draws = vfn.load(run).draws(NUM, seed=seed, **asked)
    result = evaluation.judge(REAL, draws, metrics, seed=seed)
    return {figure.key: figure.value for figure in result.figures}


def perfect_distance() -> float:
    """That of as many draws of the Gaussian fitted to the training pictures."""
    some = load_dataset("digits", "train").rows(torch.arange(NUM))
    result = evaluation.judge(REAL, some, "fd", device="cpu")
    (figure,) = result.figures
    assert figure.reference is not None
    return figure.reference
