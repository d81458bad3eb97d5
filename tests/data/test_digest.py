"""The digest of a data set: of pictures, labels and names, whoever holds them."""

from types import SimpleNamespace

import pytest
import torch

from vfn.data import Dataset, Labels, data_digest, load_dataset
from vfn.data.digest import images_digest

IMAGES = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2)
WHOLE = Dataset(IMAGES, torch.tensor([1, 2, 1, 2]), Labels(("cat", "dog")))
OTHERS = {
    "pixel": WHOLE._replace(images=IMAGES.clone().index_fill_(0, torch.tensor([2]), 0)),
    "order": WHOLE._replace(images=IMAGES[[1, 0, 2, 3]]),
    "shape": WHOLE._replace(images=IMAGES.reshape(4, 1, 4, 3)),
    "number": Dataset(IMAGES[:3], WHOLE.labels[:3], WHOLE.legend),
    "labels": WHOLE._replace(labels=torch.tensor([1, 2, 2, 2])),
    "names": WHOLE._replace(legend=Labels(("cat", "fox"))),
    "swapped names": WHOLE._replace(legend=Labels(("dog", "cat"))),
    "no labels": Dataset(IMAGES),
    "tags": Dataset(IMAGES, torch.eye(4, 2, dtype=torch.uint8), Labels(("cat", "dog"), tags=True)),
}


def test_equal_data_have_equal_digests():
    again = Dataset(IMAGES.clone(), WHOLE.labels.clone(), Labels(("cat", "dog")))
    turned = IMAGES.to(memory_format=torch.channels_last)
    assert data_digest(WHOLE) == data_digest(again) == data_digest(WHOLE._replace(images=turned))


@pytest.mark.parametrize("change", OTHERS)
def test_any_change_is_another_digest(change):
    assert data_digest(OTHERS[change]) != data_digest(WHOLE)


def test_all_of_them_differ():
    assert len({data_digest(other) for other in OTHERS.values()}) == len(OTHERS)


def test_a_change_in_place_is_noticed():
    images = IMAGES.clone()
    before = data_digest(Dataset(images))
    images[0, 0, 0, 0] += 1
    assert data_digest(Dataset(images)) != before
    images[0, 0, 0, 0] -= 1
    assert data_digest(Dataset(images)) == before
    with torch.inference_mode():
        assert data_digest(Dataset(IMAGES.clone())) == before


def test_it_is_computed_once(monkeypatch):
    dataset = load_dataset("digits")
    first = data_digest(dataset)
    monkeypatch.setattr("vfn.data.digest._BLOCK", None)  # nothing can be hashed any more
    assert data_digest(dataset) == first


def test_many_small_pictures_are_hashed_in_few_blocks(monkeypatch):
    """One at a time they would take longer than their bytes."""
    sizes = []
    told = SimpleNamespace(update=lambda data: sizes.append(data.nbytes), hexdigest=lambda: "0")
    monkeypatch.setattr("vfn.data.digest.hashlib", SimpleNamespace(sha256=lambda: told))
    images_digest(torch.zeros(20_000, 1, 32, 32, dtype=torch.uint8))
    assert sizes == [2**24, 20_000 * 2**10 - 2**24]
