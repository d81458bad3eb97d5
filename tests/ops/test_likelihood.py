"""Log-likelihood by the probability flow, against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.helpers.exact_flow import mixture, start_noise
from vfn import ops

# Down to -30: at -20 alpha is 4.5e-5, by which z is not yet standard normal.
COSINE = ops.logsnr_schedule("cosine", -30.0, 20.0)
DIMS = 3
MIXTURE = mixture(seed=0, parts=3, dims=DIMS, std=0.3, spread=0.6)
# Their mean e e^T is the identity, so that the mean over them is the trace itself.
AXES = DIMS**0.5 * torch.eye(DIMS, dtype=torch.float64)


def data(count=8):
    return MIXTURE.flow(start_noise(count, DIMS))


def loglik(x0, steps, probes=None, denoise=MIXTURE.denoise, grid="logsnr"):
    probes = AXES[:, None].expand(DIMS, *x0.shape) if probes is None else probes
    return ops.flow_loglik(denoise, x0, ops.sampling_grid(grid, COSINE, steps), probes)


def exact_loglik(x0):
    return torch.from_numpy(MIXTURE.scores(x0.numpy(), 20.0)[0])


def test_likelihood_of_a_mixture_is_the_exact_one():
    for grid, steps, tolerance in (("logsnr", 128, 1e-2), ("time", 128, 1e-3)):
        got = loglik(data(), steps, grid=grid)
        assert got.nfe == steps + 1
        torch.testing.assert_close(got.loglik.mean(0), exact_loglik(data()), rtol=0, atol=tolerance)


def test_a_grid_may_begin_at_pure_noise():
    schedule = ops.logsnr_schedule("cosine", -math.inf, 20.0)
    x0, probes = data(4), AXES[:, None].expand(DIMS, 4, DIMS)
    got = ops.flow_loglik(MIXTURE.denoise, x0, ops.logsnr_grid(schedule, 128), probes)
    torch.testing.assert_close(got.loglik.mean(0), exact_loglik(x0), rtol=0, atol=1e-3)


def test_trace_is_taken_at_every_place():
    calls = []

    def denoise(z, logsnr):
        calls.append(logsnr[0].item())
        return MIXTURE.denoise(z, logsnr)

    loglik(data(2), 8, denoise=denoise)
    assert calls == ops.sampling_grid("logsnr", COSINE, 8).flip(0).tolist()


def test_likelihood_is_of_second_order():
    x0 = data(4)

    def error(steps):
        off = loglik(x0, steps, grid="time").loglik.mean(0) - exact_loglik(x0)
        return off.square().mean().sqrt().item()

    assert math.log2(error(128) / error(256)) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("kind", ["signs", "normal"])
def test_random_probes_are_unbiased(kind):
    x0, count = data(4), 100
    draws = ops.keyed_normal(0, 0, torch.arange(count), tuple(x0.shape), torch.float64)
    probes = draws.sign() if kind == "signs" else draws
    got = loglik(x0, 16, probes).loglik
    exact = loglik(x0, 16).loglik.mean(0)
    mean, error = got.mean(0), got.std(0) / count**0.5
    assert (error > 0).all()
    assert ((mean - exact).abs() < 4 * error).all()


@pytest.mark.parametrize("out_type", ["x0", "eps", "v", "both"])
def test_likelihood_takes_any_prediction(out_type):
    """The denoiser hides what the network predicts; gradients pass through the conversion."""

    def denoise(z, logsnr):
        x0 = MIXTURE.denoise(z, logsnr)
        eps, v = ops.eps_from_x0(z, x0, logsnr), ops.v_from_x0(z, x0, logsnr)
        out = {"x0": x0, "eps": eps, "v": v, "both": torch.cat([x0, eps], 1)}[out_type]
        return ops.predict(z, out, logsnr, out_type).x0

    x0 = data(4)
    expected = loglik(x0, 32).loglik
    torch.testing.assert_close(loglik(x0, 32, denoise=denoise).loglik, expected, rtol=0, atol=1e-6)


def test_likelihood_of_float32_data():
    """Sums over dimensions and steps of values whose rounding sigma amplifies."""
    x0 = data(4)
    got = loglik(x0.float(), 128, AXES.float()[:, None].expand(DIMS, 4, DIMS)).loglik
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), loglik(x0, 128).loglik, rtol=0, atol=0.02)


def test_likelihood_needs_no_gradient_mode():
    with torch.no_grad():
        assert torch.equal(loglik(data(2), 8).loglik, loglik(data(2), 8).loglik)
    assert not loglik(data(2), 8).loglik.requires_grad


def test_uniform_density_has_eight_bits():
    """Over all 256 levels with half a level to either side: 2 * 256/255 wide."""
    nats = -5 * math.log(2 * 256 / 255)
    assert ops.loglik_bpd(torch.tensor(nats), 5).item() == pytest.approx(8, abs=1e-6)


def test_dequantized_values_fill_the_level():
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    low, high = (ops.dequantize(levels, torch.full_like(levels, u)) for u in (0.0, 1.0))
    torch.testing.assert_close(high[:-1], low[1:])
    torch.testing.assert_close(high - low, torch.full_like(levels, 2 / 255))


def test_bits_from_dequantized_values_bound_those_of_the_levels():
    """A normal density as wide as a level: the mean over draws is above, and close by."""
    x = torch.tensor([0.0, 2.0, -2.0], dtype=torch.float64) / 255
    law = stats.norm(0.0, 2 / 255)
    exact = -np.log2(law.cdf(x + 1 / 255) - law.cdf(x - 1 / 255))
    u = ops.keyed_uniform(0, 0, torch.arange(3), (20_000,), torch.float64)
    values = ops.dequantize(x[:, None].expand_as(u), u)
    bits = ops.loglik_bpd(torch.from_numpy(law.logpdf(values)), 1).mean(1).numpy()
    assert (bits > exact).all()
    assert (bits < exact + 0.1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: loglik(x, 8, x), r"probes of shape \[P, 2, 3\] with P >= 1, got \(2, 3\)"),
        (lambda x: loglik(x, 8, x[None][:0]), r"with P >= 1, got \(0, 2, 3\)"),
        (
            lambda x: ops.flow_loglik(MIXTURE.denoise, x, ops.karras_grid(3), x[None]),
            "finite logsnr to encode from",
        ),
        (lambda x: ops.dequantize(x, x[:1]), "u to have the shape of x0"),
        (lambda x: ops.loglik_bpd(x, 0), "expected dims >= 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, DIMS, dtype=torch.float64))
