"""A mask beside pictures says what is known of them."""

import math

import numpy as np
import pytest
import torch

from vfn.configs import load, override
from vfn.data import load_dataset, to_unit
from vfn.data.values import ranged
from vfn.model import DataShape
from vfn.sampling import untrained


def test_a_mask_of_a_file_says_what_is_known(tmp_path):
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    images = load_dataset("digits", "test").images[:2]
    mask = np.ones((2, 8, 8), np.uint8)
    mask[:, 2:5, 1:7] = 0
    np.savez(tmp_path / "holes.npz", arr_0=images.movedim(1, -1).numpy(), mask=mask)
    given = trained.condition(str(tmp_path / "holes.npz")).image
    assert torch.equal(given[:, 1], torch.from_numpy(mask).float())
    torch.testing.assert_close(given[:, :1], to_unit(images) * given[:, 1:])
    np.savez(tmp_path / "holes.npz", arr_0=images.movedim(1, -1).numpy(), mask=mask[:, :4])
    with pytest.raises(ValueError, match=r"expected a mask \[2, 8, 8\], got \[2, 4, 8\]"):
        trained.condition(str(tmp_path / "holes.npz"))


@pytest.mark.parametrize(
    ("value", "told"), [(0.5, "0.5"), (-0.4, "-0.4"), (256, "256"), (math.nan, "nan")]
)
def test_a_mask_of_other_values_is_refused_as_it_is(value, told, tmp_path):
    """Cast to whole bytes each of them was 0: nothing known."""
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    mask = np.ones((2, 8, 8))
    mask[1, 2, 3] = value
    np.savez(tmp_path / "holes.npz", arr_0=np.full((2, 8, 8, 1), 200, np.uint8), mask=mask)
    with pytest.raises(ValueError, match=f"expected a mask of 0 and 1, got {told}; compare"):
        trained.condition(tmp_path / "holes.npz")


@pytest.mark.parametrize("kind", [bool, np.int64, np.float32, np.uint16])
def test_a_mask_may_be_of_any_type(kind, tmp_path):
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    mask = np.random.default_rng(0).integers(0, 2, (2, 8, 8)).astype(kind)
    np.savez(tmp_path / "HOLES.NPZ", arr_0=np.full((2, 8, 8, 1), 200, np.uint8), mask=mask)
    (tmp_path / "HOLES.NPZ.npz").rename(tmp_path / "HOLES.NPZ")
    made = trained.condition(tmp_path / "HOLES.NPZ").image.numpy()
    grey = 200 / 255 * 2 - 1
    np.testing.assert_allclose(made[:, 0], grey * mask.astype(np.float32), atol=1e-6)
    assert (made[:, 1] == mask.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 8, 8, 1), 200 / 255, np.float32), "to be of uint8, got float32"),
        (np.full((2, 4, 4, 1), 200, np.uint8), r"pictures \[1, 8, 8\], got \[1, 4, 4\]"),
        (np.full((2, 8, 8, 3), 200, np.uint8), r"pictures \[1, 8, 8\], got \[3, 8, 8\]"),
    ],
)
def test_pictures_under_a_mask_are_like_those_of_the_network(images, message, tmp_path):
    """Floats of 0..1 would all be taken for nearly black."""
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    np.savez(tmp_path / "holes.npz", arr_0=images, mask=np.ones(images.shape[:3], np.uint8))
    with pytest.raises(ValueError, match=message):
        trained.condition(tmp_path / "holes.npz")


def test_a_mask_is_of_numbers(tmp_path):
    trained = untrained(override(load("digits"), {"condition": "mask"}))
    grey = np.full((2, 8, 8, 1), 200, np.uint8)
    np.savez(tmp_path / "text.npz", arr_0=grey, mask=np.full((2, 8, 8), "yes"))
    with pytest.raises(ValueError, match="expected a mask of 0 and 1, got <U3"):
        trained.condition(tmp_path / "text.npz")


def test_numbers_beside_a_mask_are_within_the_range_of_the_network(tmp_path):
    config = override(load("digits"), {"condition": "mask"})
    network = untrained(config, DataShape(1, 8, 8, values=ranged("float32", 0, 1)))
    images, mask = np.full((2, 8, 8, 1), 0.5, np.float32), np.ones((2, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images, mask=mask)
    assert network.condition(tmp_path / "a.npz").image.shape == (2, 2, 8, 8)
    np.savez(tmp_path / "b.npz", arr_0=4 * images, mask=mask)
    with pytest.raises(ValueError, match="b.npz' within 0..1, got 2 in picture 0"):
        network.condition(tmp_path / "b.npz")
