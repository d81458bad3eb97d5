"""Bits per dimension: three figures that do not depend on batches."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.conftest import small_network
from vfn.data import Dataset, Labels
from vfn.data.values import Values, ranged
from vfn.evaluation import bits, judge
from vfn.evaluation.bits import bits_per_dim


@pytest.fixture
def coarse(monkeypatch):
    """Few steps and draws; the notes stay those of many."""
    for name, value in (("STEPS", 3), ("DRAWS", 2), ("FLOW_STEPS", 2)):
        monkeypatch.setattr(bits, name, value)


@pytest.mark.usefixtures("coarse")
def test_bits_are_the_same_in_any_batches(trained, held_out, monkeypatch):
    whole = bits_per_dim(trained, held_out, num=10, seed=2)
    monkeypatch.setattr(bits, "BATCH", 4)
    parts = bits_per_dim(trained, held_out, num=10, seed=2)
    assert [f.key for f in whole] == ["bits_bound_discrete", "bits_bound_continuous", "bits_flow"]
    for one, other in zip(whole, parts, strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-4)
        assert one.value > 0
        assert one.error > 0
    assert whole[0].note.endswith("steps of fixed_large")


@pytest.mark.usefixtures("coarse")
def test_some_pictures_are_evenly_spread(trained, held_out):
    """Each has the noise that it has among all."""
    four = held_out._replace(images=held_out.images[:4], labels=held_out.labels[:4])
    rows = [0, 0, 2, 0]  # two of four are the first and the third
    same = four._replace(images=four.images[rows], labels=four.labels[rows])
    assert bits_per_dim(trained, four, num=2) == bits_per_dim(trained, same, num=2)
    rows = [0, 1, 1, 3]
    other = four._replace(images=four.images[rows], labels=four.labels[rows])
    assert bits_per_dim(trained, four, num=2) != bits_per_dim(trained, other, num=2)


@pytest.mark.parametrize(
    "values",
    [ranged("uint8", 0, 200), Values("uint8", (90.0,), (30.0,), False), ranged("float32", 0, 1)],
)
def test_numbers_that_are_no_grey_levels_have_no_bits(trained, held_out, values):
    """Also where they are of 8 bits: the levels would lie elsewhere than those that are counted."""
    images = (held_out.images * 0.5).to(getattr(torch, values.dtype))
    others = held_out._replace(images=images / 255 if values.dtype == "float32" else images,
                               values=values)  # fmt: skip
    network = replace(trained, shape=trained.shape._replace(values=values))
    message = f"expected 8-bit pictures, whose 256 levels .*, got {values.describe()}; judge"
    for one, data in ((network, held_out), (trained, others)):
        with pytest.raises(ValueError, match=message):
            bits_per_dim(one, data, num=1)
    with pytest.raises(ValueError, match=f"bpd needs the 256 levels .* got {values.describe()}"):
        judge(others, network, "bpd", num=4, device="cpu")


@pytest.mark.usefixtures("coarse")
def test_a_network_is_asked_with_the_guidance_that_it_takes(trained, held_out, monkeypatch):
    asked = []

    def recorded(denoise, _diffusion, x0, *_):
        asked.append(denoise.args[1])
        return torch.zeros(3, len(x0))

    monkeypatch.setattr(bits, "_of_batch", recorded)
    bits_per_dim(trained, held_out, num=2, guidance=1.5)
    bits_per_dim(trained, held_out, num=2)
    assert asked == [1.5, 0.0]


def test_a_network_with_guidance_is_told_its_weight(held_out):
    network = small_network(
        held_out.legend, guidance_range=(1.0, 4.0), teacher_steps=4, student_steps=2
    )
    with pytest.raises(
        ValueError, match="expected guidance in 1..4, an input of this network, got None; name"
    ):
        bits_per_dim(network, held_out, num=2)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize(("highest", "decoded"), [(8.0, 8.0), (20.0, bits.DECODED)])
def test_the_decoder_takes_over_at_half_a_level(held_out, monkeypatch, highest, decoded):
    """Or where the schedule ends, if that is before."""
    network = small_network(Labels(), logsnr_max=highest)
    seen, whole = [], bits.continuous_vlb_bpd

    def recorded(denoise, x0, low, high, *rest, **options):
        seen.append(high)
        return whole(denoise, x0, low, high, *rest, **options)

    monkeypatch.setattr(bits, "continuous_vlb_bpd", recorded)
    bits_per_dim(network, Dataset(held_out.images[:2]))
    assert seen == [pytest.approx(decoded, abs=0.05)]
