"""Guidance: functions that combine predictions, and the same as combinators over denoisers."""

from collections.abc import Callable

import torch
from torch import Tensor

from vfn.ops._coef import as_logsnr, from_left, same_shape
from vfn.ops.integration import Denoiser

Strength = float | Tensor | Callable[[Tensor], Tensor]


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
    weight = as_logsnr(w, cond, "w").to(cond.dtype) if isinstance(w, Tensor) else w
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
    if not 0 <= phi <= 1:
        raise ValueError(f"expected phi in [0, 1], got {phi}")
    if not guided.numel():  # of which there is no deviation
        return guided.clone()
    spread, wanted = guided.flatten(1).std(1), cond.flatten(1).std(1)
    ratio = torch.where(spread > 0, wanted / spread, 1.0)
    return guided * from_left(1 - phi + phi * ratio, guided)


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
    magnitude = torch.quantile(x0.flatten(1).abs().to(exact), quantile, dim=1).clamp(min=1)
    limit = from_left(magnitude, x0).to(x0.dtype)
    return torch.minimum(torch.maximum(x0, -limit), limit) / limit


def interval_strength(w: float, low: float, high: float) -> Strength:
    """Guidance in the middle noise levels only: w where ``low <= logsnr <= high``, else 0.

    Args:
        w: strength within the interval.
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
    return lambda logsnr: w * ((logsnr >= low) & (logsnr <= high)).to(logsnr.dtype)


def classifier_free(cond: Denoiser, uncond: Denoiser, w: Strength, phi: float = 0.0) -> Denoiser:
    """A guided denoiser from two: an unconditional one, or a weaker model (autoguidance).

    `vfn.nn.denoiser` does the common case in one doubled batch; this takes any two denoisers.

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

    def denoise(z: Tensor, logsnr: Tensor) -> Tensor:
        plain = cond(z, logsnr)
        guided = guide(plain, uncond(z, logsnr), w(logsnr) if callable(w) else w)
        return rescale(guided, plain, phi) if phi else guided

    return denoise


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
    return lambda z, logsnr: change(denoise(z, logsnr))
