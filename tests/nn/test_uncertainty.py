"""The uncertainty of noise levels: what it starts at, and what it can follow."""

import math

import pytest
import torch

from vfn import ops
from vfn.nn import Uncertainty

LEVELS = torch.linspace(-20, 20, 401, dtype=torch.float64)


def test_it_starts_at_zero_without_a_draw():
    before = torch.get_rng_state()
    module = Uncertainty()
    assert torch.equal(torch.get_rng_state(), before)
    assert not module(LEVELS).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_number_for_each_level(dtype):
    u = Uncertainty()(torch.zeros(3, dtype=dtype))
    assert (u.shape, u.dtype) == ((3,), torch.float32)


def test_pure_noise_is_a_level_like_any_other():
    module = Uncertainty()
    torch.nn.init.ones_(module.weight)
    far, farther = (module(torch.tensor([level])) for level in (-701.0, -math.inf))
    assert far == farther
    assert far.isfinite()


def test_only_parameters_are_kept():
    assert sorted(Uncertainty(8).state_dict()) == ["bias", "weight"]
    assert Uncertainty(8).weight.shape == (16,)


def test_it_comes_to_be_the_logarithm_of_the_mean_loss():
    """Of losses between exp(-6) and exp(3) with a bend; the ends come last."""
    module = Uncertainty()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.03, weight_decay=0)
    expected = 3 - 9 * torch.sigmoid(0.5 * LEVELS) + (0.3 * LEVELS).sin()
    loss = expected.exp().float()
    for _ in range(300):
        optimizer.zero_grad()
        ops.balanced_loss(loss, module(LEVELS)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert (module(LEVELS) - expected).abs()[20:-20].max() < 0.1
