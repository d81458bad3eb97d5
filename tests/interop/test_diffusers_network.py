"""Our UNet and diffusers' own are one function, and their settings come back."""

import pytest
import torch

from tests.interop.conftest import moved
from vfn.interop.diffusers_network import (
    config_for_diffusers,
    options_from_diffusers,
    params_from_diffusers,
    params_to_diffusers,
)
from vfn.interop.varied_unet import VariedUNet

diffusers = pytest.importorskip("diffusers")
NETWORKS = {
    "plain convolutions, heads of one width": {
        "ch_multipliers": (1, 2), "apply_attn": (False, True), "resample_with_res": False,
        "head_dim": 32, "num_classes": 3,
    },
    "three levels, own embedding": {
        "ch_multipliers": (1, 2, 2), "apply_attn": False, "embedding_dim": 48,
        "num_res_blocks": 2,
    },
    "one head of each level's width": {
        "ch_multipliers": (1, 2), "apply_attn": True, "resample_with_res": False,
    },
    "attention at levels that resample in residual blocks": {
        "ch_multipliers": (1, 2), "apply_attn": (True, True), "head_dim": 16, "num_classes": 2,
        "attend_after_resampling": False,
    },
    "as DDPM has it": {
        "ch_multipliers": (1, 2), "apply_attn": (False, True), "resample_with_res": False,
        "scales": False, "attend_after_resampling": False,
    },
    "as UNet2DModel has it by default": {
        "ch_multipliers": (1, 2), "apply_attn": (False, True), "resample_with_res": False,
        "head_dim": 8, "scales": False, "cos_first": True, "freq_shift": 0.0, "norm_eps": 1e-5,
        "padding": 1, "num_classes": 2,
    },
    "two heads": {"ch_multipliers": (1,), "apply_attn": True, "num_heads": 2, "num_classes": 2},
}  # fmt: skip


def named(net):
    return {name: param.detach() for name, param in net.named_parameters()}


class ExactTimes(torch.nn.Module):
    """diffusers' embedding of times, with frequencies and products in float64."""

    def __init__(self, like):
        super().__init__()
        self.like = like

    def forward(self, steps):
        half = self.like.num_channels // 2
        rates = [10 ** (-4 * i / (half - self.like.downscale_freq_shift)) for i in range(half)]
        turns = steps.double()[:, None] * torch.tensor(rates, dtype=torch.float64)
        parts = [turns.sin(), turns.cos()]
        return torch.cat(parts[::-1] if self.like.flip_sin_to_cos else parts, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_the_same_function(name):
    net = moved(VariedUNet(3, 3, hid_channels=32, **{"num_res_blocks": 1, **NETWORKS[name]}))
    theirs = diffusers.UNet2DModel(**config_for_diffusers(net, (8, 8))).eval()
    theirs.load_state_dict(params_to_diffusers(named(net), net))
    z, t = torch.randn(2, 3, 8, 8), torch.tensor([0.125, 0.7], dtype=torch.float64)
    y = torch.tensor([0, 2]) if net.num_classes else None
    with torch.no_grad():
        ours = net(z, t, y)
        assert ours.std() > 0.01
        # Their embedding computes angles up to 1000 in float32.
        assert (ours - theirs(z, 1000 * t, y).sample).abs().max() <= 1e-5
        net.double()
        theirs.double().load_state_dict(params_to_diffusers(named(net), net))
        theirs.time_proj = ExactTimes(theirs.time_proj)
        exact = theirs(z.double(), 1000 * t, y).sample
        assert (net(z.double(), t, y) - exact).abs().max() <= 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_their_configuration_gives_ours_back(name):
    given = {"num_res_blocks": 1, **NETWORKS[name]}
    net = VariedUNet(3, 3, hid_channels=32, **given)
    config = dict(diffusers.UNet2DModel(**config_for_diffusers(net, (8, 8))).config)
    options = options_from_diffusers(config)
    again = VariedUNet(3, 3, **options, num_classes=net.num_classes)
    assert config_for_diffusers(again, (8, 8)) == config_for_diffusers(net, (8, 8))
    params = named(moved(net))
    back = params_from_diffusers(params_to_diffusers(params, net), again)
    labels = "label_embed.weight"  # weights less their bias, which was added to them
    for key, value in params.items():
        torch.testing.assert_close(back[key], value, rtol=0, atol=1e-6 * (key == labels))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"second_time": True}, "a second time as an input"),
        ({"vector_dim": 3}, "numbers of each picture as an input"),
        ({"image_channels": 1}, "a picture beside z as an input"),
        ({"augment_dim": 9}, "augmentation as an input"),
    ],
)
def test_inputs_that_theirs_has_not(option, message):
    net = VariedUNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1, **option)
    with pytest.raises(ValueError, match=message):
        config_for_diffusers(net, (8, 8))
