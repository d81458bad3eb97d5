"""Few-step methods on the angle phi, alpha = cos phi and sigma = sin phi, along which dz/dphi = v.

A consistency function says at every point of a path of the flow where the path ends in the data. Of
a network that predicts v it is `x0_from_v`, which is the z itself at phi = 0. A mean velocity says
how far a path moves between two angles.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import (
    Scalar,
    as_float64,
    as_logsnr,
    each_logsnr,
    from_left,
    linear_combination,
    rows,
    same_shape,
)
from vfn.ops.losses import balanced_loss
from vfn.ops.multistep import add_terms, turn
from vfn.ops.objective_table import last_stage
from vfn.ops.predictions import x0_from_v
from vfn.ops.steps import ddim_step


class Along(NamedTuple):
    """A function's value at a point of a path, and how fast it changes along it, per radian."""

    value: Tensor
    rate: Tensor


# v(z, logsnr), or with a third level at s the mean velocity up to it.
Velocity = Callable[..., Tensor]


class Paths(NamedTuple):
    """Where a network learns: z [B, ...] on paths of a flow at logsnr [B], and dz/dphi there.

    dz: v of training pairs, or of a teacher. end: logsnr where a step may end [B], and u: a uniform
    draw of each, for mean velocities. guidance: w [B] that the paths are led by, away from what
    ``away(z, logsnr, logsnr_s)`` says; led: which of them are [B], None for all.
    """

    z: Tensor
    dz: Tensor
    logsnr: Tensor
    end: Tensor | None = None
    u: Tensor | None = None
    guidance: Tensor | None = None
    away: Velocity | None = None
    led: Tensor | None = None


class Learned(NamedTuple):
    """Loss of each picture [B], and figures for the log, each a number on the device.

    auxiliary: loss [B] of a second network that is trained beside it, which reaches that alone.
    roots: names of figures that are root mean squares: of parts of a batch their squares count.
    """

    loss: Tensor
    figures: dict[str, Tensor]
    auxiliary: Tensor | None = None
    roots: tuple[str, ...] = ()


class LevelPair(NamedTuple):
    """Two neighbouring noise levels of a path, logsnr [B]: t is the noisier one."""

    t: Tensor
    s: Tensor


def along_path(
    function: Callable[[Tensor, Tensor], Tensor], z: Tensor, logsnr: Tensor, dz: Tensor
) -> Along:
    """Value and total derivative of a function of (z, logsnr) by the angle, along a path.

    ``d/dphi F(z, logsnr) = F_z dz + F_logsnr dlogsnr/dphi`` with ``dlogsnr/dphi = -4 cosh(l/2)``,
    in one pass of forward differentiation.

    Args:
        function: ``F(z, logsnr)`` with logsnr float64, such as the v of a network; all that it does
            can be differentiated forward.
        z: where, [B, ...].
        logsnr: [B]; finite.
        dz: ``dz/dphi`` of the path, shape of ``z``: v of the flow's own paths, and
            ``cos phi eps - sin phi x0``, the same v, of the straight lines of training pairs.

    Returns:
        Along(value, rate), shape and dtype of what the function gives.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Lu & Song 2024 (2410.11081), section 4.1.

    >>> z, logsnr = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    >>> along_path(lambda z, logsnr: z * logsnr, z, logsnr, 0 * z)  # dlogsnr/dphi = -4
    Along(value=tensor([0.], dtype=torch.float64), rate=tensor([-4.], dtype=torch.float64))
    """
    same_shape(z, dz, "z", "dz")
    level = _coef.check_logsnr(logsnr, z)
    with _silent():
        return Along(*torch.func.jvp(function, (z, level), (dz, -4 * torch.cosh(0.5 * level))))


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warning that PyTorch's rules of forward differentiation are still scripted."""
    if torch.compiler.is_compiling():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit.script. is")  # of one kind or another
        yield


