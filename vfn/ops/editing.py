"""Working on given pictures: encoding, interpolation, inpainting, starting half way."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops._coef import Scalar, each_logsnr, from_left, linear_combination, rows, same_shape
from vfn.ops.guidance import mapped
from vfn.ops.integration import (
    Counted,
    Denoiser,
    Sample,
    Solver,
    Span,
    Stepped,
    as_grid,
    integrate,
)
from vfn.ops.multistep import renoise_step
from vfn.ops.process import q_sample
from vfn.ops.steps import ancestral_step, ddim_inverse_step, ddim_step


class Encoding(NamedTuple):
    """Noise [B, ...] that is sampled back to the data, and the number of function evaluations."""

    z: Tensor
    nfe: int


class Start(NamedTuple):
    """A noisy state and the rest of the grid, which begins at its noise level."""

    z: Tensor
    logsnrs: Tensor


def _ddim_inverse(denoise: Denoiser, z: Tensor, span: Span, memory: None) -> Stepped:
    x0 = denoise(z, span.t)
    return Stepped(ddim_inverse_step(z, x0, span.t, span.s), x0, memory)


DDIM_INVERSE = Solver(_ddim_inverse, end=_ddim_inverse)


def encode(
    denoise: Denoiser, x0: Tensor, logsnrs: Tensor, solver: Solver = DDIM_INVERSE
) -> Encoding:
    """Follow the probability flow from data to noise: DDIM inversion.

    Args:
        denoise: ``denoise(z, logsnr) -> x0``.
        x0: data [B, ...], taken for the state at the grid's last logsnr.
        logsnrs: [N+1] as for `sample`, from noise to data; the end is finite.
        solver: one that can go backwards: DDIM inversion, or `adams_solver`, of second order.

    Returns:
        Encoding(z, nfe): nfe is N. `sample` over the same grid leads back to x0, up to the error of
        both solvers.

    Raises:
        ValueError: for a grid without a step, or one that ends at +inf.

    Source: Song et al. 2020 (2010.02502), section 4.3.

    >>> grid = torch.linspace(-20, 20, 5)
    >>> encode(lambda z, logsnr: 0 * z, torch.zeros(1, 2), grid)
    Encoding(z=tensor([[0., 0.]]), nfe=4)
    """
    grid = as_grid(logsnrs, x0)
    if grid[-1].isposinf():
        raise ValueError(
            "expected a grid that ends at a finite logsnr to encode from, got +inf; "
            "leave its last value out"
        )
    z, nfe = integrate(denoise, x0, grid.flip(0), solver, final="step")
    return Encoding(z, nfe)


def slerp(a: Tensor, b: Tensor, fraction: Scalar) -> Tensor:
    """Spherical interpolation of each sample: ``(sin((1-f) w) a + sin(f w) b) / sin w``.

    w is the angle between a and b. Between independent noises the result has the length of noise,
    as a straight line between them has not.

    Args:
        a: [B, ...].
        b: shape of ``a``, not opposite to it.
        fraction: f, a number, [B] or [B, 1, ...]; 0 gives a, 1 gives b.

    Returns:
        shape and dtype of ``a``; the straight line where a and b are parallel.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Shoemake 1985; Song et al. 2020 (2010.02502), section 5.3.

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])
    """
    same_shape(a, b, "a", "b")
    share = each_logsnr(fraction, a, "fraction")
    flat_a, flat_b = rows(a.double()), rows(b.double())
    dot, lengths = (flat_a * flat_b).sum(1), flat_a.norm(dim=1) * flat_b.norm(dim=1)
    cosine = dot / lengths
    bent = cosine < _PARALLEL
    angle = torch.acos(torch.where(bent, cosine, 0.0))
    of_a, of_b = (
        torch.where(bent, torch.sin(part * angle) / torch.sin(angle), part)
        for part in (1 - share, share)
    )
    return linear_combination(from_left(of_a, a), a, from_left(of_b, b), b)


# At an angle of 1e-6 the arc and its chord differ by less than 1e-12.
_PARALLEL = 1 - 5e-13


def _check_mask(mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(
            f"expected mask as bool, True where a pixel is known, got {mask.dtype}; mask > 0.5 "
            "makes one of zeros and ones"
        )


def with_known(denoise: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that knows some of the pixels: inpainting with any solver, at no cost.

    The network sees the known pixels through z alone, so that what it adds need not fit them as
    well as with `inpaint`.

    Args:
        denoise: ``denoise(z, logsnr) -> x0``.
        known: data [B, ...] or [...], of which the pixels under the mask count.
        mask: bool, broadcastable to ``known``: True where it is known.

    Returns:
        denoiser.

    Raises:
        ValueError: for a mask that is not bool.

    >>> half = with_known(lambda z, logsnr: 0 * z, torch.ones(2), torch.tensor([True, False]))
    >>> half(torch.zeros(1, 2), torch.zeros(1))
    tensor([[1., 0.]])
    """
    _check_mask(mask)
    return mapped(denoise, lambda x0: torch.where(mask, known, x0))


