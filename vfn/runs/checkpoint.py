"""Checkpoints: one safetensors file each, written whole or not at all.

A file holds parameters, EMA and optimizer moments as tensors, and in its metadata the step, the
configuration, the data's shape and a SHA-256 of everything. Nothing in it can run code.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vfn import __version__
from vfn.configs import Config, dumps, loads
from vfn.configs.schema import SIDE
from vfn.data import Labels
from vfn.data.cache_info import parse_values
from vfn.data.given import Vector
from vfn.data.values import checked_values
from vfn.files import few, given_path, open_atomic, short, shortened, shown
from vfn.model import DataShape
from vfn.numbers import whole
from vfn.progress import say
from vfn.runs.directory import RunFiles, run_path
from vfn.runs.foreign import foreign_config
from vfn.runs.hub import WEIGHTS, hub_file, hub_name
from vfn.runs.mark import DataMark

ANOTHER = "use another one of the same run"  # what to do about a damaged file
FORMAT, MODEL_FORMAT = "vfn-checkpoint-1", "vfn-model-1"
MOMENTS = ("exp_avg", "exp_avg_sq")
# What a safetensors file calls types of numbers, and what its data are aligned to.
_KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNED = 8
T = TypeVar("T")


class Checkpoint(NamedTuple):
    """What a file holds; ``moments`` maps ``exp_avg`` and ``exp_avg_sq`` to tensors by name.

    Of an exported model ``params`` are its averaged parameters, and ``moments`` empty. ``data`` is
    None in files of versions that did not note it. ``weight``: a weight of noise levels that was
    learned beside the network, with its moments; nothing without one. ``profiles`` are
    power-function averages by their ``sigma_rel``. ``auxiliary``: a second network, as ``weight``.
    ``objective``: the name of one that stood in place of the configuration's, which it cannot tell.
    """

    step: int
    config: Config
    shape: DataShape
    params: dict[str, Tensor]
    ema: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    counters: dict[str, Tensor]
    data: DataMark | None = None
    weight: Mapping[str, Tensor] = MappingProxyType({})
    profiles: Mapping[float, dict[str, Tensor]] = MappingProxyType({})
    auxiliary: Mapping[str, Tensor] = MappingProxyType({})
    objective: str = ""


def average_alone(checkpoint: Checkpoint) -> Checkpoint:
    """What another run begins with, or learns from: a quarter of a run's checkpoint or less.

    Args:
        checkpoint: any.

    Returns:
        the same with its average as its parameters, and without what only its own run goes on with.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> alone = average_alone(as_checkpoint(untrained("digits")))
    >>> alone.params is alone.ema, alone.moments
    (True, {})
    """
    return checkpoint._replace(
        params=checkpoint.ema, moments={}, weight={}, profiles={}, auxiliary={}
    )


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256 of a file's tensors and of its texts but for ``sha256``, where this one stands.

    Args:
        tensors: by name, on the CPU.
        metadata: texts by name.

    Returns:
        64 hexadecimal digits.

    >>> digest({"w": torch.zeros(2)})[:8]
    'e1509915'
    >>> digest({"w": torch.zeros(2)}, {"sha256": "of before"})[:8]
    'e1509915'
    """
    others = {name: text for name, text in (metadata or {}).items() if name != "sha256"}
    sha = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        sha.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        sha.update(_bytes_of(value))
    return sha.hexdigest()


