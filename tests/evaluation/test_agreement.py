"""The same figures as torch-fidelity and pytorch-fid, side by side.

Metrics on the same features of many pictures; the whole way through Inception on few.
"""

import pytest
import torch

from tests.helpers.networks import (
    blots,
    by_torch_fidelity,
    low_rank_eigenvalues,
    pytorch_fid_statistics,
    random_inception,
)
from vfn.data import Dataset, load_dataset
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.extractors import PIXELS, open_extractor
from vfn.evaluation.features import compute_statistics
from vfn.evaluation.sides import Sides
from vfn.ops import frechet_distance, inception_score, kernel_distance, precision_recall

fidelity = pytest.importorskip("torch_fidelity")
REAL = compute_statistics(load_dataset("digits", "train").images, PIXELS)
# Noise makes every covariance regular; some pixels of the digits are always black.
NOISY = REAL.features + 0.05 * torch.randn(
    REAL.features.shape, generator=torch.Generator().manual_seed(0)
)
A, B = NOISY[:700], 0.9 * NOISY[700:1400] + 0.02


def test_frechet_distance():
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from vfn.ops import fit_gaussian

    ours = frechet_distance(*fit_gaussian(A), *fit_gaussian(B))
    one, other = (fid_features_to_statistics(side.double()) for side in (A, B))
    theirs = fid_statistics_to_metric(one, other, False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-8)
    with pytest.warns(DeprecationWarning, match="disp"):
        older = calculate_frechet_distance(one["mu"], one["sigma"], other["mu"], other["sigma"])
    assert ours == pytest.approx(older, rel=1e-8)


def test_kernel_distance():
    """One subset of everything; they compute in float32."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    theirs = kid_features_to_metric(
        A.double(), B.double(), kid_subsets=1, kid_subset_size=700, verbose=False
    )
    expected = theirs["kernel_inception_distance_mean"]
    assert kernel_distance(A, B).value == pytest.approx(expected, rel=1e-6)


def test_inception_score():
    from torch_fidelity.metric_isc import isc_features_to_metric

    theirs = isc_features_to_metric(A, 10, shuffle=False)
    ours = inception_score(A, 10)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-6)


def test_precision_and_recall():
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    precision, recall = calculate_precision_recall_part(B, A)
    assert precision_recall(A, B) == pytest.approx((precision, recall), rel=1e-3)


@pytest.fixture(scope="module")
def through_inception(tmp_path_factory):
    """Real and fake pictures, 16 each, a file of random weights, and our extractor with them."""
    weights = tmp_path_factory.mktemp("weights") / "inception.pth"
    random_inception(weights)
    extractor = open_extractor("inception", weights, torch.device("cpu"))
    return blots(16, seed=1), blots(16, seed=2, contrast=1.3), weights, extractor


@pytest.mark.slow
def test_all_figures_through_inception(through_inception):
    real, fake, weights, extractor = through_inception
    sides = Sides(Dataset(real), Dataset(fake))
    found = evaluate(sides, ["fid", "kid", "is", "pr"], extractor=extractor)
    with low_rank_eigenvalues():
        theirs = by_torch_fidelity(real, fake, weights)
    assert {figure.title: figure.value for figure in found} == pytest.approx(theirs, rel=1e-3)
    assert theirs["FID"] > 1
    assert 0 < theirs["Precision"] < 1
    assert 0 < theirs["Recall"] < 1


@pytest.mark.slow
def test_statistics_of_pytorch_fid_through_inception(through_inception, tmp_path):
    real, _, weights, extractor = through_inception
    ours = compute_statistics(real, extractor).gaussian
    mean, cov = pytorch_fid_statistics(real, weights, tmp_path / "real", same_input=True)
    torch.testing.assert_close(ours.mean, torch.from_numpy(mean), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.cov, torch.from_numpy(cov), rtol=1e-3, atol=1e-3)
    assert ours.cov.diagonal().mean() > 0.01
