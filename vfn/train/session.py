"""A run: what its parts share, and how it is opened."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from vfn import configs
from vfn.configs import Config, DataConfig, ModelConfig, SampleConfig, dumps
from vfn.configs.schema import OF_A_MACHINE, step_of
from vfn.configs.settings import flat_values
from vfn.data import (
    Dataset,
    as_dataset,
    load_dataset,
    load_held_out,
    pictures_of,
    settled,
)
from vfn.data.items import from_items, is_map_style
from vfn.distributed import World, check_alike, largest, together, total
from vfn.files import few, write_atomic
from vfn.launch import launch
from vfn.memory import in_memory
from vfn.model import (
    DataShape,
    build_model,
    is_conditional,
    shape_of,
)
from vfn.nn import check_labels
from vfn.objective import Objective, check_diffusion, objective_of
from vfn.ops import OBJECTIVES
from vfn.progress import say
from vfn.runs import (
    Checkpoint,
    DataMark,
    RunFiles,
    digest,
    find_checkpoint,
    mark_of,
    newest_checkpoint,
    other_pictures,
    read_pictured,
)
from vfn.runs.checkpoint import ANOTHER, read_step
from vfn.runs.directory import settled_run
from vfn.runs.mark import seen_before
from vfn.runs.snapshots import drop_snapshots_after
from vfn.sampling import Trained
from vfn.sampling.weaker import check_spanning, check_weaker, find_weaker
from vfn.tables import FORM, is_object_name, object_name
from vfn.train.ahead import check_ahead, check_room, check_text
from vfn.train.alike import FREE, differing, of_condition, of_optimizer
from vfn.train.companions import init_auxiliary, init_learned_weight
from vfn.train.distillation.methods import trains_auxiliary
from vfn.train.layout import fitted
from vfn.train.networks import check_network, leaves_out, try_objective
from vfn.train.state import (
    TrainState,
    init_state,
    learning_rate,
    restore,
    start_from,
    start_partly_from,
)


class TrainingData(NamedTuple):
    """Pictures to train on, and held-out ones, if any."""

    train: Dataset
    held_out: Dataset | None = None


class Given(NamedTuple):
    """What a caller gives in place of what the configuration names; nothing by default.

    dataset: ours, a map-style one of somebody else's, or a pair of them.
    """

    model: nn.Module | None = None
    dataset: Any = None
    objective: Objective | None = None


NOTHING = Given()
_RISE = 1.1  # of the learning rate where a run goes on, beyond which a line tells of it


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
    unused: bool = False  # whether predictions do not depend on some parameters


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
    init_partial: bool = False,
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
        init_partial: take of ``init_from`` what fits.

    Returns:
        Run; its configuration names the network that was given, and a layout that fits into memory.

    Raises:
        ValueError: if there is a run and ``resume`` is not asked for, or anything does not fit;
            nothing has been written then.
        OSError: if the directory cannot be written.
    """
    resume = goes_on(resume, world)
    before = _micro_batches_before(files) if resume else None
    config = _unless_named(config, before)
    micro_batch_size(config.train.batch_size, world.size, config.train.micro_batches)
    config = _with_model(config, given.model)
    check_text(config)
    check_diffusion(config.diffusion)
    objective = given.objective or objective_of(config.diffusion)
    with together(world):  # before hours of downloads
        check_directory(files, resume, fresh)
        if given.dataset is None:
            check_outside(files, config.data)
    with pictures_of(str(files.path)) if resume else nullcontext():
        dataset, held_out = _pictures(config, given.dataset)
    config = replace(config, data=settled(config.data), sample=_settled_guide(config.sample))
    shape = shape_of(dataset)
    config = _unguided_without_labels(config, shape)
    _tell_of_objective(config)
    check_ahead(config, dataset, shape)
    _check_guide(config, shape)
    if dataset.labels is not None:
        check_labels(dataset.labels, len(shape.legend.names), shape.legend.tags)
    config = fitted(config, shape, world, given.model, objective, before)
    torch.manual_seed(config.train.seed)
    with in_memory("building the network", "use a narrower one (--hid-channels)"):
        model = build_model(config, shape) if given.model is None else given.model
        model = model.to(world.device)
    check_network(model, config, dataset, shape, world.device)
    word = config.diffusion.objective
    if given.objective is None and word not in OBJECTIVES:
        try_objective(objective, f"objective {word}", model, config, dataset, world.device)
    several = world.size > 1
    unused = several and largest(leaves_out(model, config, dataset, world.device), world) > 0
    if given.model is not None:
        _share_parameters(model, world)
    state = init_state(model, config.train)
    if given.objective is not None and not config.distill.asked:  # a method's is in its words
        state.objective = object_name(given.objective)
    if config.diffusion.learned_weight:
        state.weight = init_learned_weight(config.train, world.device)
    if trains_auxiliary(config):
        state.auxiliary = init_auxiliary(model, config.train)
    data = mark_of(dataset)
    check_alike({"pictures": data}, world)
    with together(world):
        found = _found_checkpoint(config, files, state, dataset, fresh) if resume else None
        check_room([(files, config)], sum(param.numel() for param in model.parameters()))
        if found is not None and world.rank == 0:
            _check_resumed(found, config, dataset, files)
            _check_objective(found, state, files)
            _check_kept(config.sample, found.step, files)
    if found is not None:
        restore(state, found)
    elif init_from is not None:
        _start(state, init_from, init_partial)
        same_place = init_from.config.data.dataset == config.data.dataset
        if same_place and (told := seen_before(dataset, init_from.shape, init_from.data)):
            say(f"--init-from {told}")
    if largest(state.step, world) != state.step:
        raise ValueError(
            f"process {world.rank} finds step {state.step} in {files.path}, another process a "
            "later one; all of them have to see the same directory"
        )
    if world.rank == 0:
        if found is None:
            write_atomic(files.begun, "")
            for damaged in files.checkpoint_files():  # of a run to be replaced
                damaged.unlink()
        write_atomic(files.config, dumps(config))
        drop_snapshots_after(files, state.step)
        _drop_shown_after(files, state.step)
    parts = (config, files, world, dataset, held_out, shape, model, state, objective, data)
    return Run(*parts, unused)


