"""Solvers made of the steps, and `sampler`, which makes one by its word in `SOLVERS`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from vfn.ops.adaptive import sample_adaptive
from vfn.ops.consistency import consistency_step
from vfn.ops.integration import (
    Counted,
    Denoiser,
    Sample,
    Solver,
    Span,
    Spanning,
    Stepped,
    Watch,
    check_forgetful,
    sample,
    single_step,
)
from vfn.ops.multistep import (
    ab2_step,
    am2_step,
    dpmpp_2m_step,
    dpmpp_3m_step,
    heun_step,
    renoise_step,
    unic_step,
)
from vfn.ops.predictions import v_from_x0
from vfn.ops.solver_table import SOLVERS
from vfn.ops.steps import ancestral_step, ddim_step, flow_step
from vfn.ops.words import Ending, VarType, check_choice
from vfn.parametric import check_options

MAX_CHURN = math.sqrt(2) - 1
# Noise levels that EDM churns: sigma/alpha from 50 down to 0.05.
_CHURNED = (-2 * math.log(50), -2 * math.log(0.05))


class Integrator(Protocol):
    """A solver that goes over the whole grid by itself, as `adaptive_solver` makes one."""

    def __call__(
        self,
        denoise: Denoiser,
        z: Tensor,
        logsnrs: Tensor,
        *,
        noise: Callable[[int], Tensor] | None = None,
        callback: Watch | None = None,
        final: Ending = "x0",
    ) -> Sample:
        """Integrate from noise to data; the arguments are those of `sample`."""


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
    ) -> Sample:
        """Integrate from noise to data; the arguments are those of `sample`."""


def ddim_solver(eta: float = 0.0) -> Solver:
    """DDIM: `ddim_step` over the grid, of first order. One evaluation a step.

    Args:
        eta: share of the posterior's standard deviation that is drawn anew, in [0, 1]; 0 is
            deterministic.

    Returns:
        Solver, which draws noise if ``eta > 0``.

    Raises:
        ValueError: if ``eta`` is out of range.

    Source: Song et al. 2020 (2010.02502), eq. 12.

    >>> ddim_solver().draws, ddim_solver(eta=0.5).draws
    (False, True)
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"expected eta in [0, 1], got {eta}")
    return single_step(partial(ddim_step, eta=eta), draws=eta > 0)


def ancestral_solver(var_type: VarType = "fixed_small", intp_frac: float | None = None) -> Solver:
    """Ancestral sampling: `ancestral_step` over the grid. One evaluation a step.

    Args:
        var_type: variance of a step: fixed_small, fixed_large, fixed_medium, or learned, which is
            `learned_ancestral_solver`.
        intp_frac: for fixed_medium, in [0, 1]: 0 is small, 1 is large.

    Returns:
        Solver, which draws noise.

    Raises:
        ValueError: for an unknown ``var_type``.

    Source: Ho et al. 2020 (2006.11239), algorithm 2.

    >>> ancestral_solver("fixed_large").draws
    True
    """
    check_choice(var_type, VarType, "var_type")
    if var_type == "learned":
        return learned_ancestral_solver()
    step = partial(ancestral_step, var_type=var_type, intp_frac=intp_frac)
    return single_step(step, draws=True)


