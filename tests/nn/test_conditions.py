"""Labels out of range are refused by place and value."""

import pytest
import torch

from vfn.nn import check_labels


@pytest.mark.parametrize(
    ("labels", "classes", "multitags"),
    [
        (torch.tensor([0, 1, 10]), 10, False),
        (torch.tensor([0.0, 3.0]), 3, False),
        (torch.zeros(4, dtype=torch.long), 0, False),
        (torch.tensor([[0, 1], [0, 0]], dtype=torch.uint8), 2, True),
        (torch.zeros(0, dtype=torch.long), 3, False),
    ],
)
def test_labels_that_fit(labels, classes, multitags):
    check_labels(labels, classes, multitags)


@pytest.mark.parametrize(
    ("labels", "multitags", "message"),
    [
        (torch.tensor([0, 4]), False, "labels in 0..3, 0 for unconditional, got 4 at 1"),
        (torch.tensor([-1, 9]), False, "labels in 0..3, 0 for unconditional, got -1 at 0"),
        (torch.tensor([1.5]), False, "labels in 0..3, 0 for unconditional, got 1.5 at 0"),
        (torch.tensor([float("nan")]), False, "got nan at 0"),
        (torch.tensor([[0, 1, 2]]), True, "0 and 1 as tags, got 2 at 0, 2"),
        (torch.tensor([1, 2]), True, r"shape \[N, 3\], got \(2,\)"),
        (torch.tensor([[1, 0]]), True, r"shape \[N, 3\], got \(1, 2\)"),
        (torch.tensor([[1]]), False, r"shape \[N\], got \(1, 1\)"),
    ],
)
def test_labels_that_do_not(labels, multitags, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 3, multitags)
