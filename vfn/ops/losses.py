"""Training losses, one value per sample."""

import math

import torch
from torch import Tensor

from vfn.ops._coef import Scalar, as_float64, log_sigmoid, same_shape
from vfn.ops._types import Reweight, check_choice
from vfn.ops.predictions import Prediction


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    same_shape(a, b, "prediction", "target")
    return (a - b).square().reshape(a.shape[0], math.prod(a.shape[1:])).mean(1)


def mse_loss(
    pred: Prediction,
    target: Prediction,
    reweight: Reweight,
    logsnr: Scalar | None = None,
    gamma: float | None = None,
    bias: float = 0.0,
    sigma_data: float = 0.5,
) -> Tensor:
    """Mean square error, weighted over noise levels.

    Four weightings are errors of another quantity: ``constant`` |x0 error|^2; ``snr`` |eps error|^2
    = SNR |x0 error|^2; ``truncated_snr`` the larger of the two, max(1, SNR) |x0 error|^2;
    ``alpha2`` |v error|^2 = (1 + SNR) |x0 error|^2. ``edm`` is |eps error|^2 + |x0 error|^2 /
    sigma_data^2. The others weight |x0 error|^2 by `loss_weight` and need ``logsnr``: ``min_snr``,
    ``p2``, ``sigmoid``. Each is a mean over all but the first dimension.

    Args:
        pred: see `predict`; every prediction type goes with every weighting.
        target: the true Prediction, same shapes [B, ...].
        reweight: one of the words above.
        logsnr: [B], for min_snr, p2 and sigmoid.
        gamma: see `loss_weight`.
        bias: see `loss_weight`.
        sigma_data: see `loss_weight`.

    Returns:
        loss [B].

    Raises:
        ValueError: for an unknown ``reweight``, shapes that differ, or a missing ``logsnr``.

    Source: Salimans & Ho 2022 (2202.00512), section 4.

    >>> zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    >>> mse_loss(Prediction(zero, zero, zero), Prediction(one, 2 * one, zero), "truncated_snr")
    tensor([4., 4.])
    """
    check_choice(reweight, Reweight, "reweight")
    if reweight == "alpha2":
        return _mean_square(pred.v, target.v)
    if reweight == "snr":
        return _mean_square(pred.eps, target.eps)
    x0_error = _mean_square(pred.x0, target.x0)
    if reweight == "constant":
        return x0_error
    if reweight == "truncated_snr":
        return torch.maximum(x0_error, _mean_square(pred.eps, target.eps))
    if reweight == "edm":
        return _mean_square(pred.eps, target.eps) + x0_error / _positive(sigma_data) ** 2
    if logsnr is None:
        raise ValueError(f"expected logsnr of shape [B] for reweight {reweight}, got None")
    return loss_weight(logsnr, reweight, gamma, bias).to(x0_error.dtype) * x0_error


def loss_weight(
    logsnr: Scalar,
    reweight: Reweight,
    gamma: float | None = None,
    bias: float = 0.0,
    sigma_data: float = 0.5,
) -> Tensor:
    """The weight of a reweighting relative to the x0 error: ``loss = weight |x0 error|^2``.

    ``constant`` 1 · ``snr`` SNR · ``truncated_snr`` max(1, SNR) · ``alpha2`` 1 + SNR · ``min_snr``
    min(SNR, gamma) · ``p2`` SNR / (1 + SNR)^gamma · ``sigmoid`` SNR sigmoid(bias - logsnr) ·
    ``edm`` SNR + 1 / sigma_data^2.

    Args:
        logsnr: any shape.
        reweight: one of the words above.
        gamma: of min_snr (5 if None) and p2 (1 if None), > 0.
        bias: of sigmoid.
        sigma_data: of edm, the standard deviation of the data, > 0.

    Returns:
        weight, float64, shape of ``logsnr``.

    Raises:
        ValueError: for an unknown ``reweight``, ``gamma <= 0`` or ``sigma_data <= 0``.

    Source: Salimans & Ho 2022 (2202.00512), section 4; Hang et al. 2023 (2303.09556), section 3.4;
    Choi et al. 2022 (2204.00227), eq. 8; Hoogeboom et al. 2024 (2410.19324), section 3; Karras et
    al. 2022 (2206.00364), table 1.

    >>> loss_weight(torch.tensor([-40.0, 0.0, 40.0]), "min_snr").round(decimals=3)
    tensor([0., 1., 5.], dtype=torch.float64)
    """
    check_choice(reweight, Reweight, "reweight")
    value = as_float64(logsnr, "logsnr")
    snr = torch.exp(value)
    if reweight == "constant":
        return torch.ones_like(snr)
    if reweight == "snr":
        return snr
    if reweight == "truncated_snr":
        return snr.clamp(min=1)
    if reweight == "alpha2":
        return 1 + snr
    if reweight == "min_snr":
        return snr.clamp(max=_positive(5.0 if gamma is None else gamma))
    if reweight == "p2":  # SNR (1 + SNR)^-gamma without inf / inf
        power = _positive(1.0 if gamma is None else gamma)
        return torch.exp(value + power * log_sigmoid(-value))
    if reweight == "sigmoid":  # SNR sigmoid(bias - l) = exp(bias) sigmoid(l - bias)
        return math.exp(bias) * torch.sigmoid(value - bias)
    return snr + 1 / _positive(sigma_data) ** 2


def _positive(value: float) -> float:
    if not value > 0:
        raise ValueError(f"expected gamma and sigma_data > 0, got {value}")
    return value
