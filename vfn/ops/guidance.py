"""Guidance: functions that combine predictions, and the same as combinators over denoisers."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import (
    NUMBER,
    Scalar,
    as_float64,
    as_logsnr,
    check_logsnr,
    from_left,
    rows,
    same_shape,
)
from vfn.ops.guidance_rules import GUIDANCE_RULES
from vfn.ops.integration import Denoiser, Remembered, asked, denoiser_of, remembers, spans

Strength = float | Tensor | Callable[[Tensor], Tensor]


class GuidanceRule(NamedTuple):
    """How a prediction is led away from another one, as `guidance_rule` makes it.

    combine: ``combine(z, cond, other, logsnr, w, memory) -> Remembered``, pure: what it remembers
    of a step comes back as a value. remembers: whether it remembers anything.
    """

    combine: Callable[..., Remembered]
    remembers: bool = False


def guide(cond: Tensor, uncond: Tensor, w: float | Tensor) -> Tensor:
    """Classifier-free guidance: ``cond + w (cond - uncond)``.

    Args:
        cond: conditional prediction [B, ...].
        uncond: unconditional prediction, or that of a weaker model, shape of ``cond``.
        w: strength, a number or [B]; 0 is the conditional prediction, -1 the unconditional.

    Returns:
        guided prediction, shape and dtype of ``cond``.

    Raises:
        ValueError: if the shapes differ.

    Source: Ho & Salimans 2021 (2207.12598), eq. 6.

    >>> guide(torch.tensor([2.0]), torch.tensor([1.0]), w=0.5)
    tensor([2.5000])
    """
    same_shape(cond, uncond, "cond", "uncond")
    weight = w if isinstance(w, NUMBER) else as_logsnr(w, cond, "w").to(cond.dtype)
    return cond + weight * (cond - uncond)


def rescale(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """Bring a guided prediction back towards the standard deviation of the conditional one.

    ``phi guided std(cond)/std(guided) + (1 - phi) guided``, standard deviations over all but the
    first dimension.

    Args:
        guided: [B, ...].
        cond: shape of ``guided``.
        phi: 0 leaves ``guided``, 1 matches fully.

    Returns:
        rescaled prediction, shape and dtype of ``guided``.

    Raises:
        ValueError: if the shapes differ or ``phi`` is not in [0, 1].

    Source: Lin et al. 2023 (2305.08891), eqs. 15-16.

    >>> guided = torch.tensor([[2.0, -2.0]])
    >>> rescale(guided, guided / 2, phi=1.0)
    tensor([[ 1., -1.]])
    """
    same_shape(guided, cond, "guided", "cond")
    _check_phi(phi)
    if guided.shape[1:].numel() < 2 or not guided.numel():  # of which there is no deviation
        return guided.clone()
    spread, wanted = rows(guided).std(1), rows(cond).std(1)
    ratio = torch.where(spread > 0, wanted / spread, 1.0)
    return guided * from_left(1 - phi + phi * ratio, guided)


def _check_phi(phi: float) -> None:
    if not 0 <= phi <= 1:
        raise ValueError(f"expected phi in [0, 1], got {phi}")


def dynamic_threshold(x0: Tensor, quantile: float = 0.995) -> Tensor:
    """Clip each sample to a quantile of its own magnitudes, if above 1, and divide by it.

    Args:
        x0: [B, ...].
        quantile: in (0, 1].

    Returns:
        x0 within [-1, 1], shape and dtype of ``x0``.

    Raises:
        ValueError: if ``quantile`` is not in (0, 1].

    Source: Saharia et al. 2022 (2205.11487), section 2.3.

    >>> dynamic_threshold(torch.tensor([[0.5, -0.5], [4.0, -2.0]]), quantile=1.0)
    tensor([[ 0.5000, -0.5000],
            [ 1.0000, -0.5000]])
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"expected quantile in (0, 1], got {quantile}")
    if not x0.numel():  # of which there is no quantile
        return x0.clone()
    exact = torch.promote_types(x0.dtype, torch.float32)  # quantile takes no half precision
    magnitude = torch.quantile(rows(x0).abs().to(exact), quantile, dim=1).clamp(min=1)
    limit = from_left(magnitude, x0).to(x0.dtype)
    return torch.minimum(torch.maximum(x0, -limit), limit) / limit


