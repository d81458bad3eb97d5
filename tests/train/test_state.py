"""The optimizer's step: clipping and steps that are left out."""

import copy

import torch
from torch import nn

from vfn.train.companions import clip_and_step


def trained(max_norm, grads):
    """A layer after AdamW steps on given gradients, ours and by PyTorch's own clipping."""
    torch.manual_seed(0)
    ours, plain = nn.Linear(5, 3), nn.Linear(5, 3)
    plain.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, plain):
        params = list(layer.parameters())
        optimizer = torch.optim.AdamW(params, lr=0.1, fused=True)
        norms = []
        for grad in grads:
            for param in params:
                param.grad = torch.full_like(param, grad)
            if layer is ours:
                norms.append(clip_and_step(optimizer, params, max_norm))
            else:
                norms.append(nn.utils.clip_grad_norm_(params, max_norm))
                optimizer.step()
        results.append((layer, norms, copy.deepcopy(optimizer.state_dict()["state"])))
    return results


def test_clipping_is_that_of_torch():
    for max_norm in (0.1, 100.0):
        (ours, norms, state), (plain, expected, plain_state) = trained(max_norm, [0.3, -2.0, 0.01])
        assert norms == expected
        torch.testing.assert_close(ours.weight, plain.weight)
        torch.testing.assert_close(state, plain_state)


def test_clipping_changes_the_result():
    (clipped, *_), _ = trained(0.1, [0.3, -2.0])
    (free, *_), _ = trained(100.0, [0.3, -2.0])
    assert not torch.allclose(clipped.weight, free.weight)


def test_gradients_that_are_not_finite_change_nothing():
    """Neither parameters nor moments nor the optimizer's count, and training goes on after it."""
    (with_bad, norms, state), _ = trained(1.0, [0.3, float("nan"), float("inf"), -2.0])
    (without, _, expected), _ = trained(1.0, [0.3, -2.0])
    assert [norm.isfinite().item() for norm in norms] == [True, False, False, True]
    assert torch.equal(with_bad.weight, without.weight)
    torch.testing.assert_close(state, expected, rtol=0, atol=0)
