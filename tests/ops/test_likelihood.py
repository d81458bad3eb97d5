"""The variational bound: golden numbers, torch.distributions, closed forms."""

import mpmath
import pytest
import torch
from torch.distributions import Normal, kl_divergence

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


def test_normal_kl_is_that_of_torch():
    mean1, mean2, logvar1, logvar2 = torch.randn(4, 50, dtype=torch.float64).unbind()
    exact = kl_divergence(Normal(mean1, (logvar1 / 2).exp()), Normal(mean2, (logvar2 / 2).exp()))
    torch.testing.assert_close(ops.normal_kl(mean1, logvar1, mean2, logvar2), exact)


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


@pytest.mark.parametrize("logsnr", [-20.0, -10.0, -9.0, 0.0, 5.0])
def test_prior_is_the_kl_to_a_standard_normal(logsnr):
    x0 = torch.linspace(-1, 1, 5, dtype=torch.float64)
    alpha2 = 1 / (1 + mpmath.exp(-logsnr))
    terms = [(alpha2 * x**2 - alpha2 - mpmath.log(1 - alpha2)) / 2 for x in x0.tolist()]
    got = ops.prior_bpd(x0[None], logsnr).item()
    assert got == pytest.approx(float(sum(terms) / 5 / mpmath.log(2)), rel=1e-9)


def test_perfect_model_pays_for_nothing_between_the_ends():
    x0 = torch.tensor([[0.0, 0.2, -1.0, 1.0]], dtype=torch.float64).mul(127.5).round() / 127.5
    noise = ops.keyed_normal(0, 0, torch.arange(9), (1, 4), torch.float64)
    bpd = ops.vlb_bpd(lambda _z, _logsnr: x0, x0, COSINE, 8, lambda i: noise[i])
    assert bpd.diffusion.item() == 0
    assert bpd.prior.item() < 1e-8
    assert bpd.total.item() == (bpd.prior + bpd.diffusion + bpd.decoder).item()


def test_learned_variance_reaches_from_small_to_large():
    z = torch.randn(2, 3, dtype=torch.float64)
    logsnr_t, logsnr_s = torch.tensor([-1.0, 0.0]), torch.tensor([0.5, 2.0])
    for frac, var_type in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        learned = ops.q_posterior(z, z, logsnr_t, logsnr_s, "learned", torch.full_like(z, frac))
        fixed = ops.q_posterior(z, z, logsnr_t, logsnr_s, var_type)
        torch.testing.assert_close(learned.logvar, fixed.logvar.expand_as(z))
    with pytest.raises(ValueError, match="a tensor in the shape of z with var_type learned"):
        ops.q_posterior(z, z, logsnr_t, logsnr_s, "learned")
    with pytest.raises(ValueError, match="to be a number with var_type fixed_medium"):
        ops.q_posterior(z, z, logsnr_t, logsnr_s, "fixed_medium", z)


def test_hybrid_loss_adds_a_share_of_the_bound():
    assert ops.hybrid_loss(torch.ones(2), torch.full((2,), 3.0), 0.5).tolist() == [2.5, 2.5]
