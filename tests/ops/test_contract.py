"""What every op keeps: its inputs, the dtype, the shape, and the transforms it works under."""

import inspect
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vfn import ops
from vfn.ops import Prediction


class Inputs(NamedTuple):
    """Data x, y, n [B, 4, 3] and noise levels t < s [B]."""

    x: Tensor
    y: Tensor
    n: Tensor
    t: Tensor
    s: Tensor


COSINE = ops.logsnr_schedule("cosine")
SHIFTED = ops.shift_schedule(COSINE, 128)
MIXED = ops.interpolate_schedule(COSINE, 32, 128, 256)
GRID = torch.linspace(-6, 6, 4, dtype=torch.float64)
MASK = torch.tensor([True, False, True])


def denoise(z, logsnr):
    return torch.tanh(z + 0.1 * logsnr.to(z.dtype)[..., None, None])


def flat(z, _logsnr):
    return 0.5 * z


def with_fraction(z, logsnr):
    """A denoiser with a learned variance."""
    return torch.cat([denoise(z, logsnr), z.sigmoid()], 1)


MOMENTUM = ops.guided(denoise, [flat], [0.5], ops.guidance_rule("apg", norm=1.0, momentum=-0.5))


def batch_draws(u):
    return ops.BatchDraws(u, u.sum() / 100, torch.arange(len(u), device=u.device), 8)


def places(args):
    """Of the last dimension, where a batch would be."""
    return torch.arange(3, device=args.x.device)


