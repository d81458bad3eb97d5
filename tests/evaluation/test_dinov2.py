"""DINOv2 from a file gives the features of torch-fidelity's extractor with the hub's network."""

import math
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("timm")
pytest.importorskip("torch_fidelity")
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from vfn.evaluation.dinov2 import build_dinov2
from vfn.evaluation.extractors import open_extractor

WIDTH, DEPTH, GRID = 128, 2, 37


def state_shapes(width, depth):
    """Names and shapes of facebook's file."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + GRID**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(depth):
        for name, shape in {
            "norm1.weight": (width,), "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "ls1.gamma": (width,),
            "norm2.weight": (width,), "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
            "ls2.gamma": (width,),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = shape
    return shapes


def random_state(width=WIDTH, depth=DEPTH):
    """Random weights of a size that lets every part of the network matter."""
    return {
        name: torch.randn(shape) / (math.prod(shape[1:]) if "weight" in name else 1) ** 0.5
        for name, shape in state_shapes(width, depth).items()
    }


class Plain(torch.nn.Module):
    """The network written out: 16 x 16 of the 37 x 37 positions, blocks, the class token."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def forward(self, x):
        s, (count, *_), width = self.state, x.shape, self.state["norm.bias"].numel()

        def linear(x, name):
            return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

        def norm(x, name):
            centred = x - x.mean(-1, keepdim=True)
            scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            return scaled * s[f"{name}.weight"] + s[f"{name}.bias"]

        patches = F.unfold(x, 14, stride=14).mT @ s["patch_embed.proj.weight"].flatten(1).T
        square = s["pos_embed"][:, 1:].reshape(1, GRID, GRID, width).permute(0, 3, 1, 2)
        small = F.interpolate(square, scale_factor=(16.1 / GRID,) * 2, mode="bicubic")
        patches = patches + s["patch_embed.proj.bias"] + small.flatten(2).mT
        token = (s["cls_token"] + s["pos_embed"][:, :1]).expand(count, -1, -1)
        x = torch.cat([token, patches], 1)
        for i in range(sum(name.endswith("ls1.gamma") for name in s)):
            block = f"blocks.{i}"
            qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
            q, k, v = qkv.reshape(count, 257, 3, width // 64, 64).permute(2, 0, 3, 1, 4)
            mixed = (q @ k.mT / 8).softmax(-1) @ v
            mixed = linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.proj")
            x = x + s[f"{block}.ls1.gamma"] * mixed
            inner = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
            inner = inner * (1 + (inner / 2**0.5).erf()) / 2
            x = x + s[f"{block}.ls2.gamma"] * linear(inner, f"{block}.mlp.fc2")
        return norm(x, "norm")[:, 0]


def fidelity_with(model, monkeypatch):
    monkeypatch.setattr(torch.hub, "load", lambda *_: model)
    monkeypatch.setenv("XFORMERS_DISABLED", "1")  # which it sets, so that it is set back
    return FeatureExtractorDinoV2("dinov2-vit-l-14", ["dinov2"])


def assert_same_features(ours, theirs):
    images = torch.randint(0, 256, (3, 3, 40, 32), dtype=torch.uint8)
    got, expected = ours(images)[0], theirs(images)[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)
    assert got.std(0).mean() > 1e-3  # by which pictures differ


def test_features_are_those_of_torch_fidelity(monkeypatch):
    state = random_state()
    ours = build_dinov2(["dinov2"], state, WIDTH, DEPTH)
    assert_same_features(ours, fidelity_with(Plain(state), monkeypatch))


def test_features_are_those_of_the_hub(monkeypatch):
    """With the hub's own code, where ``torch.hub`` has been asked for it before."""
    source = Path(torch.hub.get_dir()) / "facebookresearch_dinov2_main"
    if not source.is_dir():
        pytest.skip(f"no code of facebookresearch/dinov2 in {source}")
    monkeypatch.syspath_prepend(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing xFormers
        from dinov2.hub.backbones import dinov2_vits14

        model = dinov2_vits14(pretrained=False)
    state = random_state(384, 12)
    model.load_state_dict(state)
    ours = build_dinov2(["dinov2"], state, 384, 12)
    assert_same_features(ours, fidelity_with(model, monkeypatch))


@pytest.mark.slow
def test_the_large_network_is_read_from_a_file(tmp_path):
    path = tmp_path / "dinov2_vitl14_pretrain.pth"
    # One number in the place of each tensor keeps the file small.
    state = {name: torch.zeros(()).expand(s) for name, s in state_shapes(1024, 24).items()}
    torch.save(state, path)
    extractor = open_extractor("dinov2", path, torch.device("cpu"))
    assert extractor.run(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).features.shape == (1, 1024)
    assert len(extractor.provenance["weights_sha256"]) == 64
    assert extractor.provenance["published_weights"] is None
    assert extractor.provenance["timm"]


@pytest.mark.parametrize("other", [{}, {"pos_embed": torch.zeros(1, 257)}, random_state()])
def test_weights_of_another_network_are_refused(tmp_path, other):
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="are not those of dinov2: other names or shapes"):
        open_extractor("dinov2", tmp_path / "w.pth", torch.device("cpu"))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    torch.save(random_state(), tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    with pytest.raises(ValueError, match="dinov2 need torch-fidelity and timm; pip install"):
        open_extractor("dinov2", tmp_path / "w.pth", torch.device("cpu"))