def interval_strength(w: float | Tensor, low: float, high: float) -> Strength:
    """Guidance in the middle noise levels only: w where ``low <= logsnr <= high``, else 0.

    Args:
        w: strength within the interval, a number or [B].
        low: lowest logsnr with guidance.
        high: highest logsnr with guidance.

    Returns:
        strength as a function of logsnr, for `classifier_free`.

    Raises:
        ValueError: if ``low > high``.

    Source: Kynkäänniemi et al. 2024 (2404.07724), eq. 4.

    >>> interval_strength(2.0, -1.0, 1.0)(torch.tensor([-3.0, 0.0, 3.0]))
    tensor([0., 2., 0.])
    """
    if low > high:
        raise ValueError(f"expected low <= high, got {low} and {high}")

    def strength(logsnr: Scalar) -> Tensor:
        level = logsnr if isinstance(logsnr, Tensor) else as_float64(logsnr, "logsnr")
        return w * ((level >= low) & (level <= high)).to(level.dtype)

    return strength


def standing(z: Tensor, logsnr: Tensor | float) -> Tensor:
    """The x0 at which the flow stands still: ``z / (alpha + sigma)``.

    On the straight path ``x = z / (alpha + sigma)`` from data to noise the velocity is
    ``eps - x0``, and it is zero where both predictions are x itself.

    Args:
        z: noisy data [B, ...].
        logsnr: its noise level, broadcast from the left.

    Returns:
        x0, shape and dtype of ``z``.

    >>> standing(torch.tensor([2.0]), 0.0)
    tensor([1.4142])
    """
    level = as_logsnr(logsnr, z)
    return z / (_coef.alpha(level) + _coef.sigma(level)).to(z.dtype)


def zero_star_guide(
    z: Tensor, cond: Tensor, uncond: Tensor, logsnr: Tensor, w: float | Tensor
) -> Tensor:
    """CFG-Zero*: guidance whose unconditional velocity is scaled to fit the conditional one.

    ``u_cond + w (u_cond - s u_uncond)`` with ``s = <u_cond, u_uncond> / |u_uncond|^2`` for each
    sample and the velocity of the straight path, ``u = eps - x0``, whatever the network predicts;
    in terms of x0 the unconditional one becomes ``s x0_uncond + (1 - s) z / (alpha + sigma)``.

    Args:
        z: noisy data [B, ...].
        cond: conditional x0, shape of ``z``.
        uncond: unconditional x0, or that of a weaker model, shape of ``z``.
        logsnr: the noise level [B].
        w: strength, a number or [B]; the paper's weight is ``1 + w``.

    Returns:
        guided x0, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes differ.

    Source: Fan et al. 2025 (2503.18886), algorithm 1.

    >>> z, cond = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    >>> zero_star_guide(z, cond, torch.tensor([[1.0, 1.0]]), torch.zeros(1), w=1.0)
    tensor([[ 1.5000, -0.5000]])
    """
    same_shape(z, cond, "z", "cond")
    same_shape(z, uncond, "z", "uncond")
    still = standing(z, check_logsnr(logsnr, z))
    of_cond, of_uncond = (
        still - cond,
        still - uncond,
    )  # both velocities, times sigma/(alpha + sigma)
    share = from_left(_share(of_cond, of_uncond), z).to(z.dtype)
    return guide(cond, still - share * of_uncond, w)


