"""Labels, tags and guidance as inputs of the UNet."""

import math

import pytest
import torch
from torch.func import functional_call

from tests.helpers.numbers import relative_error
from tests.helpers.unet import RELATIVE, random_net
from vfn.nn import UNet


def test_classes_are_columns_and_0_is_the_bias():
    model, t = random_net(num_classes=3), torch.rand(4)
    none = model.embed(t, None)
    got = model.embed(t, torch.tensor([0, 1, 2, 3])) - none
    columns = torch.cat([torch.zeros(1, 128), model.label_embed.weight.T])
    torch.testing.assert_close(got, columns + model.label_embed.bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_labels_begin_as_strong_however_many_there_are(count):
    """Of a picture's labels one is at work, whose numbers begin with variance 1."""
    columns = UNet(1, 1, 32, (1, 2), 1, num_classes=count).label_embed.weight
    error = 5 / math.sqrt(2 * columns.numel())  # of a standard deviation, five times its own
    assert columns.std().item() == pytest.approx(1, abs=error)


@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_tags_are_divided_by_the_root_of_their_number(dtype):
    model, t = random_net(num_classes=4, multitags=True), torch.rand(3)
    tags = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 1]], dtype=dtype)
    before = tags.clone()
    got = model.embed(t, tags) - model.embed(t, None) - model.label_embed.bias
    w = model.label_embed.weight
    expected = [torch.zeros(128), w[:, 1], (w[:, 0] + w[:, 1] + w[:, 3]) / math.sqrt(3)]
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-5)
    assert torch.equal(tags, before)


@pytest.mark.parametrize(
    ("multitags", "shape", "message"),
    [
        (False, (1,), r"labels of shape \(2,\), one for each sample of z, got \(1,\)"),
        (False, (2, 3), r"labels of shape \(2,\), .* got \(2, 3\)"),
        (True, (2,), r"labels of shape \(2, 3\), .* got \(2,\)"),
        (True, (2, 4), r"labels of shape \(2, 3\), .* got \(2, 4\)"),
    ],
)
def test_labels_of_another_shape_are_refused(multitags, shape, message):
    model = random_net(num_classes=3, multitags=multitags)
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(2, 2, 8, 8), torch.zeros(2), torch.ones(shape, dtype=torch.long))


def test_labels_of_an_unconditional_network_are_refused():
    with pytest.raises(ValueError, match="expected no labels for an unconditional network"):
        random_net()(torch.zeros(1, 2, 8, 8), torch.zeros(1), torch.ones(1, dtype=torch.long))


def guided_net(**options):
    return random_net(num_classes=3, guidance_range=(1.0, 3.0), **options)


def test_guidance_is_an_input_whose_layer_starts_at_zero():
    torch.manual_seed(0)
    model = UNet(2, 2, 32, (1,), 1, num_classes=3, guidance_range=(0.0, 4.0))
    assert not model.guidance_embed.weight.any()
    assert not model.guidance_embed.bias.any()
    model, inputs = guided_net(), (torch.randn(2, 2, 8, 8), torch.rand(2), torch.tensor([1, 2]))
    weights = torch.tensor([1.0, 2.5])
    without = {n: p for n, p in model.named_parameters() if not n.startswith("guidance_embed")}
    plain = UNet(2, 2, 32, (1, 2), 1, (False, True), num_classes=3).eval()
    plain.load_state_dict(without)
    zeros = {
        n: torch.zeros_like(p) for n, p in model.guidance_embed.named_parameters("guidance_embed")
    }
    assert torch.equal(functional_call(model, zeros, (*inputs, weights)), plain(*inputs))
    assert relative_error(model(*inputs, weights), plain(*inputs)) > 0.01


def test_guidance_is_told_apart_and_each_sample_has_its_own():
    """Weights a hundredth of the range apart differ, and near ones are near."""
    model, t = guided_net(), torch.tensor([0.5, 0.5, 0.5])
    got = model.embed(t, None, torch.tensor([2.0, 2.02, 3.0])) - model.embed(t, None)
    small, large = (got[1] - got[0]).norm(), (got[2] - got[0]).norm()
    assert 0.001 * large < small < 0.2 * large
    z, y = torch.randn(1, 2, 8, 8).expand(3, -1, -1, -1), torch.ones(3, dtype=torch.long)
    whole = model(z, t, y, torch.tensor([1.0, 2.0, 3.0]))
    alone = model(z[:1], t[:1], y[:1], torch.tensor([2.0]))
    assert relative_error(whole[1:2], alone) < RELATIVE


@pytest.mark.parametrize("weights", [None, torch.ones(1), torch.ones(2, 1)])
def test_guidance_that_does_not_fit_is_refused(weights):
    inputs = torch.zeros(2, 2, 8, 8), torch.zeros(2), torch.ones(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"expected guidance of shape \(2,\)"):
        guided_net()(*inputs, weights)
    with pytest.raises(ValueError, match="expected no guidance for a network that does not"):
        random_net(num_classes=3)(*inputs, torch.ones(2))
