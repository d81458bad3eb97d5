"""Checks of sets of features."""

import pytest
import torch

from vfn.ops._features import check_features, check_same_width


def test_what_fits_is_taken():
    check_features(torch.zeros(3, 2), 3, "features")
    check_features(torch.zeros(0, 2), 0, "features")
    check_same_width(torch.zeros(3, 2), torch.zeros(5, 2))


@pytest.mark.parametrize("shape", [(2, 2), (3,), (3, 2, 1)])
def test_too_few_rows_or_other_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected real of shape \[N, D\] with N >= 3, got \("):
        check_features(torch.zeros(shape), 3, "real")


def test_widths_that_differ_are_refused():
    with pytest.raises(ValueError, match="one width, got 2 and 3 columns"):
        check_same_width(torch.zeros(3, 2), torch.zeros(3, 3))