def consistency_tangent(
    z: Tensor, v: Tensor, dz: Tensor, dv: Tensor, logsnr: Scalar, warmup: Scalar = 1.0
) -> Tensor:
    """How the prediction v has to change so that its x0 stands still along a path.

    ``g = -cos^2 phi (v - dz/dphi) - r cos phi sin phi (z + dv/dphi)``; with r = 1 it is ``cos phi``
    times the rate at which `x0_from_v` changes along the path, and 0 where v is consistent.

    Args:
        z: noisy data [B, ...].
        v: the network's velocity there, shape of ``z``.
        dz: ``dz/dphi`` of the path, as in `along_path`.
        dv: ``dv/dphi``, the total derivative of the network along the path.
        logsnr: [B] or broadcasting from the left.
        warmup: r in [0, 1], raised from 0 in the first updates, [B] or broadcasting from the left.

    Returns:
        g, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Lu & Song 2024 (2410.11081), eq. 6 and algorithm 1.

    >>> z = v = torch.ones(1)
    >>> consistency_tangent(z, v, dz=0 * v, dv=0 * v, logsnr=torch.zeros(1))
    tensor([-1.])
    """
    for name, value in (("v", v), ("dz", dz), ("dv", dv)):
        same_shape(z, value, "z", name)
    level, share = as_logsnr(logsnr, z), as_logsnr(warmup, z, "warmup")
    alpha = _coef.alpha(level)
    return linear_combination(-alpha.square(), v - dz, -share * alpha * _coef.sigma(level), z + dv)


def normalised_tangent(tangent: Tensor, floor: float = 0.1) -> Tensor:
    """A tangent of about unit size: ``g / (rms(g) + floor)``, for each sample.

    Args:
        tangent: g, [B, ...].
        floor: c > 0; tangents much smaller stay small.

    Returns:
        shape and dtype of ``tangent``.

    Raises:
        ValueError: if ``floor`` is not positive.

    Source: Lu & Song 2024 (2410.11081), section 4.2, where the norm is divided by sqrt(D), too.

    >>> normalised_tangent(torch.tensor([[0.3, 0.3]]), floor=0.1)
    tensor([[0.7500, 0.7500]])
    """
    if not floor > 0:
        raise ValueError(f"expected floor > 0, got {floor}")
    return tangent / (from_left(rms(tangent), tangent) + floor)


def rms(value: Tensor) -> Tensor:
    """Root mean square of each sample.

    Args:
        value: [B, ...].

    Returns:
        [B], dtype of ``value``; its gradient is 0 where the value is.

    >>> rms(torch.tensor([[3.0, -3.0], [0.0, 0.0]]))
    tensor([3., 0.])
    """
    square = _square(value) / math.prod(value.shape[1:])
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0).to(value.dtype)


def consistency_loss(
    v: Tensor, fixed: Tensor, tangent: Tensor, log_weight: Tensor | None = None
) -> Tensor:
    """Error against the network's own velocity, moved by the tangent: ``mean |v - (v- + g)|^2``.

    Its gradient is that of ``-2 v . g``: the value at v = v- is the mean square of g.

    Args:
        v: the network's velocity [B, ...], with gradients.
        fixed: v-, the same without.
        tangent: g, shape of ``v``, without.
        log_weight: w [B], learned beside the network: ``exp(w) loss - w``; None for the loss alone.

    Returns:
        loss [B].

    Raises:
        ValueError: if the shapes do not fit.

    Source: Lu & Song 2024 (2410.11081), eq. 8; w is -u of `balanced_loss`.

    >>> consistency_loss(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([[0.0, 2.0]]))
    tensor([2.])
    """
    same_shape(v, fixed, "v", "fixed")
    same_shape(v, tangent, "v", "tangent")
    loss = (_square(v - fixed - tangent) / math.prod(v.shape[1:])).to(v.dtype)
    return loss if log_weight is None else balanced_loss(loss, -log_weight)


