"""Our UNet and diffusers' UNet2DModel: names, layouts, and the settings that make them the same.

Theirs has scale before shift, a map each for q, k and v, and an embedding with a row for each class
in place of a linear layer without its bias; row 0 is 'none'.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn.files import few, shown
from vfn.interop.matching import Place, Recipe, fit, places
from vfn.interop.varied_unet import VARIED, variations
from vfn.nn.layers import ConvResample
from vfn.nn.network import GROUPS
from vfn.nn.unet import Block, UNet

# What UNet2DModel takes for what its configuration leaves out, and what ours can do.
DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2,
    "mid_block_scale_factor": 1, "downsample_padding": 1, "downsample_type": "conv",
    "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu", "attention_head_dim": 8,
    "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "add_attention": True, "class_embed_type": None,
    "num_class_embeds": None,
}  # fmt: skip
FIXED: dict[str, Any] = {
    "center_input_sample": False, "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D", "mid_block_scale_factor": 1, "norm_num_groups": GROUPS,
    "add_attention": True, "class_embed_type": None,
}  # fmt: skip
SHIFTS = {"scale_shift": True, "default": False}
SILU = ("silu", "swish")
DOWN, UP = "Down", "Up"


class Pairing(NamedTuple):
    """Parameters of ours and what they are there: ``join`` makes ours of theirs, ``split`` back."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    join: Callable[..., tuple[Tensor, ...]]
    split: Callable[..., tuple[Tensor, ...]]


def _same(*values: Tensor) -> tuple[Tensor, ...]:
    return values


def pairings(model: UNet, null_row: bool = True) -> Iterator[Pairing]:
    """Every parameter of a network and what it is in UNet2DModel.

    Args:
        model: one that `config_for_diffusers` takes.
        null_row: row 0 of their class embedding is 'none'; else each row is a class.

    Yields:
        pairings, of one parameter of ours or two.
    """
    yield from _layer("time_embed.0", "time_embedding.linear_1")
    yield from _layer("time_embed.2", "time_embedding.linear_2")
    if model.label_embed is not None:
        yield _labels(null_row)
    yield from _layer("in_conv", "conv_in")
    yield from _layer("out_norm", "conv_norm_out")
    yield from _layer("out_conv", "conv_out")
    projections = []
    for place in places(model):
        residual, attention = names(place, model.levels)
        if isinstance(place.block, ConvResample):
            yield from _layer(f"{place.name}.conv", f"{residual}.conv")
            continue
        ours = f"{place.name}.residual"
        for layer in ("norm1", "conv1", "norm2", "conv2"):
            yield from _layer(f"{ours}.{layer}", f"{residual}.{layer}")
        if not isinstance(place.block.residual.skip, nn.Identity):
            yield from _layer(f"{ours}.skip", f"{residual}.conv_shortcut")
        projections.append(f"{residual}.time_emb_proj")
        if place.block.attention is not None:
            yield from _attention(f"{place.name}.attention", attention)
    for kind in ("weight", "bias"):
        yield _modulation(kind, projections, model)


def names(place: Place, levels: int) -> tuple[str, str]:
    """Their names of a block's residual part and of its attention.

    Args:
        place: of the block in our network.
        levels: of the network.

    Returns:
        both names.
    """
    if place.part == "middle":
        return f"mid_block.resnets.{place.position}", "mid_block.attentions.0"
    level = place.level if place.part == "down" else levels - 1 - place.level
    block = f"{place.part}_blocks.{level}"
    if place.resamples:
        return f"{block}.{place.part}samplers.0", ""
    return f"{block}.resnets.{place.position}", f"{block}.attentions.{place.position}"


def _layer(ours: str, theirs: str) -> Iterator[Pairing]:
    for kind in ("weight", "bias"):
        yield Pairing((f"{ours}.{kind}",), (f"{theirs}.{kind}",), _same, _same)


def _labels(null_row: bool) -> Pairing:
    def join(rows: Tensor) -> tuple[Tensor, ...]:
        none = rows[0] if null_row else torch.zeros_like(rows[0])
        return (rows[int(null_row) :] - none).mT, none

    def split(weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([bias[None], weight.mT + bias]),)

    ours = ("label_embed.weight", "label_embed.bias")
    return Pairing(ours, ("class_embedding.weight",), join, split)


def _attention(ours: str, theirs: str) -> Iterator[Pairing]:
    yield from _layer(f"{ours}.norm", f"{theirs}.group_norm")
    yield from _layer(f"{ours}.out", f"{theirs}.to_out.0")
    for kind in ("weight", "bias"):
        maps = tuple(f"{theirs}.to_{letter}.{kind}" for letter in "qkv")
        yield Pairing((f"{ours}.qkv.{kind}",), maps, _stacked, lambda value: value.chunk(3))


