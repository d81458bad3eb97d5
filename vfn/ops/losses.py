"""Training losses, one value per sample."""

from torch import Tensor

from vfn.ops._coef import Scalar, as_float64, each_logsnr, rows, same_shape
from vfn.ops.predictions import Prediction
from vfn.ops.weightings import WEIGHTINGS


class _Errors:
    """Mean square errors of a prediction in its forms, each computed when it is asked for."""

    def __init__(self, pred: Prediction, target: Prediction) -> None:
        self.pred, self.target = pred, target

    @property
    def x0(self) -> Tensor:
        return mean_square(self.pred.x0, self.target.x0)

    @property
    def eps(self) -> Tensor:
        return mean_square(self.pred.eps, self.target.eps)

    @property
    def v(self) -> Tensor:
        return mean_square(self.pred.v, self.target.v)

    @property
    def u(self) -> Tensor:
        return mean_square(self.pred.u, self.target.u)


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Mean over all but the first dimension of the square of what two tensors differ by, [B]."""
    same_shape(a, b, "prediction", "target")
    return rows((a - b).square()).mean(1)


def mse_loss(
    pred: Prediction,
    target: Prediction,
    reweight: str,
    logsnr: Scalar | None = None,
    **parameters: float,
) -> Tensor:
    """Mean square error, weighted over noise levels: ``weight(logsnr) |x0 error|^2``.

    Some weightings are the error of another quantity, and are computed as that: ``snr`` is the eps
    error, ``alpha2`` the v error, ``flow`` the u error. The others multiply the x0 error by
    `loss_weight`, and need ``logsnr``. `WEIGHTINGS` has the formula of each. An error is a mean of
    squares over all but the first dimension.

    Args:
        pred: a Prediction, [B, ...] each; every prediction type goes with every weighting.
        target: the true Prediction, same shapes.
        reweight: a word of `WEIGHTINGS`, or the ``package.module:Name`` of a function
            ``weight(logsnr, **parameters)``.
        logsnr: a number, or [B] with any axes of length 1 behind, for weightings that are no error
            of another quantity.
        **parameters: those of the weighting, such as gamma of min_snr; the defaults are in
            `WEIGHTINGS`.

    Returns:
        loss [B].

    Raises:
        ValueError: for an unknown ``reweight``, a parameter that it does not take or that is out of
            range, shapes that differ, or a ``logsnr`` that is missing or does not fit.

    Source: Salimans & Ho 2022 (2202.00512), section 4.

    >>> zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    >>> mse_loss(Prediction(zero, zero, zero), Prediction(one, 2 * one, zero), "truncated_snr")
    tensor([4., 4.])
    """
    weighting = WEIGHTINGS.find(reweight)
    errors = _Errors(pred, target)
    if weighting.error is not None:
        values = weighting.filled(f"weighting {reweight}", weighting.error, parameters)
        return weighting.error(errors, **values)
    if logsnr is None:
        raise ValueError(f"expected logsnr of shape [B] for reweight {reweight}, got None")
    x0_error, level = errors.x0, each_logsnr(logsnr, pred.x0)
    return loss_weight(level, reweight, **parameters).to(x0_error.dtype) * x0_error


def balanced_loss(loss: Tensor, uncertainty: Tensor) -> Tensor:
    """A loss with a learned weight: ``exp(-u) loss + u``.

    Where u is learned beside the network it comes to be the logarithm of the mean loss at its noise
    level, so that all levels count alike. u is the uncertainty of EDM2 and has its sign; the
    log-weight w of sCM, whose loss is ``exp(w) loss - w``, is -u.

    Args:
        loss: of each sample, [B], >= 0.
        uncertainty: u at its noise level [B], such as `vfn.nn.Uncertainty` gives it.

    Returns:
        loss [B], dtype of ``loss``; least where u is log(loss), and perhaps below 0.

    Raises:
        ValueError: if the shapes differ.

    Source: Karras et al. 2023 (2312.02696), eq. 21; Lu & Song 2024 (2410.11081), eq. 8; Kendall et
    al. 2017 (1705.07115), eq. 7.

    >>> balanced_loss(torch.tensor([4.0, 4.0]), torch.tensor([0.0, 4.0]).log1p())
    tensor([4.0000, 2.4094])
    """
    same_shape(loss, uncertainty, "loss", "uncertainty")
    return (-uncertainty).exp() * loss + uncertainty


def loss_weight(logsnr: Scalar, reweight: str, **parameters: float) -> Tensor:
    """The weight of a weighting relative to the x0 error: ``loss = weight |x0 error|^2``.

    `WEIGHTINGS` has the formula of each word in one line, such as ``min(SNR, gamma)`` of
    ``min_snr``, with SNR = exp(logsnr).

    Args:
        logsnr: any shape.
        reweight: a word of `WEIGHTINGS`, or the ``package.module:Name`` of a function
            ``weight(logsnr, **parameters)``.
        **parameters: those of the weighting, such as gamma of min_snr; the defaults are in
            `WEIGHTINGS`.

    Returns:
        weight, float64, shape of ``logsnr``.

    Raises:
        ValueError: for an unknown ``reweight``, or a parameter that it does not take or that is
            out of range.

    Source: Salimans & Ho 2022 (2202.00512), section 4, and those named in `vfn.ops.weightings`.

    >>> loss_weight(torch.tensor([-40.0, 0.0, 40.0]), "min_snr").round(decimals=3)
    tensor([0., 1., 5.], dtype=torch.float64)
    """
    weighting = WEIGHTINGS.find(reweight)
    weight = weighting.load()
    values = weighting.filled(f"weighting {reweight}", weight, parameters)
    return weight(as_float64(logsnr, "logsnr"), **values)
