"""Exact scales in 50 digits, and the distance to them in units of the last place."""

import mpmath
import pytest
import torch

mpmath.mp.dps = 50


@pytest.fixture(scope="session")
def exact_scales():
    """``exact_scales(logsnr) -> (alpha, sigma)``, by their definition."""

    def scales(logsnr):
        value = mpmath.mpf(float(logsnr))
        return 1 / mpmath.sqrt(1 + mpmath.exp(-value)), 1 / mpmath.sqrt(1 + mpmath.exp(value))

    return scales


@pytest.fixture(scope="session")
def max_ulp():
    """``max_ulp(got, exact, floor=0)``: the largest error in units in the last place.

    The unit is that of the exact value in got's dtype, or of ``floor`` where that is larger.
    """

    def distance(got, exact, floor=0.0):
        info = torch.finfo(got.dtype)
        errors = []
        for value, true in zip(got.double().flatten().tolist(), exact, strict=True):
            size = max(abs(true), floor, mpmath.mpf(info.tiny))
            unit = mpmath.mpf(info.eps) * 2 ** mpmath.floor(mpmath.log(size, 2))
            errors.append(abs(mpmath.mpf(value) - true) / unit)
        assert errors
        return float(max(errors))

    return distance
