"""Parameters, operations and memory of a network, against counts made another way."""

import pytest
import torch
from torch import nn

from vfn.configs import load, override
from vfn.info import cost, describe
from vfn.model import DataShape, build_model
from vfn.nn.layers import SelfAttention
from vfn.runs.checkpoint import find_checkpoint
from vfn.train.distill import distill, plan_of
from vfn.train.loop import train


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


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run whose network is not the default one."""
    out = tmp_path_factory.mktemp("teacher")
    narrow = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,), "steps": 1,
              "num_res_blocks": 1, "batch_size": 16, "sample_timesteps": 2}  # fmt: skip
    train(override(load("digits"), narrow), out, device="cpu")
    return out


def test_a_distillation_has_its_teacher_s_network(teacher, tmp_path):
    """Alone it says so, with a teacher or as a directory it shows that one's."""
    alone = describe("digits_distill").splitlines()
    assert alone[0].startswith("Data and network are the teacher's: name it with --teacher")
    assert not any("UNet" in line for line in alone)
    assert alone[-1].split() == ["1", "400"]
    total = next(line for line in describe(str(teacher)).splitlines() if line.startswith("all  "))
    told = describe("digits_distill", teacher=teacher).splitlines()
    assert told[0] == "UNet for 1 x 8 x 8, 10 classes, predicts v"
    assert total in told
    out, found = tmp_path / "out", find_checkpoint(teacher)
    short = {"teacher_steps": 4, "steps": 1, "last_steps": 2, "batch_size": 16, "eval_every": 0}
    distill(plan_of(found, "digits_distill", short), found, out, device="cpu")
    lines = describe(str(out)).splitlines()
    assert total in lines
    assert [line.split() for line in lines[-2:]] == [
        ["2", "2", "of", "2"],
        ["1", "2", "of", "2"],
    ]


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


def test_what_a_target_knows_is_not_told_again(teacher):
    with pytest.raises(ValueError, match="digits is not the configuration of a distillation"):
        describe("digits", teacher=teacher)
    with pytest.raises(ValueError, match="is not the configuration of a distillation"):
        describe(str(teacher), teacher=teacher)
    with pytest.raises(ValueError, match="digits_distill knows its pictures"):
        describe("digits_distill", classes=3, image=(1, 8, 8))
