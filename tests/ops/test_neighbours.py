"""Neighbours among features against scikit-learn, the prdc package and cases by hand."""

import contextlib
import io
from unittest import mock

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import vfn.ops.neighbours as neighbours
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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_distances_of_small_types_are_not_rounded_to_them(dtype):
    """255 from each value of 3, beyond what a byte holds, and 0."""
    queries = torch.tensor([[255.0] * 3, [0.0] * 3]).to(dtype)
    found = nearest_distances(queries, torch.zeros(1, 3).to(dtype))
    expected = torch.tensor([queries[0, 0].item() * 3**0.5, 0.0])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


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


def test_the_edge_of_a_ball_belongs_to_it_for_recall_alone():
    """On a line, k=1: 2 is as far from 1 as 0 is, and -10 from 2 as 14 is."""
    real = torch.tensor([[-10.0], [0.0], [1.0], [12.0]])  # radii 10, 1, 1, 11
    fake = torch.tensor([[2.0], [14.0]])  # radii 12, 12
    found = neighbourhood(real, fake, k=1)
    assert found.recalled.tolist() == [True] * 4
    assert found.covered.tolist() == [False, False, False, True]  # open, as prdc's
    assert found.precise.tolist() == [True, True]
    assert found.density.tolist() == [1, 1]  # 12 alone


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
    with pytest.raises(TypeError, match="expected real to be a tensor, got ndarray"):
        precision_recall(two.numpy(), two)
    with pytest.raises(ValueError, match="expected k >= 1, got 0"):
        precision_recall(two, two, k=0)
    with pytest.raises(ValueError, match=r"real of shape \[N, D\] with N >= 4, got \(3, 2\)"):
        precision_recall(two[:3], two)
    with pytest.raises(ValueError, match=r"fake of shape \[N, D\] with N >= 4, got \(3, 2\)"):
        precision_recall(two, two[:3])


def counted(real, fake, k):
    """All four in whole numbers, or in float64: every pair's difference, squared and summed."""
    real, fake = (side.double().numpy() for side in (real, fake))
    if (real == real.round()).all() and (fake == fake.round()).all():
        real, fake = real.astype(np.int64), fake.astype(np.int64)

    def squared(a, b):
        return np.stack([((row - b) ** 2).sum(1) for row in a])

    radii, fake_radii = (np.sort(squared(side, side), 1)[:, k] for side in (real, fake))
    between = squared(real, fake)
    balls = between < radii[:, None]
    return {
        "precise": (between <= radii[:, None]).any(0),
        "recalled": (between <= fake_radii).any(1),
        "density": balls.sum(0) / k,
        "covered": balls.any(1),
    }


def assert_counted(real, fake, k, tile):
    found = neighbourhood(real, fake, k, tile)
    for name, expected in counted(real, fake, k).items():
        np.testing.assert_array_equal(getattr(found, name).numpy(), expected, err_msg=name)


def whole(count, dim, levels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(levels, (count, dim), generator=generator).float()


@pytest.mark.parametrize("tile", [40, 64, 4096])
@pytest.mark.parametrize(("dim", "levels"), [(3, 3), (3, 12), (16, 2), (40, 256)])
def test_whole_numbers_are_counted_exactly(dim, levels, tile):
    """Ties everywhere: equal distances, and copies."""
    assert_counted(whole(300, dim, levels), whole(200, dim, levels, seed=1), 5, tile)


@pytest.mark.parametrize("offset", [0, 1000, 0.5])
def test_whole_numbers_far_from_the_origin_are_counted_exactly(offset):
    real, fake = whole(300, 3, 3) + offset, whole(200, 3, 3, seed=1) + offset
    found, expected = neighbourhood(real, fake, 5, 50), counted(real - offset, fake - offset, 5)
    assert found.density.mean().item() == pytest.approx(expected["density"].mean(), rel=1e-12)
    assert torch.equal(found.recalled, torch.from_numpy(expected["recalled"]))


@pytest.mark.slow
@pytest.mark.parametrize("tile", [7, 4096])
def test_ties_are_those_of_prdc_and_of_torch_fidelity(tile):
    """Density and coverage of the one, precision and recall of the other."""
    prdc, fidelity = (pytest.importorskip(name) for name in ("prdc", "torch_fidelity.metric_prc"))
    real, fake = whole(300, 3, 4), whole(200, 3, 3, seed=1)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), 3)
    got = density_coverage(real, fake, 3, tile)
    assert got.density == pytest.approx(theirs["density"], rel=1e-12)
    assert got.coverage == pytest.approx(theirs["coverage"], rel=1e-12)
    sides = (fake.double(), real.double())
    # By differences; torch's products are inexact.
    with mock.patch("torch.cdist", exact_cdist):
        expected = fidelity.calculate_precision_recall_part(*sides)
    assert precision_recall(real, fake, 3, tile) == pytest.approx(expected)


