"""Training times from uniform draws."""

import torch
from torch import Tensor

from vfn.ops._coef import as_float64


def discrete_time(u: Tensor, timesteps: int) -> Tensor:
    """Discrete times: ``t = ceil(u T) / T``, uniform on {1/T, 2/T, ..., 1}.

    Args:
        u: uniform draws in (0, 1), any shape.
        timesteps: T >= 1.

    Returns:
        t, shape and dtype of ``u``.

    Raises:
        ValueError: if ``timesteps < 1``.

    Source: Ho et al. 2020 (2006.11239), algorithm 1.

    >>> discrete_time(torch.tensor([0.1, 0.9]), 4)
    tensor([0.2500, 1.0000])
    """
    if timesteps < 1:
        raise ValueError(f"expected timesteps >= 1, got {timesteps}")
    return (torch.ceil(as_float64(u, "u") * timesteps) / timesteps).to(u.dtype)
