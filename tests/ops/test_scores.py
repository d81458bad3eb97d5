"""Kernel distance and Inception Score against plain sums and known laws."""

import math

import numpy as np
import pytest
import torch

from vfn.ops import inception_score, kernel_distance


def points(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=generator)


def pairwise_mmd(x, y):
    """Sums over pairs, one by one."""

    def k(a, b):
        return (float(np.dot(a, b)) / len(a) + 1) ** 3

    x, y = x.numpy(), y.numpy()
    xx = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    return np.mean(xx) + np.mean(yy) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize("tile", [1, 5, 2048])
def test_kernel_distance_is_the_mean_over_pairs(tile):
    x, y = points(12, 4), points(9, 4, seed=1) + 0.5
    assert kernel_distance(x, y, tile).value == pytest.approx(pairwise_mmd(x, y), rel=1e-12)


def test_kernel_distance_has_the_scatter_that_it_states():
    """Over 200 pairs of samples the values scatter as the mean of the stated errors says."""
    found = [
        kernel_distance(points(60, 3, 2 * i), points(50, 3, 2 * i + 1) + 1) for i in range(200)
    ]
    values, errors = (torch.tensor(column) for column in zip(*found, strict=True))
    assert values.std().item() == pytest.approx(errors.square().mean().sqrt().item(), rel=0.2)


def test_kernel_distance_is_unbiased():
    values = [
        kernel_distance(points(20, 3, 2 * i), points(20, 3, 2 * i + 1)).value for i in range(300)
    ]
    mean = np.mean(values)
    assert abs(mean) < 4 * np.std(values) / math.sqrt(300)
    assert min(values) < 0 < max(values)


def test_inception_score_by_its_definition():
    logits = points(23, 6) * 3
    p = logits.softmax(1).numpy()
    scores = []
    for i in range(4):
        part = p[i * 23 // 4 : (i + 1) * 23 // 4]
        kl = (part * (np.log(part) - np.log(part.mean(0)))).sum(1)
        scores.append(np.exp(kl.mean()))
    got = inception_score(logits.float(), splits=4)
    assert got.mean == pytest.approx(np.mean(scores), rel=1e-6)  # of rounding logits to float32
    assert got.std == pytest.approx(np.std(scores), rel=1e-4)


def test_inception_score_of_a_class_that_never_occurs():
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [0.0, -torch.inf, 0.0]])
    assert inception_score(logits, splits=1).mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_distance(points(1, 2), points(5, 2)), "real of shape .* N >= 2, got"),
        (lambda: kernel_distance(points(5, 2), points(5, 3)), "one width, got 2 and 3 columns"),
        (lambda: inception_score(points(5, 2), 6), "logits of shape .* N >= 6, got"),
        (lambda: inception_score(points(5, 2), 0), "expected splits >= 1, got 0"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
