"""Networks, used as functions of their parameters."""

from vfn.nn.denoiser import denoiser, with_params
from vfn.nn.unet import UNet

__all__ = ["UNet", "denoiser", "with_params"]
