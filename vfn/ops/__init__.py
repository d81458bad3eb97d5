"""Diffusion math as functions over plain tensors.

Names are imported when they are first used: ``import vfn.ops`` is light, and so are the tables of
words and of what stands behind them, which need no torch.

Notation
    t, s        times in [0, 1]; t=0 is data, t=1 is noise, and always s < t.
    logsnr      log signal-to-noise ratio lambda = log(alpha^2 / sigma^2), falling in t.
    alpha       signal scale, alpha^2 = sigmoid(logsnr).
    sigma       noise scale, sigma^2 = sigmoid(-logsnr).
    x0          data, usually in [-1, 1].
    eps         standard normal noise.
    z           noisy data, z = alpha x0 + sigma eps.
    v           velocity, v = alpha eps - sigma x0.
    u           velocity of flow matching's straight path x_t = (1-t) x0 + t eps, u = eps - x0;
                x_t = z / (alpha + sigma), and t = sigma / (alpha + sigma) there.
    r           SNR(t) / SNR(s) = exp(logsnr_t - logsnr_s), in [0, 1].
    h           length of a step in log(alpha/sigma), (logsnr_s - logsnr_t) / 2.
    phi         angle, alpha = cos phi and sigma = sin phi; z turns at rate v, dz/dphi = v.
    u (mean)    mean velocity between two angles, (z_t - z_s) / (phi_t - phi_s).
    NFE         number of function evaluations, that is, of calls of the denoiser.

Conventions
    Arguments come as (noisy tensor, prediction, logsnr, ...). ``logsnr`` has shape [B] or any
    shape that broadcasts from the left over the data. Dtype, device and shape of the data come
    back unchanged. Coefficients are computed in float64 and cast once to the data's dtype. No
    function draws noise, waits for a device or prints, and none but `ema_update_` changes an
    argument.

    Levels, times and grids may be numbers, lists or arrays; data are tensors. Finite logsnr is
    within ±700, where exp() is finite in float64: numbers, limits and grids beyond are refused. The
    values of tensors are not looked at, nor whether a single step leads from noise to data; a grid
    is looked at once, on the host. `sample_adaptive`, neighbours and distances wait for the device.

    At ±inf, and in tensors beyond ±700, the limit is returned: alpha, sigma and weights of 0, 1 or
    inf, and steps of no length where both ends are alike. What has no limit, as a division by an
    alpha or sigma of 0, says at the argument which levels it takes.

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

Groups of names, each by the module that holds it
    words           the closed sets of words: OutType, VarType, Grid, LossType, ...
    schedule_table  SCHEDULES, the log-SNR schedules by their words, without torch
    solver_table    SOLVERS, the solvers by their words, without torch
    objective_table OBJECTIVES, what a network can learn, without torch
    weightings      WEIGHTINGS, the weights of the loss over noise levels, without torch
    densities       TIME_DENSITIES, what training times are drawn from, without torch
    guidance_rules  GUIDANCE_RULES, how a prediction is led away from another, without torch
    schedules       time to logsnr and back: logsnr_schedule, shift_schedule, cosine_logsnr, ...
    grids           noise levels to sample at: sampling_grid, logsnr_grid, karras_grid, ...
    process         the forward process and its posterior: q_sample, q_posterior, alpha_sigma, ...
    predictions     x0, eps, v and u of each other: predict, x0_from_v, split_variance, ...
    times           training times and noise levels: draw_times, stratified_time, ...
    losses          mse_loss and its loss_weight
    bound           the variational bound: kl_loss, vlb_bpd, continuous_vlb_bpd, ...
    likelihood      log-likelihood under the probability flow: flow_loglik, dequantize, loglik_bpd
    steps           one step of first order: ddim_step, ddim_inverse_step, ancestral_step
    multistep       steps of higher order: heun_step, dpmpp_2m_step, unic_step, ab2_step, ...
    integration     the loop over a denoiser, and what a solver is: sample, Solver, Remembering, ...
    solvers         whole solvers: sampler, ddim_solver, heun_solver, adams_solver, ...
    adaptive        steps as long as a tolerance allows: sample_adaptive
    guidance        predictions led by another: guide, classifier_free, guided, rescale, ...
    editing         given pictures: encode, slerp, inpaint, edit_start, with_known
    halving         progressive distillation: distill_target
    consistency     consistency models and mean flows: consistency_tangent, ect_level, ...
    moment_matching a generator by its conditional means: moment_loss, auxiliary_loss
    ema             averages of parameters: ema_update, power_ema_decay, combine, ...
    orthogonal      matrices without their lengths, of which Muon makes its steps: orthogonalize
    random          draws by seed, stream and index: keyed_normal, keyed_uniform, ...
    frechet         Gaussians of features: moments, fit_gaussian, frechet_distance, ...
    neighbours      nearest neighbours of features: precision_recall, density_coverage, ...
    scores          kernel_distance and inception_score
    pairs           how near pictures come to others, one by one: psnr, ssim
    confidence      how sure a figure is: mean_and_error, bootstrap_interval, ...
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
