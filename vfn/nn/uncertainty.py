"""How uncertain a loss is at each noise level, learned beside the network.

Shapes: B batch, F frequencies.
"""

import math

import torch
from torch import Tensor, nn

from vfn.ops.words import FARTHEST

FREQUENCIES = 64
SPAN = 8.0  # of logsnr: the slowest features turn once in some of it, the fastest in a third


class Uncertainty(nn.Module):
    """A number for each noise level: Fourier features of logsnr and one linear layer.

    ``u = w . sqrt(2) [cos(2 pi f l/8), sin(2 pi f l/8)] + b``, with the frequencies f at the
    quantiles of a normal distribution's magnitudes. It starts at 0, where `balanced_loss` is the
    loss itself.

    Args:
        frequencies: F, half as many as there are features.

    Source: Karras et al. 2023 (2312.02696), appendix B.3, with frequencies that are not drawn.

    >>> Uncertainty()(torch.tensor([-20.0, 0.0, 20.0]))
    tensor([0., 0., 0.], grad_fn=<AddBackward0>)
    """

    angles: Tensor

    def __init__(self, frequencies: int = FREQUENCIES) -> None:
        super().__init__()
        shares = (torch.arange(frequencies, dtype=torch.float64) + 0.5) / frequencies
        normal = torch.special.ndtri(0.5 + 0.5 * shares)
        self.register_buffer("angles", 2 * math.pi / SPAN * normal, persistent=False)
        self.weight = nn.Parameter(torch.zeros(2 * frequencies))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, logsnr: Tensor) -> Tensor:
        """The uncertainty u at noise levels.

        Args:
            logsnr: [B], any floating dtype; levels beyond ±700, such as pure noise, are one.

        Returns:
            u [B], float32.
        """
        level = logsnr.double().clamp(-FARTHEST, FARTHEST)
        turned = level.unsqueeze(-1) * self.angles
        features = torch.cat([turned.cos(), turned.sin()], -1) * math.sqrt(2)
        return features.to(self.weight.dtype) @ self.weight + self.bias