def apg_guide(
    cond: Tensor,
    uncond: Tensor,
    w: float | Tensor,
    memory: Tensor | None = None,
    parallel: float = 0.0,
    norm: float = 0.0,
    momentum: float = 0.0,
) -> Remembered:
    """APG: guidance without what only scales the conditional prediction, which oversaturates.

    ``d = (cond - uncond) + momentum d_before``, cut to the length ``norm``, and of it the part
    that is orthogonal to ``cond`` and a share of the parallel one: ``cond + w (d_orthogonal +
    parallel d_parallel)``.

    Args:
        cond: conditional x0 [B, ...].
        uncond: unconditional x0, or that of a weaker model, shape of ``cond``.
        w: strength, a number or [B]; the paper's weight is ``1 + w``.
        memory: d of the step before, not cut; None at the first.
        parallel: share of the parallel part that is kept, the paper's eta; 1 keeps it all.
        norm: most length of d, over all of a sample, the paper's r; 0 is no limit.
        momentum: share of the last d, the paper's beta, which is negative: away from earlier ones.

    Returns:
        Remembered(x0, memory): guided x0, shape and dtype of ``cond``, and d.

    Raises:
        ValueError: if the shapes differ.

    Source: Sadat et al. 2024 (2410.02416), algorithm 1.

    >>> cond, uncond = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> apg_guide(cond, uncond, w=1.0)
    Remembered(x0=tensor([[ 1., -1.]]), memory=tensor([[ 1., -1.]]))
    """
    same_shape(cond, uncond, "cond", "uncond")
    weight = w if isinstance(w, NUMBER) else as_logsnr(w, cond, "w").to(cond.dtype)
    gathered = cond - uncond
    if memory is not None and momentum:
        gathered = gathered + momentum * memory
    change = gathered
    if norm:
        square = _inner(change, change)
        long = square > norm**2
        cut = torch.where(long, norm * torch.where(long, square, 1.0).rsqrt(), 1.0)
        change = change * from_left(cut, change).to(change.dtype)
    if parallel != 1:
        share = (parallel - 1) * _share(change, cond)
        change = change + from_left(share, cond).to(cond.dtype) * cond
    return Remembered(cond + weight * change, gathered)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample [B], in float32 at least."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return rows(a.to(wide) * b.to(wide)).sum(1)


def _share(a: Tensor, of: Tensor) -> Tensor:
    """``<a, of> / |of|^2`` of each sample [B]: how often a has the other in it; 0 of nothing."""
    square = _inner(of, of)
    there = square > 0
    return torch.where(there, _inner(a, of) / torch.where(there, square, 1.0), 0.0)


def plain_rule(z: Tensor, cond: Tensor, other: Tensor, logsnr: Tensor, w: float | Tensor) -> Tensor:
    """`guide` as a rule."""
    del z, logsnr
    return guide(cond, other, w)


def apg_rule(
    z: Tensor,
    cond: Tensor,
    other: Tensor,
    logsnr: Tensor,
    w: float | Tensor,
    memory: Tensor | None = None,
    **parameters: float,
) -> Remembered:
    """`apg_guide` as a rule."""
    del z, logsnr
    return apg_guide(cond, other, w, memory, **parameters)


def guidance_rule(name: str = "plain", **options: Any) -> GuidanceRule:
    """A guidance rule by name.

    Args:
        name: a word of `GUIDANCE_RULES`, or the ``package.module:Name`` of a function ``rule(z,
            cond, other, logsnr, w, **options) -> x0``; one with an argument ``memory`` returns
            `Remembered`.
        **options: parameters of the rule: parallel, norm and momentum of apg.

    Returns:
        GuidanceRule, for `guided` and `vfn.nn.denoiser`.

    Raises:
        ValueError: for an unknown name, or an option that the rule does not take or that is out of
            range.

    >>> guidance_rule("apg", momentum=-0.5).remembers, guidance_rule("apg").remembers
    (True, False)
    >>> guidance_rule("plain", norm=1.0)
    Traceback (most recent call last):
    ValueError: expected no settings for guidance rule plain, got norm
    """
    entry = GUIDANCE_RULES.find(name)
    function = entry.load()
    if not callable(function):
        raise ValueError(f"expected guidance rule {name} to be a function, got {function!r}")
    values = entry.filled(f"guidance rule {name}", function, options)
    if function is plain_rule:
        return PLAIN
    if "memory" not in inspect.signature(function).parameters:
        return GuidanceRule(partial(_forgetting, function=partial(function, **values)))
    remembers = entry.memory is None or bool(values[entry.memory])
    return GuidanceRule(partial(function, **values), remembers)


