"""Estimates of memory, beside what torch's profiler counts of real passes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vfn.configs import Config, ModelConfig, load, override
from vfn.data import Labels
from vfn.footprint import (
    ENDLESS,
    FLOAT32,
    HOLES,
    SLACK,
    WORKSPACE,
    Footprint,
    Living,
    evaluated_at_once,
    example_batch,
    most_pictures,
)
from vfn.model import DataShape, autocast, build_model
from vfn.nn import keyed_dropout
from vfn.objective import batch_loss

TINY = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,), "num_res_blocks": 1}
GREY = DataShape(1, 8, 8)
PICTURES = 32


def peak(work):
    """Most bytes that were allocated and not freed again, as the profiler saw them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, GREY),
        ({"dropout": 0.1, "apply_attn": (True,)}, DataShape(3, 16, 8, Labels(("a", "b")))),
        ({"checkpoint_activations": True}, GREY),
        ({"precision": "bf16"}, GREY),
        ({"model_out_type": "both"}, DataShape(1, 8, 8, Labels(("a", "b"), tags=True))),
    ],
)
def test_a_step_takes_what_is_estimated(settings, shape):
    """A little less: the estimate has an allowance for what is lost between the tensors."""
    config = override(load("digits"), TINY | settings)
    model = build_model(config, shape)
    batch = example_batch(model, shape, PICTURES)

    def step():
        with keyed_dropout(batch.dropout), autocast(config.train.precision, batch.x0.device):
            loss = batch_loss(model, batch, config.diffusion)
        loss.mean().backward()

    footprint = Footprint(config, shape)
    held = 4 * footprint.parameters + 6 * batch.x0.numel() * FLOAT32  # state; batches to come
    assert footprint.parameters == FLOAT32 * sum(p.numel() for p in model.parameters())
    measured = held + peak(step)
    allowance = HOLES if config.model.checkpoint_activations else 1
    assert measured <= footprint.step(PICTURES) <= 1.25 * allowance * measured


def test_an_evaluation_takes_what_is_estimated():
    config = override(load("digits"), TINY | {"apply_attn": (True,)})
    model = build_model(config, GREY).eval()
    batch = example_batch(model, GREY, 256)

    def evaluate():
        with torch.no_grad():
            model(batch.x0, batch.t)

    measured = 8 * batch.x0.numel() * FLOAT32 + peak(evaluate)
    assert measured <= Footprint(config, GREY).draw(256) <= 1.25 * measured


@pytest.fixture(scope="module")
def tiny():
    return override(load("digits"), TINY)


def test_attention_is_not_kept_as_a_matrix(tiny):
    """Of 1,024 positions it would be 128 MB here."""
    wide = DataShape(1, 32, 32)
    plain, attending = (
        Footprint(override(tiny, {"apply_attn": (attn,)}), wide).step(PICTURES)
        for attn in (False, True)
    )
    assert attending - plain < PICTURES * 1024**2 * FLOAT32


@pytest.mark.parametrize(
    ("settings", "share"), [({}, WORKSPACE), ({"tf32": True}, 0), ({"precision": "bf16"}, 0)]
)
def test_products_of_float32_take_a_workspace_on_a_gpu(settings, share, tiny):
    """Of the largest map that is convolved in both passes."""
    maps = [torch.ones(2, 3, side, side) for side in (4, 8, 16)]
    weight = torch.ones(1, 3, 3, 3, requires_grad=True)
    with Living() as living:
        sum(nn.functional.conv2d(each, weight).sum() for each in maps[:2]).backward()
        nn.functional.conv2d(maps[2], weight.detach())
    footprint = Footprint(override(tiny, settings), GREY, torch.device("cuda"))
    assert footprint.workspace(living) == share * 2 * 3 * 8 * 8 * FLOAT32
    assert Footprint(override(tiny, settings), GREY).workspace(living) == 0


def test_several_processes_hold_gradients_twice(tiny):
    footprint = Footprint(tiny, GREY)
    more = footprint.step(8, processes=2) - footprint.step(8)
    assert more == pytest.approx(SLACK["cpu"] * footprint.parameters, rel=0.01)
    amid = footprint.draw(8, state=True) - footprint.draw(8)
    assert amid == pytest.approx(4 * SLACK["cpu"] * footprint.parameters, rel=0.01)


