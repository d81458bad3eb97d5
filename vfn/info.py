"""What a network is made of and what it costs: numbers first, then text for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vfn import configs
from vfn.configs import Config, DataConfig
from vfn.data import Labels, load_dataset
from vfn.distributed import choose_device
from vfn.files import few
from vfn.footprint import FLOAT32, Footprint, example_batch, kept_copies
from vfn.memory import free_memory, size_text
from vfn.model import DataShape, build_model, known_shape, shape_of
from vfn.nn import branches_of
from vfn.progress import text_table
from vfn.runs import RunFiles, find_checkpoint, load_checkpoint, read_log, run_path
from vfn.train.distillation.methods import networks_of
from vfn.train.distillation.plan import plan_of, stages_of

OWN = "itself"  # parameters that are the network's own and in no part of it


class Cost(NamedTuple):
    """Parameters by part, and floating-point operations for one picture.

    copies: of the parameters that training holds, by what they are for.
    """

    parameters: dict[str, int]
    forward: int
    forward_backward: int
    copies: Mapping[str, int]

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    def memory(self) -> dict[str, int]:
        """Bytes that training takes in float32, activations aside, by what they are for."""
        return {name: copies * self.total * FLOAT32 for name, copies in self.copies.items()}

    def text(self) -> str:
        """Three tables."""
        parts = [[name, f"{count:,}"] for name, count in self.parameters.items() if count]
        memory = self.memory()
        memory["all but activations"] = sum(memory.values())
        return "\n\n".join([
            text_table([["part", "parameters"], *parts, ["all", f"{self.total:,}"]]),
            text_table([
                ["memory, float32", "MB"],
                *([name, f"{size / 1e6:,.1f}"] for name, size in memory.items()),
            ]),
            text_table([
                ["operations", "GFLOP / image"],
                ["forward", f"{self.forward / 1e9:,.3f}"],
                ["forward and backward", f"{self.forward_backward / 1e9:,.3f}"],
            ]),
        ])  # fmt: skip

    def __str__(self) -> str:
        return self.text()


class Needs(NamedTuple):
    """Memory at work, in bytes: None where nobody knows.

    step: of a training step with a micro-batch of ``trained`` pictures. draw: of drawing ``drawn``
    pictures at a time, as the configuration says. free: on the device, which is named.
    """

    trained: int
    step: int | None
    drawn: int
    draw: int | None
    device: str
    free: int | None

    def text(self) -> str:
        """A table of what is known."""
        rows = {
            f"training, {self.trained} pictures at once": self.step,
            f"drawing, {self.drawn} pictures at once": self.draw,
            f"free here ({self.device})": self.free,
        }
        known = [[name, size_text(size)] for name, size in rows.items() if size is not None]
        return text_table([["memory, estimated", "size"], *known])


class StagePlan(NamedTuple):
    """A stage of a distillation: updates in all, and those done; None where it is a plan alone."""

    student_steps: int
    updates: int
    done: int | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a configuration or a run comes to.

    shape, cost, needs: None for a distillation whose teacher is not known. checkpoints: bytes of
    each file by its name, newest first. step: of the newest intact one. snapshots: steps after
    which there are some for `vfn ema`. stages: of a distillation.
    """

    config: Config
    shape: DataShape | None = None
    cost: Cost | None = None
    needs: Needs | None = None
    checkpoints: dict[str, int] | None = None
    step: int | None = None
    snapshots: Sequence[int] = ()
    stages: Sequence[StagePlan] = ()

    def text(self) -> str:
        """Lines for a terminal."""
        parts = ["Data and network are the teacher's: name it with --teacher, or a distilled run."]
        if self.shape is not None and self.cost is not None:
            parts = [_headline(self.config, self.shape), self.cost.text()]
        if self.needs is not None:
            parts.append(self.needs.text())
        if self.checkpoints is not None:
            sizes = [[name, f"{size / 1e6:,.1f}"] for name, size in self.checkpoints.items()]
            parts.append(text_table([["checkpoint", "MB"], *sizes]))
            parts.append(f"newest intact checkpoint: step {self.step}")
        if self.snapshots:
            steps = few(map(str, self.snapshots), most=20)
            parts.append(f"snapshots of averages, for vfn ema: steps {steps}")
        if self.stages:
            rows = [[str(stage.student_steps), _updates(stage)] for stage in self.stages]
            parts.append(text_table([["student's steps", "updates"], *rows]))
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.text()


