"""The transformer against formulas written out, and what must not matter to it."""

import math

import pytest
import torch
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.helpers.numbers import relative_error
from vfn.configs import load, override
from vfn.data import Labels
from vfn.model import DataShape, build_model
from vfn.nn import Transformer
from vfn.nn.transformer import TransformerBlock, rms_normed, rotary_angles, turned

# Reassociated sums in float32, relative to the largest output.
RELATIVE = 1e-5
SIZES = {"patch_size": 2, "width": 24, "depth": 2, "num_heads": 3}


def random_net(**options):
    """A network none of whose layers is zero."""
    torch.manual_seed(0)
    model = Transformer(2, 3, **{**SIZES, **options}).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(std=0.3)
    return model


def inputs(count=2, height=4, width=6):
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(count, 2, height, width, generator=draw)
    return z, torch.rand(count, generator=draw, dtype=torch.float64)


def normed(x):
    """Root mean square 1, in numpy's words; eps is far below what is tested."""
    return x / x.square().mean(-1, keepdim=True).sqrt()


def test_a_block_is_its_formula():
    """Each head by itself, with positions as complex numbers of modulus 1."""
    torch.manual_seed(0)
    block, rows, columns, width, heads = TransformerBlock(24, 3, 16), 2, 3, 24, 3
    torch.nn.init.normal_(block.sharpness)
    x, modulation = torch.randn(2, rows * columns, width), torch.randn(2, 6 * width)
    shift, scale, gate, shift2, scale2, gate2 = modulation[:, None].split(width, -1)

    h = normed(x) * (1 + scale) + shift
    q, k, v = (h @ part.T for part in block.qkv.weight.split(width))
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    frequency = torch.tensor([1.0, 0.1])  # 100^0, 100^-1/2
    angles = torch.cat([row[:, None] * frequency, column[:, None] * frequency], -1)
    phase = torch.exp(1j * angles)
    mixed = []
    for head, part in enumerate(torch.arange(width).split(width // heads)):
        wave_q, wave_k = (
            torch.complex(each[..., :4], each[..., 4:]) * phase
            for each in (normed(q[..., part]), normed(k[..., part]))
        )
        scores = (wave_q @ wave_k.mH).real * block.sharpness[head] / math.sqrt(8)
        mixed.append(torch.softmax(scores, -1) @ v[..., part])
    expected = x + gate * (torch.cat(mixed, -1) @ block.out.weight.T)
    h = normed(expected) * (1 + scale2) + shift2
    inner = torch.nn.functional.silu(h @ block.gate.weight.T) * (h @ block.wide.weight.T)
    expected = expected + gate2 * (inner @ block.narrow.weight.T)

    angles = rotary_angles(rows, columns, 8, x.device)
    cos, sin = angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], -1)
    torch.testing.assert_close(block(x, modulation, cos, sin), expected, rtol=1e-4, atol=1e-4)


def test_scores_tell_how_far_apart_two_patches_are():
    """The same content anywhere: products of turned vectors depend on the offset alone."""
    angles = rotary_angles(5, 7, 8, torch.device("cpu"))
    cos, sin = angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], -1)
    q, k = torch.randn(2, 8, generator=torch.manual_seed(0)).unbind()
    scores = (turned(q, cos, sin) @ turned(k, cos, sin).T).unflatten(0, (5, 7)).unflatten(2, (5, 7))
    assert scores[0, 0, 2, 1] == pytest.approx(scores[2, 5, 4, 6].item(), rel=1e-5)
    assert scores[1, 3, 0, 2] == pytest.approx(scores[4, 6, 3, 5].item(), rel=1e-5)
    assert scores[0, 0, 2, 1] != pytest.approx(scores[0, 0, 1, 2].item(), rel=1e-2)


def test_pixels_of_a_patch_come_back_to_their_place():
    """Blocks that do nothing, and layers in and out that copy: the output is the input."""
    model = Transformer(2, 2, patch_size=3, width=40, depth=1, num_heads=2)
    torch.nn.init.eye_(model.patch_embed[-1].weight)
    torch.nn.init.eye_(model.patch_out.weight)
    z = torch.randn(1, 2, 6, 9)
    tokens = z.unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 1, 4, 5).reshape(1, 6, 18)
    # What the last norm divides by.
    rms = torch.cat([tokens, torch.zeros(1, 6, 22)], -1).square().mean(-1).sqrt().view(1, 1, 2, 3)
    expected = z / rms.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(model(z, torch.rand(1)), expected, rtol=1e-4, atol=1e-5)


def test_fresh_network_puts_out_zeros_and_its_blocks_are_the_identity():
    model = Transformer(2, 4, **SIZES, num_classes=3)
    out = model(*inputs(), torch.tensor([1, 0]))
    assert torch.equal(out, torch.zeros(2, 4, 4, 6))
    x, still = torch.randn(2, 6, 24), torch.zeros(2, 144)
    assert torch.equal(model.blocks[0](x, still, torch.ones(6, 8), torch.zeros(6, 8)), x)


