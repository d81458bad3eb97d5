"""The UNet against golden numbers, formulas written out, and what must not matter to it."""

import math

import pytest
import torch
from einops import rearrange
from torch.func import functional_call

from tests.helpers.numbers import relative_error
from vfn.interop.reference_parameters import params_from_reference
from vfn.nn import UNet
from vfn.nn.layers import (
    ConvResample,
    ResidualBlock,
    SelfAttention,
    attend,
    group_norm,
    lecun_normal_,
    sinusoidal_embedding,
)

# Reassociated sums in float32, relative to the largest output.
RELATIVE = 1e-5


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


def random_net(**options):
    """A network none of whose layers is zero."""
    torch.manual_seed(0)
    model = UNet(2, 2, 32, (1, 2), 1, (False, True), **options).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(std=0.1)
    return model


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


def test_dropout_acts_in_training_only():
    model = random_net(dropout=0.5)
    args = torch.randn(2, 2, 8, 8), torch.rand(2)
    assert torch.equal(model(*args), model(*args))
    model.train()
    assert relative_error(model(*args), model(*args)) > 1e-2


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


def test_initial_weights_are_truncated_normals():
    """Variance 1 / fan_in to 3 %, over 120,000 draws; none beyond two standard deviations."""
    torch.manual_seed(0)
    weight = lecun_normal_(torch.empty(400, 300), fan_in=300)
    assert weight.var().item() * 300 == pytest.approx(1, rel=0.03)
    assert weight.abs().max().item() < 2 / math.sqrt(300) / 0.8796


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


def gradients(model, params, z, t, y):
    """Of every parameter given, through `functional_call`."""
    loss = functional_call(model, params, (z, t, y)).square().mean()
    return torch.autograd.grad(loss, list(params.values()))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointed_activations_give_the_same_gradients(dropout):
    """Also for parameters that are not the module's own, which backward no longer finds there."""
    model = random_net(num_classes=3, dropout=dropout).train()
    saving = random_net(num_classes=3, dropout=dropout, checkpoint_activations=True).train()
    other = {k: (1.5 * p).detach().requires_grad_() for k, p in model.named_parameters()}
    inputs = torch.randn(2, 2, 4, 8), torch.rand(2), torch.tensor([0, 3])
    results = []
    for each in (model, saving):
        torch.manual_seed(1)
        results.append(gradients(each, other, *inputs))
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(again, plain)


def test_checkpointed_activations_are_not_kept():
    """What autograd saves for the backward pass, in numbers."""
    kept = {}
    for saving in (False, True):
        model, saved = random_net(checkpoint_activations=saving), []
        own = {p.data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
            model(torch.randn(2, 2, 16, 16), torch.rand(2))
        kept[saving] = sum(x.numel() for x in saved if x.data_ptr() not in own)
    assert kept[True] < kept[False] / 3


@pytest.mark.parametrize("options", [{}, {"resample_with_res": False}])
def test_gradients_are_those_of_finite_differences(options):
    """In float64, of every parameter, along random directions."""
    model = random_net(num_classes=3, **options).double()
    names, values = zip(*model.named_parameters(), strict=True)
    inputs = torch.randn(2, 2, 4, 4).double(), torch.rand(2).double(), torch.tensor([1, 0])

    def network(*params):
        return functional_call(model, dict(zip(names, params, strict=True)), inputs)

    assert torch.autograd.gradcheck(network, values, fast_mode=True)


# Seen with 2.9.1: vmap there does not know group_norm with weights of its own for each network.
@pytest.mark.skipif(torch.__version__ < (2, 11), reason="vmap of group_norm in earlier torch")
def test_stacked_parameters_are_a_loop():
    """Several sets side by side under vmap, for the same inputs."""
    models = [random_net(num_classes=3) for _ in range(2)]
    params = [dict(model.named_parameters()) for model in models]
    params[1] = {name: 0.5 * value for name, value in params[1].items()}
    stacked = {name: torch.stack([p[name] for p in params]).detach() for name in params[0]}
    inputs = torch.randn(3, 2, 4, 8), torch.rand(3), torch.tensor([0, 1, 3])
    try:
        got = torch.vmap(lambda p: functional_call(models[0], p, inputs))(stacked)
    except RuntimeError as error:
        if "NYI: querying is_contiguous inside of vmap" not in str(error):
            raise
        pytest.skip("this torch normalises no groups of channels_last under vmap, as 2.11")
    for each, p in zip(got, params, strict=True):
        assert relative_error(each, functional_call(models[0], p, inputs)) < RELATIVE


@pytest.mark.slow
@pytest.mark.parametrize("grad", [True, False])
def test_compiles_whole_and_once(grad):
    """One graph, and neither other times nor other labels compile it again."""
    model, z = random_net(num_classes=3), torch.randn(3, 2, 4, 8)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(grad):
        for i, y in enumerate(torch.tensor([[0, 1, 2], [3, 3, 3]])):
            with torch._dynamo.config.patch(error_on_recompile=i > 0):
                got = compiled(z, torch.rand(3, generator=torch.manual_seed(i)), y)
            expected = model(z, torch.rand(3, generator=torch.manual_seed(i)), y)
            assert relative_error(got, expected) < RELATIVE


def test_autocast_keeps_conditioning_and_output_in_float32():
    """bfloat16 has 8 bits: the result is within a few units of it."""
    model, inputs = random_net(num_classes=3), (torch.randn(2, 2, 4, 8), torch.rand(2))
    seen = {}
    for name in ("time_embed", "label_embed", "in_conv", "middle.0"):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.update({name: out.dtype})
        )
    labels = torch.tensor([1, 2])
    expected = model(*inputs, labels)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(*inputs, labels)
    full, half = torch.float32, torch.bfloat16
    assert seen == {"time_embed": full, "label_embed": full, "in_conv": half, "middle.0": half}
    assert got.dtype == full
    assert 0 < relative_error(got, expected) < 0.05


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
