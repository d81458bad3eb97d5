"""The UNet with what others do otherwise, for their parameters.

Shapes: z [B, C_in, H, W], t [B], features [B, C, H, W].
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vfn.nn.dropout import dropout
from vfn.nn.layers import NORM_EPS, ConvResample, ResidualBlock, linear, silu
from vfn.nn.unet import Block, UNet

NAME = "vfn.interop.varied_unet:VariedUNet"
PRECONDITIONED = "vfn.interop.varied_unet:PreconditionedUNet"
# By which a network can differ, as the UNet has it.
VARIED: dict[str, Any] = {
    "norm_eps": NORM_EPS, "cos_first": False, "freq_shift": 1.0, "scales": True, "padding": 0,
    "variance": False, "time_scale": 1000.0,
}  # fmt: skip
EDGE = 1e-6  # nearest that a fraction comes to 0 and 1


class ShiftedBlock(ResidualBlock):
    """A residual block whose conditioning is added before the second normalisation.

    x [B, C, H, W], modulation [B, C'] -> [B, C', H', W'].
    """

    def forward(
        self, x: Tensor, modulation: Tensor, keys: Tensor | None = None, layer: int = 0
    ) -> Tensor:
        """Transform x [B, C, H, W] under a modulation [B, C'] -> [B, C', H', W'].

        Args:
            x: features.
            modulation: what is added.
            keys: of the pictures, for the masks of `vfn.nn.dropout`, or None.
            layer: number of this block, likewise.

        Returns:
            features.
        """
        h = self.conv1(self.resample(silu(self.norm1(x)))) + modulation[..., None, None]
        h = silu(self.norm2(h))
        h = self.conv2(dropout(h, self.dropout, self.training, keys, layer))
        return h.add_(self.skip(self.resample(x)))


class VariedUNet(UNet):
    """A UNet that computes as another implementation's does.

    Args:
        in_channels: channels of z.
        out_channels: of the output.
        num_classes: K labels.
        multitags: labels are tags.
        norm_eps: of all normalisations.
        cos_first: cosines before sines in the embedding of time.
        freq_shift: frequencies ``10^(-4 i / (half - freq_shift))``.
        scales: the conditioning scales and shifts after the second normalisation of a block; else
            it is added before.
        padding: zeros around a map that a plain convolution halves: 1 on every side, or 0 for
            below and to the right alone.
        variance: the second half of the output is a variance as ADM has it, (frac + 1)/2.
        time_scale: what t is multiplied by, such as the number of steps of training.
        options: of the `UNet`.

    Source: Dhariwal & Nichol 2021 (2105.05233), section 3; Ho et al. 2020 (2006.11239), appendix B.

    >>> net = VariedUNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1, scales=False)
    >>> net(torch.randn(2, 1, 8, 8), torch.rand(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        multitags: bool = False,
        *,
        norm_eps: float = NORM_EPS,
        cos_first: bool = False,
        freq_shift: float = 1.0,
        scales: bool = True,
        padding: int = 0,
        variance: bool = False,
        time_scale: float = 1000.0,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, num_classes=num_classes, multitags=multitags, **options
        )
        self.norm_eps, self.cos_first, self.freq_shift = norm_eps, cos_first, freq_shift
        self.scales, self.padding, self.variance = scales, padding, variance
        self.time_scale = time_scale
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                module.eps = norm_eps
        if not scales:
            self._shift_alone()
        if padding:
            for block in self.down:
                if isinstance(block, ConvResample):
                    block.resize, block.conv.padding = nn.ZeroPad2d(0), (1, 1)

    def _shift_alone(self) -> None:
        """Blocks, and their conditioning, without a scale."""
        for block in self._blocks():
            if isinstance(block, Block):
                block.residual.__class__ = ShiftedBlock  # the same layers in another order
        self.modulation_widths = [width // 2 for width in self.modulation_widths]
        self.modulation = linear(self.modulation.in_features, sum(self.modulation_widths))

    def time_features(self, t: Tensor) -> Tensor:
        """Times [B] as the network sees them: sinusoids [B, hid_channels], float64."""
        if self.time_embedding == "smooth":
            return super().time_features(t)  # ours: the layers are fitted to it
        half = self.hid_channels // 2
        exponent = torch.arange(half, dtype=torch.float64, device=t.device)
        rates = torch.exp(-math.log(1e4) * exponent / (half - self.freq_shift))
        angle = self.time_scale * t.double().unsqueeze(-1) * rates
        parts = (angle.cos(), angle.sin()) if self.cos_first else (angle.sin(), angle.cos())
        return torch.cat(parts, dim=-1)

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        w: Tensor | None = None,
        **conditions: Tensor | None,
    ) -> Tensor:
        """Predict from noisy data.

        Args:
            z: noisy data [B, C_in, H, W].
            t: time [B] in [0, 1].
            y: labels [B] or [B, K], or None.
            w: guidance weights [B], or None.
            conditions: others, as `UNet` takes them.

        Returns:
            output [B, C_out, H, W]; the fraction of a variance as the logit of what theirs says.
        """
        out = super().forward(z, t, y, w, **conditions)
        if not self.variance:
            return out
        prediction, frac = out.chunk(2, dim=1)
        frac = torch.logit((0.5 * (frac + 1)).clamp(EDGE, 1 - EDGE))
        return torch.cat([prediction, frac], dim=1)


class PreconditionedUNet(VariedUNet):
    """A UNet between EDM's scalings, which gives x0 of data with unit variance of z.

    ``x0 = c_skip x + c_out F(c_in x, log(sigma)/4)`` with ``x = z/alpha``. Its times are those of
    the sigmoid schedule between the levels of ``sigma_max`` and ``sigma_min``.

    Args:
        in_channels: channels of z.
        out_channels: of the output.
        num_classes: K labels.
        multitags: labels are tags.
        boundary: c_skip is 1 and c_out 0 at ``sigma_min``, as of consistency models.
        sigma_data: standard deviation of the data that the scalings are made for.
        sigma_min: lowest noise, of t = 0.
        sigma_max: highest noise, of t = 1.
        options: of the `VariedUNet`.

    Source: Karras et al. 2022 (2206.00364), table 1; Song et al. 2023 (2303.01469), appendix C.

    >>> net = PreconditionedUNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    >>> net(torch.randn(2, 1, 8, 8), torch.rand(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        multitags: bool = False,
        *,
        boundary: bool = False,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, num_classes, multitags, **options)
        self.boundary, self.sigma_data = boundary, sigma_data
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def log_sigma(self, t: Tensor) -> Tensor:
        """Logarithm of the noise at times [B], float64."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return low + t.double() * (high - low)

    def time_features(self, t: Tensor) -> Tensor:
        """Times [B] as the network sees them: of log(sigma)/4, or smooth of t; float64."""
        smooth = self.time_embedding == "smooth"
        return super().time_features(t if smooth else 0.25 * self.log_sigma(t))

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        w: Tensor | None = None,
        **conditions: Tensor | None,
    ) -> Tensor:
        """Predict x0 from noisy data.

        Args:
            z: noisy data [B, C_in, H, W].
            t: time [B] in [0, 1].
            y: labels [B] or [B, K], or None.
            w: guidance weights [B], or None.
            conditions: others, as `UNet` takes them.

        Returns:
            x0 [B, C_out, H, W].
        """
        sigma = self.log_sigma(t).exp()
        data, total = self.sigma_data, (sigma**2 + self.sigma_data**2).sqrt()
        above = sigma - self.sigma_min if self.boundary else sigma
        skip = data**2 / (above**2 + data**2)
        out = above * data / total
        unscaled = (1 + sigma**2).sqrt()  # 1/alpha

        def times(coefficient: Tensor, x: Tensor) -> Tensor:
            return coefficient.to(z.dtype).view(-1, 1, 1, 1) * x

        predicted = super().forward(times(unscaled / total, z), t, y, w, **conditions)
        return times(unscaled * skip, z) + times(out, predicted)


def variations(model: UNet) -> dict[str, Any]:
    """In what a network is as others have it, or as ours is.

    Args:
        model: a `UNet` or `VariedUNet`.

    Returns:
        by the arguments of `VariedUNet`.

    >>> variations(UNet(1, 1, 32, (1,), 1))["scales"]
    True
    """
    return {name: getattr(model, name, usual) for name, usual in VARIED.items()}
