"""Exponential moving average of parameters, as plain dictionaries of tensors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def ema_decay(num_updates: int, decay: float) -> float:
    """Decay with warm-up: ``min(decay, (1 + n) / (10 + n))``.

    Args:
        num_updates: n, the updates so far, counting this one.
        decay: the limit, in [0, 1].

    Returns:
        the decay of this update.

    Raises:
        ValueError: if ``decay`` is not in [0, 1].

    >>> ema_decay(0, 0.999), ema_decay(10**6, 0.999)
    (0.1, 0.999)
    """
    _check_decay(decay)
    if num_updates < 0:
        raise ValueError(f"expected num_updates >= 0, got {num_updates}")
    return min(decay, (1 + num_updates) / (10 + num_updates))


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"expected decay in [0, 1], got {decay}")


def _check_fit(ema: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    _check_decay(decay)
    if ema.keys() != params.keys():
        differing = sorted(ema.keys() ^ params.keys())[:3]
        raise ValueError(f"expected ema and params with the same names, they differ in {differing}")
    for name, value in ema.items():
        if value.shape != params[name].shape:
            raise ValueError(
                f"expected ema and params of the same shapes, {name} has {tuple(value.shape)} and "
                f"{tuple(params[name].shape)}"
            )


def ema_update(
    ema: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float
) -> dict[str, Tensor]:
    """One update, pure: ``ema + (1 - decay)(params - ema)``.

    Args:
        ema: the average so far.
        params: the new parameters, same names and shapes.
        decay: share of the average that is kept, in [0, 1].

    Returns:
        the new average; the arguments are left as they are.

    Raises:
        ValueError: if names or shapes differ, or ``decay`` is not in [0, 1].

    >>> ema_update({"w": torch.zeros(1)}, {"w": torch.ones(1)}, decay=0.75)
    {'w': tensor([0.2500])}
    """
    _check_fit(ema, params, decay)
    return {
        name: torch.lerp(value, params[name].detach().to(value.dtype), 1 - decay)
        for name, value in ema.items()
    }


@torch.no_grad()
def ema_update_(ema: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    """`ema_update` in place, in one fused call.

    Args:
        ema: the average so far, overwritten.
        params: the new parameters, same names and shapes.
        decay: share of the average that is kept, in [0, 1].

    Raises:
        ValueError: if names or shapes differ, or ``decay`` is not in [0, 1].

    >>> ema = {"w": torch.zeros(1)}
    >>> ema_update_(ema, {"w": torch.ones(1)}, decay=0.75)
    >>> ema
    {'w': tensor([0.2500])}
    """
    _check_fit(ema, params, decay)
    if ema:
        new = [params[name].to(value.dtype) for name, value in ema.items()]
        torch._foreach_lerp_(list(ema.values()), new, 1 - decay)


def power_ema_decay(num_updates: int, gamma: float) -> float:
    """Decay of the power-function average: ``(1 - 1/n)^(gamma + 1)``.

    After n updates the average weights update i in proportion to ``i^gamma``, so its length is a
    fixed share of the training so far.

    Args:
        num_updates: n, counting this one, >= 1.
        gamma: exponent, > -1; `sigma_rel_to_gamma` finds it for a length.

    Returns:
        the decay of this update; 0 at the first.

    Raises:
        ValueError: if ``num_updates < 1`` or ``gamma <= -1``.

    Source: Karras et al. 2023 (2312.02696), eq. 2.

    >>> power_ema_decay(1, 6.94), round(power_ema_decay(1000, 6.94), 5)
    (0.0, 0.99209)
    """
    if num_updates < 1 or not gamma > -1:
        raise ValueError(f"expected num_updates >= 1 and gamma > -1, got {num_updates} and {gamma}")
    return (1 - 1 / num_updates) ** (gamma + 1)


def sigma_rel_to_gamma(sigma_rel: float) -> float:
    """Exponent of a power-function average from its relative standard deviation.

    The largest root of ``(g + 2)^2 (g + 3) s^2 = g + 1``.

    Args:
        sigma_rel: s, width of the averaging profile as a share of the training, in (0, 1/sqrt(12)).

    Returns:
        gamma.

    Raises:
        ValueError: if ``sigma_rel`` is out of range.

    Source: Karras et al. 2023 (2312.02696), eqs. 123-126.

    >>> round(sigma_rel_to_gamma(0.10), 2), round(sigma_rel_to_gamma(0.05), 2)
    (6.94, 16.97)
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(f"expected sigma_rel in (0, {12**-0.5:.4f}), got {sigma_rel}")
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real[np.isreal(roots)].max())


