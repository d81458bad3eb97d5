"""A transformer over patches of the picture.

Shapes: z [B, C_in, H, W], patches of P x P pixels, N = H/P W/P tokens of width D, h heads of width
d = D/h, conditioning [B, D], output [B, C_out, H, W]. H and W are multiples of P.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vfn.nn.conditioning import Conditioned
from vfn.nn.layers import attend, full_precision, linear, run_block, unbiased
from vfn.nn.network import TimeEmbedding, transformer_faults

NORM_EPS = 1e-6
# Frequencies of positions fall from 1 radian a patch to one of this many patches.
ROTARY_BASE = 100.0
MODULATIONS = 6  # of a block: shift, scale and gate, for attention and for the gated layer


def rotary_angles(height: int, width: int, head_dim: int, device: torch.device) -> Tensor:
    """Angles by which positions turn pairs of features: ``row f_i`` and ``column f_i``.

    ``f_i = 100^(-4 i / d)``, i < d/4; the first half of the pairs turns by the row, the second by
    the column, so that products of turned queries and keys tell how far apart two patches are.

    Args:
        height: patches from top to bottom.
        width: patches from left to right.
        head_dim: d, a multiple of 4.
        device: where they are wanted.

    Returns:
        [height * width, d/2], row after row, float32.

    Source: Su et al. 2021 (2104.09864), eq. 34; along two axes with base 100: Heo et al. 2024
    (2403.13298), section 3.2.

    >>> rotary_angles(2, 2, 4, torch.device("cpu"))
    tensor([[0., 0.],
            [0., 1.],
            [1., 0.],
            [1., 1.]])
    """
    count = head_dim // 4
    steps = torch.arange(count, dtype=torch.float32, device=device) / count
    frequency = torch.exp(-math.log(ROTARY_BASE) * steps)
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None] * frequency
    columns = torch.arange(width, dtype=torch.float32, device=device)[:, None] * frequency
    by_row = rows[:, None].expand(-1, width, -1)
    by_column = columns[None].expand(height, -1, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_(i + d/2)) of the last axis of x [..., d] by an angle.

    Args:
        x: queries or keys.
        cos: of the angles, twice after each other, broadcasting with x.
        sin: of the angles, first negated, then as they are.

    Returns:
        [..., d].
    """
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat([second, first], dim=-1), sin)


