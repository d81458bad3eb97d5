"""Checkpoints of the reference implementation: the same function, or one clear line."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch.func import functional_call

from tests.helpers.foreign import Reference
from vfn.interop import import_reference
from vfn.interop.reference_checkpoint import read_reference

CONFIG = {
    "data": {"name": "cifar10"},
    "model": {
        "hid_channels": 32,
        "ch_multipliers": [1, 2],
        "num_res_blocks": 1,
        "apply_attn": [False, True],
    },
    "diffusion": {"model_out_type": "v"},
}


def config_with(**model):
    return {**CONFIG, "model": {**CONFIG["model"], **model}}


def batch(labels=0, tags=False):
    torch.manual_seed(1)
    y = None
    if tags:
        y = torch.rand(3, labels).round()
    elif labels:
        y = torch.tensor([0, labels, 1])
    return torch.randn(3, 3, 8, 8), torch.rand(3, dtype=torch.float64), y


def made(net):
    """A network of the reference whose parameters exist."""
    net(*batch(net.labels, net.tags))
    return net


@pytest.fixture
def net():
    return made(Reference(labels=10))


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({}, {}),
        ({"linear": True}, {"use_xformers": True}),
        ({"labels": 10}, {}),
        ({"labels": 7, "tags": True, "linear": True}, {}),
        ({"heads": 4}, {"num_heads": 4}),
        ({"heads": 4, "linear": True}, {"num_heads": 4}),
        ({"heads": 2, "dim": 8}, {"num_heads": 2, "head_dim": 8}),
        ({"heads": 1, "dim": 16}, {"head_dim": 16}),
        ({"embedding": 96}, {"embedding_dim": 96}),
        ({"plain": True, "blocks": 2}, {"resample_with_res": False, "num_res_blocks": 2}),
        ({"multipliers": (2, 1, 3), "attends": (True, False, True)},
         {"ch_multipliers": [2, 1, 3], "apply_attn": [True, False, True]}),
        ({"attends": (True, True)}, {"apply_attn": True}),
    ],
)  # fmt: skip
def test_the_network_is_the_same_function(options, model):
    """Raw and averaged, with labels and without; sums in another order, float32."""
    net = Reference(**options)
    z, t, y = batch(net.labels, net.tags)
    expected = {label is None: net(z, t, label) for label in (y, None)}
    average = {name: 0.5 * value for name, value in net.state.items()}
    got = import_reference({"model": net.state, "ema": {"shadow": average}}, config_with(**model))
    got.model.eval()
    for label in (y, None):
        out = functional_call(got.model, got.params, (z, t, label))
        error = (out - expected[label is None]).abs().max() / out.abs().max()
        assert error < 1e-5
    assert all(torch.equal(got.ema_params[name], 0.5 * p) for name, p in got.params.items())


def test_both_predictions_double_the_channels():
    net = made(Reference(out=6))
    config = {**CONFIG, "diffusion": {"model_out_type": "both"}}
    assert import_reference({"model": net.state}, config).model.out_channels == 6


def test_a_file_and_its_json(net, tmp_path):
    """As runs write them: of a parallel module, in half precision, with numbers of numpy."""
    parameters = [torch.nn.Parameter(torch.ones(2))]
    schedule = torch.optim.lr_scheduler.LambdaLR(torch.optim.AdamW(parameters), lambda _: 1.0)
    content = {
        "model": {f"module.{name}": value.half() for name, value in net.state.items()},
        "ema": {"decay": 0.9999, "shadow": {f"module.{n}": v for n, v in net.state.items()},
                "num_updates": 7},
        "optimizer": schedule.optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "epoch": 3,
        "fid": np.float64(2.58),
        "rng": {0: torch.Generator().get_state()},
    }  # fmt: skip
    torch.save(content, tmp_path / "ckpt.pt")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    got = import_reference(tmp_path / "ckpt.pt", str(tmp_path / "config.json"))
    expected = import_reference({"model": net.state}, CONFIG)
    assert got.settings["diffusion"]["model_out_type"] == "v"
    for name, value in expected.params.items():
        assert torch.equal(got.ema_params[name], value)
        torch.testing.assert_close(got.params[name], value, rtol=1e-3, atol=1e-6)
        assert got.params[name].dtype == torch.float32


def test_missing_parts(net):
    assert import_reference({"model": net.state, "scheduler": None}, CONFIG).ema_params is None
    assert import_reference({"model": net.state, "ema": None}, CONFIG).ema_params is None
    alone = import_reference(net.state, CONFIG)
    assert torch.equal(alone.params["in_conv.weight"], net.state["in_conv.weight"])


def test_parameters_run_as_fast_as_the_models_own(net):
    """In its memory format."""
    got = import_reference({"model": net.state}, CONFIG)
    for name, like in got.model.named_parameters():
        assert got.params[name].stride() == like.stride()
        assert not got.params[name].requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hid_channels": 64}, r"time_embed.0.weight gives \(128, 32\), expected \(256, 64\)"),
        ({"num_res_blocks": 2}, r"describes: downsamples.level_0.2.norm1.weight is missing"),
        ({"ch_multipliers": [1, 1]}, r"gives .*; .*; .* and \d+ more"),
        ({"apply_attn": [False, False]}, "is missing"),
        ({"resample_with_res": False}, "downsamples.level_0.1.weight is missing"),
        ({"head_dim": 16}, r"proj_in.weight gives \(192, 64\), expected \(48, 64\)"),
        ({"out_channels": 6}, r"out_conv.2.weight gives \(3, 32, 3, 3\), expected \(6, 32, 3, 3\)"),
    ],
)  # fmt: skip
def test_configurations_of_another_network(net, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        import_reference({"model": net.state}, config_with(**change))
    assert "\n" not in str(caught.value)


def test_a_linear_layout_that_does_not_go_together():
    net = made(Reference(linear=True))
    key = next(name for name in net.state if name.endswith("to_k.weight"))
    net.state[key] = net.state[key][:, :-1]
    with pytest.raises(ValueError, match=r"to_q.weight with 2 more gives .*\(64, 63\)"):
        import_reference({"model": net.state}, CONFIG)


def test_labels_that_the_configuration_expects():
    net = made(Reference())
    with pytest.raises(ValueError, match="conditional network by conditional.use_cfg, but the"):
        import_reference({"model": net.state}, {**CONFIG, "conditional": {"use_cfg": True}})


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_code_is_refused_and_not_run(net, tmp_path, save):
    save({"model": net.state, "epoch": Bomb(str(tmp_path / "mark"))}, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match="holds code or objects other than tensors") as caught:
        read_reference(tmp_path / "ckpt.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04" + bytes(100)])
def test_damaged_files(tmp_path, content):
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged|was not loaded") as caught:
        read_reference(tmp_path / "ckpt.pt")
    assert "\n" not in str(caught.value)


def test_a_truncated_file(net, tmp_path):
    torch.save({"model": net.state}, tmp_path / "ckpt.pt")
    whole = (tmp_path / "ckpt.pt").read_bytes()
    (tmp_path / "ckpt.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        read_reference(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected tensors under 'model', got <class 'list'>"),
        ({}, "expected tensors under 'model', got nothing"),
        ({"state_dict": {}, "step": 3}, "expected tensors under 'model', got state_dict, step"),
        ({"model": {"a": 1}}, "expected tensors under 'model', got model"),
        ({"model": {}, "ema": 3}, "expected the average under 'ema', 'shadow'"),
        ({"model": {}, "ema": {"shadow": {"a": 1}}}, "expected the average under 'ema', 'shadow'"),
    ],
)
def test_files_of_something_else(tmp_path, content, message):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=message):
        read_reference(tmp_path / "ckpt.pt")


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="does not exist; expected a file of torch.save"):
        read_reference(tmp_path / "ckpt.pt")


ODD = {
    "sparse": (lambda v: v.to_sparse(), "a sparse one"),
    "sparse rows": (lambda v: v.flatten(1).to_sparse_csr(), "a sparse one"),
    "nested": (lambda v: torch.nested.nested_tensor([v, v]), "a nested one"),
    "meta": (lambda v: v.to("meta"), r"one without values \(meta\)"),
    "complex": (lambda v: v + 0j, "one of complex64"),
    "integer": (lambda v: v.long(), "one of int64"),
    "truth": (lambda v: v > 0, "one of bool"),
    "expanded": (
        lambda v: torch.zeros(1).expand(10**6, 10**6),
        r"an expanded one of \[1000000, 1000000\]",
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, about kinds in the making
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("part", ["model", "ema"])
@pytest.mark.parametrize("from_file", [False, True])
def test_tensors_of_other_kinds(net, tmp_path, kind, part, from_file):
    change, message = ODD[kind]
    odd = {**net.state, "in_conv.weight": change(net.state["in_conv.weight"])}
    content = {"model": net.state, "ema": {"shadow": net.state}}
    content[part] = odd if part == "model" else {"shadow": odd}
    if from_file:
        torch.save(content, tmp_path / "ckpt.pt")
        content = tmp_path / "ckpt.pt"
    with pytest.raises(ValueError, match=message) as caught:
        import_reference(content, CONFIG)
    assert "\n" not in str(caught.value)
    assert "in_conv.weight" in str(caught.value) or "damaged" in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors(net):
    odd = torch.quantize_per_tensor(net.state["in_conv.weight"], 0.1, 0, torch.qint8)
    with pytest.raises(ValueError, match="a quantised one"):
        import_reference({"model": {**net.state, "in_conv.weight": odd}}, CONFIG)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("part", ["model", "ema"])
def test_values_that_are_no_finite_numbers(net, value, part):
    spoiled = net.state["out_conv.2.weight"].double()
    spoiled[0, 0, 0, 0] = value
    odd = {**net.state, "out_conv.2.weight": spoiled}
    content = {"model": net.state, "ema": {"shadow": net.state}}
    content[part] = odd if part == "model" else {"shadow": odd}
    with pytest.raises(ValueError, match=r"expected finite parameters, .* in out_conv.2.weight;"):
        import_reference(content, CONFIG)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({3: torch.zeros(1)}, "texts as names in 'model' of checkpoint, got 3"),
        ({("a",): torch.zeros(1)}, "texts as names"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "expected a once .* also with module."),
        ({"\x1b[31m\n": torch.zeros(1)}, "is missing"),
        (
            {"class_embed.1.weight": torch.zeros(1, 100_001)},
            r"1 to 100000 classes or tags, got \[1",
        ),
        ({"class_embed.weight": torch.zeros(4, 0)}, r"got \[4, 0\]"),
    ],
)
def test_names_and_labels_of_no_network(state, message):
    with pytest.raises(ValueError, match=message) as caught:
        import_reference({"model": state}, CONFIG)
    assert str(caught.value).isprintable()


def test_messages_do_not_grow_with_what_is_in_the_file(net):
    for content in (
        {f"\x1b{k}" + "x" * 10**4: k for k in range(10**4)},
        {"model": {**net.state, **{f"\x1b{k}" + "x" * 10**4: torch.zeros(1) for k in range(99)}}},
    ):
        with pytest.raises(ValueError, match="expected") as caught:
            import_reference(content, CONFIG)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "change", [{"hid_channels": 32 * 10**6}, {"num_res_blocks": 10**9}, {"embedding_dim": 10**12}]
)
def test_a_configuration_of_a_giant_takes_no_memory(net, change):
    with pytest.raises(ValueError, match=r"expected|cannot be built"):
        import_reference({"model": net.state}, config_with(**change))