def _stacked(*values: Tensor) -> tuple[Tensor, ...]:
    return (torch.cat(values),)


def _swapped(value: Tensor) -> Tensor:
    first, second = value.chunk(2)
    return torch.cat([second, first])


def _modulation(kind: str, projections: Sequence[str], model: UNet) -> Pairing:
    """Shift and scale of all blocks, which swap places."""
    widths = [width for width in model.modulation_widths if width]
    swapped = _swapped if variations(model)["scales"] else lambda value: value

    def join(*values: Tensor) -> tuple[Tensor, ...]:
        return (torch.cat([swapped(value) for value in values]),)

    def split(value: Tensor) -> tuple[Tensor, ...]:
        return tuple(swapped(part) for part in value.split(widths))

    theirs = tuple(f"{name}.{kind}" for name in projections)
    return Pairing((f"modulation.{kind}",), theirs, join, split)


@torch.no_grad()
def params_to_diffusers(params: Mapping[str, Tensor], model: UNet) -> dict[str, Tensor]:
    """Translate parameters of ``model`` into those of diffusers' UNet2DModel.

    Args:
        params: by our names: raw, averaged, or a distilled network's.
        model: the network that they are of; it is not changed.

    Returns:
        parameters by their names; those that are only renamed are the same tensors.

    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1, num_classes=2)
    >>> found = params_to_diffusers(dict(net.named_parameters()), net)
    >>> found["class_embedding.weight"].shape
    torch.Size([3, 128])
    """
    made: dict[str, Tensor] = {}
    for pairing in pairings(model):
        values = pairing.split(*(params[name] for name in pairing.ours))
        made.update(zip(pairing.theirs, values, strict=True))
    return made


def params_from_diffusers(
    state: Mapping[str, Tensor], model: UNet, null_row: bool = True
) -> dict[str, Tensor]:
    """Translate parameters of diffusers' UNet2DModel into those of ``model``.

    Args:
        state: by their names.
        model: a `UNet` of `options_from_diffusers`; it is not changed.
        null_row: row 0 of their class embedding is 'none'; else each row is a class, and 'none' is
            zero.

    Returns:
        parameters by our names, float32.

    Raises:
        ValueError: if names or shapes do not fit, or values are no finite numbers.

    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    >>> params = {name: value.detach() for name, value in net.named_parameters()}
    >>> back = params_from_diffusers(params_to_diffusers(params, net), net)
    >>> all(torch.equal(back[name], value) for name, value in params.items())
    True
    """

    def nth(join: Callable[..., tuple[Tensor, ...]], i: int) -> Callable[..., Tensor]:
        return lambda *values: join(*values)[i]

    recipes = {
        name: Recipe(pairing.theirs, nth(pairing.join, i))
        for pairing in pairings(model, null_row)
        for i, name in enumerate(pairing.ours)
    }
    return fit(model, recipes, state)


def config_for_diffusers(model: UNet, size: tuple[int, int]) -> dict[str, Any]:
    """The arguments of UNet2DModel that make it the same function as ``model``.

    Args:
        model: the network.
        size: height and width of its pictures.

    Returns:
        arguments by name.

    Raises:
        ValueError: for what UNet2DModel cannot express, with the reasons.

    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1, 2), num_res_blocks=1)
    >>> config_for_diffusers(net, (8, 8))["down_block_types"]
    ['ResnetDownsampleBlock2D', 'ResnetDownsampleBlock2D']
    """
    blocks = [(place, place.block) for place in places(model) if isinstance(place.block, Block)]
    faults = _faults(model, blocks, size)
    if faults:
        raise ValueError(f"UNet2DModel of diffusers cannot express {'; '.join(faults)}")
    widths, attends = {}, {}
    for place, block in blocks:
        if place.part == "down" and not place.resamples:
            widths[place.level] = block.residual.out_channels
            attends[place.level] = block.attention is not None
    resnet = not any(isinstance(place.block, ConvResample) for place in places(model))
    kind = "resnet" if resnet else "conv"
    down = [_block_type(DOWN, attends[level], resnet) for level in range(model.levels)]
    up = [_block_type(UP, attends[level], resnet) for level in reversed(range(model.levels))]
    embedding = model.modulation.in_features
    differs = variations(model)
    return {
        **FIXED,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": differs["norm_eps"],
        "freq_shift": differs["freq_shift"],
        "flip_sin_to_cos": differs["cos_first"],
        "resnet_time_scale_shift": "scale_shift" if differs["scales"] else "default",
        "sample_size": size[0] if size[0] == size[1] else list(size),
        "in_channels": model.in_channels,
        "out_channels": model.out_channels,
        "time_embedding_dim": None if embedding == 4 * model.hid_channels else embedding,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [widths[level] for level in range(model.levels)],
        "layers_per_block": model.num_res_blocks,
        "downsample_padding": differs["padding"],
        "downsample_type": kind,
        "upsample_type": kind,
        "dropout": model.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head_dim(blocks),
        "num_class_embeds": model.num_classes + 1 if model.num_classes else None,
    }


