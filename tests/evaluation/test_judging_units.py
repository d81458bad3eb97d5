"""Sides of other sizes and units are brought together, or refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.conftest import REAL, small_network, values
from tests.helpers.small import small_config
from vfn.configs import override
from vfn.data import Labels
from vfn.data.resize import resized
from vfn.data.values import Values
from vfn.evaluation.judging import judge
from vfn.model import DataShape
from vfn.sampling import untrained


def test_sides_of_other_sizes_are_brought_together(held_out, tmp_path):
    """The same pictures twice as large, in a folder beside one of another size."""
    large = held_out.images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    small = resized(large, (8, 8))
    with pytest.raises(ValueError, match="bring them together with --image-size"):
        judge(REAL, large, device="cpu")
    with pytest.raises(ValueError, match="make all of them grey, or RGB"):
        judge(REAL, held_out.images.expand(-1, 3, -1, -1), device="cpu")
    found = judge(
        REAL, large, image_size=8, held_out=large, metrics="fd,memorisation", device="cpu"
    )
    assert values(found) == values(
        judge(REAL, small, held_out=small, metrics="fd,memorisation", device="cpu")
    )
    assert found.settings["image_size"] == [8, 8]
    assert "as torch-fidelity" in found.settings["image_resize"]
    for i, picture in enumerate([*large[:9, 0], torch.zeros(20, 9, dtype=torch.uint8)]):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
    assert judge(REAL, tmp_path, image_size=(8, 8), device="cpu").settings["num"] == 10
    network = small_network(Labels(tuple("0123456789")))
    assert judge(large, network, image_size=12, num=20, device="cpu").settings["num"] == 20


def network_of(values):
    torch.manual_seed(0)
    config = override(small_config(), {"guidance": 0.0})
    return untrained(config, DataShape(1, 4, 4, values=values))


@pytest.mark.parametrize("bounded", [False, True])
def test_networks_are_compared_in_the_units_of_one(bounded):
    """The Fréchet distance of what they draw, by numpy: one has ten times the other's numbers."""
    one = network_of(Values("float32", (2.0,), (4.0,), bounded))
    other = network_of(Values("float32", (100.0,), (40.0,), bounded=False))
    draws = [network.draws(60, seed=seed, steps=2) for seed, network in enumerate((other, one))]
    found = judge(*draws, ["fd"], device="cpu").figures[0].value
    sides = [(each.all().images.flatten(1).double().numpy() - 100) / 40 for each in draws]
    (first, second), (mean, mean2) = ([f(s / 2) for s in sides] for f in (covariance, center))
    root = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    expected = ((mean - mean2) ** 2).sum() + np.trace(first + second) - 2 * root
    assert found == pytest.approx(expected, rel=1e-5)


def covariance(rows):
    return np.cov(rows, rowvar=False)


def center(rows):
    return rows.mean(0)


@pytest.mark.parametrize(
    "values",
    [
        Values("float32", (0.0,), (2.0,)),
        Values("float32", (0.0,), (1.0,), bounded=False),
        Values("uint16", (1.0,), (1.0,)),
        Values("uint8", (100.0,), (100.0,)),
        Values(),
    ],
)
def test_networks_in_units_of_several_ranges_are_refused(values):
    other, one = network_of(values), network_of(Values("float32", (0.0,), (1.0,)))
    with pytest.raises(ValueError, match="networks of numbers of one type and range, got .*float3"):
        judge(one, other, ["fd"], num=10, device="cpu")
    assert judge(one, one, ["fd"], num=10, device="cpu").figures
