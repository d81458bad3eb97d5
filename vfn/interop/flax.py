"""Names and layouts of the UNet parameters of the paper's JAX code (a Flax Linen module)."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vfn.files import shortened
from vfn.interop.matching import Place, Recipe, fit, places
from vfn.nn.layers import ConvResample, SelfAttention
from vfn.nn.unet import UNet

# Kernels of convolutions, dense layers, and dense layers that are 1x1 convolutions here.
CONV, DENSE, POINT = "h w i o -> o i h w", "i o -> o i", "i o -> o i 1 1"
SEPARATOR = "/"
DEEPEST = 32  # levels of names
Layers = Iterator[tuple[str, Recipe]]


def params_from_flax(tree: Mapping[Any, Any], model: UNet) -> dict[str, Tensor]:
    """Translate parameters of the paper's JAX UNet into those of ``model``.

    Its attention belongs to resolutions, and blocks that resample have none: where ``model`` has
    attention in such a block, it gets zeros, which make it the identity. An embedding with one row
    more than there are classes has 'unconditional' in row 0; the row is folded into the bias. A
    network of its input type ``inv_cos`` takes the time of the cosine schedule without limits:
    ``logsnr_schedule("cosine", -math.inf, math.inf).time``.

    Checked: names, transposes and the order of shift and scale, by running the published module
    with random parameters beside this network. Not checked: files of trained parameters, as none
    was at hand.

    Args:
        tree: the module's parameters as arrays, nested (``{"conv_in": {"kernel": …}}``), or flat
            with keys ``"conv_in/kernel"`` or ``("conv_in", "kernel")``; of a training state its
            ``ema_params``.
        model: a `UNet` of the same configuration; it is not changed.

    Returns:
        parameters under this library's names, float32, in the shapes of ``model``.

    Raises:
        ValueError: if names or shapes do not fit the model, the first that differ are listed; or
            the model takes tags.

    Source: Salimans & Ho 2022 (2202.00512), appendix B.

    >>> from vfn.nn import UNet
    >>> small = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    >>> params_from_flax({"conv_in": {"kernel": np.zeros((3, 3, 1, 32))}}, small)
    Traceback (most recent call last):
    ValueError: ...
    """
    if model.multitags:
        raise ValueError("expected a network with classes or without labels, got one with tags")
    return fit(model, dict(_layers(model)), flat_params(tree))


def flat_params(tree: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Nested or flat arrays as tensors by names such as ``conv_in/kernel``.

    Args:
        tree: as of `params_from_flax`.

    Returns:
        float32 tensors by name.

    Raises:
        ValueError: for names that are no texts, and for what is no array of numbers.

    >>> flat_params({"params": {"conv_in": {"bias": np.zeros(2, np.float16)}}})
    {'conv_in/bias': tensor([0., 0.])}
    """
    return {name.removeprefix("params/"): value for name, value in _flat(tree)}


def _flat(
    tree: Mapping[Any, Any], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Tensor]]:
    if depth > DEEPEST:
        raise ValueError(f"expected parameters in at most {DEEPEST} levels of names, got more")
    for key, value in tree.items():
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(f"expected texts as names of parameters, got {shortened(repr(key))}")
        name = prefix + SEPARATOR.join(parts)
        if isinstance(value, Mapping):
            yield from _flat(value, name + SEPARATOR, depth + 1)
        else:
            yield name, _tensor(name, value)


def _tensor(name: str, value: Any) -> Tensor:
    """An array, perhaps of JAX and of its bfloat16, as float32."""
    array = np.asarray(value)
    expanded = any(n > 1 and step == 0 for n, step in zip(array.shape, array.strides, strict=True))
    if array.dtype.kind in "fV" and array.dtype.names is None and not expanded:
        try:
            return torch.tensor(array.astype(np.float32))
        except (TypeError, ValueError):
            pass
    raise ValueError(
        f"expected {shortened(name)} to be an ordinary array of floating-point numbers, got "
        f"{'an expanded one of ' if expanded else ''}{shortened(str(array.dtype))} "
        f"{list(array.shape)}"
    )