# Each gives values in the shape of the data, also for one sample without its dimension of batch.
ELEMENTWISE = {
    "alpha": lambda a: ops.alpha_sigma(9 * a.x).alpha,
    "sigma": lambda a: ops.alpha_sigma(9 * a.x).sigma,
    "log_alpha": lambda a: ops.log_alpha_sigma(9 * a.x).log_alpha,
    "log_sigma": lambda a: ops.log_alpha_sigma(9 * a.x).log_sigma,
    "cosine_logsnr": lambda a: ops.cosine_logsnr(a.x.sigmoid()),
    "cosine_time": lambda a: ops.cosine_time(4 * a.x),
    "linear_logsnr": lambda a: ops.linear_logsnr(a.x.sigmoid()),
    "linear_time": lambda a: ops.linear_time(4 * a.x),
    "sigmoid_logsnr": lambda a: ops.sigmoid_logsnr(a.x.sigmoid()),
    "sigmoid_time": lambda a: ops.sigmoid_time(4 * a.x),
    "flow_logsnr": lambda a: ops.flow_logsnr(a.x.sigmoid()),
    "flow_time": lambda a: ops.flow_time(4 * a.x),
    "legacy_logsnr": lambda a: ops.legacy_logsnr(a.x.sigmoid()),
    "legacy_time": lambda a: ops.legacy_time(2 * a.x),
    "discrete_time": lambda a: ops.discrete_time(a.x.sigmoid(), 7) + 0 * a.x,
    "q_sample": lambda a: ops.q_sample(a.x, a.t, a.n),
    "q_posterior": lambda a: ops.q_posterior(a.x, a.y, a.t, a.s).mean,
    "q_posterior logvar": lambda a: (
        ops.q_posterior(a.x, a.y, a.t, a.s, "fixed_medium", 0.3).logvar.exp() * a.x
    ),
    "x0_from_eps": lambda a: ops.x0_from_eps(a.x, a.y, a.t),
    "x0_from_v": lambda a: ops.x0_from_v(a.x, a.y, a.t),
    "x0_from_both": lambda a: ops.x0_from_both(a.x[..., :2, :], a.y, a.t).repeat_interleave(2, -2),
    "eps_from_x0": lambda a: ops.eps_from_x0(a.x, a.y, a.t),
    "eps_from_v": lambda a: ops.eps_from_v(a.x, a.y, a.t),
    "v_from_x0": lambda a: ops.v_from_x0(a.x, a.y, a.t),
    "v_from_eps": lambda a: ops.v_from_eps(a.x, a.y, a.t),
    "v_from_x0_eps": lambda a: ops.v_from_x0_eps(a.x, a.y, a.t),
    "x0_from_u": lambda a: ops.x0_from_u(a.x, a.y, a.t),
    "eps_from_u": lambda a: ops.eps_from_u(a.x, a.y, a.t),
    "v_from_u": lambda a: ops.v_from_u(a.x, a.y, a.t),
    "u_from_x0": lambda a: ops.u_from_x0(a.x, a.y, a.t),
    "u_from_eps": lambda a: ops.u_from_eps(a.x, a.y, a.t),
    "u_from_v": lambda a: ops.u_from_v(a.x, a.y, a.t),
    "predict u": lambda a: sum(p := ops.predict(a.x, a.y, a.t, "u")) + p.u,
    "predict x0": lambda a: sum(ops.predict(a.x, a.y, a.t, "x0")),
    "predict eps": lambda a: sum(ops.predict(a.x, a.y, a.t, "eps")),
    "predict v": lambda a: sum(ops.predict(a.x, a.y, a.t, "v")),
    "ddim_step": lambda a: ops.ddim_step(a.x, a.y, a.t, a.s),
    "ddim_step eta": lambda a: ops.ddim_step(a.x, a.y, a.t, a.s, 0.5, a.n),
    "ddim_inverse_step": lambda a: ops.ddim_inverse_step(a.x, a.y, a.s, a.t),
    "ancestral_step": lambda a: ops.ancestral_step(a.x, a.y, a.t, a.s, a.n),
    "renoise_step": lambda a: ops.renoise_step(a.x, a.s, a.t, a.n),
    "heun_step": lambda a: ops.heun_step(a.x, a.y, a.t, a.s, a.n),
    "dpmpp_2m_step": lambda a: ops.dpmpp_2m_step(a.x, a.y, a.t, a.s, a.n, a.t - 0.4),
    "dpmpp_2m_step first": lambda a: ops.dpmpp_2m_step(a.x, a.y, a.t, a.s),
    "dpmpp_2m_step eta": lambda a: ops.dpmpp_2m_step(a.x, a.y, a.t, a.s, a.n, a.t - 0.4, 1.0, a.n),
    "dpmpp_3m_step": lambda a: ops.dpmpp_3m_step(
        a.x, a.y, a.t, a.s, a.n, a.t - 0.4, a.x, a.t - 1.3
    ),
    "dpmpp_3m_step long": lambda a: ops.dpmpp_3m_step(
        a.x, a.y, a.t, a.s + 9, a.n, a.t - 3, a.x, a.t - 9, 1.0
    ),
    "unic_step": lambda a: ops.unic_step(a.x, a.y, a.t, a.s, a.n, a.x, a.t - 0.4),
    "unic_step first": lambda a: ops.unic_step(a.x, a.y, a.t, a.s, a.n),
    "ab2_step": lambda a: ops.ab2_step(a.x, a.y, a.t, a.s, a.n, a.t - 0.4),
    "ab2_step back": lambda a: ops.ab2_step(a.x, a.y, a.s, a.t, a.n, a.s + 0.4),
    "am2_step": lambda a: ops.am2_step(a.x, a.y, a.t, a.s, a.n),
    "dequantize": lambda a: ops.dequantize(a.x, a.y),
    "guide": lambda a: ops.guide(a.x, a.y, 0.5),
    "learned_logvar": lambda a: ops.learned_logvar(a.t, a.s, a.x.sigmoid()),
    "normal_kl": lambda a: ops.normal_kl(a.x, 0.3 * a.y, a.n, 0.2 * a.x),
    "discretized_gaussian_loglik": lambda a: ops.discretized_gaussian_loglik(a.x, a.y, 0.1 * a.n),
    "discretized_gaussian_loglik erf": lambda a: ops.discretized_gaussian_loglik(
        a.x, a.y, 0.1 * a.n, "erf"
    ),
    "categorical_loglik": lambda a: ops.categorical_loglik(a.x, a.n, a.t) + 0 * a.x,
    "loglik_bpd": lambda a: ops.loglik_bpd(a.x, 12),
    "logsnr_schedule logsnr": lambda a: COSINE.logsnr(a.x.sigmoid()),
    "logsnr_schedule time": lambda a: COSINE.time(4 * a.x),
    "shift_schedule logsnr": lambda a: SHIFTED.logsnr(a.x.sigmoid()),
    "shift_schedule time": lambda a: SHIFTED.time(4 * a.x),
    "interpolate_schedule logsnr": lambda a: MIXED.logsnr(a.x.sigmoid()),
    "interpolate_schedule time": lambda a: MIXED.time(4 * a.x),
    "logsnr_slope": lambda a: ops.logsnr_slope(COSINE, a.x.sigmoid()),
    "laplace_logsnr": lambda a: ops.laplace_logsnr(a.x.sigmoid()),
    "lognormal_logsnr": lambda a: ops.lognormal_logsnr(a.x),
    "logit_normal_time": lambda a: ops.logit_normal_time(a.x),
    "stratified_time": lambda a: ops.stratified_time(a.x.sigmoid(), places(a), 5),
    "low_discrepancy_time": lambda a: ops.low_discrepancy_time(
        0.1 + 0.3 * a.x.sigmoid(), places(a), 5
    ),
    "importance_time": lambda a: (
        ops.importance_time(a.x.sigmoid(), torch.tensor([1.0, 3.0], device=a.x.device)).t
    ),
    "classifier_free": lambda a: ops.classifier_free(denoise, flat, 0.5)(a.x, a.t),
    "standing": lambda a: ops.standing(a.x, a.t),
    "zero_init": lambda a: ops.zero_init(denoise, 0.5)(a.x, a.t),
    "guided": lambda a: ops.guided(denoise, [flat, denoise], [0.5, 2.0])(a.x, a.t),
    "mapped": lambda a: ops.mapped(denoise, torch.sin)(a.x, a.t),
    "interval_strength": lambda a: ops.interval_strength(2.0, -1.0, 1.0)(a.x) + 0 * a.x,
    "with_known": lambda a: ops.with_known(denoise, a.y, MASK.to(a.x.device))(a.x, a.t),
    "distill_target": lambda a: ops.distill_target(denoise, a.x, a.t, a.t + 0.3, a.s),
    "consistency_tangent": lambda a: ops.consistency_tangent(a.x, a.y, a.n, a.x * a.y, a.t, 0.7),
    "consistency_step": lambda a: ops.consistency_step(a.x, a.y, a.t, a.s, noise=a.n),
    "mean_velocity": lambda a: ops.mean_velocity(a.x, a.y, a.t, a.s),
    "mean_velocity_step": lambda a: ops.mean_velocity_step(a.x, a.y, a.t, a.s),
    "mean_velocity_target": lambda a: ops.mean_velocity_target(a.x, a.y, a.t, a.s),
    "x0_from_mean_velocity": lambda a: ops.x0_from_mean_velocity(a.x, a.y, a.t, a.s),
}
# These need the dimension of the batch: they call a denoiser with logsnr [B], or take norms.
BATCHED = {
    "rescale": lambda a: ops.rescale(a.x, a.y, 0.7),
    "along_path": lambda a: ops.along_path(denoise, a.x, a.t, a.y).rate,
    "along_path value": lambda a: ops.along_path(denoise, a.x, a.t, a.y).value,
    "normalised_tangent": lambda a: ops.normalised_tangent(a.x),
    "orthogonalize": lambda a: ops.orthogonalize(a.x),
    "classifier_free rescaled": lambda a: ops.classifier_free(denoise, flat, 0.5, 0.7)(a.x, a.t),
    "zero_star_guide": lambda a: ops.zero_star_guide(a.x, a.y, a.n, a.t, 0.5),
    "apg_guide": lambda a: ops.apg_guide(a.x, a.y, 0.5, a.n, 0.3, 2.0, -0.5).x0,
    "apg_guide memory": lambda a: ops.apg_guide(a.x, a.y, 0.5, a.n, momentum=-0.5).memory,
    "guided_x0": lambda a: (
        ops.guided_x0(a.x, [a.y, a.n, a.x], a.t, [0.5, torch.sigmoid], phi=0.3).x0
    ),
    "guided zero_star": lambda a: ops.guided(
        denoise, [flat], [0.5], ops.guidance_rule("zero_star")
    )(a.x, a.t),
    "guided apg": lambda a: ops.sample(MOMENTUM, a.x, GRID).x0,
    "dynamic_threshold": lambda a: ops.dynamic_threshold(2 * a.x, 0.9),
    "slerp": lambda a: ops.slerp(a.x, a.y, 0.3),
    "slerp each": lambda a: ops.slerp(a.x, a.y, a.t.sigmoid()),
    "split_variance": lambda a: sum(ops.split_variance(a.x, torch.cat([a.y, a.n], 1), "v")),
    "sample": lambda a: ops.sample(denoise, a.x, GRID, final="step").x0,
    "single_step": lambda a: (
        ops.sample(
            denoise, a.x, GRID, ops.single_step(ops.ancestral_step, draws=True), noise=lambda i: a.n
        ).x0
    ),
    "learned_ancestral_solver": lambda a: (
        ops.sample(with_fraction, a.x, GRID, ops.learned_ancestral_solver(), noise=lambda i: a.n).x0
    ),
    "encode": lambda a: ops.encode(denoise, a.x, GRID).z,
    "inpaint": lambda a: (
        ops.inpaint(
            denoise, a.x, GRID, a.y, MASK.to(a.x.device), lambda k: a.n, resample=2, jump=1
        ).x0
    ),
    "edit_start": lambda a: ops.edit_start(a.x, GRID, 0.5, a.n).z,
}
BATCHED |= {
    f"sampler {name}": lambda a, name=name: (
        ops.sampler(name)(denoise, a.x, GRID, noise=lambda i: a.n).x0
    )
    for name in ops.SOLVERS
    if name != "adaptive"  # whose number of steps depends on the values
}
# These give one value a sample.
REDUCING = {
    "posterior_logvar": lambda a: ops.posterior_logvar(a.t, a.s, "fixed_large").to(a.x.dtype),
    "kl_loss": lambda a: ops.kl_loss(a.x, a.y, a.n, a.t, a.s, a.t > 0.5, "fixed_large"),
    "kl_loss learned": lambda a: ops.kl_loss(
        a.x, a.y, a.n, a.t, a.s, a.t > 0.5, "learned", a.x.sigmoid()
    ),
    "hybrid_loss": lambda a: ops.hybrid_loss(a.x.mean((-1, -2)), a.y.mean((-1, -2)), 0.3),
    "prior_bpd": lambda a: ops.prior_bpd(a.x, a.t),
    "vlb_bpd": lambda a: ops.vlb_bpd(denoise, a.x, COSINE, 2, lambda i: a.n).total,
    "continuous_vlb_bpd": lambda a: (
        ops.continuous_vlb_bpd(
            denoise, a.x, -4.0, 4.0, torch.stack([0 * a.t + 0.2, 0 * a.t + 0.8]), lambda k: a.n
        ).total
    ),
    "rms": lambda a: ops.rms(a.x),
    "consistency_loss": lambda a: ops.consistency_loss(a.x, a.y, a.n),
    "consistency_loss weighted": lambda a: ops.consistency_loss(a.x, a.y, a.n, a.x.mean((-1, -2))),
    "moment_loss": lambda a: ops.moment_loss(a.x, a.y, a.n, a.x.sin()),
    "auxiliary_loss": lambda a: ops.auxiliary_loss(a.x, a.y, a.n),
    "pseudo_huber": lambda a: ops.pseudo_huber(a.x, a.y),
    "pair_weight": lambda a: ops.pair_weight(a.t, a.s).to(a.x.dtype) + 0 * a.x.mean((-1, -2)),
    "ect_level": lambda a: (
        ops.ect_level(a.t + 9, 6).sigmoid().to(a.x.dtype) + 0 * a.x.mean((-1, -2))
    ),
    "ict_levels": lambda a: (
        ops.ict_levels(a.t.sigmoid(), 9).t.to(a.x.dtype) + 0 * a.x.mean((-1, -2))
    ),
    "adaptive_weight": lambda a: ops.adaptive_weight(a.x.square().mean((-1, -2)), 0.75),
    "balanced_loss": lambda a: ops.balanced_loss(a.x.square().mean((-1, -2)), a.y.mean((-1, -2))),
    "flow_loglik": lambda a: ops.flow_loglik(denoise, a.x, GRID, torch.stack([a.n])).loglik[0],
    "step_logsnrs": lambda a: sum(ops.step_logsnrs(COSINE, 0.52 + 0.1 * a.t, 9)[:2]).to(a.x.dtype),
}
REDUCING |= {
    f"mse_loss {reweight}": lambda a, reweight=reweight: ops.mse_loss(
        Prediction(a.x, a.y, a.n), Prediction(a.y, a.n, a.x), reweight, a.t
    )
    for reweight in ops.WEIGHTINGS
}
REDUCING |= {
    f"loss_weight {reweight}": lambda a, reweight=reweight: (
        ops.loss_weight(a.t + 0.1, reweight).to(a.x.dtype) + 0 * a.x.mean((-1, -2))
    )
    for reweight in ops.WEIGHTINGS
}
REDUCING |= {
    f"draw_times {name}": lambda a, name=name: ops.draw_times(
        name, batch_draws(a.t.sigmoid()), COSINE
    ).t.to(a.x.dtype)
    for name in ops.TIME_DENSITIES
}
REDUCING |= {
    f"time_density {name}": lambda a, name=name: (
        ops.time_density(name, (0.3 * a.t + 0.1).sigmoid(), COSINE) + 0 * a.t
    ).to(a.x.dtype)
    for name in ops.TIME_DENSITIES
}
# What is not in the suite, and why the contract is not for it.
ELSEWHERE = {
    **dict.fromkeys(
        ("ema_decay", "power_ema_decay", "sigma_rel_to_gamma"), "from Python numbers to one"
    ),
    **dict.fromkeys(
        ("karras_grid", "logsnr_grid", "sampling_grid", "uniform_logsnr_grid"),
        "makes a grid of Python numbers",
    ),
    **dict.fromkeys(
        ("keyed_bernoulli", "keyed_normal", "keyed_uniform", "epoch_permutation"),
        "makes draws from integers",
    ),
    **dict.fromkeys(
        ("ema_update", "ema_update_", "combine"), "takes dictionaries of parameters, not samples"
    ),
    **dict.fromkeys(
        (
            "fit_gaussian",
            "frechet_distance_of_features",
            "frechet_infinity",
            "moments",
            "nearest_distances",
            "neighbourhood",
        ),
        "takes features [N, D], of which no row stands alone",
    ),
    **dict.fromkeys(
        ("precision_recall", "density_coverage", "kernel_distance", "inception_score"),
        "takes features [N, D], of which no row stands alone",
    ),
    **dict.fromkeys(
        {entry.target.partition(":")[2] for entry in ops.SOLVERS.values()} - {"adaptive_solver"},
        "makes a solver, which is in the suite as sampler",
    ),
    **dict.fromkeys(
        ("sample_adaptive", "adaptive_solver"), "waits for the device: its steps follow the values"
    ),
    "ict_intervals": "from Python numbers to one",
    **dict.fromkeys(
        ("learn_consistency", "learn_pairs", "learn_mean_velocity"),
        "a line over ops of the suite, for networks",
    ),
    "bootstrap_indices": "makes draws from integers",
    "bootstrap_interval": "returns Python floats",
    "check_zero_snr": "returns nothing",
    "frechet_distance": "returns a Python float",
    "gaussian": "takes moments of features",
    "guidance_rule": "makes a rule, which is in the suite as guided",
    "mean_and_error": "is a statistic over samples",
    "merge_moments": "takes moments of features",
    "psnr": "is a figure of pictures [B, C, H, W], float64 whatever they are",
    "ssim": "is a figure of pictures [B, C, H, W], float64 whatever they are",
    "posthoc_ema_fit": "from Python numbers to one",
    "posthoc_ema_weights": "solves for the weights of Python numbers",
}
# What an op in the suite need not keep: property -> name -> reason.
TORCH_2_9, TORCH_2_11 = (torch.__version__ < later for later in ("2.10", "2.12"))
LACKS = {
    "rows": {
        f"draw_times {name}": "a time depends on its place in the batch"
        for name in ("stratified", "low_discrepancy")
    },
    "half precision": {
        "discretized_gaussian_loglik erf": "a level's bin is narrower than bfloat16's last place",
        "discretized_gaussian_loglik": "a level's bin is narrower than bfloat16's last place",
    },
    "compiles": {
        **dict.fromkeys(
            ("predict u", "mse_loss flow") if TORCH_2_9 else (),
            "a property of a named tuple, which torch 2.9 does not compile",
        ),
        **dict.fromkeys(
            ("dynamic_threshold",) if TORCH_2_11 else (),
            "a quantile, which torch 2.11 does not compile",
        ),
        **{
            name: "a loop of many steps, which takes seconds; test_solvers.py compiles some"
            for name in BATCHED
            if name.split()[0] in ("sampler", "encode", "inpaint", "learned_ancestral_solver")
        },
        **dict.fromkeys(
            [f"loss_weight {name}" for name in ops.WEIGHTINGS if name != "p2"],
            "a line of tensor methods, of which p2 has most; mse_loss compiles with each",
        ),
        **dict.fromkeys(
            [f"draw_times {name}" for name in ops.TIME_DENSITIES if name != "lognormal"],
            "looked up as lognormal is; the functions beneath compile on their own",
        ),
        **dict.fromkeys(
            [f"time_density {name}" for name in ops.TIME_DENSITIES if name != "laplace"],
            "looked up as laplace is, which has the slope of the schedule in it",
        ),
        **dict.fromkeys(
            ("logsnr_schedule logsnr", "logsnr_schedule time", "shift_schedule logsnr"),
            "the cosine schedule, which compiles on its own",
        ),
        **dict.fromkeys(
            (
                "kl_loss",
                "classifier_free",
                "slerp each",
                "guided",
                "guided zero_star",
                "apg_guide memory",
            ),
            "the code of another entry, or a part of it",
        ),
        "guided apg": "a loop of many steps, whose parts compile as apg_guide",
        "interpolate_schedule time": "forty bisections, which take seconds",
        "vlb_bpd": "a loop of many steps",
        "continuous_vlb_bpd": "a loop of many steps",
        "flow_loglik": "a loop of many steps with a gradient within each",
    },
    "devices": {
        **dict.fromkeys(
            ("encode", "flow_loglik"), "looks at the grid, of whose values a stand-in has none"
        ),
        **dict.fromkeys(
            ("logsnr_slope", "time_density lognormal", "time_density laplace"),
            "has a gradient within, for which torch asks CUDA itself",
        ),
    },
}

