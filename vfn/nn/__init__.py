"""Networks, used as functions of their parameters."""

from vfn.nn.denoiser import denoiser, network_output
from vfn.nn.unet import UNet

__all__ = ["UNet", "denoiser", "network_output"]