def _unguided_without_labels(config: Config, shape: DataShape) -> Config:
    """A configuration for pictures with labels, such as a preset, as pictures without need it."""
    if is_conditional(config, shape) or not config.sample.guidance:
        return config
    say(f"there are no labels to guide by: guidance 0 in place of {config.sample.guidance:g}")
    return replace(config, sample=replace(config.sample, guidance=0.0))


def _tell_of_objective(config: Config) -> None:
    """Tell what is odd about a run of so many updates, before its first step."""
    diffusion = config.diffusion
    learned = config.train.steps - int(config.distill.method_options.get("regress_updates", 0))
    told = OBJECTIVES.find(diffusion.objective).remarked(diffusion.objective_options, learned)
    if told:
        say(f"objective {diffusion.objective}: {told}")


def _settled_guide(sample: SampleConfig) -> SampleConfig:
    """Settings whose weaker network is found from any directory."""
    given = sample.guide_with
    if given is None or step_of(given) is not None:
        return sample
    return replace(sample, guide_with=settled_run(given))


def _start(state: TrainState, source: Checkpoint, partial: bool) -> None:
    """Begin with another run's parameters, all of them or those that fit."""
    if partial:
        start_partly_from(state, source)
        return
    try:
        start_from(state, source)
    except ValueError as error:
        raise ValueError(f"{error}; --init-partial takes what fits") from None


def _micro_batches_before(files: RunFiles) -> int | None:
    """The layout that a run has had so far: in the same one it goes on with the same bits."""
    try:
        return configs.load(str(files.config)).train.micro_batches
    except ValueError:  # there is none, or none that can be read; whoever needs it says so
        return None