INF = float("inf")


class Domain(NamedTuple):
    """Levels that an op takes, and what its documentation says of the others.

    ``holds(t, s, most)`` with t <= s; ``most`` is the largest level whose 1/sigma is a number of
    the dtype.
    """

    reason: str
    holds: Callable[[float, float, float], bool]


DIVIDES_BY_ALPHA = Domain("1 / alpha has no limit", lambda t, s, most: t >= -most)
DIVIDES_BY_SIGMA = Domain("1 / sigma has no limit", lambda t, s, most: t <= most)
RISING = Domain("takes steps of some length, from a prediction before t to a finite end",
                lambda t, s, most: -INF < t < s < INF)  # fmt: skip
# Ops in the suite that do not take every level with t <= s; their docstrings say so.
DOMAINS = {
    "x0_from_eps": DIVIDES_BY_ALPHA,
    "v_from_eps": DIVIDES_BY_ALPHA,
    "u_from_eps": DIVIDES_BY_ALPHA,
    "predict eps": DIVIDES_BY_ALPHA,
    "eps_from_x0": DIVIDES_BY_SIGMA,
    "v_from_x0": DIVIDES_BY_SIGMA,
    "u_from_x0": DIVIDES_BY_SIGMA,
    "predict x0": DIVIDES_BY_SIGMA,
    "ddim_inverse_step": Domain("1 / sigma_s has no limit", lambda t, s, most: s <= most),
    "renoise_step": Domain("1 / alpha has no limit at s", lambda t, s, most: s > -INF),
    "heun_step": Domain(
        "its factor exp(h) / 2 has no limit", lambda t, s, most: t > -INF and s - t <= 100
    ),
    "dpmpp_2m_step": RISING,
    "dpmpp_2m_step eta": RISING,
    "dpmpp_3m_step": RISING,
    "dpmpp_3m_step long": RISING,
    "unic_step": RISING,
    "unic_step first": Domain("a finite end", lambda t, s, most: s < INF),
    "ab2_step": Domain("steps in a ratio", lambda t, s, most: t > -INF and s - t <= 100),
    "ab2_step back": Domain("steps in a ratio", lambda t, s, most: s < INF and s - t <= 100),
    "distill_target": Domain("a step of some length", lambda t, s, most: t < s),
    "along_path": Domain("a finite level", lambda t, s, most: abs(t) <= most),
    "mean_velocity": Domain("a step of some length", lambda t, s, most: t < s and s - t < 1e9),
    "pair_weight": Domain("a pair of two levels", lambda t, s, most: -INF < t < s),
    "kl_loss": Domain("a step of some length", lambda t, s, most: t < s < INF),
    "kl_loss learned": Domain("a step of some length", lambda t, s, most: t < s < INF),
}
# Of these the levels themselves, or how long steps are, can be seen in the value: not nan will do.
GROWING = {"dpmpp_2m_step", "dpmpp_2m_step eta", "dpmpp_3m_step", "dpmpp_3m_step long", "unic_step",
           "learned_logvar", "posterior_logvar", "kl_loss", "prior_bpd"}  # fmt: skip
