"""Losses of moment matching: where they pull, against what calculus says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn import ops

NUMBERS = st.integers(0, 10_000)


def drawn(seed, count=3):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 2, 3, generator=draw, dtype=torch.float64) for _ in range(count)]


@given(seed=NUMBERS)
def test_a_generator_is_moved_by_the_difference_of_the_means(seed):
    """Gradient 2 d / D, where d is what the auxiliary network says beyond the teacher."""
    x0, auxiliary, teacher = drawn(seed)
    fixed = x0.clone()
    loss = ops.moment_loss(x0.requires_grad_(), fixed, auxiliary, teacher)
    loss.sum().backward()
    torch.testing.assert_close(x0.grad, 2 * (auxiliary - teacher) / 6)
    torch.testing.assert_close(loss.detach(), (auxiliary - teacher).square().mean((1, 2)))


@given(seed=NUMBERS)
def test_an_auxiliary_network_ends_half_way_between_the_generator_and_the_teacher(seed):
    x0, teacher = drawn(seed, 2)
    auxiliary = ((x0 + teacher) / 2).requires_grad_()
    loss = ops.auxiliary_loss(auxiliary, x0, teacher)
    loss.sum().backward()
    assert auxiliary.grad.abs().max() < 1e-15
    torch.testing.assert_close(loss.detach(), (x0 - teacher).square().mean((1, 2)) / 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: ops.moment_loss(a, b, a, a), "fixed"),
        (lambda a, b: ops.moment_loss(a, a, b, a), "auxiliary"),
        (lambda a, b: ops.moment_loss(a, a, a, b), "teacher"),
        (lambda a, b: ops.auxiliary_loss(a, b, a), "x0"),
        (lambda a, b: ops.auxiliary_loss(a, a, b), "teacher"),
    ],
)
def test_shapes_that_differ_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3), torch.zeros(2, 4))
