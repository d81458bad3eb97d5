"""A run: what its parts share, and how it is opened."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from vfn.configs import Config, ModelConfig, SampleConfig, dumps
from vfn.data import Dataset, as_dataset, load_dataset, load_held_out, to_unit
from vfn.distributed import World, largest, together, total
from vfn.files import printable, write_atomic
from vfn.model import DataShape, build_model, check_sampling, output_channels, shape_of
from vfn.nn import check_labels, guidance_range
from vfn.objective import Objective, batch_loss
from vfn.runs import Checkpoint, DataMark, RunFiles, find_checkpoint, newest_checkpoint
from vfn.runs.snapshots import drop_snapshots_after
from vfn.sampling import Trained
from vfn.sampling.weaker import check_weaker, find_weaker
from vfn.tables import FORM, is_object_name, object_name
from vfn.train.state import TrainState, init_state, restore, start_from
from vfn.train.trackers import find_trackers


class TrainingData(NamedTuple):
    """Pictures to train on, and held-out ones, if any."""

    train: Dataset
    held_out: Dataset | None = None


class Given(NamedTuple):
    """What a caller gives in place of what the configuration names; nothing by default."""

    model: nn.Module | None = None
    dataset: Dataset | TrainingData | None = None
    objective: Objective | None = None


NOTHING = Given()


class Run(NamedTuple):
    """What the parts of the loop share."""

    config: Config
    files: RunFiles
    world: World
    dataset: Dataset
    held_out: Dataset | None
    shape: DataShape
    model: nn.Module
    state: TrainState
    objective: Objective
    data: DataMark | None = None


def micro_batch_size(batch_size: int, processes: int, accumulate: int) -> int:
    """Pictures in one forward pass.

    Args:
        batch_size: pictures a step, over all processes.
        processes: how many there are.
        accumulate: micro-batches a step on each.

    Returns:
        ``batch_size / (processes * accumulate)``.

    Raises:
        ValueError: if that is not whole; the nearest batch sizes that are get named.

    >>> micro_batch_size(128, processes=2, accumulate=4)
    16
    """
    parts = processes * accumulate
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        raise ValueError(
            f"expected a batch_size that {processes} processes x {accumulate} micro-batches "
            f"divide, got {batch_size}; use {nearest}"
        )
    return batch_size // parts


def open_run(
    config: Config,
    files: RunFiles,
    world: World,
    resume: bool = False,
    init_from: Checkpoint | None = None,
    given: Given = NOTHING,
    fresh: bool = False,
) -> Run:
    """Build everything, and restore it from the newest checkpoint where asked.

    Args:
        config: what to train.
        files: of the run directory.
        world: the processes.
        resume: go on from the newest intact checkpoint; after an elastic restart of torchrun that
            is done without being asked.
        init_from: whose average a new run starts from.
        given: objects in place of what the configuration names.
        fresh: begin anew where a run has no checkpoint left, or what is there is not a run's.

    Returns:
        Run; its configuration names the network that was given.

    Raises:
        ValueError: if there is a run and ``resume`` is not asked for, or anything does not fit;
            nothing has been written then.
        OSError: if the directory cannot be written.
    """
    micro_batch_size(config.train.batch_size, world.size, config.train.accumulate)
    find_trackers(config.train.trackers or ())
    torch.backends.cuda.matmul.allow_tf32 = config.train.tf32
    torch.backends.cudnn.allow_tf32 = config.train.tf32
    config = _with_model(config, given.model)
    dataset, held_out = _pictures(config, given.dataset)
    shape = shape_of(dataset)
    # Now, not at the first sample grid.
    check_sampling(config.sample, config, shape, config.model.guidance_range)
    _check_guide(config, shape)
    if dataset.labels is not None:
        check_labels(dataset.labels, len(shape.legend.names), shape.legend.tags)
    torch.manual_seed(config.train.seed)
    model = (given.model or build_model(config, shape)).to(world.device)
    _check_network(model, config, dataset, shape, world.device)
    if given.model is not None:
        _share_parameters(model, world)
    state = init_state(model, config.train)
    resume = goes_on(resume, world)
    with together(world):
        found = _found_checkpoint(files, state, resume, fresh)
        data = _mark_of(dataset, world)
        if found is not None:
            _check_resumed(found, config, shape, data, files)
            _check_kept(config.sample, found.step, files)
    if found is not None:
        restore(state, found, config)
    elif init_from is not None:
        start_from(state, init_from)
    if largest(state.step, world) != state.step:
        raise ValueError(
            f"process {world.rank} finds step {state.step} in {files.path}, another process a "
            "later one; all of them have to see the same directory"
        )
    if world.rank == 0:
        if found is None:
            write_atomic(files.begun, "")
        write_atomic(files.config, dumps(config))
        drop_snapshots_after(files, state.step)
    objective = given.objective or batch_loss
    return Run(config, files, world, dataset, held_out, shape, model, state, objective, data)


def _found_checkpoint(
    files: RunFiles, state: TrainState, resume: bool, fresh: bool
) -> Checkpoint | None:
    """What a run goes on from, None where it begins; nothing that is there may come to harm."""
    try:
        found = newest_checkpoint(files, state.params if resume else None, resumed=resume)
    except ValueError:
        if resume or not fresh:
            raise
        return None
    if found and not resume:
        raise ValueError(
            f"{files.path} already holds a run at step {found.step}; "
            "add --resume to go on with it, or choose another --out"
        )
    if found is None and not fresh and not files.begun.exists():
        there = [path.name for path in (files.config, files.log) if os.path.lexists(path)]
        if there:
            raise ValueError(
                f"{files.path} holds {' and '.join(there)} but no checkpoint: restore or mount "
                f"{files.checkpoints.name}/, choose another --out, or add --fresh to replace them "
                "by those of a new run"
            )
    return found


def _check_resumed(
    found: Checkpoint, config: Config, shape: DataShape, data: DataMark | None, files: RunFiles
) -> None:
    """Refuse to go on to fewer steps, or with other pictures than those before."""
    if found.step > config.train.steps:
        raise ValueError(
            f"{files.path} is at step {found.step} already, and --steps {config.train.steps} is "
            "less; give at least as many, or delete newer checkpoints to go back"
        )
    faults = [
        f"{what} {_short(now)}, before {_short(then)}"
        for what, now, then in (
            ("sizes", shape.size, found.shape.size),
            ("class names", shape.legend.names, found.shape.legend.names),
            ("tags", shape.legend.tags, found.shape.legend.tags),
        )
        if now != then
    ]
    if not faults and data is not None and found.data is not None:
        if data.pictures != found.data.pictures:
            faults.append(f"number of pictures {data.pictures}, before {found.data.pictures}")
        elif data.digest != found.data.digest:
            faults.append("pictures or labels, as many as before")
    if faults:
        raise ValueError(
            f"{config.data.dataset} is not what {files.path} was begun with: other "
            f"{'; '.join(faults)}; bring back the data set, or choose another --out (with "
            "--init-from to start from these parameters)"
        )


def _check_guide(config: Config, shape: DataShape) -> None:
    """Refuse a weaker network for the sample grids that cannot guide; steps of the run come yet."""
    given = config.sample.guide_with
    if given is not None and config.sample.guide_weight and config.sample.guide_step is None:
        path, weak = find_weaker(given, None)
        check_weaker(weak.shape, weak.config, shape, config, path)


def _check_kept(sample: SampleConfig, step: int, files: RunFiles) -> None:
    """Refuse a step to guide with that the run has passed without its checkpoint."""
    if sample.guide_step is not None and sample.guide_step <= step:
        find_weaker(sample.guide_step, files.path)


def _short(value: object) -> str:
    """A value in a message of bounded length."""
    text = (
        ", ".join(map(printable, value))
        if isinstance(value, tuple) and value and isinstance(value[0], str)
        else str(value)
    )
    return text if len(text) < 80 else f"{text[:77]}..."


def _mark_of(dataset: Dataset, world: World) -> DataMark | None:
    """What the run remembers of its pictures; on the first process, which writes checkpoints."""
    if world.rank:
        return None
    return DataMark(len(dataset.images), digest_of(dataset))


def digest_of(dataset: Dataset) -> str:
    """SHA-256 of pictures and labels.

    Args:
        dataset: of any size; it is read a part at a time.

    Returns:
        hexadecimal.

    >>> from vfn.data import load_dataset
    >>> len(digest_of(load_dataset("digits")))
    64
    """
    sha = hashlib.sha256()
    for values in (dataset.images, dataset.labels):
        if values is not None:
            sha.update(f"{values.dtype} {tuple(values.shape)};".encode())
            for part in values.split(1024):
                sha.update(part.contiguous().numpy())
    return sha.hexdigest()


def as_checkpoint(source: str | Path | Trained | Checkpoint) -> Checkpoint:
    """What another run's parameters are taken from.

    Args:
        source: a run directory, a checkpoint or an exported file; or what was opened before.

    Returns:
        Checkpoint; of a `Trained` without moments, its parameters as the average too.

    Raises:
        ValueError: if there is no intact checkpoint.
    """
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, Trained):
        return find_checkpoint(Path(source))
    params = {name: value.detach().cpu().contiguous() for name, value in source.params.items()}
    return Checkpoint(source.step, source.config, source.shape, params, params, {}, {})


def _with_model(config: Config, model: nn.Module | None) -> Config:
    """The configuration with the name of the network that was given."""
    if model is None:
        return config
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected model to be an nn.Module, got {object_name(model)}")
    name = object_name(type(model))
    if not is_object_name(name):
        raise ValueError(
            f"expected a model whose class stands in a module, as {FORM}, so that checkpoints can "
            f"name it, got {name}"
        )
    if config.model.network == name:
        return config
    return replace(config, model=ModelConfig(network=name))


def _pictures(config: Config, given: Dataset | TrainingData | None) -> TrainingData:
    """The pictures that were given, or those that the configuration names."""
    if given is None:
        return TrainingData(load_dataset(config.data), load_held_out(config.data))
    pairs = isinstance(given, tuple) and not isinstance(given, Dataset) and len(given) == 2
    pair = TrainingData(*given) if pairs else TrainingData(given)  # type: ignore[arg-type]
    dataset = _checked(pair.train, config.data.conditional)
    if pair.held_out is None:
        return TrainingData(dataset)
    held_out = _checked(pair.held_out, config.data.conditional, dataset)
    if shape_of(held_out) != shape_of(dataset):
        raise ValueError(
            f"expected held-out pictures like those trained on, {shape_of(dataset)}, "
            f"got {shape_of(held_out)}"
        )
    return TrainingData(dataset, held_out)


def _checked(dataset: Dataset, conditional: bool, like: Dataset | None = None) -> Dataset:
    """A data set of a caller's; its labels are those of ``like`` where it does not name them."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "expected dataset to be a vfn.data.Dataset or a pair of them, to train on and held "
            f"out, got {object_name(type(dataset))}"
        )
    if not conditional or dataset.labels is None:
        return as_dataset(dataset.images)
    names = dataset.legend.names or (like.legend.names if like else ())
    return as_dataset(dataset.images, dataset.labels, names or None)