# What takes ``t`` or ``s`` for something else than a level.
NO_LEVELS = {
    "slerp each", "step_logsnrs", "continuous_vlb_bpd", *(f"{op} {name}" for op in
    ("draw_times", "time_density") for name in ops.TIME_DENSITIES),
}  # fmt: skip


ALL = ELEMENTWISE | BATCHED | REDUCING
BATCH = 3


def over(ops_by_name, without=()):
    """A test over ops, but for those that lack a property."""
    kept = {name: op for name, op in ops_by_name.items() if name not in without}
    return pytest.mark.parametrize("op", kept.values(), ids=kept)


every_op = over(ALL)


def inputs(batch=BATCH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(batch, 4, 3, generator=generator).to(dtype) for _ in range(3)]
    noisy = torch.linspace(-3, 3, batch, dtype=torch.float64)
    return Inputs(*data, noisy, noisy + 0.7)


def one_by_one(op, args):
    return torch.stack([op(Inputs(*sample)) for sample in zip(*args, strict=True)])


def of_tensors(op):
    """The op over five tensors, as autograd wants it."""
    return lambda *tensors: op(Inputs(*tensors))


def assert_same(got, expected, tolerance=1e-14):
    """float64 results of the same formula, up to a few roundings of terms of size 10."""
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_every_op_is_in_the_suite_or_has_a_reason():
    """A new op is in the suite, unless a reason says why the contract is not for it."""
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    parts = {"alpha": "alpha_sigma", "sigma": "alpha_sigma"}
    parts |= {f"log_{name}": "log_alpha_sigma" for name in parts}
    suite = {parts.get(name.split()[0], name.split()[0]) for name in ALL}
    assert functions - suite - set(ELSEWHERE) == set()
    assert suite | set(ELSEWHERE) == functions
    assert not suite & set(ELSEWHERE)


