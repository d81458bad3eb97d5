"""Beside the reference implementation itself, where VFN_REFERENCE names its checkout."""

import importlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from vfn.interop import import_reference
from vfn.interop.reference_settings import read_json, reference_settings, unet_options

ROOT = Path(os.environ.get("VFN_REFERENCE", "/nowhere"))
pytestmark = [
    pytest.mark.skipif(
        not ROOT.is_dir(), reason="VFN_REFERENCE names no checkout of the reference implementation"
    ),
    pytest.mark.filterwarnings("ignore"),  # its own
]
LABELS = {"mnist": (10, False), "cifar10": (10, False), "celeba": (40, True)}
SMALL = {"in_channels": 3, "hid_channels": 32, "num_res_blocks": 1}
CONFIGS = {
    "heads": {"model": {**SMALL, "num_heads": 4}},
    "head_dim alone": {"model": {**SMALL, "head_dim": 16}},
    "tags": {"model": SMALL, "data": {"name": "celeba"}, "conditional": {"use_cfg": True}},
    "both": {"model": SMALL, "diffusion": {"model_out_type": "both"},
             "conditional": {"use_cfg": True}},
}  # fmt: skip


@pytest.fixture(scope="module")
def reference():
    """Its class `UNet`; its package's own start needs more than torch."""
    package = types.ModuleType("v_diffusion")
    package.__path__ = [str(ROOT / "v_diffusion")]
    sys.modules["v_diffusion"] = package
    return importlib.import_module("v_diffusion.models.unet").UNet


def shipped():
    """Its own configurations, narrower."""
    found = {path.name: read_json(path) for path in sorted(ROOT.glob("configs/*.json"))}
    return {n: {**c, "model": {**c.get("model", {}), **SMALL}} for n, c in found.items()}


@pytest.mark.parametrize("config", [*CONFIGS.values(), *shipped().values()],
                         ids=[*CONFIGS, *shipped()])  # fmt: skip
def test_outputs_are_equal(reference, config):
    """Sums in another order, float32, relative to the largest output."""
    settings = reference_settings(config)
    options = unet_options(settings)
    options["drop_rate"] = options.pop("dropout")
    labels, tags = LABELS[settings["data"]["name"]]
    conditional = settings["conditional"]["use_cfg"]
    torch.manual_seed(0)
    net = reference(**options, num_classes=labels * conditional, multitags=tags).eval()
    with torch.no_grad():
        for param in net.parameters():
            param.add_(torch.randn_like(param) / max(param[0].numel(), 100) ** 0.5)
    got = import_reference({"model": net.state_dict()}, config)
    z, t, y = torch.randn(2, settings["model"]["in_channels"], 16, 16), torch.rand(2).double(), None
    if conditional:
        y = torch.rand(2, labels).round() if tags else torch.tensor([0, labels])
    with torch.no_grad():
        expected = net(z, t, None if y is None else y.clone())
        out = functional_call(got.model.eval(), got.params, (z, t, y))
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()
