"""What importers share: files read without running them, runs that are there whole or not."""

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from vfn.configs import Config, dumps, override
from vfn.files import make_directory, printable, shortened, write_atomic
from vfn.interop.matching import plain_tensors
from vfn.interop.varied_unet import (
    NAME,
    PRECONDITIONED,
    VARIED,
    PreconditionedUNet,
    VariedUNet,
)
from vfn.model import DataShape, build_model
from vfn.nn.unet import UNet
from vfn.runs import Checkpoint, RunFiles, check_usable, save_checkpoint
from vfn.runs.checkpoint import MOMENTS

MOST_BLOCKS = 256  # on the way down; a thousand would take seconds to lay out
UNKNOWN = "unknown"  # the data set of a network that does not say
SCALINGS = {"boundary"}  # arguments of the preconditioned network alone


def check_free(out: Path) -> None:
    """Refuse a place where a run, or a file, is.

    Args:
        out: run directory.

    Raises:
        ValueError: it says what is there.

    >>> check_free(Path("runs/new"))
    """
    run, name = RunFiles(out), printable(str(out))
    if run.config.exists() or run.checkpoints.exists():
        raise ValueError(f"{name} already holds a run; choose another --out")
    if out.exists() and not out.is_dir():
        raise ValueError(f"expected a run directory at {name}, but there is a file; choose another")


def untrained_on(
    config: Config, shape: DataShape, params: dict[str, Tensor], step: int = 0
) -> Checkpoint:
    """A checkpoint of parameters alone: they stand in for their average, and moments are none.

    A network without labels leaves those of its pictures out, where it is trained on.

    Args:
        config: of the run.
        shape: of its data.
        params: by our names, float32.
        step: of the training, as far as it is known.

    Returns:
        Checkpoint.
    """
    if not shape.legend.names:
        config = override(config, {"conditional": False})
    moments = {kind: {n: torch.zeros_like(p) for n, p in params.items()} for kind in MOMENTS}
    average = {name: value.clone() for name, value in params.items()}
    counters = {"updates": torch.tensor(float(step))}
    return Checkpoint(step, config, shape, params, average, moments, counters)


def write_run(out: Path, checkpoint: Checkpoint) -> Path:
    """Write checkpoint and configuration beside ``out``; move them there when both are whole.

    Args:
        out: run directory, free as `check_free` finds it.
        checkpoint: what the run begins with.

    Returns:
        the checkpoint's path in the run.

    Raises:
        ValueError: if the configuration's network is not that of the parameters.
        OSError: if it cannot be written; ``out`` is left as it was.
    """
    _check_network(checkpoint)
    run = RunFiles(out)
    make_directory(out.parent)
    prefix = f".{out.resolve().name}."
    with TemporaryDirectory(dir=out.parent, prefix=prefix, suffix=".tmp") as temporary:
        staged = RunFiles(temporary)
        path = save_checkpoint(staged, checkpoint, keep=1)
        write_atomic(staged.config, dumps(checkpoint.config))
        make_directory(out)
        staged.checkpoints.rename(run.checkpoints)
        staged.config.rename(run.config)
    return run.checkpoints / path.name


def _check_network(checkpoint: Checkpoint) -> None:
    """Refuse parameters that the network of the checkpoint's own configuration has no place for."""
    with torch.device("meta"):
        expected = build_model(checkpoint.config, checkpoint.shape)
    check_usable(checkpoint, dict(expected.named_parameters()), resumed=True)


def network(
    options: Mapping[str, Any],
    state: Mapping[str, Tensor],
    check: Callable[[UNet], object],
) -> UNet:
    """The network that foreign settings describe, if a checkpoint fills it.

    A configuration may claim any size: before the checkpoint is known to hold as many numbers, the
    network takes no memory.

    Args:
        options: arguments of `UNet`, or of `VariedUNet`.
        state: the foreign parameters.
        check: raises where they do not fit a network, and says what differs.

    Returns:
        the network with random parameters.

    Raises:
        ValueError: if it cannot be built, or is larger than the checkpoint.
    """
    blocks = options["num_res_blocks"] * len(options["ch_multipliers"])
    if blocks > MOST_BLOCKS:
        raise ValueError(
            f"expected a network of {MOST_BLOCKS} blocks at most, the configuration has {blocks}"
        )
    try:
        with torch.device("meta"):
            sketch = built(options)
    except (RuntimeError, OverflowError) as error:
        raise ValueError(
            f"the configuration's network cannot be built ({shortened(str(error))})"
        ) from None
    if sum(param.numel() for param in sketch.parameters()) > _numbers(state):
        check(sketch)
    return built(options)


def model_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of [model] for arguments of a network: those of the UNet if it is one.

    Args:
        options: arguments of `VariedUNet`, without those that the data determine.

    Returns:
        fields by name.

    >>> model_fields({"hid_channels": 32, "norm_eps": 1e-6})
    {'hid_channels': 32}
    >>> sorted(model_fields({"hid_channels": 32, "norm_eps": 1e-5}))
    ['network', 'options']
    """
    plain, varied = _parted(options)
    if not varied:
        return plain
    return {
        "network": PRECONDITIONED if SCALINGS & {*plain} else NAME,
        "options": {k: v for k, v in {**plain, **varied}.items() if v is not None},
    }


def _parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that every UNet takes, and those by which one differs from ours."""
    plain = {key: value for key, value in options.items() if key not in VARIED}
    varied = {key: v for key, v in options.items() if key in VARIED and v != VARIED[key]}
    return plain, varied


def built(options: Mapping[str, Any]) -> UNet:
    """The network of some arguments: ours where it is one, else one that differs by them.

    Args:
        options: arguments of `UNet`, `VariedUNet` or `PreconditionedUNet`.

    Returns:
        the network with random parameters.

    >>> type(built({"in_channels": 1, "out_channels": 1, "norm_eps": 1e-5})).__name__
    'VariedUNet'
    """
    plain, varied = _parted(options)
    if not varied:
        return UNet(**plain)
    return (PreconditionedUNet if SCALINGS & {*plain} else VariedUNet)(**plain, **varied)


def _numbers(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in state.values())


def load_pickled(path: Path, allowed: Sequence[Any] = (), advice: str = "") -> Any:
    """What torch.save wrote, if it is of tensors and plain values alone; nothing is executed.

    Args:
        path: the file.
        allowed: classes and functions beside those of tensors, as `torch.serialization` takes them.
        advice: what to do about a file that holds more.

    Returns:
        its content, tensors on the CPU.

    Raises:
        ValueError: if it is missing, damaged, or holds code or other objects.
    """
    name = printable(str(path))
    if not path.is_file():
        raise ValueError(f"checkpoint {name} does not exist; expected a file of torch.save")
    try:
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of what is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"checkpoint {name} holds code or objects other than tensors and plain values, or is "
            f"damaged; it was not loaded, as that could run anything{advice and f': {advice}'}"
        ) from None
    except Exception:  # bytes of any kind can make the reader fail in any way
        raise ValueError(f"checkpoint {name} is damaged, or no file of torch.save") from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.

    Returns:
        tensors by name, ordinary ones of floating-point numbers.

    Raises:
        ValueError: if it is missing, damaged, or holds others.
    """
    name = printable(str(path))
    if not path.is_file():
        raise ValueError(f"{name} does not exist; expected a file of safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # of types that torch does not have, too
        raise ValueError(
            f"{name} is damaged, or no file of safetensors ({shortened(str(error), 200)})"
        ) from None
    return plain_tensors(found, name)