def test_reasons_are_short_and_name_what_is_there():
    assert all(set(lacking) <= set(ALL) for lacking in LACKS.values())
    reasons = [*ELSEWHERE.values(), *(text for part in LACKS.values() for text in part.values())]
    assert all(10 < len(reason) < 90 for reason in reasons)


@every_op
def test_inputs_are_left_alone(op):
    args = inputs()
    versions = [value._version for value in args]
    op(args)
    assert [value._version for value in args] == versions
    assert all(torch.equal(a, b) for a, b in zip(args, inputs(), strict=True))


@every_op
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [BATCH, 0])
def test_dtype_and_shape_are_those_of_the_data(op, dtype, batch):
    got = op(inputs(batch, dtype))
    assert got.dtype == dtype
    assert got.shape == ((batch,) if op in REDUCING.values() else (batch, 4, 3))
    assert got.isfinite().all()


@over(ELEMENTWISE, LACKS["half precision"])
def test_half_precision_is_the_rounded_result(op):
    """Inputs rounded alike: a few units of bfloat16, 2^-8, of terms up to 2 exp(1.5) in size."""
    args = inputs(dtype=torch.bfloat16)
    exact = op(Inputs(*(value.double() for value in args)))
    torch.testing.assert_close(op(args).double(), exact, rtol=0.02, atol=0.1)


