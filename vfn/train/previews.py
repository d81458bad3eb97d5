"""What a run shows of itself on the way: sample grids, held-out loss, evaluations.

All of it uses the averaged parameters, and all processes: each does its share.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vfn.data import Dataset, to_unit
from vfn.distributed import gather, share, total
from vfn.evaluation.metrics import Metric, Sides, evaluate
from vfn.nn import with_params
from vfn.objective import Batch, held_out_loss, keyed_guidance, keyed_time
from vfn.ops import keyed_normal
from vfn.pictures import grid, save_png
from vfn.sampling.asked import preview_labels
from vfn.sampling.generate import generate
from vfn.streams import Stream
from vfn.train.session import Run

PREVIEW_ROWS, PREVIEW_COLUMNS = 4, 10
HELD_OUT_DRAWS, HELD_OUT_PICTURES = 4, 512
EVALUATED = ["fd", "pr"]


def samples(run: Run, labels: Tensor, check: Callable[[], None]) -> Tensor:
    """Pictures 0, 1, ... of the run's seed, uint8 [N, C, H, W], the same on every process.

    Args:
        run: the run.
        labels: of each picture, see `generate`.
        check: called by all processes before each sampling step; what it raises ends the sampling.
    """
    mine = share(len(labels), run.world)
    run.model.eval()
    part = generate(
        run.model,
        run.state.ema,
        run.config.diffusion,
        run.config.sample,
        run.shape,
        labels[mine],
        mine,
        run.config.train.seed,
        run.world.device,
        watch=lambda _i, _z, _x0: check(),
    )
    return gather(part, len(labels), run.world)


def preview(run: Run, check: Callable[[], None]) -> dict[str, float]:
    """Write a sample grid with fixed noise; the loss on held-out pictures, if there are any."""
    save_grid(run, run.out / "samples" / f"step-{run.state.step:08d}.png", check)
    return {"held_out_loss": _held_out_loss(run, run.held_out)} if run.held_out else {}


def save_grid(run: Run, path: Path, check: Callable[[], None]) -> None:
    """Write some pictures of each label; those of all runs of a seed begin with the same noise."""
    labels, names = _preview_labels(run)
    images = samples(run, labels, check)
    if run.world.rank == 0:
        save_png(path, grid(images, len(names) or PREVIEW_COLUMNS, column_labels=names))


def evaluation(run: Run, check: Callable[[], None]) -> dict[str, float]:
    """Fréchet distance, precision and recall of samples, as `vfn eval` computes them."""
    settings, dataset = run.config.train, run.dataset
    labels = _labels_in_turn(run, settings.eval_num)
    fake = Dataset(samples(run, labels, check), labels, run.shape.class_names)
    real = dataset._replace(images=_some(dataset.images, settings.eval_num), labels=None)
    metrics = evaluate(Sides(real, fake, None), EVALUATED, settings.seed, world=run.world)
    return {_key(metric): metric.value for metric in metrics}


def _key(metric: Metric) -> str:
    return metric.name.lower().replace("é", "e").replace(" (pixels)", "").replace(" ", "_")


def _labels_in_turn(run: Run, count: int) -> Tensor:
    """Every class in turn; for tags those of the first training pictures."""
    if run.dataset.multitags and run.dataset.labels is not None:
        return run.dataset.labels[torch.arange(count) % len(run.dataset.labels)]
    classes = len(run.shape.class_names)
    return preview_labels(classes, -(-count // (classes or PREVIEW_COLUMNS)))[:count]


def _preview_labels(run: Run) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of the sample grids, and names of its columns: some classes, or tags that occur."""
    if run.dataset.multitags:
        return _labels_in_turn(run, PREVIEW_ROWS * PREVIEW_COLUMNS), ()
    names = run.shape.class_names[:PREVIEW_COLUMNS]
    return preview_labels(len(names), PREVIEW_ROWS), names


def _some(values: Tensor, count: int) -> Tensor:
    """``count`` of the values, evenly spread."""
    return values[:: max(1, len(values) // count)][:count]


def _held_out_loss(run: Run, held_out: Dataset) -> float:
    """Mean loss with times and noise that stay the same throughout the run."""
    world, device, seed = run.world, run.world.device, run.config.train.seed
    count = len(_some(held_out.images, HELD_OUT_PICTURES))
    mine = torch.arange(count)[world.rank :: world.size]
    x0 = to_unit(_some(held_out.images, HELD_OUT_PICTURES)[mine].to(device))
    labels = None
    if held_out.labels is not None:
        labels = _some(held_out.labels, HELD_OUT_PICTURES)[mine].to(device)
    run.model.eval()
    network = with_params(run.model, run.state.ema)
    batches = []
    for draw in range(HELD_OUT_DRAWS):
        keys = mine.to(device) + draw * count
        t = keyed_time(seed, Stream.HELD_OUT_TIME, keys, run.config.diffusion)
        noise = keyed_normal(seed, Stream.HELD_OUT_NOISE, keys, tuple(x0.shape[1:]))
        span = run.config.distill.guidance_range
        guidance = keyed_guidance(seed, Stream.HELD_OUT_GUIDANCE, keys, span)
        batches.append(Batch(x0, labels, t, noise, guidance))
    summed = held_out_loss(network, batches, run.config.diffusion, run.objective).sum()
    return total(summed, world).item() / (count * HELD_OUT_DRAWS)
