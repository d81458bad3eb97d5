"""Diffusion math as functions over plain tensors.

Notation
    t, s        times in [0, 1]; t=0 is data, t=1 is noise, and always s < t.
    logsnr      log signal-to-noise ratio lambda = log(alpha^2 / sigma^2), falling in t.
    alpha       signal scale, alpha^2 = sigmoid(logsnr).
    sigma       noise scale, sigma^2 = sigmoid(-logsnr).
    x0          data, usually in [-1, 1].
    eps         standard normal noise.
    z           noisy data, z = alpha x0 + sigma eps.
    v           velocity, v = alpha eps - sigma x0.
    r           SNR(t) / SNR(s) = exp(logsnr_t - logsnr_s), in [0, 1].
    NFE         number of function evaluations, that is, of calls of the denoiser.

Conventions
    Arguments come as (noisy tensor, prediction, logsnr, ...). ``logsnr`` has shape [B] or any
    shape that broadcasts from the left over the data. Dtype, device and shape of the data come
    back unchanged. Coefficients are computed in float64 and cast once to the data's dtype. No
    function draws noise, changes an argument, waits for a device or prints.
"""

from vfn.ops._types import OutType, Reweight, Schedule, VarType
from vfn.ops.ema import ema_decay, ema_update, ema_update_
from vfn.ops.guidance import guide
from vfn.ops.losses import loss_weight, mse_loss
from vfn.ops.metrics import (
    Gaussian,
    PrecisionRecall,
    fit_gaussian,
    frechet_distance,
    nearest_distances,
    precision_recall,
)
from vfn.ops.predictions import (
    Prediction,
    eps_from_v,
    eps_from_x0,
    predict,
    v_from_eps,
    v_from_x0,
    v_from_x0_eps,
    x0_from_both,
    x0_from_eps,
    x0_from_v,
)
from vfn.ops.process import (
    AlphaSigma,
    LogAlphaSigma,
    Posterior,
    alpha_sigma,
    log_alpha_sigma,
    posterior_logvar,
    q_posterior,
    q_sample,
)
from vfn.ops.random import epoch_permutation, keyed_bernoulli, keyed_normal, keyed_uniform
from vfn.ops.sampling import Denoiser, Sample, Step, sample
from vfn.ops.schedules import (
    LogSNRSchedule,
    cosine_logsnr,
    cosine_time,
    legacy_logsnr,
    legacy_time,
    linear_logsnr,
    linear_time,
    logsnr_grid,
    logsnr_schedule,
    sigmoid_logsnr,
    sigmoid_time,
)
from vfn.ops.steps import ancestral_step, ddim_step
from vfn.ops.times import discrete_time

__all__ = [
    "AlphaSigma",
    "Denoiser",
    "Gaussian",
    "LogAlphaSigma",
    "LogSNRSchedule",
    "OutType",
    "Posterior",
    "PrecisionRecall",
    "Prediction",
    "Reweight",
    "Sample",
    "Schedule",
    "Step",
    "VarType",
    "alpha_sigma",
    "ancestral_step",
    "cosine_logsnr",
    "cosine_time",
    "ddim_step",
    "discrete_time",
    "ema_decay",
    "ema_update",
    "ema_update_",
    "epoch_permutation",
    "eps_from_v",
    "eps_from_x0",
    "fit_gaussian",
    "frechet_distance",
    "guide",
    "keyed_bernoulli",
    "keyed_normal",
    "keyed_uniform",
    "legacy_logsnr",
    "legacy_time",
    "linear_logsnr",
    "linear_time",
    "log_alpha_sigma",
    "logsnr_grid",
    "logsnr_schedule",
    "loss_weight",
    "mse_loss",
    "nearest_distances",
    "posterior_logvar",
    "precision_recall",
    "predict",
    "q_posterior",
    "q_sample",
    "sample",
    "sigmoid_logsnr",
    "sigmoid_time",
    "v_from_eps",
    "v_from_x0",
    "v_from_x0_eps",
    "x0_from_both",
    "x0_from_eps",
    "x0_from_v",
]