def cost(config: Config, shape: DataShape) -> Cost:
    """Count parameters and operations, where the network allows it without computing anything.

    Args:
        config: describes the network.
        shape: of the data.

    Returns:
        Cost; a multiplication and an addition are two operations, and convolutions, matrix
        products and attention are what is counted.

    Raises:
        ValueError: if the network does not exist, or not take such pictures.

    >>> from vfn.configs import load
    >>> counted = cost(load("digits"), DataShape(1, 8, 8, Labels(tuple("0123456789"))))
    >>> counted.total, counted.forward_backward > 2 * counted.forward
    (756417, True)
    """
    try:
        return _cost(config, shape, "meta")
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        pass  # it looks at values, so that it has to have some; other faults come again
    try:
        return _cost(config, shape, "cpu")
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"network {config.model.network} fails for pictures of {shape.size}: {reason}"
        ) from error


def needs(config: Config, shape: DataShape, device: str = "auto") -> Needs:
    """Estimate the memory of training and of drawing as a configuration has them.

    Args:
        config: describes the network, its batches and how it is sampled.
        shape: of the data.
        device: auto, cpu or cuda.

    Returns:
        Needs; estimates, see `Footprint`.

    >>> from vfn.configs import load
    >>> found = needs(load("digits"), DataShape(1, 8, 8), device="cpu")
    >>> found.trained, 5e7 < found.step < 2e8
    (128, True)
    """
    where = choose_device(device)
    trained, frozen = networks_of(config)
    footprint = Footprint(config, shape, where, networks=trained, frozen=frozen)
    sample = config.sample
    pictures = config.train.batch_size // config.train.micro_batches
    branches = branches_of(config.model.guidance_range, sample.guidance)
    draw = footprint.draw(branches * sample.sample_batch)
    return Needs(
        pictures,
        footprint.step(pictures),
        sample.sample_batch,
        None if draw is None else draw + footprint.parameters,
        where.type,
        free_memory(where),
    )


def summary_of(target: str, shape: DataShape | None = None, teacher: Path | None = None) -> Summary:
    """What a run, a distillation, a checkpoint file, a preset or a configuration file comes to.

    Args:
        target: which.
        shape: of the data, for a configuration alone; that of its data set if None.
        teacher: whose data and network the configuration of a distillation has; without one only
            its stages are known.

    Returns:
        Summary.

    Raises:
        ValueError: if there is nothing of that name, a shape goes with a run or a distillation, or
            a teacher with anything else.

    >>> print(summary_of("digits_distill"))
    Data and network are the teacher's: name it with --teacher, or a distilled run.
    <BLANKLINE>
    student's steps  updates
    32                   100
    16                   100
    8                    100
    4                    100
    2                    400
    1                    400
    """
    path = run_path(target)
    if path.is_dir() or path.suffix == ".safetensors":
        _only_for_configurations(target, shape)
        _only_for_plans(target, teacher)
        return _stored(path)
    config = configs.load(target)
    if config.distill.asked:
        _only_for_configurations(target, shape)
        if teacher is None:
            return Summary(config=config, stages=_stages(config))
        found = find_checkpoint(teacher)
        config, shape = plan_of(found, target, {}), found.shape
        return Summary(config=config, stages=_stages(config), **_figures(config, shape))
    _only_for_plans(target, teacher)
    shape = shape or data_shape(config.data)
    return Summary(config=config, **_figures(config, shape))


def given_shape(image: Sequence[int] | None, classes: int | None) -> DataShape | None:
    """The shape of data that somebody describes in numbers.

    Args:
        image: channels, height, width.
        classes: number of labels; None or 0 for none.

    Returns:
        DataShape; None if nothing is given.

    Raises:
        ValueError: for other sizes, or classes alone.

    >>> given_shape((3, 16, 8), 2).legend.names
    ('1', '2')
    """
    if image is None:
        if classes is not None:
            raise ValueError("expected --image with --classes")
        return None
    if len(image) != 3 or min(image) < 1:
        raise ValueError(f"expected --image channels,height,width, got {tuple(image)}")
    channels, height, width = image
    names = tuple(str(k) for k in range(1, (classes or 0) + 1))
    return DataShape(channels, height, width, Labels(names))