@over(ELEMENTWISE)
def test_single_samples_are_rows_of_the_batch(op):
    assert_same(one_by_one(op, inputs()), op(inputs()))


@over(ALL, LACKS["rows"])
def test_batches_of_one_are_rows_of_the_batch(op):
    rows = [op(Inputs(*(value[i : i + 1] for value in inputs()))) for i in range(BATCH)]
    assert_same(torch.cat(rows), op(inputs()))


# PyTorch's quantile has no rule for it and loops, which it says.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@every_op
def test_vmap_is_a_loop(op):
    args = Inputs(*(torch.stack([value, value.flip(0)]) for value in inputs()))
    assert_same(torch.vmap(op)(args), one_by_one(op, args))


@every_op
def test_strides_do_not_matter(op):
    args = inputs()
    strided = Inputs(*(value.repeat_interleave(2, 0)[::2] for value in args))
    assert not any(value.is_contiguous() for value in strided)
    assert_same(op(strided), op(args))
    transposed = Inputs(*(value.mT.contiguous().mT for value in args[:3]), *args[3:])
    assert_same(op(transposed), op(args))


@every_op
def test_gradients_are_those_of_finite_differences(op):
    args = [value.requires_grad_() for value in inputs()]
    assert torch.autograd.gradcheck(of_tensors(op), args, fast_mode=True)