def _unless_named(config: Config, before: int | None) -> Config:
    """Let a run's own layout be changed, which the configuration that it saved has as if named."""
    # It may have been begun with other memory, or by another number of processes.
    if before is None or config.train.accumulate != before:
        return config
    return replace(config, train=replace(config.train, accumulate=None))


def _found_checkpoint(
    config: Config, files: RunFiles, state: TrainState, dataset: Dataset, fresh: bool
) -> Checkpoint | None:
    """What a run goes on from, None where it begins."""
    try:
        return newest_checkpoint(files, state.params, resumed=True)
    except ValueError as error:
        # Parameters for other labels fit none: then the data set is what is wrong.
        for known in filter(None, map(read_pictured, files.checkpoint_files()[:1])):
            _check_pictures(dataset, *known, config, files)
        if can_be_read(files):
            raise
        if fresh:
            say(f"begun anew: {_fault(error)}")
            return None
        raise ValueError(_beyond_use(error)) from None


def can_be_read(files: RunFiles) -> bool:
    """Whether a run has a checkpoint, for whatever network, that is not damaged."""
    try:
        return newest_checkpoint(files) is not None
    except ValueError:
        return False


def _fault(error: ValueError) -> str:
    return str(error).removesuffix(f"; {ANOTHER}")


def _beyond_use(error: ValueError) -> str:
    """What to do where none of the checkpoints of a run can be read."""
    return f"{_fault(error)}; restore one, or add --fresh to train anew"


def found_unless(fresh: bool, files: RunFiles) -> Checkpoint | None:
    """The newest checkpoint where a run is to begin, for which damaged ones may be replaced.

    Args:
        fresh: whether they may.
        files: of the run.

    Returns:
        Checkpoint, or None if there is none to be kept.

    Raises:
        ValueError: if there are some, none can be read, and they may not be replaced.
    """
    try:
        return newest_checkpoint(files)
    except ValueError as error:
        if fresh:
            return None
        raise ValueError(_beyond_use(error)) from None


def check_directory(files: RunFiles, resume: bool, fresh: bool = False) -> None:
    """Refuse a directory in which something would come to harm.

    Args:
        files: of the run.
        resume: whether it goes on with what is there.
        fresh: whether what is there without a checkpoint may be replaced.

    Raises:
        ValueError: if there is a run and it is not to go on, or one that has lost its checkpoints.
    """
    if not resume and (found := found_unless(fresh, files)):
        raise ValueError(
            f"{files.path} already holds a run at step {found.step}; "
            "add --resume to go on with it, or choose another --out"
        )
    if files.stages.is_file() and not files.checkpoint_files():
        raise ValueError(f"{files.path} holds a distillation; choose another --out for a run")
    if (resume and files.checkpoint_files()) or fresh or files.begun.exists():
        return
    there = [path.name for path in (files.config, files.log) if os.path.lexists(path)]
    if there:
        raise ValueError(
            f"{files.path} holds {' and '.join(there)} but no checkpoint: restore or mount "
            f"{files.checkpoints.name}/, choose another --out, or add --fresh to replace them "
            "by those of a new run"
        )


def check_outside(files: RunFiles, data: DataConfig) -> None:
    """Refuse a run among its pictures, where its sample grids would become some.

    Args:
        files: of the run.
        data: names the pictures, and those beside them.

    Raises:
        ValueError: if the run is in a folder of them.

    >>> check_outside(RunFiles("/pictures/runs/a"), DataConfig(dataset="/pictures"))
    Traceback (most recent call last):
    ValueError: expected --out outside the folder of pictures /pictures, got /pictures/runs/a, ...
    """
    named = settled(data)
    for place in filter(None, (named.dataset, named.condition)):
        if files.path.resolve().is_relative_to(place):
            raise ValueError(
                f"expected --out outside the folder of pictures {place}, got {files.path}, whose "
                "sample grids would become pictures; choose another --out, or move the run that is "
                "there"
            )


