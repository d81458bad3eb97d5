"""The UNet of v-objective diffusion.

Shapes: z [B, C_in, H, W], t [B], labels y [B] (class 1..K, 0 = unconditional) or [B, K] (0/1 tags,
all zero = unconditional), guidance w [B] where it is an input, output [B, C_out, H, W]. H and W
that are no multiples of 2^(levels - 1) get zeros around them inside.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from vfn.nn.dropout import current_keys
from vfn.nn.layers import (
    ConvResample,
    ResidualBlock,
    SelfAttention,
    conv,
    cut_to_size,
    full_precision,
    group_norm,
    linear,
    pad_to_multiple,
    silu,
    sinusoidal_embedding,
)
from vfn.nn.network import TimeEmbedding, unet_faults
from vfn.ops.words import check_choice

_SMOOTH = 100  # of what is divided by it, sinusoids turn by at most ten radians


class Block(nn.Module):
    """A residual block, then attention where asked: [B, C, H, W] -> [B, C', H', W']."""

    def __init__(self, residual: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

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
        h = self.residual(x, modulation, keys, layer)
        return h if self.attention is None else self.attention(h)


class UNet(nn.Module):
    """UNet with time and label conditioning by adaptive group normalisation.

    Args:
        in_channels: channels of z.
        out_channels: channels of the output: those of z, or twice as many for ``both``.
        hid_channels: base width, a multiple of 4.
        ch_multipliers: width of each level as a multiple of ``hid_channels``; the resolution
            halves from one level to the next.
        num_res_blocks: residual blocks a level on the way down (one more on the way up).
        apply_attn: whether a level has attention; one value for all levels or one for each.
        embedding_dim: width E of the conditioning; ``4 hid_channels`` if None.
        dropout: probability in the residual blocks, in [0, 1); under `keyed_dropout` each picture
            has masks of its own, whatever batch it is in.
        num_heads: attention heads; 1 if neither this nor ``head_dim`` is given.
        head_dim: width of a head; C / num_heads if None.
        num_classes: K labels; 0 for an unconditional network.
        multitags: labels are 0/1 vectors of K tags instead of one class.
        resample_with_res: change the resolution inside residual blocks; if False, by plain 3x3
            convolutions.
        attend_after_resampling: those blocks have attention where their level has it.
        time_embedding: ``sinusoidal``, of 1000 t; or ``smooth``, of 10 t, at most ten radians over
            all times, for networks that are differentiated in time.
        group_channels: of each group of a normalisation, at least; there are at most 32 groups.
            Few groups are faster on a CPU.
        guidance_range: lowest and highest guidance weight, for a network that takes it as an input;
            None for one that does not. Its layer starts at zero: w changes nothing then.
        second_time: whether it takes a time r <= t as well, where a step from t ends, and predicts
            the mean velocity between them (mean flows). Its last layer starts at zero.
        checkpoint_activations: keep only what goes from block to block for the backward pass and
            compute the rest again: less memory, a third more time.

    Raises:
        ValueError: for a combination that has no network.

    Source: Salimans & Ho 2022 (2202.00512); Nichol & Dhariwal 2021 (2102.09672); guidance as an
    input: Meng et al. 2023 (2210.03142), section 3; the second time: Geng et al. 2025 (2505.13447).

    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1, 2), num_res_blocks=1, num_classes=10)
    >>> net(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([3, 0])).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hid_channels: int = 128,
        ch_multipliers: Sequence[int] = (1, 2, 2),
        num_res_blocks: int = 2,
        apply_attn: bool | Sequence[bool] = False,
        embedding_dim: int | None = None,
        dropout: float = 0.0,
        num_heads: int | None = None,
        head_dim: int | None = None,
        num_classes: int = 0,
        multitags: bool = False,
        resample_with_res: bool = True,
        checkpoint_activations: bool = False,
        guidance_range: Sequence[float] | None = None,
        attend_after_resampling: bool = True,
        time_embedding: TimeEmbedding = "sinusoidal",
        second_time: bool = False,
        group_channels: int = 1,
    ) -> None:
        super().__init__()
        check_choice(time_embedding, TimeEmbedding, "time_embedding")
        levels = len(ch_multipliers)
        attention = [apply_attn] * levels if isinstance(apply_attn, bool) else list(apply_attn)
        if faults := unet_faults(hid_channels, ch_multipliers, num_res_blocks, attention):
            raise ValueError("; ".join(faults))
        self.in_channels, self.out_channels = in_channels, out_channels
        self.hid_channels, self.levels = hid_channels, levels
        self.num_res_blocks, self.dropout = num_res_blocks, dropout
        self.checkpoint_activations = checkpoint_activations
        self.num_classes, self.multitags = num_classes, multitags
        self.guidance_range, self.time_embedding = guidance_range, time_embedding
        self.second_time = second_time
        embedding_dim = embedding_dim or 4 * hid_channels

        def block(
            width_in: int, width_out: int, attend: bool, resample: nn.Module | None = None
        ) -> Block:
            heads = _heads(width_out, num_heads, head_dim) if attend else None
            attn = heads and SelfAttention(width_out, *heads, group_channels)
            return Block(
                ResidualBlock(width_in, width_out, dropout, resample, group_channels), attn
            )

        def resampling(width: int, attend: bool, up: bool) -> Block | ConvResample:
            if not resample_with_res:
                return ConvResample(width, up)
            resize = nn.Upsample(scale_factor=2, mode="nearest") if up else nn.AvgPool2d(2)
            return block(width, width, attend and attend_after_resampling, resize)

        self.time_embed = nn.Sequential(
            linear(hid_channels, embedding_dim), nn.SiLU(), linear(embedding_dim, embedding_dim)
        )
        self.label_embed = linear(num_classes, embedding_dim) if num_classes else None
        self.guidance_embed = (
            linear(hid_channels, embedding_dim, zero=True) if guidance_range else None
        )
        self.second_embed = (
            nn.Sequential(
                linear(hid_channels, embedding_dim),
                nn.SiLU(),
                linear(embedding_dim, embedding_dim, zero=True),
            )
            if second_time
            else None
        )
        self.in_conv = conv(in_channels, hid_channels, 3)

        widths = [hid_channels * m for m in ch_multipliers]
        width, skips = hid_channels, [hid_channels]
        self.down = nn.ModuleList()
        for level, level_width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.down.append(block(width, level_width, attention[level]))
                width = level_width
                skips.append(width)
            if level < levels - 1:
                self.down.append(resampling(width, attention[level], up=False))
                skips.append(width)

        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])

        self.up = nn.ModuleList()
        self.takes_skip: list[bool] = []
        for level in reversed(range(levels)):
            for _ in range(num_res_blocks + 1):
                self.up.append(block(width + skips.pop(), widths[level], attention[level]))
                self.takes_skip.append(True)
                width = widths[level]
            if level > 0:
                self.up.append(resampling(width, attention[level], up=True))
                self.takes_skip.append(False)

        self.out_norm = group_norm(width, group_channels)
        self.out_conv = conv(width, out_channels, 3, zero=True)
        # Shift and scale of every block by one matrix product instead of one in each block.
        self.modulation_widths = [
            2 * b.residual.out_channels if isinstance(b, Block) else 0 for b in self._blocks()
        ]
        self.modulation = linear(embedding_dim, sum(self.modulation_widths))
        self.to(memory_format=torch.channels_last)

    def _blocks(self) -> list[Block | ConvResample]:
        return [*self.down, *self.middle, *self.up]

    def _run(
        self, block: nn.Module, h: Tensor, modulation: Tensor, keys: Tensor | None, layer: int
    ) -> Tensor:
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return block(h, modulation, keys, layer)
        # When backward computes the block again, functional_call has put the module's own
        # parameters back: keep those of now.
        params: dict[str, Tensor] = dict(block.named_parameters())
        return checkpoint(
            lambda *inputs: functional_call(block, params, inputs),
            h,
            modulation,
            keys,
            layer,
            use_reentrant=False,
        )

    def time_features(self, t: Tensor) -> Tensor:
        """What the network sees of times [B]: sinusoids [B, C], float64."""
        slower = _SMOOTH if self.time_embedding == "smooth" else 1
        return sinusoidal_embedding(t / slower, self.hid_channels)

    def embed(
        self, t: Tensor, y: Tensor | None, w: Tensor | None = None, r: Tensor | None = None
    ) -> Tensor:
        """Conditioning of times, labels and guidance.

        Args:
            t: time [B] in [0, 1].
            y: labels [B] or [B, K]; None leaves out their bias as well.
            w: guidance weights [B] in ``guidance_range``, or None where the network takes none.
            r: second time [B] in [0, t], where the network takes one; None is t.

        Returns:
            [B, E].

        Raises:
            ValueError: for labels of an unconditional network.
        """
        dtype = self.modulation.weight.dtype
        embedding = self.time_embed(self.time_features(t).to(dtype))
        if self.guidance_embed is not None and self.guidance_range is not None and w is not None:
            low, high = self.guidance_range
            relative = (w - low) / (high - low)  # what guidance does is smooth in w
            features = sinusoidal_embedding(relative / _SMOOTH, self.hid_channels)
            embedding = embedding + self.guidance_embed(features.to(dtype))
        if self.second_embed is not None:
            ahead = torch.zeros_like(t) if r is None else t - r
            features = sinusoidal_embedding(ahead / _SMOOTH, self.hid_channels)
            embedding = embedding + self.second_embed(features.to(dtype))
        if y is None:
            return embedding
        if self.label_embed is None:
            raise ValueError("expected no labels for an unconditional network, got some; pass None")
        if self.multitags:
            features = y / y.sum(-1, keepdim=True).clamp(min=1).sqrt()
        else:
            classes = torch.arange(1, self.num_classes + 1, device=y.device)
            features = y.unsqueeze(-1) == classes
        return embedding + self.label_embed(features.to(dtype))

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        w: Tensor | None = None,
        r: Tensor | None = None,
    ) -> Tensor:
        """Predict from noisy data.

        Args:
            z: noisy data [B, C_in, H, W].
            t: time [B] in [0, 1].
            y: labels [B] or [B, K], or None.
            w: guidance weights [B] in ``guidance_range``, or None where the network takes none.
            r: second time [B] in [0, t], where the network takes one; None is t.

        Returns:
            output [B, C_out, H, W], dtype of ``z`` (under autocast too).

        Raises:
            ValueError: if z does not fit the network, labels are not one for each sample, or go to
                an unconditional network, guidance is missing or not wanted, or so is a second time.
        """
        _check_input(z, self.in_channels)
        if y is not None:
            _check_labels(y, (len(z), self.num_classes) if self.multitags else (len(z),))
        _check_weights(w, self.guidance_range, len(z))
        _check_second_time(r, self.second_time, len(z))
        with full_precision(z.device):  # 8 bits would blur neighbouring times
            embedding = F.silu(self.embed(t, y, w, r))
        keys = current_keys(len(z)) if self.training and self.dropout else None
        layers = enumerate(self.modulation(embedding).split(self.modulation_widths, dim=-1))

        def run(block: nn.Module, h: Tensor) -> Tensor:
            layer, modulation = next(layers)
            return self._run(block, h, modulation, keys, layer)

        padded = pad_to_multiple(z, 2 ** (self.levels - 1))
        h = self.in_conv(padded.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for block in self.down:
            h = run(block, h)
            skips.append(h)
        for block in self.middle:
            h = run(block, h)
        for block, takes_skip in zip(self.up, self.takes_skip, strict=True):
            if takes_skip:
                h = torch.cat([h, skips.pop()], dim=1)
            h = run(block, h)
        out = self.out_conv(silu(self.out_norm(h)))
        return cut_to_size(out, *z.shape[2:]).to(z.dtype)


def _heads(width: int, num_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    """Number and width of heads from either number, or as both are given."""
    if num_heads is not None and head_dim is not None:
        return num_heads, head_dim
    given = head_dim or num_heads or 1
    if width % given:
        raise ValueError(
            f"expected num_heads or head_dim to divide the width {width} of an attention level, "
            f"got num_heads={num_heads}, head_dim={head_dim}"
        )
    other = width // given
    return (other, given) if head_dim else (given, other)


def _check_input(z: Tensor, in_channels: int) -> None:
    if z.ndim != 4 or z.shape[1] != in_channels:
        raise ValueError(f"expected z of shape [B, {in_channels}, H, W], got {tuple(z.shape)}")


def _check_labels(y: Tensor, expected: tuple[int, ...]) -> None:
    """By shape only: looking at the values would wait for the device."""
    if tuple(y.shape) != expected:
        raise ValueError(
            f"expected labels of shape {expected}, one for each sample of z, got {tuple(y.shape)}"
        )


def _check_weights(w: Tensor | None, known: Sequence[float] | None, count: int) -> None:
    """By shape only, likewise."""
    if known is None:
        if w is not None:
            raise ValueError("expected no guidance for a network that does not take it, got some")
    elif w is None or tuple(w.shape) != (count,):
        raise ValueError(
            f"expected guidance of shape ({count},) for a network that takes it as an input, "
            f"got {None if w is None else tuple(w.shape)}"
        )


def _check_second_time(r: Tensor | None, known: bool, count: int) -> None:
    """By shape only, likewise."""
    if r is None:
        return
    if not known:
        raise ValueError("expected no second time for a network that does not take it, got some")
    if tuple(r.shape) != (count,):
        raise ValueError(
            f"expected a second time of shape ({count},), one for each sample of z, "
            f"got {tuple(r.shape)}"
        )
