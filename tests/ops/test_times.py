"""Training times: their distribution, and that a draw does not depend on the others."""

import pytest
import torch
from scipy import integrate, stats

from vfn import ops

U = ops.keyed_uniform(0, 0, torch.arange(4000), dtype=torch.float64)
NORMAL = ops.keyed_normal(0, 1, torch.arange(4000), dtype=torch.float64)


def test_each_stratum_has_one_time():
    position = torch.arange(4000)
    t = ops.stratified_time(U, position, 4000)
    assert torch.equal((t * 4000).floor().long(), position)
    assert torch.equal(ops.stratified_time(U[7:9], position[7:9], 4000), t[7:9])
    # 4000 t loses three digits of the fraction.
    torch.testing.assert_close((t * 4000).frac(), U, rtol=0, atol=1e-12)


def test_low_discrepancy_times_are_evenly_spaced():
    t = ops.low_discrepancy_time(U[0], torch.arange(100), 100).sort().values
    torch.testing.assert_close(t.diff(), torch.full((99,), 0.01, dtype=torch.float64))


SAMPLERS = {
    "stratified": lambda position: ops.stratified_time(U[position], position, 4000),
    "low discrepancy": lambda position: ops.low_discrepancy_time(U[0], position, 4000),
    "importance": lambda position: ops.importance_time(U[position], torch.ones(7)).t,
    "discrete": lambda position: ops.discrete_time(U[position], 4000),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_times_are_uniform_and_independent_of_the_layout(sampler):
    position = torch.arange(4000)
    t = sampler(position)
    assert stats.kstest(t.numpy(), "uniform").pvalue > 0.01
    shards = [sampler(position[rank::4]) for rank in range(4)]
    assert torch.equal(torch.stack(shards, dim=1).flatten(), t)


def test_low_discrepancy_time_of_one_position_is_uniform_over_steps():
    t = ops.low_discrepancy_time(U, torch.full((4000,), 3), 8)
    assert stats.kstest(t.numpy(), "uniform").pvalue > 0.01


def test_importance_time_inverts_the_integral_of_its_density():
    weights = torch.tensor([0.2, 3.0, 1.0, 0.7, 2.1], dtype=torch.float64)
    u = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    t, density = ops.importance_time(u, weights)

    def curve(x):
        return weights[min(int(5 * x), 4)].item()

    def integral(end):
        return integrate.quad(curve, 0, end, points=[0.2, 0.4, 0.6, 0.8], limit=200)[0]

    whole = integral(1.0)
    for one_u, one_t, one_density in zip(u.tolist(), t.tolist(), density.tolist(), strict=True):
        # quad's own error for a piecewise constant curve whose jumps it knows.
        assert integral(one_t) / whole == pytest.approx(one_u, abs=1e-9)
        assert one_density == pytest.approx(curve(one_t) / whole)


def test_named_distributions():
    sigma = torch.exp(-0.5 * ops.lognormal_logsnr(NORMAL))
    assert (
        stats.kstest(sigma.numpy(), stats.lognorm(1.2, scale=2.718281828**-1.2).cdf).pvalue > 0.01
    )
    t = ops.logit_normal_time(NORMAL, 0.5, 2.0)
    assert stats.kstest(torch.logit(t).numpy(), stats.norm(0.5, 2.0).cdf).pvalue > 0.01


def test_importance_undone_by_its_density_is_unbiased():
    t, density = ops.importance_time(U, torch.tensor([1.0, 4.0, 0.5, 2.0]))
    share = torch.histc(t, 4, 0, 1) / len(t)
    expected = torch.tensor([1.0, 4.0, 0.5, 2.0], dtype=torch.float64) / 7.5
    # Four standard errors of a share of 4,000 draws.
    assert (share - expected).abs().max() < 4 * 0.5 / 4000**0.5
    assert (t.square() / density).mean().item() == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.discrete_time(U, 0), "timesteps >= 1, got 0"),
        (lambda: ops.stratified_time(U, U.long(), 0), "batch_size >= 1, got 0"),
        (lambda: ops.lognormal_logsnr(NORMAL, std=0.0), "std > 0, got 0"),
        (lambda: ops.importance_time(U, torch.ones(2, 2)), r"shape \[K\], got \(2, 2\)"),
    ],
)
def test_numbers_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_discrete_time_is_uniform_over_its_values():
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    values, counts = ops.discrete_time(u, 8).unique(return_counts=True)
    assert values.tolist() == [i / 8 for i in range(1, 9)]
    assert counts.tolist() == [500] * 8


def test_discrete_time_refuses_no_steps():
    for steps in (0, 2.5):
        with pytest.raises(ValueError, match=f"expected whole timesteps >= 1, got {steps}"):
            ops.discrete_time(torch.tensor([0.5]), steps)


HIGHEST = {dtype: 1 - torch.finfo(dtype).eps / 2 for dtype in (torch.float32, torch.float64)}


@pytest.mark.parametrize("dtype", HIGHEST)
def test_times_never_reach_the_ends(dtype):
    """Where a schedule may be infinite. Rounding up to 1 is frequent in float32."""
    u = torch.tensor([0.0, 2.0**-23, 0.5, HIGHEST[dtype]], dtype=dtype)
    position, high = torch.tensor([0, 1, 1023, 1023]), torch.tensor([-900.0, 0.0, 20.0, 900.0])
    times = (
        ops.low_discrepancy_time(u, position, 1024),
        ops.low_discrepancy_time(torch.full((1024,), HIGHEST[dtype], dtype=dtype),
                                 torch.arange(1024), 1024),
        ops.low_discrepancy_time(torch.tensor(0.5, dtype=dtype), torch.arange(2), 2),
        ops.stratified_time(u, position, 1024),
        ops.logit_normal_time(high.to(dtype)),
        ops.importance_time(u, torch.tensor([1.0, 3.0])).t,
    )  # fmt: skip
    for t in times:
        assert t.dtype == dtype
        assert ((t > 0) & (t < 1)).all()
    assert ops.discrete_time(u, 4).tolist() == [0.25, 0.25, 0.5, 1.0]
