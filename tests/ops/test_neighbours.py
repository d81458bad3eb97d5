"""Neighbours among features against scikit-learn, the prdc package and cases by hand."""

import contextlib
import io

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from vfn.ops import density_coverage, nearest_distances, neighbourhood, precision_recall


def points(count, dim, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dim, dtype=torch.float64, generator=generator)


def neighbour_distances(queries, references, count):
    return NearestNeighbors(n_neighbors=count).fit(references).kneighbors(queries)[0]


@pytest.mark.parametrize("tile", [1, 7, 4096])
def test_nearest_distances_match_sklearn(tile):
    queries, references = points(30, 6), points(40, 6, seed=1)
    expected = torch.from_numpy(neighbour_distances(queries, references, 1)[:, 0])
    torch.testing.assert_close(nearest_distances(queries, references, tile), expected)


def test_nearest_distance_of_a_copy_is_exactly_zero():
    features = 1000 + points(30, 500).float()
    assert nearest_distances(features, features).eq(0).all()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("tile", [7, 4096])
def test_precision_recall_match_sklearn(k, tile):
    """A narrower and shifted fake: different shares, neither 0 nor 1."""
    real, fake = points(200, 3), 0.7 * points(150, 3, seed=1) + 1.5

    def covered(queries, centers):
        radii = neighbour_distances(centers, centers, k + 1)[:, -1]
        distances = np.linalg.norm(queries[:, None].numpy() - centers[None].numpy(), axis=-1)
        return (distances <= radii).any(1).mean()

    got = precision_recall(real, fake, k, tile)
    assert got.precision == pytest.approx(covered(fake, real))
    assert got.recall == pytest.approx(covered(real, fake))
    assert 0 < got.recall < 1
    assert 0 < got.precision < 1
    assert got.recall != got.precision


def test_precision_recall_by_hand():
    """On a line, k=1: one fake of two is inside a ball, and two reals of four are."""
    real = torch.tensor([[0.0], [1.0], [10.0], [12.0]])  # radii 1, 1, 2, 2
    fake = torch.tensor([[0.5], [5.0]])  # radii 4.5, 4.5
    assert precision_recall(real, fake, k=1) == (0.5, 0.5)


def test_the_edge_of_a_ball_belongs_to_it():
    """On a line, k=1: 2 is as far from 1 as 0 is, and -10 from 2 as 14 is."""
    real = torch.tensor([[-10.0], [0.0], [1.0], [12.0]])  # radii 10, 1, 1, 11
    fake = torch.tensor([[2.0], [14.0]])  # radii 12, 12
    found = neighbourhood(real, fake, k=1)
    assert found.recalled.tolist() == [True] * 4
    assert found.covered.tolist() == [False, False, True, True]


def test_far_apart_sets_share_nothing():
    real = points(20, 4)
    assert precision_recall(real, real + 100) == (0.0, 0.0)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("tile", [7, 4096])
def test_all_four_match_prdc(k, tile):
    prdc = pytest.importorskip("prdc")
    real, fake = points(120, 4), 0.7 * points(90, 4, seed=1) + 1
    with contextlib.redirect_stdout(io.StringIO()):
        expected = prdc.compute_prdc(real.numpy(), fake.numpy(), k)
    got = precision_recall(real, fake, k, tile), density_coverage(real, fake, k, tile)
    assert got[0].precision == pytest.approx(expected["precision"])
    assert got[0].recall == pytest.approx(expected["recall"])
    assert got[1].density == pytest.approx(expected["density"])
    assert got[1].coverage == pytest.approx(expected["coverage"])
    assert 0 < got[1].coverage < 1


def test_neighbourhood_names_the_pictures():
    real = torch.tensor([[0.0], [1.0], [10.0], [12.0]])  # radii 1, 1, 2, 2
    fake = torch.tensor([[0.5], [5.0]])  # radii 4.5, 4.5
    found = neighbourhood(real, fake, k=1)
    assert found.precise.tolist() == [True, False]
    assert found.recalled.tolist() == [True, True, False, False]
    assert found.density.tolist() == [2, 0]
    assert found.covered.tolist() == [True, True, False, False]


def test_half_types_are_widened():
    """In half precision squares beyond 65,504 would overflow."""
    real, fake = 1000 * points(50, 3).half(), 1000 * points(40, 3, seed=1).half()
    assert precision_recall(real, fake) == precision_recall(real.float(), fake.float())
    assert nearest_distances(fake, real).isfinite().all()


def test_distances_far_from_the_origin_keep_their_digits():
    """In float32 the squares, 2.5e7 each, leave nothing of distances near 1."""
    real, fake = points(60, 4).float(), points(50, 4, seed=1).float()
    shift = 5000
    shifted = precision_recall(real + shift, fake + shift)
    assert shifted == precision_recall((real + shift).double(), (fake + shift).double())


def test_neighbours_refuse_what_does_not_fit():
    two, three = torch.zeros(9, 2), torch.zeros(9, 3)
    for op in (nearest_distances, precision_recall, density_coverage):
        with pytest.raises(ValueError, match="features of one width, got 2 and 3 columns"):
            op(two, three)
    with pytest.raises(ValueError, match=r"references of shape \[N, D\] with N >= 1, got \(0, 2\)"):
        nearest_distances(two, two[:0])
    with pytest.raises(ValueError, match="expected k >= 1, got 0"):
        precision_recall(two, two, k=0)
    with pytest.raises(ValueError, match=r"real of shape \[N, D\] with N >= 4, got \(3, 2\)"):
        precision_recall(two[:3], two)
    with pytest.raises(ValueError, match=r"fake of shape \[N, D\] with N >= 4, got \(3, 2\)"):
        precision_recall(two, two[:3])
