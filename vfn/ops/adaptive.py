"""Sampling with a step size that follows the error, for each sample on its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import from_left, rows
from vfn.ops.integration import (
    Counted,
    Denoiser,
    Sample,
    Watch,
    as_grid,
    check_forgetful,
    check_grid,
)
from vfn.ops.multistep import add_terms, turn
from vfn.ops.predictions import v_from_x0
from vfn.ops.words import Ending, check_choice

# Bogacki & Shampine's pair of orders 3 and 2: where the stages are, how they enter the next one,
# the result, and its difference from the result of second order.
_STAGES = ((0.5, (0.5,)), (0.75, (0.0, 0.75)), (1.0, (2 / 9, 1 / 3, 4 / 9)))
_ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)
_ORDER = 3
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0
_SHORTEST = 1e-4  # of the way, a step in which a prediction is to be finite


def sample_adaptive(
    denoise: Denoiser,
    z: Tensor,
    logsnrs: Tensor,
    tolerance: float = 0.003,
    noise: Callable[[int], Tensor] | None = None,
    callback: Watch | None = None,
    final: Ending = "x0",
    max_steps: int = 1000,
) -> Sample:
    """Integrate from noise to data with steps as long as a tolerance allows.

    ``dz/dphi = v`` by the pair of Bogacki and Shampine, of third order, with its embedded estimate
    of the error; ``alpha = cos phi``, ``sigma = sin phi``. Each sample has its own angle, step and
    decision, so that it does not depend on the others of its batch: the batch goes on until the
    last has arrived, or is no longer finite. Unlike in the other solvers, each step waits for the
    device once.

    Args:
        denoise: ``denoise(z, logsnr) -> x0`` with logsnr [B], float64.
        z: start noise [B, ...], standard normal.
        logsnrs: a grid as for `sample`, of which the ends and the length of the first step are
            used; if it ends at +inf, the value before is taken for the end.
        tolerance: bound of the error of a step, the root mean square over a sample of the error
            divided by ``1 + |z|``, > 0.
        noise: not used; deterministic.
        callback: called as ``callback(i, z, x0)`` with the state before each attempted step and its
            prediction.
        final: ``x0`` gives the prediction at the end, ``step`` the state itself.
        max_steps: most steps that are attempted.

    Returns:
        Sample(x0, nfe): three evaluations for each attempted step, and one.

    Raises:
        ValueError: for a grid without a step, a tolerance that is not positive, a denoiser with a
            memory, or when ``max_steps`` are not enough.

    Source: Bogacki & Shampine 1989, "A 3(2) pair of Runge-Kutta formulas".

    >>> z, grid = torch.randn(2, 3), torch.linspace(-20, 20, 9)
    >>> sample_adaptive(lambda z, logsnr: 0 * z, z, grid).x0.abs().max().item()
    0.0
    """
    del noise
    grid = as_grid(logsnrs, z)
    check_choice(final, Ending, "final")
    check_forgetful(denoise)
    if not tolerance > 0:
        raise ValueError(f"expected tolerance > 0, got {tolerance}")
    grid = grid[: len(grid) - int(grid[-1].isposinf())]
    check_grid(grid)
    start, end = grid[0].expand(z.shape[0]), grid[-1].expand(z.shape[0])
    counted = Counted(denoise)
    left = turn(start, end)  # the angle still to go
    shortest = _SHORTEST * left
    step, attempt = turn(start, grid[1].expand(z.shape[0])), 0
    x0 = counted(z, start)
    first = v_from_x0(z, x0, start)
    while bool((left > 0).any()):
        if attempt == max_steps:
            raise ValueError(
                f"expected the adaptive sampler to arrive within {max_steps} steps, but with "
                f"tolerance {tolerance} it did not; choose a larger tolerance"
            )
        if callback is not None:
            callback(attempt, z, x0)
        step, attempt = torch.minimum(step, left), attempt + 1
        after, x0_after, slopes = _stages(counted, z, first, step, left, end)
        ratio = _error(z, after, step, slopes) / tolerance
        # What is not finite even in so short a step ends there, as it is.
        lost = ~ratio.isfinite() & (step <= shortest)
        good = ((ratio <= 1) | lost) & (left > 0)
        taken = from_left(good, z)
        z, x0, first = (
            torch.where(taken, new, old)
            for old, new in ((z, after), (x0, x0_after), (first, slopes[-1]))
        )
        left = torch.where(good, left - step, left).masked_fill(lost, 0)
        step = step * (_SAFETY * ratio ** (-1 / _ORDER)).nan_to_num(_SHRINK).clamp(_SHRINK, _GROW)
    return Sample(x0 if final == "x0" else z, counted.calls)


def _stages(
    denoise: Denoiser, z: Tensor, first: Tensor, step: Tensor, left: Tensor, end: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The state after a step, the prediction there, and the slopes of all four stages."""
    slopes = [first]
    for share, weights in _STAGES:
        after = _turned(z, step, weights, slopes)
        ahead = left - share * step
        logsnr = torch.where(ahead > 0, _logsnr_before(end, ahead), end)
        x0 = denoise(after, logsnr)
        slopes.append(v_from_x0(after, x0, logsnr))
    return after, x0, slopes


def _error(z: Tensor, after: Tensor, step: Tensor, slopes: list[Tensor]) -> Tensor:
    """Root mean square over each sample of the estimated error, divided by ``1 + |z|`` [B]."""
    error = _turned(torch.zeros_like(z), step, _ERROR, slopes)
    size = error / (1 + torch.maximum(z.abs(), after.abs()))
    return rows(size.double()).square().mean(1).sqrt()


def _turned(z: Tensor, step: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """State z turned towards data by a weighted mean of the slopes."""
    pairs = zip(weights, slopes, strict=True)
    return add_terms(
        z, [(-weight * from_left(step, z), slope) for weight, slope in pairs if weight]
    )


def _logsnr_before(end: Tensor, angle: Tensor) -> Tensor:
    """The logsnr that lies an angle before ``end``: ``-2 log tan(phi_end + angle)``."""
    sine, cosine = torch.sin(angle), torch.cos(angle)
    alpha, sigma = _coef.alpha(end), _coef.sigma(end)
    return 2 * (torch.log(alpha * cosine - sigma * sine) - torch.log(sigma * cosine + alpha * sine))
