"""Runs from checkpoints of the reference implementation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vfn.configs import override
from vfn.data import Labels
from vfn.files import given_path, shortened
from vfn.interop.adopted import check_free, write_run
from vfn.interop.matching import plain_tensors
from vfn.interop.reference_checkpoint import import_reference, read_reference
from vfn.interop.reference_config import import_config, reference_data, steps_per_epoch
from vfn.interop.reference_parameters import params_from_reference
from vfn.interop.reference_settings import Json, Settings
from vfn.model import DataShape
from vfn.nn import UNet
from vfn.progress import say
from vfn.runs import Checkpoint
from vfn.runs.checkpoint import MOMENTS

MOST_STEPS = 10**12  # more is no count of anybody's


def import_checkpoint(file: str | Path, source: Json, out: str | Path) -> Path:
    """Make a run directory of a checkpoint of the reference implementation.

    It can be sampled, evaluated and trained on: Adam's moments and the number of steps come along
    where the checkpoint has them, and a line tells what it lacks. Without an average the raw
    parameters stand in for it.

    Args:
        file: the checkpoint.
        source: the configuration of its run, a JSON file or its content.
        out: run directory, which must not hold a run.

    Returns:
        the checkpoint's path in the run.

    Raises:
        ValueError: if checkpoint and configuration cannot be read, do not fit, or ``out`` holds a
            run; nothing is written then.
        OSError: if ``out`` cannot be written; it is left as it was.

    >>> import_checkpoint(Path("ckpt.pt"), {}, Path("runs/imported"))
    Traceback (most recent call last):
    ValueError: checkpoint ckpt.pt does not exist; expected a file of torch.save
    """
    file, out = given_path(file), given_path(out)
    check_free(out)
    checkpoint, lines = _checkpoint(file, source)
    for line in lines:
        say(line)
    return write_run(out, checkpoint)


def _checkpoint(file: Path, source: Json) -> tuple[Checkpoint, list[str]]:
    """The checkpoint in our words, and a line on each thing that it lacks."""
    config, lines = import_config(source), []
    found = read_reference(file)
    model, params, average, settings = import_reference(found, source)
    shape = _shape(model, settings)
    config = override(config, {"conditional": model.num_classes > 0})
    if average is None:
        lines.append("the checkpoint has no average; the raw parameters stand in for it")
        average = {name: value.clone() for name, value in params.items()}
    moments = _moments(found, model)
    if moments is None:
        lines.append(
            "the checkpoint has no state of the optimizer; training on would start with none"
        )
        moments = {kind: {n: torch.zeros_like(p) for n, p in params.items()} for kind in MOMENTS}
    step = _step(found, settings)
    counters = {"updates": torch.tensor(float(step))}
    return Checkpoint(step, config, shape, params, average, moments, counters), lines


def _shape(model: UNet, settings: Settings) -> DataShape:
    """The shape of the data set that the settings name, if the network's labels are its own."""
    data = reference_data(settings)
    known = data.legend
    if model.num_classes and (len(known.names), known.tags) != (model.num_classes, model.multitags):
        raise ValueError(
            f"expected the labels of {settings['data']['name']}, {known.describe()}, got a network "
            f"for {model.num_classes} {'tags' if model.multitags else 'classes'}; name its data "
            "set with --dataset"
        )
    assert data.channels is not None
    assert data.size is not None
    return DataShape(data.channels, *data.size, known if model.num_classes else Labels())


def _moments(found: Mapping[str, Any], model: UNet) -> dict[str, dict[str, Tensor]] | None:
    """Adam's moments by our names; the optimizer numbers parameters in the model's order."""
    names, slots = list(found["model"]), _slots(found)
    if len(slots) != len(names) or not any(kind in slot for slot in slots for kind in MOMENTS):
        return None  # an optimizer of another kind
    moments = {}
    for kind in MOMENTS:
        given = {name: slot.get(kind) for name, slot in zip(names, slots, strict=True)}
        plain = plain_tensors(given, f"{kind} of the optimizer")
        try:
            moments[kind] = params_from_reference(plain, model)
        except ValueError as error:
            raise ValueError(f"{kind} of the optimizer: {error}") from None
    for name, value in moments["exp_avg_sq"].items():
        if value.numel() and value.min() < 0:
            raise ValueError(f"expected squares in exp_avg_sq of the optimizer, got {name} below 0")
    return moments


def _slots(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the optimizer keeps of each parameter, in their order."""
    numbered = _table(_table(found.get("optimizer")).get("state"))
    if not all(isinstance(number, int) for number in numbered):
        return []
    return [_table(numbered[i]) for i in sorted(numbered)]


def _table(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _step(found: Mapping[str, Any], settings: Settings) -> int:
    """Optimizer steps: as the optimizer or the average counted them, or from the epoch."""
    counted = [slot["step"] for slot in _slots(found)[:1] if "step" in slot]
    updates = _table(found.get("ema")).get("num_updates")
    counted += [] if updates is None or _count(updates) == 0 else [updates]
    name, value = ("steps", counted[0]) if counted else ("epochs", found.get("epoch", 0))
    number = _count(value)
    if number is None:
        text = shortened(" ".join(repr(value).split()))
        raise ValueError(f"expected the checkpoint's number of {name}, got {text}")
    return int(number if counted else number * steps_per_epoch(settings))


def _count(value: Any) -> float | None:
    """A number of steps or epochs, from a number or a tensor of one; None if it is no such."""
    if isinstance(value, Tensor):
        odd = value.is_nested or value.layout is not torch.strided or value.is_quantized
        if odd or value.is_meta or value.numel() != 1 or value.is_complex():
            return None
        value = value.item()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= MOST_STEPS else None
