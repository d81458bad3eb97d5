"""The network of EDM (Karras et al. 2022) as one of ours, from a checkout that VFN_EDM names."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vfn import ops

NEAR_ZERO = 1e-4  # deviation of such weights
CHECKOUT = os.environ.get("VFN_EDM", "")


def _networks() -> Any:
    if CHECKOUT not in sys.path:
        sys.path.insert(0, CHECKOUT)
    from training import networks

    return networks


class SongUNet(nn.Module):
    """EDM's DDPM++ network, as it is trained there or with our prediction.

    Args:
        in_channels: of the pictures.
        num_classes: K.
        preconditioned: D(z / alpha, sigma / alpha), which predicts x0; else its raw output, given
            z, as a prediction of v.
        width: base width.
        attention: sides of the maps with attention.
        skip_scale: of the sum in a residual block; sqrt(1/2) there.
        label_scale: of the one-hot labels; sqrt(K) there.
        own_start: as initialised there; else convolutions and products as torch initialises them,
            but those that start near zero.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, preconditioned: bool = True, width: int = 32,
        attention: Sequence[int] = (4,), skip_scale: float = 0.5**0.5,
        label_scale: float | None = None, own_start: bool = True, **_others: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_classes, self.preconditioned = num_classes, preconditioned
        self.edm = _networks().EDMPrecond(
            8, in_channels, label_dim=num_classes, model_type="SongUNet", model_channels=width,
            channel_mult=[1, 2], num_blocks=2, attn_resolutions=list(attention), dropout=0.0,
        )  # fmt: skip
        # It insists on this dtype, which autocast would change.
        self.edm.model.register_forward_hook(lambda _net, _given, out: out.float())
        for block in self.edm.modules():
            if hasattr(block, "skip_scale"):
                block.skip_scale = skip_scale
        if not own_start:
            for weight in self.edm.parameters():
                if weight.dim() > 1 and weight.std() > NEAR_ZERO:
                    nn.init.kaiming_uniform_(weight, a=5**0.5)
        self.label_factor = 1.0 if label_scale is None else label_scale / num_classes**0.5
        self.schedule = ops.logsnr_schedule("cosine")

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict x0 or v at z."""
        logsnr = self.schedule.logsnr(t.double())
        classes = torch.zeros(len(z), dtype=torch.long) if y is None else y
        labels = F.one_hot(classes, self.num_classes + 1)[:, 1:] * self.label_factor
        if self.preconditioned:
            alpha = torch.sigmoid(logsnr).sqrt().view(-1, 1, 1, 1)
            x = (z / alpha).float()
            predicted: Tensor = self.edm(x, (-logsnr / 2).exp().float(), labels)
        else:
            predicted = self.edm.model(z, (-logsnr / 8).float(), class_labels=labels)
        return predicted
