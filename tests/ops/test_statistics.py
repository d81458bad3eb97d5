"""The ancestral sampler makes the distribution that the denoiser knows, to within 2 % of variance.

A mean E[x0 | z] in place of x0 loses variance with steps of finite length (1 % at 400 steps of the
cosine grid). A draw from p(x0 | z) does not: the posterior's mixture over it is the reverse kernel
itself, so that a grid of any length is exact, and the test can be as sharp as its samples allow.
"""

import math

import pytest
import torch
from scipy import stats

from vfn.ops import (
    alpha_sigma,
    ancestral_step,
    keyed_normal,
    logsnr_grid,
    logsnr_schedule,
    sample,
)

WEIGHTS, MEANS, STDS = (0.4, 0.6), (-0.9, 0.6), (0.5, 0.4)
COUNT, STEPS, GROUP = 240_000, 48, 60
COSINE = logsnr_schedule("cosine")


def exact_cdf(x):
    parts = zip(WEIGHTS, MEANS, STDS, strict=True)
    return sum(w * stats.norm.cdf(x, mean, std) for w, mean, std in parts)


def normal(stream, count=COUNT):
    """Keyed draws [1, count], the same in every run; the streams are steps and purposes."""
    return keyed_normal(2024, stream, torch.tensor([0]), (count,), torch.float64)


def components(z, logsnr):
    """p(x0 | z): the probability of the second component, both means and both deviations."""
    alpha, sigma = (scale[0].item() for scale in alpha_sigma(logsnr))
    logits, means, deviations = [], [], []
    for weight, mean, std in zip(WEIGHTS, MEANS, STDS, strict=True):
        total = (alpha * std) ** 2 + sigma**2
        gain = alpha * std**2 / total
        centred = z - alpha * mean
        logits.append(math.log(weight) - 0.5 * math.log(total) - 0.5 / total * centred**2)
        means.append(mean + gain * centred)
        deviations.append(std * sigma / total**0.5)
    return torch.sigmoid(logits[1] - logits[0]), means, deviations


def mean_denoiser(z, logsnr):
    second, (mean1, mean2), _ = components(z, logsnr)
    return torch.lerp(mean1, mean2, second)


class DrawingDenoiser:
    """A draw of p(x0 | z) at every call, by the same draws for every row."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z, logsnr):
        self.calls += 1
        second, means, (std1, std2) = components(z, logsnr)
        one = torch.special.ndtr(normal(1000 + self.calls)) < second
        noise = normal(2000 + self.calls)
        return torch.where(one, means[1] + std2 * noise, means[0] + std1 * noise)


def p_value(x0):
    """Kolmogorov-Smirnov test of sums of squared normal scores, GROUP of them to a sum.

    The exact distribution function makes the samples standard normal; a sum of squares has the chi
    square distribution, and shows an error of the variance that the samples one by one would not.
    """
    scores = stats.norm.ppf(exact_cdf(x0.numpy()))
    return stats.kstest((scores.reshape(-1, GROUP) ** 2).sum(1), stats.chi2(GROUP).cdf).pvalue


# What the variance of every step's noise is multiplied by.
VARIANCES = (1.0, 0.98, 1.02)


@pytest.fixture(scope="module")
def made():
    """Samples by VARIANCES, a row for each."""
    scale = torch.tensor(VARIANCES, dtype=torch.float64).sqrt().unsqueeze(1)
    start, grid = normal(0).expand(len(VARIANCES), -1), logsnr_grid(COSINE, STEPS)
    rows = sample(
        DrawingDenoiser(), start, grid, ancestral_step, lambda i: scale * normal(1 + i)
    ).x0
    return dict(zip(VARIANCES, rows, strict=True))


def test_samples_have_the_exact_distribution(made):
    assert stats.kstest(made[1.0].numpy(), exact_cdf).pvalue > 0.01
    assert p_value(made[1.0]) > 0.01


@pytest.mark.parametrize("variance", VARIANCES[1:])
def test_two_percent_of_the_step_s_variance_is_seen(variance, made):
    assert p_value(made[variance]) < 1e-3


@pytest.mark.parametrize("variance", VARIANCES[1:])
def test_two_percent_of_the_samples_variance_is_seen(variance, made):
    mean = sum(w * mean for w, mean in zip(WEIGHTS, MEANS, strict=True))
    assert p_value(mean + variance**0.5 * (made[1.0] - mean)) < 1e-3


def test_the_posterior_mean_as_denoiser_comes_close():
    """Among 5,000 samples the variance that 400 steps lose is below the sampling error."""
    made = sample(
        mean_denoiser,
        normal(0, 5000),
        logsnr_grid(COSINE, 400),
        ancestral_step,
        lambda i: normal(1 + i, 5000),
    ).x0
    assert stats.kstest(made[0].numpy(), exact_cdf).pvalue > 0.01
