"""Checkpoints: one safetensors file each, written whole or not at all.

A file holds parameters, EMA and optimizer moments as tensors, and in its metadata the step, the
configuration, the data's shape and a SHA-256 of everything. Nothing in it can run code.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vfn import __version__
from vfn.configs import Config, dumps, loads
from vfn.files import printable, write_atomic
from vfn.train.state import DataShape, TrainState, build_model

FORMAT, MODEL_FORMAT = "vfn-checkpoint-1", "vfn-model-1"
Report = Callable[[str], object]
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Checkpoint(NamedTuple):
    """What a file holds; ``moments`` maps ``exp_avg`` and ``exp_avg_sq`` to tensors by name.

    Of an exported model ``params`` are its averaged parameters, and ``moments`` empty.
    """

    step: int
    config: Config
    shape: DataShape
    params: dict[str, Tensor]
    ema: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    counters: dict[str, Tensor]


def _silent(_line: str) -> None:
    pass


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256 of a file's tensors and of its texts but for this one; tensors on the CPU."""
    others = {name: text for name, text in (metadata or {}).items() if name != "sha256"}
    sha = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        sha.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _moments(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """The optimizer's moments by parameter name; zeros before the first step."""
    slots = state.optimizer.state
    return {
        kind: {n: slots[p].get(kind, torch.zeros_like(p)) for n, p in state.params.items()}
        for kind in _MOMENTS
    }


def save_checkpoint(
    directory: Path, state: TrainState, config: Config, shape: DataShape, keep: int
) -> Path:
    """Write ``step-N.safetensors``; delete all but ``keep`` up to it, and what kills left.

    Args:
        directory: made if missing.
        state: what to save.
        config: the resolved configuration of the run.
        shape: shape of the data.
        keep: how many to leave, at least 1.

    Returns:
        the file's path.

    Raises:
        OSError: if the file cannot be written; earlier ones are left as they were.
    """
    path = directory / f"step-{state.step:08d}.safetensors"
    write_atomic(path, _serialised(state, config, shape))
    # Files of later steps are damaged ones that the run began before: they count for nothing.
    until_now = [file for file in checkpoint_files(directory) if file <= path]
    for old in (*until_now[keep:], *directory.glob(".*.safetensors.*.tmp")):
        old.unlink(missing_ok=True)
    return path


def save_best(directory: Path, state: TrainState, config: Config, shape: DataShape) -> Path:
    """Write ``best.safetensors``, which stays until there is a better one."""
    path = directory / "best.safetensors"
    write_atomic(path, _serialised(state, config, shape))
    return path


def _serialised(state: TrainState, config: Config, shape: DataShape) -> bytes:
    groups = {
        "params": state.params,
        "ema": state.ema,
        "counters": state.counters,
        **_moments(state),
    }
    tensors = {
        f"{group}.{name}": value.detach().cpu().contiguous()
        for group, values in groups.items()
        for name, value in values.items()
    }
    return _with_metadata(FORMAT, tensors, state.step, config, shape)


def _with_metadata(
    kind: str, tensors: dict[str, Tensor], step: int, config: Config, shape: DataShape
) -> bytes:
    metadata = {
        "format": kind,
        "version": __version__,
        "step": str(step),
        "config": dumps(config),
        "shape": json.dumps(shape._asdict()),
    }
    return save(tensors, metadata | {"sha256": digest(tensors, metadata)})


def export_model(checkpoint: Checkpoint, path: Path) -> None:
    """Write the averaged parameters alone, with the configuration in the file's metadata.

    Args:
        checkpoint: see `find_checkpoint`.
        path: a safetensors file: one tensor for each parameter, under its name in the `UNet`;
            `vfn sample` and ``--init-from`` take it like a checkpoint.

    Raises:
        OSError: if it cannot be written.
    """
    content = _with_metadata(
        MODEL_FORMAT, checkpoint.ema, checkpoint.step, checkpoint.config, checkpoint.shape
    )
    write_atomic(path, content)


def checkpoint_files(directory: Path) -> list[Path]:
    """Checkpoint files of a directory, newest first."""
    return sorted(directory.glob("step-*.safetensors"), reverse=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one file.

    Args:
        path: a file that `save_checkpoint` wrote.

    Returns:
        Checkpoint, tensors on the CPU.

    Raises:
        ValueError: if the file is missing, truncated, altered or no checkpoint of this library.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist; expected a run directory or a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged or not a checkpoint ({printable(str(error))}); "
            "use another one of the same run"
        ) from None
    if metadata.get("format") not in (FORMAT, MODEL_FORMAT):
        raise ValueError(
            f"{path} is not a checkpoint of this library: expected format {FORMAT}, "
            f"got {metadata.get('format')!r}"
        )
    if metadata.get("sha256") != digest(tensors, metadata):
        raise ValueError(
            f"checkpoint {path} is damaged: its checksum does not match; "
            "use another one of the same run"
        )
    try:
        return _parse(tensors, metadata)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        fault = f"{type(error).__name__}: {printable(str(error))}"
        raise ValueError(
            f"checkpoint {path} does not hold what it should ({fault}); "
            "use another one of the same run"
        ) from None


def _parse(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Checkpoint:
    """The content of a file whose checksum is right; whatever else is wrong raises."""
    exported = metadata["format"] == MODEL_FORMAT
    if exported:  # the average stands for all there is
        tensors = {f"{group}.{n}": v for group in ("params", "ema") for n, v in tensors.items()}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = value
    step = int(metadata["step"])
    checkpoint = Checkpoint(
        step,
        loads(metadata["config"]),
        _parse_shape(metadata["shape"]),
        groups["params"],
        groups["ema"],
        {kind: {} if exported else groups[kind] for kind in _MOMENTS},
        {"updates": torch.tensor(float(step)), **groups.get("counters", {})},
    )
    with torch.device("meta"):
        expected = dict(build_model(checkpoint.config, checkpoint.shape).named_parameters())
    check_fits(checkpoint.ema, expected)
    check_fits(checkpoint.params, expected)
    if not exported:
        check_resumable(checkpoint, expected)
    if step < 0 or any(value.ndim for value in checkpoint.counters.values()):
        raise ValueError("expected a step of at least 0 and counters that are single numbers")
    if any(value.dtype != torch.float32 for value in tensors.values()):
        raise ValueError("expected float32 tensors")
    return checkpoint


def _parse_shape(text: str) -> DataShape:
    values = json.loads(text)
    shape = DataShape(**(values | {"class_names": tuple(values["class_names"])}))
    sizes = (shape.channels, shape.height, shape.width)
    if (
        not all(type(size) is int and size > 0 for size in sizes)
        or not all(isinstance(name, str) for name in shape.class_names)
        or not isinstance(shape.multitags, bool)
    ):
        raise ValueError(f"expected the shape of pictures with class names, got {text}")
    return shape


def newest_checkpoint(
    directory: Path, report: Report = _silent, params: Mapping[str, Tensor] | None = None
) -> Checkpoint | None:
    """The newest checkpoint of a directory that can be used; ``report`` hears of newer ones.

    Args:
        directory: where `save_checkpoint` wrote.
        report: called with one line for every file that is passed over.
        params: of the model that is to go on from it; any model if None.

    Returns:
        Checkpoint, or None if there is none.

    Raises:
        ValueError: if there are some, and none can be used; says what is wrong with the newest.
    """
    faults = []
    for path in checkpoint_files(directory):
        try:
            checkpoint = load_checkpoint(path)
            if params is not None:
                check_resumable(checkpoint, params, f"checkpoint {path}")
        except ValueError as error:
            faults.append(error)
            continue
        for fault in faults:
            report(f"passed over: {fault}")
        return checkpoint
    if faults:
        raise faults[0]
    return None


def find_checkpoint(path: Path, report: Report = _silent) -> Checkpoint:
    """The checkpoint that a run directory or a file stands for.

    Args:
        path: a run directory (its newest intact checkpoint) or one file.
        report: called with one line for every damaged file that is passed over.

    Returns:
        Checkpoint.

    Raises:
        ValueError: if there is none.
    """
    if not path.is_dir():
        return load_checkpoint(path)
    found = newest_checkpoint(path / "checkpoints", report)
    if found is None:
        raise ValueError(
            f"{path} holds no intact checkpoint; expected a run directory made by vfn train, "
            "or a checkpoint file"
        )
    return found


@torch.no_grad()
def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint into a state, keeping devices and memory formats.

    Args:
        state: of a model of the same architecture; changed in place.
        checkpoint: see `load_checkpoint`.

    Raises:
        ValueError: if names or shapes differ; the first ones are listed.
    """
    check_resumable(checkpoint, state.params)
    for name, param in state.params.items():
        param.copy_(checkpoint.params[name])
        state.ema[name].copy_(checkpoint.ema[name])
        slots = state.optimizer.state[param]
        slots["step"] = checkpoint.counters["updates"].to(param.device, copy=True)
        for kind in _MOMENTS:
            slots[kind] = torch.zeros_like(param).copy_(checkpoint.moments[kind][name])
    for name, value in state.counters.items():
        value.copy_(checkpoint.counters.get(name, value))
    state.step = checkpoint.step


@torch.no_grad()
def start_from(state: TrainState, checkpoint: Checkpoint) -> None:
    """Begin with another run's averaged parameters, and nothing else of it.

    Args:
        state: fresh, of a model of the same architecture; changed in place.
        checkpoint: see `load_checkpoint`.

    Raises:
        ValueError: if names or shapes differ; the first ones are listed.
    """
    check_fits(checkpoint.ema, state.params)
    for name, param in state.params.items():
        param.copy_(checkpoint.ema[name])
        state.ema[name].copy_(checkpoint.ema[name])


def check_resumable(
    checkpoint: Checkpoint, params: Mapping[str, Tensor], origin: str = "checkpoint"
) -> None:
    """Refuse a checkpoint whose parameters or moments are not those of a model."""
    for group in (checkpoint.params, *checkpoint.moments.values()):
        check_fits(group, params, origin)


def check_fits(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str = "checkpoint"
) -> None:
    """Refuse parameters whose names or shapes are not the model's.

    >>> check_fits({"w": torch.zeros(2)}, {"w": torch.ones(3)})
    Traceback (most recent call last):
    ValueError: checkpoint and configuration differ: w is (2,), expected (3,)
    """
    differing = [
        f"{name} is {tuple(found[name].shape) if name in found else 'missing'}, "
        f"expected {tuple(expected[name].shape) if name in expected else 'none'}"
        for name in sorted(found.keys() | expected.keys())
        if name not in found or name not in expected or found[name].shape != expected[name].shape
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(f"{origin} and configuration differ: {'; '.join(differing[:3])}{more}")