def _check_resumed(found: Checkpoint, config: Config, dataset: Dataset, files: RunFiles) -> None:
    """Refuse to go on to fewer steps, with another meaning, or with other pictures."""
    if found.step > config.train.steps:
        raise ValueError(
            f"{files.path} is at step {found.step} already, and --steps {config.train.steps} is "
            "less; give at least as many, or delete newer checkpoints to go back"
        )
    _check_meaning(found.config, config, files)
    _check_pictures(dataset, found.shape, found.data, config, files)
    old, new = found.config.train.batch_size, config.train.batch_size
    if old != new:
        told = "some come a second time" if new < old else "some are left out"
        say(f"batch_size {new} in place of {old}: draws are counted in batches, so that {told}")
    if config.train.seed != found.config.train.seed:
        say(
            f"seed {config.train.seed} in place of {found.config.train.seed}: pictures come in "
            "another order from here on, so that some come a second time and some are left out"
        )
    before, rate = (learning_rate(found.step, each.train) for each in (found.config, config))
    if rate > _RISE * before:
        say(
            f"the learning rate rises at step {found.step}, from {before:.2g} to {rate:.2g} "
            f"({config.train.lr_schedule}, {config.train.steps} steps); a lower --lr keeps more of "
            "what is learnt"
        )


def _check_objective(found: Checkpoint, state: TrainState, files: RunFiles) -> None:
    """Refuse to go on without an objective that only its user can give."""
    if found.objective and not state.objective:
        raise ValueError(
            f"{files.path} was begun with an objective of its own, {found.objective}, which no "
            "configuration names; give it again from Python, train(..., objective=), or choose "
            "another --out (with --init-from to start from these parameters)"
        )


def _check_meaning(before: Config, config: Config, files: RunFiles) -> None:
    """Refuse settings with which the parameters, or the optimizer's moments, say something else."""
    faults = [
        *differing(config.model, before.model),
        *differing(config.diffusion, before.diffusion, FREE - {"objective"}),
        *of_condition(config, before),
        *of_optimizer(config, before),
    ]
    if faults:
        raise ValueError(
            f"{files.path} was begun with {few(faults, 20, 300, '; ')}; leave that as it was, or "
            "choose another --out (with --init-from to start from these parameters)"
        )


def _check_pictures(
    dataset: Dataset, shape: DataShape, mark: DataMark | None, config: Config, files: RunFiles
) -> None:
    """Refuse other pictures than those that a run was begun with."""
    if faults := other_pictures(dataset, shape, mark):
        raise ValueError(
            f"{config.data.dataset} is not what {files.path} was begun with: other {faults}"
            f"{without_labels(dataset, shape)}; bring back the data set, or choose another --out "
            "(with --init-from to start from these parameters)"
        )


def without_labels(dataset: Dataset, shape: DataShape) -> str:
    """What to do about labels that a network knows none of, for the end of a message.

    Args:
        dataset: the pictures.
        shape: of those that the network knows.

    Returns:
        text, empty where labels are not what is wrong.
    """
    spare = dataset.legend.names and not shape.legend.names
    return "; leave them out with --conditional false" if spare else ""


def _check_guide(config: Config, shape: DataShape) -> None:
    """Refuse a weaker network for the sample grids that cannot guide; steps of the run come yet."""
    given = config.sample.guide_with
    if given is not None and config.sample.guide_weight and config.sample.guide_step is None:
        path, weak = find_weaker(given, None)
        check_weaker(weak.shape, weak.config, shape, config, path)
        guided, other = (each.model.second_time for each in (config, weak.config))
        check_spanning(config.sample.sampler, guided, other, path)


def _drop_shown_after(files: RunFiles, step: int) -> None:
    """Remove previews, and the best checkpoint, of steps that are to be done again."""
    for later, path in files.preview_steps().items():
        if later > step:
            path.unlink(missing_ok=True)
    best = read_step(files.best)
    if best is not None and best > step:
        files.best.unlink(missing_ok=True)


def _check_kept(sample: SampleConfig, step: int, files: RunFiles) -> None:
    """Refuse a step to guide with that the run has passed without its checkpoint."""
    if sample.guide_step is not None and sample.guide_step <= step:
        find_weaker(sample.guide_step, files.path)


