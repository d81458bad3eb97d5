"""Pictures beside the real ones that are nearest to them."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree

from vfn.cli import main
from vfn.data import as_dataset, load_dataset
from vfn.data.values import Values, ranged
from vfn.evaluation import PIXELS, compute_statistics, nearest_pictures


@pytest.fixture(scope="module")
def sides():
    """Digits, and others of which number 7 is a copy of number 100 of these."""
    real, fake = load_dataset("digits").images[:300], load_dataset("digits", "test").images[:40]
    return real, torch.cat([fake[:7], real[100:101], fake[8:]])


def test_they_are_those_of_a_tree(sides):
    real, fake = sides
    found = nearest_pictures(real, fake, 12, 4, device="cpu")
    points = [each.flatten(1).double().numpy() / 255 for each in sides]
    distances, near = cKDTree(points[0]).query(points[1], k=4)
    order = np.argsort(distances[:, 0], kind="stable")[:12]
    assert found.rows.tolist() == order.tolist()
    np.testing.assert_allclose(found.distances, distances[order], rtol=1e-6, atol=1e-9)
    assert torch.equal(found.images[:, 0], fake[found.rows])
    assert torch.equal(found.images[:, 1:], real[found.neighbours])
    assert (found.rows[0], found.neighbours[0, 0], found.distances[0, 0]) == (7, 100, 0)
    assert near[order][1:, 0].tolist() == found.neighbours[1:, 0].tolist()


def test_there_are_as_many_as_there_are(sides):
    real, fake = sides
    assert nearest_pictures(real[:5], fake[:6], 99, 99).images.shape == (6, 6, 1, 8, 8)


def test_standardised_numbers_are_shown_from_minus_three_deviations_to_three():
    """As `Values.shown` has them; of five channels the first three."""
    values = Values("float32", (0.0,) * 5, (1.0,) * 5, bounded=False)
    numbers = torch.randn(20, 5, 8, 8)
    found = nearest_pictures(*[as_dataset(numbers, values=values)] * 2, 20, 1)
    assert torch.equal(found.images[:, 0], values.shown(numbers)[found.rows])


def test_arrays_of_numbers_are_shown_in_eight_bits(sides):
    values = ranged("float32", 0.0, 1.0)
    scaled = [as_dataset(each.float() / 255, values=values) for each in sides]
    found = nearest_pictures(*scaled, 3, 2)
    assert found.images.dtype == torch.uint8
    assert torch.equal(found.images, nearest_pictures(*sides, 3, 2).images)


def test_what_cannot_be_shown_is_refused(sides):
    real, fake = sides
    with pytest.raises(ValueError, match="expected real pictures, got statistics"):
        nearest_pictures(compute_statistics(real, PIXELS), fake)
    for number in (0, 2.5, "3", True):
        for name in ("count", "neighbours"):
            with pytest.raises(
                ValueError, match=f"expected {name} to be a whole number of at least 1, got"
            ):
                nearest_pictures(real, fake, **{name: number})
    found = nearest_pictures(real, fake, np.int64(2), torch.tensor(3))
    assert torch.equal(found.images, nearest_pictures(real, fake, 2, 3).images)


def test_the_command_draws_a_row_for_each(sides, tmp_path, monkeypatch, capsys):
    for name, images in zip(("real", "fake"), sides, strict=True):
        np.savez(tmp_path / f"{name}.npz", images.permute(0, 2, 3, 1).numpy())

    def call(out):
        where = ["--real", f"{tmp_path}/real.npz", "--fake", f"{tmp_path}/fake.npz"]
        words = ["eval", "nearest", *where, "--count", "3", "--neighbours", "2", "--out", out]
        monkeypatch.setattr(sys, "argv", ["vfn", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr().err

    code, said = call(str(tmp_path / "near.png"))
    assert not code
    assert said.startswith("3 pictures, 0 to ")
    picture = np.asarray(Image.open(tmp_path / "near.png"))
    copied = np.kron(sides[0][100, 0].numpy(), np.ones((6, 6), np.uint8))
    right, low = picture.shape[1] - 2, picture.shape[0] - 2
    for column in (2, 1):  # the copy, and what it is one of, are in the first row
        left, top = right - 50 * column - 48, low - 50 * 2 - 48
        assert (picture[top : top + 48, left : left + 48] == copied).all()
    code, said = call(str(tmp_path / "near.jpg"))
    assert (code, said.count("\n")) == (2, 1)
    assert "expected --out to end in .png" in said
    assert not (tmp_path / "near.jpg").exists()
