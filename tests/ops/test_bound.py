"""The variational bound: golden numbers, torch.distributions, closed forms."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from torch.distributions import Normal, kl_divergence

from tests.helpers.exact_flow import start_noise
from vfn import ops

COSINE = ops.logsnr_schedule("cosine")


@pytest.mark.parametrize("out_type", ["x0", "eps", "v", "both"])
@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large"])
def test_kl_loss_is_the_golden_one(golden_math, out_type, var_type):
    g, steps = golden_math, 64
    t = ops.discrete_time(g["loss/t"], steps)
    s = (t - 1 / steps).clamp(min=0)
    logsnr_t, logsnr_s = COSINE.logsnr(t), COSINE.logsnr(s)
    z = ops.q_sample(g["conv/x0"], logsnr_t, g["conv/eps"])
    out = g["conv/both" if out_type == "both" else "loss/model_out"]
    pred = ops.predict(z, out, logsnr_t, out_type)
    got = ops.kl_loss(z, g["conv/x0"], pred.x0, logsnr_t, logsnr_s, s == 0, var_type)
    # float32 on both sides; the prediction amplifies its rounding.
    torch.testing.assert_close(got, g[f"loss/{out_type}/kl/{var_type}"], rtol=1e-5, atol=1e-7)


def test_discretized_loglik_is_the_golden_one(golden_math):
    """Around a tenth of the fixed model output.

    Processors differ in the last place of some tanh, half an eps of a probability p at most: in its
    logarithm that is eps / 2p.
    """
    x, log_scale, expected = (golden_math[f"loglik/{k}"] for k in ("x", "log_scale", "value"))
    mean = 0.1 * golden_math["loss/model_out"]
    got = ops.discretized_gaussian_loglik(x, mean, log_scale.reshape(-1, 1, 1, 1))
    error = (got - expected).abs()
    off = error > 1e-5 + 1e-6 * expected.abs()
    assert off.float().mean() < 0.01
    assert (error * expected.exp())[off].le(torch.finfo(torch.float32).eps / 2).all()


@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (0.3, -2.0), (-0.9, 1.0)])
def test_discretized_loglik_is_the_integral_over_the_bin(level, mean, log_scale):
    """The tanh form of the distribution function is off by 3e-4, its density by 0.5 % here."""
    x = level / 127.5 - 1
    ends = [-math.inf if level == 0 else x - 1 / 255, math.inf if level == 255 else x + 1 / 255]
    lower, upper = (mpmath.ncdf(end, mean, math.exp(log_scale)) for end in ends)
    args = (torch.tensor([value], dtype=torch.float64) for value in (x, mean, log_scale))
    got = ops.discretized_gaussian_loglik(*args).exp().item()
    assert abs(got - (upper - lower)) <= 3e-4 + 5e-3 * (upper - lower)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("logsnr", [4.0, 12.0, 25.0])
def test_categorical_loglik_of_half_types_is_the_rounded_result(dtype, logsnr):
    x = (torch.arange(0, 256, 5) / 127.5 - 1).to(dtype)
    noise = torch.linspace(-2, 2, len(x)).to(dtype)
    expected = ops.categorical_loglik(x.double(), noise.double(), logsnr)
    got = ops.categorical_loglik(x, noise, logsnr)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_normal_kl_is_that_of_torch():
    mean1, mean2, logvar1, logvar2 = torch.randn(4, 50, dtype=torch.float64).unbind()
    exact = kl_divergence(Normal(mean1, (logvar1 / 2).exp()), Normal(mean2, (logvar2 / 2).exp()))
    torch.testing.assert_close(ops.normal_kl(mean1, logvar1, mean2, logvar2), exact)


@given(*[st.floats(-30, 30)] * 4)
def test_normal_kl_is_never_negative(mean1, logvar1, mean2, logvar2):
    """Nor nan, in either precision, and 0 for equal distributions."""
    for dtype in (torch.float32, torch.float64):
        args = [torch.tensor(value, dtype=dtype) for value in (mean1, logvar1, mean2, logvar2)]
        assert ops.normal_kl(*args) >= 0
        assert ops.normal_kl(*args[:2], *args[:2]) == 0


@pytest.mark.parametrize("gap", [0.0, 1e-9, -1e-6, 1e-3, 9.9e-3, -1.01e-2])
def test_normal_kl_of_nearly_equal_variances(gap):
    zero = torch.zeros((), dtype=torch.float64)
    got = ops.normal_kl(zero, zero + gap, zero, zero).item()
    exact = (mpmath.expm1(gap) - mpmath.mpf(gap)) / 2
    assert got >= 0
    # The series is cut after the fourth power: relative error gap^3/60 at most.
    assert abs(got - exact) <= 1e-7 * exact


def test_probabilities_of_all_levels_sum_to_one():
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, log_scale in ((0.1, -1.0), (-0.9, -3.0), (1.0, 0.5)):
        loglik = ops.discretized_gaussian_loglik(
            levels, torch.full_like(levels, mean), torch.tensor(log_scale, dtype=torch.float64)
        )
        assert loglik.exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("logsnr", [-20.0, -10.0, -9.3, -9.0, -3.0, 0.0, 5.0, 10.0])
def test_prior_is_the_kl_to_a_standard_normal(logsnr):
    x0 = torch.linspace(-1, 1, 5, dtype=torch.float64)
    alpha2 = 1 / (1 + mpmath.exp(-logsnr))
    terms = [(alpha2 * x**2 - alpha2 - mpmath.log(1 - alpha2)) / 2 for x in x0.tolist()]
    got = ops.prior_bpd(x0[None], logsnr).item()
    assert got == pytest.approx(float(sum(terms) / 5 / mpmath.log(2)), rel=1e-9)


@given(st.lists(st.floats(-15, 15), min_size=2, max_size=2, unique=True))
def test_term_of_the_bound_is_the_difference_of_snr_times_the_error(pair):
    """With the true variance a term is ``(SNR_s - SNR_t) |x0 - pred|^2 / 2`` nats."""
    low, high = sorted(pair)
    z, x0, error = (
        torch.linspace(*ends, 6, dtype=torch.float64)[None]
        for ends in ((-2, 2), (1, -1), (0.5, 0.1))
    )
    not_last = torch.zeros(1, dtype=torch.bool)
    got = ops.kl_loss(z, x0, x0 + error, torch.tensor([low], dtype=torch.float64), high, not_last)
    a, b = mpmath.mpf(low), mpmath.mpf(high)
    snr_gap = mpmath.exp(b) * -mpmath.expm1(a - b)
    exact = snr_gap * error.square().mean().item() / 2 / mpmath.log(2)
    # What subtracting two means of size 1 leaves of an error that 1 - r shrinks.
    share = float(-mpmath.expm1(a - b) * mpmath.sqrt(1 / (1 + mpmath.exp(-b))))
    assert abs(got.item() - exact) <= (1e-11 + 1e-14 / share) * exact


def test_bound_of_gaussian_data_is_the_closed_form():
    """With E[x0 | z] of data N(0, v) the mean square error at SNR is ``v / (1 + v SNR)``.

    The sum of the terms falls to ``log((1 + v SNR_0) / (1 + v SNR_1)) / 2`` with many steps.
    """
    v, count, steps = 0.25, 20_000, 32
    noise = ops.keyed_normal(0, 0, torch.arange(steps + 1), (count, 1), torch.float64)

    def denoise(_z, logsnr):
        alpha, sigma = (scale.unsqueeze(1) for scale in ops.alpha_sigma(logsnr))
        return alpha * v / (alpha**2 * v + sigma**2) * _z

    schedule = ops.logsnr_schedule("cosine", -10.0, 6.0)
    bpd = ops.vlb_bpd(denoise, v**0.5 * noise[0], schedule, steps, lambda i: noise[i])
    snr = [math.exp(schedule.logsnr(i / steps)) for i in range(steps + 1)]
    terms = [(snr[i - 1] - snr[i]) * v / (1 + v * snr[i]) / 2 for i in range(2, steps + 1)]
    limit = math.log((1 + v * snr[1]) / (1 + v * snr[-1])) / 2
    got, error = bpd.diffusion.mean().item(), bpd.diffusion.std().item() / count**0.5
    assert abs(got * math.log(2) - sum(terms)) < 4 * error
    assert limit + 4 * error < got * math.log(2) < 1.3 * limit  # 32 steps are 23 % above it
    torch.testing.assert_close(bpd.total, bpd.prior + bpd.diffusion + bpd.decoder)


def test_last_term_is_the_decoder_s():
    """Sample by sample, by the mask; the deviation is the model's."""
    z, x0, pred = torch.randn(3, 2, 5, dtype=torch.float64).clamp(-1, 1)
    low, high = torch.zeros(2, dtype=torch.float64), torch.full((2,), 3.0).double()
    got = ops.kl_loss(z, x0, pred, low, high, torch.tensor([True, False]), "fixed_large")
    logvar = ops.posterior_logvar(low[:1], high[:1], "fixed_large")
    nll = -ops.discretized_gaussian_loglik(x0[:1], pred[:1], logvar / 2).mean() / math.log(2)
    torch.testing.assert_close(got[0], nll)
    kl = ops.kl_loss(z, x0, pred, low, high, torch.tensor([False, False]), "fixed_large")
    assert got[1] == kl[1] != got[0]


