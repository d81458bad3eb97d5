"""Precision, recall, density, coverage: those of prdc, and each sees the fault it is there for."""

import contextlib
import io

import pytest
import torch

from vfn.data import Dataset
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.extractors import pixels
from vfn.evaluation.sides import HALVES, Sides, halves


def figures(real, fake, *names):
    return {f.key: f.value for f in evaluate(Sides(real, fake), names)}


def of_prdc(real, fake):
    """Precision and recall of three neighbours, density and coverage of five."""
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        three, five = (compute_prdc(real.numpy(), fake.numpy(), nearest_k=k) for k in (3, 5))
    return {n: (three if n in ("precision", "recall") else five)[n] for n in three}


def test_neighbours_are_those_of_prdc(real, held_out):
    """Sides in their roles and both numbers of neighbours; sides of different spread."""
    some = Dataset(torch.cat([held_out.images, real.images[:300] // 2]))
    got = figures(real, some, "pr", "dc")
    expected = of_prdc(*(pixels(side.images) for side in (real, some)))
    # Pixels are whole numbers: some distances are those of the radius, which prdc leaves out.
    assert got == pytest.approx(expected, rel=2e-3)
    assert len({*expected.values(), 0.0, 1.0}) == 6


def test_a_reference_is_the_mean_of_several_splits(real, held_out):
    """Of one alone precision is 0.886 to 0.929 by luck; the samples' seed has no part in it."""
    features = pixels(real.images)
    splits = [of_prdc(*halves(features, way)) for way in range(8)]
    found = evaluate(Sides(real, held_out), ["pr", "dc"])
    for figure in found:
        each = torch.tensor([split[figure.key] for split in splits])
        # Ties, as above.
        assert figure.reference == pytest.approx(each.mean().item(), rel=2e-3)
        low, high = figure.reference_interval
        assert low < each.min() < each.max() < high
        assert high <= 1 or figure.key == "density"
        assert f"{HALVES}, the mean of 8 splits, 718 in place of 360 against" in figure.baseline
    again = evaluate(Sides(real, held_out), ["pr", "dc"], seed=5)
    assert [figure._replace(interval=None) for figure in again] == found


@pytest.mark.parametrize(("pairs", "count"), [(10**8, 8), (2 * 10**6, 4), (10, 1)])
def test_large_sets_are_split_less_often(real, held_out, monkeypatch, pairs, count):
    """800 pictures make 480,000 pairs between the halves and within them."""
    seen = []
    place = "vfn.evaluation.neighbour_figures"
    monkeypatch.setattr(f"{place}._MOST_PAIRS", pairs)
    monkeypatch.setattr(f"{place}.halves", lambda rows, way: seen.append(way) or halves(rows, way))
    sides = Sides(real.rows(torch.arange(800)), held_out)
    figure = evaluate(sides, ["pr"])[0]
    assert seen == list(range(count))
    assert (figure.reference_interval is None) == (count == 1)
    assert ("splits" in figure.baseline) == (count > 1)
    evaluate(sides, ["pr"], references=False)
    assert len(seen) == count


def test_few_pictures_have_no_reference(real, held_out):
    five = Dataset(real.images[:5])
    for figure in evaluate(Sides(five, held_out), ["pr"]):
        assert figure.reference is None


def test_one_class_alone_has_little_recall(real, held_out):
    zeros = held_out.labels == 1
    got = figures(real, Dataset(held_out.images[zeros], held_out.labels[zeros]), "pr")
    assert got["precision"] > 0.8
    assert got["recall"] < 0.3


def test_noise_is_not_precise(real):
    noise = Dataset(torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8))
    assert figures(real, noise, "pr")["precision"] == 0
