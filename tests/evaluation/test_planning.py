"""Whole numbers and sizes of any kind are taken as Python's; what is none is refused."""

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import small_network
from tests.helpers.small import SHAPE, small_config
from vfn.evaluation import (
    bits_per_dim,
    evaluate,
    loss_by_logsnr,
    mean_held_out_loss,
    own_draws,
    paired_draws,
    preview_figures,
)
from vfn.evaluation.judging import judge
from vfn.evaluation.planning import checked_size
from vfn.evaluation.record import read_evaluation
from vfn.evaluation.sides import Sides
from vfn.sampling import as_data, untrained, usual_labels


def test_numbers_of_numpy_are_written(tmp_path):
    network = untrained(small_config(), SHAPE)
    found = judge("dataset:digits:train", network, ["fd"], num=np.int64(20), seed=np.int32(1),
                  bootstrap=np.int64(2), device="cpu")  # fmt: skip
    found.write(tmp_path / "found.json")
    settings = read_evaluation(tmp_path / "found.json").settings
    assert [settings[name] for name in ("num", "seed", "bootstrap")] == [20, 1, 2]


@pytest.mark.parametrize(
    "given", [{"num": 1.5}, {"seed": -1}, {"bootstrap": 2.5}, {"bootstrap": "2"}, {"num": "2"}]
)
def test_what_is_no_whole_number_is_refused(given):
    with pytest.raises(ValueError, match="to be a whole number"):
        judge("dataset:digits:train", "dataset:digits:test", ["fd"], device="cpu", **given)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (np.int64(16), (16, 16)),
        (torch.tensor(16), (16, 16)),
        ((np.int32(16), 8), (16, 8)),
        ([4], (4, 4)),
        (np.array([16, 8]), (16, 8)),
    ],
)
def test_a_size_is_of_any_whole_numbers(given, size):
    found = checked_size(given)
    assert found == size
    assert {*map(type, found)} == {int}


@pytest.mark.parametrize(
    "given", ["16", "1", (16.5, 16), 16.0, True, (16, True), (), (1, 2, 3), (0, 4), 2**15 + 1, {4}]
)
def test_what_is_no_size_is_refused(given):
    with pytest.raises(ValueError, match="expected image_size to be height,width, or one number"):
        judge("dataset:digits:train", "dataset:digits:test", ["fd"], image_size=given)


def test_numbers_of_other_functions_are_refused_or_taken(trained, held_out):
    """Whole ones of any kind are as Python's; of everything else one line says what it was."""
    some = held_out.rows(torch.arange(20))
    for ask in (
        lambda n: usual_labels(trained, n, as_data=True),
        lambda n: as_data(trained, n),
        lambda n: as_data(trained, 4, seed=n),
        lambda n: own_draws(trained, n),
        lambda n: paired_draws(small_network(trained.shape.legend), some, n),
        lambda n: bits_per_dim(trained, some, num=n),
        lambda n: bits_per_dim(trained, some, num=1, seed=n),
        lambda n: loss_by_logsnr(trained, some, seed=n),
        lambda n: loss_by_logsnr(trained, some, batch=n),
        lambda n: mean_held_out_loss(trained, some, seed=n),
        lambda n: mean_held_out_loss(trained, some, batch=n),
        lambda n: preview_figures(trained, some, n),
        lambda n: preview_figures(trained, some, 5, seed=n),
        lambda n: evaluate(Sides(some, some), ["fd"], seed=n),
        lambda n: evaluate(Sides(some, some), ["fd"], bootstrap=n),
    ):
        for number in ("2", 2.5, True, -1):
            with pytest.raises(ValueError, match=r"expected \w+ to be a whole number"):
                ask(number)
    for guidance in ("0.5", [0.5], True):
        for ask in (bits_per_dim, loss_by_logsnr):
            with pytest.raises(ValueError, match="expected guidance to be a finite number, got"):
                ask(trained, some, guidance=guidance)
    assert loss_by_logsnr(trained, some, seed=np.int64(3)) == loss_by_logsnr(trained, some, seed=3)
    assert torch.equal(as_data(trained, np.int64(9)).labels, as_data(trained, 9).labels)