@pytest.mark.parametrize("size", [(2, 2), (2, 10), (16, 6)])
def test_any_size_that_patches_divide(size):
    model = random_net()
    z, t = inputs(3, *size)
    assert model(z, t).shape == (3, 3, *size)


def test_every_input_and_parameter_counts():
    model = random_net(num_classes=3, bottleneck=5, guidance_range=(0.0, 4.0))
    (z, t), y, w = inputs(), torch.tensor([1, 2]), torch.tensor([1.0, 2.0])
    out = model(z, t, y, w)
    others = [(z + 0.1, t, y, w), (z, t / 2, y, w), (z, t, (y + 1) % 4, w), (z, t, y, w + 1)]
    for changed in others:
        assert relative_error(model(*changed), out) > 1e-3
    swapped = z.flip(-1)  # positions count, too
    assert relative_error(model(swapped, t, y, w).flip(-1), out) > 1e-3
    out.square().sum().backward()
    dead = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert dead == []


def test_output_does_not_depend_on_the_batch_or_on_strides():
    model, (z, t) = random_net(num_classes=3), inputs(3)
    y = torch.tensor([0, 1, 3])
    whole = model(z, t, y)
    assert relative_error(model(z[[2, 0]], t[[2, 0]], y[[2, 0]]), whole[[2, 0]]) < RELATIVE
    assert relative_error(model(z.to(memory_format=torch.channels_last), t, y), whole) < RELATIVE


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    """bfloat16 keeps 8 bits through some ten layers: a few per cent."""
    model, (z, t) = random_net(), inputs()
    expected = model(z, t)
    got = model.to(dtype)(z.to(dtype), t)
    assert got.dtype == dtype
    assert relative_error(got.float(), expected) < (1e-5 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3, 1.0, 3e4])
def test_norm_of_any_size_in_float16(size):
    """Its norm and its factor may be beyond 65504; 1e-6 is a unit of the smallest numbers."""
    torch.manual_seed(0)
    x = (size * torch.randn(3, 64).clamp(-2, 2)).half()
    exact = x.double() / (torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True) / 8 + 1e-6 / 8)
    got = rms_normed(x)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.double(), exact, rtol=torch.finfo(torch.float16).eps, atol=0)


def test_autocast_keeps_conditioning_and_output_in_float32():
    """bfloat16 has 8 bits: the result is within a few units of it."""
    model, seen = random_net(num_classes=3), {}
    for name in ("time_embed", "label_embed", "patch_embed", "blocks.0.out"):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.update({name: out.dtype})
        )
    expected = model(*inputs(), torch.tensor([1, 2]))
    with torch.autocast("cpu", torch.bfloat16):
        got = model(*inputs(), torch.tensor([1, 2]))
    full, half = torch.float32, torch.bfloat16
    assert list(seen.values()) == [full, full, half, half]
    assert got.dtype == full
    assert 0 < relative_error(got, expected) < 0.05


def test_checkpointed_activations_give_the_same_gradients_and_are_not_kept():
    """Also for parameters that are not the module's own."""
    grads, kept = [], []
    for saving in (False, True):
        model, saved = random_net(checkpoint_activations=saving).train(), []
        other = {k: (1.5 * p).detach().requires_grad_() for k, p in model.named_parameters()}
        own = {p.data_ptr() for p in other.values()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, s=saved: s.append(x) or x, lambda x: x
        ):
            loss = functional_call(model, other, inputs(height=16, width=16)).square().mean()
        grads.append(torch.autograd.grad(loss, list(other.values())))
        kept.append(sum(x.numel() for x in saved if x.data_ptr() not in own))
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(again, plain)
    assert kept[1] < kept[0] / 3


def test_gradients_are_those_of_finite_differences():
    """In float64, of every parameter, along random directions."""
    model = random_net(num_classes=3).double()
    names, values = zip(*model.named_parameters(), strict=True)
    (z, t), y = inputs(), torch.tensor([1, 0])

    def network(*params):
        return functional_call(model, dict(zip(names, params, strict=True)), (z.double(), t, y))

    assert torch.autograd.gradcheck(network, values, fast_mode=True)


def test_a_second_time_counts_once_its_layer_is_not_zero():
    model = random_net(second_time=True)
    z, t = inputs()
    assert torch.equal(model(z, t, r=t), model(z, t))
    assert relative_error(model(z, t, r=t / 2), model(z, t)) > 1e-3
    fresh = Transformer(2, 2, **SIZES, second_time=True)
    assert not any(param.any() for param in fresh.second_embed[-1].parameters())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")  # torch's own, once
