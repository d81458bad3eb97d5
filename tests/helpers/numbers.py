"""Numbers that several tests try, and how far they are from those that are expected."""

import torch


def neighbours():
    """(logsnr_t, logsnr_s) over ±30 with gaps from 1e-6 to 40."""
    noisy = torch.linspace(-30, 20, 26, dtype=torch.float64)
    gaps = torch.logspace(-6, 1.6, 13, dtype=torch.float64)
    pairs = torch.cartesian_prod(noisy, gaps)
    return pairs[:, 0], (pairs[:, 0] + pairs[:, 1]).clamp(max=30)


def relative_error(got, expected):
    """The largest difference, relative to the largest number."""
    return ((got - expected).abs().max() / expected.abs().max()).item()