def test_perfect_model_pays_for_nothing_between_the_ends():
    x0 = torch.tensor([[0.0, 0.2, -1.0, 1.0]], dtype=torch.float64).mul(127.5).round() / 127.5
    noise = ops.keyed_normal(0, 0, torch.arange(9), (1, 4), torch.float64)
    bpd = ops.vlb_bpd(lambda _z, _logsnr: x0, x0, COSINE, 8, lambda i: noise[i])
    assert bpd.diffusion.item() == 0
    assert bpd.prior.item() < 1e-8
    assert bpd.total.item() == (bpd.prior + bpd.diffusion + bpd.decoder).item()


def test_hybrid_loss_adds_a_share_of_the_bound():
    assert ops.hybrid_loss(torch.ones(2), torch.full((2,), 3.0), 0.5).tolist() == [2.5, 2.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: ops.vlb_bpd(lambda z, _l: z, x, COSINE, 0, lambda i: x),
            "timesteps >= 1, got 0",
        ),
        (lambda x: ops.discretized_gaussian_loglik(x, x[:1], x), "mean to have the shape of x,"),
        (lambda x: ops.hybrid_loss(x, x[:1]), "kl to have the shape of mse"),
        (lambda x: ops.kl_loss(x, x, x[:1], 0.0, 1.0, x > 1), "pred_x0 to have the shape of x0"),
        (lambda x: ops.prior_bpd(x, torch.zeros(3)), "logsnr_min of a shape that broadcasts"),
        (lambda x: bound(x, 4, low=3.0, high=2.0), "finite logsnr_min < logsnr_max, got 3.0 and"),
        (lambda x: bound(x, 4, decoder="tanh"), "decoder to be one of categorical, gaussian, got"),
        (lambda x: ops.discretized_gaussian_loglik(x, x, x, "exact"), "cdf to be one of tanh, erf"),
        (lambda x: ops.categorical_loglik(x, x[:1], 0.0), "noise to have the shape of x"),
        (lambda x: bound(x, 4, high=math.inf), "finite logsnr_min < logsnr_max"),
        (
            lambda x: ops.continuous_vlb_bpd(normal_denoiser, x, -1.0, 1.0, x[0], lambda k: x),
            r"expected u of shape \[K, 2\], got \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3))


@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large", "fixed_medium"])
def test_bound_is_finite_for_a_schedule_that_ends_without_noise(var_type):
    """And its decoder not degenerate: a prediction half a level off costs a few bits, not 40."""
    x0 = torch.linspace(-1, 1, 256).reshape(1, -1).double()
    bpd = ops.vlb_bpd(
        lambda z, logsnr: x0 + 1 / 255,
        x0,
        ops.logsnr_schedule("legacy"),
        1000,
        lambda i: torch.zeros_like(x0),
        var_type,
        0.5 if var_type == "fixed_medium" else None,
    )
    assert all(part.isfinite().all() for part in bpd)
    assert 0 < bpd.decoder.item() < 5


# The bound of normal data N(0, VARIANCE), dimensions independent.
VARIANCE = 0.09


def normal_denoiser(z, logsnr):
    alpha, sigma = (scale[:, None] for scale in ops.alpha_sigma(logsnr))
    return alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * z


def bound(x0, draws, low=-14.0, high=14.0, **options):
    position = torch.arange(draws)
    u = ops.low_discrepancy_time(torch.full((draws,), 0.5).double(), position, draws)
    return ops.continuous_vlb_bpd(
        normal_denoiser, x0, low, high, u[:, None].expand(draws, len(x0)),
        lambda k: ops.keyed_normal(0, k, torch.arange(len(x0)), (x0.shape[1],), torch.float64),
        **options,
    )  # fmt: skip


def test_bound_of_the_perfect_model_loses_nothing_on_the_way():
    """Prior and diffusion are KL(q(z | x) || p(z)) at the last logsnr, x by x."""
    x = torch.tensor([0.0, 0.1, -0.2, 0.4], dtype=torch.float64)
    alpha, sigma = ops.alpha_sigma(torch.tensor(14.0, dtype=torch.float64))
    law = torch.distributions.Normal
    spread = (alpha**2 * VARIANCE + sigma**2).sqrt()
    exact = torch.distributions.kl_divergence(law(alpha * x, sigma), law(0.0, spread))
    got = bound(x[:, None].expand(4, 500), draws=1000)
    # A square of a normal has deviation sqrt(2), over 500,000 of them, times half the range.
    error = 2**0.5 / 500_000**0.5 * 28 / 2 / math.log(2)
    bits = (got.prior + got.diffusion).numpy()
    np.testing.assert_allclose(bits, exact.numpy() / math.log(2), rtol=0, atol=4 * error)
    torch.testing.assert_close(got.total, got.prior + got.diffusion + got.decoder)


def test_bound_is_the_limit_of_the_discrete_one():
    """Which covers the range from t = 1 to 1/T, and is above it by its steps of finite length."""
    x0 = 0.3 * start_noise(64, 20)
    schedule = ops.logsnr_schedule("sigmoid", -14.0, 14.0)
    noise = ops.keyed_normal(1, 0, torch.arange(1001), tuple(x0.shape), torch.float64)
    discrete = ops.vlb_bpd(normal_denoiser, x0, schedule, 1000, lambda i: noise[i])
    continuous = bound(x0, draws=1000, high=schedule.logsnr(1 / 1000).item())
    torch.testing.assert_close(continuous.prior, discrete.prior)
    ratio = discrete.diffusion.mean() / continuous.diffusion.mean()
    assert 1.005 < ratio < 1.025  # (r - 1) / log r = 1.014 at steps of 28/1000


def test_decoder_counts_where_the_grid_ends_early():
    """At logsnr 8 sigma is 0.018, 4.6 half levels: 2 bits and more are left to the decoder."""
    x0 = torch.full((3, 500), 1 / 255, dtype=torch.float64)
    early, late = bound(x0, 500, high=8.0), bound(x0, 500)
    assert early.decoder.mean() > 2
    assert late.decoder.mean() < 0.01
    assert early.total.mean().item() == pytest.approx(late.total.mean().item(), rel=0.15)


def noise_of(i):
    return ops.keyed_normal(0, 1 + i, torch.arange(4), (2, 3), torch.float64)


def test_bound_with_a_learned_variance_at_its_end():
    x0 = ops.keyed_normal(0, 0, torch.arange(4), (2, 3), torch.float64).clamp(-1, 1)
    small = ops.vlb_bpd(lambda z, _: z / 2, x0, COSINE, 6, noise_of)
    learned = ops.vlb_bpd(
        lambda z, _: torch.cat([z / 2, torch.zeros_like(z)], 1), x0, COSINE, 6, noise_of, "learned"
    )
    torch.testing.assert_close(learned.total, small.total, rtol=1e-9, atol=1e-9)


def test_levels_of_steps():
    times = torch.arange(1, 9, dtype=torch.float64) / 8
    levels = ops.step_logsnrs(COSINE, times, 8)
    assert torch.equal(levels.logsnr_t, COSINE.logsnr(times))
    assert torch.equal(levels.logsnr_s, COSINE.logsnr(times - 1 / 8))
    assert levels.last.tolist() == [True] + 7 * [False]


def test_last_level_of_a_schedule_without_noise_at_its_end():
    legacy = ops.logsnr_schedule("legacy")
    levels = ops.step_logsnrs(legacy, torch.tensor([0.5, 1.0], dtype=torch.float64), 2)
    assert levels.logsnr_s.tolist() == [legacy.logsnr(0.25), legacy.logsnr(0.5)]


def test_bound_is_least_at_the_variance_of_the_true_step():
    """Gaussian data: given z alone, a step spreads by more than its posterior given x0 does."""
    spread, count = 0.5, 200_000
    t = torch.tensor([0.6], dtype=torch.float64)
    level_t, level_s, last = ops.step_logsnrs(COSINE, t, 5)
    x0, noise = (spread_by * ops.keyed_normal(0, i, torch.arange(count), (1,), torch.float64)
                 for i, spread_by in enumerate((spread, 1.0)))  # fmt: skip
    alpha, sigma = ops.alpha_sigma(level_t)
    z = ops.q_sample(x0, level_t.expand(count), noise)
    total = alpha**2 * spread**2 + sigma**2
    posterior = spread**2 * sigma**2 / total  # of x0 given z
    ratio = torch.exp(level_t - level_s)
    alpha_s, sigma_s = ops.alpha_sigma(level_s)
    true = (1 - ratio) * sigma_s**2 + ((1 - ratio) * alpha_s) ** 2 * posterior
    small, large = (
        ops.posterior_logvar(level_t, level_s, kind) for kind in ("fixed_small", "fixed_large")
    )
    best = ((torch.log(true) - small) / (large - small)).item()
    assert 0.05 < best < 0.95

    def bound(frac):
        pred = spread**2 * alpha / total * z
        levels = (level.expand(count) for level in (level_t, level_s, last))
        fracs = torch.full_like(z, frac)
        return ops.kl_loss(z, x0, pred, *levels, "learned", fracs).mean().item()

    fractions = [best - 0.05, best, best + 0.05]
    lower, least, upper = map(bound, fractions)
    assert least < min(lower, upper)
    assert math.isclose(lower, upper, rel_tol=0.02)


LEVELS = torch.linspace(-1, 1, 256, dtype=torch.float64)


def uniform_denoiser(z, logsnr):
    """E[x0 | z] of levels that are all as frequent, by numpy."""
    alpha, sigma = (scale.numpy()[:, None, None] for scale in ops.alpha_sigma(logsnr))
    log_q = -0.5 * ((z.numpy()[..., None] - alpha * LEVELS.numpy()) / sigma) ** 2
    weights = np.exp(log_q - log_q.max(-1, keepdims=True))
    return torch.from_numpy((weights * LEVELS.numpy()).sum(-1) / weights.sum(-1))


def uniform_bits(high, **options):
    """Mean bits of 8,192 values, 32 of each level, with the error of the mean."""
    values = LEVELS.repeat(32)[torch.randperm(8192, generator=torch.Generator().manual_seed(0))]
    x0, draws = values.reshape(128, 64), 60
    u = ops.keyed_uniform(1, 0, torch.arange(128), dtype=torch.float64)
    u = ops.low_discrepancy_time(u, torch.arange(draws)[:, None], draws)
    found = ops.continuous_vlb_bpd(
        uniform_denoiser, x0, -14.0, high, u,
        lambda k: ops.keyed_normal(0, k, torch.arange(128), (64,), torch.float64), **options,
    )  # fmt: skip
    return ops.mean_and_error(found.total)


@pytest.mark.parametrize("high", [8.0, 11.08, 13.3])
def test_uniform_levels_take_eight_bits(high):
    """With the exact denoiser the bound is tight, wherever VDM's decoder takes over."""
    mean, error = uniform_bits(high)
    assert error < 0.03
    assert abs(mean - 8) < 3 * error


@pytest.mark.slow
def test_the_discretized_gaussian_is_looser():
    """By 0.040 bits at 13.3: the same noise for both, so that the difference is sharp."""
    gap = uniform_bits(13.3, decoder="gaussian").mean - uniform_bits(13.3).mean
    assert gap.item() == pytest.approx(0.040, abs=0.008)


@pytest.mark.parametrize("logsnr", [-30.0, 0.0, 9.0, 13.3, 20.0])
def test_categorical_decoder_is_bayes_rule(logsnr):
    """Of scipy's normal density at every level."""
    x, noise = LEVELS[[0, 3, 128, 255]], torch.tensor([0.7, -2.5, 0.1, 3.0]).double()
    alpha, sigma = ((1 + math.exp(-s * logsnr)) ** -0.5 for s in (1, -1))
    z = (alpha * x + sigma * noise).numpy()
    density = stats.norm.logpdf(z[:, None], alpha * LEVELS.numpy(), sigma)
    own = stats.norm.logpdf(z, alpha * x.numpy(), sigma)
    expected = own - special.logsumexp(density, axis=1)
    got = ops.categorical_loglik(x, noise, logsnr)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
    single = ops.categorical_loglik(x.float(), noise.float(), logsnr)
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-4)  # exp(d noise) of size e^5


