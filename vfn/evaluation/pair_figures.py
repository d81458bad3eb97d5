"""How near each fake picture comes to the real one that it has the condition of."""

from collections.abc import Callable

import torch
from torch import Tensor

from vfn.data import Dataset
from vfn.evaluation.held_out import some_of
from vfn.evaluation.sides import Figure, Judged
from vfn.ops import mean_and_error, psnr, ssim

_BLOCK = 256  # pictures at a time


def pairs_of(judged: Judged) -> tuple[Tensor, Tensor]:
    """Real pictures and their fakes [N, C, H, W], in order; of more real ones those asked for."""
    real, fake = judged.sides.real, judged.sides.fake
    assert isinstance(real, Dataset)  # refused otherwise
    assert isinstance(fake, Dataset)
    return some_of(real.images, len(fake.images)), fake.images


def psnr_figures(judged: Judged) -> list[Figure]:
    """Mean over the pictures, and its standard error."""
    values = _of_pairs(judged, psnr)
    note = "mean over the pictures, each at most 100 dB"
    return [_figure(judged, "psnr", values.clamp(max=100), note)]


def ssim_figures(judged: Judged) -> list[Figure]:
    """Mean over the pictures, and its standard error."""
    values = _of_pairs(judged, ssim)
    return [_figure(judged, "ssim", values, "Gaussian window of 11 pixels, mean over the pictures")]


def _of_pairs(judged: Judged, figure: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """A figure of each pair [N]."""
    real, fake = pairs_of(judged)
    peak = 1.0 if fake.is_floating_point() else 255.0
    blocks = torch.arange(len(fake)).split(_BLOCK)
    return torch.cat([figure(fake[rows], real[rows], peak) for rows in blocks])


def _figure(judged: Judged, key: str, values: Tensor, note: str) -> Figure:
    mean, error = mean_and_error(values.double())
    deviation = error.item() if len(values) > 1 else None
    return judged.figure(key, mean.item(), None, note, error=deviation)