def _faults(model: UNet, blocks: Sequence[tuple[Place, Block]], size: tuple[int, int]) -> list[str]:
    """What of a network has no place in UNet2DModel."""
    faults = []
    if any(place.resamples and block.attention is not None for place, block in blocks):
        faults.append(
            "attention after the blocks that change the resolution (train with "
            "attend_after_resampling = false)"
        )
    if blocks[0][1].residual.out_channels != model.hid_channels:
        faults.append("a first of ch_multipliers other than 1")
    heads = _heads(blocks)
    if any(count * dim != width for count, dim, width in heads):
        faults.append("heads that together are not as wide as their level")
    elif len({dim for _, dim, _ in heads}) > 1 and any(count > 1 for count, _, _ in heads):
        faults.append("several heads whose width varies (give head_dim in place of num_heads)")
    groups = {m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)}
    if groups != {GROUPS}:
        faults.append(
            f"normalisations of other than {GROUPS} groups (group_channels, or widths that are no "
            f"multiples of {GROUPS})"
        )
    if model.patch_size > 1:
        faults.append("patches of several pixels (patch_size)")
    if model.input_gain:
        faults.append("a gain of z (input_gain)")
    multiple = 2 ** (model.levels - 1)
    if size[0] % multiple or size[1] % multiple:
        faults.append(f"pictures of {size[0]} x {size[1]}, no multiples of {multiple}")
    if model.time_embedding != "sinusoidal":
        faults.append(f"time_embedding {model.time_embedding}")
    if variations(model)["variance"]:
        faults.append("a variance beside the prediction")
    if variations(model)["time_scale"] != VARIED["time_scale"]:
        faults.append(f"times that count to {variations(model)['time_scale']:g}")
    if model.multitags:
        faults.append("tags")
    inputs = {
        "guidance": model.guidance_range is not None,
        "a second time": model.second_time,
        "numbers of each picture": model.vector_dim,
        "a picture beside z": model.image_channels,
        "augmentation": model.augment_dim,
    }
    faults += [f"{name} as an input" for name, taken in inputs.items() if taken]
    return faults


