"""Solvers made of the steps, and the words by which they are chosen."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from vfn.ops._types import Ending, Sampler, VarType, check_choice
from vfn.ops.adaptive import sample_adaptive
from vfn.ops.predictions import v_from_x0
from vfn.ops.sampling import (
    Denoiser,
    Sample,
    Solver,
    Span,
    Stepped,
    Watch,
    sample,
    single_step,
)
from vfn.ops.solvers import (
    ab2_step,
    am2_step,
    dpmpp_2m_step,
    dpmpp_3m_step,
    heun_step,
    renoise_step,
    unic_step,
)
from vfn.ops.steps import ancestral_step, ddim_step

MAX_CHURN = math.sqrt(2) - 1
# Noise levels that EDM churns: sigma/alpha from 50 down to 0.05.
_CHURNED = (-2 * math.log(50), -2 * math.log(0.05))


class DrawSamples(Protocol):
    """A sampler with its settings: what `sampler` returns."""

    def __call__(
        self,
        denoise: Denoiser,
        z: Tensor,
        logsnrs: Tensor,
        *,
        noise: Callable[[int], Tensor] | None = None,
        callback: Watch | None = None,
    ) -> Sample: ...


def heun_solver(
    churn: float = 0.0,
    churn_range: tuple[float, float] = _CHURNED,
    noise_scale: float = 1.0,
    first_order_start: bool = True,
) -> Solver:
    """EDM's sampler: Heun's method, with churn if asked; 2N-2 evaluations in N steps.

    Churn adds noise before a step, so that sigma/alpha grows by the factor ``1 + churn``, and the
    step starts there.

    Args:
        churn: in [0, sqrt(2) - 1]; EDM's is ``S_churn / N``. 0 is deterministic.
        churn_range: lowest and highest logsnr that is churned; sigma/alpha 50 to 0.05.
        noise_scale: standard deviation of the added noise, EDM's ``S_noise``.
        first_order_start: take the first step with `ddim_step`, which from a logsnr of -20 ends
            some hundred times closer, and is no worse from EDM's noise. False is EDM's own.

    Returns:
        Solver, which draws noise if ``churn > 0``.

    Raises:
        ValueError: if ``churn`` is out of range.

    Source: Karras et al. 2022 (2206.00364), algorithms 1 and 2.

    >>> heun_solver(churn=0.1).draws
    True
    """
    if not 0 <= churn <= MAX_CHURN:
        raise ValueError(f"expected churn in [0, {MAX_CHURN:.4f}], got {churn}")
    low, high = churn_range

    def advance(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        start = span.t
        if span.noise is not None:
            churned = (span.t >= low) & (span.t <= high)
            start = span.t - 2 * math.log1p(churn) * churned.double()
            z = renoise_step(z, span.t, start, noise_scale * span.noise)
        x0 = denoise(z, start)
        after = ddim_step(z, x0, start, span.s)
        if memory is not None or not first_order_start:
            after = heun_step(z, x0, start, span.s, denoise(after, span.s))
        return Stepped(after, x0, True)

    return Solver(advance, draws=churn > 0)


def dpmpp_2m_solver(eta: float = 0.0) -> Solver:
    """DPM-Solver++(2M); with ``eta=1`` SDE-DPM-Solver++(2M). One evaluation a step.

    Args:
        eta: see `dpmpp_2m_step`; 0 is deterministic.

    Returns:
        Solver, which draws noise if ``eta > 0``.

    Source: Lu et al. 2022 (2211.01095), algorithm 2.

    >>> dpmpp_2m_solver(eta=1.0).draws
    True
    """

    def advance(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        x0 = denoise(z, span.t)
        x0_prev, logsnr_prev = memory or (None, None)
        after = dpmpp_2m_step(z, x0, span.t, span.s, x0_prev, logsnr_prev, eta, span.noise)
        return Stepped(after, x0, (x0, span.t))

    return Solver(advance, draws=eta > 0)


def dpmpp_3m_solver(curvature: float = 0.5) -> Solver:
    """DPM-Solver++(3M), started with a step of first and one of second order.

    Args:
        curvature: 0.5 is what others compute, 1 is of third order, see `dpmpp_3m_step`.

    Returns:
        Solver of one evaluation a step.

    Source: Lu et al. 2022 (2211.01095), their program.

    >>> dpmpp_3m_solver().draws
    False
    """

    def advance(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        x0 = denoise(z, span.t)
        before: tuple[Any, ...] = memory or ()
        if len(before) == 4:
            after = dpmpp_3m_step(z, x0, span.t, span.s, *before, curvature=curvature)
        else:
            after = dpmpp_2m_step(z, x0, span.t, span.s, *before)
        return Stepped(after, x0, (x0, span.t, *before[:2]))

    return Solver(advance)


def unipc_solver() -> Solver:
    """UniPC-2: DPM-Solver++(2M), each state corrected with the prediction made from it.

    Returns:
        Solver of one evaluation a step.

    Source: Zhao et al. 2023 (2302.04867).

    >>> unipc_solver().draws
    False
    """

    def advance(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        x0 = denoise(z, span.t)
        if memory is None:
            return Stepped(ddim_step(z, x0, span.t, span.s), x0, (z, x0, span.t))
        z_prev, x0_prev, logsnr_prev, *before = memory
        z = unic_step(z_prev, x0_prev, logsnr_prev, span.t, x0, *before)
        after = dpmpp_2m_step(z, x0, span.t, span.s, x0_prev, logsnr_prev)
        return Stepped(after, x0, (z, x0, span.t, x0_prev, logsnr_prev))

    return Solver(advance)


def adams_solver(correct: bool = False) -> Solver:
    """Adams' method of second order on the angle, native to v; started with a DDIM step.

    Args:
        correct: correct each state with the velocity found there (Adams-Bashforth-Moulton), which
            takes no further evaluation and has an error some times smaller.

    Returns:
        Solver of one evaluation a step. Its last step is of second order like the others; it can
        integrate backwards, from data to noise.

    Source: Salimans & Ho 2022 (2202.00512), appendix D, for dz/dphi = v.

    >>> adams_solver().draws
    False
    """

    def advance(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        x0 = denoise(z, span.t)
        v = v_from_x0(z, x0, span.t)
        if memory is None:
            return Stepped(ddim_step(z, x0, span.t, span.s), x0, (z, v, span.t))
        z_prev, v_prev, logsnr_prev = memory
        if correct:
            z = am2_step(z_prev, v_prev, logsnr_prev, span.t, v)
        after = ab2_step(z, v, span.t, span.s, v_prev, logsnr_prev)
        return Stepped(after, x0, (z, v, span.t))

    return Solver(advance, end=advance)


def learned_ancestral_solver() -> Solver:
    """Ancestral sampling with the variance that a network has learned.

    Returns:
        Solver, which draws noise, for a denoiser that gives x0 and behind it, along the channels,
        the fraction of `learned_logvar`: [B, 2C, ...], see `vfn.nn.denoiser`.

    Source: Nichol & Dhariwal 2021 (2102.09672), section 3.1.

    >>> learned_ancestral_solver().draws
    True
    """

    def advance(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        x0, frac = denoise(z, span.t).chunk(2, dim=1)
        assert span.noise is not None
        after = ancestral_step(z, x0, span.t, span.s, span.noise, "learned", frac)
        return Stepped(after, x0, memory)

    def end(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        x0, _ = denoise(z, span.t).chunk(2, dim=1)
        return Stepped(ddim_step(z, x0, span.t, span.s), x0, memory)

    return Solver(advance, end, draws=True)


def sampler(
    name: Sampler,
    eta: float = 0.0,
    var_type: VarType = "fixed_small",
    intp_frac: float | None = None,
    churn: float = 0.0,
    tolerance: float = 0.003,
    final: Ending = "x0",
) -> DrawSamples:
    """A sampler by name.

    Args:
        name: ``ddim``, ``ancestral``, ``heun``, ``dpmpp_2m``, ``dpmpp_2m_sde``, ``dpmpp_3m``,
            ``unipc``, ``ab2`` (Adams-Bashforth on the angle), ``abm2`` (the same, corrected) or
            ``adaptive``.
        eta: for ddim.
        var_type: for ancestral, see `ancestral_step`; learned is `learned_ancestral_solver`.
        intp_frac: for ancestral.
        churn: for heun, see `heun_solver`.
        tolerance: for adaptive, see `sample_adaptive`.
        final: where the last step ends, see `sample`.

    Returns:
        a function ``(denoise, z, logsnrs, *, noise=None, callback=None) -> Sample``.

    Raises:
        ValueError: for an unknown name or an option out of range.

    >>> draw = sampler("dpmpp_2m")
    >>> draw(lambda z, logsnr: 0 * z, torch.randn(2, 3), torch.linspace(-20, 20, 5)).nfe
    4
    """
    check_choice(name, Sampler, "sampler")
    if name == "adaptive":
        return partial(sample_adaptive, tolerance=tolerance, final=final)

    def ancestral() -> Solver:
        if var_type == "learned":
            return learned_ancestral_solver()
        step = partial(ancestral_step, var_type=var_type, intp_frac=intp_frac)
        return single_step(step, draws=True)

    makers: dict[str, Callable[[], Solver]] = {
        "ddim": lambda: single_step(partial(ddim_step, eta=eta), draws=eta > 0),
        "ancestral": ancestral,
        "heun": lambda: heun_solver(churn),
        "dpmpp_2m": dpmpp_2m_solver,
        "dpmpp_2m_sde": lambda: dpmpp_2m_solver(eta=1.0),
        "dpmpp_3m": dpmpp_3m_solver,
        "unipc": unipc_solver,
        "ab2": adams_solver,
        "abm2": lambda: adams_solver(correct=True),
    }
    return partial(sample, step=makers[name](), final=final)
