"""Muon: its steps, what it takes for a matrix, and runs that are trained with it."""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.processes import differing, losses, tensors
from vfn.configs import TrainConfig, override
from vfn.model import DataShape, build_model
from vfn.nn import UNet
from vfn.ops import orthogonalize
from vfn.train import train
from vfn.train.optimizers import (
    Muon,
    clip_and_step,
    matrices_of,
    moments_of,
    optimizer_of,
    restore_moments,
)

STEPS = 6
FREE = float("inf")  # no gradient is clipped to it


@pytest.fixture(scope="module")
def muon(config):
    return override(config, {"optimizer": "muon", "steps": STEPS, "warmup": 0})


def layers():
    """A convolution that is a matrix to Muon, and a layer that is too narrow for one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 20, 3), nn.Linear(4, 2))


def stepped(model, grads, optimizer=None, **settings):
    """Take a step on a gradient of each seed, multiplied by a number; the optimizer."""
    optimizer = optimizer or optimizer_of(model, TrainConfig(optimizer="muon", **settings))
    for seed, scale in grads.items():
        draws = torch.Generator().manual_seed(seed)
        for param in model.parameters():
            param.grad = scale * torch.randn(param.shape, generator=draws)
        clip_and_step(optimizer, model.parameters(), FREE)
    return optimizer


def test_a_matrix_moves_as_muon_has_it_and_the_rest_as_adamw():
    ours, plain = layers(), layers()
    settings = {"lr": 0.01, "beta1": 0.8, "weight_decay": 0.1}
    grads = {1: 1.0, 2: -3.0, 3: 0.5}
    optimizer = stepped(ours, grads, **settings)
    stepped(
        plain,
        grads,
        torch.optim.AdamW(plain.parameters(), 0.01, (0.8, 0.999), weight_decay=0.1, fused=True),
    )
    for name in ("0.bias", "1.weight", "1.bias"):
        torch.testing.assert_close(ours.get_parameter(name), plain.get_parameter(name))
    weight, momentum = layers()[0].weight.detach(), 0.0
    for seed, scale in grads.items():
        gradient = scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        momentum = 0.8 * momentum + 0.2 * gradient
        towards = 0.2 * gradient + 0.8 * momentum
        update = orthogonalize(towards.reshape(20, 144)).reshape(weight.shape)
        weight = (1 - 0.01 * 0.1) * weight - 0.01 * 0.2 * 12 * update  # 12 = sqrt(144)
    torch.testing.assert_close(ours[0].weight.detach(), weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(optimizer.state[ours[0].weight]["exp_avg"], momentum)


def test_an_update_is_as_large_as_one_of_adam():
    """Root mean squares of the first step, which is the learning rate in Adam's case."""
    model, before = layers(), layers()
    stepped(model, {1: 1.0}, lr=0.01)
    change = (model[0].weight - before[0].weight).square().mean().sqrt()
    assert 0.1 < change / 0.01 < 0.3