def _heads(blocks: Sequence[tuple[Place, Block]]) -> list[tuple[int, int, int]]:
    """Of each attention the number of heads, their width, and the width of the level."""
    maps = [block.attention for _, block in blocks if block.attention is not None]
    return [(a.num_heads, a.out.in_features // a.num_heads, a.out.out_features) for a in maps]


def _head_dim(blocks: Sequence[tuple[Place, Block]]) -> int | None:
    """The width of a head, or None where each level has one head of its own width."""
    heads = _heads(blocks)
    return None if all(count == 1 for count, _, _ in heads) else heads[0][1]


def _block_type(part: str, attends: bool, resnet: bool) -> str:
    if attends:
        return f"Attn{part}Block2D"
    return f"Resnet{part}sampleBlock2D" if resnet else f"{part}Block2D"


def options_from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that make `VariedUNet` the same function as a UNet2DModel.

    Args:
        config: its configuration.

    Returns:
        arguments by name, without those that data and labels determine.

    Raises:
        ValueError: for what ours has not, all of it at once.

    >>> options_from_diffusers({"act_fn": "gelu"})
    Traceback (most recent call last):
    ValueError: expected a UNet2DModel that the UNet here can be, got act_fn 'gelu' in place of silu
    """
    given = {**DEFAULTS, **{key: value for key, value in config.items() if key in DEFAULTS}}
    faults = [
        f"{key} {shown(given[key], 40)} in place of {value}"
        for key, value in FIXED.items()
        if given[key] != value
    ]
    shift, groups = given["resnet_time_scale_shift"], given["attn_norm_num_groups"]
    if shift not in [*SHIFTS]:  # a list, since JSON may hold what has no hash
        faults.append(f"resnet_time_scale_shift {shown(shift, 40)}")
    elif groups != GROUPS and (groups is not None or SHIFTS[shift]):
        faults.append(f"attn_norm_num_groups {shown(groups, 40)} in place of {GROUPS}")
    if given["act_fn"] not in SILU:
        faults.append(f"act_fn {shown(given['act_fn'], 40)} in place of silu")
    faults += _wrong_types(given)
    if not faults:
        faults += _wrong_blocks(given)
    if faults:
        raise ValueError(
            f"expected a UNet2DModel that the UNet here can be, got {few(faults, 8, 200, '; ')}"
        )
    return _options(given)


def _wrong_types(given: Mapping[str, Any]) -> list[str]:
    """Values that are not of their kind."""
    positive = {name: given[name] for name in ("in_channels", "out_channels", "layers_per_block")}
    faults = [f"{name} {shown(n, 40)}" for name, n in positive.items() if not _is_count(n)]
    for name in ("time_embedding_dim", "attention_head_dim", "num_class_embeds"):
        if given[name] is not None and not _is_count(given[name]):
            faults.append(f"{name} {shown(given[name], 40)}")
    lists = ("block_out_channels", "down_block_types", "up_block_types")
    for name, item in zip(lists, (int, str, str), strict=True):
        values = given[name]
        good = isinstance(values, list | tuple) and values and all(type(v) is item for v in values)
        if not good or (item is int and not all(map(_is_count, values))):
            faults.append(f"{name} {shown(values, 60)}")
    shares = {"dropout": 0.99, "norm_eps": 0.1, "freq_shift": 1}
    for name, most in shares.items():
        value = given[name]
        if type(value) not in (int, float) or not 0 <= value <= most:
            faults.append(f"{name} {shown(value, 40)}")
    if type(given["flip_sin_to_cos"]) is not bool:
        faults.append(f"flip_sin_to_cos {shown(given['flip_sin_to_cos'], 40)}")
    return faults


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _wrong_blocks(given: Mapping[str, Any]) -> list[str]:
    """Blocks that ours has not, or not together."""
    widths, down, up = (given[k] for k in ("block_out_channels", "down_block_types",
                                           "up_block_types"))  # fmt: skip
    faults = []
    if any(width % widths[0] for width in widths):
        faults.append(f"block_out_channels {shown(widths, 60)}, not multiples of the first")
    if widths[0] % GROUPS:
        faults.append(f"block_out_channels {shown(widths, 60)}, not multiples of {GROUPS}")
    if not len(widths) == len(down) == len(up):
        faults.append(f"{len(widths)} widths for {len(down)} and {len(up)} blocks")
        return faults
    known = {_block_type(part, attends, resnet): (attends, resnet)
             for part in (DOWN, UP) for attends in (True, False)
             for resnet in (True, False)}  # fmt: skip
    unknown = [name for name in (*down, *up) if name not in known]
    if unknown:
        return [*faults, f"blocks {few(dict.fromkeys(unknown), 3)}"]
    if [known[name][0] for name in down] != [known[name][0] for name in reversed(up)]:
        faults.append("attention on the way down at other levels than on the way up")
    kinds = _resampling(given)
    if len(kinds) > 1:
        faults.append("resampling by convolutions at some levels and by residual blocks at others")
    if kinds == {False} and given["downsample_padding"] not in (0, 1):
        faults.append(f"downsample_padding {shown(given['downsample_padding'], 20)}, not 0 or 1")
    return faults


def _resampling(given: Mapping[str, Any]) -> set[bool]:
    """Whether levels change the resolution in residual blocks; of one level nothing."""
    kinds = set()
    for blocks, kind in ((given["down_block_types"], given["downsample_type"]),
                         (given["up_block_types"], given["upsample_type"])):  # fmt: skip
        for name in blocks[:-1]:
            kinds.add((kind or "conv") == "resnet" if "Attn" in name else "Resnet" in name)
    return kinds


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    widths, resnet = given["block_out_channels"], _resampling(given) in ({True}, set())
    return {
        "norm_eps": float(given["norm_eps"]),
        "freq_shift": float(given["freq_shift"]),
        "cos_first": given["flip_sin_to_cos"],
        "scales": SHIFTS[given["resnet_time_scale_shift"]],
        "padding": 0 if resnet else given["downsample_padding"],
        "hid_channels": widths[0],
        "ch_multipliers": [width // widths[0] for width in widths],
        "num_res_blocks": given["layers_per_block"],
        "apply_attn": ["Attn" in name for name in given["down_block_types"]],
        "embedding_dim": given["time_embedding_dim"],
        "head_dim": given["attention_head_dim"],
        "dropout": float(given["dropout"]),
        "resample_with_res": resnet,
        "attend_after_resampling": False,
    }