def adaptive_solver(tolerance: float = 0.003) -> Integrator:
    """`sample_adaptive` with its tolerance: steps of its own for each sample.

    Args:
        tolerance: bound of the error of a step, > 0: the root mean square over a sample of the
            error divided by ``1 + |z|``.

    Returns:
        Integrator: a function ``(denoise, z, logsnrs, *, noise=None, callback=None, final="x0") ->
        Sample``; it draws no noise.

    Raises:
        ValueError: if ``tolerance`` is not positive.

    Source: Bogacki & Shampine 1989, "A 3(2) pair of Runge-Kutta formulas".

    >>> z, grid = torch.randn(2, 3), torch.linspace(-20, 20, 9)
    >>> adaptive_solver(0.01)(lambda z, logsnr: 0 * z, z, grid).x0.abs().max().item()
    0.0
    """
    if not tolerance > 0:
        raise ValueError(f"expected tolerance > 0, got {tolerance}")
    return partial(sample_adaptive, tolerance=tolerance)


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
        ValueError: if ``churn`` or ``noise_scale`` is out of range, or ``churn_range`` falls.

    Source: Karras et al. 2022 (2206.00364), algorithms 1 and 2.

    >>> heun_solver(churn=0.1).draws
    True
    """
    if not 0 <= churn <= MAX_CHURN:
        raise ValueError(f"expected churn in [0, {MAX_CHURN:.4f}], got {churn}")
    if not 0 <= noise_scale < math.inf:
        raise ValueError(f"expected noise_scale >= 0, got {noise_scale}")
    low, high = churn_range
    if not low <= high:
        raise ValueError(f"expected churn_range from lowest to highest, got {low} and {high}")
    advance = partial(
        _heun,
        churn=churn,
        churn_range=churn_range,
        noise_scale=noise_scale,
        first_order_start=first_order_start,
    )
    return Solver(advance, draws=churn > 0)


def _heun(
    denoise: Denoiser,
    z: Tensor,
    span: Span,
    memory: Any,
    *,
    churn: float,
    churn_range: tuple[float, float],
    noise_scale: float,
    first_order_start: bool,
) -> Stepped:
    low, high = churn_range
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


def dpmpp_2m_solver(eta: float = 0.0) -> Solver:
    """DPM-Solver++(2M); with ``eta=1`` SDE-DPM-Solver++(2M). One evaluation a step.

    Args:
        eta: of short steps the share of ancestral sampling's noise, in variance, that is brought
            in, >= 0; 0 is deterministic.

    Returns:
        Solver, which draws noise if ``eta > 0``.

    Raises:
        ValueError: if ``eta < 0``.

    Source: Lu et al. 2022 (2211.01095), algorithm 2.

    >>> dpmpp_2m_solver(eta=1.0).draws
    True
    """
    if not eta >= 0:
        raise ValueError(f"expected eta >= 0, got {eta}")
    return Solver(partial(_dpmpp_2m, eta=eta), draws=eta > 0)


def _dpmpp_2m(denoise: Denoiser, z: Tensor, span: Span, memory: Any, *, eta: float) -> Stepped:
    x0 = denoise(z, span.t)
    x0_prev, logsnr_prev = memory or (None, None)
    after = dpmpp_2m_step(z, x0, span.t, span.s, x0_prev, logsnr_prev, eta, span.noise)
    return Stepped(after, x0, (x0, span.t))


def dpmpp_3m_solver(curvature: float = 0.5) -> Solver:
    """DPM-Solver++(3M), started with a step of first and one of second order.

    Its order is reached where x0 hardly varies in these two, as it does from a logsnr of -20;
    from -6 on that of ``curvature=1`` is 2.5, and falls to 2.1 with more steps.

    Args:
        curvature: share of the second derivative of the parabola through the predictions: 0.5 is
            what others compute, 1 is of third order.

    Returns:
        Solver of one evaluation a step.

    Source: Lu et al. 2022 (2211.01095), their program.

    >>> dpmpp_3m_solver().draws
    False
    """
    return Solver(partial(_dpmpp_3m, curvature=curvature))


def _dpmpp_3m(
    denoise: Denoiser, z: Tensor, span: Span, memory: Any, *, curvature: float
) -> Stepped:
    x0 = denoise(z, span.t)
    before: tuple[Any, ...] = memory or ()
    if len(before) == 4:
        after = dpmpp_3m_step(z, x0, span.t, span.s, *before, curvature=curvature)
    else:
        after = dpmpp_2m_step(z, x0, span.t, span.s, *before)
    return Stepped(after, x0, (x0, span.t, *before[:2]))


def unipc_solver() -> Solver:
    """UniPC-2: DPM-Solver++(2M), each state corrected with the prediction made from it.

    Its order is reached where x0 hardly varies in the first step, which is one of DDIM.

    Returns:
        Solver of one evaluation a step. Its last step is of first order, from the corrected state.

    Source: Zhao et al. 2023 (2302.04867).

    >>> unipc_solver().draws
    False
    """
    return Solver(_unipc, end=_unipc_end)


def _unipc(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
    x0 = denoise(z, span.t)
    if memory is None:
        return Stepped(ddim_step(z, x0, span.t, span.s), x0, (z, x0, span.t))
    z = _corrected(x0, span, memory)
    _, x0_prev, logsnr_prev, *_ = memory
    after = dpmpp_2m_step(z, x0, span.t, span.s, x0_prev, logsnr_prev)
    return Stepped(after, x0, (z, x0, span.t, x0_prev, logsnr_prev))


def _unipc_end(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
    x0 = denoise(z, span.t)
    if memory is not None:
        z = _corrected(x0, span, memory)
    return Stepped(ddim_step(z, x0, span.t, span.s), x0, memory)


def _corrected(x0: Tensor, span: Span, memory: Any) -> Tensor:
    """The state at the start of the span, with the prediction that was made from it."""
    z_prev, x0_prev, logsnr_prev, *before = memory
    return unic_step(z_prev, x0_prev, logsnr_prev, span.t, x0, *before)


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
    advance = partial(_adams, correct=correct)
    return Solver(advance, end=advance)


def _adams(denoise: Denoiser, z: Tensor, span: Span, memory: Any, *, correct: bool) -> Stepped:
    x0 = denoise(z, span.t)
    v = v_from_x0(z, x0, span.t)
    if memory is None:
        return Stepped(flow_step(z, x0, span.t, span.s), x0, (z, v, span.t))
    z_prev, v_prev, logsnr_prev = memory
    if correct:
        z = am2_step(z_prev, v_prev, logsnr_prev, span.t, v)
    after = ab2_step(z, v, span.t, span.s, v_prev, logsnr_prev)
    return Stepped(after, x0, (z, v, span.t))


def consistency_solver() -> Solver:
    """Consistency sampling: `consistency_step` over the grid. One evaluation a step.

    Returns:
        Solver, which draws noise in every step but the last. A grid of two steps has one level
        between noise and data, whose place matters: sigma/alpha of 2 (phi = 1.1) is usual.

    Source: Song et al. 2023 (2303.01469), algorithm 1.

    >>> consistency_solver().draws
    True
    """
    return Solver(_consistency, draws=True)


def _consistency(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
    x0 = denoise(z, span.t)
    assert span.noise is not None
    return Stepped(consistency_step(z, x0, span.t, span.s, noise=span.noise), x0, memory)


def mean_flow_solver() -> Solver:
    """Steps by the mean velocity between their ends, for denoisers that know it (`Spanning`).

    Returns:
        Solver of one evaluation a step; for other denoisers that of DDIM.

    Source: Geng et al. 2025 (2505.13447), eq. 12.

    >>> mean_flow_solver().draws
    False
    """
    return Solver(_mean_flow, end=_mean_flow)


def _mean_flow(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
    if isinstance(denoise, Counted | Spanning):
        x0 = denoise.between(z, span.t, span.s)
    else:
        x0 = denoise(z, span.t)
    return Stepped(ddim_step(z, x0, span.t, span.s), x0, memory)


def learned_ancestral_solver() -> Solver:
    """Ancestral sampling with the variance that a network has learned.

    Returns:
        Solver, which draws noise, for a denoiser that gives x0 and behind it, along the channels,
        the fraction of `learned_logvar`: [B, 2C, ...].

    Source: Nichol & Dhariwal 2021 (2102.09672), section 3.1.

    >>> learned_ancestral_solver().draws
    True
    """
    return Solver(_learned_ancestral, _learned_end, draws=True)


def _learned_ancestral(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
    x0, frac = denoise(z, span.t).chunk(2, dim=1)
    assert span.noise is not None
    after = ancestral_step(z, x0, span.t, span.s, span.noise, "learned", frac)
    return Stepped(after, x0, memory)


def _learned_end(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
    x0, _ = denoise(z, span.t).chunk(2, dim=1)
    return Stepped(ddim_step(z, x0, span.t, span.s), x0, memory)


def sampler(name: str, final: Ending = "x0", **options: Any) -> DrawSamples:
    """A sampler by name.

    Args:
        name: a word of `SOLVERS`, such as ``ddim`` or ``abm2``, or the ``package.module:Name`` of a
            function without arguments that returns a Solver or an Integrator.
        final: where the last step ends: ``x0`` gives the prediction, ``step`` the state at the
            grid's last logsnr.
        **options: settings of the solver, those that its entry of `SOLVERS` names: eta of ddim,
            var_type and intp_frac of ancestral, churn of heun, tolerance of adaptive.

    Returns:
        a function ``(denoise, z, logsnrs, *, noise=None, callback=None) -> Sample``.

    Raises:
        ValueError: for an unknown name, an option that the solver does not take or that is out of
            range, or something from outside that makes no solver.

    >>> draw = sampler("dpmpp_2m")
    >>> draw(lambda z, logsnr: 0 * z, torch.randn(2, 3), torch.linspace(-20, 20, 5)).nfe
    4
    >>> sampler("heun", eta=0.5)
    Traceback (most recent call last):
    ValueError: expected only churn for solver heun, got eta
    """
    check_choice(final, Ending, "final")
    entry = SOLVERS.find(name)
    check_options(f"solver {name}", options, entry.options)
    factory = entry.load()
    made: Solver | Integrator | None = None
    if callable(factory):
        made = factory(**entry.bound, **options)
    if isinstance(made, Solver):
        return partial(sample, step=made, final=final)
    if not callable(made):
        raise ValueError(
            f"expected {name} to be a function that returns a Solver or an Integrator, got "
            f"{made if callable(factory) else factory!r}"
        )
    return partial(_by_itself, made=made, final=final)


def _by_itself(
    denoise: Denoiser,
    z: Tensor,
    logsnrs: Tensor,
    *,
    made: Integrator,
    final: Ending,
    noise: Callable[[int], Tensor] | None = None,
    callback: Watch | None = None,
) -> Sample:
    """What an integrator makes of a denoiser, which must not have a memory."""
    check_forgetful(denoise)
    return made(denoise, z, logsnrs, noise=noise, callback=callback, final=final)
