"""Conditions that are made of the pictures themselves, or of what somebody has in their place.

x0 [B, C, H, W] in [-1, 1]; each gives [B, C' + 1, H, W], the last channel 1 where others count.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.data.given import LEAST, LUMA, MOST
from vfn.memory import moved


def known(pictures: Tensor, size: tuple[int, int] | None = None, by: int = 0) -> Tensor:
    """Pictures as they are, and a channel of ones.

    Args:
        pictures: [B, C', H, W].
        size: height and width that are wanted; theirs if None.
        by: without meaning here.

    Returns:
        [B, C' + 1, H, W].

    Raises:
        ValueError: if they have another size.

    >>> known(torch.zeros(1, 1, 1, 2))
    tensor([[[[0., 0.]],
    <BLANKLINE>
             [[1., 1.]]]])
    """
    del by
    if size is not None and tuple(pictures.shape[2:]) != size:
        raise ValueError(
            f"expected pictures of {size[0]} x {size[1]} as a condition, got "
            f"{pictures.shape[2]} x {pictures.shape[3]}"
        )
    return torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)


def downscaled(x0: Tensor, u: Tensor, by: int) -> Tensor:
    """Means of squares, as large as the pictures again: what `upscaled` makes of small ones."""
    del u
    return upscaled(F.avg_pool2d(x0, by), (x0.shape[2], x0.shape[3]), by)


def upscaled(small: Tensor, size: tuple[int, int], by: int) -> Tensor:
    """Small pictures made larger, bicubic, and a channel of ones.

    Args:
        small: [B, C, H/K, W/K].
        size: H, W.
        by: K.

    Returns:
        [B, C + 1, H, W].

    Raises:
        ValueError: if they have another size.

    >>> upscaled(torch.zeros(1, 1, 2, 2), (8, 8), 4).shape
    torch.Size([1, 2, 8, 8])
    """
    wanted = size[0] // by, size[1] // by
    if tuple(small.shape[2:]) != wanted:
        raise ValueError(
            f"expected pictures of {wanted[0]} x {wanted[1]} for downscale:{by}, got "
            f"{small.shape[2]} x {small.shape[3]}"
        )
    return known(F.interpolate(small, size=size, mode="bicubic"))


def grey(x0: Tensor, u: Tensor, by: int) -> Tensor:
    """The brightness that PIL sees, of three channels; of others their mean; and ones."""
    del u, by
    if x0.shape[1] != len(LUMA):
        return known(x0.mean(1, keepdim=True))
    shares = moved(torch.tensor(LUMA, dtype=x0.dtype), x0.device).view(1, 3, 1, 1)
    return known((x0 * shares).sum(1, keepdim=True))


def masked(x0: Tensor, u: Tensor, by: int) -> Tensor:
    """The pictures with a rectangle of zeros, and a channel that is 0 there, 1 elsewhere.

    Args:
        x0: [B, C, H, W].
        u: uniform [B, 4]: share of height and width, and where it begins.
        by: without meaning here.

    Returns:
        [B, C + 1, H, W].

    >>> masked(torch.ones(1, 1, 1, 4), torch.full((1, 4), 0.5), 0)[0, 1]
    tensor([[1., 0., 0., 1.]])
    """
    del by
    height, width = x0.shape[2:]
    inside = (
        _within(u[:, 0], u[:, 2], height)[:, :, None] & _within(u[:, 1], u[:, 3], width)[:, None]
    )
    kept = (~inside).to(x0.dtype)[:, None]
    return torch.cat([x0 * kept, kept], dim=1)


def _within(share: Tensor, place: Tensor, side: int) -> Tensor:
    """Which pixels of a side [B, side] a stretch of it takes, at least one."""
    length = (side * (LEAST + (MOST - LEAST) * share)).round().clamp(min=1)
    first = ((side - length) * place).round()
    pixel = torch.arange(side, device=share.device)
    return (pixel >= first[:, None]) & (pixel < (first + length)[:, None])


def with_mask(pictures: Tensor, mask: Tensor) -> Tensor:
    """Pictures and which of their pixels are known, as `masked` gives them.

    Args:
        pictures: [B, C, H, W].
        mask: [B, H, W], 1 where they are known.

    Returns:
        [B, C + 1, H, W].

    Raises:
        ValueError: if the mask has another size, or other values than 0 and 1.

    >>> with_mask(torch.ones(1, 1, 1, 2), torch.tensor([[[0, 1]]]))[0, 0]
    tensor([[0., 1.]])
    """
    if mask.shape != pictures[:, 0].shape:
        raise ValueError(f"expected a mask {list(pictures[:, 0].shape)}, got {list(mask.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("expected a mask of 0 and 1, got other values")
    kept = mask.to(pictures.dtype)[:, None]
    return torch.cat([pictures * kept, kept], dim=1)
