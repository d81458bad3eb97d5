"""What the settings of the UNet make of it: sizes, patches, gain, groups, heads; and refusals."""

import pytest
import torch
from einops import rearrange

from tests.helpers.unet import RELATIVE, random_net
from vfn.nn import UNet
from vfn.nn.layers import SelfAttention


def test_a_network_that_resamples_by_plain_convolutions():
    model = random_net(resample_with_res=False)
    kinds = [type(block).__name__ for block in [*model.down, *model.up]]
    assert kinds == [
        "Block",
        "ConvResample",
        "Block",
        "Block",
        "Block",
        "ConvResample",
        *["Block"] * 2,
    ]
    out = model(torch.randn(2, 2, 8, 12), torch.rand(2))
    assert out.shape == (2, 2, 8, 12)
    out.square().sum().backward()
    assert all(param.grad.abs().sum() > 0 for param in model.parameters())


@pytest.mark.parametrize(("height", "width", "top", "left"), [(7, 8, 0, 0), (5, 9, 1, 1)])
def test_sizes_that_do_not_halve_get_zeros_around_them_inside(height, width, top, left):
    """As a picture of the next size that halves twice, zero where the smaller one is not."""
    torch.manual_seed(0)
    model = UNet(1, 1, 32, (1, 1, 1), 1).eval()
    torch.nn.init.normal_(model.out_conv.weight)
    z, t = torch.randn(2, 1, height, width, requires_grad=True), torch.rand(2)
    larger = torch.zeros(2, 1, 8, 8 if width == 8 else 12)
    inside = slice(top, top + height), slice(left, left + width)
    larger[..., inside[0], inside[1]] = z.detach()
    out = model(z, t)
    assert out.shape == z.shape
    torch.testing.assert_close(out, model(larger, t)[..., inside[0], inside[1]])
    out.square().sum().backward()
    assert (z.grad != 0).all()


