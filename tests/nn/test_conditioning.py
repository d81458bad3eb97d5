"""Conditions beside labels, of either network of the package."""

import pytest
import torch

from vfn.nn import Conditions, Transformer, UNet, denoiser
from vfn.ops import logsnr_schedule

NETWORKS = {
    "unet": lambda **more: UNet(2, 2, 32, (1,), 1, **more),
    "transformer": lambda **more: Transformer(2, 2, 2, 16, 1, 2, **more),
}
TAKEN = {"vector_dim": 3, "image_channels": 4, "augment_dim": 5}


@pytest.fixture(params=NETWORKS)
def build(request):
    """A network none of whose layers is zero, with some options."""

    def built(**options):
        torch.manual_seed(0)
        model = NETWORKS[request.param](**options).eval()
        with torch.no_grad():
            for param in model.parameters():
                param.normal_(std=0.2)
        return model

    return built


def given(count=2):
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(count, 2, 4, 6, generator=draw)
    more = {
        "vector": torch.randn(count, 3, generator=draw),
        "image": torch.randn(count, 4, 4, 6, generator=draw),
        "augment": torch.randn(count, 5, generator=draw),
    }
    return (z, torch.rand(count, generator=draw)), more


def test_every_condition_counts_and_is_one_for_each_sample(build):
    model = build(**TAKEN)
    inputs, conditions = given()
    out = model(*inputs, **conditions)
    for name, value in conditions.items():
        changed = torch.cat([value[:1], -value[1:]])
        found = model(*inputs, **{**conditions, name: changed})
        torch.testing.assert_close(found[0], out[0], rtol=1e-4, atol=1e-5)
        assert (found[1] - out[1]).abs().max() > 1e-2


def test_without_augmentation_is_with_none_of_it(build):
    model = build(**TAKEN)
    inputs, conditions = given()
    zero = model(*inputs, **{**conditions, "augment": torch.zeros(2, 5)})
    del conditions["augment"]
    assert torch.equal(model(*inputs, **conditions), zero)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("vector", None, r"expected vector of shape \(2, 3\) .*, got None"),
        ("vector", torch.ones(2, 4), r"expected vector of shape \(2, 3\) .*, got \(2, 4\)"),
        ("image", None, r"expected image of shape \(2, 4, 4, 6\) .*, got None"),
        ("image", torch.ones(2, 4, 4, 4), r"image of shape \(2, 4, 4, 6\) .*, got \(2, 4, 4, 4\)"),
        ("augment", torch.ones(1, 5), r"expected augment of shape \(2, 5\) .*, got \(1, 5\)"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(build, name, value, message):
    inputs, conditions = given()
    with pytest.raises(ValueError, match=message):
        build(**TAKEN)(*inputs, **{**conditions, name: value})


@pytest.mark.parametrize("name", ["vector", "image", "augment"])
def test_conditions_that_are_not_taken_are_refused(build, name):
    inputs, conditions = given()
    with pytest.raises(ValueError, match=f"expected no {name} for a network that does not take it"):
        build()(*inputs, **{name: conditions[name]})


def test_smooth_time_turns_a_hundredth_as_far(build):
    """Seen through the embedding of 100 times the time."""
    smooth, usual = build(time_embedding="smooth"), build()
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    torch.testing.assert_close(smooth.embed(t, None), usual.embed(t / 100, None))


def test_guidance_is_seen_by_its_place_in_the_range(build):
    """From the lowest to the highest weight, wherever these are."""
    inputs = (*given()[0], None)
    low, high = (build(guidance_range=span) for span in ((0.0, 2.0), (1.0, 5.0)))
    for share in (0.0, 0.5, 1.0):
        one, other = torch.full((2,), 2 * share), torch.full((2,), 1 + 4 * share)
        torch.testing.assert_close(low(*inputs, one), high(*inputs, other))


def test_numbers_alone_are_enough_for_guidance():
    model = Transformer(1, 1, 2, 16, 1, 2, vector_dim=2)
    schedule = logsnr_schedule("cosine")
    vector = Conditions(vector=torch.ones(3, 2))
    denoise = denoiser(model, None, schedule, "v", guidance=1.0, conditions=vector)
    assert denoise(torch.randn(3, 1, 4, 4), torch.zeros(3)).shape == (3, 1, 4, 4)
    with pytest.raises(ValueError, match="expected labels for guidance 1.0, got None"):
        denoiser(model, None, schedule, "v", guidance=1.0)
