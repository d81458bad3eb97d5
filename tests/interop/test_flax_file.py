"""Files of the paper's JAX code as runs, beside the same function on their own layout."""

import numpy as np
import pytest
import torch

from tests.helpers.foreign import Flax, nested
from vfn.configs import Config, override
from vfn.interop import import_flax
from vfn.interop.flax_file import read_flax, read_tree, with_dataset
from vfn.nn import with_params
from vfn.sampling import load

msgpack = pytest.importorskip("msgpack")

from tests.helpers.flax_files import chunked, flax_bytes, packed, tree_of  # noqa: E402

CONFIG = override(
    Config(),
    {
        "dataset": "cifar10", "hid_channels": 32, "ch_multipliers": (1, 2), "num_res_blocks": 1,
        "apply_attn": (True, True), "num_heads": 2,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def net():
    """Eleven rows of labels, the first of which is 'none'."""
    net = Flax(multipliers=(1, 2), attends=(True, True), heads=2, labels=10, extra=True)
    net(*example())
    return net


def example():
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(2, 3, 8, 8, generator=draw)
    return z, torch.tensor([0.2, 0.7], dtype=torch.float64), torch.tensor([0, 4])


def files(net):
    """The same parameters in several forms."""
    tree = nested(net.arrays())
    state = {"step": np.int32(7), "ema_params": tree_of(tree), "params": {"other": packed(
        np.zeros(2, np.float32))}}  # fmt: skip
    state["step"] = packed(np.asarray(7))
    return {
        "state.msgpack": flax_bytes(state),
        "params.msgpack": flax_bytes({"params": tree_of(tree)}),
        "chunks.msgpack": flax_bytes(tree_of(tree, lambda value: chunked(value, 1000))),
    }


@pytest.mark.parametrize("name", ["state.msgpack", "params.msgpack", "chunks.msgpack", "a.npz"])
def test_a_run_is_the_same_function(net, tmp_path, name):
    if name == "a.npz":
        np.savez(tmp_path / name, **net.arrays())
    else:
        (tmp_path / name).write_bytes(files(net)[name])
    import_flax(tmp_path / name, CONFIG, tmp_path / "run")
    trained = load(tmp_path / "run", "cpu")
    expected = net(*example())
    with torch.no_grad():
        found = with_params(trained.model, trained.params)(*example())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert trained.shape.legend.names[3] == "cat"
    assert trained.step == (7 if name == "state.msgpack" else 0)
    assert trained.sample(1, steps=1).images.shape == (1, 3, 32, 32)


def test_half_precision(net, tmp_path):
    """bfloat16 has no type of numpy; its values are exact in float32."""
    tree = nested(net.arrays())
    (tmp_path / "half.msgpack").write_bytes(flax_bytes(tree_of(tree, lambda v: packed(v, True))))
    found = read_tree(tmp_path / "half.msgpack")["conv_in"]["kernel"]
    expected = torch.tensor(tree["conv_in"]["kernel"]).view(torch.int32) & -65536
    assert torch.equal(torch.tensor(found), expected.view(torch.float32))


def test_other_data_sets(net, tmp_path):
    (tmp_path / "a.msgpack").write_bytes(files(net)["params.msgpack"])
    config = with_dataset(CONFIG, "pictures/")
    with pytest.raises(ValueError, match="size of the pictures of pictures/; give image_size"):
        read_flax(tmp_path / "a.msgpack", config)
    found = read_flax(tmp_path / "a.msgpack", override(config, {"image_size": (16,)}))
    assert found.shape.size == (3, 16, 16)
    # All rows are classes where nothing says that one is 'none'.
    assert len(found.shape.legend.names) == 11


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged, or no file of flax"),
        (b"\xc1", "is damaged, or no file of flax"),
        (b"\x93\1\2\3", r"expected parameters by name in .*, got \[1, 2, 3\]"),
        (b"\x81\xa1a\xc7\x01\x09x", "values of kind 9, which are no arrays"),
        (b"\x81\xa1a\x01", "expected a to be an ordinary array"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        import_flax(tmp_path / "a.msgpack", CONFIG, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hid_channels": 64}, "expected a checkpoint of the network that the config"),
        ({"num_res_blocks": 2}, "down_0.block_1.*is missing"),
        ({"network": "tests.helpers.outside:Small"}, "expected a configuration of the unet"),
    ],
)
def test_other_networks_are_refused(net, tmp_path, change, message):
    (tmp_path / "a.msgpack").write_bytes(files(net)["params.msgpack"])
    config = override(Config(), change) if "network" in change else override(CONFIG, change)
    with pytest.raises(ValueError, match=message):
        read_flax(tmp_path / "a.msgpack", config)


def test_very_deep_names(tmp_path):
    tree = packed(np.zeros(2, np.float32))
    for _ in range(60):
        tree = {"a": tree}
    (tmp_path / "a.msgpack").write_bytes(flax_bytes(tree))
    with pytest.raises(ValueError, match="at most 32 levels of names"):
        read_flax(tmp_path / "a.msgpack", CONFIG)


def test_a_missing_package_is_named(net, tmp_path, monkeypatch):
    (tmp_path / "a.msgpack").write_bytes(files(net)["params.msgpack"])
    monkeypatch.setattr("vfn.interop.flax_file.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs msgpack, .*pip install '\.\[flax\]'"):
        read_flax(tmp_path / "a.msgpack", CONFIG)
