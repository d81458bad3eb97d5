"""Names and layouts of the reference implementation's UNet parameters."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vfn.files import shortened
from vfn.interop.matching import Place, Recipe, fit, places, plain_tensors
from vfn.nn.layers import ConvResample
from vfn.nn.unet import UNet

PARTS = {"down": "downsamples", "up": "upsamples"}
PREFIX = "module."


def params_from_reference(state: Mapping[str, Tensor], model: UNet) -> dict[str, Tensor]:
    """Translate the reference's parameters into those of ``model``.

    Both of its attention layouts are known: one 1x1 convolution for q, k and v, and three linear
    layers. Whatever has the parameters' names and shapes is translated alike: EMA, Adam's moments.

    Args:
        state: the reference's parameters by name, perhaps with ``module.`` in front of each.
        model: a `UNet` of the same configuration; it is not changed.

    Returns:
        parameters under this library's names, float32, in the shapes of ``model``.

    Raises:
        ValueError: if names or shapes do not fit the model, the first that differ are listed; or
            values that are no finite numbers.

    >>> params_from_reference({}, UNet(1, 1, 32, (1,), 1, (False,)))
    Traceback (most recent call last):
    ValueError: expected a checkpoint of the network that the configuration describes: ...
    """
    state = without_prefix(plain_tensors(state))
    layers = dict(_layers(model, linear=any(".to_q." in name for name in state)))
    recipes = {}
    for name, like in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        keys = tuple(f"{theirs}.{kind}" for theirs in layers[layer])
        recipes[name] = Recipe(keys, _rows if like.ndim == 2 else _stack)
    return fit(model, recipes, state)


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by their names without ``module.`` in front.

    Args:
        state: by name.

    Returns:
        the same tensors.

    Raises:
        ValueError: if one is there with it and without.
    """
    short = {name.removeprefix(PREFIX): value for name, value in state.items()}
    if len(short) < len(state):
        twice = next(name for name in short if name in state and PREFIX + name in state)
        raise ValueError(
            f"expected {shortened(twice)} once in the checkpoint, got it also with {PREFIX}"
        )
    return short


def _stack(*values: Tensor) -> Tensor:
    return torch.cat(values)


def _rows(*values: Tensor) -> Tensor:
    """The weight of a linear layer, of 1x1 convolutions or of linear layers."""
    return torch.cat(values).flatten(1)


def _layers(model: UNet, linear: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each of our layers, and those of the reference that it is made of."""
    yield "time_embed.0", ("time_embed.0",)
    yield "time_embed.2", ("time_embed.2",)
    yield "label_embed", ("class_embed" if model.multitags else "class_embed.1",)
    yield "in_conv", ("in_conv",)
    yield "out_norm", ("out_conv.0",)
    yield "out_conv", ("out_conv.2",)
    conditioned = []
    for place in places(model):
        residual, attention = _names(place)
        if isinstance(place.block, ConvResample):
            yield f"{place.name}.conv", (f"{residual}.1" if place.part == "up" else residual,)
            continue
        for layer in ("norm1", "conv1", "norm2", "conv2", "skip"):
            yield f"{place.name}.residual.{layer}", (f"{residual}.{layer}",)
        conditioned.append(f"{residual}.fc")
        qkv = ("to_q", "to_k", "to_v") if linear else ("proj_in",)
        yield f"{place.name}.attention.norm", (f"{attention}.norm",)
        yield f"{place.name}.attention.qkv", tuple(f"{attention}.{layer}" for layer in qkv)
        yield f"{place.name}.attention.out", (f"{attention}.proj_out",)
    yield "modulation", tuple(conditioned)


def _names(place: Place) -> tuple[str, str]:
    """The reference's names of a block's residual part and of its attention."""
    if place.part == "middle":
        return f"middle.{2 * place.position}", "middle.1"
    name = f"{PARTS[place.part]}.level_{place.level}.{place.position}"
    attends = not isinstance(place.block, ConvResample) and place.block.attention is not None
    return f"{name}.0" if attends else name, f"{name}.1"