def _check_network(
    model: nn.Module, config: Config, dataset: Dataset, shape: DataShape, device: torch.device
) -> None:
    """Refuse a network that cannot be trained on these pictures."""
    name, known = config.model.network, guidance_range(model)
    if known is not None and config.model.guidance_range is None:
        raise ValueError(
            f"network {name} takes guidance as an input, which only a distillation teaches; "
            "give one without guidance_range"
        )
    params = dict(model.named_parameters())
    if not params or any(value.dtype != torch.float32 for value in params.values()):
        raise ValueError(f"expected network {name} to have parameters, all of them float32")
    for part, layer in model.named_modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats:
            raise ValueError(
                f"network {name} keeps running statistics in {part}, which are no parameters and "
                "not in checkpoints; use a normalisation without them, such as nn.GroupNorm"
            )
    labels = len(shape.legend.names)
    if getattr(model, "num_classes", labels) != labels:
        raise ValueError(
            f"network {name} knows {model.num_classes} labels, and the data set has {labels}; "
            "build it for as many, or set conditional to false for none"
        )
    _try_network(model, name, config, dataset, shape, device)


def _try_network(
    model: nn.Module,
    name: str,
    config: Config,
    dataset: Dataset,
    shape: DataShape,
    device: torch.device,
) -> None:
    """Call a network on two pictures."""
    known = guidance_range(model)
    z = to_unit(dataset.images[:2]).to(device)
    y = None if dataset.labels is None else dataset.labels[:2].to(device)
    given = [z, torch.full((len(z),), 0.5, device=device), y]
    if known is not None:
        given.append(z.new_full((len(z),), known[0]))
    wanted = (len(z), output_channels(config, shape), *shape.size[1:])
    model.eval()
    try:
        with torch.no_grad():
            out = model(*given)
    except Exception as error:  # a network of the user's can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"network {name} cannot be called as net(z, t, y) on the data's pictures: {reason}"
        ) from error
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != wanted:
        found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ValueError(f"expected network {name} to give {wanted} here, got {found}")


@torch.no_grad()
def _share_parameters(model: nn.Module, world: World) -> None:
    """Give all processes the parameters of the first one."""
    for param in model.parameters():
        if world.rank:
            param.zero_()
        total(param.data, world)


def restarted() -> bool:
    """Whether torchrun started the processes of this machine again after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def goes_on(resume: bool, world: World) -> bool:
    """Whether to go on with what is there: asked for, or restarted; all processes agree."""
    # torchrun counts restarts on the machine where a process died, not on the others.
    return largest(int(resume or restarted()), world) > 0