def _forgetting(
    z: Tensor,
    cond: Tensor,
    other: Tensor,
    logsnr: Tensor,
    w: float | Tensor,
    memory: Any,
    *,
    function: Callable[..., Tensor],
) -> Remembered:
    """A rule that remembers nothing."""
    del memory
    return Remembered(function(z, cond, other, logsnr, w), None)


PLAIN = GuidanceRule(partial(_forgetting, function=plain_rule))


def guided_x0(
    z: Tensor,
    x0s: Sequence[Tensor],
    logsnr: Tensor,
    strengths: Sequence[Strength],
    rule: GuidanceRule = PLAIN,
    phi: float = 0.0,
    memory: Any = None,
) -> Remembered:
    """A prediction led away from several others at once.

    ``cond + sum_i (rule(cond, other_i, w_i) - cond)``: each pair by the rule for itself, which for
    the plain rule is ``cond + w_1 (cond - other_1) + w_2 (cond - other_2) + ...``; then `rescale`.
    That the changes add up is ours. Of two others it is guidance of strength ``w_1 + w_2`` away
    from their mean with these weights.

    Args:
        z: noisy data [B, ...].
        x0s: the prediction to be guided, and those that it is led away from, shape of ``z``.
        logsnr: the noise level [B].
        strengths: one for each of the others: a number, [B], or a function of logsnr.
        rule: how two of them are combined.
        phi: how far the contrast of the first is brought back, in [0, 1]; 0 is off.
        memory: what came of the step before; None at the first.

    Returns:
        Remembered(x0, memory).

    Raises:
        ValueError: if there are not as many strengths as others, or the shapes differ.

    Source: Ho & Salimans 2021 (2207.12598), eq. 6; Karras et al. 2024 (2406.02507), eq. 2.

    >>> one = torch.ones(1)
    >>> guided_x0(one, [3 * one, 2 * one, one], torch.zeros(1), [1.0, 0.5]).x0
    tensor([5.])
    """
    cond, *others = x0s
    if len(others) != len(strengths) or not others:
        raise ValueError(
            f"expected a strength for each prediction to be led away from, at least one, got "
            f"{len(strengths)} for {len(others)}"
        )
    before = (None,) * len(others) if memory is None else memory
    each = [
        rule.combine(z, cond, other, logsnr, w(logsnr) if callable(w) else w, known)
        for other, w, known in zip(others, strengths, before, strict=True)
    ]
    x0 = each[0].x0
    for more in each[1:]:
        x0 = x0 + (more.x0 - cond)
    if phi:
        x0 = rescale(x0, cond, phi)
    return Remembered(x0, tuple(found.memory for found in each))


def guided(
    denoise: Denoiser,
    others: Sequence[Denoiser],
    strengths: Sequence[Strength],
    rule: GuidanceRule = PLAIN,
    phi: float = 0.0,
) -> Denoiser:
    """A denoiser that is led away from several others: `guided_x0` of what they say.

    Args:
        denoise: the denoiser to be guided.
        others: those to be led away from: the same without labels, a smaller or less trained one.
        strengths: one for each: a number, [B], or a function of logsnr.
        rule: how two predictions are combined, as `guidance_rule` makes it.
        phi: how far the contrast of ``denoise`` is brought back, in [0, 1]; 0 is off.

    Returns:
        denoiser; a `Remembering` one where the rule or one of the denoisers remembers, a `Spanning`
        one where all of them are.

    Raises:
        ValueError: if ``phi`` is not in [0, 1].

    >>> strong, weak, none = (lambda z, l, k=k: k * z for k in (3, 2, 1))
    >>> guided(strong, [none, weak], [1.0, 0.5])(torch.ones(1), torch.zeros(1))
    tensor([5.5000])
    """
    _check_phi(phi)

    every = (denoise, *others)

    def say(z: Tensor, logsnr: Tensor, end: Tensor | None, memory: Any) -> Remembered:
        own, of_rule = ([None] * len(every), None) if memory is None else memory
        said = [asked(each, z, logsnr, end, m) for each, m in zip(every, own, strict=True)]
        x0s = [found.x0 for found in said]
        x0, of_rule = guided_x0(z, x0s, logsnr, strengths, rule, phi, of_rule)
        return Remembered(x0, ([found.memory for found in said], of_rule))

    recalls = rule.remembers or any(map(remembers, every))
    return denoiser_of(say, recalls, all(map(spans, every)))