# PyTorch's own forward-mode rules are still scripted when they are first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")
@every_op
def test_forward_mode_agrees_with_backward_mode(op):
    args = inputs()
    tangents = tuple(torch.ones_like(value) for value in args)
    _, forward = torch.func.jvp(lambda *a: of_tensors(op)(*a).sum(), tuple(args), tangents)
    backward = torch.func.grad(lambda a: op(a).sum())(args)
    assert forward.isfinite()
    assert_same(forward, sum(grad.sum() for grad in backward), 1e-11)


@pytest.mark.slow
@over(ALL, LACKS["compiles"])
def test_compiles_whole_and_once(op):
    """One graph: nothing waits for a value; and other values do not compile it again.

    Without code generation, which needs a C++ compiler and takes seconds an op.
    """
    first, second = inputs(), Inputs(*(value + 0.25 for value in inputs()))
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    assert_same(compiled(first), op(first))
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(compiled(second), op(second))


@pytest.mark.skipif(
    TORCH_2_9 and not torch.cuda.is_available(),
    reason="torch 2.9 wants a driver to stand in for a GPU",
)
@over(ALL, LACKS["devices"])
def test_what_an_op_makes_is_where_the_data_are(op):
    """With stand-ins for tensors of a GPU, which torch has without one; grids come to the data."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        got = op(Inputs(*(torch.empty_like(value, device="cuda") for value in inputs())))
    assert got.device.type == "cuda"


@pytest.mark.gpu
@every_op
def test_a_gpu_gives_what_the_cpu_gives(op, gpu):
    """Its exp and log differ in the last place, which steps and bisections amplify."""
    got = op(Inputs(*(value.to(gpu) for value in inputs())))
    assert got.device.type == gpu
    assert_same(got.cpu(), op(inputs()), 1e-10)


# Levels near and beyond the end of exp() in float64, and in their place others at which everything
# is regular, as far apart up to 45: exp(-45 / 2) = 2e-10 is as good as nothing.
FAR = {-INF: -690.0, -745.0: -645.0, -700.0: -600.0, 0.0: 0.0, 700.0: 600.0, 745.0: 645.0,
       INF: 690.0}  # fmt: skip
MOST = {torch.float64: 700.0, torch.float32: 177.0}  # 1/sigma is exp(most / 2)


class Watched:
    """Inputs that note whether their levels were asked for."""

    def __init__(self, args):
        self.args, self.asked = args, set()

    def __getattr__(self, name):
        self.asked.add(name)
        return getattr(self.args, name)


def takes_levels(name, op):
    watched = Watched(inputs())
    op(watched)
    return bool(watched.asked & {"t", "s"}) and name not in NO_LEVELS


LEVELS = [name for name, op in ALL.items() if takes_levels(name, op)]


def at_levels(pairs, dtype):
    """Inputs whose rows have some pairs of levels."""
    first, then = torch.tensor(pairs, dtype=torch.float64).T
    return inputs(len(pairs), dtype)._replace(t=first, s=then)


@pytest.mark.parametrize("dtype", MOST)
@pytest.mark.parametrize("name", LEVELS)
def test_the_farthest_levels_give_the_limit(name, dtype):
    """Never nan; and what regular levels that are as far apart give."""
    domain = DOMAINS.get(name, Domain("all", lambda t, s, most: True))
    pairs = [pair for pair in combinations_with_replacement(FAR, 2)
             if domain.holds(*pair, MOST[dtype])]  # fmt: skip
    got = ALL[name](at_levels(pairs, dtype)).double()
    limit = ALL[name](at_levels([(FAR[t], FAR[s]) for t, s in pairs], torch.float64))
    assert not got.isnan().any(), [
        p for p, row in zip(pairs, got, strict=True) if row.isnan().any()
    ]
    if name not in GROWING:
        small = limit.abs() < 1e6
        torch.testing.assert_close(got[small], limit[small], rtol=1e-5, atol=1e-6)
        assert (got[~small].abs() > 1e6).all()


def test_levels_that_an_op_does_not_take_are_few_and_named():
    assert set(DOMAINS) | GROWING <= set(LEVELS)
    assert len(LEVELS) > 50


ALONE = {
    "alpha": (lambda level: ops.alpha_sigma(level).alpha, 0.0, 1.0),
    "sigma": (lambda level: ops.alpha_sigma(level).sigma, 1.0, 0.0),
    "log_alpha": (lambda level: ops.log_alpha_sigma(level).log_alpha, -INF, 0.0),
    "log_sigma": (lambda level: ops.log_alpha_sigma(level).log_sigma, 0.0, -INF),
    "interval_strength": (ops.interval_strength(2.0, -1.0, 1.0), 0.0, 0.0),
    **{
        f"time of {name}": (schedule.time, 1.0, 0.0)
        for name, schedule in {
            **{word: ops.logsnr_schedule(word) for word in ("cosine", "linear", "sigmoid")},
            "legacy": ops.logsnr_schedule("legacy"),
            "endless": ops.logsnr_schedule("cosine", -INF, INF),
            "shifted": SHIFTED,
            "mixed": MIXED,
        }.items()
    },
}


@pytest.mark.parametrize("dtype", MOST)
@pytest.mark.parametrize("name", ALONE)
def test_functions_of_a_level_alone_have_limits(name, dtype):
    function, low, high = ALONE[name]
    levels = torch.tensor([-INF, -745.0, -700.0, 700.0, 745.0, INF], dtype=dtype)
    got = function(levels)
    assert got.dtype == dtype
    assert not got.isnan().any()
    assert got[[0, -1]].tolist() == pytest.approx([low, high], abs=1e-12)  # of bisections
    assert (got.diff() * (1 if high >= low else -1) >= -1e-9).all()
    assert function(levels[3:5])[1] == pytest.approx(high, abs=1e-9) or name == "log_sigma"


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid", "legacy"])
def test_times_beyond_the_ends_are_the_ends(name):
    schedule = ops.logsnr_schedule(name)
    for dtype in MOST:
        times = torch.tensor([-INF, -1.0, 0.0, 1.0, 2.0, INF], dtype=dtype)
        got = schedule.logsnr(times)
        assert got[:3].tolist() == [got[2].item()] * 3
        assert got[3:].tolist() == [got[3].item()] * 3
        assert not got.isnan().any()


def halved(z, _logsnr):
    return 0.5 * z


# Functions that look at a sample as a whole, of data x, y, n of any shape; levels are [B].
WHOLE_SAMPLES = {
    "rescale": lambda a: ops.rescale(a.x, a.y, 0.7),
    "dynamic_threshold": lambda a: ops.dynamic_threshold(2 * a.x, 0.9),
    "apg_guide": lambda a: ops.apg_guide(a.x, a.y, 0.5, a.n, 0.3, 2.0, -0.5).x0,
    "zero_star_guide": lambda a: ops.zero_star_guide(a.x, a.y, a.n, a.t, 0.5),
    "guided": lambda a: ops.guided(halved, [lambda z, _: z.sin()], [0.5], phi=0.3)(a.x, a.t),
    "slerp": lambda a: ops.slerp(a.x, a.y, 0.3),
    "mse_loss": lambda a: ops.mse_loss(
        Prediction(a.x, a.y, a.n), Prediction(a.y, a.n, a.x), "snr", a.t
    ),
    "kl_loss": lambda a: ops.kl_loss(a.x, a.y, a.n, a.t, a.s, a.t > 0.5, "fixed_large"),
    "prior_bpd": lambda a: ops.prior_bpd(a.x, a.t),
    "vlb_bpd": lambda a: ops.vlb_bpd(halved, a.x, COSINE, 2, lambda i: a.n).total,
    "continuous_vlb_bpd": lambda a: (
        ops.continuous_vlb_bpd(halved, a.x, -4.0, 4.0, a.t.sigmoid()[None], lambda k: a.n).total
    ),
    "flow_loglik": lambda a: ops.flow_loglik(halved, a.x, GRID, torch.stack([a.n])).loglik[0],
    "rms": lambda a: ops.rms(a.x),
    "pseudo_huber": lambda a: ops.pseudo_huber(a.x, a.y),
    "normalised_tangent": lambda a: ops.normalised_tangent(a.x),
    "adaptive": lambda a: ops.sampler("adaptive")(halved, a.x, GRID).x0,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", WHOLE_SAMPLES)
def test_a_sample_may_be_a_single_value(name):
    """Data [B], as those of [B, 1, 1]."""
    draw = torch.Generator().manual_seed(0)
    x, y, n, t = torch.randn(4, 5, dtype=torch.float64, generator=draw)
    boxed = Inputs(*(value.view(5, 1, 1) for value in (x, y, n)), t, t + 1)
    got = WHOLE_SAMPLES[name](Inputs(x, y, n, t, t + 1))
    assert got.shape == (5,)
    assert torch.equal(got, WHOLE_SAMPLES[name](boxed).view(5))
