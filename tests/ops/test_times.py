"""Training times: their distribution, and that a draw does not depend on the others."""

import pytest
import torch
from scipy import stats

from vfn import ops

U = ops.keyed_uniform(0, 0, torch.arange(4000), dtype=torch.float64)
NORMAL = ops.keyed_normal(0, 1, torch.arange(4000), dtype=torch.float64)


def test_each_stratum_has_one_time():
    position = torch.arange(4000)
    t = ops.stratified_time(U, position, 4000)
    assert torch.equal((t * 4000).floor().long(), position)
    assert torch.equal(ops.stratified_time(U[7:9], position[7:9], 4000), t[7:9])


def test_low_discrepancy_times_are_evenly_spaced():
    t = ops.low_discrepancy_time(U[0], torch.arange(100), 100).sort().values
    torch.testing.assert_close(t.diff(), torch.full((99,), 0.01, dtype=torch.float64))


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
