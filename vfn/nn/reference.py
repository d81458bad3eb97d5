"""Names and layouts of the reference implementation's UNet parameters."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vfn.nn.unet import UNet


def params_from_reference(state: Mapping[str, Tensor], model: UNet) -> dict[str, Tensor]:
    """Translate the reference's parameters into those of ``model``.

    Args:
        state: the reference's parameters by name, perhaps with ``module.`` in front of each.
        model: a `UNet` of the same configuration; it is not changed.

    Returns:
        parameters under this library's names, float32, in the shapes of ``model``.

    Raises:
        ValueError: if names or shapes do not fit the model; the first that differ are listed.
    """
    state = {name.removeprefix("module."): value.float() for name, value in state.items()}
    names = dict(_fixed_names(model))
    fc: list[str] = []
    for ours, theirs, has_attention in _blocks(model):
        residual = f"{theirs}.0" if has_attention and not theirs.startswith("middle") else theirs
        attention = "middle.1" if theirs.startswith("middle") else f"{theirs}.1"
        for layer in ("norm1", "conv1", "norm2", "conv2", "skip"):
            names[f"{ours}.residual.{layer}"] = f"{residual}.{layer}"
        fc.append(f"{residual}.fc")
        if has_attention:
            for layer, source in (("norm", "norm"), ("qkv", "proj_in"), ("out", "proj_out")):
                names[f"{ours}.attention.{layer}"] = f"{attention}.{source}"

    params, faults = {}, []
    for name, like in model.named_parameters():
        layer, _, kind = name.rpartition(".")
        sources = fc if layer == "modulation" else [names[layer]]
        keys = [f"{source}.{kind}" for source in sources]
        missing = [key for key in keys if key not in state]
        faults += [f"{key} is missing" for key in missing]
        found = [state.pop(key) for key in keys if key in state]
        if missing:
            continue
        value = torch.cat(found)
        value = (
            value.flatten(1)
            if layer.endswith(("qkv", "attention.out")) and kind == "weight"
            else value
        )
        if value.shape == like.shape:
            params[name] = value
        else:
            faults.append(f"{keys[0]} gives {tuple(value.shape)}, expected {tuple(like.shape)}")
    faults += [f"{key} is left over" for key in sorted(state)]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            "expected a checkpoint of the network that the configuration describes: "
            f"{'; '.join(faults[:3])}{more}"
        )
    return params


def _fixed_names(model: UNet) -> list[tuple[str, str]]:
    return [
        ("time_embed.0", "time_embed.0"),
        ("time_embed.2", "time_embed.2"),
        ("label_embed", "class_embed" if model.multitags else "class_embed.1"),
        ("in_conv", "in_conv"),
        ("out_norm", "out_conv.0"),
        ("out_conv", "out_conv.2"),
    ]


def _blocks(model: UNet) -> list[tuple[str, str, bool]]:
    """(our name, the reference's name, has attention) of each block in our order."""
    down, up = [], []
    per_level = model.num_res_blocks
    for level in range(model.levels):
        count = per_level + (level < model.levels - 1)
        down += [f"downsamples.level_{level}.{j}" for j in range(count)]
    for level in reversed(range(model.levels)):
        up += [f"upsamples.level_{level}.{j}" for j in range(per_level + 1 + (level > 0))]
    theirs = [*down, "middle.0", "middle.2", *up]
    ours = [
        f"{part}.{i}" for part in ("down", "middle", "up") for i in range(len(getattr(model, part)))
    ]
    blocks = [*model.down, *model.middle, *model.up]
    return [
        (mine, name, block.attention is not None)
        for mine, name, block in zip(ours, theirs, blocks, strict=True)
    ]
