"""The UNet against golden numbers, and what must not matter to it."""

import pytest
import torch
from torch.func import functional_call

from tests.helpers.numbers import relative_error
from tests.helpers.unet import RELATIVE, random_net
from vfn.interop.reference_parameters import params_from_reference
from vfn.nn import UNet


@pytest.fixture(scope="module")
def net(golden_unet):
    """The golden network as a function of (z, t, y), and golden inputs."""
    model = UNet(1, 1, 32, (1, 2), 1, (False, True), num_classes=10).eval()
    state = {k.removeprefix("param/"): v for k, v in golden_unet.items() if k.startswith("param/")}
    params = params_from_reference(state, model)
    return lambda *args: functional_call(model, params, args)


@pytest.fixture
def batch(golden_unet):
    return golden_unet["x"], golden_unet["t"], golden_unet["y"].long()


def test_output_matches_golden(net, batch, golden_unet):
    z, t, y = batch
    assert relative_error(net(z, t, y), golden_unet["out"]) < RELATIVE
    assert relative_error(net(z, t), golden_unet["out_uncond"]) < RELATIVE


@pytest.mark.parametrize("rows", [[0], [2, 0], [3, 3, 1, 0, 2]])
def test_output_does_not_depend_on_the_batch(net, batch, rows):
    whole = net(*batch)
    assert relative_error(net(*(value[rows] for value in batch)), whole[rows]) < RELATIVE


def test_output_does_not_depend_on_strides():
    model, z, t = random_net(), torch.randn(2, 2, 4, 8), torch.rand(2)
    expected = model(z, t)
    assert relative_error(model(z.to(memory_format=torch.channels_last), t), expected) < RELATIVE
    assert relative_error(model(z.mT.contiguous().mT, t), expected) < RELATIVE


def test_feature_maps_stay_in_channels_last():
    model, formats = random_net(), []
    for block in [*model.down, *model.middle, *model.up]:
        block.register_forward_hook(
            lambda _module, args, out: formats.extend(
                value.is_contiguous(memory_format=torch.channels_last) for value in (args[0], out)
            )
        )
    model(torch.randn(2, 2, 8, 8), torch.rand(2))
    assert len(formats) == 2 * (len(model.down) + len(model.middle) + len(model.up))
    assert all(formats)


def test_every_input_and_parameter_counts(net, batch):
    z, t, y = batch
    out = net(z, t, y)
    for changed in ((z + 0.1, t, y), (z, t + 0.1, y), (z, t, (y + 1) % 11)):
        assert relative_error(net(*changed), out) > 1e-2
    model = random_net(num_classes=3)
    model(torch.randn(2, 2, 8, 8), torch.rand(2), torch.tensor([1, 2])).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert dead == []


def test_fresh_network_puts_out_zeros():
    """The last convolution starts at zero."""
    out = UNet(3, 6, 32, (1, 2), 1)(torch.randn(2, 3, 8, 8), torch.rand(2))
    assert torch.equal(out, torch.zeros(2, 6, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    """bfloat16 keeps 8 bits through some 30 layers: a few per cent."""
    model, z, t = random_net(), torch.randn(2, 2, 8, 8), torch.rand(2)
    expected = model(z, t)
    got = model.to(dtype)(z.to(dtype), t)
    assert got.dtype == dtype
    assert relative_error(got.float(), expected) < (1e-5 if dtype == torch.float64 else 0.1)


def test_dropout_acts_in_training_only():
    model = random_net(dropout=0.5)
    args = torch.randn(2, 2, 8, 8), torch.rand(2)
    assert torch.equal(model(*args), model(*args))
    model.train()
    assert relative_error(model(*args), model(*args)) > 1e-2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 8), r"z of shape \[B, 2, H, W\], got \(1, 3, 8, 8\)"),
        ((2, 8, 8), r"z of shape \[B, 2, H, W\], got \(2, 8, 8\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        random_net()(torch.zeros(shape), torch.zeros(1))
