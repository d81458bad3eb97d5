"""The optimizer's step: clipping and steps that are left out."""

import copy

import pytest
import torch
from torch import nn

from vfn.configs import TrainConfig, override
from vfn.data import load_dataset
from vfn.model import build_model, shape_of
from vfn.objective import batch_loss
from vfn.ops import Learned
from vfn.train.batches import make_batch
from vfn.train.companions import init_auxiliary
from vfn.train.optimizers import clip_and_step
from vfn.train.state import SCALE_GROWTH_STEPS, count_step, init_state, train_step

CPU = torch.device("cpu")


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


def test_the_loss_scale_doubles_after_2000_good_steps_in_a_row():
    start = {"updates": 0.0, "skipped": 0.0, "in_row": 0.0, "loss_scale": 8.0}
    nearly = {name: torch.tensor(value) for name, value in start.items()}
    nearly["since_change"] = torch.tensor(SCALE_GROWTH_STEPS - 2.0)
    good, bad = torch.tensor(True), torch.tensor(False)
    one = count_step(nearly, good, scaling=True)
    two = count_step(one, good, scaling=True)
    assert [each["loss_scale"].item() for each in (one, two)] == [8.0, 16.0]
    left_out = count_step(one, bad, scaling=True)
    assert left_out["loss_scale"] == 4.0
    assert two["since_change"] == left_out["since_change"] == 0  # they are counted anew


def test_a_loss_scale_that_settles_is_not_what_stops_a_run():
    """A step left out counts as one in a row once the scale can be the cause no more."""
    names = ("updates", "skipped", "in_row", "since_change")
    counters = {name: torch.tensor(0.0) for name in names} | {"loss_scale": torch.tensor(4.0)}
    found = []
    for finite in (False, False, False, False, True, False):
        counters = count_step(counters, torch.tensor(finite), scaling=True)
        found.append((counters["loss_scale"].item(), counters["in_row"].item()))
    assert found == [(2, 0), (1, 0), (0.5, 1), (0.25, 2), (0.25, 0), (0.125, 1)]
    plain = count_step(counters, torch.tensor(False))
    assert (plain["loss_scale"], plain["in_row"]) == (0.125, 2)


def test_updates_of_a_second_network_with_a_part_that_never_has_a_gradient():
    auxiliary = init_auxiliary(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), TrainConfig())
    for done in (1, 2):
        auxiliary.module[0](torch.ones(1, 2)).sum().backward()
        auxiliary.step(0.1)
        assert auxiliary.saved()["updates"] == done


def test_figures_are_means_over_the_micro_batches(config):
    config, dataset = override(config, {"accumulate": 2}), load_dataset(config.data)
    model = build_model(config, shape_of(dataset))
    parts = [make_batch(dataset, config, torch.arange(8) + 8 * part, CPU) for part in range(2)]

    def objective(network, batch, diffusion):
        return Learned(batch_loss(network, batch, diffusion), {"latest": batch.t.max()})

    result = train_step(init_state(model, config.train), model, parts, config, objective)
    assert result.figures["latest"] == (parts[0].t.max() + parts[1].t.max()) / 2


def test_figures_are_numbers_that_keep_nothing_of_the_step(config):
    """They stay until the next line of the log, which may be hundreds of steps away."""
    config, dataset = override(config, {"accumulate": 2}), load_dataset(config.data)
    model = build_model(config, shape_of(dataset))
    parts = [make_batch(dataset, config, torch.arange(8) + 8 * part, CPU) for part in range(2)]

    calls = []

    def objective(network, batch, diffusion):
        loss = batch_loss(network, batch, diffusion)
        calls.append(batch)
        number = torch.tensor(len(calls))
        return Learned(loss, {"mean": loss.mean(), "number": number, "second": number > 1})

    result = train_step(init_state(model, config.train), model, parts, config, objective)
    assert (result.figures["number"], result.figures["second"]) == (1.5, 0.5)
    assert result.figures["mean"].item() == pytest.approx(result.loss.item())
    assert not any(value.requires_grad for value in result.figures.values())


@pytest.mark.parametrize("odd", [0, 1])
def test_figures_of_some_micro_batches_are_refused_before_the_step(config, odd):
    config, dataset = override(config, {"accumulate": 2}), load_dataset(config.data)
    model = build_model(config, shape_of(dataset))
    parts = [make_batch(dataset, config, torch.arange(8) + 8 * part, CPU) for part in range(2)]
    state = init_state(model, config.train)

    def objective(network, batch, diffusion):
        told = {"late": batch.t.max()} if batch is parts[odd] else {}
        return Learned(batch_loss(network, batch, diffusion), told)

    with pytest.raises(ValueError, match="same figures for every micro-batch, got late for some"):
        train_step(state, model, parts, config, objective)
    assert (state.step, state.counters["updates"]) == (0, 0)
