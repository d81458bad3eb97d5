"""What a classifier makes of the pictures."""

import numpy as np
import torch
from torch import Tensor

from vfn.evaluation.sides import REAL, Figure, Judged
from vfn.ops import inception_score

SPLITS = 10
# torch-fidelity shuffles with this seed before it splits; with the same order scores are the same.
SHUFFLE_SEED = 2020


def inception_figures(judged: Judged) -> list[Figure]:
    """Inception Score, with its standard deviation over the splits."""
    fake, real = judged.fake, judged.real
    assert fake.logits is not None  # a metric that needs them is refused otherwise
    mean, std = _score(fake.logits, _shuffled(fake.logits))
    best = None if real.logits is None else _score(real.logits, _shuffled(real.logits))[0]
    logits = fake.logits
    interval = judged.interval(mean, len(logits), lambda rows: _score(logits, rows)[0])
    note = f"mean over {min(SPLITS, len(logits))} splits; ± is their standard deviation"
    return [
        judged.figure(
            "inception_score", mean, best, note, baseline=REAL, interval=interval, error=std
        )
    ]  # fmt: skip


def _score(logits: Tensor, rows: Tensor) -> tuple[float, float]:
    return inception_score(logits[rows], min(SPLITS, len(rows)))


def _shuffled(logits: Tensor) -> Tensor:
    return torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(len(logits)))
