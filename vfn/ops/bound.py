"""Variational bound in bits per dimension: prior, diffusion steps, discretized decoder."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.ops import _coef
from vfn.ops._coef import Scalar, as_logsnr, from_left, rows, same_shape
from vfn.ops.integration import Denoiser
from vfn.ops.process import q_posterior, q_sample
from vfn.ops.schedules import LogSNRSchedule, level_at
from vfn.ops.words import NormalCdf, PixelDecoder, VarType, check_choice

# Pictures of 8 bits scaled to [-1, 1]: half the distance of two levels; the outermost levels own
# the tails.
_LEVELS, _HALF_BIN, _TAIL = 256, 1 / 255, 0.999
_LEAST_PROBABILITY = 1e-12
_APART = 1e9  # distance of levels in noise
_AT_ONCE = 16  # levels that are summed in one pass


class BitsPerDim(NamedTuple):
    """The variational bound and its parts, bits per dimension [B]; total is their sum."""

    total: Tensor
    prior: Tensor
    diffusion: Tensor
    decoder: Tensor


class StepLevels(NamedTuple):
    """logsnr at both ends of a step, float64, and whether it is the last, all in one shape."""

    logsnr_t: Tensor
    logsnr_s: Tensor
    last: Tensor


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)), elementwise, in nats.

    ``(expm1(d) - d + (mean1 - mean2)^2 exp(-logvar2)) / 2`` with ``d = logvar1 - logvar2``; never
    negative, also for nearly equal variances.

    Args:
        mean1: any shape.
        logvar1: log-variance, broadcastable.
        mean2: broadcastable.
        logvar2: broadcastable.

    Returns:
        KL in nats, the broadcast shape.

    Source: Kingma & Welling 2013 (1312.6114), appendix B.

    >>> zero = torch.zeros(())
    >>> normal_kl(zero, zero, zero + 2, zero)
    tensor(2.)
    """
    gap = logvar1 - logvar2
    # expm1(d) - d is d^2/2 + ... near 0, where the difference would be all rounding.
    series = gap.square() * (0.5 + gap / 6 + gap.square() / 24)
    excess = torch.where(gap.abs() < 1e-2, series, torch.expm1(gap) - gap)
    return 0.5 * (excess + (mean1 - mean2).square() * torch.exp(-logvar2))


def discretized_gaussian_loglik(
    x: Tensor, mean: Tensor, log_scale: Tensor, cdf: NormalCdf = "tanh"
) -> Tensor:
    """Log-likelihood of 8-bit pictures under a Gaussian that is integrated over each level's bin.

    The bin reaches 1/255 to either side of x; beyond ±0.999 it is open.

    Args:
        x: pictures in [-1, 1], multiples of 2/255 from -1.
        mean: shape of ``x``.
        log_scale: logarithm of the standard deviation, broadcastable to ``x``.
        cdf: the normal distribution function: ``tanh`` is DDPM's approximation
            ``(1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) / 2``, with a probability of at least 1e-12;
            ``erf`` is exact, also far out in the tails.

    Returns:
        log-likelihood in nats, shape of ``x``.

    Raises:
        ValueError: if the shapes of ``x`` and ``mean`` differ, or for an unknown ``cdf``.

    Source: Ho et al. 2020 (2006.11239), eq. 13.

    >>> x = torch.tensor([0.0])
    >>> discretized_gaussian_loglik(x, x, torch.tensor(-20.0)).abs() < 1e-6
    tensor([True])
    >>> discretized_gaussian_loglik(x, x + 1, torch.tensor(-3.0), "erf").round()
    tensor([-204.])
    """
    same_shape(x, mean, "x", "mean")
    check_choice(cdf, NormalCdf, "cdf")
    if cdf == "erf":
        return _exact_bin(x.double(), mean.double(), log_scale.double()).to(x.dtype)
    inv_scale = torch.exp(-log_scale)
    upper = _tanh_cdf(inv_scale * (x - mean + _HALF_BIN))
    lower = _tanh_cdf(inv_scale * (x - mean - _HALF_BIN))
    upper = torch.where(x > _TAIL, torch.ones_like(upper), upper)
    lower = torch.where(x < -_TAIL, torch.zeros_like(lower), lower)
    return torch.log((upper - lower).clamp(min=_LEAST_PROBABILITY))


def _tanh_cdf(u: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))


def _exact_bin(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of each level's bin."""
    inv_scale = torch.exp(-log_scale)
    upper, lower = inv_scale * (x - mean + _HALF_BIN), inv_scale * (x - mean - _HALF_BIN)
    between = _coef.log_normal_mass(lower, upper)
    bottom, top = torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower)
    return torch.where(x > _TAIL, top, torch.where(x < -_TAIL, bottom, between))


