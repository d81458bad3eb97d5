"""Building blocks of the UNet against golden numbers and formulas written out."""

import math

import pytest
import torch

from vfn.nn.layers import (
    ConvResample,
    ResidualBlock,
    SelfAttention,
    attend,
    group_norm,
    lecun_normal_,
    sinusoidal_embedding,
)


def test_time_embedding_matches_golden(golden_math):
    got = sinusoidal_embedding(golden_math["embed/t"], 32)
    expected = golden_math["embed/value32"].double()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)  # of float32 numbers up to 1


def test_time_embedding_keeps_its_digits_in_float32():
    """sin(1000 t) of a float32 time equals that of the same time in float64."""
    t = torch.rand(100)
    assert torch.equal(sinusoidal_embedding(t, 32), sinusoidal_embedding(t.double(), 32))


@pytest.mark.parametrize(("heads", "dim"), [(1, 64), (2, 32), (4, 8)])
def test_attention_is_its_formula(heads, dim):
    torch.manual_seed(0)
    layer = SelfAttention(64, heads, dim)
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(2, 64, 3, 5)
    tokens = layer.norm(x).flatten(2).mT  # [B, N, C]
    q, k, v = layer.qkv(tokens).split(heads * dim, dim=-1)
    mixed = []
    for head in torch.arange(heads * dim).split(dim):
        scores = torch.softmax(q[..., head] @ k[..., head].mT / math.sqrt(dim), dim=-1)
        mixed.append(scores @ v[..., head])
    expected = x + layer.out(torch.cat(mixed, dim=-1)).mT.reshape(2, 64, 3, 5)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("resample", "size"),
    [(None, 4), (torch.nn.AvgPool2d(2), 2), (torch.nn.Upsample(scale_factor=2), 8)],
)
def test_residual_block_is_its_formula(resample, size):
    """The shift comes before the scale; both branches are resampled."""
    torch.manual_seed(0)
    block = ResidualBlock(32, 64, resample=resample)
    torch.nn.init.normal_(block.conv2.weight, std=0.1)
    x, modulation = torch.randn(2, 32, 4, 4), torch.randn(2, 128)
    shift, scale = modulation[:, :64, None, None], modulation[:, 64:, None, None]
    resize = resample or torch.nn.Identity()
    h = block.conv1(resize(torch.nn.functional.silu(block.norm1(x))))
    h = torch.nn.functional.silu(block.norm2(h) * (1 + scale) + shift)
    expected = block.skip(resize(x)) + block.conv2(h)
    assert expected.shape == (2, 64, size, size)
    torch.testing.assert_close(block(x, modulation), expected, rtol=1e-4, atol=1e-4)


def test_plain_resampling_is_its_formula():
    """Output [i, j] of the way down sees the input's rows 2i..2i+2 and columns 2j..2j+2."""
    torch.manual_seed(0)
    x, none = torch.randn(2, 32, 4, 6), torch.zeros(2, 0)
    down, up = ConvResample(32, up=False), ConvResample(32, up=True)
    windows = torch.nn.functional.pad(x, (0, 1, 0, 1)).unfold(2, 3, 2).unfold(3, 3, 2)
    expected = torch.einsum("bcijuv,ocuv->boij", windows, down.conv.weight)
    assert expected.shape == (2, 32, 2, 3)
    torch.testing.assert_close(down(x, none), expected, rtol=1e-4, atol=1e-5)
    doubled = torch.nn.functional.pad(x.repeat_interleave(2, 2).repeat_interleave(2, 3), (1,) * 4)
    windows = doubled.unfold(2, 3, 1).unfold(3, 3, 1)
    expected = torch.einsum("bcijuv,ocuv->boij", windows, up.conv.weight)
    torch.testing.assert_close(up(x, none), expected, rtol=1e-4, atol=1e-5)


def test_initial_weights_are_truncated_normals():
    """Variance 1 / fan_in to 3 %, over 120,000 draws; none beyond two standard deviations."""
    torch.manual_seed(0)
    weight = lecun_normal_(torch.empty(400, 300), fan_in=300)
    assert weight.var().item() * 300 == pytest.approx(1, rel=0.03)
    assert weight.abs().max().item() < 2 / math.sqrt(300) / 0.8796


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_attention_and_normalisation_in_half_precision(dtype):
    """Within a unit in the last place of what float64 gives for the same rounded inputs.

    Within two in float32, whose sums are rounded on the way: units of what attention adds up, which
    is larger than what is left of it.
    """
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 9, 8).to(dtype)
    weights = torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()).div(8**0.5).softmax(-1)
    x, norm = torch.randn(2, 64, 3, 3).to(dtype), group_norm(64)
    torch.nn.init.normal_(norm.weight)
    groups = x.double().view(2, 32, -1)
    centred = groups - groups.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = scaled.view_as(x) * norm.weight.double().view(-1, 1, 1)
    units = 2 if dtype == torch.float32 else 1
    for got, exact, size in (
        (attend(q, k, v), weights @ v.double(), weights @ v.double().abs()),
        (norm(x), expected, expected.abs()),
    ):
        assert got.dtype == dtype
        assert (got - exact).abs().max() < units * torch.finfo(dtype).eps * size.max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_of_large_products_in_half_precision(dtype):
    """Products of 10^5 are beyond the range of float16, and differ by less than bfloat16 tells."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 9, 64)
    q, k, v = (40 + q).to(dtype), (40 + k).to(dtype), v.to(dtype)
    exact = (q.double() @ k.double().mT / 64**0.5).softmax(-1) @ v.double()
    got = attend(q.requires_grad_(), k, v)
    got.sum().backward()
    assert got.dtype == dtype
    assert q.grad.isfinite().all()
    # Logits of 10^4 have their last place at 10^-3 in float32, and weights as many digits fewer.
    assert (got - exact).abs().max() < (torch.finfo(dtype).eps + 0.003) * v.abs().max()