def inpaint(
    denoise: Denoiser,
    z: Tensor,
    logsnrs: Tensor,
    known: Tensor,
    mask: Tensor,
    noise: Callable[[int], Tensor],
    step: Callable[..., Tensor] = ancestral_step,
    resample: int = 10,
    jump: int = 10,
) -> Sample:
    """Fill in what is not known: RePaint.

    After each step the known pixels are replaced by themselves at that noise level. Every ``jump``
    steps the state goes back over them, noised again, and down once more, ``resample`` times
    in all, so that the known and the new can come to fit.

    Args:
        denoise: ``denoise(z, logsnr) -> x0``.
        z: start noise [B, ...].
        logsnrs: [N+1], rising from noise to data; the last step gives x0.
        known: data, shape of ``z``.
        mask: bool, broadcastable to ``z``: True where it is known.
        noise: ``noise(k)`` is the standard normal of draw k = 0, 1, ..., shape of ``z``.
        step: `ancestral_step` or `ddim_step`, or either with options bound by
            `functools.partial`.
        resample: how often each stretch is gone through, >= 1; 1 never goes back.
        jump: steps of a stretch, >= 1.

    Returns:
        Sample(x0, nfe) with the known pixels as they are; nfe is about ``resample N``.

    Raises:
        ValueError: for a grid without a step, shapes that do not fit, a mask that is not bool, or
            numbers below 1.

    Source: Lugmayr et al. 2022 (2201.09865), algorithm 1.

    >>> z, grid, mask = torch.zeros(1, 2), torch.linspace(-20, 20, 5), torch.tensor([True, False])
    >>> inpaint(lambda z, logsnr: 0 * z, z, grid, z + 1, mask, lambda k: z, resample=1)
    Sample(x0=tensor([[1., 0.]]), nfe=4)
    """
    grid = as_grid(logsnrs, z)
    same_shape(z, known, "z", "known")
    _check_mask(mask)
    if resample < 1 or jump < 1:
        raise ValueError(f"expected resample and jump >= 1, got {resample} and {jump}")
    calls, draws = Counted(denoise), itertools.count()
    path = _repaint_path(len(grid) - 1, resample, jump)
    grid = torch.cat([grid[:-1], grid.new_full((1,), math.inf)])
    here = next(path)
    for there in path:
        at, to = (grid[i].expand(z.shape[0]) for i in (here, there))
        if there < here:
            z = renoise_step(z, at, to, noise(next(draws)))
        else:
            # The step to the data is that of the flow, as in `sample`: a draw would end in noise.
            last, drawn = there == len(grid) - 1, noise(next(draws))
            x0 = calls(z, at)
            z = ddim_step(z, x0, at, to) if last else step(z, x0, at, to, noise=drawn)
            calls.next_step()
            z = torch.where(mask, q_sample(known, to, noise(next(draws))), z)
        here = there
    return Sample(z, calls.calls)


def _repaint_path(steps: int, resample: int, jump: int) -> Iterator[int]:
    """Places on the grid one after the other: down a step at a time, back by ``jump`` steps."""
    left = dict.fromkeys(range(steps, jump - 1, -jump), resample - 1)
    place = 0
    yield place
    while place < steps or left.get(place, 0):
        if left.get(place, 0):
            left[place] -= 1
            place -= jump
        else:
            place += 1
        yield place


def edit_start(x0: Tensor, logsnrs: Tensor, strength: float, noise: Tensor) -> Start:
    """SDEdit: begin from a noised picture, and sample the rest of the grid.

    Args:
        x0: the picture or sketch [B, ...].
        logsnrs: [N+1], rising from noise to data.
        strength: share of the N steps that is left, in (0, 1], rounded up to one at least: 1 keeps
            next to nothing.
        noise: standard normal, shape of ``x0``.

    Returns:
        Start(z, logsnrs) for `sample`.

    Raises:
        ValueError: for a grid without a step, or a strength out of range.

    Source: Meng et al. 2021 (2108.01073), algorithm 1.

    >>> start = edit_start(torch.ones(1, 2), torch.linspace(-20, 20, 5), 0.5, torch.zeros(1, 2))
    >>> start.z, start.logsnrs
    (tensor([[0.7071, 0.7071]]), tensor([ 0., 10., 20.]))
    """
    grid = as_grid(logsnrs, x0)
    if not 0 < strength <= 1:
        raise ValueError(f"expected strength in (0, 1], got {strength}")
    steps = len(grid) - 1
    # 0.1 of 30 steps is 3, not 3.0000000000000004.
    left = max(1, math.ceil(round(strength * steps, 6)))
    given = isinstance(logsnrs, Tensor) and logsnrs.is_floating_point()
    rest = (logsnrs if given else grid)[steps - left :]
    return Start(q_sample(x0, rest[0].expand(x0.shape[0]), noise), rest)