def posthoc_ema_weights(
    steps: Sequence[float], gammas: Sequence[float], step: float, gamma: float
) -> Tensor:
    """Weights with which stored averages sum to the average of another length.

    Least squares over the profiles ``(g + 1) tau^g / t^(g + 1)`` on [0, t], divided by the sum of
    the weights, without which the parameters would shrink by it.

    Args:
        steps: t of each stored average, [N].
        gammas: its exponent, > -1/2, [N].
        step: t of the wanted average.
        gamma: its exponent.

    Returns:
        weights [N], float64, of sum 1, for `combine`.

    Raises:
        ValueError: if ``steps`` and ``gammas`` differ in length or are empty, a step is not above
            0, or an exponent not above -1/2.

    Source: Karras et al. 2023 (2312.02696), algorithm 3.

    >>> posthoc_ema_weights([10, 20], [7.0, 7.0], 20, 7.0).abs().round(decimals=6)
    tensor([0., 1.], dtype=torch.float64)
    """
    if not len(steps) or len(steps) != len(gammas):  # of arrays, too
        raise ValueError(
            f"expected as many steps as gammas, at least one, got {len(steps)} and {len(gammas)}"
        )
    if min(*steps, step) <= 0:
        raise ValueError(f"expected steps above 0, got {min(*steps, step)}")
    if not min(*gammas, gamma) > -0.5:  # or the square of a profile has no integral
        raise ValueError(f"expected gammas above -0.5, got {min(*gammas, gamma)}")
    t, g = (torch.tensor(list(values), dtype=torch.float64) for values in (steps, gammas))
    wanted_t, wanted_g = (torch.tensor([v], dtype=torch.float64) for v in (step, gamma))
    gram = _profile_product(t[:, None], g[:, None], t, g)
    right = _profile_product(t[:, None], g[:, None], wanted_t, wanted_g)
    weights = torch.linalg.lstsq(gram, right, driver="gelsd").solution[:, 0]
    return weights / weights.sum()


def posthoc_ema_fit(
    steps: Sequence[float], gammas: Sequence[float], step: float, gamma: float
) -> float:
    """How far the weighted profiles of `posthoc_ema_weights` are from the wanted one.

    ``|sum_i w_i p_i - p| / |p|`` over the training so far, with ``|p|^2`` the integral of the
    square of the profile. The error of the averaged parameters is smaller by as much as they change
    less from step to step than the profiles do.

    Args:
        steps: t of each stored average, [N].
        gammas: its exponent, > -1/2, [N].
        step: t of the wanted average.
        gamma: its exponent.

    Returns:
        the relative error, 0 where the wanted average is stored.

    Raises:
        ValueError: if ``steps`` and ``gammas`` differ in length or are empty.

    Source: Karras et al. 2023 (2312.02696), section 3.2.

    >>> posthoc_ema_fit([10, 20], [7.0, 7.0], 20, 7.0) < 1e-6
    True
    >>> round(posthoc_ema_fit([10, 20], [7.0, 7.0], 20, 30.0), 2)
    0.66
    """
    weights = posthoc_ema_weights(steps, gammas, step, gamma)
    t, g = (torch.tensor(list(values), dtype=torch.float64) for values in (steps, gammas))
    wanted_t, wanted_g = (torch.tensor([v], dtype=torch.float64) for v in (step, gamma))
    own = _profile_product(wanted_t, wanted_g, wanted_t, wanted_g)[0]
    mixed = _profile_product(t[:, None], g[:, None], wanted_t, wanted_g)[:, 0]
    square = weights @ _profile_product(t[:, None], g[:, None], t, g) @ weights
    return float(((square - 2 * weights @ mixed + own).clamp(min=0) / own).sqrt())


def _profile_product(t_a: Tensor, g_a: Tensor, t_b: Tensor, g_b: Tensor) -> Tensor:
    """Integral of the product of two profiles; the shorter one ends it."""
    exponent = torch.where(t_a < t_b, g_b, -g_a)
    scale = (g_a + 1) * (g_b + 1) / ((g_a + g_b + 1) * torch.maximum(t_a, t_b))
    return scale * (t_a / t_b) ** exponent


def combine(averages: Sequence[Mapping[str, Tensor]], weights: Tensor) -> dict[str, Tensor]:
    """Weighted sum of dictionaries of tensors, accumulated in float64.

    Args:
        averages: N dictionaries of the same names and shapes.
        weights: [N], such as `posthoc_ema_weights` finds.

    Returns:
        the sum, in the dtypes of the first.

    Raises:
        ValueError: if the numbers or names differ.

    >>> combine([{"w": torch.ones(1)}, {"w": torch.zeros(1)}], torch.tensor([0.25, 0.75]))
    {'w': tensor([0.2500])}
    """
    if not averages or len(averages) != len(weights):
        raise ValueError(
            f"expected one weight for each average, got {len(weights)} and {len(averages)}"
        )
    for average in averages[1:]:
        _check_fit(averages[0], average, 0.0)
    return {
        name: sum(
            w * average[name].double() for w, average in zip(weights, averages, strict=True)
        ).to(value.dtype)
        for name, value in averages[0].items()
    }
