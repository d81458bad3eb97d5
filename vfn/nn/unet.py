"""The UNet of v-objective diffusion.

Shapes: z [B, C_in, H, W], t [B], labels y [B] (class 1..K, 0 = unconditional) or [B, K] (0/1 tags,
all zero = unconditional), guidance w [B] where it is an input, output [B, C_out, H, W]. H and W
that are no multiples of patch_size 2^(levels - 1) get zeros around them inside.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vfn.nn.conditioning import Conditioned
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
    run_block,
    silu,
)
from vfn.nn.network import TimeEmbedding, unet_faults


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


class UNet(Conditioned):
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
        vector_dim: D numbers of each picture that the network takes as an input; 0 for none.
        image_channels: C' channels of a picture that it takes beside those of z; 0 for none.
        augment_dim: A parameters of augmentation that it takes; 0 for none.
        checkpoint_activations: keep only what goes from block to block for the backward pass and
            compute the rest again: less memory, a third more time.
        patch_size: p: the first level sees patches of p x p pixels as p^2 times as many channels,
            at 1/p of the resolution. Large maps of few channels take most of the time on a CPU.
        input_gain: the last layer gives a gain g of each value of z beside what it predicts, and
            the output is prediction + g z. What of z is noise need not pass through normalisations
            then: smooth parts of pictures become smooth much earlier.

    Raises:
        ValueError: for a combination that has no network.

    Source: Salimans & Ho 2022 (2202.00512); Nichol & Dhariwal 2021 (2102.09672); guidance as an
    input: Meng et al. 2023 (2210.03142), section 3; the second time: Geng et al. 2025 (2505.13447);
    patches: Hoogeboom et al. 2023 (2301.11093), section 3.3.

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
        vector_dim: int = 0,
        image_channels: int = 0,
        augment_dim: int = 0,
        patch_size: int = 1,
        input_gain: bool = False,
    ) -> None:
        embedding_dim = embedding_dim or 4 * hid_channels
        levels = len(ch_multipliers)
        attention = [apply_attn] * levels if isinstance(apply_attn, bool) else list(apply_attn)
        if faults := unet_faults(hid_channels, ch_multipliers, num_res_blocks, attention):
            raise ValueError("; ".join(faults))
        if patch_size < 1:
            raise ValueError(f"expected patch_size at least 1, got {patch_size}")
        if input_gain and out_channels % in_channels:
            raise ValueError(
                f"expected out_channels to be a multiple of in_channels {in_channels} with "
                f"input_gain, got {out_channels}"
            )
        super().__init__(
            hid_channels, embedding_dim, num_classes, multitags, guidance_range, time_embedding,
            second_time, vector_dim, image_channels, augment_dim,
        )  # fmt: skip
        self.in_channels, self.out_channels = in_channels, out_channels
        self.hid_channels, self.levels = hid_channels, levels
        self.num_res_blocks, self.dropout = num_res_blocks, dropout
        self.checkpoint_activations = checkpoint_activations
        self.patch_size, pixels = patch_size, patch_size**2
        self.input_gain = input_gain

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

        self.in_conv = conv(pixels * (in_channels + image_channels), hid_channels, 3)

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
        outputs = 2 * out_channels if input_gain else out_channels
        self.out_conv = conv(width, pixels * outputs, 3, zero=True)
        # Shift and scale of every block by one matrix product instead of one in each block.
        self.modulation_widths = [
            2 * b.residual.out_channels if isinstance(b, Block) else 0 for b in self._blocks()
        ]
        self.modulation = linear(embedding_dim, sum(self.modulation_widths))
        self.to(memory_format=torch.channels_last)

    def _blocks(self) -> list[Block | ConvResample]:
        return [*self.down, *self.middle, *self.up]

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
        _check_input(z, self.in_channels)
        self.check_conditions(z, y, w, r, vector, image, augment)
        with full_precision(z.device):  # 8 bits would blur neighbouring times
            embedding = F.silu(self.embed(t, y, w, r, vector, augment))
        keys = current_keys(z.shape[0]) if self.training and self.dropout else None
        layers = enumerate(self.modulation(embedding).split(self.modulation_widths, dim=-1))

        def run(block: nn.Module, h: Tensor) -> Tensor:
            layer, modulation = next(layers)
            return run_block(block, self.checkpoint_activations, h, modulation, keys, layer)

        seen = z if image is None else torch.cat([z, image.to(z.dtype)], dim=1)
        padded = pad_to_multiple(seen, self.patch_size * 2 ** (self.levels - 1))
        patches = F.pixel_unshuffle(padded, self.patch_size) if self.patch_size > 1 else padded
        h = self.in_conv(patches.contiguous(memory_format=torch.channels_last))
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
        out = F.pixel_shuffle(out, self.patch_size) if self.patch_size > 1 else out
        out = cut_to_size(out, *z.shape[2:])
        if self.input_gain:
            prediction, gain = out.unflatten(1, (2, -1, self.in_channels)).unbind(1)
            out = (prediction + gain * z[:, None]).flatten(1, 2)
        return out.to(z.dtype)


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