def test_averages_over_profiles_are_copies_of_the_parameters(tiny):
    plain = Footprint(tiny, GREY)
    more = Footprint(override(tiny, {"ema_profiles": (0.05, 0.1)}), GREY)
    copies = 2 * plain.parameters * SLACK["cpu"]
    assert more.step(8) - plain.step(8) == pytest.approx(copies, abs=2)
    assert more.draw(8, state=True) - plain.draw(8, state=True) == pytest.approx(copies, abs=2)


def test_frozen_teachers_are_copies_of_the_parameters_alone(tiny):
    """They have no gradients, and nothing of theirs is kept between steps."""
    plain, taught = Footprint(tiny, GREY), Footprint(tiny, GREY, frozen=2)
    assert taught.state - plain.state == 2 * plain.parameters
    copies = 2 * plain.parameters * SLACK["cpu"]
    assert taught.step(8, processes=2) - plain.step(8, processes=2) == pytest.approx(copies, abs=2)
    assert taught.draw(8, state=True) - plain.draw(8, state=True) == pytest.approx(copies, abs=2)


def test_it_grows_evenly_with_the_pictures(tiny):
    footprint = Footprint(tiny, GREY)
    some, more, most = (footprint.step(n) for n in (16, 32, 64))
    assert most - more == pytest.approx(2 * (more - some), rel=0.02)
    assert footprint.at_most(64) > most


@pytest.mark.slow
def test_a_bound_is_above_the_estimate():
    for name, shape in (("mnist", DataShape(1, 32, 32)), ("small", DataShape(3, 16, 24))):
        footprint = Footprint(load(name), shape)
        assert footprint.at_most(4) > footprint.step(4)
        assert footprint.at_most(1) > footprint.draw(4)


def test_nothing_is_made_and_nothing_changes(tiny):
    """Terabytes, of a network that is given and one that is not."""
    model = build_model(tiny, GREY).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for network in (model, None):
        assert Footprint(tiny, DataShape(1, 1024, 1024), model=network).step(10**5) > 10**13
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_more_than_can_be_counted(tiny):
    assert Footprint(tiny, DataShape(1, 2**15, 2**15)).step(10**9) == ENDLESS


class Looking(nn.Module):
    """A network that looks at values, which there are none of."""

    def __init__(self, in_channels, out_channels, **_labels):
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, z, _t, _y=None):
        return self.first(z) if z.mean().item() < 9 else z


class Choosing(Looking):
    """One that cannot even be built without."""

    def __init__(self, **options):
        super().__init__(**options)
        assert torch.ones(1).item() == 1


@pytest.mark.parametrize("name", ["Looking", "Choosing", "Missing"])
def test_of_some_networks_nobody_knows(name):
    footprint = Footprint(Config(model=ModelConfig(network=f"{__name__}:{name}")), GREY)
    assert footprint.step(4) is None
    assert footprint.draw(4) is None
    assert (footprint.at_most(4) is None) == (name != "Looking")
    assert evaluated_at_once(footprint, 10**6, free=1) == 10**6


@given(
    fixed=st.integers(0, 10**9), each=st.integers(1, 10**7), pictures=st.integers(1, 10**6),
    room=st.integers(0, 10**12),
)  # fmt: skip
def test_the_most_pictures_that_fit(fixed, each, pictures, room):
    found = most_pictures(lambda n: fixed + each * n, pictures, room)
    fitting = max(0, min(pictures, (room - fixed) // each))
    assert found == pytest.approx(fitting, abs=1)
    assert 0 <= found <= pictures


def test_as_many_are_evaluated_as_fit(tiny):
    footprint = Footprint(tiny, DataShape(3, 64, 64))
    need = footprint.draw(500)
    assert evaluated_at_once(footprint, 500, free=1000 * need) == 500
    assert evaluated_at_once(footprint, 500, free=math.ceil(need / 0.9)) == 500
    assert 180 < evaluated_at_once(footprint, 500, free=need // 2) < 270
    assert evaluated_at_once(footprint, 500, free=1) == 1
