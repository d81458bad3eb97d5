"""The reference of a Fréchet distance: that of sets drawn of the same Gaussian."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import norm

from vfn.data import Dataset
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.extractors import pixels
from vfn.evaluation.features import Statistics
from vfn.evaluation.perfect import perfect_frechet, spectrum
from vfn.evaluation.sides import Sides
from vfn.ops import fit_gaussian


def drawn_distances(mean, cov, reals, fakes, times):
    """Sets are really drawn, and the distance is scipy's."""
    generator = np.random.default_rng(5)
    found = []
    for _ in range(times):
        sides = [generator.multivariate_normal(mean, cov, n) for n in (reals, fakes)]
        (m1, c1), (m2, c2) = ((s.mean(0), np.cov(s, rowvar=False)) for s in sides)
        root = scipy.linalg.sqrtm(c1 @ c2).real
        found.append(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root))
    return np.array(found)


@pytest.mark.parametrize(("reals", "fakes"), [(300, 200), (300, 5), (12, 40)])
def test_the_reference_is_that_of_sets_that_are_drawn(reals, fakes, monkeypatch):
    """Also with fewer pictures than features, where the covariance is singular."""
    monkeypatch.setattr("vfn.evaluation.perfect.DRAWS", 1000)
    generator = np.random.default_rng(1)
    root = generator.standard_normal((10, 10))
    mean, cov = generator.standard_normal(10), root @ root.T
    real = Statistics(reals, fit_gaussian(torch.randn(20, 10)), None, None, {})
    real = real._replace(gaussian=real.gaussian._replace(cov=torch.from_numpy(cov)))
    expected = drawn_distances(mean, cov, reals, fakes, 300)
    found = perfect_frechet(real, fakes)
    assert found.value == pytest.approx(expected.mean(), rel=0.1)
    half = (found.interval.high - found.interval.low) / 2
    assert half == pytest.approx(1.96 * expected.std(), rel=0.25)


@pytest.mark.parametrize("wide", [0, 512])
def test_as_many_perfect_samplers_lie_in_the_interval_as_it_says(wide, monkeypatch):
    """By the law of the distances, here a normal one; 400 intervals of four draws, or of 40."""
    monkeypatch.setattr("vfn.evaluation.perfect.WIDE", wide)
    monkeypatch.setattr(
        "vfn.evaluation.perfect._distance", lambda *given: 100 + given[-1].standard_normal()
    )
    real = Statistics(9, None, torch.arange(6.0).reshape(3, 2), None, {})
    found = [perfect_frechet(real, 9, seed).interval for seed in range(400)]
    inside = [norm.cdf(ends.high - 100) - norm.cdf(ends.low - 100) for ends in found]
    # That of a single interval of four draws spreads by 0.08, so their mean by 0.004.
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("reals", "fakes", "expected"), [(718, 718, 0.091), (1437, 1000, 0.054), (1437, 100, 0.358)]
)
def test_the_digits(real, reals, fakes, expected):
    statistics = Statistics(reals, fit_gaussian(pixels(real.images)), None, None, {})
    assert perfect_frechet(statistics, fakes).value == pytest.approx(expected, rel=0.03)


def test_real_pictures_lie_where_a_perfect_sampler_does(real):
    """Halves of the digits, the one as the fake of the other."""
    order = torch.randperm(len(real.images), generator=torch.Generator().manual_seed(0))
    one, other = (Dataset(real.images[order[k::2]]) for k in (0, 1))
    (figure,) = evaluate(Sides(one, other), ["fid"])
    low, high = figure.reference_interval
    assert low - 0.02 < figure.value < high + 0.02
    assert "a perfect sampler, 718 pictures against 719 real ones" in figure.about
    assert figure.reference == pytest.approx((low + high) / 2)


def test_features_serve_where_no_covariance_is_kept():
    features = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    kept = Statistics(9, fit_gaussian(features), None, None, {})
    alone = Statistics(9, None, features, None, {})
    assert torch.allclose(spectrum(kept), spectrum(alone), rtol=1e-5)
    assert len(spectrum(alone)) == 8
    assert spectrum(Statistics(4, None, torch.ones(4, 3), None, {})).tolist() == []


def test_statistics_of_unknown_number_count_as_exact():
    gaussian = fit_gaussian(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    unknown = perfect_frechet(Statistics(None, gaussian, None, None, {}), 100)
    known = perfect_frechet(Statistics(10**6, gaussian, None, None, {}), 100)
    assert unknown.value == pytest.approx(known.value, rel=0.2)
    assert "statistics of unknown number" in unknown.text


def test_nothing_stands_beside_figures_on_the_way(real, held_out):
    for figure in evaluate(Sides(real, held_out), ["fid", "pr"], references=False):
        assert figure.reference is None