def _bytes_of(value: Tensor) -> memoryview:
    """What a contiguous tensor on the CPU has in memory; no copy."""
    return value.reshape(-1).view(torch.uint8).numpy().data


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file without copying what goes into it.

    The functions of safetensors hold two copies of everything meanwhile, which is most of what a
    large network takes, or leave a file of no name behind where the process is killed.

    Args:
        path: the file; its directory is made if missing.
        tensors: by their names in it, contiguous, on the CPU.
        metadata: texts.

    Raises:
        OSError: if it cannot be written; what was there is left as it was.

    Source: the format is described at https://huggingface.co/docs/safetensors.

    >>> import tempfile
    >>> from safetensors.torch import load_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder, "a"), {"x": torch.tensor([1.0, 2.0])}, {})
    ...     load_file(Path(folder, "a"))
    {'x': tensor([1., 2.])}
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, value in tensors.items():
        start, end = end, end + value.nbytes
        kind = _KINDS[value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with open_atomic(path) as file:
        file.write(len(text).to_bytes(_ALIGNED, "little") + text)
        for value in tensors.values():
            file.write(_bytes_of(value))


def save_checkpoint(run: RunFiles, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a run's checkpoint; delete all but ``keep`` up to it, and what kills left.

    Those of steps in ``keep_at``, the checkpoint's or their own, stay and are not counted.

    Args:
        run: its directory is made if missing.
        checkpoint: what to save.
        keep: how many to leave, at least 1.

    Returns:
        the file's path.

    Raises:
        ValueError: if ``keep`` is no whole number of at least 1.
        OSError: if the file cannot be written; earlier ones are left as they were.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), new.params)
    >>> save_checkpoint(RunFiles("run"), new._replace(moments=moments), keep=1).name
    'step-00000000.safetensors'
    """
    keep = whole(keep, "keep", 1)
    path = run.checkpoint(checkpoint.step)
    write_checkpoint(path, checkpoint)
    # Files of later steps are damaged ones that the run began before: they count for nothing.
    kept = checkpoint.config.train.keep_at or ()
    until_now = [
        file
        for step, file in run.checkpoint_steps().items()
        if step <= checkpoint.step and step not in kept
    ]
    outdated = [file for file in until_now[keep:] if not _is_kept(file)]
    for old in (*outdated, *run.checkpoints.glob(".*.safetensors.*.tmp")):
        old.unlink(missing_ok=True)
    return path


def _is_kept(path: Path) -> bool:
    """Whether a checkpoint was to be kept when it was written; a damaged one was not."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return int(metadata["step"]) in (loads(metadata["config"]).train.keep_at or ())
    except (SafetensorError, OSError, KeyError, ValueError):
        return False


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to a file of any name.

    Args:
        path: the file; its directory is made if missing.
        checkpoint: what to save.

    Raises:
        ValueError: without moments, from which no run could go on.
        OSError: if it cannot be written; what was there is left as it was.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> write_checkpoint("new.safetensors", new)
    Traceback (most recent call last):
    ValueError: expected a checkpoint with moments exp_avg, exp_avg_sq, got none; export_model ...
    >>> moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), new.params)
    >>> write_checkpoint("new.safetensors", new._replace(moments=moments))
    >>> load_checkpoint("new.safetensors").step
    0
    """
    if not checkpoint.moments:
        raise ValueError(
            f"expected a checkpoint with moments {', '.join(MOMENTS)}, got none; export_model "
            "writes averaged parameters alone"
        )
    groups = {
        "params": checkpoint.params,
        "ema": checkpoint.ema,
        "counters": checkpoint.counters,
        "weight": checkpoint.weight,
        "auxiliary": checkpoint.auxiliary,
        **checkpoint.moments,
        **profile_groups(checkpoint.profiles),
    }
    tensors = {
        f"{group}.{name}": value
        for group, values in groups.items()
        for name, value in values.items()
    }
    write_packed(path, FORMAT, tensors, checkpoint)


def profile_groups(
    profiles: Mapping[float, dict[str, Tensor]],
) -> dict[str, dict[str, Tensor]]:
    """Averages by the groups that they are in a file: their order, of which the metadata tells."""
    return {f"profile{i}": average for i, average in enumerate(profiles.values())}


def write_packed(
    path: str | Path, kind: str, tensors: dict[str, Tensor], checkpoint: Checkpoint, **more: str
) -> None:
    """Write a file of tensors with all that is told of them, and the checksum.

    Args:
        path: the file; its directory is made if missing.
        kind: of the file.
        tensors: by their names in it.
        checkpoint: its step, configuration, shape, data and the lengths of its averages are told.
        more: further texts.

    Raises:
        OSError: if it cannot be written; what was there is left as it was.
    """
    channels, height, width, legend, vector, beside, values, beside_values = checkpoint.shape
    profiles = {"profiles": json.dumps(list(checkpoint.profiles))} if checkpoint.profiles else {}
    data = {} if checkpoint.data is None else {"data": json.dumps(checkpoint.data._asdict())}
    objective = {"objective": checkpoint.objective} if checkpoint.objective else {}
    shape = {
        "channels": channels,
        "height": height,
        "width": width,
        "class_names": legend.names,
        "multitags": legend.tags,
        **({"vector": vector._asdict()} if vector.names else {}),
        **({"beside": beside} if beside else {}),
        **({} if values.plain else {"values": values._asdict()}),
        **({} if beside_values.plain else {"beside_values": beside_values._asdict()}),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {
        "format": kind,
        "version": __version__,
        "step": str(checkpoint.step),
        "config": dumps(checkpoint.config),
        "shape": json.dumps(shape),
        **data,
        **objective,
        **profiles,
        **more,
    }
    write_tensors(path, tensors, metadata | {"sha256": digest(tensors, metadata)})


def export_model(checkpoint: Checkpoint, path: str | Path, **more: str) -> None:
    """Write the averaged parameters alone, with the configuration in the file's metadata.

    Args:
        checkpoint: whose averaged parameters and configuration are written.
        path: a safetensors file: one tensor for each parameter, under its name in the `UNet`;
            `vfn sample` and ``--init-from`` take it like a checkpoint.
        more: further texts for the metadata, such as what the average was made of.

    Raises:
        ValueError: if a checkpoint that a run goes on from is in its place.
        OSError: if it cannot be written.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> export_model(new, "model.safetensors", made_of="nothing yet")
    >>> load_checkpoint("model.safetensors").params.keys() == new.ema.keys()
    True
    """
    path = given_path(path)
    if _is_of_a_run(path):
        raise ValueError(
            f"{path} is a checkpoint that a run goes on from, and an exported model has less in "
            "it; choose another --out"
        )
    alone = checkpoint._replace(profiles={})
    write_packed(path, MODEL_FORMAT, checkpoint.ema, alone, **more)


def _is_of_a_run(path: Path) -> bool:
    """Whether a file is a checkpoint with moments, or stands where such a one does."""
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return path.parent.name == "checkpoints"


def load_checkpoint(path: str | Path, remedy: str = ANOTHER) -> Checkpoint:
    """Read and verify one file.

    Args:
        path: a file that `save_checkpoint` wrote.
        remedy: what to do if it is damaged.

    Returns:
        Checkpoint, tensors on the CPU.

    Raises:
        ValueError: if the file is missing, truncated, altered or no checkpoint of this library.

    >>> load_checkpoint("nowhere.safetensors")
    Traceback (most recent call last):
    ValueError: checkpoint nowhere.safetensors does not exist; expected a run directory or a file
    """
    return read_whole(path, (FORMAT, MODEL_FORMAT), _parse, remedy=remedy)


def read_whole(
    path: str | Path,
    formats: Sequence[str],
    parse: Callable[[dict[str, Tensor], dict[str, str]], T],
    what: str = "checkpoint",
    remedy: str = ANOTHER,
) -> T:
    """What a file of tensors holds, verified.

    Args:
        path: the file.
        formats: what it may be.
        parse: makes something of its tensors and its metadata, and raises what it likes.
        what: it is called in messages.
        remedy: what to do if it is damaged.

    Returns:
        what ``parse`` gives.

    Raises:
        ValueError: if the file is missing, truncated, altered, of another format, or not what it
            should be.
    """
    path = given_path(path)
    if not path.is_file():
        raise ValueError(f"{what} {path} does not exist; expected a run directory or a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{what} {path} is damaged or not a {what} ({shortened(str(error), 200)}); {remedy}"
        ) from None
    if metadata.get("format") not in formats:
        raise ValueError(
            f"{path} is not a {what} of this library: expected format {formats[0]}, "
            f"got {shown(metadata.get('format'))}"
        )
    if metadata.get("sha256") != digest(tensors, metadata):
        raise ValueError(f"{what} {path} is damaged: its checksum does not match; {remedy}")
    try:
        return parse(tensors, metadata)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        fault = f"{type(error).__name__}: {shortened(str(error), 300)}"
        raise ValueError(
            f"{what} {path} does not hold what it should ({fault}); {remedy}"
        ) from None


def groups_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by group and name, which a dot parts.

    Args:
        tensors: by their names in it.

    Returns:
        groups of them.

    >>> groups_of({"ema.in.weight": torch.zeros(1)})
    {'ema': {'in.weight': tensor([0.])}}
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        group, _, name = full.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def _parse(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Checkpoint:
    """The content of a file whose checksum is right; whatever else is wrong raises."""
    exported = metadata["format"] == MODEL_FORMAT
    if exported:  # the average stands for all there is
        tensors = {f"{group}.{n}": v for group in ("params", "ema") for n, v in tensors.items()}
    groups, step = groups_of(tensors), int(metadata["step"])
    checkpoint = Checkpoint(
        step,
        loads(metadata["config"]),
        parse_shape(metadata["shape"]),
        groups["params"],
        groups["ema"],
        {kind: {} if exported else groups[kind] for kind in MOMENTS},
        {"updates": torch.tensor(float(step)), **groups.get("counters", {})},
        _parse_data(metadata.get("data")),
        groups.get("weight", {}),
        {} if exported else parse_profiles(metadata.get("profiles"), groups),
        groups.get("auxiliary", {}),
        metadata.get("objective", ""),
    )
    parts = [] if exported else [*checkpoint.moments.values(), *checkpoint.profiles.values()]
    for part in (checkpoint.ema, *parts):
        check_fits(part, checkpoint.params, "one part", "another")
    if step < 0 or any(value.ndim for value in checkpoint.counters.values()):
        raise ValueError("expected a step of at least 0 and counters that are single numbers")
    if any(value.dtype != torch.float32 for value in tensors.values()):
        raise ValueError("expected float32 tensors")
    return checkpoint


def parse_shape(text: str) -> DataShape:
    """The shape of the data, of a text of the metadata.

    Returns:
        DataShape.

    Raises:
        ValueError: if it says something else.
    """
    values = json.loads(text)
    sizes = (values["channels"], values["height"], values["width"])
    names, tags = tuple(values["class_names"]), values.get("multitags", False)
    if (
        not all(type(size) is int and 0 < size <= SIDE for size in sizes)
        or not all(isinstance(name, str) for name in names)
        or not isinstance(tags, bool)
    ):
        raise ValueError(f"expected the shape of pictures with class names, got {short(text)}")
    beside = values.get("beside", 0)
    if type(beside) is not int or not 0 <= beside <= SIDE:
        raise ValueError(f"expected a number of channels beside the pictures, got {short(text)}")
    vector = _parse_vector(values.get("vector", {}))
    scaling = [
        checked_values(parse_values(values.get(key)), channels or 1, key)
        for key, channels in (("values", sizes[0]), ("beside_values", beside))
    ]
    return DataShape(*sizes, Labels(names, tags), vector, beside, *scaling)


def _parse_vector(told: Any) -> Vector:
    """Names and statistics of numbers, of a part of the metadata."""
    fields = {key: tuple(told[key]) for key in Vector._fields} if told else {}
    vector = Vector(**fields)
    numbers = (*vector.mean, *vector.deviation)
    if (
        not all(isinstance(name, str) for name in vector.names)
        or not all(type(number) is float and math.isfinite(number) for number in numbers)
        or not len(vector.names) == len(vector.mean) == len(vector.deviation)
        or not all(number > 0 for number in vector.deviation)
    ):
        raise ValueError(f"expected names, means and deviations, got {short(str(told))}")
    return vector


def parse_profiles(
    text: str | None, groups: Mapping[str, dict[str, Tensor]]
) -> dict[float, dict[str, Tensor]]:
    """Averages by their ``sigma_rel``, of a text of the metadata and the groups of a file.

    Returns:
        averages; none without a text.

    Raises:
        ValueError: if the text is no list of numbers that differ.
        KeyError: if a group is missing.
    """
    lengths = [] if text is None else json.loads(text)
    numbers = isinstance(lengths, list) and all(type(value) is float for value in lengths)
    if not numbers or len(set(lengths)) < len(lengths):
        raise ValueError(f"expected a list of numbers that differ as profiles, got {text}")
    return {length: groups[f"profile{i}"] for i, length in enumerate(lengths)}


def _parse_data(text: str | None) -> DataMark | None:
    if text is None:
        return None
    mark = DataMark(**json.loads(text))
    if type(mark.pictures) is not int or mark.pictures < 1 or not isinstance(mark.digest, str):
        raise ValueError(f"expected a number of pictures and their digest, got {short(text)}")
    return mark


def read_pictured(path: str | Path) -> tuple[DataShape, DataMark | None] | None:
    """What a checkpoint says of its run's pictures, without reading the rest.

    Args:
        path: a file; whether it is whole is not checked.

    Returns:
        their shape and mark, for `other_pictures`; None if it cannot be read.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> export_model(new, "new.safetensors")
    >>> shape, mark = read_pictured("new.safetensors")
    >>> shape.size, mark
    ((1, 8, 8), None)
    """
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
        return parse_shape(texts["shape"]), _parse_data(texts.get("data"))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError):
        return None


def read_step(path: Path) -> int | None:
    """The step of a checkpoint, without reading the rest.

    Args:
        path: a file; whether it is whole is not checked.

    Returns:
        the step; None if it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, OSError, LookupError, ValueError):
        return None


