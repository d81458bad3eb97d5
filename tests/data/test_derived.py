"""What conditions are made of: small pictures, grey ones, masks, numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from vfn.data import to_unit
from vfn.data.derived import downscaled, grey, masked, with_mask
from vfn.data.given import derived_kind, vector_of


def test_small_pictures_are_means_of_squares():
    """The mean of each square by numpy; a gradient comes back as it was but for its ends."""
    x0 = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    made = downscaled(x0, torch.zeros(2, 4), 4)
    means = x0.numpy().reshape(2, 3, 2, 4, 3, 4).mean((3, 5))
    again = torch.nn.functional.interpolate(torch.from_numpy(means), size=(8, 12), mode="bicubic")
    torch.testing.assert_close(made[:, :3], again)
    assert torch.equal(made[:, 3], torch.ones(2, 8, 12, dtype=torch.float64))


def test_grey_is_what_pillow_makes():
    """To half a level: Pillow rounds."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    ours = grey(to_unit(torch.from_numpy(colours).movedim(-1, 0))[None], torch.zeros(1, 4), 0)[0, 0]
    theirs = np.asarray(Image.fromarray(colours).convert("L"), np.float32)
    assert np.abs((ours.numpy() + 1) * 127.5 - theirs).max() <= 0.51


def test_masks_hide_a_rectangle_of_a_quarter_to_three_quarters():
    u = torch.rand(200, 4, generator=torch.manual_seed(0))
    made = masked(torch.ones(200, 1, 12, 16), u, 0)
    hidden = made[:, 1] == 0
    heights, widths = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert torch.equal(hidden.sum((1, 2)), heights * widths)  # one rectangle each
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (3, 9, 4, 12)
    assert torch.equal(made[:, 0], made[:, 1])  # nothing of the pictures shows through
    assert hidden[:, 0].any()
    assert hidden[:, -1].any()
    assert torch.equal(with_mask(torch.ones(200, 1, 12, 16), made[:, 1]), made)


def test_numbers_are_standardised_and_a_one_tells_that_there_are_some():
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    made = vector_of(values, ("a", "b")).of(values)
    assert made[:, 0].mean().abs() < 1e-6
    assert made[:, 0].std(correction=0) == pytest.approx(1, rel=1e-6)
    assert torch.equal(made[:, 1:], torch.tensor([[0.0, 1.0]] * 3))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("downscale", "expected condition downscale with a number from 2 on"),
        ("downscale:1", "expected condition downscale with a number from 2 on"),
        ("mask:3", "expected condition mask without a number, got 'mask:3'"),
    ],
)
def test_conditions_that_are_none_are_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        derived_kind(condition)
