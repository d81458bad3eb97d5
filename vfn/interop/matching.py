"""Other implementations' parameters: where each of ours comes from, and what does not fit."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.files import shortened
from vfn.nn.layers import ConvResample
from vfn.nn.unet import Block, UNet

SHOWN = 3


class Place(NamedTuple):
    """A block of a `UNet`: its name, and its level and the position in it, as others name it."""

    name: str
    part: str
    level: int
    position: int
    block: Block | ConvResample
    resamples: bool


class Recipe(NamedTuple):
    """The keys that hold a parameter elsewhere, and the function that makes it of their values."""

    keys: tuple[str, ...]
    build: Callable[..., Tensor]


def places(model: UNet) -> list[Place]:
    """Every block in the order of ``model.down``, ``model.middle``, ``model.up``.

    Args:
        model: the network.

    Returns:
        a `Place` for each block.

    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1, 2), num_res_blocks=1)
    >>> [(p.name, p.level, p.position, p.resamples) for p in places(net)[:3]]
    [('down.0', 0, 0, False), ('down.1', 0, 1, True), ('down.2', 1, 0, False)]
    """
    last, blocks = model.levels - 1, model.num_res_blocks
    counts = {
        "down": [(level, blocks + (level < last)) for level in range(model.levels)],
        "middle": [(last, 2)],
        "up": [(level, blocks + 1 + (level > 0)) for level in reversed(range(model.levels))],
    }
    plain = {"down": blocks, "middle": 2, "up": blocks + 1}
    found = []
    for part, levels in counts.items():
        spots = [(level, position) for level, count in levels for position in range(count)]
        for i, ((level, position), block) in enumerate(
            zip(spots, getattr(model, part), strict=True)
        ):
            resamples = position == plain[part]
            found.append(Place(f"{part}.{i}", part, level, position, block, resamples))
    return found


def plain_tensors(state: Mapping[Any, Any], what: str = "the checkpoint") -> dict[str, Tensor]:
    """Tensors of somebody else's file, if each is one that parameters can be made of.

    Args:
        state: tensors by name.
        what: what they belong to, for the message.

    Returns:
        the same.

    Raises:
        ValueError: for names that are no texts; tensors that are sparse, quantised, nested, without
            values, or of anything but real floating-point numbers; and expanded ones, which would
            be far larger in memory than in their file.
    """
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"expected texts as names in {what}, got {shortened(repr(name))}")
        fault = _fault(value)
        if fault:
            raise ValueError(
                f"expected {shortened(name)} in {what} to be an ordinary tensor of floating-point "
                f"numbers, got {fault}"
            )
    return dict(state)


def _fault(value: Any) -> str:
    """What keeps a value from being an ordinary tensor of floating-point numbers, or nothing."""
    if not isinstance(value, Tensor):
        return f"{shortened(type(value).__name__)}"
    if value.is_nested:
        return "a nested one"
    if value.is_quantized:
        return "a quantised one"
    if value.layout is not torch.strided:
        return "a sparse one"
    if value.is_meta:
        return "one without values (meta)"
    if not value.is_floating_point():
        return f"one of {str(value.dtype).removeprefix('torch.')}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"an expanded one of {list(value.shape)}, whose file holds fewer numbers"
    return ""


@torch.no_grad()
def fit(
    model: UNet, recipes: Mapping[str, Recipe], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Build the parameters of ``model`` from foreign ones.

    Args:
        model: it is not changed.
        recipes: for each of its parameters, what it is made of.
        state: the foreign parameters.

    Returns:
        parameters by the model's names, float32, in its memory format.

    Raises:
        ValueError: for missing keys, keys left over and other shapes, the first ones are listed;
            for a value that is NaN or infinite in float32; or a tensor of another kind.
    """
    state = plain_tensors(state)
    params, faults, infinite = {}, [], ""
    for name, like in model.named_parameters():
        keys, build = recipes[name]
        missing = [key for key in keys if key not in state]
        faults += [f"{key} is missing" for key in missing]
        if missing:
            continue
        value, shapes = _built(build, [state[key].float() for key in keys])
        if value is not None and value.shape == like.shape:
            params[name] = torch.empty_like(like, dtype=value.dtype).copy_(value)
            infinite = infinite or ("" if value.isfinite().all() else keys[0])
        else:
            where = keys[0] + (f" with {len(keys) - 1} more" if len(keys) > 1 else "")
            faults.append(f"{where} gives {shapes}, expected {tuple(like.shape)}")
    known = {key for recipe in recipes.values() for key in recipe.keys}
    faults += [f"{shortened(key)} is left over" for key in sorted(state.keys() - known)]
    if faults:
        more = f" and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ValueError(
            "expected a checkpoint of the network that the configuration describes: "
            f"{'; '.join(faults[:SHOWN])}{more}"
        )
    if infinite:
        raise ValueError(
            f"expected finite parameters, got NaN, an infinite value or one beyond float32 in "
            f"{infinite}; the checkpoint is of a run that failed, or damaged"
        )
    return params


def _built(build: Callable[..., Tensor], found: list[Tensor]) -> tuple[Tensor | None, str]:
    """The parameter and its shape; if the values do not go together, None and their shapes."""
    try:
        value = build(*found)
    except (RuntimeError, IndexError):
        return None, ", ".join(str(tuple(part.shape)) for part in found[:SHOWN])
    return value, str(tuple(value.shape))