def test_the_derivative_along_a_line_is_that_of_differences():
    """By jvp in z and t, to what central differences leave in float64: h^2 beside rounding / h."""
    model, (z, t) = random_net().double(), inputs()
    z, h, lines = (
        z.double(),
        1e-6,
        (torch.randn(2, 2, 4, 6).double(), torch.full((2,), 1e-3).double()),
    )
    _, slope = jvp(model, (z, t), lines)
    with sdpa_kernel(SDPBackend.MATH):
        ahead, behind = (model(z + s * lines[0], t + s * lines[1]) for s in (h, -h))
    assert relative_error(slope, (ahead - behind) / (2 * h)) < 1e-5


def test_stacked_parameters_are_a_loop():
    """Several sets side by side under vmap, for the same inputs."""
    model, (z, t) = random_net(num_classes=3), inputs()
    params = {name: value.detach() for name, value in model.named_parameters()}
    sets = [params, {name: 0.5 * value for name, value in params.items()}]
    stacked = {name: torch.stack([each[name] for each in sets]) for name in params}
    y = torch.tensor([0, 3])
    with sdpa_kernel(SDPBackend.MATH):  # the fused one has no rule for it, and warns
        got = torch.vmap(lambda p: functional_call(model, p, (z, t, y)))(stacked)
    for each, p in zip(got, sets, strict=True):
        assert relative_error(each, functional_call(model, p, (z, t, y))) < RELATIVE


@pytest.mark.slow
@pytest.mark.parametrize("grad", [True, False])
def test_compiles_whole_and_once(grad):
    """One graph, and neither other times nor other labels compile it again."""
    model, (z, t) = random_net(num_classes=3, depth=1), inputs(3)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(grad):
        for i, y in enumerate(torch.tensor([[0, 1, 2], [3, 3, 3]])):
            with torch._dynamo.config.patch(error_on_recompile=i > 0):
                assert (
                    relative_error(compiled(z, t / (i + 1), y), model(z, t / (i + 1), y)) < RELATIVE
                )


def test_guidance_is_an_input_whose_layer_starts_at_zero():
    model = Transformer(2, 2, **SIZES, num_classes=3, guidance_range=(0.0, 4.0))
    assert not any(param.any() for param in model.guidance_embed.parameters())
    with pytest.raises(ValueError, match=r"expected guidance of shape \(2,\)"):
        model(*inputs(), torch.tensor([1, 2]))
    with pytest.raises(
        ValueError, match="expected no guidance for a network that does not take it"
    ):
        random_net()(*inputs(), None, torch.ones(2))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 8), r"z of shape \[B, 2, H, W\], got \(1, 3, 8, 8\)"),
        ((2, 8, 8), r"z of shape \[B, 2, H, W\], got \(2, 8, 8\)"),
        ((1, 2, 7, 8), "H and W to be multiples of patch_size 2, got 7 x 8"),
        ((1, 2, 8, 0), "H and W to be multiples of patch_size 2, got 8 x 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        random_net()(torch.zeros(shape), torch.zeros(1))


@pytest.mark.parametrize(
    ("multitags", "y", "message"),
    [
        (False, torch.ones(1), r"labels of shape \(2,\), one for each sample of z, got \(1,\)"),
        (True, torch.ones(2, 4), r"labels of shape \(2, 3\), .* got \(2, 4\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(multitags, y, message):
    with pytest.raises(ValueError, match=message):
        random_net(num_classes=3, multitags=multitags)(*inputs(), y)
    with pytest.raises(ValueError, match="expected no labels for an unconditional network"):
        random_net()(*inputs(), torch.ones(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": 20},
            "network transformer: expected width to be a multiple of 4 x num_heads, got 20",
        ),
        ({"depth": 0}, r"expected depth to be a whole number in 1\.\.1024, got 0"),
        ({"patch_size": 2.5}, r"expected patch_size to be a whole number in 1\.\.1024, got 2\.5"),
        ({"num_heads": True}, "expected num_heads to be a whole number .*, got True"),
        ({"mlp_ratio": 0}, "expected mlp_ratio to be a number in 0..64 above 0, got 0"),
        ({"checkpoint_activations": 1}, "checkpoint_activations to be true or false, got 1"),
        ({"time_embedding": "fast"}, "time_embedding to be one of sinusoidal, smooth, got 'fast'"),
        ({"wdith": 3}, "network transformer: it takes patch_size, .*, got wdith"),
    ],
)
def test_options_of_no_transformer_are_refused_in_the_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        override(load("digits_transformer"), {"options": options})


def test_options_come_from_the_configuration():
    config = override(load("digits_transformer"), {"options": {"depth": 3, "bottleneck": 8}})
    model = build_model(config, DataShape(1, 8, 8, Labels(tuple("abc"))))
    assert isinstance(model, Transformer)
    assert (len(model.blocks), model.patch_embed[0].out_features, model.num_classes) == (3, 8, 3)