def learn_consistency(
    live: Velocity,
    fixed: Velocity,
    paths: Paths,
    update: int | None = None,
    tangent_warmup: int = 100,
    tangent_floor: float = 0.1,
) -> Learned:
    """The loss of a consistency model in continuous time, for one batch.

    Args:
        live: v of the network, with gradients.
        fixed: the same without, to be differentiated forward.
        paths: z, logsnr, and dz/dphi of a teacher or of training pairs.
        update: updates done; None is any after the warm-up.
        tangent_warmup: updates over which r rises from 0 to 1, see `consistency_tangent`.
        tangent_floor: c of `normalised_tangent`, > 0.

    Returns:
        Learned; the figure ``tangent_rms`` is that of the tangent before it is normalised.

    Source: Lu & Song 2024 (2410.11081), algorithm 1.

    >>> z, logsnr = torch.randn(2, 3), torch.zeros(2, dtype=torch.float64)
    >>> learn_consistency(lambda z, _: 0 * z, lambda z, _: 0 * z, Paths(z, 0 * z, logsnr)).loss > 0
    tensor([True, True])
    """
    z, dz, logsnr, *_ = paths
    v, dv = along_path(fixed, z, logsnr, dz)
    share = 1.0 if update is None else min(1.0, (update + 1) / max(tangent_warmup, 1))
    tangent = consistency_tangent(z, v, dz, dv, logsnr, share)
    loss = consistency_loss(live(z, logsnr), v, normalised_tangent(tangent, tangent_floor))
    figures = {"tangent_rms": tangent.detach().square().mean().sqrt()}
    return Learned(loss, figures, roots=("tangent_rms",))


def learn_pairs(
    live: Velocity,
    fixed: Velocity,
    paths: Paths,
    update: int | None = None,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
    stage_updates: int = 100,
    first_stage: int = 1,
    c: float = 0.0,
) -> Learned:
    """The loss of a consistency model from pairs of noise levels, for one batch.

    The less noisy state is one DDIM step away with the x0 of ``dz``: on the line of a training
    pair, or where a teacher's step leads. Nothing is differentiated forward. Pairs close in up to
    `last_stage` and stay there: the difference of closer ones would be rounding.

    Args:
        live: v of the network, with gradients.
        fixed: the same without.
        paths: z, logsnr, and dz/dphi of a teacher or of training pairs.
        update: updates done; None is that of the first stage, so that it can be compared.
        q: of `ect_level`, > 1.
        k: of the same, how much longer pairs of little noise are.
        b: of the same, from which noise on.
        stage_updates: updates of a stage.
        first_stage: the stage that is begun with.
        c: of `pseudo_huber`; 0 is its default.

    Returns:
        Learned; the figure ``stage`` is that of the update.

    Raises:
        ValueError: for numbers of `ect_level` or `pseudo_huber` out of range.

    Source: Geng et al. 2024 (2406.14548), algorithm 1.

    >>> z, logsnr = torch.randn(2, 3), torch.zeros(2, dtype=torch.float64)
    >>> learn_pairs(lambda z, _: 0 * z, lambda z, _: 0 * z, Paths(z, 0 * z, logsnr)).loss.shape
    torch.Size([2])
    """
    z, dz = paths.z, paths.dz
    logsnr = each_logsnr(paths.logsnr, z)
    later = 0 if update is None else update // stage_updates
    stage = min(first_stage + later, last_stage(q))
    end = ect_level(logsnr, stage, q, k, b)
    z_s = ddim_step(z, x0_from_v(z, dz, logsnr), logsnr, end)
    # The data is its own x0; of a network that predicts x0 it has no velocity.
    at_data = end.isposinf()
    level = torch.where(at_data, logsnr, end)
    target = torch.where(from_left(at_data, z), z_s, x0_from_v(z_s, fixed(z_s, level), level))
    distance = pseudo_huber(x0_from_v(z, live(z, logsnr), logsnr), target, c or None)
    loss = pair_weight(logsnr, end).to(distance.dtype) * distance
    return Learned(loss, {"stage": loss.new_full((), float(stage))})


