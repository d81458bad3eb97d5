"""Parameters, operations and memory of a network, against counts made another way."""

import pytest
import torch
from torch import nn

from vfn.configs import load, override
from vfn.nn.layers import SelfAttention
from vfn.summary import cost, describe
from vfn.train.state import DataShape, build_model


def counted_by_hand(model, shape):
    """Two operations for each product, from the shapes that layers see."""
    total = 0

    def convolution(layer, _inputs, out):
        nonlocal total
        total += 2 * layer.weight[0].numel() * out.numel()

    def attention(layer, inputs, _out):
        nonlocal total
        positions = inputs[0].shape[2] * inputs[0].shape[3]
        total += 2 * 2 * positions**2 * layer.out.in_features  # scores, then the mixture
        for maps in (layer.qkv, layer.out):  # by their weights, not as layers
            total += 2 * positions * maps.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(convolution)
        if isinstance(module, SelfAttention):
            module.register_forward_hook(attention)
    labels = torch.ones(1, dtype=torch.long) if shape.class_names else None
    model(torch.zeros(1, shape.channels, shape.height, shape.width), torch.zeros(1), labels)
    return total


@pytest.mark.parametrize("classes", [(), ("a", "b", "c")])
def test_operations(classes):
    shape = DataShape(1, 8, 16, classes)
    config = override(load("digits"), {"num_heads": 2, "apply_attn": (True, False)})
    counted = cost(config, shape)
    model = build_model(config, shape)
    assert counted.forward == counted_by_hand(model, shape)
    assert sum(counted.parameters.values()) == sum(p.numel() for p in model.parameters())


def test_the_way_back_is_twice_the_way_there():
    """Each product has two on the way back, but for the first layers' inputs."""
    counted = cost(load("digits"), DataShape(1, 8, 8, ()))
    assert 2.9 < counted.forward_backward / counted.forward < 3


def test_tags():
    shape = DataShape(1, 8, 8, ("a", "b"), multitags=True)
    assert cost(load("digits"), shape).parameters["label_embed"] == 3 * 128


def test_of_a_preset():
    lines = describe("digits").splitlines()
    assert lines[0] == "UNet for 1 x 8 x 8, 10 classes, predicts v"
    rows = dict(line.rsplit(maxsplit=1) for line in lines[1:] if line)
    assert rows["all"] == "1,169,665"
    assert rows["Adam's moments"] == "9.4"  # MB: 8 bytes a parameter
    assert "checkpoint" not in rows


def test_of_pictures_that_are_given():
    text = describe("digits", image=(3, 16, 8), classes=4)
    assert text.startswith("UNet for 3 x 16 x 8, 4 classes, predicts v")
    assert describe("digits", image=(3, 8, 8)).startswith("UNet for 3 x 8 x 8, no labels")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": (3, 8)}, r"expected --image channels,height,width, got \(3, 8\)"),
        ({"image": (3, 0, 8)}, "expected --image channels,height,width"),
        ({"image": (3, 7, 7)}, "H and W to be multiples of 2 for 2 levels, got 7 x 7"),
        ({"classes": 3}, "expected --image with --classes"),
    ],
)
def test_pictures_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        describe("digits", **options)