def test_matrices_of_one_shape_move_as_each_by_itself():
    """They are updated at once."""
    torch.manual_seed(0)
    both = nn.ModuleList([nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 24)])
    alone = copy.deepcopy(both)
    for param, other in zip(both.parameters(), alone.parameters(), strict=True):
        param.grad = torch.randn(param.shape)
        other.grad = param.grad.clone()
    for part in (both, *alone):
        optimizer = optimizer_of(part, TrainConfig(optimizer="muon", lr=0.1))
        clip_and_step(optimizer, part.parameters(), FREE)
    for ours, theirs in zip(both.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_scaled_and_clipped_before():
    """The direction of a matrix alone counts, but in its momentum."""
    small, large = layers(), layers()
    one, other = stepped(small, {1: 1.0}), stepped(large, {1: 1024.0})
    torch.testing.assert_close(small[0].weight, large[0].weight)
    ratio = other.state[large[0].weight]["exp_avg"] / one.state[small[0].weight]["exp_avg"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1024.0))
    clipped = layers()
    optimizer = optimizer_of(clipped, TrainConfig(optimizer="muon"))
    for param in clipped.parameters():
        param.grad = torch.full_like(param, 8.0)
    norm = clip_and_step(optimizer, clipped.parameters(), 0.5, loss_scale=4.0)
    count = sum(p.numel() for p in clipped.parameters())
    assert norm == pytest.approx(2.0 * count**0.5)
    momentum = optimizer.state[clipped[0].weight]["exp_avg"]
    torch.testing.assert_close(momentum, torch.full_like(momentum, 0.1 * 0.5 / count**0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    ours, without = layers(), layers()
    one = stepped(ours, {1: 0.3, 2: bad, 3: -2.0}, weight_decay=0.1)
    other = stepped(without, {1: 0.3, 3: -2.0}, weight_decay=0.1)
    for a, b in zip(ours.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)
        for name, value in one.state[a].items():
            assert torch.equal(value, other.state[b][name])


def test_what_a_checkpoint_holds_goes_on():
    straight, broken = layers(), layers()
    stepped(straight, {1: 1.0, 2: -3.0, 3: 0.5})
    first = stepped(broken, {1: 1.0, 2: -3.0})
    again = optimizer_of(broken, TrainConfig(optimizer="muon"))
    for param in broken.parameters():
        moments = moments_of(first, param)
        assert moments["exp_avg_sq"].any() == (param is not broken[0].weight)
        restore_moments(again, param, moments, torch.tensor(2.0))
        assert {*again.state[param]} == {*first.state[param]}  # no room for what there is not
    stepped(broken, {3: 0.5}, again)
    for a, b in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_comes_in_and_goes_out_and_classes_are_left_to_adamw(config):
    net = build_model(config, DataShape(3, 8, 8))
    chosen = {id(p) for p in matrices_of(net)}
    named = {n for n, p in net.named_parameters() if id(p) in chosen}
    assert "modulation.weight" in named
    assert not {n for n in named if n.startswith(("in_conv", "out_conv")) or "bias" in n}
    many = UNet(3, 3, 32, (1,), 1, num_classes=100)
    assert many.label_embed.weight.shape[1] == 100
    assert all(p is not many.label_embed.weight for p in matrices_of(many))
    table = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 32))
    assert [tuple(p.shape) for p in matrices_of(table)] == [(32, 32)]


def test_a_network_of_matrices_alone():
    model = nn.Linear(16, 16, bias=False)
    optimizer = stepped(model, {1: 1.0, 2: 1.0})
    assert isinstance(optimizer, Muon)
    assert optimizer.state[model.weight]["step"] == 2


def test_a_resumed_run_is_bit_identical(muon, tmp_path):
    for name in ("straight", "broken"):
        train(override(muon, {"steps": STEPS if name == "straight" else 2}), tmp_path / name,
              device="cpu")  # fmt: skip
    train(muon, tmp_path / "broken", resume=True, device="cpu")
    assert differing(tmp_path / "broken", tmp_path / "straight") == []
    assert losses(tmp_path / "broken") == losses(tmp_path / "straight")
    plain = tmp_path / "plain"
    train(override(muon, {"optimizer": "adamw"}), plain, device="cpu")
    ours, theirs = tensors(tmp_path / "straight"), tensors(plain)
    assert not torch.equal(ours["params.modulation.weight"], theirs["params.modulation.weight"])


def test_micro_batches_are_a_layout(muon, tmp_path):
    """Small singular values come with rounding, which is raised to one with them."""
    for name, accumulate in (("one", 1), ("two", 2)):
        train(override(muon, {"accumulate": accumulate}), tmp_path / name, device="cpu")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_run_does_not_go_on_with_another_optimizer(muon, tmp_path):
    train(override(muon, {"steps": 2}), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="begun with optimizer muon, got adamw; leave that"):
        train(override(muon, {"optimizer": "adamw"}), tmp_path, resume=True, device="cpu")
