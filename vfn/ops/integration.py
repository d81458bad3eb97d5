"""The sampling loop over a denoiser ``denoise(z, logsnr) -> x0``."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vfn.ops._coef import FARTHEST, as_float64, check_data
from vfn.ops.steps import ddim_step
from vfn.ops.words import Ending, check_choice

Denoiser = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[int, Tensor, Tensor], None]


class NoNoise(ValueError):
    """A solver that draws noise was given none."""


class Step(Protocol):
    """A step from logsnr_t to logsnr_s that needs one prediction."""

    def __call__(
        self, z: Tensor, x0: Tensor, logsnr_t: Tensor, logsnr_s: Tensor, *, noise: Any
    ) -> Tensor:
        """The state at s, of the state z at t and the prediction x0 made of it.

        noise: a tensor for steps that draw, else None.
        """


class Span(NamedTuple):
    """What a step leads over, logsnr at t and at s [B], and the noise that it may use."""

    t: Tensor
    s: Tensor
    noise: Tensor | None = None


class Stepped(NamedTuple):
    """The state at s, the prediction that was made at t, and what the next step is to know."""

    z: Tensor
    x0: Tensor
    memory: Any


class Advance(Protocol):
    """A step of a solver that calls the denoiser itself; ``memory`` is None in the first."""

    def __call__(self, denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
        """The state at the end of the span, the prediction made at its start, and the memory."""


def _first_order(denoise: Denoiser, z: Tensor, span: Span, memory: Any) -> Stepped:
    """The deterministic DDIM step."""
    x0 = denoise(z, span.t)
    return Stepped(ddim_step(z, x0, span.t, span.s), x0, memory)


class Solver(NamedTuple):
    """A solver as pure functions; what it remembers goes from step to step as a value.

    ``advance`` is every step but the last, ``end`` the last, ``draws`` whether it wants noise. The
    last step is far longer in log(alpha/sigma) than any other, for which extrapolating over it is
    worse than the first order that is the default.
    """

    advance: Advance
    end: Advance = _first_order
    draws: bool = False


def single_step(step: Step, draws: bool = False) -> Solver:
    """A solver of steps that need one prediction and remember nothing.

    Args:
        step: `ddim_step`, `ancestral_step`, or either with options bound by `functools.partial`.
        draws: whether it is given noise.

    Returns:
        Solver.

    Raises:
        ValueError: if ``step`` is no function ``(z, x0, logsnr_t, logsnr_s, *, noise)``.

    >>> single_step(ddim_step).draws
    False
    """
    _check_step(step)
    return Solver(partial(_single, step=step), draws=draws)


def _single(denoise: Denoiser, z: Tensor, span: Span, memory: Any, *, step: Step) -> Stepped:
    x0 = denoise(z, span.t)
    return Stepped(step(z, x0, span.t, span.s, noise=span.noise), x0, memory)


def _check_step(step: Any) -> None:
    """Refuse what is no step: a word, a solver's factory or class, a sampler, a step backwards."""
    try:
        fits = callable(step) and signature(step).bind(0, 0, 0, 0, noise=None) is not None
    except TypeError:
        fits = False
    except ValueError:  # a function that does not tell its arguments
        fits = True
    if not fits or isinstance(step, type):
        raise ValueError(
            "expected a Solver, such as ops.heun_solver() makes, or a step such as ops.ddim_step, "
            f"got {getattr(step, '__name__', None) or repr(step):.60}"
        )


class Sample(NamedTuple):
    """Samples [B, ...] and the number of function evaluations (calls of the denoiser)."""

    x0: Tensor
    nfe: int


class Remembered(NamedTuple):
    """A prediction, and what the next step is to know of it."""

    x0: Tensor
    memory: Any


