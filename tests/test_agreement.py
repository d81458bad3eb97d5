"""The same figures as torch-fidelity and pytorch-fid, side by side on the same features."""

import pytest
import torch

from vfn.data import load_dataset
from vfn.extractors import PIXELS
from vfn.features import describe
from vfn.ops import frechet_distance, inception_score, kernel_distance, precision_recall

fidelity = pytest.importorskip("torch_fidelity")
REAL = describe(load_dataset("digits", "train").images, PIXELS)
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
