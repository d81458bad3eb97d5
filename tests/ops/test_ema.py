"""The moving average: its closed form, and who is changed by it."""

import pytest
import torch

from vfn.ops import ema_decay, ema_update, ema_update_


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (3, 4), "bias": (3,), "scale": ()}
    return {name: torch.randn(s, generator=generator) for name, s in shapes.items()}


@pytest.mark.parametrize(
    ("num_updates", "expected"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (890, 0.99), (10**9, 0.99)]
)
def test_decay_warms_up_to_its_limit(num_updates, expected):
    assert ema_decay(num_updates, 0.99) == pytest.approx(expected)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"expected decay in \[0, 1\], got"):
        ema_decay(0, decay)


def test_update_is_the_weighted_mean():
    ema, params = tensors(0), tensors(1)
    for name, value in ema_update(ema, params, 0.75).items():
        torch.testing.assert_close(value, 0.75 * ema[name] + 0.25 * params[name])


def test_constant_parameters_are_approached_geometrically():
    ema, params = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    for _ in range(10):
        ema = ema_update(ema, params, 0.9)
    torch.testing.assert_close(ema["w"], torch.full((2,), 1 - 0.9**10))


def test_update_changes_nothing():
    ema, params = tensors(0), tensors(1)
    ema_update(ema, params, 0.5)
    for before, after in ((tensors(0), ema), (tensors(1), params)):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_update_in_place_is_the_pure_one():
    ema, params = tensors(0), tensors(1)
    storage = {name: value.data_ptr() for name, value in ema.items()}
    shuffled = dict(reversed(params.items()))
    expected = ema_update(ema, params, 0.75)
    assert ema_update_(ema, shuffled, 0.75) is None
    for name, value in ema.items():
        torch.testing.assert_close(value, expected[name])
        assert value.data_ptr() == storage[name]
        assert torch.equal(params[name], tensors(1)[name])


@pytest.mark.parametrize("update", [ema_update, ema_update_])
def test_average_carries_no_gradient(update):
    ema = tensors(0)
    params = {name: value.requires_grad_() for name, value in tensors(1).items()}
    averaged = update(ema, params, 0.5) or ema
    assert not any(value.requires_grad for value in averaged.values())


@pytest.mark.parametrize("update", [ema_update, ema_update_])
def test_names_that_differ_are_refused(update):
    ema, params = tensors(0), tensors(1)
    del params["bias"]
    with pytest.raises(ValueError, match=r"same names, they differ in \['bias'\]"):
        update(ema, params, 0.5)