def learn_mean_velocity(
    live: Velocity,
    fixed: Velocity,
    paths: Paths,
    update: int | None = None,
    same_time: float = 0.5,
    power: float = 1.0,
    offset: float = 1e-3,
    own_velocity: float = 0,
    guidance: float = 0.0,
) -> Learned:
    """The loss of a mean flow, for one batch.

    Args:
        live: ``v(z, logsnr, logsnr_s)``, the mean velocity of the network, with gradients.
        fixed: the same without, to be differentiated forward.
        paths: all of it.
        update: updates done; None, in evaluations, gives the mean square error without a weight,
            which hides how large errors are.
        same_time: share of the pictures whose step has no length: they learn the velocity itself.
        power: p of `adaptive_weight`, >= 0.
        offset: c of the same, > 0.
        own_velocity: 1 takes the derivative along the network's own velocity (improved MeanFlow),
            0 along that of the training pair.
        guidance: w that the paths are led by where ``paths.guidance`` does not say. It is 0 for
            those without a condition: their v is what the others are led away from, and w times
            the difference would be noise.

    Returns:
        Learned; its figures are ``square_error``, without the weight, and ``derivative_rms``, of
        du/dphi.

    Raises:
        ValueError: if the paths do not say where steps end, or what they are led away from.

    Source: Geng et al. 2025 (2505.13447), algorithms 1 and 2, and section 4.2.

    >>> z, logsnr = torch.randn(2, 3), torch.zeros(2, dtype=torch.float64)
    >>> paths = Paths(z, 0 * z, logsnr, end=logsnr + 9, u=torch.tensor([0.1, 0.9]))
    >>> learn_mean_velocity(lambda z, *_: 0 * z, lambda z, *_: 0 * z, paths).loss
    tensor([0., 0.])
    """
    z, dz, logsnr, end, u, weight, away, led = paths
    if end is None or u is None:
        raise ValueError("expected paths with ends and uniform draws, got some without")
    if weight is not None or guidance:
        if away is None:
            raise ValueError("expected paths that say what guidance leads away from, got none")
        w = dz.new_full((len(dz),), guidance) if weight is None else weight.to(dz.dtype)
        w = w if led is None else torch.where(led, w, 0)
        dz = dz + from_left(w, dz) * (dz - away(z, logsnr, logsnr))
    end = torch.where(u < same_time, logsnr, end)
    along = fixed(z, logsnr, logsnr) if own_velocity else dz
    _, du = along_path(lambda z, logsnr: fixed(z, logsnr, end), z, logsnr, along)
    error = _square(live(z, logsnr, end) - mean_velocity_target(dz, du, logsnr, end))
    mean = error / math.prod(z.shape[1:])
    figures = {
        "square_error": mean.detach().mean(),
        "derivative_rms": du.detach().square().mean().sqrt(),
    }
    weighted = error * adaptive_weight(error.detach(), power, offset)
    return Learned(mean if update is None else weighted, figures, roots=("derivative_rms",))


def consistency_step(
    z: Tensor, x0: Tensor, logsnr_t: Scalar, logsnr_s: Scalar, *, noise: Tensor
) -> Tensor:
    """A step of consistency sampling: to the data and back, ``z_s = alpha_s x0 + sigma_s noise``.

    Args:
        z: noisy data at t [B, ...], of which x0 was predicted; it is not used otherwise.
        x0: predicted data, shape of ``z``.
        logsnr_t: of t; not used.
        logsnr_s: [B] or broadcasting from the left.
        noise: standard normal, shape of ``z``, new in each step.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Song et al. 2023 (2303.01469), algorithm 1.

    >>> consistency_step(torch.ones(1), torch.ones(1), -9.0, 0.0, noise=torch.zeros(1))
    tensor([0.7071])
    """
    del logsnr_t
    same_shape(z, x0, "z", "x0")
    same_shape(z, noise, "z", "noise")
    level = as_logsnr(logsnr_s, z, "logsnr_s")
    return linear_combination(_coef.alpha(level), x0, _coef.sigma(level), noise)


