"""What metrics share: halves of the real pictures, intervals, what is said of a figure."""

import pytest
import torch

from vfn.evaluation.sides import Figure, Judged, halves


def test_the_halves_share_no_picture():
    one, other = halves(torch.arange(11)[:, None], seed=0)
    assert torch.cat([one, other]).flatten().sort().values.tolist() == [*range(11)]
    assert not torch.equal(one, halves(torch.arange(11)[:, None], seed=1)[0])


def test_an_interval_is_that_of_resampled_rows():
    values, seen = torch.arange(50.0), []
    judged = Judged(None, None, None, None, "pixels", seed=3, bootstrap=20)
    low, high = judged.interval(24.5, 50, lambda rows: seen.append(rows) or values[rows].mean())
    assert len(seen) == 20
    assert len({tuple(rows.tolist()) for rows in seen}) == 20
    assert low < 24.5 < high
    # The mean of 50 has an error of 2; the ends of 20 sets lie near two of them.
    assert high - low == pytest.approx(8, rel=0.5)
    assert judged._replace(bootstrap=0).interval(24.5, 50, len) is None


def test_which_rows_are_resampled_is_of_the_seed():
    found = []
    for seed in (0, 1, 1):
        seen = []
        judged = Judged(None, None, None, None, "pixels", seed=seed, bootstrap=2)
        judged.interval(0.0, 50, lambda rows, seen=seen: seen.append(rows.tolist()) or 0.0)
        found.append(seen)
    assert found[0] != found[1] == found[2]


def test_what_stands_beside_a_figure():
    figure = Figure("a", "A", 1.0, note="how", baseline="halves")
    assert figure.about == "how"
    assert figure._replace(reference=2.0).about == "how; reference: halves"
