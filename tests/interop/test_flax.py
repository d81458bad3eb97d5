"""Parameters of the paper's JAX network, against the same function on their own layout."""

import pytest
import torch
from torch.func import functional_call

from tests.helpers.foreign import Flax, nested
from tests.helpers.numbers import relative_error
from vfn.interop import params_from_flax
from vfn.nn import UNet

LEVELS = {"multipliers": (1, 2), "blocks": 1, "attends": (False, True)}


def network(net, **options):
    mine = {"num_heads": net.heads, "head_dim": net.dim, "num_classes": net.labels}
    return UNet(
        3, net.out, net.hid, [w // net.hid for w in net.widths], net.blocks, net.attends,
        net.embedding, resample_with_res=not net.plain, **(mine | options),
    ).eval()  # fmt: skip


def batch(labels=0):
    torch.manual_seed(1)
    y = torch.tensor([1, labels, 2]) if labels else None
    return torch.randn(3, 3, 8, 8), torch.rand(3, dtype=torch.float64), y


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"labels": 4},
        {"labels": 4, "extra": True},
        {"heads": 2},
        {"heads": None, "dim": 16},
        {"plain": True, "blocks": 2},
        {"multipliers": (1, 3, 2), "attends": (True, False, True), "out": 6},
    ],
)
def test_the_network_is_the_same_function(options):
    """Sums in another order, float32."""
    net = Flax(**(LEVELS | options))
    z, t, y = batch(net.labels)
    expected = net(z, t, y)
    model = network(net)
    got = functional_call(model, params_from_flax(net.arrays(), model), (z, t, y))
    assert relative_error(got, expected) < 1e-5


def test_no_label_of_an_embedding_with_a_row_for_it():
    net = Flax(**LEVELS, labels=4, extra=True)
    z, t, _ = batch()
    none = torch.zeros(3, dtype=torch.long)
    expected = net(z, t, none)
    model = network(net)
    got = functional_call(model, params_from_flax(net.arrays(), model), (z, t, none))
    assert relative_error(got, expected) < 1e-5


@pytest.fixture(scope="module")
def net():
    net = Flax(**LEVELS, labels=4, heads=2)
    net(*batch(4))
    return net


@pytest.mark.parametrize(
    "form",
    [
        nested,
        lambda flat: {"params": nested(flat)},
        lambda flat: {tuple(name.split("/")): value for name, value in flat.items()},
        lambda flat: {name: value.astype("float64") for name, value in flat.items()},
    ],
)
def test_trees_of_several_forms(net, form):
    model = network(net)
    expected = params_from_flax(net.arrays(), model)
    got = params_from_flax(form(net.arrays()), model)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_parameters_are_float32_in_the_models_shapes_and_format(net):
    model = network(net)
    params = params_from_flax(net.arrays(), model)
    assert params.keys() == dict(model.named_parameters()).keys()
    for name, like in model.named_parameters():
        assert (params[name].shape, params[name].dtype) == (like.shape, torch.float32)
        assert params[name].stride() == like.stride()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat.pop("mid.attn_1/q/bias"), "mid.attn_1/q/bias is missing"),
        (lambda flat: flat.pop("conv_in/kernel"), "describes: conv_in/kernel is missing"),
        (lambda flat: flat.update({"up_9.block_0/norm1/scale": flat["norm_out/scale"]}),
         "up_9.block_0/norm1/scale is left over"),
        (lambda flat: flat.update({"dense0/kernel": flat["dense0/kernel"].T}),
         r"dense0/kernel gives \(32, 128\), expected \(128, 32\)"),
        (lambda flat: flat.update({"conv_in/kernel": flat["conv_in/kernel"][0]}),
         r"conv_in/kernel gives \(3, 3, 32\), expected \(32, 3, 3, 3\)"),
        (lambda flat: flat.update({"class_emb/kernel": flat["class_emb/kernel"][:1]}),
         r"class_emb/kernel gives \(128, 0\), expected \(128, 4\)"),
    ],
)  # fmt: skip
def test_trees_that_do_not_fit(net, change, message):
    flat = net.arrays()
    change(flat)
    with pytest.raises(ValueError, match=message):
        params_from_flax(flat, network(net))


def test_another_number_of_heads_is_refused(net):
    """All sizes are the same; the function is not."""
    with pytest.raises(ValueError, match=r"attn.*/q/kernel with 2 more gives \(64, 2, 32\), "):
        params_from_flax(net.arrays(), network(net, num_heads=1))


def test_tags_are_refused():
    with pytest.raises(ValueError, match="with classes or without labels, got one with tags"):
        params_from_flax({}, UNet(3, 3, 32, (1,), 1, num_classes=3, multitags=True))
