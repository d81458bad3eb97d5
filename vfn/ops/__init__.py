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
    h           length of a step in log(alpha/sigma), (logsnr_s - logsnr_t) / 2.
    phi         angle, alpha = cos phi and sigma = sin phi; z turns at rate v, dz/dphi = v.
    NFE         number of function evaluations, that is, of calls of the denoiser.

Conventions
    Arguments come as (noisy tensor, prediction, logsnr, ...). ``logsnr`` has shape [B] or any
    shape that broadcasts from the left over the data. Dtype, device and shape of the data come
    back unchanged. Coefficients are computed in float64 and cast once to the data's dtype. No
    function draws noise, changes an argument, waits for a device or prints.

Names in the reference implementation and here
    get_logsnr_schedule             logsnr_schedule, a pair of functions
    q_sample(x_0, logsnr_t, eps)    q_sample(x0, logsnr, noise)
    pred_x0_from_eps, _from_v       x0_from_eps, x0_from_v
    pred_x0_from_x0eps              x0_from_both
    pred_eps_from_x0, _from_v       eps_from_x0, eps_from_v
    pred_v_from_x0, _from_x0eps     v_from_x0, v_from_x0_eps
    from_model_out_to_pred          predict
    logsnr_to_posterior             q_posterior, ancestral_step
    logsnr_to_posterior_ddim        ddim_step
    train_loss                      mse_loss, kl_loss
    snr_trunc, snr_1plus            truncated_snr, alpha2
    normal_kl                       normal_kl
    discretized_gaussian_loglik     discretized_gaussian_loglik
    p_sample                        sample