@pytest.mark.parametrize("mean", [-1.3, 0.0, 0.4, 5.0])
@pytest.mark.parametrize("log_scale", [-6.0, -2.0, 1.0])
def test_exact_discretized_loglik_is_that_of_50_digits(mean, log_scale):
    """At every tenth level, far into the tails: -1e7 nats and less."""
    x = LEVELS[::15]
    got = ops.discretized_gaussian_loglik(
        x, torch.full_like(x, mean), torch.tensor(log_scale).double(), "erf"
    )
    for value, level in zip(got.tolist(), x.tolist(), strict=True):
        ends = [(level - mean + side / mpmath.mpf(255)) / mpmath.exp(log_scale) for side in (-1, 1)]
        ends[0] = -mpmath.inf if level < -0.999 else ends[0]
        ends[1] = mpmath.inf if level > 0.999 else ends[1]
        if ends[0] + ends[1] > 0:
            ends = [-ends[1], -ends[0]]
        with mpmath.workdps(50):
            exact = mpmath.log((mpmath.erfc(-ends[1] / mpmath.sqrt(2))
                                - mpmath.erfc(-ends[0] / mpmath.sqrt(2))) / 2)  # fmt: skip
        assert value == pytest.approx(float(exact), rel=1e-10, abs=1e-14)
