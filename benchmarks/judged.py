"""What the benchmarks of quality share: the figures of digits, as `vfn eval` gives them."""

from pathlib import Path
from typing import Any

from vfn.evaluation.judge import evaluate_pictures

NUM = 1000
DISTANCE, AGREEMENT = "Fréchet distance (pixels)", "Label agreement"


def judge(run: Path, metrics: str, seed: int = 0, **asked: Any) -> dict[str, float]:
    """Metrics of `NUM` pictures by name; ``asked`` are settings of sampling."""
    result = evaluate_pictures(
        real="dataset:digits:train",
        fake=f"run:{run}",
        held_out=None,
        metrics=metrics,
        num=NUM,
        seed=seed,
        device="auto",
        data_dir=None,
        overrides=asked,
        say=print,
    )
    return {metric.name: metric.value for metric in result.metrics}