def categorical_loglik(x: Tensor, noise: Tensor, logsnr: Scalar) -> Tensor:
    """Log-likelihood of 8-bit pictures among the 256 levels, ``p(x | z) ∝ q(z | x)``.

    With ``z = alpha x + sigma noise`` and the levels' distance from x in noise,
    ``d_j = (x_j - x) alpha / sigma``, it is ``-log sum_j exp(d_j noise - d_j^2 / 2)``. Where all
    levels are as frequent this is the posterior: no decoder of pixels one by one does better.

    Args:
        x: pictures in [-1, 1], multiples of 2/255 from -1.
        noise: standard normal that ``z`` was made with, shape of ``x``.
        logsnr: noise level of z, a number, [B] or broadcasting from the left.

    Returns:
        log-likelihood in nats, shape and dtype of ``x``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma et al. 2021 (2107.00630), section 3.3.

    >>> x = torch.tensor([-1.0, 1.0])
    >>> categorical_loglik(x, torch.zeros(2), -30.0)  # all noise: log(1/256)
    tensor([-5.5452, -5.5452])
    """
    same_shape(x, noise, "x", "noise")
    # Levels farther apart than that are told apart for sure, and their squares are numbers.
    spacing = (2 * _HALF_BIN * _coef.alpha_over_sigma(as_logsnr(logsnr, x))).clamp(max=_APART)
    wide = torch.promote_types(x.dtype, torch.float32)  # half types do not tell levels apart
    place = torch.round((x.detach().to(wide) + 1) / (2 * _HALF_BIN)).clamp(0, _LEVELS - 1)
    total = torch.zeros_like(place)
    for some in torch.arange(_LEVELS, device=x.device).split(_AT_ONCE):
        away = spacing.to(wide) * (from_left(some, x.unsqueeze(0)).to(wide) - place)
        total = total + torch.exp(away * (noise - 0.5 * away)).sum(0)
    return -torch.log(total).to(x.dtype)


def kl_loss(
    z: Tensor,
    x0: Tensor,
    pred_x0: Tensor,
    logsnr_t: Scalar,
    logsnr_s: Scalar,
    last: Tensor,
    var_type: VarType = "fixed_small",
    intp_frac: float | Tensor | None = None,
) -> Tensor:
    """One term of the variational bound, in bits per dimension.

    For s > 0 ``KL(q(z_s | z_t, x0) || p(z_s | z_t))`` with the true posterior (fixed_small) and the
    model's mean and variance; for s = 0 the discretized negative log-likelihood of the 8-bit x0
    around the predicted x0.

    Args:
        z: noisy data at t [B, ...].
        x0: data in [-1, 1], shape of ``z``.
        pred_x0: the model's prediction, shape of ``z``.
        logsnr_t: [B] or broadcasting from the left.
        logsnr_s: likewise, finite and ``> logsnr_t``; at s = 0 the schedule's value there, and what
            `vlb_bpd` takes where that is infinite.
        last: bool, shape of ``logsnr_s``: where s = 0.
        var_type: the model's variance.
        intp_frac: for fixed_medium a number in [0, 1]; for learned a tensor, shape of ``z``.

    Returns:
        bits per dimension [B].

    Raises:
        ValueError: if shapes, ``var_type`` or ``intp_frac`` do not fit.

    Source: Ho et al. 2020 (2006.11239), eqs. 5 and 13; Kingma et al. 2021 (2107.00630), eq. 11.

    >>> z = x0 = torch.zeros(1, 2)
    >>> lt, ls = torch.zeros(1), torch.ones(1)
    >>> kl_loss(z, x0, x0, lt, ls, torch.tensor([False]))
    tensor([0.])
    """
    same_shape(x0, pred_x0, "x0", "pred_x0")
    lt, ls = as_logsnr(logsnr_t, z, "logsnr_t"), as_logsnr(logsnr_s, z, "logsnr_s")
    true = q_posterior(z, x0, lt, ls, "fixed_small")
    mean, logvar, _ = q_posterior(z, pred_x0, lt, ls, var_type, intp_frac)
    kl = normal_kl(true.mean, true.logvar, mean, logvar)
    nll = -discretized_gaussian_loglik(x0, pred_x0, 0.5 * logvar)
    return rows(torch.where(from_left(last, z), nll, kl)).mean(1) / math.log(2)


