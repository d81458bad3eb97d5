"""Trained with conditions: batches have what belongs to their pictures, and runs resume."""

import pytest
import torch

from tests.helpers.conditioned import QUICK, told_config
from vfn.configs import load, override
from vfn.data import load_dataset
from vfn.runs import find_checkpoint
from vfn.train import train
from vfn.train.batches import make_batch


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("downscale:3", "downscale:3 to divide height and width, got 8 x 8"),
        ("grey", "expected colours for condition grey, got pictures of one channel"),
        ("/nowhere/x.npy", "condition '/nowhere/x.npy' to be downscale, grey, mask, or the path"),
    ],
)
def test_conditions_that_the_data_do_not_give_are_refused(condition, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(override(load("digits"), {**QUICK, "condition": condition}), tmp_path / "run")


def test_a_batch_has_what_belongs_to_its_pictures(shapes):
    """Numbers and pictures beside follow the rows and the mirror; dropped ones are all zero."""
    config = told_config(flip=True, p_uncond=0.4)
    batch = make_batch(shapes, config, torch.arange(64), torch.device("cpu"))
    torch.testing.assert_close(batch.image[:, :1], -batch.x0 * batch.image[:, 1:])
    kept = batch.vector[:, 3] == 1
    assert 20 < kept.sum() < 60
    assert torch.equal(batch.labels > 0, kept)  # all of a picture's conditions are dropped together
    assert torch.equal(batch.image[:, 1].amin((1, 2)) == 1, kept)
    assert not batch.vector[~kept].any()
    vector = shapes.vector
    tops = batch.vector[:, 0] * vector.deviation[0] + vector.mean[0]
    rows = (batch.x0 > 0).any(3).float().argmax(2)[:, 0]
    torch.testing.assert_close(tops[kept], rows[kept].float(), rtol=1e-4, atol=1e-4)
    some = make_batch(shapes, config, torch.arange(40, 50), torch.device("cpu"))
    assert torch.equal(some.image, batch.image[40:50])


def test_masks_of_training_belong_to_draws():
    digits, config = load_dataset("digits"), override(load("digits"), {"condition": "mask"})
    whole = make_batch(digits, config, torch.arange(32), torch.device("cpu")).image
    part = make_batch(digits, config, torch.arange(8, 16), torch.device("cpu")).image
    assert torch.equal(part, whole[8:16])
    assert len({tuple(mask.flatten().tolist()) for mask in whole[:, 1]}) > 20


def test_a_run_of_an_outside_network_resumes_bit_for_bit(told_run, shapes, tmp_path):
    out = tmp_path / "run"
    train(told_config(steps=2), out, dataset=(shapes, shapes), device="cpu")
    train(told_config(), out, dataset=(shapes, shapes), device="cpu", resume=True)
    whole, parts = find_checkpoint(told_run), find_checkpoint(out)
    assert (whole.step, parts.step) == (4, 4)
    assert all(torch.equal(value, parts.params[name]) for name, value in whole.params.items())
    assert all(torch.equal(value, parts.ema[name]) for name, value in whole.ema.items())
    assert parts.shape.vector.names == ("top", "left", "side")
    assert parts.shape == whole.shape


def test_other_numbers_of_the_pictures_are_not_what_a_run_was_begun_with(told_run, shapes):
    other = shapes._replace(vectors=shapes.vectors + 1)
    with pytest.raises(ValueError, match="begun with: other pictures, labels or conditions"):
        train(told_config(steps=6), told_run, dataset=(other, other), device="cpu", resume=True)


def test_a_network_that_takes_no_numbers_is_refused(shapes, tmp_path):
    config = told_config(network="tests.helpers.outside:Small")
    with pytest.raises(ValueError, match="unexpected keyword argument 'vector_dim'; it takes"):
        train(config, tmp_path / "run", dataset=shapes, device="cpu")


def test_pictures_beside_are_augmented_as_their_pictures_are(shapes):
    """Which they are the negatives of; a change is linear in the pixels."""
    config = told_config(augment=0.5, p_uncond=0.0)
    batch = make_batch(shapes, config, torch.arange(64), torch.device("cpu"))
    assert (batch.augment != 0).any(1).sum() > 30
    torch.testing.assert_close(batch.image[:, :1], -batch.x0, rtol=0, atol=1e-5)
