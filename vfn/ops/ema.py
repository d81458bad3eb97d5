"""Exponential moving average of parameters, as plain dictionaries of tensors."""

from collections.abc import Mapping

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
    if not 0 <= decay <= 1:
        raise ValueError(f"expected decay in [0, 1], got {decay}")
    return min(decay, (1 + num_updates) / (10 + num_updates))


def _check_names(ema: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> None:
    if ema.keys() != params.keys():
        differing = sorted(ema.keys() ^ params.keys())[:3]
        raise ValueError(f"expected ema and params with the same names, they differ in {differing}")


def ema_update(
    ema: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float
) -> dict[str, Tensor]:
    """One update, pure: ``ema + (1 - decay)(params - ema)``.

    Args:
        ema: the average so far.
        params: the new parameters, same names and shapes.
        decay: see `ema_decay`.

    Returns:
        the new average; the arguments are left as they are.

    Raises:
        ValueError: if the names differ.

    >>> ema_update({"w": torch.zeros(1)}, {"w": torch.ones(1)}, decay=0.75)
    {'w': tensor([0.2500])}
    """
    _check_names(ema, params)
    return {name: torch.lerp(ema[name], params[name].detach(), 1 - decay) for name in ema}


@torch.no_grad()
def ema_update_(ema: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    """`ema_update` in place, in one fused call.

    Args:
        ema: the average so far, overwritten.
        params: the new parameters, same names and shapes.
        decay: see `ema_decay`.

    Raises:
        ValueError: if the names differ.

    >>> ema = {"w": torch.zeros(1)}
    >>> ema_update_(ema, {"w": torch.ones(1)}, decay=0.75)
    >>> ema
    {'w': tensor([0.2500])}
    """
    _check_names(ema, params)
    torch._foreach_lerp_(list(ema.values()), [params[name] for name in ema], 1 - decay)
