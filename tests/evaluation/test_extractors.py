"""Extractors by their words, and any function as one."""

import pytest
import torch

from vfn.evaluation.extractors import EXTRACTORS, PIXELS, extractor_of, open_extractor
from vfn.tables import load_object

IMAGES = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)


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