def prior_bpd(x0: Tensor, logsnr_min: Scalar) -> Tensor:
    """What is left of the data at t = 1: ``KL(q(z_1 | x0) || N(0, 1))`` in bits per dimension.

    ``(alpha^2 x0^2 - alpha^2 - log(1 - alpha^2)) / 2``, with the last two terms as a series where
    alpha is small.

    Args:
        x0: data [B, ...].
        logsnr_min: logsnr at t = 1, a number, [B] or broadcasting from the left.

    Returns:
        bits per dimension [B], dtype of ``x0``.

    Raises:
        ValueError: if the shapes do not fit.

    Source: Kingma et al. 2021 (2107.00630), eq. 12.

    >>> prior_bpd(torch.zeros(1, 4), -20.0) < 1e-12
    tensor([True])
    """
    logsnr = as_logsnr(logsnr_min, x0, "logsnr_min")
    alpha2, alpha = torch.sigmoid(logsnr), _coef.alpha(logsnr)
    # -alpha^2 - log(1 - alpha^2) = alpha^4/2 + alpha^6/3 + ...
    series = alpha2.square() * (0.5 + alpha2 / 3 + alpha2.square() / 4)
    rest = torch.where(alpha2 < 1e-4, series, F.softplus(logsnr) - alpha2)
    nats = 0.5 * ((alpha.to(x0.dtype) * x0).square() + rest.to(x0.dtype))
    return rows(nats.expand_as(x0)).mean(1) / math.log(2)


def step_logsnrs(schedule: LogSNRSchedule, t: Tensor, timesteps: int) -> StepLevels:
    """The noise levels between which the step from a discrete time leads.

    A schedule without any noise at t = 0 (legacy) would leave the decoder a variance of 0: it takes
    logsnr at t = 1/(2T) there, which halves the noise of the last step.

    Args:
        schedule: time to noise level and back, as `logsnr_schedule` makes one.
        t: discrete times i/T, i = 1..T, float64, any shape.
        timesteps: T >= 1.

    Returns:
        StepLevels(logsnr_t, logsnr_s, last) in the shape of ``t``: at i/T, at (i-1)/T, and whether
        that is 0.

    >>> from vfn.ops import logsnr_schedule
    >>> times = torch.tensor([0.5, 1.0], dtype=torch.float64)
    >>> step_logsnrs(logsnr_schedule("cosine"), times, timesteps=2).last
    tensor([ True, False])
    """
    step = torch.round(t * timesteps)
    logsnr_s = schedule.logsnr((step - 1) / timesteps)
    logsnr_s = torch.where(logsnr_s.isposinf(), level_at(schedule, 0.5 / timesteps), logsnr_s)
    return StepLevels(schedule.logsnr(t), logsnr_s, step <= 1)


def vlb_bpd(
    denoise: Denoiser,
    x0: Tensor,
    schedule: LogSNRSchedule,
    timesteps: int,
    noise: Callable[[int], Tensor],
    var_type: VarType = "fixed_small",
    intp_frac: float | None = None,
) -> BitsPerDim:
    """The variational bound on the negative log-likelihood of 8-bit pictures.

    Prior KL at t = 1, plus the KL of every step t = i/T -> (i-1)/T for i = T..2, plus the
    discretized decoder's term of the last step, each estimated with one draw of noise. The steps
    are those of `step_logsnrs`.

    Args:
        denoise: ``denoise(z, logsnr) -> x0``, called T times; for learned as
            `learned_ancestral_solver` wants it.
        x0: data in [-1, 1] [B, ...].
        schedule: time to noise level and back, as `logsnr_schedule` makes one.
        timesteps: T >= 1.
        noise: ``noise(i)`` is the standard normal of term i = 1..T, shape of ``x0``.
        var_type: the model's variance.
        intp_frac: for fixed_medium, in [0, 1].

    Returns:
        BitsPerDim(total, prior, diffusion, decoder), each [B].

    Raises:
        ValueError: if ``timesteps < 1`` or the variance does not fit.

    Source: Ho et al. 2020 (2006.11239), eq. 5.

    >>> from vfn.ops import logsnr_schedule
    >>> x0 = torch.zeros(1, 4)
    >>> schedule = logsnr_schedule("cosine")
    >>> bpd = vlb_bpd(lambda z, logsnr: 0 * z, x0, schedule, 4, lambda i: torch.ones(1, 4))
    >>> bpd.diffusion.item()
    0.0
    """
    if timesteps < 1:
        raise ValueError(f"expected timesteps >= 1, got {timesteps}")
    terms = []
    for i in range(1, timesteps + 1):
        t = torch.full((x0.shape[0],), i / timesteps, dtype=torch.float64, device=x0.device)
        lt, ls, last = step_logsnrs(schedule, t, timesteps)
        z = q_sample(x0, lt, noise(i))
        pred = denoise(z, lt)
        if var_type == "learned":
            pred, frac = pred.chunk(2, dim=1)
            terms.append(kl_loss(z, x0, pred, lt, ls, last, var_type, frac))
        else:
            terms.append(kl_loss(z, x0, pred, lt, ls, last, var_type, intp_frac))
    prior = prior_bpd(x0, level_at(schedule, 1.0).to(x0.device))
    decoder, diffusion = terms[0], torch.stack([torch.zeros_like(terms[0]), *terms[1:]]).sum(0)
    return BitsPerDim(prior + diffusion + decoder, prior, diffusion, decoder)


