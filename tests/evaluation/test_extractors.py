"""Extractors by their words, and any function as one."""

import pytest
import torch

from vfn.data import load_dataset
from vfn.evaluation import judge
from vfn.evaluation.extractors import EXTRACTORS, PIXELS, extractor_of, open_extractor
from vfn.evaluation.features import compute_statistics
from vfn.tables import load_object

IMAGES = torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4)


@pytest.mark.parametrize("word", EXTRACTORS)
def test_an_extractor_is_complete(word):
    entry = EXTRACTORS[word]
    assert entry.text
    assert callable(load_object(entry.target))
    assert bool(entry.url) == bool(entry.layers) == bool(entry.resize) == (word != "pixels")


def test_pixels_need_no_weights(tmp_path):
    assert open_extractor("pixels") is PIXELS
    assert PIXELS.run(IMAGES).features.max() <= 1
    with pytest.raises(ValueError, match="pixels need no weights"):
        open_extractor("pixels", tmp_path / "w.pth", "cpu")


def test_any_function_is_an_extractor():
    mean = extractor_of("mean", lambda images: images.float().mean((2, 3)))
    assert mean.run(torch.ones(2, 3, 4, 4, dtype=torch.uint8)).features.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"features": len}, r"expected features as a word or an Extractor, got .*extractor_of\("),
        ({"metrics": 3}, r"expected metrics as words, got 3; .* package\.module:Name"),
        ({"metrics": ["fd", len]}, r"expected metrics as words, got .* package\.module:Name"),
    ],
)
def test_functions_where_words_belong(asked, expected):
    with pytest.raises(ValueError, match=expected):
        judge("dataset:digits", "dataset:digits:test", device="cpu", **asked)


def mean_colour(images):
    return images.float().mean((2, 3))


def test_a_function_is_named_from_outside():
    named = open_extractor(f"{__name__}:mean_colour")
    assert torch.equal(named.run(IMAGES).features, mean_colour(IMAGES))
    assert named.provenance == {"extractor": f"{__name__}:mean_colour"}
    assert named.logits is False


def test_an_unknown_word_is_refused():
    expected = "unknown features 'x', expected one of pixels, inception, vgg16, dinov2, or package"
    with pytest.raises(ValueError, match=expected):
        open_extractor("x")
    with pytest.raises(ValueError, match="cannot be imported"):
        open_extractor("no.such.module:thing")


def test_a_function_may_be_a_network_with_gradients():
    """They are not kept: of many pictures they would take the memory. Figures are as without."""
    digits = load_dataset("digits", "test").images[:60]
    net = torch.nn.Linear(64, 4)

    def of_a_network(images):
        return net(images.float().flatten(1) / 255)

    named = extractor_of("net", of_a_network)
    assert of_a_network(digits).requires_grad
    assert not compute_statistics(digits, named).features.requires_grad

    def figures():
        names = ["fd", "fid_infinity"]  # the latter, of so few pictures, may be below 0
        found = judge("dataset:digits:train", digits, names, features=named, device="cpu").figures
        return [figure.value for figure in found]

    got = figures()
    net.requires_grad_(False)
    assert got == figures()
    assert got[0] > 0