@dataclass(frozen=True)
class Remembering:
    """A denoiser that knows of the steps before: ``recall(z, logsnr, memory) -> Remembered``.

    ``memory`` is None in the first step. `sample`, `encode` and `inpaint` hand it on as a value:
    each evaluation of a step starts from what was known at its beginning, and what its first one
    gives goes on. Called as a plain denoiser it remembers nothing, as in the first step.

    One that is `Spanning` as well has ``recall_between(z, logsnr_t, logsnr_s, memory)``.

    >>> ones = torch.ones(1)
    >>> counting = Remembering(lambda z, l, n: Remembered(z + (n or 0), (n or 0) + 1))
    >>> counting(ones, ones), counting.recall(ones, ones, 2)
    (tensor([1.]), Remembered(x0=tensor([3.]), memory=3))
    """

    recall: Callable[[Tensor, Tensor, Any], Remembered]
    recall_between: Callable[[Tensor, Tensor, Tensor, Any], Remembered] | None = None

    def __call__(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """The prediction of somebody who remembers nothing."""
        return self.recall(z, logsnr, None).x0


@dataclass(frozen=True)
class Spanning:
    """A denoiser that knows of the whole step: ``between(z, logsnr_t, logsnr_s) -> x0``.

    With that x0 one DDIM step lands where the path of the flow through z is at s; the solver
    ``mean_flow`` asks for it, see `x0_from_mean_velocity`. Called as a plain denoiser it says what
    is so in a step of no length.

    >>> ones = torch.ones(1)
    >>> Spanning(lambda z, t, s: z * (s - t))(ones, ones)
    tensor([0.])
    """

    between: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __call__(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """The prediction for a step of no length."""
        return self.between(z, logsnr, logsnr)


def remembers(denoise: Denoiser) -> bool:
    """Whether a denoiser knows of the steps before."""
    return isinstance(denoise, Remembering)


def spans(denoise: Denoiser) -> bool:
    """Whether a denoiser knows of the whole step."""
    if isinstance(denoise, Remembering):
        return denoise.recall_between is not None
    return isinstance(denoise, Spanning)


def asked(
    denoise: Denoiser, z: Tensor, logsnr: Tensor, end: Tensor | None = None, memory: Any = None
) -> Remembered:
    """What any denoiser says, with all that it knows of.

    Args:
        denoise: any denoiser.
        z: noisy data [B, ...].
        logsnr: its noise level [B].
        end: where the step ends [B]; None for one of no length, as it is to those who do not know.
        memory: what it remembered of the step before; None at the first.

    Returns:
        Remembered, with None of those who remember nothing.
    """
    if isinstance(denoise, Remembering):
        if end is None or denoise.recall_between is None:
            return denoise.recall(z, logsnr, memory)
        return denoise.recall_between(z, logsnr, end, memory)
    if isinstance(denoise, Spanning) and end is not None:
        return Remembered(denoise.between(z, logsnr, end), None)
    return Remembered(denoise(z, logsnr), None)


def denoiser_of(
    say: Callable[[Tensor, Tensor, Tensor | None, Any], Remembered], remembers: bool, spans: bool
) -> Denoiser:
    """A denoiser that knows of as much as it is said to.

    Args:
        say: ``say(z, logsnr, end, memory) -> Remembered``, as `asked` has it.
        remembers: whether it knows of the steps before; it gets None otherwise.
        spans: whether it knows of the whole step; it gets None otherwise.

    Returns:
        a function of z and logsnr, `Spanning`, `Remembering`, or both.
    """
    if remembers:
        return Remembering(
            lambda z, logsnr, memory: say(z, logsnr, None, memory), say if spans else None
        )
    if spans:
        return Spanning(lambda z, logsnr, end: say(z, logsnr, end, None).x0)
    return lambda z, logsnr: say(z, logsnr, None, None).x0


class Counted:
    """A denoiser that counts its calls, and whose memory, if it has one, goes from step to step."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise, self.calls = denoise, 0
        self._memory: Any = None
        self._first: Any = None
        self._is_first = True

    def __call__(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """The prediction, counted."""
        return self._said(z, logsnr, None)

    def between(self, z: Tensor, logsnr_t: Tensor, logsnr_s: Tensor) -> Tensor:
        """The prediction for a step, of a denoiser that knows of it, counted."""
        return self._said(z, logsnr_t, logsnr_s)

    def _said(self, z: Tensor, logsnr: Tensor, end: Tensor | None) -> Tensor:
        self.calls += 1
        x0, memory = asked(self.denoise, z, logsnr, end, self._memory)
        if self._is_first:
            self._first, self._is_first = memory, False
        return x0

    def next_step(self) -> None:
        """A step is done: what its first evaluation gave is what the next step knows."""
        if not self._is_first:
            self._memory, self._is_first = self._first, True


def check_forgetful(denoise: Denoiser) -> None:
    """Refuse a denoiser with a memory where there are no steps that it could go along.

    Raises:
        ValueError: it says what to do.
    """
    if remembers(denoise):
        raise ValueError(
            "expected a denoiser without memory: this solver takes back steps, or hands nothing "
            "from one to the next; use one of fixed steps, or guidance without momentum"
        )


def sample(
    denoise: Denoiser,
    z: Tensor,
    logsnrs: Tensor,
    step: Step | Solver = ddim_step,
    noise: Callable[[int], Tensor] | None = None,
    callback: Watch | None = None,
    final: Ending = "x0",
) -> Sample:
    """Integrate from noise to data over a grid.

    The denoiser is never called at the grid's last logsnr. With ``final="x0"`` the last step goes
    beyond it to logsnr = +inf, pure data: for a solver whose end is of first order that is the
    denoiser's last x0 itself. This leaves out noise of standard deviation exp(-logsnr_max/2),
    4.5e-5 at 20, and costs nothing; where a grid ends early, 0.05 at logsnr 6, it costs the detail
    below that noise, and ``final="step"`` stops at the last logsnr, noise and all.

    Args:
        denoise: ``denoise(z, logsnr) -> x0`` with logsnr [B], float64.
        z: start noise [B, ...], standard normal.
        logsnrs: [N+1], logsnr that rises from noise to data, such as a `sampling_grid`; a list or
            an array as well. It is looked at once, before the first step: one that is on a GPU is
            waited for, one on the host is not. It may be on another device than ``z``.
        step: a Solver, such as `heun_solver` makes; or `ddim_step`, `ancestral_step`, or either
            with options bound by `functools.partial`.
        noise: ``noise(i)`` gives the standard normal of step i, shape of ``z``; None for
            deterministic steps. It is called for solvers that draw, and not for the last step.
        callback: called as ``callback(i, z, x0)`` with the state before step i and its prediction.
        final: where the last step ends: ``x0``, pure data, or ``step``, the grid's last logsnr.

    Returns:
        Sample(x0, nfe): nfe is N for solvers of one evaluation a step.

    Raises:
        ValueError: if ``logsnrs`` does not rise from one value to the next or looks like times, if
            ``step`` is no solver and no step, or a solver that draws is given no noise.
        TypeError: if ``z`` is no floating-point tensor.

    Source: Song et al. 2020 (2010.02502), section 4.

    >>> result = sample(lambda z, logsnr: 0 * z, torch.randn(2, 3), torch.linspace(-20, 20, 5))
    >>> result.nfe, result.x0.abs().max().item()
    (4, 0.0)
    """
    return integrate(denoise, z, as_grid(logsnrs, z), step, noise, callback, final)


def integrate(
    denoise: Denoiser,
    z: Tensor,
    logsnrs: Tensor,
    step: Step | Solver = ddim_step,
    noise: Callable[[int], Tensor] | None = None,
    callback: Watch | None = None,
    final: Ending = "x0",
) -> Sample:
    """`sample` over levels that are not looked at: they may fall, for solvers that go backwards.

    Returns:
        Sample(x0, nfe).

    Raises:
        NoNoise: if a solver that draws is given none.
        TypeError: if the noise is no function.
    """
    check_choice(final, Ending, "final")
    solver = step if isinstance(step, Solver) else single_step(step, draws=noise is not None)
    if solver.draws and noise is None:
        raise NoNoise(
            "expected noise, a function of the step's number, for a solver that draws it, got "
            "None; give noise or choose a deterministic solver"
        )
    if noise is not None and not callable(noise):
        raise TypeError(
            "expected noise to be a function of the step's number, such as "
            f"lambda i: torch.randn(z.shape, generator=generator), got {type(noise).__name__}"
        )
    calls, memory, last = Counted(denoise), None, len(logsnrs) - 2
    for i in range(last + 1):
        logsnr_t, logsnr_s = (logsnrs[j].double().expand(z.shape[0]) for j in (i, i + 1))
        if i == last and final == "x0":
            logsnr_s = torch.full_like(logsnr_s, math.inf)
        advance = solver.end if i == last else solver.advance
        drawn = noise(i) if noise is not None and solver.draws and i < last else None
        after, x0, memory = advance(calls, z, Span(logsnr_t, logsnr_s, drawn), memory)
        calls.next_step()
        if callback is not None:
            callback(i, z, x0)
        z = after
    return Sample(z, calls.calls)


def as_grid(logsnrs: Any, z: Tensor) -> Tensor:
    """A grid in float64 on the device of the data, looked at on the host.

    Returns:
        logsnrs [N+1].

    Raises:
        ValueError: if it is not one-dimensional with two values or more, does not rise from each
            value to the next, or looks like times.
        TypeError: if it is not made of numbers, or ``z`` is no floating-point tensor.
    """
    check_data(z, "z")
    grid = logsnrs.double() if isinstance(logsnrs, Tensor) else as_float64(logsnrs, "logsnrs")
    check_grid(grid)
    return as_float64(grid, "logsnrs", z.device)


def check_grid(logsnrs: Tensor) -> None:
    """Refuse a grid that does not rise from noise to data, step by step.

    Where the values cannot be read, under `torch.compile` or `torch.func.vmap` of the grid, the
    shape alone is looked at.

    Raises:
        ValueError: it says what is wrong, and where.
    """
    if logsnrs.ndim != 1 or len(logsnrs) < 2:
        raise ValueError(
            f"expected logsnrs of shape [N+1] with N >= 1, got shape {tuple(logsnrs.shape)}"
        )
    if torch.compiler.is_compiling():
        return
    try:
        values = logsnrs.tolist()
    except RuntimeError:
        return
    for i, (here, there) in enumerate(itertools.pairwise(values)):
        if not here < there:
            raise ValueError(
                "expected logsnrs that rise from noise to data, without a level twice, got "
                f"{here:g} before {there:g} at {i}; logsnr(t) of falling times does, as "
                "sampling_grid makes it"
            )
    first, last = values[0], values[-1]
    if first >= 0 and last <= 1 and (first == 0 or last == 1):
        raise ValueError(
            f"expected logsnrs, got what looks like times, from {first:g} to {last:g}; "
            "schedule.logsnr(t) of falling times is a grid"
        )
    if any(FARTHEST < abs(value) < math.inf for value in values):
        raise ValueError(f"expected logsnrs within ±{FARTHEST:g}, or ±inf for the ends, got beyond")
