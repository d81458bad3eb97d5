"""How near pictures come to others, one by one."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # pixels of SSIM's window, and its deviation
C1, C2 = 0.01**2, 0.03**2


def _check_alike(x: Tensor, y: Tensor) -> None:
    """Refuse pictures of two shapes: each is compared with its own."""
    if x.shape != y.shape:
        raise ValueError(f"expected y of the shape of x, {list(x.shape)}, got {list(y.shape)}")


def psnr(x: Tensor, y: Tensor, peak: float) -> Tensor:
    """Peak signal-to-noise ratio ``10 log10(peak^2 / mean (x - y)^2)``, in dB.

    Args:
        x: pictures [B, C, H, W], any number type.
        y: others of that shape.
        peak: largest value less the smallest one, such as 255 or 2.

    Returns:
        float64 [B]; infinite where both are the same.

    Raises:
        ValueError: if the shapes differ.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), peak=10.0)
    tensor([20.], dtype=torch.float64)
    """
    _check_alike(x, y)
    error = (x.double() - y.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def ssim(x: Tensor, y: Tensor, peak: float) -> Tensor:
    """Structural similarity: means, variances and covariance in Gaussian windows.

    ``(2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x^2 + s_y^2 + c2))``, averaged over
    the channels and all windows that lie within the picture; c1, c2 = (0.01 peak)^2, (0.03 peak)^2.
    The window has 11 pixels and deviation 1.5; in smaller pictures it is the largest odd one.

    Args:
        x: pictures [B, C, H, W], any number type.
        y: others of that shape.
        peak: largest value less the smallest one.

    Returns:
        float64 [B], at most 1.

    Raises:
        ValueError: if the shapes differ.

    Source: Wang et al. 2004, Image quality assessment, eq. 13.

    >>> ssim(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8), peak=1.0)
    tensor([1.], dtype=torch.float64)
    """
    _check_alike(x, y)
    x, y = x.double(), y.double()
    side = min(WINDOW, *x.shape[2:])
    side -= 1 - side % 2
    place = torch.arange(side, dtype=torch.float64, device=x.device) - side // 2
    line = torch.exp(-0.5 * (place / SIGMA).square())
    window = torch.outer(line, line)
    window = (window / window.sum())[None, None]

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values.flatten(0, 1)[:, None], window).unflatten(0, x.shape[:2])

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x.square(), local(y * y) - mean_y.square()
    both = local(x * y) - mean_x * mean_y
    c1, c2 = C1 * peak**2, C2 * peak**2
    near = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    alike = (2 * both + c2) / (var_x + var_y + c2)
    return (near * alike).flatten(1).mean(1)
