"""Weights are checked before a network sees them; features are torch-fidelity's."""

import hashlib
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.networks import random_inception, random_vgg16
from vfn.evaluation.extractors import EXTRACTORS, open_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """A file of random weights in the true format, and torch-fidelity's network with them."""
    pytest.importorskip("torch_fidelity")
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    return path, random_inception(path)


def assert_same(got, expected):
    """To float32 rounding: channels last sums in another order, over some hundred layers."""
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.slow
def test_inception_gives_the_features_of_torch_fidelity(inception):
    path, network = inception
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    extractor = open_extractor("inception", path, CPU)
    got, expected = extractor.run(images), network(images)
    assert_same(got.features, expected[0])
    assert_same(got.logits, expected[1])
    assert got.features.std() > 0
    assert len(extractor.provenance["weights_sha256"]) == 64
    assert not extractor.provenance["published_weights"]
    grey = extractor.run(images[:, :1]).features
    assert_same(grey, network(images[:, :1].repeat(1, 3, 1, 1))[0])


@pytest.mark.slow
def test_vgg16_gives_the_features_of_torch_fidelity(tmp_path):
    module = pytest.importorskip("torch_fidelity.feature_extractor_vgg16")
    path = tmp_path / "vgg16.pth"
    random_vgg16(path)
    theirs = module.FeatureExtractorVGG16(
        "x", ["fc2_relu"], feature_extractor_weights_path=str(path)
    )
    images = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8)
    got = open_extractor("vgg16", path, CPU).run(images)
    assert_same(got.features, theirs(images)[0])
    assert got.features.shape == (2, 4096)
    assert got.features.std(0).mean() > 1e-3  # by which pictures differ
    assert got.logits is None


def test_the_environment_names_the_weights(inception, monkeypatch):
    monkeypatch.setenv("VFN_WEIGHTS_INCEPTION", str(inception[0]))
    assert open_extractor("inception", None, CPU).provenance["weights"] == "inception.pth"


def test_offline_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_OFFLINE", "1")
    monkeypatch.setenv("VFN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="forbids a download; pass their file as --weights"):
        open_extractor("inception", None, CPU)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where downloads of some weights are kept, for a name; offline."""
    monkeypatch.setenv("VFN_DATA", str(tmp_path))
    monkeypatch.setenv("VFN_OFFLINE", "1")
    (tmp_path / "weights").mkdir()
    return lambda name: tmp_path / "weights" / EXTRACTORS[name].url.rpartition("/")[2]


@pytest.mark.parametrize("change", ["cut", "other"])
def test_a_changed_download_is_not_used(inception, cached, monkeypatch, change):
    """The published hash is that of this file, which then is cut short, or another one."""
    content = inception[0].read_bytes()
    begins = hashlib.sha256(content).hexdigest()[:8]
    known = replace(EXTRACTORS["inception"], sha256=begins)
    monkeypatch.setitem(EXTRACTORS._entries, "inception", known)
    path = cached("inception")
    path.write_bytes(content)
    assert open_extractor("inception", None, CPU).provenance["published_weights"]
    if change == "cut":
        path.write_bytes(content[:-1])
    else:  # loads, and is of this network
        torch.save({k: v + 1 for k, v in torch.load(inception[0]).items()}, path)
    with pytest.raises(
        ValueError, match=f"{path.name} are damaged or others than those downloaded: expec"
    ):
        open_extractor("inception", None, CPU)


def test_a_download_without_published_hash_is_compared_with_the_first(cached, monkeypatch):
    pytest.importorskip("timm")
    built = []
    network = lambda _, state: built.append(state) or torch.nn.Flatten()  # noqa: E731
    monkeypatch.setattr("vfn.evaluation.dinov2.build_dinov2", network)

    def download(_url, path, prefix, progress):
        assert (prefix, progress) == ("", False)
        torch.save({"a": torch.zeros(1)}, path)

    monkeypatch.delenv("VFN_OFFLINE")
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        open_extractor("dinov2", None, CPU)
    torch.save({"a": torch.ones(1)}, cached("dinov2"))
    with pytest.raises(ValueError, match="are damaged or others than those downloaded"):
        open_extractor("dinov2", None, CPU)
    assert len(built) == 2


def test_several_processes_download_once(tmp_path, monkeypatch):
    """Each locks as processes do: a file that it opens by itself."""
    pytest.importorskip("timm")
    calls, both = [], threading.Barrier(2)

    def download(_url, path, _prefix, progress):
        del progress
        calls.append(path)
        time.sleep(0.3)  # by then the other one has come
        torch.save({"a": torch.zeros(1)}, path)

    def opened():
        both.wait()
        return open_extractor("dinov2", None, CPU, str(tmp_path)).provenance["weights_sha256"]

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr("vfn.evaluation.dinov2.build_dinov2", lambda *_: torch.nn.Flatten())
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(opened) for _ in range(2)]
    (path,) = calls
    sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert [each.result() for each in found] == [sha256, sha256]


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


@pytest.mark.usefixtures("inception")
def test_wrong_weights_are_refused(tmp_path):
    trap, other = tmp_path / "trap.pth", tmp_path / "other.pth"
    trap.write_bytes(pickle.dumps({"a": Trap()}))
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="no PyTorch file of tensors alone"):
        open_extractor("inception", trap, CPU)
    with pytest.raises(ValueError, match="are not those of inception: other names or shapes"):
        open_extractor("inception", other, CPU)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        open_extractor("vgg16", tmp_path / "new.pth", CPU)


def test_the_data_directory_has_the_weights(inception, tmp_path, monkeypatch):
    """That of the call goes before that of the environment."""
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("VFN_OFFLINE", "1")
    content = inception[0].read_bytes()
    known = replace(EXTRACTORS["inception"], sha256=hashlib.sha256(content).hexdigest()[:8])
    monkeypatch.setitem(EXTRACTORS._entries, "inception", known)
    path = tmp_path / "data" / "weights" / known.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    path.symlink_to(inception[0])
    extractor = open_extractor("inception", None, CPU, str(tmp_path / "data"))
    assert extractor.provenance["published_weights"]
    assert extractor.logits
    with pytest.raises(ValueError, match="are not at .*elsewhere"):
        open_extractor("inception", None, CPU)
