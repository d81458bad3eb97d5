"""What the benchmarks of quality share: the figures of digits, as `vfn eval` gives them."""

from pathlib import Path
from typing import Any

import vfn
from vfn import evaluation

NUM = 1000
DISTANCE, AGREEMENT = "frechet_distance", "label_agreement"


def judge(run: Path, metrics: str, seed: int = 0, **asked: Any) -> dict[str, float]:
    """Metrics of `NUM` pictures by their keys; ``asked`` are settings of sampling."""
    draws = vfn.load(run).draws(NUM, seed=seed, **asked)
    result = evaluation.judge("dataset:digits:train", draws, metrics, seed=seed)
    assert result is not None  # there is one process
    return {figure.key: figure.value for figure in result.figures}