def ict_intervals(update: int, updates: int, first: int = 10, last: int = 1280) -> int:
    """Intervals of the noise levels at an update of improved consistency training.

    ``N(k) = min(s0 2^floor(k / K'), s1)``, ``K' = floor(K / (log2 floor(s1 / s0) + 1))``: they
    double from ``first`` to ``last``, each number for the same share of the updates.

    Args:
        update: k >= 0, updates done.
        updates: K, of the whole training.
        first: s0 >= 1.
        last: s1 >= s0.

    Returns:
        N >= 1.

    Raises:
        ValueError: for numbers out of order.

    Source: Song & Dhariwal 2023 (2310.14189), section 3.4.

    >>> [ict_intervals(k, 800) for k in (0, 99, 100, 799, 10**6)]
    [10, 10, 20, 1280, 1280]
    """
    if not (update >= 0 and updates >= 1 and 1 <= first <= last):
        raise ValueError(
            "expected update >= 0, updates >= 1 and 1 <= first <= last, got "
            f"{update}, {updates}, {first} and {last}"
        )
    each = max(1, math.floor(updates / (math.log2(last // first) + 1)))
    return int(min(first * 2 ** min(update // each, 64), last))


def ict_levels(
    u: Tensor,
    intervals: int,
    mean: float = -1.1,
    std: float = 2.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> LevelPair:
    """Neighbours on EDM's grid of noise levels, drawn as improved consistency training draws them.

    Interval i is drawn with the mass that ``ln(sigma/alpha) ~ N(mean, std^2)`` has in it.

    Args:
        u: uniform draws in (0, 1), [B].
        intervals: N >= 1, see `ict_intervals`.
        mean: of ln(sigma/alpha).
        std: of ln(sigma/alpha), > 0.
        sigma_min: least sigma/alpha, > 0.
        sigma_max: greatest.
        rho: how much denser the grid is near the data.

    Returns:
        LevelPair, float64.

    Raises:
        ValueError: for numbers out of range.

    Source: Song & Dhariwal 2023 (2310.14189), section 3.5.

    >>> pair = ict_levels(torch.tensor([0.5]), 10)
    >>> pair.t < pair.s
    tensor([True])
    """
    if intervals < 1 or not std > 0 or not 0 < sigma_min < sigma_max or not rho > 0:
        raise ValueError(
            "expected intervals >= 1, std > 0, 0 < sigma_min < sigma_max and rho > 0, got "
            f"{intervals}, {std}, {sigma_min}, {sigma_max} and {rho}"
        )
    value = as_float64(u, "u")
    ramp = torch.arange(intervals + 1, dtype=torch.float64, device=value.device) / intervals
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    logs = rho * torch.log(low + ramp * (high - low))
    away = (logs - mean) / std
    log_mass = _coef.log_normal_mass(away[:-1], away[1:])
    ends = torch.exp(log_mass - log_mass.max()).cumsum(0)
    at = torch.searchsorted(ends, (value * ends[-1]).contiguous()).clamp(max=intervals - 1)
    return LevelPair(-2 * logs[at + 1], -2 * logs[at])


def ect_level(
    logsnr: Tensor, stage: Scalar, q: float = 2.0, k: float = 8.0, b: float = 1.0
) -> Tensor:
    """The less noisy level of a pair of easy consistency tuning, which closes in with the stages.

    ``sigma_s = sigma_t max(0, 1 - n / q^stage)``, ``n = 1 + k sigmoid(-b sigma_t)``, where sigma is
    sigma/alpha. At stage 0 it is the data, and the loss that of a denoiser.

    Args:
        logsnr: at t, any shape.
        stage: a >= 0, a number or broadcasting over ``logsnr``; it grows with the updates.
        q: > 1.
        k: how much longer pairs of little noise are.
        b: from which noise on.

    Returns:
        logsnr at s, float64, shape of ``logsnr``; +inf at the data.

    Raises:
        ValueError: for numbers out of range.

    Source: Geng et al. 2024 (2406.14548), section 3.2 and appendix A.

    >>> ect_level(torch.zeros(1), stage=0), ect_level(torch.zeros(1), stage=10).round(decimals=4)
    (tensor([inf], dtype=torch.float64), tensor([0.0062], dtype=torch.float64))
    """
    if not (q > 1 and k >= 0 and b >= 0):
        raise ValueError(f"expected q > 1, k >= 0 and b >= 0, got {q}, {k} and {b}")
    level = as_float64(logsnr, "logsnr")
    lengths = 1 + k * torch.sigmoid(-b * torch.exp(-0.5 * level))
    less = lengths * q ** -as_float64(stage, "stage", level.device)
    nearer = level - 2 * torch.log1p(-torch.where(less < 1, less, 0.5))
    return torch.where(less < 1, nearer, torch.inf)


def pair_weight(logsnr_t: Scalar, logsnr_s: Scalar) -> Tensor:
    """Weight of a pair of levels: ``1 / (sigma_t - sigma_s)``, where sigma is sigma/alpha.

    Args:
        logsnr_t: any shape; finite.
        logsnr_s: likewise, ``> logsnr_t``; +inf is the data.

    Returns:
        weight, float64.

    Source: Song & Dhariwal 2023 (2310.14189), eq. 10; Geng et al. 2024 (2406.14548), eq. 16.

    >>> pair_weight(torch.zeros(1), torch.tensor([float("inf")]))
    tensor([1.], dtype=torch.float64)
    """
    lt, ls = as_float64(logsnr_t, "logsnr_t"), as_float64(logsnr_s, "logsnr_s")
    return torch.exp(0.5 * lt) / _coef.one_minus_exp(0.5 * _coef.gap(lt, ls))


def pseudo_huber(a: Tensor, b: Tensor, c: float | None = None) -> Tensor:
    """A distance, squared for small errors and plain for large ones: ``sqrt(|a-b|^2 + c^2) - c``.

    Args:
        a: [B, ...].
        b: shape of ``a``.
        c: > 0, where it turns; ``0.00054 sqrt(D)`` of D values a sample if None.

    Returns:
        distance [B].

    Raises:
        ValueError: if the shapes differ, or ``c`` is not positive.

    Source: Song & Dhariwal 2023 (2310.14189), eq. 7 and section 3.3.

    >>> pseudo_huber(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]), c=12.0)
    tensor([1.])
    """
    same_shape(a, b, "a", "b")
    turns = 0.00054 * math.sqrt(math.prod(a.shape[1:])) if c is None else c
    if not turns > 0:
        raise ValueError(f"expected c > 0, got {c}")
    square = _square(a - b)
    return (square / (torch.sqrt(square + turns**2) + turns)).to(a.dtype)


def mean_velocity(z_t: Tensor, z_s: Tensor, logsnr_t: Scalar, logsnr_s: Scalar) -> Tensor:
    """Mean velocity of a path between two of its points: ``(z_t - z_s) / (phi_t - phi_s)``.

    Args:
        z_t: noisy data at t [B, ...].
        z_s: the same path at s, shape of ``z_t``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, another level.

    Returns:
        mean velocity, shape and dtype of ``z_t``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Geng et al. 2025 (2505.13447), eq. 3.

    >>> noise, data, far = torch.ones(1), torch.zeros(1), float("inf")
    >>> mean_velocity(noise, data, -far, far)  # 2 / pi
    tensor([0.6366])
    """
    same_shape(z_t, z_s, "z_t", "z_s")
    angle = turn(as_logsnr(logsnr_t, z_t, "logsnr_t"), as_logsnr(logsnr_s, z_t, "logsnr_s"))
    return (z_t - z_s) * (1 / angle).to(z_t.dtype)


def mean_velocity_step(z: Tensor, mean_v: Tensor, logsnr_t: Scalar, logsnr_s: Scalar) -> Tensor:
    """The step by a mean velocity: ``z_s = z - (phi_t - phi_s) u``.

    Args:
        z: noisy data at t [B, ...].
        mean_v: u, mean velocity between t and s, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise; +inf is the data.

    Returns:
        z_s, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Geng et al. 2025 (2505.13447), eq. 12.

    >>> far = float("inf")
    >>> mean_velocity_step(torch.ones(1), torch.ones(1), -far, far)  # 1 - pi / 2
    tensor([-0.5708])
    """
    same_shape(z, mean_v, "z", "mean_v")
    angle = turn(as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s"))
    return add_terms(z, [(-angle, mean_v)])


def x0_from_mean_velocity(z: Tensor, mean_v: Tensor, logsnr_t: Scalar, logsnr_s: Scalar) -> Tensor:
    """The x0 with which a DDIM step t -> s lands where the step by a mean velocity does.

    ``x0 = (alpha_t + sigma_t tan(d/2)) z - sigma_t (d / sin d) u``, ``d = phi_t - phi_s``. At s = t
    it is `x0_from_v`, and at the data, logsnr_s = +inf, the end of the step itself.

    Args:
        z: noisy data at t [B, ...].
        mean_v: u, mean velocity between t and s, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, ``>= logsnr_t``.

    Returns:
        x0, shape and dtype of ``z``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Geng et al. 2025 (2505.13447), eq. 12, solved for the x0 of DDIM.

    >>> z, u = torch.tensor([1.0]), torch.tensor([-1.0])
    >>> x0_from_mean_velocity(z, u, 0.0, 0.0), x0_from_mean_velocity(z, u, 0.0, float("inf"))
    (tensor([1.4142]), tensor([1.7854]))
    """
    same_shape(z, mean_v, "z", "mean_v")
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    angle, sigma = turn(lt, ls), _coef.sigma(lt)
    of_z = _coef.alpha(lt) + sigma * torch.tan(0.5 * angle)
    return linear_combination(of_z, z, -sigma / torch.sinc(angle / math.pi), mean_v)


def mean_velocity_target(v: Tensor, du: Tensor, logsnr_t: Scalar, logsnr_s: Scalar) -> Tensor:
    """What the mean velocity between t and s has to be: ``u = v - (phi_t - phi_s) du/dphi``.

    Args:
        v: velocity at t [B, ...]: ``alpha eps - sigma x0`` of a training pair.
        du: ``du/dphi``, total derivative of the network's mean velocity by the angle of t along the
            path, with s held, as `along_path` gives it; shape of ``v``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, ``>= logsnr_t``.

    Returns:
        target, shape and dtype of ``v``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Geng et al. 2025 (2505.13447), eq. 6. With the derivative along the network's own
    velocity, instead of that of the pair, it is improved MeanFlow (2512.02012), eq. 9.

    >>> mean_velocity_target(torch.ones(1), torch.ones(1), 0.0, float("inf"))  # 1 - pi / 4
    tensor([0.2146])
    """
    same_shape(v, du, "v", "du")
    angle = turn(as_logsnr(logsnr_t, v, "logsnr_t"), as_logsnr(logsnr_s, v, "logsnr_s"))
    return add_terms(v, [(-angle, du)])


def adaptive_weight(error: Tensor, power: float = 1.0, offset: float = 1e-3) -> Tensor:
    """Weight that evens out square errors: ``(|d|^2 + offset)^-power``, taken as a constant.

    Args:
        error: ``|d|^2``, the sum of squares of each sample, >= 0, [B]; give it detached.
        power: p >= 0; 1 makes all samples count alike, 0 is no weight.
        offset: c > 0.

    Returns:
        weight, shape and dtype of ``error``.

    Raises:
        ValueError: for numbers out of range.

    Source: Geng et al. 2025 (2505.13447), eq. 22.

    >>> adaptive_weight(torch.tensor([0.999, 3.999]))
    tensor([1.0000, 0.2500])
    """
    if not power >= 0 or not offset > 0:
        raise ValueError(f"expected power >= 0 and offset > 0, got {power} and {offset}")
    return (error + offset) ** -power


def _square(value: Tensor) -> Tensor:
    """Sum of squares of each sample [B], in float32 at least."""
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    return rows(wide.square()).sum(1)
