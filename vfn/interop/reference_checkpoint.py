"""Checkpoints of the reference implementation as networks of this library."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from vfn.data.labels import MOST_NAMES
from vfn.files import few, printable
from vfn.interop.adopted import load_pickled, network
from vfn.interop.matching import plain_tensors
from vfn.interop.reference_parameters import params_from_reference, without_prefix
from vfn.interop.reference_settings import Json, Settings, reference_settings, unet_options
from vfn.nn.unet import UNet

# Metrics among the checkpoint's values are numbers of numpy, rebuilt by this function of two names.
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_SCALARS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4")),
]
ADVICE = "save its 'model' and 'ema' anew with torch.save"


class ReferenceImport(NamedTuple):
    """A network, its raw and averaged parameters, and the reference's settings, completed.

    ``ema_params`` is None if the checkpoint holds no average; ``settings`` are section -> option ->
    value, complete.
    """

    model: UNet
    params: dict[str, Tensor]
    ema_params: dict[str, Tensor] | None
    settings: Settings


def import_reference(
    checkpoint: str | PathLike[str] | Mapping[str, Any], source: Json
) -> ReferenceImport:
    """Open a checkpoint of the reference implementation.

    Whether the network knows classes or tags is read off the checkpoint, as they may have been
    asked for on the command line. With ``num_heads`` and ``head_dim`` both set (the first always
    is, by default), every attention has ``num_heads`` heads of ``head_dim``.

    Args:
        checkpoint: the file, or its content: ``model``, perhaps ``ema`` with ``shadow``, or the
            parameters alone; names may carry ``module.`` in front.
        source: the configuration of the run, a JSON file or its content.

    Returns:
        ReferenceImport(model, params, ema_params, settings), on the CPU, float32.

    Raises:
        ValueError: if the file is missing, damaged or holds more than tensors and plain values
            (it is never executed); the configuration is not one of the reference; or the two do
            not fit, with the first names and shapes that differ.

    >>> config = {"model": {"hid_channels": 32, "ch_multipliers": [1], "apply_attn": False}}
    >>> import_reference({"model": {"in_conv.weight": torch.zeros(32, 3, 3, 3)}}, config)
    Traceback (most recent call last):
    ValueError: ... time_embed.0.weight is missing; ... and 110 more
    """
    settings = reference_settings(source)
    found = read_reference(checkpoint)
    state = found["model"]
    options = {**unet_options(settings), **_label_options(state, settings)}
    model = network(options, state, lambda sketch: params_from_reference(state, sketch))
    average = found.get("ema", {}).get("shadow")
    return ReferenceImport(
        model,
        params_from_reference(state, model),
        None if average is None else params_from_reference(average, model),
        settings,
    )


def read_reference(checkpoint: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The content of a reference checkpoint, with the parameters under ``model``.

    Args:
        checkpoint: the file, or its content: ``model``, perhaps ``ema`` with ``shadow``, or the
            parameters alone.

    Returns:
        the content by name, without what is None; tensors on the CPU if they come from a file.

    Raises:
        ValueError: if it cannot be read without running code, or is no such checkpoint.
    """
    path = "" if isinstance(checkpoint, Mapping) else printable(f" {checkpoint}")
    where = f"checkpoint{path}"
    found = (
        checkpoint
        if isinstance(checkpoint, Mapping)
        else load_pickled(Path(checkpoint), NUMPY_SCALARS, ADVICE)
    )
    if isinstance(found, Mapping) and found and _is_state(found):
        found = {"model": found}
    if not isinstance(found, Mapping) or not _is_state(found.get("model")):
        names = few(map(str, found), 5) if isinstance(found, Mapping) else type(found)
        raise ValueError(
            f"{where} is not one of the reference implementation: expected tensors under 'model', "
            f"got {names or 'nothing'}"
        )
    average = found.get("ema")
    if average is not None and not (
        isinstance(average, Mapping) and _is_state(average.get("shadow"))
    ):
        raise ValueError(f"expected the average under 'ema', 'shadow' in {where}")
    plain_tensors(found["model"], f"'model' of {where}")
    if average is not None:
        plain_tensors(average["shadow"], f"'ema' of {where}")
    return {name: value for name, value in found.items() if value is not None}


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, Tensor) for v in value.values())


def _label_options(state: Mapping[str, Tensor], settings: Settings) -> dict[str, Any]:
    """Number and kind of labels, from the layer that embeds them."""
    named = without_prefix(state)
    for key, multitags in (("class_embed.1.weight", False), ("class_embed.weight", True)):
        if key in named and named[key].ndim:
            if not 0 < named[key].shape[-1] <= MOST_NAMES:
                raise ValueError(
                    f"expected {key} to embed 1 to {MOST_NAMES} classes or tags, got "
                    f"{list(named[key].shape)}"
                )
            return {"num_classes": named[key].shape[-1], "multitags": multitags}
    if settings["conditional"]["use_cfg"]:
        raise ValueError(
            "expected a conditional network by conditional.use_cfg, but the checkpoint has no "
            "class_embed; set it to false"
        )
    return {}
