"""Runs from checkpoints of the reference implementation."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vfn.configs import Config, dumps, override
from vfn.files import write_atomic
from vfn.interop import import_reference, params_from_reference
from vfn.interop.reference_checkpoint import read_reference
from vfn.interop.reference_config import config_from_reference, reference_data, steps_per_epoch
from vfn.interop.reference_settings import Json, Settings, read_json, reference_settings
from vfn.model import DataShape, build_model
from vfn.nn import UNet
from vfn.runs.checkpoint import Checkpoint, save_checkpoint
from vfn.train.state import init_state, restore

ADAM = ("exp_avg", "exp_avg_sq")


def import_config(source: Json) -> Config:
    """The configuration of this library for one of the reference; see `config_from_reference`.

    >>> import_config({"diffusion": {"reweight_type": "snr_1plus"}}).diffusion.reweight_type
    'alpha2'
    """
    return config_from_reference(reference_settings(source))


def with_dataset(source: Json, name: str | None) -> Json:
    """A reference configuration with another data set; its first versions do not name any."""
    if name is None:
        return source
    given = read_json(source)
    return {**given, "data": {**(given.get("data") or {}), "name": name}}


def import_checkpoint(
    file: Path, source: Json, out: Path, say: Callable[[str], object] = print
) -> Path:
    """Make a run directory of a checkpoint of the reference implementation.

    It can be sampled, evaluated and trained on: Adam's moments and the number of steps come along
    where the checkpoint has them. Without an average the raw parameters stand in for it.

    Args:
        file: the checkpoint.
        source: the configuration of its run, a JSON file or its content.
        out: run directory, which must not hold a run.
        say: called with one line for each thing that the checkpoint lacks.

    Returns:
        the checkpoint's path in the run.

    Raises:
        ValueError: if checkpoint and configuration cannot be read, do not fit, or ``out`` holds a
            run; nothing is written then.
        OSError: if ``out`` cannot be written.
    """
    if (out / "config.toml").exists() or (out / "checkpoints").exists():
        raise ValueError(f"{out} already holds a run; choose another --out")
    config = import_config(source)
    found = read_reference(file)
    model, params, average, settings = import_reference(found, source)
    shape = _shape(model, settings)
    config = override(config, {"conditional": model.num_classes > 0})
    if average is None:
        say("the checkpoint has no average; the raw parameters stand in for it")
    moments = _moments(found, model)
    if moments is None:
        say("the checkpoint has no state of the optimizer; training on would start with none")
        moments = {kind: {n: torch.zeros_like(p) for n, p in params.items()} for kind in ADAM}
    state = init_state(build_model(config, shape), config.train)
    step = _step(found, settings)
    counters = state.counters | {"updates": torch.tensor(float(step))}
    restore(state, Checkpoint(step, config, shape, params, average or params, moments, counters))
    path = save_checkpoint(out / "checkpoints", state, config, shape, keep=1)
    write_atomic(out / "config.toml", dumps(config))
    return path


def _shape(model: UNet, settings: Settings) -> DataShape:
    """The shape of the data set that the settings name, if the network's labels are its own."""
    data = reference_data(settings)
    if model.num_classes and (len(data.class_names), data.multitags) != (
        model.num_classes, model.multitags
    ):  # fmt: skip
        raise ValueError(
            f"expected the labels of {settings['data']['name']}, {len(data.class_names)} "
            f"{_kind(data.multitags)}, got a network for {model.num_classes} "
            f"{_kind(model.multitags)}; name its data set with --dataset"
        )
    names = data.class_names if model.num_classes else ()
    return DataShape(data.channels, data.size, data.size, names, model.multitags)


def _kind(multitags: bool) -> str:
    return "tags" if multitags else "classes"


def _moments(found: Mapping[str, Any], model: UNet) -> dict[str, dict[str, Tensor]] | None:
    """Adam's moments by our names; the optimizer numbers parameters in the model's order."""
    names, slots = list(found["model"]), _slots(found)
    if len(slots) != len(names) or not all(kind in s for s in slots for kind in ADAM):
        return None
    return {
        kind: params_from_reference(
            {name: slot[kind] for name, slot in zip(names, slots, strict=True)}, model
        )
        for kind in ADAM
    }


def _slots(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the optimizer keeps of each parameter, in their order."""
    numbered = _table(_table(found.get("optimizer")).get("state"))
    return [_table(numbered[i]) for i in sorted(numbered)]


def _table(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _step(found: Mapping[str, Any], settings: Settings) -> int:
    """Optimizer steps: as the optimizer or the average counted them, or from the epoch."""
    counted = [slot["step"] for slot in _slots(found)[:1] if "step" in slot]
    counted += [value for value in [_table(found.get("ema")).get("num_updates")] if value]
    return int(counted[0] if counted else found.get("epoch", 0) * steps_per_epoch(settings))
