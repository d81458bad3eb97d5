"""Training losses, one value per sample."""

import torch
from torch import Tensor

from vfn.ops._coef import Scalar, as_float64, same_shape
from vfn.ops._types import Reweight, check_choice
from vfn.ops.predictions import Prediction


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    same_shape(a, b, "prediction", "target")
    return (a - b).square().flatten(1).mean(1)


def mse_loss(pred: Prediction, target: Prediction, reweight: Reweight) -> Tensor:
    """Mean square error, weighted over noise levels by the quantity that is compared.

    ``constant`` |x0 error|^2; ``snr`` |eps error|^2 = SNR |x0 error|^2; ``truncated_snr`` the
    larger of the two, max(1, SNR) |x0 error|^2; ``alpha2`` |v error|^2 = (1 + SNR) |x0 error|^2.
    Each is a mean over all but the first dimension.

    Args:
        pred: see `predict`; every prediction type goes with every weighting.
        target: the true Prediction, same shapes [B, ...].
        reweight: constant, snr, truncated_snr or alpha2.

    Returns:
        loss [B].

    Raises:
        ValueError: for an unknown ``reweight`` or shapes that differ.

    Source: Salimans & Ho 2022 (2202.00512), section 4.

    >>> zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    >>> mse_loss(Prediction(zero, zero, zero), Prediction(one, 2 * one, zero), "truncated_snr")
    tensor([4., 4.])
    """
    check_choice(reweight, Reweight, "reweight")
    if reweight == "constant":
        return _mean_square(pred.x0, target.x0)
    if reweight == "snr":
        return _mean_square(pred.eps, target.eps)
    if reweight == "alpha2":
        return _mean_square(pred.v, target.v)
    return torch.maximum(_mean_square(pred.x0, target.x0), _mean_square(pred.eps, target.eps))


def loss_weight(logsnr: Scalar, reweight: Reweight) -> Tensor:
    """The weight of a reweighting relative to the x0 error: ``loss = weight |x0 error|^2``.

    ``constant`` 1, ``snr`` SNR, ``truncated_snr`` max(1, SNR), ``alpha2`` 1 + SNR.

    Args:
        logsnr: any shape.
        reweight: constant, snr, truncated_snr or alpha2.

    Returns:
        weight, float64, shape of ``logsnr``.

    Raises:
        ValueError: for an unknown ``reweight``.

    Source: Salimans & Ho 2022 (2202.00512), section 4.

    >>> loss_weight(torch.tensor([-1.0, 0.0]), "truncated_snr")
    tensor([1., 1.], dtype=torch.float64)
    """
    check_choice(reweight, Reweight, "reweight")
    snr = torch.exp(as_float64(logsnr, "logsnr"))
    if reweight == "constant":
        return torch.ones_like(snr)
    if reweight == "snr":
        return snr
    return snr.clamp(min=1) if reweight == "truncated_snr" else 1 + snr
