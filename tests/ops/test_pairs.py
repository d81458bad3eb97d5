"""PSNR and SSIM beside scipy's filters and numbers worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from vfn.ops import psnr, ssim


def by_scipy(x, y, peak, radius):
    """SSIM of one channel, its windows within the picture."""

    def local(values):
        found = gaussian_filter(values, 1.5, radius=radius)
        return found[radius : len(x) - radius, radius : x.shape[1] - radius]

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    both = local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return (top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()


@pytest.mark.parametrize(("size", "radius"), [((20, 17), 5), ((8, 12), 3)])
def test_similarity_is_that_of_scipys_windows(size, radius):
    """The window of 11 pixels; in a picture of 8 one of 7."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (2, 3, *size), dtype=np.uint8)
    y = np.clip(x + draw.normal(0, 30, x.shape), 0, 255).astype(np.uint8)
    got = ssim(torch.from_numpy(x), torch.from_numpy(y), 255.0)
    for i in range(2):
        channels = [by_scipy(x[i, c].astype(float), y[i, c].astype(float), 255.0, radius)
                    for c in range(3)]  # fmt: skip
        assert got[i].item() == pytest.approx(np.mean(channels), rel=1e-9)
    assert ((got > 0.1) & (got < 0.95)).all()


def test_ratio_is_that_of_the_mean_error():
    """A picture off by 16 levels of 256 everywhere: 20 log10(255/16)."""
    x = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(x, x + 16, 255.0).item() == pytest.approx(20 * np.log10(255 / 16))
    half = torch.cat([x[..., :2] + 16, x[..., 2:]], -1)
    assert psnr(x, half, 255.0).item() == pytest.approx(20 * np.log10(255 / 16) + 10 * np.log10(2))
    assert psnr(x, x, 255.0).item() == float("inf")
    assert ssim(x, x, 255.0).item() == 1


@pytest.mark.parametrize("figure", [psnr, ssim])
def test_pictures_are_not_compared_with_others_than_their_own(figure):
    with pytest.raises(ValueError, match="expected y of the shape of x"):
        figure(torch.zeros(4, 1, 16, 16), torch.zeros(1, 1, 16, 16), 1.0)