def newest_checkpoint(
    run: RunFiles, params: Mapping[str, Tensor] | None = None, resumed: bool = False
) -> Checkpoint | None:
    """The newest checkpoint of a run that can be used; a line tells of newer ones.

    Args:
        run: a run directory.
        params: of the model that it is for, whose names and shapes it must have; any if None.
        resumed: the moments have to be there too.

    Returns:
        Checkpoint, or None if there is none.

    Raises:
        ValueError: if there are some, and none can be used; says what is wrong with the newest.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), new.params)
    >>> for step in (10, 20):
    ...     begun = new._replace(step=step, moments=moments)
    ...     _ = save_checkpoint(RunFiles("run"), begun, keep=2)
    >>> newest_checkpoint(RunFiles("run")).step
    20
    """
    faults = []
    for path in run.checkpoint_files():
        try:
            checkpoint = load_checkpoint(path)
            if params is not None:
                check_usable(checkpoint, params, resumed, f"checkpoint {path}")
        except ValueError as error:
            faults.append(error)
            continue
        for fault in faults:
            say(f"passed over: {fault}")
        return checkpoint
    if faults:
        raise faults[0]
    return None


def find_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint that a run directory or a file stands for.

    Args:
        path: a run directory (its newest intact checkpoint) or one file, perhaps after ``run:``; or
            ``hf://owner/name``.

    Returns:
        Checkpoint.

    Raises:
        ValueError: if there is none, or one of the hub has a configuration that `foreign_config`
            refuses.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> export_model(new, "new.safetensors")
    >>> find_checkpoint("new.safetensors").shape.size
    (1, 8, 8)
    """
    path = run_path(path)
    named = hub_name(path)
    if named is not None:
        found = load_checkpoint(hub_file(*named))
        remedy = f"if you trust it, download {WEIGHTS} and name that file"
        return found._replace(config=foreign_config(found.config, f"hf://{named[0]}", remedy))
    if not path.is_dir():
        return load_checkpoint(path)
    newest = newest_checkpoint(RunFiles(path))
    if newest is None:
        check_one_run(RunFiles(path))
    if newest is None:
        raise ValueError(
            f"{path} holds no intact checkpoint; expected a run directory made by vfn train, "
            "or a checkpoint file"
        )
    return newest


def check_one_run(files: RunFiles) -> None:
    """Refuse a distillation where one run is wanted.

    Args:
        files: of a directory without checkpoints or snapshots of its own.

    Raises:
        ValueError: it names the students.

    >>> check_one_run(RunFiles("nowhere"))
    """
    if students := files.students():
        raise ValueError(
            f"{files.path} is a distillation, and each of its students a run; name one of them: "
            f"{few(student.path.name for student in students)}"
        )


def check_usable(
    checkpoint: Checkpoint,
    params: Mapping[str, Tensor],
    resumed: bool = False,
    origin: str = "checkpoint",
) -> None:
    """Refuse a checkpoint whose parameters, or moments where it is resumed, are not a model's.

    Args:
        checkpoint: its parts have the same names and shapes already.
        params: of the model.
        resumed: whether the moments are needed.
        origin: what the checkpoint is called in the message.

    Raises:
        ValueError: with the first names and shapes that differ.

    >>> from vfn.sampling import untrained
    >>> from vfn.train.session import as_checkpoint
    >>> new = as_checkpoint(untrained("digits"))
    >>> check_usable(new, new.params)
    >>> check_usable(new, new.params | {"w": torch.zeros(2)})
    Traceback (most recent call last):
    ValueError: checkpoint and configuration differ: w is missing, expected (2,)
    """
    check_fits(checkpoint.params, params, origin)
    if resumed:
        for moments in checkpoint.moments.values():
            check_fits(moments, params, origin)


def check_fits(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    origin: str = "checkpoint",
    other: str = "configuration",
) -> None:
    """Refuse parameters whose names or shapes are not the expected ones.

    Args:
        found: parameters by name.
        expected: those of the model.
        origin: what the first are called in the message.
        other: what the second are called in the message.

    Raises:
        ValueError: with the first names and shapes that differ.

    >>> check_fits({"w": torch.zeros(2)}, {"w": torch.ones(3)})
    Traceback (most recent call last):
    ValueError: checkpoint and configuration differ: w is (2,), expected (3,)
    """
    differing = [
        f"{shortened(name)} is {tuple(found[name].shape) if name in found else 'missing'}, "
        f"expected {tuple(expected[name].shape) if name in expected else 'none'}"
        for name in sorted(found.keys() | expected.keys())
        if name not in found or name not in expected or found[name].shape != expected[name].shape
    ]
    if differing:
        raise ValueError(f"{origin} and {other} differ: {few(differing, 3, 300, '; ')}")
