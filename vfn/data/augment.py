"""Geometric changes of pictures whose parameters a network is told, so that they do not leak.

x0 [B, C, H, W] in [-1, 1]. Each change is made with some probability by itself; its parameters are
zero where it is not, and in sampling. Source: Karras et al. 2022 (2206.00364), appendix F.2; the
order of changes and their strengths are those, the interpolation is bilinear.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PARAMETERS = 9  # mirrored x, y; scale; turned 2; stretched 2; shifted 2
DRAWS = 13  # uniform numbers of a picture
SCALE, STRETCH, SHIFT = 0.2, 0.2, 0.125  # deviations: of log2, log2, and of a side


class Change(NamedTuple):
    """What is done to pictures: matrices [B, 2, 3] and what a network is told [B, 9]."""

    matrix: Tensor
    told: Tensor


def draw_change(uniform: Tensor, p: float) -> Change:
    """Changes of some pictures.

    Args:
        uniform: numbers in [0, 1) that belong to the pictures, [B, 13].
        p: probability of each kind of change, in [0, 1].

    Returns:
        Change.

    >>> change = draw_change(torch.full((1, DRAWS), 0.5), 0.0)
    >>> change.matrix[0].tolist(), change.told.abs().max().item()
    ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 0.0)
    """
    u = uniform.double()
    made = (u[:, :6] < p).double()  # which kinds
    normal = torch.special.ndtri(u[:, 6:].clamp(1e-6, 1 - 1e-6))
    flip_x, flip_y = made[:, 0], made[:, 1]
    log_scale = made[:, 2] * SCALE * normal[:, 0]
    turn = made[:, 3] * math.pi * (2 * u[:, 7] - 1)
    stretch, along = made[:, 4] * STRETCH * normal[:, 2], math.pi * (2 * u[:, 9] - 1)
    shift = made[:, 5:6] * SHIFT * normal[:, 4:6]
    matrix = _diagonal(1 - 2 * flip_x, 1 - 2 * flip_y)
    matrix = _diagonal(2**-log_scale, 2**-log_scale) @ matrix
    matrix = _turned(turn) @ matrix
    matrix = _turned(along) @ _diagonal(2**-stretch, 2**stretch) @ _turned(-along) @ matrix
    told = torch.stack(
        [
            flip_x,
            flip_y,
            log_scale / SCALE,
            turn.cos() - 1,
            turn.sin(),
            stretch / STRETCH * along.cos(),
            stretch / STRETCH * along.sin(),
            *(shift / SHIFT).unbind(1),
        ],
        dim=1,
    )
    # The grid goes from -1 to 1: a side is 2.
    return Change(torch.cat([matrix, 2 * shift[..., None]], 2).float(), told.float())


def changed(pictures: Tensor, change: Change) -> Tensor:
    """Pictures after a change; those without any come back to the bit.

    Args:
        pictures: [B, C, H, W].
        change: of them.

    Returns:
        [B, C, H, W].

    >>> mirrored = Change(torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]), torch.ones(1, 9))
    >>> changed(torch.tensor([[[[1.0, 2.0]]]]), mirrored)
    tensor([[[[2., 1.]]]])
    """
    height, width = pictures.shape[2:]
    # A turn is one of pixels, not of a grid that is as high as wide.
    matrix = change.matrix.clone()
    matrix[:, 0, 1] *= height / width
    matrix[:, 1, 0] *= width / height
    # In float64, since with tf32 a GPU has places of float32 to a fraction of a pixel only.
    grid = F.affine_grid(matrix.double(), list(pictures.shape), align_corners=False)
    moved = F.grid_sample(
        pictures, grid.to(pictures.dtype), "bilinear", "reflection", align_corners=False
    )
    still = (change.told == 0).all(1).view(-1, 1, 1, 1)
    return torch.where(still, pictures, moved)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y], dim=1))


def _turned(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