def zero_init(denoise: Denoiser, until: float) -> Denoiser:
    """A denoiser whose flow stands still at the noisiest levels: the other half of CFG-Zero*.

    The paper sets the velocity of the first steps to zero, where it is learned worst. Here these
    are levels, so that it is a function of them alone; for the first step, one between the first
    two of the grid.

    Args:
        denoise: any denoiser; it is called there, too.
        until: highest logsnr at which the x0 is `standing`.

    Returns:
        denoiser.

    Source: Fan et al. 2025 (2503.18886), algorithm 1.

    >>> still = zero_init(lambda z, l: 0 * z, until=-5.0)
    >>> still(torch.ones(2), torch.tensor([-20.0, 0.0]))
    tensor([1.0000, 0.0000])
    """

    def held(z: Tensor, logsnr: Tensor, x0: Tensor) -> Tensor:
        return torch.where(from_left(check_logsnr(logsnr, z), z) <= until, standing(z, logsnr), x0)

    return _changed(denoise, held)


def classifier_free(cond: Denoiser, uncond: Denoiser, w: Strength, phi: float = 0.0) -> Denoiser:
    """A guided denoiser from two: an unconditional one, or a weaker model (autoguidance).

    `vfn.nn.denoiser` does the common case in one doubled batch; this takes any two denoisers, and
    `guided` more of them.

    Args:
        cond: the denoiser to be guided.
        uncond: the one to be led away from: unconditional, or a smaller or less trained model.
        w: strength: a number, [B], or a function of logsnr such as `interval_strength` makes.
        phi: how far the contrast of ``cond`` is brought back by `rescale`, in [0, 1]; 0 is off.

    Returns:
        denoiser.

    Raises:
        ValueError: if ``phi`` is not in [0, 1].

    Source: Ho & Salimans 2021 (2207.12598), eq. 6; Karras et al. 2024 (2406.02507), eq. 2, whose
    weight is ``1 + w``.

    >>> guided = classifier_free(lambda z, l: 2 * z, lambda z, l: z, w=0.5)
    >>> guided(torch.ones(1), torch.zeros(1))
    tensor([2.5000])
    """
    return guided(cond, [uncond], [w], phi=phi)


def mapped(denoise: Denoiser, change: Callable[[Tensor], Tensor]) -> Denoiser:
    """A denoiser whose x0 goes through a function: clipping, thresholding.

    Applied to both denoisers before `classifier_free` it clips before guidance, applied to the
    result it clips after.

    Args:
        denoise: any denoiser.
        change: x0 to x0, such as ``lambda x0: x0.clamp(-1, 1)`` or `dynamic_threshold`.

    Returns:
        denoiser.

    >>> clipped = mapped(lambda z, l: 2 * z, lambda x0: x0.clamp(-1, 1))
    >>> clipped(torch.ones(1), torch.zeros(1))
    tensor([1.])
    """
    return _changed(denoise, lambda _z, _logsnr, x0: change(x0))


def _changed(denoise: Denoiser, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Denoiser:
    """A denoiser whose x0 goes through ``change(z, logsnr, x0)``; what else it knows of stays."""

    def say(z: Tensor, logsnr: Tensor, end: Tensor | None, memory: Any) -> Remembered:
        x0, memory = asked(denoise, z, logsnr, end, memory)
        return Remembered(change(z, logsnr, x0), memory)

    return denoiser_of(say, remembers(denoise), spans(denoise))