def hybrid_loss(mse: Tensor, kl: Tensor, weight: float = 1e-3) -> Tensor:
    """The loss of a network with learned variance: ``mse + weight kl``.

    Compute ``kl`` with ``kl_loss(..., pred_x0.detach(), ..., "learned", frac)``, so that it trains
    the variance alone.

    Args:
        mse: weighted square error [B], of `mse_loss`.
        kl: a term of the bound [B], of `kl_loss`.
        weight: of the bound.

    Returns:
        loss [B].

    Raises:
        ValueError: if the shapes differ.

    Source: Nichol & Dhariwal 2021 (2102.09672), eq. 16.

    >>> hybrid_loss(torch.ones(1), torch.ones(1), weight=0.5)
    tensor([1.5000])
    """
    same_shape(mse, kl, "mse", "kl")
    return mse + weight * kl


def continuous_vlb_bpd(
    denoise: Denoiser,
    x0: Tensor,
    logsnr_min: float,
    logsnr_max: float,
    u: Tensor,
    noise: Callable[[int], Tensor],
    decoder: PixelDecoder = "categorical",
) -> BitsPerDim:
    """The variational bound in continuous time, for 8-bit pictures.

    Prior KL, plus ``1/2 int |eps - eps_hat|^2 dlogsnr`` from logsnr_min to logsnr_max, which no
    longer depends on the schedule between, plus the decoder of the picture from z at logsnr_max.

    Args:
        denoise: ``denoise(z, logsnr) -> x0``, called K times.
        x0: data in [-1, 1] [B, ...].
        logsnr_min: logsnr at t = 1.
        logsnr_max: logsnr at t = 0, finite.
        u: uniform draws in (0, 1) [K, B], which choose the noise levels; even ones, as of
            `low_discrepancy_time`, lessen the variance.
        noise: ``noise(k)`` is the standard normal of draw k = 1..K, and of the decoder's for k = 0,
            shape of ``x0``.
        decoder: ``categorical`` is VDM's, the 256 levels by how likely each makes z
            (`categorical_loglik`); ``gaussian`` the discretized Gaussian of deviation sigma/alpha
            around z/alpha, DDPM's kind of decoder, which is looser: 0.04 bits at logsnr 13.3.

    Returns:
        BitsPerDim(total, prior, diffusion, decoder), each [B], unbiased for the bound.

    Raises:
        ValueError: if ``u`` is not [K, B], the limits are not finite and in order, or for an
            unknown decoder.

    Source: Kingma et al. 2021 (2107.00630), sections 3.3, 4.2 and 5.1.

    >>> u, x0 = torch.rand(3, 1), torch.ones(1, 1)
    >>> bpd = continuous_vlb_bpd(lambda z, logsnr: 0 * z, x0, -20.0, 20.0, u, lambda k: 0 * x0)
    >>> bpd.decoder.abs() < 1e-6
    tensor([True])
    """
    if not -math.inf < logsnr_min < logsnr_max < math.inf:
        raise ValueError(
            f"expected finite logsnr_min < logsnr_max, got {logsnr_min} and {logsnr_max}"
        )
    if u.ndim != 2 or u.shape[1] != x0.shape[0] or not len(u):
        raise ValueError(f"expected u of shape [K, {x0.shape[0]}], got {tuple(u.shape)}")
    check_choice(decoder, PixelDecoder, "decoder")
    span, terms = logsnr_max - logsnr_min, []
    for k, draw in enumerate(u.double(), start=1):
        logsnr = logsnr_min + span * draw
        error = x0 - denoise(q_sample(x0, logsnr, noise(k)), logsnr)
        scale = from_left(_coef.alpha_over_sigma(logsnr), x0)
        terms.append((scale.to(x0.dtype) * error).square())
    mean_square = torch.stack([rows(term).mean(1) for term in terms]).mean(0)
    diffusion = mean_square * (0.5 * span / math.log(2))
    nats = -_decoder_loglik(x0, noise(0), logsnr_max, decoder)
    decoded, prior = rows(nats).mean(1) / math.log(2), prior_bpd(x0, logsnr_min)
    return BitsPerDim(prior + diffusion + decoded, prior, diffusion, decoded)


def _decoder_loglik(x0: Tensor, noise: Tensor, logsnr: float, decoder: PixelDecoder) -> Tensor:
    """Nats of the picture, of its noisy version at the end of the diffusion."""
    if decoder == "categorical":
        return categorical_loglik(x0, noise, logsnr)
    end = as_logsnr(logsnr, x0, "logsnr_max")
    around = x0 + _coef.sigma_over_alpha(end).to(x0.dtype) * noise
    return discretized_gaussian_loglik(x0, around, (-0.5 * end).to(x0.dtype))
