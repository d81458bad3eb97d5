"""Building blocks of the UNet.

Shapes: B batch, C channels, H and W height and width, E embedding width, N = H W tokens,
h heads of width d. Feature maps are [B, C, H, W], in channels_last memory format throughout.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from vfn.nn.dropout import dropout
from vfn.nn.network import GROUPS

NORM_EPS = 1e-6
HALVES = (torch.bfloat16, torch.float16)
# Standard deviation of a standard normal truncated at ±2.
_TRUNCATED_STD = 0.87962566103423978


@torch.no_grad()
def lecun_normal_(weight: Tensor, fan_in: int) -> Tensor:
    """Fill with a normal truncated at two standard deviations whose variance is ``1 / fan_in``.

    Args:
        weight: tensor to fill.
        fan_in: inputs that are summed into one output.

    Returns:
        ``weight``.

    >>> weight = lecun_normal_(torch.empty(1000, 100), fan_in=100)
    >>> round(weight.std().item() * 10, 1)
    1.0
    """
    std = 1 / (math.sqrt(fan_in) * _TRUNCATED_STD)
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def _init(layer: nn.Conv2d | nn.Linear, zero: bool, fan_in: int | None = None) -> None:
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        lecun_normal_(layer.weight, fan_in or layer.weight[0].numel())
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def linear(
    in_features: int, out_features: int, zero: bool = False, fan_in: int | None = None
) -> nn.Linear:
    """Linear layer with LeCun-normal or zero weights and zero bias.

    Args:
        in_features: numbers in.
        out_features: numbers out.
        zero: whether the weights are zero.
        fan_in: how many of the numbers in are not zero; None for all.

    Returns:
        the layer.
    """
    layer = nn.Linear(in_features, out_features)
    _init(layer, zero, fan_in)
    return layer


def unbiased(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer without a bias, Xavier-uniform.

    Where a modulation shifts already it needs none, and on the CPU a bias costs a copy.

    Args:
        in_features: numbers in.
        out_features: numbers out.

    Returns:
        the layer.
    """
    layer = nn.Linear(in_features, out_features, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def conv(in_channels: int, out_channels: int, kernel: int, zero: bool = False) -> nn.Conv2d:
    """Convolution that keeps H and W, with LeCun-normal or zero weights and zero bias."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    _init(layer, zero)
    return layer


def has_tangent(x: Tensor) -> bool:
    """Whether a tensor is being differentiated forward; of what is compiled nobody asks."""
    return not torch.compiler.is_compiling() and fwAD.unpack_dual(x).tangent is not None


class _ForwardNorm(torch.autograd.Function):
    """Group normalisation with a rule of its own for forward differentiation in x.

    PyTorch's takes three times as long, in a dozen passes over memory: half of all that a UNet's
    derivative costs. It has no rule for gradients.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, *rest = x.shape
        dense = x if x.device.type == "cpu" else x.contiguous()  # on GPUs torch 2.11 needs it
        return torch.native_group_norm(
            dense, weight, bias, batch, channels, math.prod(rest), groups, eps
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, _, ctx.groups, _ = inputs
        _, mean, rstd = output
        ctx.save_for_forward(x, weight, mean, rstd)
        ctx.mark_non_differentiable(mean, rstd)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        width, rest = x.shape[1] // ctx.groups, tuple(range(2, x.ndim))
        places = math.prod(x.shape[2:])

        def means(value: Tensor) -> Tensor:
            """Of each group, [B, G]."""
            return value.sum(rest).unflatten(1, (ctx.groups, width)).sum(-1) / (places * width)

        def spread(value: Tensor) -> Tensor:
            """Over the channels of each group, [B, C, 1, ...]."""
            return value.repeat_interleave(width, 1)[(..., *(None,) * len(rest))]

        # d((x - mean) rstd) = rstd (dx - first - (x - mean) rstd second)
        first = means(dx)
        second = (means(dx * x) - mean * first) * rstd
        of_dx = spread(rstd) * weight[(..., *(None,) * len(rest))]
        of_x = -of_dx * spread(rstd * second)
        constant = of_dx * spread(mean * rstd * second - first)
        return torch.addcmul(torch.addcmul(constant, of_dx, dx), of_x, x), None, None


class GroupNorm(nn.GroupNorm):
    """Group normalisation of any batch, whose sums are of single precision at least.

    torch's module refuses one picture whose groups have one value each, which it takes two of: a
    network with maps of 1x1 would depend on the batch. What comes out has the type of what goes in,
    under autocast too. In 16 bits it is rounded once, but for training on a GPU, which rounds mean
    and deviation as well: a step takes an eighth less time and two thirds of the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each group of [B, C, ...]."""
        half = x.dtype in HALVES
        if x.device.type == "cpu":  # whose kernels of 16 bits take four to six times as long
            return self._normalised(x.float()).to(x.dtype) if half else self._normalised(x)
        wide = half and not torch.is_grad_enabled()
        with full_precision(x.device):  # autocast would keep 32 bits for the backward pass
            y = self._normalised(x.float() if wide else x)
        # Kernels of GPUs give the dimensions in their order, which costs convolutions a copy each.
        last = torch.channels_last if x.ndim == 4 else torch.preserve_format
        return y.to(x.dtype, memory_format=last)

    def _normalised(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if has_tangent(x) and not (torch.is_grad_enabled() or has_tangent(self.weight)):
            y, _, _ = _ForwardNorm.apply(x, weight, bias, self.num_groups, self.eps)
            return y
        return torch.group_norm(x, self.num_groups, weight, bias, self.eps)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k / sqrt(d)) v``, which can be differentiated forward, too.

    Fused kernels have no rule for that: where a tangent comes in, the plain formula is taken.

    Args:
        q: queries [B, h, N, d].
        k: keys, of the same shape.
        v: values, of the same shape.

    Returns:
        [B, h, N, d].

    Source: Vaswani et al. 2017 (1706.03762), eq. 1.

    >>> attend(*torch.zeros(2, 1, 1, 3, 4), torch.ones(1, 1, 3, 4))[0, 0, 0]
    tensor([1., 1., 1., 1.])
    """
    if q.device.type == "cpu" and q.dtype in HALVES:
        # On the CPU half types take several times as long backward; and logits are rounded there,
        # beyond the range of float16.
        with full_precision(q.device):
            return attend(q.float(), k.float(), v.float()).to(v.dtype)
    with sdpa_kernel(SDPBackend.MATH) if has_tangent(q) else nullcontext():
        return F.scaled_dot_product_attention(q, k, v)


def group_norm(channels: int, least: int = 1) -> GroupNorm:
    """Group normalisation of at most `GROUPS` groups of at least so many channels each."""
    most = min(GROUPS, max(1, channels // least))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return GroupNorm(groups, channels, eps=NORM_EPS)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Outside of autocast, on devices that have it."""
    available = _has_autocast(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


@torch.compiler.assume_constant_result  # torch 2.9 cannot trace the question
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else holds: in its own memory where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Embedding of time: ``[sin(1000 t f_i), cos(1000 t f_i)]``, ``f_i = 10^(-4 i / (dim/2 - 1))``.

    Args:
        t: time in [0, 1], [B].
        dim: even width, at least 4.

    Returns:
        [B, dim], float64: 1000 t needs more digits than float32 has at the high frequencies.

    Source: Vaswani et al. 2017 (1706.03762), section 3.5, as used by Ho et al. 2020.

    >>> sinusoidal_embedding(torch.zeros(1), 4)
    tensor([[0., 0., 1., 1.]], dtype=torch.float64)
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float64, device=t.device) / (half - 1)
    angle = 1000 * t.double().unsqueeze(-1) * torch.exp(-math.log(1e4) * exponent)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def run_block(block: nn.Module, recompute: bool, *inputs: Any) -> Tensor:
    """Call a block, and where asked keep of it only its inputs for the backward pass.

    Args:
        block: a module that gives one tensor.
        recompute: whether the backward pass computes its activations again.
        inputs: of the block.

    Returns:
        what the block gives.
    """
    if not (recompute and torch.is_grad_enabled()):
        out: Tensor = block(*inputs)
        return out
    # When backward computes the block again, functional_call has put the module's own parameters
    # back: keep those of now.
    params: dict[str, Tensor] = dict(block.named_parameters())
    again: Tensor = checkpoint(
        lambda *given: functional_call(block, params, given), *inputs, use_reentrant=False
    )
    return again


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros around the last two dimensions, as evenly as can be, so that a number divides both.

    Args:
        x: [..., H, W].
        multiple: at least 1.

    Returns:
        [..., H', W'], the least multiples that are not smaller; ``x`` itself if H and W are.

    >>> pad_to_multiple(torch.ones(1, 3), 4)
    tensor([[0., 0., 0., 0.],
            [1., 1., 1., 0.],
            [0., 0., 0., 0.],
            [0., 0., 0., 0.]])
    """
    missing = [-side % multiple for side in reversed(x.shape[-2:])]
    margins = [margin for extra in missing for margin in (extra // 2, extra - extra // 2)]
    return F.pad(x, margins) if any(margins) else x


def cut_to_size(x: Tensor, height: int, width: int) -> Tensor:
    """What `pad_to_multiple` has put zeros around.

    Args:
        x: [..., H', W'].
        height: H, at most H'.
        width: W, at most W'.

    Returns:
        [..., H, W], a view.

    >>> cut_to_size(pad_to_multiple(torch.ones(1, 3), 4), 1, 3)
    tensor([[1., 1., 1.]])
    """
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def pointwise(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer over the channels of [B, C, H, W] as a 1x1 convolution.

    That adds the bias while it multiplies; on the CPU ``F.linear`` first copies it to every row.

    Args:
        x: [B, C, H, W].
        layer: from C channels to C'.

    Returns:
        [B, C', H, W].
    """
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention over positions with a residual connection.

    [B, C, H, W] -> GroupNorm -> q, k, v [B, h, N, d] of one fused map -> softmax(q k / sqrt(d)) v
    -> zero-initialised map back to C, added to the input.
    """

    def __init__(
        self, channels: int, num_heads: int, head_dim: int, group_channels: int = 1
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = group_norm(channels, group_channels)
        self.qkv = linear(channels, 3 * num_heads * head_dim)
        self.out = linear(num_heads * head_dim, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the positions: [B, C, H, W] -> [B, C, H, W]."""
        h = self.norm(x)  # channels last, as fused attention of GPUs wants them
        qkv = rearrange(pointwise(h, self.qkv), "b c h w -> b h w c")  # a view
        q, k, v = rearrange(
            qkv, "b h w (three n d) -> three b n (h w) d", three=3, n=self.num_heads
        )
        y = attend(q, k, v)
        y = rearrange(y, "b n (h w) d -> b (n d) h w", h=x.shape[2])  # a view
        return pointwise(y, self.out).add_(x)  # fresh memory, read no more


class ResidualBlock(nn.Module):
    """Residual block with adaptive group normalisation, optionally changing the resolution.

    x [B, C, H, W], modulation [B, 2 C'] (shift, then scale) -> [B, C', H', W'].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dropout: float = 0.0,
        resample: nn.Module | None = None,
        group_channels: int = 1,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.norm1 = group_norm(in_channels, group_channels)
        self.conv1 = conv(in_channels, out_channels, 3)
        self.norm2 = group_norm(out_channels, group_channels)
        self.conv2 = conv(out_channels, out_channels, 3, zero=True)
        self.skip = (
            nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, 1)
        )
        self.resample = resample or nn.Identity()
        self.dropout = dropout

    def forward(
        self, x: Tensor, modulation: Tensor, keys: Tensor | None = None, layer: int = 0
    ) -> Tensor:
        """Transform x [B, C, H, W] under a modulation [B, 2 C'] -> [B, C', H', W'].

        Args:
            x: features.
            modulation: shift, then scale.
            keys: of the pictures, for the masks of `dropout`, or None.
            layer: number of this block, likewise.

        Returns:
            features.
        """
        shift, scale = rearrange(modulation, "b (two c) -> two b c 1 1", two=2)
        h = self.conv1(self.resample(silu(self.norm1(x))))
        h = silu(torch.addcmul(shift, self.norm2(h), 1 + scale))
        h = self.conv2(dropout(h, self.dropout, self.training, keys, layer))
        return h.add_(self.skip(self.resample(x)))


class ConvResample(nn.Module):
    """Change of resolution by a plain convolution: [B, C, H, W] -> [B, C, H', W'].

    Down: zeros below and to the right only, then 3x3 with stride 2, so that an even size halves.
    Up: nearest neighbours, then 3x3. It takes a modulation as blocks do, of width 0.
    """

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.resize = nn.Upsample(scale_factor=2) if up else nn.ZeroPad2d((0, 1, 0, 1))
        self.conv = nn.Conv2d(channels, channels, 3, stride=1 if up else 2, padding=int(up))
        _init(self.conv, zero=False)

    def forward(self, x: Tensor, _modulation: Tensor, *_dropout: object) -> Tensor:
        """Change the resolution: [B, C, H, W] -> [B, C, H', W']; the modulation [B, 0] is empty."""
        return self.conv(self.resize(x))
