"""Standard errors and bootstrap intervals against scipy and known laws."""

import math

import pytest
import torch
from scipy import stats

from vfn import ops
from vfn.ops import bootstrap_indices, bootstrap_interval


def points(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=generator)


def test_mean_and_error_over_samples():
    values = torch.randn(2, 50, dtype=torch.float64)
    mean, error = ops.mean_and_error(values)
    assert mean.item() == pytest.approx(values.mean().item())
    assert error.item() == pytest.approx(stats.sem(values.mean(0).numpy()))
    torch.testing.assert_close(ops.mean_and_error(values[0]).mean, values[0].mean())
    assert ops.mean_and_error(values[:, :1]).error.isnan()


def test_bootstrap_indices_are_uniform_and_keyed():
    drawn = torch.stack([bootstrap_indices(0, draw, 10) for draw in range(2000)])
    counts = drawn.flatten().bincount(minlength=10).double()
    assert counts.shape == (10,)
    assert ((counts - 2000).abs() < 5 * math.sqrt(2000)).all()
    assert torch.equal(drawn[7], bootstrap_indices(0, 7, 10))
    others = drawn[8], bootstrap_indices(1, 7, 10), bootstrap_indices(0, 7, 10, stream=1)
    assert not any(torch.equal(drawn[7], other) for other in others)


@pytest.mark.slow
def test_interval_covers_the_mean_of_a_sample():
    """About 90 of 100 intervals at 90 % hold the true mean, 0."""
    hits = 0
    for i in range(100):
        sample = points(80, 1, i)[:, 0]
        means = torch.stack([sample[bootstrap_indices(i, d, 80)].mean() for d in range(60)])
        low, high = bootstrap_interval(sample.mean().item(), means, 0.9)
        hits += low <= 0 <= high
    assert 80 <= hits <= 98


def test_interval_of_a_figure_with_a_bias_is_about_what_others_would_have():
    """The squared norm of the mean of n draws of N(0, I) in d dimensions: d/n on average, not 0."""
    n, d, hits = 80, 40, 0
    for i in range(60):
        sample = points(n, d, i)
        drawn = torch.stack([sample[bootstrap_indices(i, k, n)].mean(0) for k in range(60)])
        value = sample.mean(0).square().sum().item()
        low, high = bootstrap_interval(value, drawn.square().sum(1), 0.9)
        assert low < value < high
        hits += low <= d / n <= high
    assert hits >= 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(0.0, torch.zeros(1)), "R >= 2, got .1,."),
        (lambda: bootstrap_interval(0.0, torch.zeros(3), 1.0), "level in .0, 1., got 1.0"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
