"""Newton-Schulz iterations against a decomposition, and against torch's own in bfloat16."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import Muon

from vfn.ops import orthogonalize


def moved(values, steps):
    """Singular values after so many steps, in the numbers of Jordan et al. 2024."""
    values = values / np.linalg.norm(values)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), steps=st.integers(0, 6),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_singular_values_move_and_singular_vectors_stay(rows, columns, steps, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    expected = left @ np.diag(moved(values, steps)) @ right
    np.testing.assert_allclose(orthogonalize(matrix, steps).numpy(), expected, atol=1e-9)


@given(st.floats(0.003, 1))
def test_five_steps_bring_values_to_about_one(value):
    """The range that the docstring names, of a matrix of norm 1."""
    matrix = torch.diag(torch.tensor([value, np.sqrt(1 - value**2)], dtype=torch.float64))
    assert 0.65 < orthogonalize(matrix)[0, 0] < 1.21


def test_each_matrix_by_itself():
    many = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    each = torch.stack([orthogonalize(one) for one in many.flatten(0, 1)]).view_as(many)
    torch.testing.assert_close(orthogonalize(many), each, rtol=0, atol=1e-12)


def test_nothing_stays_nothing():
    assert not orthogonalize(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
def test_as_in_torch(shape):
    """Whose iterations are in bfloat16, where sums in another order give another last bit."""
    param = torch.nn.Parameter(torch.zeros(shape))
    param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    gradient = param.grad.clone()
    Muon([param], lr=1.0, weight_decay=0.0, momentum=0.0, adjust_lr_fn="match_rms_adamw").step()
    ours = -0.2 * 50**0.5 * orthogonalize(gradient.bfloat16()).float()
    error = (param.detach() - ours).square().mean().sqrt() / ours.square().mean().sqrt()
    assert error < 0.01


@pytest.mark.parametrize(
    ("matrix", "steps", "message"),
    [
        (torch.ones(3), 5, r"expected matrices .*, \[..., M, N\], got float32 \[3\]"),
        (torch.ones(3, 3).long(), 5, r"got int64 \[3, 3\]"),
        (torch.ones(3, 3), -1, "expected steps >= 0, got -1"),
    ],
)
def test_what_does_not_fit(matrix, steps, message):
    with pytest.raises(ValueError, match=message):
        orthogonalize(matrix, steps)