def exact_cdist(a, b):
    return (a[:, None] - b).square().sum(-1).sqrt()


@pytest.mark.parametrize("tile", [7, 4096])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_set_against_itself(k, tile):
    """A ball holds its centre and the k - 1 that are nearer than the k-th, in the mean k."""
    features = points(150, 30).float()
    shuffled = features[torch.randperm(150, generator=torch.Generator().manual_seed(1))]
    assert precision_recall(features, shuffled, k, tile) == (1, 1)
    assert density_coverage(features, shuffled, k, tile) == pytest.approx((1, 1), rel=1e-12)


@pytest.mark.parametrize("tile", [50, 4096])
@pytest.mark.parametrize("copies", [2, 4, 9])
def test_copies_recall_everything(copies, tile):
    """Where a copy is the k-th neighbour the radius is 0, and so is the distance to a copy."""
    features = points(60, 200).float()
    order = torch.randperm(60 * copies, generator=torch.Generator().manual_seed(1))
    real, fake = features.repeat(copies, 1), features.repeat(copies, 1)[order]
    assert precision_recall(real, fake, 3, tile) == (1, 1)
    assert_counted(real, fake, 3, tile)


@pytest.mark.parametrize("noise", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("tile", [11, 4096])
def test_near_copies_are_told_apart(noise, tile):
    """Twelve of each within the rounding of products in float32, more than are kept to spare."""
    features = points(8, 300).repeat(12, 1)
    real = (features + noise * points(96, 300, seed=1)).float()
    fake = (features + noise * points(96, 300, seed=2)).float()
    assert_counted(real, fake, 3, tile)
    nearest = np.stack([np.linalg.norm(row - real.double().numpy(), axis=1).min()
                        for row in fake.double().numpy()])  # fmt: skip
    found = nearest_distances(fake, real, tile)
    np.testing.assert_allclose(found.numpy(), nearest, rtol=1e-6)


def test_pictures_all_alike_are_counted():
    """As those of a network that has collapsed."""
    real, fake = points(40, 12).float(), torch.full((40, 12), 0.3)
    assert_counted(real, fake, 3, 16)
    found = neighbourhood(fake, fake)
    assert found.precise.all()
    assert not found.covered.any()  # an open ball of radius 0 is empty


def test_distance_to_the_nearest_of_no_queries():
    assert nearest_distances(torch.zeros(0, 3), torch.zeros(2, 3)).shape == (0,)


def test_few_pairs_are_looked_at_again():
    """Of features without ties the k-th neighbour of each: the cost is in the products."""
    real, fake = points(400, 64).float(), points(300, 64, seed=1).float()
    with mock.patch.object(neighbours, "_apart", wraps=neighbours._apart) as apart:
        neighbourhood(real, fake, 3)
    looked_at = sum(len(call.args[2]) for call in apart.call_args_list)
    assert looked_at < 1.2 * (len(real) + len(fake))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e16])
def test_the_scale_does_not_matter(scale):
    """Down to squares that float32 rounds to 0, up to the largest that it has."""
    real, fake = points(60, 4).float(), points(50, 4, 1).float()
    assert precision_recall(real * scale, fake * scale) == precision_recall(real, fake)
    assert density_coverage(real * scale, fake * scale) == density_coverage(real, fake)


@pytest.mark.parametrize("value", [1e20, float("inf"), float("nan")])
def test_features_whose_squares_leave_the_dtype_are_refused(value):
    real, fake = points(20, 3).float(), points(20, 3, 1).float()
    fake[4, 1] = value
    for compute in (precision_recall, density_coverage, nearest_distances):
        with pytest.raises(ValueError, match=r"expected features within ±2.7e\+18, whose squared"):
            compute(real, fake)
    wide = nearest_distances(real.double(), torch.full((1, 3), 1e20).double())
    assert wide.isfinite().all()
