"""Weights are checked before a network sees them; features are torch-fidelity's."""

import io
import pickle

import pytest
import torch

from vfn.extractors import extractor_of, open_extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    """A file of random weights in the true format, and torch-fidelity's network with them."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_args, **_more):
            """Keep the weights of the construction."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Random("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path, network


def test_inception_gives_the_features_of_torch_fidelity(inception):
    path, network = inception
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    extractor = open_extractor("inception", path, CPU)
    got, expected = extractor.run(images), network(images)
    torch.testing.assert_close(got.features, expected[0])
    torch.testing.assert_close(got.logits, expected[1])
    assert got.features.std() > 0
    assert len(extractor.provenance["weights_sha256"]) == 64
    assert not extractor.provenance["published_weights"]
    grey = extractor.run(images[:, :1]).features
    torch.testing.assert_close(grey, network(images[:, :1].repeat(1, 3, 1, 1))[0])


def test_the_environment_names_the_weights(inception, monkeypatch):
    monkeypatch.setenv("VFN_WEIGHTS_INCEPTION", str(inception[0]))
    assert open_extractor("inception", None, CPU).provenance["weights"] == "inception.pth"


def test_offline_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_OFFLINE", "1")
    monkeypatch.setenv("VFN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="forbids a download; pass their file as --weights"):
        open_extractor("inception", None, CPU)


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
    with pytest.raises(ValueError, match="unknown features 'x', expected one of pixels"):
        open_extractor("x", None, CPU)
    with pytest.raises(ValueError, match="pixels need no weights"):
        open_extractor("pixels", other, CPU)


def test_any_function_is_an_extractor():
    mean = extractor_of("mean", lambda images: images.float().mean((2, 3)))
    assert mean.run(torch.ones(2, 3, 4, 4, dtype=torch.uint8)).features.tolist() == [[1.0] * 3] * 2