"""

from vfn.ops._types import (
    Ending,
    FixedVarType,
    Grid,
    LossType,
    OutType,
    Reweight,
    Sampler,
    Schedule,
    VarType,
)
from vfn.ops.adaptive import sample_adaptive
from vfn.ops.distill import distill_target
from vfn.ops.editing import (
    Encoding,
    Start,
    edit_start,
    encode,
    inpaint,
    slerp,
    with_known,
)
from vfn.ops.ema import (
    combine,
    ema_decay,
    ema_update,
    ema_update_,
    posthoc_ema_weights,
    power_ema_decay,
    sigma_rel_to_gamma,
)
from vfn.ops.flow import (
    Estimate,
    FlowLoglik,
    dequantize,
    flow_loglik,
    loglik_bpd,
    mean_and_error,
)
from vfn.ops.guidance import (
    Strength,
    classifier_free,
    dynamic_threshold,
    guide,
    interval_strength,
    mapped,
    rescale,
)
from vfn.ops.likelihood import (
    BitsPerDim,
    StepLevels,
    continuous_vlb_bpd,
    discretized_gaussian_loglik,
    hybrid_loss,
    kl_loss,
    normal_kl,
    prior_bpd,
    step_logsnrs,
    vlb_bpd,
)
from vfn.ops.losses import loss_weight, mse_loss
from vfn.ops.metrics import (
    FrechetInfinity,
    Gaussian,
    Moments,
    fit_gaussian,
    frechet_distance,
    frechet_infinity,
    gaussian,
    merge_moments,
    moments,
)
from vfn.ops.neighbours import (
    DensityCoverage,
    Neighbourhood,
    PrecisionRecall,
    density_coverage,
    nearest_distances,
    neighbourhood,
    precision_recall,
)
from vfn.ops.predictions import (
    Prediction,
    Split,
    eps_from_v,
    eps_from_x0,
    predict,
    split_variance,
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
    learned_logvar,
    log_alpha_sigma,
    posterior_logvar,
    q_posterior,
    q_sample,
)
from vfn.ops.random import epoch_permutation, keyed_bernoulli, keyed_normal, keyed_uniform
from vfn.ops.samplers import (
    DrawSamples,
    adams_solver,
    dpmpp_2m_solver,
    dpmpp_3m_solver,
    heun_solver,
    learned_ancestral_solver,
    sampler,
    unipc_solver,
)
from vfn.ops.sampling import (
    Denoiser,
    Sample,
    Solver,
    Span,
    Step,
    Stepped,
    sample,
    single_step,
)
from vfn.ops.schedules import (
    LogSNRSchedule,
    check_zero_snr,
    cosine_logsnr,
    cosine_time,
    interpolate_schedule,
    karras_grid,
    legacy_logsnr,
    legacy_time,
    linear_logsnr,
    linear_time,
    logsnr_grid,
    logsnr_schedule,
    sampling_grid,
    shift_schedule,
    sigmoid_logsnr,
    sigmoid_time,
    uniform_logsnr_grid,
)
from vfn.ops.scores import (
    InceptionScore,
    Interval,
    KernelDistance,
    bootstrap_indices,
    bootstrap_interval,
    inception_score,
    kernel_distance,
)
from vfn.ops.solvers import (
    ab2_step,
    am2_step,
    dpmpp_2m_step,
    dpmpp_3m_step,
    heun_step,
    renoise_step,
    unic_step,
)
from vfn.ops.steps import ancestral_step, ddim_inverse_step, ddim_step
from vfn.ops.times import (
    WeightedTime,
    discrete_time,
    importance_time,
    logit_normal_time,
    lognormal_logsnr,
    low_discrepancy_time,
    stratified_time,
)

__all__ = [
    "AlphaSigma",
    "BitsPerDim",
    "Denoiser",
    "DensityCoverage",
    "DrawSamples",
    "Encoding",
    "Ending",
    "Estimate",
    "FixedVarType",
    "FlowLoglik",
    "FrechetInfinity",
    "Gaussian",
    "Grid",
    "InceptionScore",
    "Interval",
    "KernelDistance",
    "LogAlphaSigma",
    "LogSNRSchedule",
    "LossType",
    "Moments",
    "Neighbourhood",
    "OutType",
    "Posterior",
    "PrecisionRecall",
    "Prediction",
    "Reweight",
    "Sample",
    "Sampler",
    "Schedule",
    "Solver",
    "Span",
    "Split",
    "Start",
    "Step",
    "StepLevels",
    "Stepped",
    "Strength",
    "VarType",
    "WeightedTime",
    "ab2_step",
    "adams_solver",
    "alpha_sigma",
    "am2_step",
    "ancestral_step",
    "bootstrap_indices",
    "bootstrap_interval",
    "check_zero_snr",
    "classifier_free",
    "combine",
    "continuous_vlb_bpd",
    "cosine_logsnr",
    "cosine_time",
    "ddim_inverse_step",
    "ddim_step",
    "density_coverage",
    "dequantize",
    "discrete_time",
    "discretized_gaussian_loglik",
    "distill_target",
    "dpmpp_2m_solver",
    "dpmpp_2m_step",
    "dpmpp_3m_solver",
    "dpmpp_3m_step",
    "dynamic_threshold",
    "edit_start",
    "ema_decay",
    "ema_update",
    "ema_update_",
    "encode",
    "epoch_permutation",
    "eps_from_v",
    "eps_from_x0",
    "fit_gaussian",
    "flow_loglik",
    "frechet_distance",
    "frechet_infinity",
    "gaussian",
    "guide",
    "heun_solver",
    "heun_step",
    "hybrid_loss",
    "importance_time",
    "inception_score",
    "inpaint",
    "interpolate_schedule",
    "interval_strength",
    "karras_grid",
    "kernel_distance",
    "keyed_bernoulli",
    "keyed_normal",
    "keyed_uniform",
    "kl_loss",
    "learned_ancestral_solver",
    "learned_logvar",
    "legacy_logsnr",
    "legacy_time",
    "linear_logsnr",
    "linear_time",
    "log_alpha_sigma",
    "logit_normal_time",
    "loglik_bpd",
    "lognormal_logsnr",
    "logsnr_grid",
    "logsnr_schedule",
    "loss_weight",
    "low_discrepancy_time",
    "mapped",
    "mean_and_error",
    "merge_moments",
    "moments",
    "mse_loss",
    "nearest_distances",
    "neighbourhood",
    "normal_kl",
    "posterior_logvar",
    "posthoc_ema_weights",
    "power_ema_decay",
    "precision_recall",
    "predict",
    "prior_bpd",
    "q_posterior",
    "q_sample",
    "renoise_step",
    "rescale",
    "sample",
    "sample_adaptive",
    "sampler",
    "sampling_grid",
    "shift_schedule",
    "sigma_rel_to_gamma",
    "sigmoid_logsnr",
    "sigmoid_time",
    "single_step",
    "slerp",
    "split_variance",
    "step_logsnrs",
    "stratified_time",
    "unic_step",
    "uniform_logsnr_grid",
    "unipc_solver",
    "v_from_eps",
    "v_from_x0",
    "v_from_x0_eps",
    "vlb_bpd",
    "with_known",
    "x0_from_both",
    "x0_from_eps",
    "x0_from_v",
]