def check_job(
    config: Config,
    files: RunFiles,
    world: World,
    begun: Mapping[str, Checkpoint | None],
    **more: Any,
) -> None:
    """Refuse a training whose processes were asked for different ones, before any work.

    Args:
        config: resolved.
        files: of the run.
        world: the processes.
        begun: what a run starts from or learns of, by the names that people know.
        more: what else has to be the same, by the names that people know.

    Raises:
        ValueError: on every process, with the names of what differs.
    """
    if world.size == 1:
        return  # digests take a while
    named = flat_values(replace(config, data=settled(config.data)))
    settings = {name: value for name, value in named.items() if name not in OF_A_MACHINE}
    averages = {name: found and digest(found.ema) for name, found in begun.items()}
    check_alike({"out": str(files.path.resolve()), **averages, **more, **settings}, world)


def as_checkpoint(source: str | Path | Trained | Checkpoint) -> Checkpoint:
    """What another run's parameters are taken from.

    Args:
        source: a run directory, a checkpoint or an exported file; or what was opened before.

    Returns:
        Checkpoint; of a `Trained` without moments, its parameters as the average too, and what it
        knows of its pictures.

    Raises:
        ValueError: if there is no intact checkpoint.
    """
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, Trained):
        return find_checkpoint(source)
    params = {name: value.detach().cpu().contiguous() for name, value in source.params.items()}
    kept = source.step, source.config, source.shape, params, params
    return Checkpoint(*kept, {}, {}, data=source.data)


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
    train = _gathered(pair.train, config.data)
    # What is held out may lack some of the classes.
    names = train.legend.names if isinstance(train, Dataset) else ()
    pair = TrainingData(train, _gathered(pair.held_out, config.data, names))
    dataset = _checked(pair.train, config.data.conditional)
    if pair.held_out is None:
        return TrainingData(dataset)
    held_out = _checked(pair.held_out, config.data.conditional, dataset)
    if shape_of(held_out) != shape_of(dataset):
        raise ValueError(
            "expected held-out pictures like those trained on, got other "
            f"{other_pictures(held_out, shape_of(dataset), None)}"
        )
    return TrainingData(dataset, held_out)


def _gathered(given: Any, settings: DataConfig, names: Sequence[str] = ()) -> Any:
    """A data set of ours as it is; any other one with items by their numbers read into memory."""
    return from_items(given, settings, names) if is_map_style(given) else given


def _checked(dataset: Dataset, conditional: bool, like: Dataset | None = None) -> Dataset:
    """A data set of a caller's; its labels are those of ``like`` where it does not name them."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "expected dataset to be a vfn.data.Dataset or a map-style data set of pictures, or a "
            f"pair of them, to train on and held out, got {object_name(type(dataset))}"
        )
    images, labels, beside = dataset.images, dataset.labels, dataset.beside
    meaning: Any = {"values": dataset.values, "beside_values": dataset.beside_values}
    if not conditional:
        return as_dataset(images, beside=beside, **meaning)
    names = dataset.legend.names or (like.legend.names if like else ())
    found = as_dataset(
        images, labels, (names or None) if labels is not None else None, dataset.vectors,
        dataset.vector.names, beside, **meaning,
    )  # fmt: skip
    # Held-out numbers are standardised as those that are trained on.
    return found._replace(vector=like.vector) if like and found.vectors is not None else found


@torch.no_grad()
def _share_parameters(model: nn.Module, world: World) -> None:
    """Give all processes the parameters of the first one."""
    for param in model.parameters():
        if world.rank:
            param.zero_()
        total(param.data, world)


def any_restarted(world: World) -> bool:
    """Whether torchrun started the processes again after one of them died; all of them agree."""
    # torchrun counts restarts on the machine where a process died, not on the others.
    return largest(launch().restarts, world) > 0


def goes_on(resume: bool, world: World) -> bool:
    """Whether to go on with what is there: asked for, or restarted; all processes agree."""
    return largest(int(resume), world) > 0 or any_restarted(world)
