"""The log-likelihood of data under the probability flow."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops._coef import rows, same_shape
from vfn.ops.editing import encode
from vfn.ops.integration import Denoiser, as_grid
from vfn.ops.multistep import turn
from vfn.ops.predictions import v_from_x0
from vfn.ops.solvers import adams_solver


class FlowLoglik(NamedTuple):
    """Log-likelihood in nats by probe and sample [P, B], and the number of evaluations."""

    loglik: Tensor
    nfe: int


def dequantize(x0: Tensor, u: Tensor) -> Tensor:
    """8-bit pictures with uniform noise of one level's width: ``x0 + (u - 1/2) 2/255``.

    Args:
        x0: pictures in [-1, 1], multiples of 2/255 from -1.
        u: uniform draws in (0, 1), shape of ``x0``.

    Returns:
        shape and dtype of ``x0``.

    Raises:
        ValueError: if the shapes differ.

    Source: Theis et al. 2015 (1511.01844), section 3.1.

    >>> dequantize(torch.tensor([1.0]), torch.tensor([0.5]))
    tensor([1.])
    """
    same_shape(x0, u, "x0", "u")
    return x0 + (u - 0.5) * (2 / 255)


def flow_loglik(denoise: Denoiser, x0: Tensor, logsnrs: Tensor, probes: Tensor) -> FlowLoglik:
    """Log-likelihood of data under the probability flow, by Hutchinson's estimate of its trace.

    ``log p(x0) = log N(z_1; 0, 1) + int div v dphi``, the flow ``dz/dphi = v`` followed from data
    to noise by the corrected Adams method and the integral taken by the trapezoidal rule, both of
    second order. ``div v`` is estimated by ``e . (dv/dz) e``, one backward pass for each probe.

    Args:
        denoise: ``denoise(z, logsnr) -> x0``, differentiable, without clipping of x0.
        x0: data with a density, such as `dequantize` makes [B, ...], at the grid's last logsnr.
        logsnrs: [N+1] as for `sample`, from noise to data; the end is finite. Uniform in logsnr it
            resolves the finest structure as well as the coarsest.
        probes: e [P, B, ...], of zero mean and unit covariance: random signs, or normal draws.

    Returns:
        FlowLoglik(loglik, nfe): nats [P, B], dtype of ``x0``; nfe is N + 1.

    Raises:
        ValueError: for shapes or grids that do not fit.

    Source: Song et al. 2020 (2011.13456), eqs. 39 and 40.

    >>> x0, grid = torch.zeros(1, 2), torch.linspace(-20, 20, 9)
    >>> def standard_normal(z, logsnr):
    ...     return torch.sigmoid(logsnr).sqrt().to(z.dtype)[:, None] * z
    >>> flow_loglik(standard_normal, x0, grid, torch.ones(1, 1, 2)).loglik  # -log(2 pi)
    tensor([[-1.8379]])
    """
    if probes.ndim != x0.ndim + 1 or probes.shape[1:] != x0.shape or not len(probes):
        raise ValueError(
            f"expected probes of shape [P, {', '.join(map(str, x0.shape))}] with P >= 1, got "
            f"{tuple(probes.shape)}"
        )
    grid = as_grid(logsnrs, x0)
    places, traces = [], []

    def watched(z: Tensor, logsnr: Tensor) -> Tensor:
        def velocity(z: Tensor) -> tuple[Tensor, Tensor]:
            prediction = denoise(z, logsnr)
            return v_from_x0(z, prediction, logsnr), prediction

        _, pull, prediction = torch.func.vjp(velocity, z, has_aux=True)  # type: ignore[misc]
        places.append(logsnr)
        traces.append(torch.stack([rows(probe * pull(probe)[0]).sum(1) for probe in probes]))
        return prediction

    z, nfe = encode(watched, x0, grid, adams_solver(correct=True))
    watched(z, grid[0].expand(z.shape[0]))
    angles = turn(torch.stack(places[1:]), torch.stack(places[:-1])).unsqueeze(1)
    at = torch.stack(traces)  # [N+1, P, B]
    integral = 0.5 * (angles * (at[1:] + at[:-1])).sum(0)
    density = -0.5 * rows(z.double().square() + math.log(2 * math.pi)).sum(1)
    return FlowLoglik((density + integral).to(x0.dtype), nfe + 1)


def loglik_bpd(loglik: Tensor, dims: int) -> Tensor:
    """Bits per dimension of 8-bit pictures from the log-density of their dequantized values.

    ``-loglik / (dims log 2) + log2(255/2)``: the mean over `dequantize`'s draws bounds the bits of
    the pictures themselves from above.

    Args:
        loglik: nats of pictures in [-1, 1], any shape, such as `flow_loglik` gives.
        dims: values in a picture.

    Returns:
        bits per dimension, shape of ``loglik``.

    Raises:
        ValueError: if ``dims < 1``.

    Source: Theis et al. 2015 (1511.01844), section 3.1.

    >>> loglik_bpd(torch.tensor(0.0), 1)
    tensor(6.9944)
    """
    if dims < 1:
        raise ValueError(f"expected dims >= 1, got {dims}")
    return math.log2(255 / 2) - loglik / (dims * math.log(2))