def data_shape(data: DataConfig) -> DataShape:
    """The shape that settings give their data; it needs no download where a table knows it.

    Args:
        data: which data set, and how its pictures are wanted.

    Returns:
        DataShape.

    Raises:
        ValueError: for an unknown data set, or pictures that cannot be read.

    >>> data_shape(DataConfig(dataset="celeba", image_size=(32,), conditional=False)).size
    (3, 32, 32)
    """
    return known_shape(data) or shape_of(load_dataset(data))


def _cost(config: Config, shape: DataShape, device: str) -> Cost:
    """The counts on a device; attention is counted as plain matrix products."""
    with torch.device(device), sdpa_kernel(SDPBackend.MATH):
        model = build_model(config, shape)
        batch = example_batch(model, shape, pictures=1)
        with FlopCounterMode(display=False) as forward:
            out = batch.predicted_by(model, batch.x0)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
    once = forward.get_total_flops()
    networks = networks_of(config)
    copies = kept_copies(config, *networks) | {"gradients": networks.trained}
    return Cost(_parameters(model), once, once + backward.get_total_flops(), copies)


def _parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters by part; one that parts share counts for the first."""
    counts = {OWN: 0, **{name: 0 for name, _ in model.named_children()}}
    for name, parameter in model.named_parameters():
        part, dot, _ = name.partition(".")
        counts[part if dot else OWN] += parameter.numel()
    return counts if counts[OWN] else {n: c for n, c in counts.items() if n != OWN}


def _figures(config: Config, shape: DataShape) -> dict[str, Any]:
    """What a `Summary` tells of a network."""
    return {"shape": shape, "cost": cost(config, shape), "needs": needs(config, shape)}


def _stored(path: Path) -> Summary:
    """A run, a distillation or a file of parameters."""
    run = RunFiles(path)
    if run.teacher.is_file():
        config, shape = configs.load(str(run.config)), load_checkpoint(run.teacher).shape
        return Summary(config=config, stages=_stages(config, run), **_figures(config, shape))
    checkpoint = find_checkpoint(path)
    files = run.checkpoint_files() if path.is_dir() else [path]
    return Summary(
        config=checkpoint.config,
        **_figures(checkpoint.config, checkpoint.shape),
        checkpoints={file.name: file.stat().st_size for file in files},
        step=checkpoint.step,
        snapshots=sorted(run.snapshot_steps()) if path.is_dir() else (),
    )


def _stages(config: Config, run: RunFiles | None = None) -> list[StagePlan]:
    """The stages of a distillation, with what a run of it has done."""
    stages = []
    for steps, stage in stages_of(config).items():
        log = read_log(run.stage(steps).log) if run is not None else []
        done = log[-1]["step"] if log else None if run is None else 0
        stages.append(StagePlan(steps, stage.train.steps, done))
    return stages


def _updates(stage: StagePlan) -> str:
    planned = f"{stage.updates:,}"
    return planned if stage.done is None else f"{stage.done:,} of {planned}"


def _headline(config: Config, shape: DataShape) -> str:
    span = config.model.guidance_range
    guidance = f"guidance {span[0]:g}..{span[1]:g} as an input, " if span else ""
    return (
        f"{config.model.network} for {shape.channels} x {shape.height} x {shape.width}, "
        f"{shape.legend.describe()}, {guidance}predicts {config.diffusion.model_out_type}"
    )


def _only_for_configurations(target: str, shape: DataShape | None) -> None:
    if shape is not None:
        raise ValueError(f"{target} knows its pictures; leave out --image and --classes")


def _only_for_plans(target: str, teacher: Path | None) -> None:
    if teacher is not None:
        raise ValueError(
            f"{target} is not the configuration of a distillation; leave --teacher out"
        )
