"""What a network is made of and what it costs, as text for a terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from vfn import configs
from vfn.configs import Config
from vfn.data import load_dataset
from vfn.interop.reference_config import REFERENCE_DATA
from vfn.model import DataShape, build_model, shape_of
from vfn.runs.checkpoint import checkpoint_files, find_checkpoint, load_checkpoint
from vfn.train.distill import TEACHER, halvings, plan_of, stage_config, stage_figures

FLOAT32 = 4
# Copies of the parameters that training holds beside them.
COPIES = {"parameters": 1, "average": 1, "Adam's moments": 2, "gradients": 1}


class Cost(NamedTuple):
    """Parameters by part, and floating-point operations for one picture."""

    parameters: dict[str, int]
    forward: int
    forward_backward: int


def cost(config: Config, shape: DataShape) -> Cost:
    """Count parameters and operations without computing anything.

    Args:
        config: describes the network.
        shape: shape of the pictures.

    Returns:
        Cost; a multiplication and an addition are two operations, and convolutions, matrix
        products and attention are what is counted.

    >>> from vfn.configs import load
    >>> counted = cost(load("digits"), DataShape(1, 8, 8, tuple("0123456789")))
    >>> sum(counted.parameters.values()), counted.forward_backward > 2 * counted.forward
    (1169665, True)
    """
    with torch.device("meta"):  # where attention is counted too, as plain matrix products
        model = build_model(config, shape)
        labels = None
        if shape.class_names:
            labels = torch.zeros(1, len(shape.class_names)) if shape.multitags else torch.zeros(1)
        inputs = [torch.zeros(1, shape.channels, shape.height, shape.width), torch.zeros(1), labels]
        if model.guidance_range:
            inputs.append(torch.zeros(1))
        with FlopCounterMode(display=False) as forward:
            out = model(*inputs)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
    parameters = {
        name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()
    }
    once = forward.get_total_flops()
    return Cost(parameters, once, once + backward.get_total_flops())


def describe(
    target: str,
    image: tuple[int, ...] | None = None,
    classes: int | None = None,
    say: Callable[[str], object] = print,
    teacher: Path | None = None,
) -> str:
    """The summary of a run, a distillation, a checkpoint file, a preset or a configuration file.

    Args:
        target: which.
        image: channels, height, width of the pictures, for a configuration alone; those of its data
            set if None.
        classes: number of their labels, likewise.
        say: called with one line for every damaged checkpoint.
        teacher: whose data and network the configuration of a distillation has; without one only
            its stages are shown.

    Returns:
        lines of text.

    Raises:
        ValueError: if there is nothing of that name, image and classes go with a run or a
            distillation, or a teacher with anything else.
    """
    path = Path(target)
    if path.is_dir() or path.suffix == ".safetensors":
        _only_for_pictures(target, image, classes)
        _only_for_plans(target, teacher)
        config, shape, lines = _stored(path, say)
    elif (config := configs.load(target)).distill.teacher_steps:
        _only_for_pictures(target, image, classes)
        if teacher is None:
            note = "Data and network are the teacher's: name it with --teacher, or a distilled run."
            return "\n".join([note, *_stages(config)])
        found = find_checkpoint(teacher, say)
        config, shape = plan_of(found, target, {}), found.shape
        lines = _stages(config)
    else:
        _only_for_plans(target, teacher)
        shape, lines = _data_shape(config, image, classes), []
    return "\n".join([*_network(config, shape), *lines])


def _only_for_pictures(target: str, image: tuple[int, ...] | None, classes: int | None) -> None:
    if image is not None or classes is not None:
        raise ValueError(f"{target} knows its pictures; leave out --image and --classes")


def _only_for_plans(target: str, teacher: Path | None) -> None:
    if teacher is not None:
        raise ValueError(
            f"{target} is not the configuration of a distillation; leave --teacher out"
        )


def _stored(path: Path, say: Callable[[str], object]) -> tuple[Config, DataShape, list[str]]:
    """Configuration, shape and checkpoints of a run or file; the stages of a distillation."""
    if (path / TEACHER).is_file():
        config = configs.load(str(path / "config.toml"))
        return config, load_checkpoint(path / TEACHER).shape, _stages(config, path)
    checkpoint = find_checkpoint(path, say)
    files = checkpoint_files(path / "checkpoints") if path.is_dir() else [path]
    lines = [*_checkpoints(files), "", f"newest intact checkpoint: step {checkpoint.step}"]
    return checkpoint.config, checkpoint.shape, lines


def _stages(config: Config, out: Path | None = None) -> list[str]:
    """The students of a distillation, and how many of their updates are done."""
    done = (
        {row["student_steps"]: row["updates"] for row in stage_figures(config, out)} if out else {}
    )
    rows = {}
    for steps in halvings(config.distill):
        planned = stage_config(config, steps).train.steps
        rows[f"{steps}"] = f"{done.get(steps, 0):,} of {planned:,}" if out else f"{planned:,}"
    return ["", *_table("student's steps", "updates", rows)]


def _data_shape(config: Config, image: tuple[int, ...] | None, classes: int | None) -> DataShape:
    """The shape that is asked for, else that of the data set."""
    if image is not None:
        if len(image) != 3 or min(image) < 1:
            raise ValueError(f"expected --image channels,height,width, got {image}")
        return DataShape(*image, tuple(str(k) for k in range(1, (classes or 0) + 1)))
    if classes is not None:
        raise ValueError("expected --image with --classes")
    known = REFERENCE_DATA.get(config.data.dataset)
    if known is None:
        shape = shape_of(load_dataset(config.data))
    else:
        size = known.size, known.size
        shape = DataShape(known.channels, *size, known.class_names, known.multitags)
    return shape if config.data.conditional else shape._replace(class_names=(), multitags=False)


def _network(config: Config, shape: DataShape) -> list[str]:
    counted = cost(config, shape)
    labels = f"{len(shape.class_names)} {'tags' if shape.multitags else 'classes'}"
    span = config.distill.guidance_range
    guidance = f"guidance {span[0]:g}..{span[1]:g} as an input, " if span else ""
    total = sum(counted.parameters.values())
    parts = {name: f"{count:,}" for name, count in counted.parameters.items() if count}
    memory = {name: copies * total * FLOAT32 / 1e6 for name, copies in COPIES.items()}
    memory["all but activations"] = sum(memory.values())
    return [
        f"UNet for {shape.channels} x {shape.height} x {shape.width}, "
        f"{labels if shape.class_names else 'no labels'}, {guidance}"
        f"predicts {config.diffusion.model_out_type}",
        "",
        *_table("part", "parameters", {**parts, "all": f"{total:,}"}),
        "",
        *_table("memory, float32", "MB", {name: f"{mb:,.1f}" for name, mb in memory.items()}),
        "",
        *_table("operations", "GFLOP / image", {
            "forward": f"{counted.forward / 1e9:,.3f}",
            "forward and backward": f"{counted.forward_backward / 1e9:,.3f}",
        }),
    ]  # fmt: skip


def _checkpoints(files: list[Path]) -> list[str]:
    sizes = {file.name: f"{file.stat().st_size / 1e6:,.1f}" for file in files}
    return ["", *_table("checkpoint", "MB", sizes)]


def _table(left: str, right: str, rows: dict[str, str]) -> list[str]:
    width = max(map(len, (left, *rows)))
    return [f"{name:{width}}  {value:>14}" for name, value in {left: right, **rows}.items()]
