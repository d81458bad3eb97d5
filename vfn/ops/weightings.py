"""The table of weightings of the loss over noise levels, without torch.

A weighting is a weight of the square x0 error as a function of logsnr. It is a function of the
tensor's own methods, so that help texts and checks can read the table before torch is loaded. A new
weighting, with its parameters, is one entry here, or a function ``weight(logsnr, **parameters)``
named as ``package.module:Name``.

Sources: constant, snr, truncated_snr, alpha2: Salimans & Ho 2022 (2202.00512), section 4. min_snr:
Hang et al. 2023 (2303.09556), section 3.4. p2: Choi et al. 2022 (2204.00227), eq. 8. sigmoid:
Hoogeboom et al. 2024 (2410.19324), section 3. edm: Karras et al. 2022 (2206.00364), table 1. flow:
Liu et al. 2022 (2209.03003), eq. 1; its t_min: Li & He 2025 (2511.13720), appendix A.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vfn.parametric import Parametric
from vfn.tables import Table, load_object

if TYPE_CHECKING:
    from torch import Tensor


class Errors(Protocol):
    """Mean square errors of a prediction in its forms, [B] each."""

    @property
    def x0(self) -> "Tensor":
        """Of the data."""

    @property
    def eps(self) -> "Tensor":
        """Of the noise."""

    @property
    def v(self) -> "Tensor":
        """Of the velocity."""

    @property
    def u(self) -> "Tensor":
        """Of the straight path's velocity."""


@dataclass(frozen=True, kw_only=True)
class Weighting(Parametric):
    """A weighting behind a word.

    text: its formula in one line. weight: ``weight(logsnr, **parameters)`` with logsnr in float64,
    relative to the square x0 error, in its shape; or the ``package.module:Name`` of such a
    function. parameters: name -> default. positive: those that are > 0. error: the same loss as an
    error of other quantities, ``error(errors, **parameters)``, which needs no logsnr; None where it
    is the weight times the x0 error.

    >>> WEIGHTINGS["min_snr"].text, WEIGHTINGS["min_snr"].parameters
    ('min(SNR, gamma)', {'gamma': 5.0})
    """

    text: str
    weight: "Callable[..., Tensor] | str"
    error: "Callable[..., Tensor] | None" = None

    def load(self) -> "Callable[..., Tensor]":
        """The function ``weight``, imported now if it was named.

        Returns:
            the function.

        Raises:
            ValueError: if the name cannot be imported.

        >>> WEIGHTINGS["snr"].load()(torch.zeros(1))
        tensor([1.])
        """
        if isinstance(self.weight, str):
            loaded: Callable[..., Tensor] = load_object(self.weight)
            return loaded
        return self.weight


def _p2(logsnr: "Tensor", gamma: float, k: float) -> "Tensor":
    """SNR (k + SNR)^-gamma without inf / inf."""
    from vfn.ops._coef import log_sigmoid  # loads torch, which whoever holds a tensor has

    logsnr, log_k = logsnr.clamp(-1e300, 1e300), math.log(k)
    return (logsnr + gamma * (log_sigmoid(log_k - logsnr) - log_k)).exp()


def _flow(logsnr: "Tensor", t_min: float) -> "Tensor":
    """1 / t^2 with t of the straight path, no less than t_min."""
    weight = (1 + (0.5 * logsnr).exp()).square()
    return weight.clamp(max=t_min**-2) if t_min else weight


def _flow_error(errors: Errors, t_min: float) -> "Tensor":
    return errors.u.minimum(errors.x0 / t_min**2) if t_min else errors.u


def _outside(name: str) -> Weighting:
    return Weighting(text=f"{name}(logsnr)", weight=name, parameters=None)


WEIGHTINGS: Table[Weighting] = Table(
    "weighting",
    {
        "constant": Weighting(
            text="1, the x0 error",
            weight=lambda logsnr: logsnr.new_ones(logsnr.shape),
            error=lambda errors: errors.x0,
        ),
        "snr": Weighting(
            text="SNR, the eps error",
            weight=lambda logsnr: logsnr.exp(),
            error=lambda errors: errors.eps,
        ),
        "truncated_snr": Weighting(
            text="max(1, SNR), the larger of the x0 and the eps error",
            weight=lambda logsnr: logsnr.exp().clamp(min=1),
            error=lambda errors: errors.x0.maximum(errors.eps),
        ),
        "alpha2": Weighting(
            text="1 + SNR, the v error",
            weight=lambda logsnr: 1 + logsnr.exp(),
            error=lambda errors: errors.v,
        ),
        "min_snr": Weighting(
            text="min(SNR, gamma)",
            weight=lambda logsnr, gamma: logsnr.exp().clamp(max=gamma),
            parameters={"gamma": 5.0},
            positive=("gamma",),
        ),
        "p2": Weighting(
            text="SNR / (k + SNR)^gamma",
            weight=_p2,
            parameters={"gamma": 1.0, "k": 1.0},
            positive=("gamma", "k"),
        ),
        "sigmoid": Weighting(  # SNR sigmoid(bias - l) = exp(bias) sigmoid(l - bias)
            text="SNR sigmoid(bias - logsnr)",
            weight=lambda logsnr, bias: math.exp(bias) * (logsnr - bias).sigmoid(),
            parameters={"bias": 0.0},
        ),
        "edm": Weighting(
            text="SNR + 1 / sigma_data^2, the eps error and a share of the x0 error",
            weight=lambda logsnr, sigma_data: logsnr.exp() + 1 / sigma_data**2,
            parameters={"sigma_data": 0.5},
            positive=("sigma_data",),
            error=lambda errors, sigma_data: errors.eps + errors.x0 / sigma_data**2,
        ),
        "flow": Weighting(
            text="(1 + sqrt(SNR))^2, the u error; at most 1 / t_min^2",
            weight=_flow,
            parameters={"t_min": 0.0},
            within={"t_min": (0, 1)},
            error=_flow_error,
        ),
    },
    _outside,
)
