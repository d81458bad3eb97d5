"""Fakes beside the pictures whose condition they have, by numpy."""

import numpy as np
import pytest
import torch

from vfn.data import as_dataset
from vfn.data.values import measured, ranged
from vfn.evaluation import Sides, evaluate, judge
from vfn.sampling import load as load_run
from vfn.sampling import untrained


def test_fakes_are_judged_beside_the_pictures_whose_condition_they_have(told_run, shapes):
    """By numpy, of pictures drawn by hand."""
    trained = load_run(told_run, "cpu")
    found = judge(shapes, trained, ["psnr", "ssim"], num=12, device="cpu")
    rows = torch.arange(12) * 60 // 12
    drawn = trained.sample(12, condition=shapes.rows(rows)).images.numpy().astype(float)
    real = shapes.images[rows].numpy().astype(float)
    errors = ((drawn - real) ** 2).mean((1, 2, 3))
    expected = (10 * np.log10(255**2 / errors)).mean()
    assert {figure.key for figure in found.figures} == {"psnr", "ssim"}
    assert found.figures[0].value == pytest.approx(expected, rel=1e-6)
    with pytest.raises(
        ValueError, match="held-out pictures of the network's own data, and its data"
    ):
        judge(
            shapes, trained, "loss", num=12, device="cpu"
        )  # it was trained on others than it names


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_the_peak_of_pairs_is_the_width_of_their_range(kind):
    """By numpy; numbers without a range were judged as if two deviations were one."""
    draw = np.random.default_rng(0)
    real, fake = (draw.uniform(100, 500, (6, 2, 12, 12)).astype(kind) for _ in range(2))
    one, other = (torch.from_numpy(each) for each in (real, fake))
    values = ranged(kind, 100, 500)
    sides = [as_dataset(each, values=values) for each in (one, other)]
    errors = ((real.astype(float) - fake.astype(float)) ** 2).mean((1, 2, 3))
    found = judge(*sides, ["psnr", "ssim"], device="cpu").figures
    alone = evaluate(Sides(*sides), ["psnr", "ssim"])
    assert [figure.value for figure in alone] == [figure.value for figure in found]
    assert found[0].value == pytest.approx((10 * np.log10(400**2 / errors)).mean(), rel=1e-5)
    standardised = measured(one, kind, standardise=True)
    sides = [as_dataset(each, values=standardised) for each in (one, other)]
    for metric in ("psnr", "ssim"):
        message = f"{metric} needs numbers of a known range, .*, got {kind}, standardised; train on"
        with pytest.raises(ValueError, match=message):
            judge(*sides, metric, device="cpu")
        with pytest.raises(ValueError, match=message):
            evaluate(Sides(*sides), [metric])


def test_pairs_are_needed(shapes):
    assert judge(shapes, shapes, "psnr,ssim", device="cpu").figures[0].value == 100
    with pytest.raises(
        ValueError, match=r"psnr needs as many fake as real pictures, got \(60, 6\)"
    ):
        judge(shapes, shapes.rows(torch.arange(6)), "psnr", device="cpu")
    with pytest.raises(ValueError, match="psnr needs a fake picture for each real one, and this"):
        judge("dataset:digits", untrained("digits"), "psnr", num=4, device="cpu")