@pytest.mark.parametrize(("patch", "size"), [(2, (8, 12)), (3, (12, 6)), (2, (7, 8))])
def test_patches_are_channels_of_a_network_of_smaller_pictures(patch, size):
    """The same parameters in a network of p^2 times the channels, on patches that einops cuts."""
    shape = {"hid_channels": 8, "ch_multipliers": (1, 2), "num_res_blocks": 1}
    patched = UNet(2, 4, **shape, image_channels=1, patch_size=patch)
    plain = UNet(3 * patch**2, 4 * patch**2, **shape)
    torch.nn.init.normal_(patched.out_conv.weight)
    plain.load_state_dict(patched.state_dict())
    z, image, t = torch.randn(2, 2, *size), torch.randn(2, 1, *size), torch.rand(2)
    seen = torch.nn.functional.pad(torch.cat([z, image], 1), (0, 0, 0, size[0] % 2))
    small = rearrange(seen, "b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch)
    large = rearrange(plain(small, t), "b (c p q) h w -> b c (h p) (w q)", p=patch, q=patch)
    torch.testing.assert_close(patched(z, t, image=image), large[:, :, : size[0]])


@pytest.mark.parametrize(("patch", "outputs"), [(1, 1), (2, 1), (2, 2)])
def test_a_gain_of_the_input_is_added_to_what_is_predicted(patch, outputs):
    """Halves of a network with twice as many outputs, whose second one multiplies z."""
    shape = {"hid_channels": 8, "ch_multipliers": (1, 2), "num_res_blocks": 1}
    channels = {"in_channels": 3, "image_channels": 1, "patch_size": patch}
    gained = UNet(out_channels=3 * outputs, **channels, **shape, input_gain=True)
    plain = UNet(out_channels=6 * outputs, **channels, **shape)
    z, image, t = torch.randn(2, 3, 7, 8), torch.randn(2, 1, 7, 8), torch.rand(2)
    assert (gained(z, t, image=image) == 0).all()
    torch.nn.init.normal_(gained.out_conv.weight)
    plain.load_state_dict(gained.state_dict())
    both = rearrange(plain(z, t, image=image), "b (part n c) h w -> part b n c h w", part=2, c=3)
    expected = rearrange(both[0] + both[1] * z[:, None], "b n c h w -> b (n c) h w")
    torch.testing.assert_close(gained(z, t, image=image), expected)


def test_a_gain_wants_outputs_for_each_channel():
    with pytest.raises(ValueError, match="multiple of in_channels 2 with input_gain, got 3"):
        UNet(2, 3, 32, (1, 1), 1, input_gain=True)


@pytest.mark.parametrize(
    ("hid", "least", "groups"), [(48, 1, 24), (20, 1, 20), (96, 1, 32), (96, 4, 24), (32, 4, 8),
                                 (20, 3, 5), (256, 4, 32), (8, 100, 1)]
)  # fmt: skip
def test_groups_divide_any_width(hid, least, groups):
    model = UNet(1, 1, hid, (1, 1), 1, (False, True), group_channels=least)
    norms = [model.down[0].residual.norm1, model.middle[0].attention.norm]
    assert [norm.num_groups for norm in norms] == [groups] * 2
    assert model(torch.randn(2, 1, 8, 8), torch.rand(2)).isfinite().all()


def test_maps_of_one_value_a_group_in_any_batch():
    """Two pictures of 1x1 maps, and each of them alone."""
    torch.manual_seed(0)
    model = UNet(1, 1, 32, (1, 1), 1).eval()
    torch.nn.init.normal_(model.out_conv.weight)
    z, t = torch.randn(2, 1, 2, 2), torch.rand(2)
    alone = torch.cat([model(z[:1], t[:1]), model(z[1:], t[1:])])
    assert alone.std() > 0.1
    torch.testing.assert_close(alone, model(z, t), rtol=RELATIVE, atol=RELATIVE)


def test_attention_after_resampling_can_be_left_out():
    """Of five places with attention at the second of two levels, that of the way up goes."""
    counts = [
        sum(isinstance(part, SelfAttention) for part in UNet(
            1, 1, 32, (1, 2), 1, (False, True), attend_after_resampling=attend).modules())
        for attend in (True, False)
    ]  # fmt: skip
    assert counts == [5, 4]


def test_a_smooth_embedding_turns_by_ten_radians_over_all_times():
    """Against sin and cos of 10 t f_i written out; the derivative in t is at most ten."""
    model = random_net(time_embedding="smooth")
    seen = []
    model.time_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    model.embed(t, None)
    angle = 10 * t[:, None] * 10 ** (-4 * torch.arange(16, dtype=torch.float64) / 15)
    expected = torch.cat([angle.sin(), angle.cos()], 1).float()
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(
    ("options", "heads", "qkv"),
    [
        ({}, 1, 192),
        ({"num_heads": 4}, 4, 192),
        ({"head_dim": 16}, 4, 192),
        ({"num_heads": 2, "head_dim": 8}, 2, 48),
    ],
)
def test_heads_follow_from_either_number(options, heads, qkv):
    attention = UNet(1, 1, 32, (1, 2), 1, (False, True), **options).middle[0].attention
    assert attention.num_heads == heads
    assert attention.qkv.out_features == qkv


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ch_multipliers": ()}, "at least one level and one residual block a level, got 0 and 1"),
        ({"num_res_blocks": 0}, "at least one level and one residual block a level, got 2 and 0"),
        ({"hid_channels": 50}, "hid_channels to be a multiple of 4, got 50"),
        ({"hid_channels": 0}, "hid_channels to be a multiple of 4, got 0"),
        ({"time_embedding": "fast"}, "time_embedding to be one of sinusoidal, smooth, got 'fast'"),
        ({"apply_attn": (True,)}, "one value for each of the 2 levels of ch_multipliers, got 1"),
        ({"num_heads": 3}, "divide the width 64 of an attention level, got num_heads=3"),
        ({"head_dim": 5}, "divide the width 64 .*, got num_heads=None, head_dim=5"),
    ],
)
def test_networks_that_do_not_exist_are_refused(options, message):
    defaults = {"hid_channels": 32, "ch_multipliers": (1, 2), "num_res_blocks": 1}
    with pytest.raises(ValueError, match=message):
        UNet(1, 1, **(defaults | options))