def _layers(model: UNet) -> Layers:
    """Each of our parameters and where it comes from."""
    yield from _layer("time_embed.0", "dense0", DENSE)
    yield from _layer("time_embed.2", "dense1", DENSE)
    yield from _labels(model.num_classes)
    yield from _layer("in_conv", "conv_in", CONV)
    yield from _norm("out_norm", "norm_out")
    yield from _layer("out_conv", "conv_out", CONV)
    conditioned = []
    for place in places(model):
        theirs = _name(place)
        if isinstance(place.block, ConvResample):
            yield from _layer(f"{place.name}.conv", theirs, CONV)
            continue
        conditioned.append(f"{theirs}/temb_proj")
        for layer in ("norm1", "norm2"):
            yield from _norm(f"{place.name}.residual.{layer}", f"{theirs}/{layer}")
        for layer in ("conv1", "conv2"):
            yield from _layer(f"{place.name}.residual.{layer}", f"{theirs}/{layer}", CONV)
        yield from _layer(f"{place.name}.residual.skip", f"{theirs}/nin_shortcut", POINT)
        attention = place.block.attention
        if attention is not None and place.resamples:
            yield from _identity(f"{place.name}.attention", attention)
        elif attention is not None:
            theirs = theirs.replace("block", "attn")
            yield from _attention(f"{place.name}.attention", theirs, attention.num_heads)
    for ours, kind in (("weight", "kernel"), ("bias", "bias")):
        keys = tuple(f"{layer}/{kind}" for layer in conditioned)
        yield f"modulation.{ours}", Recipe(keys, _modulation)


def _name(place: Place) -> str:
    if place.part == "middle":
        return f"mid.block_{place.position + 1}"
    kind = f"{place.part}sample" if place.resamples else f"block_{place.position}"
    return f"{place.part}_{place.level}.{kind}"


def _layer(ours: str, theirs: str, pattern: str) -> Layers:
    yield f"{ours}.weight", Recipe((f"{theirs}/kernel",), partial(rearrange, pattern=pattern))
    yield f"{ours}.bias", Recipe((f"{theirs}/bias",), _same)


def _norm(ours: str, theirs: str) -> Layers:
    yield f"{ours}.weight", Recipe((f"{theirs}/scale",), _same)
    yield f"{ours}.bias", Recipe((f"{theirs}/bias",), _same)


def _same(value: Tensor) -> Tensor:
    return value


def _modulation(*values: Tensor) -> Tensor:
    """Scale before shift in columns, to shift before scale in rows."""
    parts = [value.mT.chunk(2) if value.ndim > 1 else value.chunk(2) for value in values]
    return torch.cat([half for scale, shift in parts for half in (shift, scale)])


def _labels(num_classes: int) -> Layers:
    def weight(kernel: Tensor) -> Tensor:
        return kernel.mT if len(kernel) == num_classes else (kernel[1:] - kernel[:1]).mT

    def bias(bias: Tensor, kernel: Tensor) -> Tensor:
        return bias if len(kernel) == num_classes else bias + kernel[0]

    yield "label_embed.weight", Recipe(("class_emb/kernel",), weight)
    yield "label_embed.bias", Recipe(("class_emb/bias", "class_emb/kernel"), bias)


def _attention(ours: str, theirs: str, heads: int) -> Layers:
    def rows(pattern: str) -> Callable[..., Tensor]:
        return lambda *values: torch.cat([rearrange(v, pattern, h=heads) for v in values])

    yield from _norm(f"{ours}.norm", f"{theirs}/norm")
    for kind, key, pattern in (
        ("weight", "kernel", "c h d -> (h d) c"),
        ("bias", "bias", "h d -> (h d)"),
    ):
        keys = tuple(f"{theirs}/{layer}/{key}" for layer in "qkv")
        yield f"{ours}.qkv.{kind}", Recipe(keys, rows(pattern))
    yield f"{ours}.out.weight", Recipe((f"{theirs}/proj_out/kernel",), rows("h d c -> c (h d)"))
    yield f"{ours}.out.bias", Recipe((f"{theirs}/proj_out/bias",), _same)


def _identity(ours: str, attention: SelfAttention) -> Layers:
    """Attention that adds nothing."""
    for name, like in attention.named_parameters():
        yield f"{ours}.{name}", Recipe((), partial(torch.zeros, like.shape))