def rms_normed(x: Tensor, times: Tensor | float = 1.0) -> Tensor:
    """``times x / rms(x)`` along the last axis; the factor [..., 1] costs no pass over x."""
    if x.dtype == torch.float16:  # whose range the norm, or the factor, may leave
        return rms_normed(x.float(), times).to(x.dtype)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * (times * math.sqrt(x.shape[-1]) / (norm + NORM_EPS))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens [B, N, D], scaled by 1 + scale and shifted, both [B, 1, D]."""
    return torch.addcmul(shift, rms_normed(x), 1 + scale)


class TransformerBlock(nn.Module):
    """Attention over the tokens, then a gated layer of each; both modulated and gated.

    [B, N, D], modulation [B, 6 D] -> [B, N, D]: ``x + gate f(norm(x) (1 + scale) + shift)`` twice,
    f = attention with normalised and turned queries and keys, the queries times a number of each
    head; then f = ``(silu(x A) * x B) C``.

    Source: Peebles & Xie 2022 (2212.09748), section 3.2, adaLN-zero; Zhang & Sennrich 2019
    (1910.07467), eq. 4, the norm; Shazeer 2020 (2002.05202), eq. 6, SwiGLU; Henry et al. 2020
    (2010.04245), eq. 3, normalised queries and keys with a learned scale.
    """

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = unbiased(width, 3 * width)
        self.sharpness = nn.Parameter(torch.ones(num_heads))
        self.out = unbiased(width, width)
        # Two matrices, not one of both widths: the gradients need not be put together then.
        self.gate = unbiased(width, hidden)
        self.wide = unbiased(width, hidden)
        self.narrow = unbiased(hidden, width)

    def forward(self, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Transform x [B, N, D] under a modulation [B, 6 D] -> [B, N, D].

        Args:
            x: tokens.
            modulation: shift, scale and gate of the attention, then those of the gated layer.
            cos: of the positions' angles, [N, d], as `turned` takes it.
            sin: likewise.

        Returns:
            tokens.
        """
        shift, scale, gate, *second = modulation.unsqueeze(1).chunk(MODULATIONS, dim=-1)
        x = torch.addcmul(x, gate, self.attend(modulated(x, shift, scale), cos, sin))
        shift, scale, gate = second
        h = modulated(x, shift, scale)
        return torch.addcmul(x, gate, self.narrow(F.silu(self.gate(h)) * self.wide(h)))

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention over the tokens: [B, N, D] -> [B, N, D]."""
        q, k, v = rearrange(
            self.qkv(x), "b t (three n d) -> three b n t d", three=3, n=self.num_heads
        )
        q = turned(rms_normed(q, self.sharpness[:, None, None]), cos, sin)
        k = turned(rms_normed(k), cos, sin)
        y = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.out(rearrange(y, "b n t d -> b t (n d)"))


class Transformer(Conditioned):
    """Transformer over patches, with time and label conditioning by adaptive normalisation.

    Every block starts as the identity, and the output at zero.

    Args:
        in_channels: channels of z.
        out_channels: channels of the output: those of z, or twice as many for ``both``.
        patch_size: side P of a patch, which has to divide height and width of the pictures.
        width: D of the tokens; a head's share of it is a multiple of 4.
        depth: blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a plain layer over D; of the gated one, which has three matrices
            for two, it is two thirds of that.
        bottleneck: width that pixels of a patch are squeezed to before D, for large patches; 0 is
            none.
        num_classes: K labels; 0 for an unconditional network.
        multitags: labels are 0/1 vectors of K tags instead of one class.
        guidance_range: lowest and highest guidance weight, for a network that takes it as an input;
            None for one that does not. Its layer starts at zero: w changes nothing then.
        time_embedding: ``sinusoidal``, of 1000 t; or ``smooth``, of 10 t, at most ten radians over
            all times, for networks that are differentiated in time.
        second_time: whether it takes a time r <= t as well, where a step from t ends, and predicts
            the mean velocity between them (mean flows). Its last layer starts at zero.
        vector_dim: D numbers of each picture that the network takes as an input; 0 for none.
        image_channels: C' channels of a picture that it takes beside those of z; 0 for none.
        augment_dim: A parameters of augmentation that it takes; 0 for none.
        checkpoint_activations: keep only what goes from block to block for the backward pass and
            compute the rest again: less memory, a third more time.

    Raises:
        ValueError: for a combination that has no network.

    Source: Peebles & Xie 2022 (2212.09748); with today's parts and the bottleneck: Li & He 2025
    (2511.13720), section 4.

    >>> net = Transformer(1, 1, patch_size=2, width=32, depth=2, num_heads=2, num_classes=10)
    >>> net(torch.randn(2, 1, 8, 12), torch.rand(2), torch.tensor([3, 0])).shape
    torch.Size([2, 1, 8, 12])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: int = 2,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        bottleneck: int = 0,
        num_classes: int = 0,
        multitags: bool = False,
        checkpoint_activations: bool = False,
        guidance_range: Sequence[float] | None = None,
        time_embedding: TimeEmbedding = "sinusoidal",
        second_time: bool = False,
        vector_dim: int = 0,
        image_channels: int = 0,
        augment_dim: int = 0,
    ) -> None:
        sizes = {"patch_size": patch_size, "width": width, "depth": depth, "num_heads": num_heads}
        more = {"mlp_ratio": mlp_ratio, "bottleneck": bottleneck}
        saving = {"checkpoint_activations": checkpoint_activations}
        if faults := transformer_faults({**sizes, **more, **saving}):
            raise ValueError("; ".join(faults))
        super().__init__(
            width, width, num_classes, multitags, guidance_range, time_embedding, second_time,
            vector_dim, image_channels, augment_dim,
        )  # fmt: skip
        self.in_channels, self.out_channels = in_channels, out_channels
        self.patch_size, self.head_dim = patch_size, width // num_heads
        self.checkpoint_activations = checkpoint_activations
        pixels = patch_size**2
        seen = (in_channels + image_channels) * pixels
        self.patch_embed = nn.Sequential(
            *([unbiased(seen, bottleneck)] if bottleneck else []),
            linear(bottleneck or seen, width),
        )
        hidden = 8 * max(1, round(mlp_ratio * width / 12))  # two thirds, in eights
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, hidden) for _ in range(depth)
        )
        # Of all blocks and of the output by one matrix product instead of one in each block.
        self.modulation_widths = [*[MODULATIONS * width] * depth, 2 * width]
        self.modulation = linear(width, sum(self.modulation_widths), zero=True)
        self.patch_out = linear(width, out_channels * pixels, zero=True)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        w: Tensor | None = None,
        *,
        r: Tensor | None = None,
        vector: Tensor | None = None,
        image: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Predict from noisy data.

        Args:
            z: noisy data [B, C_in, H, W].
            t: time [B] in [0, 1].
            y: labels [B] or [B, K], or None.
            w: guidance weights [B] in ``guidance_range``, or None where the network takes none.
            r: second time [B] in [0, t], where the network takes one; None is t.
            vector: numbers of each picture [B, D], likewise; all zero for none.
            image: what stands beside z [B, C', H, W], likewise.
            augment: parameters of augmentation [B, A]; None is none.

        Returns:
            output [B, C_out, H, W], dtype of ``z`` (under autocast too).

        Raises:
            ValueError: if z does not fit the network, labels are not one for each sample, or go to
                an unconditional network, or another condition is missing or not wanted.
        """
        height, width = self._grid(z)
        self.check_conditions(z, y, w, r, vector, image, augment)
        with full_precision(z.device):  # 8 bits would blur neighbouring times
            embedding = F.silu(self.embed(t, y, w, r, vector, augment))
        angles = rotary_angles(height, width, self.head_dim, z.device)
        sin = angles.sin().to(embedding.dtype)
        cos, sin = angles.cos().to(embedding.dtype).repeat(1, 2), torch.cat([-sin, sin], dim=-1)
        *inner, last = self.modulation(embedding).split(self.modulation_widths, dim=-1)
        side = self.patch_size
        seen = z if image is None else torch.cat([z, image.to(z.dtype)], dim=1)
        patches = rearrange(seen, "b c (h p) (w q) -> b (h w) (c p q)", p=side, q=side)
        x = self.patch_embed(patches)
        for block, modulation in zip(self.blocks, inner, strict=True):
            x = run_block(block, self.checkpoint_activations, x, modulation, cos, sin)
        x = self.patch_out(modulated(x, *last.unsqueeze(1).chunk(2, dim=-1)))
        out = rearrange(x, "b (h w) (c p q) -> b c (h p) (w q)", h=height, p=side, q=side)
        return out.to(z.dtype)

    def _grid(self, z: Tensor) -> tuple[int, int]:
        """Patches from top to bottom and from left to right; refuses what has none."""
        if z.ndim != 4 or z.shape[1] != self.in_channels:
            raise ValueError(
                f"expected z of shape [B, {self.in_channels}, H, W], got {tuple(z.shape)}"
            )
        (height, below), (width, beside) = (divmod(side, self.patch_size) for side in z.shape[2:])
        if below or beside or not height or not width:
            raise ValueError(
                f"expected H and W to be multiples of patch_size {self.patch_size}, got "
                f"{z.shape[2]} x {z.shape[3]}"
            )
        return height, width
