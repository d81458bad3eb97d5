"""Counter-based randomness: a draw is a function of (seed, stream, index), of nothing else.

The generator is Philox 4x32 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"). The key is the seed; the counter holds the index, the stream and the block within the
draw. Batches, devices and processes therefore cannot change a number: image 7 has the same noise
alone, in any batch, and on any machine. Integers are exact everywhere; normals are computed in
float64 and rounded once, so that devices agree to the last place.
"""

import math
import operator

import torch
from torch import Tensor

from vfn.ops._coef import check_tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Four words of 32 random bits, as int64 tensors of the counter's shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64, so both halves of the 64-bit product are there.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def _bits(seed: int, stream: int, index: Tensor, count: int) -> Tensor:
    """``count`` words of 32 bits for each index: [*index.shape, count], int64."""
    check_tensor(index, "index")
    if index.is_floating_point() or index.dtype == torch.bool:
        raise TypeError(f"expected index of an integer dtype, got {index.dtype}")
    # Numpy's numbers have a width of their own, in which the masks below do not fit.
    seed, stream = operator.index(seed), operator.index(stream)
    if not 0 <= stream <= _MASK:
        raise ValueError(f"expected stream in 0..2^32-1, got {stream}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"expected seed in 0..2^64-1, got {seed}")
    index = index.long()
    block = torch.arange((count + 3) // 4, device=index.device)
    low, high, block = torch.broadcast_tensors(
        (index & _MASK).unsqueeze(-1), ((index >> 32) & _MASK).unsqueeze(-1), block
    )
    words = _philox((block, torch.full_like(block, stream), low, high), (seed & _MASK, seed >> 32))
    return torch.stack(words, dim=-1).flatten(-2)[..., :count]


def keyed_uniform(
    seed: int,
    stream: int,
    index: Tensor,
    shape: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniform draws in the open interval (0, 1), one block of ``shape`` for each index.

    ``u = (k + 1/2) 2^-b`` with k of b random bits: 52 in float64, 23 in float32, fewer in half
    types, so that rounding never gives 0 or 1.

    Args:
        seed: 0..2^64-1.
        stream: 0..2^32-1; names the purpose, so that purposes do not share numbers.
        index: integer tensor of any shape: which draws.
        shape: shape of one draw.
        dtype: floating type of the result.

    Returns:
        ``[*index.shape, *shape]`` on index's device.

    Raises:
        TypeError: if ``index`` is not of an integer dtype, or seed or stream no whole numbers.
        ValueError: if seed or stream are out of range.

    Source: Salmon et al. 2011, Philox 4x32-10.

    >>> both = keyed_uniform(0, 0, torch.tensor([5, 6]))
    >>> bool(keyed_uniform(0, 0, torch.tensor([6])) == both[1])
    True
    """
    digits = min(52, -int(math.log2(torch.finfo(dtype).eps)))
    count = math.prod(shape)
    words = _bits(seed, stream, index, 2 * count).unflatten(-1, (count, 2))
    value = (words[..., 0] << 20 | words[..., 1] >> 12) >> (52 - digits)
    uniform = (value.double() + 0.5) * 2.0**-digits
    return uniform.to(dtype).reshape(index.shape + shape)


def keyed_normal(
    seed: int,
    stream: int,
    index: Tensor,
    shape: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal draws, one block of ``shape`` for each index (Box-Muller in float64).

    Args:
        seed: 0..2^64-1.
        stream: 0..2^32-1; names the purpose.
        index: integer tensor of any shape: which draws.
        shape: shape of one draw.
        dtype: floating type of the result.

    Returns:
        ``[*index.shape, *shape]`` on index's device.

    Raises:
        TypeError: if ``index`` is not of an integer dtype, or seed or stream no whole numbers.
        ValueError: if seed or stream are out of range.

    Source: Salmon et al. 2011, Philox 4x32-10; Box & Muller 1958.

    >>> noise = keyed_normal(seed=0, stream=1, index=torch.arange(4), shape=(3, 8, 8))
    >>> noise.shape
    torch.Size([4, 3, 8, 8])
    """
    count = math.prod(shape)
    words = _bits(seed, stream, index, count + count % 2).double()
    pairs = (words + 0.5).mul(2.0**-32).unflatten(-1, (-1, 2))
    radius = torch.sqrt(-2 * torch.log(pairs[..., 0]))
    angle = 2 * math.pi * pairs[..., 1]
    normal = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return normal.flatten(-2)[..., :count].to(dtype).reshape(index.shape + shape)


def keyed_bernoulli(seed: int, stream: int, index: Tensor, p: float) -> Tensor:
    """True with probability ``p``, one draw for each index.

    Args:
        seed: 0..2^64-1.
        stream: 0..2^32-1; names the purpose.
        index: integer tensor of any shape.
        p: probability in [0, 1].

    Returns:
        bool, shape of ``index``.

    Raises:
        ValueError: if ``p`` is not in [0, 1].

    >>> keyed_bernoulli(0, 0, torch.arange(3), p=1.0)
    tensor([True, True, True])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"expected p in [0, 1], got {p}")
    return keyed_uniform(seed, stream, index, dtype=torch.float64) < p


def epoch_permutation(seed: int, epoch: int, n: int, stream: int = 0) -> Tensor:
    """A permutation of 0..n-1 that belongs to (seed, stream, epoch).

    Args:
        seed: 0..2^64-1.
        epoch: which pass over the data, >= 0.
        n: number of items.
        stream: 0..2^32-1; names the purpose.

    Returns:
        int64 [n].

    >>> sorted(epoch_permutation(seed=0, epoch=3, n=5).tolist())
    [0, 1, 2, 3, 4]
    """
    item = torch.arange(n) + (epoch << 32)
    words = _bits(seed, stream, item, 2)
    return torch.argsort(words[:, 0] << 31 | words[:, 1] >> 1, stable=True)
