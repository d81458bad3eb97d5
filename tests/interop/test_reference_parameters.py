"""Parameters under the original implementation's names."""

import pytest
import torch

from vfn.interop import params_from_reference
from vfn.nn import UNet


@pytest.fixture
def state(golden_unet):
    return {k.removeprefix("param/"): v for k, v in golden_unet.items() if k.startswith("param/")}


@pytest.fixture
def model():
    return UNet(1, 1, 32, (1, 2), 1, (False, True), num_classes=10)


def test_parameters_are_float32_in_the_models_shapes(state, model):
    params = params_from_reference(state, model)
    for name, like in model.named_parameters():
        assert params[name].shape == like.shape
        assert params[name].dtype == torch.float32
    assert params.keys() == dict(model.named_parameters()).keys()


def test_every_number_is_used_once(state, model):
    params = params_from_reference(state, model)
    ours, theirs = (
        torch.cat([value.float().flatten() for value in values.values()]).sort().values
        for values in (params, state)
    )
    assert torch.equal(ours, theirs)


def test_prefix_of_a_parallel_module_is_dropped(state, model):
    expected = params_from_reference(state, model)
    prefixed = {f"module.{name}": value for name, value in state.items()}
    got = params_from_reference(prefixed, model)
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert all(name.startswith("module.") for name in prefixed)


def test_model_and_state_are_left_alone(state, model):
    before = {name: param.clone() for name, param in model.named_parameters()}
    names = list(state)
    params_from_reference(state, model)
    assert list(state) == names
    assert all(torch.equal(param, before[name]) for name, param in model.named_parameters())


@pytest.mark.parametrize("name", ["in_conv.weight", "middle.1.proj_in.bias", "middle.0.fc.weight"])
def test_missing_parameter_is_named(state, model, name):
    del state[name]
    with pytest.raises(ValueError, match=f"configuration describes: {name} is missing"):
        params_from_reference(state, model)


def test_parameter_too_many_is_named(state, model):
    state["middle.9.conv1.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="describes: middle.9.conv1.weight is left over"):
        params_from_reference(state, model)


def test_parameters_of_another_network_are_refused(state):
    deeper = UNet(1, 1, 32, (1, 2), 2, (False, True), num_classes=10)
    with pytest.raises(ValueError, match="network that the configuration describes: .* is missing"):
        params_from_reference(state, deeper)


def test_equal_size_in_another_shape_is_refused(state, model):
    state["downsamples.level_1.0.0.conv1.weight"] = state[
        "downsamples.level_1.0.0.conv1.weight"
    ].transpose(0, 1)
    with pytest.raises(ValueError, match=r"gives \(32, 64, 3, 3\), expected \(64, 32, 3, 3\)"):
        params_from_reference(state, model)
