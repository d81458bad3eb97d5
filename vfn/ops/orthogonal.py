"""Matrices whose singular values are all about one, without a decomposition."""

import torch
from torch import Tensor

# Of the polynomial a s + b s^3 + c s^5, by which a singular value moves towards one.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_LEAST = 1e-7  # norms below are not brought to one


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """About ``U V^T`` of a matrix ``U diag(s) V^T``, by Newton-Schulz iterations.

    ``X <- a X + (b X X^T + c (X X^T)^2) X`` from ``X = M / max(|M|, 1e-7)``, with ``(a, b, c) =
    (3.4445, -4.7750, 2.0315)``: each step takes every singular value s to ``a s + b s^3 + c s^5``.
    Five steps take those above 0.003 of the norm to 0.65..1.21; a matrix of zeros stays one.

    Args:
        matrix: [..., M, N], of floating-point numbers; each matrix by itself.
        steps: how often, at least 0.

    Returns:
        [..., M, N].

    Raises:
        ValueError: if there are no matrices, or ``steps`` is negative.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, "Proving that the
    Newton-Schulz iteration works".

    >>> matrix = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    >>> torch.linalg.svdvals(orthogonalize(matrix)).round(decimals=1)
    tensor([1.0000, 0.7000])
    """
    if matrix.ndim < 2 or not matrix.is_floating_point():
        raise ValueError(
            "expected matrices of floating-point numbers, [..., M, N], got "
            f"{str(matrix.dtype).removeprefix('torch.')} {list(matrix.shape)}"
        )
    if steps < 0:
        raise ValueError(f"expected steps >= 0, got {steps}")
    if matrix.shape[-2] > matrix.shape[-1]:  # products of the shorter side are the smaller ones
        return orthogonalize(matrix.mT, steps).mT
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    x = (matrix / norm.clamp(min=_LEAST)).reshape(-1, *matrix.shape[-2:])
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x.reshape(matrix.shape)
