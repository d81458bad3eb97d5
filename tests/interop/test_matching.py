"""Where each parameter comes from, and what is said where it does not."""

import pytest
import torch

from vfn.interop.matching import Recipe, fit, places
from vfn.nn import UNet


@pytest.fixture(scope="module")
def model():
    return UNet(1, 1, 32, (1, 2), 1, (False, True))


@pytest.mark.parametrize("plain", [False, True])
def test_every_block_has_its_place(plain):
    net = UNet(1, 1, 32, (1, 2, 1), 2, (False, True, False), resample_with_res=not plain)
    found = places(net)
    assert [place.block for place in found] == [*net.down, *net.middle, *net.up]
    assert len({(place.part, place.level, place.position) for place in found}) == len(found)
    assert [(p.part, p.level) for p in found if p.resamples] == [
        ("down", 0), ("down", 1), ("up", 2), ("up", 1)
    ]  # fmt: skip


def own(model):
    """Recipes that take every parameter as it is, and a state for them."""
    state = {f"x.{name}": value.detach() for name, value in model.named_parameters()}
    return {key.removeprefix("x."): Recipe((key,), lambda value: value) for key in state}, state


def test_what_fits_is_taken_in_the_models_layout(model):
    recipes, state = own(model)
    params = fit(model, recipes, {key: value.double() for key, value in state.items()})
    for name, like in model.named_parameters():
        assert torch.equal(params[name], like)
        assert params[name].stride() == like.stride()
        assert params[name].dtype == torch.float32


def test_all_faults_are_counted(model):
    recipes, state = own(model)
    del state["x.in_conv.weight"]
    state["x.out_conv.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match="^expected a checkpoint of the network") as caught:
        fit(model, recipes, state | {"y": torch.zeros(1), "z": torch.zeros(1)})
    text = str(caught.value)
    assert "x.in_conv.weight is missing" in text
    assert "x.out_conv.bias gives (5,), expected (1,)" in text
    assert text.endswith("y is left over and 1 more")


def test_values_that_do_not_go_together(model):
    recipes, state = own(model)
    recipes["out_conv.bias"] = Recipe(
        ("x.out_conv.bias", "x.in_conv.weight"), lambda *values: torch.cat(values)
    )
    with pytest.raises(
        ValueError, match=r"x.out_conv.bias with 1 more gives \(1,\), \(32, 1, 3, 3\)"
    ):
        fit(model, recipes, state)
