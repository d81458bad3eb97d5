"""Dropout whose masks belong to pictures: a function of (key, layer, position) alone.

Masks from a generator depend on which pictures stand in a batch together. Here each picture brings
a key, two words of 32 random bits, and every element's mask is a hash of the key, the layer and the
element's number. A picture is masked alike alone and in any batch, on any device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16  # an element gets 16 bits: probabilities are multiples of 2^-16
_GOLDEN, _SECOND = 0x9E3779B9, 0x85EBCA6B  # what tells layers apart
_FACTORS = (0x7FEB352D, 0x846CA68B)
_keys: list[Tensor] = []  # of the contexts that are open


def _signed(word: int) -> int:
    """32 bits as the integer that int32 holds."""
    return (word + 2**31) % 2**32 - 2**31


@contextmanager
def keyed_dropout(keys: Tensor | None) -> Iterator[None]:
    """Have networks take the masks of their dropout from keys of pictures.

    The network takes up the keys when it is called; the backward pass may come later.

    Args:
        keys: int32 [B, 2], of the pictures that a network is called on; None changes nothing.

    >>> keys = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    >>> with keyed_dropout(keys):
    ...     current_keys(2) is keys, current_keys(4).shape
    (True, torch.Size([4, 2]))
    """
    if keys is None:
        yield
        return
    _keys.append(keys)
    try:
        yield
    finally:
        _keys.pop()


def current_keys(count: int) -> Tensor | None:
    """The keys of a batch.

    Args:
        count: pictures in it; where each was put in several times, copy after copy, copies have
            masks of their own.

    Returns:
        int32 [count, 2]; None if there are none, or not for such a batch.
    """
    if not _keys:
        return None
    keys = _keys[-1]
    copies, rest = divmod(count, len(keys))
    if rest or not copies:
        return None
    if copies == 1:
        return keys
    number = torch.arange(copies, device=keys.device, dtype=torch.int32) * _signed(_FACTORS[0])
    return (keys + number[:, None, None]).flatten(0, 1)


def dropout(
    h: Tensor, p: float, training: bool, keys: Tensor | None = None, layer: int = 0
) -> Tensor:
    """Set each element to zero with probability p, and divide the others by 1 - p.

    Args:
        h: [B, C, H, W], C even.
        p: probability in [0, 1).
        training: False leaves h as it is.
        keys: int32 [B, 2], of `current_keys`; None draws from torch's generator.
        layer: number of the layer; layers have masks of their own.

    Returns:
        [B, C, H, W]; with keys p is rounded to a multiple of 2^-16.

    >>> keys = torch.tensor([[1, 2]], dtype=torch.int32)
    >>> dropout(torch.ones(1, 4, 2, 1), 0.5, True, keys).flatten().tolist()
    [0.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    """
    if keys is None or not training or not p:
        return F.dropout(h, p, training)
    threshold = min(round(p * _LEVELS), _LEVELS - 1)
    keep = mask_bits(keys, layer, h.shape) >= threshold - _LEVELS // 2
    return torch.where(keep, h * (_LEVELS / (_LEVELS - threshold)), 0)


@torch.no_grad()
def mask_bits(keys: Tensor, layer: int, shape: torch.Size) -> Tensor:
    """Uniform numbers of 16 bits, one for each element.

    Two rounds of multiplication and shifts, as of a good hash of 32 bits, with one word of the key
    before and the other between them; a word serves two channels.

    Args:
        keys: int32 [B, 2].
        layer: number of the layer.
        shape: [B, C, H, W], C even.

    Returns:
        int16 [B, C, H, W], in -2^15..2^15-1.
    """
    _, channels, height, width = shape
    first = (keys[:, :1] + _signed(layer * _GOLDEN))[:, :, None]
    second = (keys[:, 1:] + _signed(layer * _SECOND))[:, :, None]
    half = channels // 2
    number = torch.arange(height * width * half, device=keys.device, dtype=torch.int32)
    word = number.view(1, height * width, half) + first
    word ^= (word >> 16) & 0xFFFF
    word *= _signed(_FACTORS[0])
    word ^= second
    word ^= (word >> 15) & 0x1FFFF
    word *= _signed(_FACTORS[1])
    word ^= (word >> 16) & 0xFFFF
    return word.view(torch.int16).view(-1, height, width, channels).permute(0, 3, 1, 2)
