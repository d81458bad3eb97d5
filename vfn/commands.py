"""What `vfn sample` and `vfn eval` do once their options are parsed."""

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vfn import __version__
from vfn.bits import Bits, bits_per_dim
from vfn.configs import DataConfig, SampleConfig
from vfn.data import (
    Dataset,
    label_names,
    load_held_out,
    parse_labels,
    read_pictures,
    spec_settings,
    to_uint8,
)
from vfn.evaluate import NO_REAL_FEATURES, Metric, Sides, evaluate, loss_by_logsnr
from vfn.extractors import Extractor, open_extractor
from vfn.features import Statistics, holds_statistics, read_statistics
from vfn.files import make_directory, write_atomic, write_json
from vfn.generate import generate
from vfn.nn import UNet
from vfn.pictures import grid, save_animation, save_images, save_png, sheet
from vfn.train.checkpoint import Checkpoint, check_fits, digest, find_checkpoint
from vfn.train.state import build_model
from vfn.train.world import World, choose_device, gather, join_world, leave_world, share

Say = Callable[[str], None]
PER_LABEL = 10
FRAMES, FRAME_MS, HOLD_MS = 32, 60, 1500
ANIMATED = 50
SWEEP_ROWS = 4


class Trained(NamedTuple):
    """A network ready to sample from: its parameters are the checkpoint's EMA."""

    checkpoint: Checkpoint
    model: UNet
    params: dict[str, Tensor]
    device: torch.device

    def generate(
        self, settings: SampleConfig, labels: Tensor, indices: Tensor, seed: int, **watchers: Any
    ) -> Tensor:
        return generate(
            self.model,
            self.params,
            self.checkpoint.config.diffusion,
            settings,
            self.checkpoint.shape,
            labels,
            indices,
            seed,
            self.device,
            **watchers,
        )


class Evaluation(NamedTuple):
    """The figures, what they were computed of, held-out loss by log-SNR bin, bits per dimension."""

    metrics: list[Metric]
    settings: dict[str, Any]
    loss_by_logsnr: list[dict[str, float]]
    bits_per_dim: list[Bits]

    def table(self) -> str:
        """The figures as lines of text for a terminal."""
        width = max((len(metric.name) for metric in self.metrics), default=0)
        lines = [f"{'':{width}}  {'pictures':>8}  {'real':>8}"] if self.metrics else []
        lines += [
            f"{m.name:{width}}  {m.value:8.4f}  {_number(m.reference):>8}  "
            f"{m.better} is better{_spread(m)}"
            for m in self.metrics
        ]
        compared = [m for m in self.metrics if m.reference is not None]
        for baseline in dict.fromkeys(m.baseline for m in compared):
            names = ", ".join(m.name for m in compared if m.baseline == baseline)
            lines.append(f"real: {baseline} ({names})")
        lines += [f"{m.name}: {m.note}" for m in self.metrics if "singular" in m.note]
        if self.loss_by_logsnr:
            lines += ["", f"{'logsnr':>17}  held-out loss"]
        lines += [
            f"{row['low']:7.2f} ..{row['high']:7.2f}  {row['loss']:.4f}"
            for row in self.loss_by_logsnr
        ]
        if self.bits_per_dim:
            lines += ["", "bits per dimension of held-out pictures"]
        lines += [
            f"{bits.name:17}  {bits.value:.4f} ± {bits.error:.4f}  ({bits.note})"
            for bits in self.bits_per_dim
        ]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """The evaluation as plain values for a JSON file."""
        title = "Evaluation"
        if "guidance" in self.settings:
            title += f" at guidance {self.settings['guidance']:g}"
        return {
            "title": title,
            "settings": self.settings,
            "metrics": [{**metric._asdict(), "note": _note(metric)} for metric in self.metrics],
            "loss_by_logsnr": self.loss_by_logsnr,
            "bits_per_dim": [bits._asdict() for bits in self.bits_per_dim],
        }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _spread(metric: Metric) -> str:
    """The error and the interval of a figure, if it has them."""
    text = "" if metric.error is None else f", ± {metric.error:.4f}"
    if metric.interval:
        text += f", 95 % {metric.interval.low:.4f} .. {metric.interval.high:.4f}"
    return text


def _note(metric: Metric) -> str:
    return metric.note + ("" if metric.reference is None else f"; reference: {metric.baseline}")


def open_trained(path: Path, device: str, say: Say) -> Trained:
    """Load the EMA network of a run directory or checkpoint file.

    Raises:
        ValueError: if there is no intact checkpoint, or no such device.
    """
    where = choose_device(device)
    checkpoint = find_checkpoint(path, say)
    model = build_model(checkpoint.config, checkpoint.shape).to(where).eval()
    check_fits(checkpoint.ema, dict(model.named_parameters()))
    params = {
        name: torch.empty_like(param).copy_(checkpoint.ema[name]).detach()
        for name, param in model.named_parameters()
    }
    return Trained(checkpoint, model, params, where)


def _labels(trained: Trained, names: str | None, num: int | None) -> Tensor:
    """The asked labels in turn, until there are ``num``."""
    shape = trained.checkpoint.shape
    if not shape.class_names:
        if names is not None:
            raise ValueError("this model is unconditional and takes no --labels; leave them out")
        return torch.zeros(num or 10 * PER_LABEL, dtype=torch.long)
    chosen = torch.tensor(parse_labels(names or "all", shape.class_names, shape.multitags))
    count = num or PER_LABEL * len(chosen)
    return chosen[torch.arange(count) % len(chosen)]


def _progress(total: int | None) -> tuple[tqdm, Callable[[int], None]]:
    bar = tqdm(total=total, unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def advance(done: int) -> None:
        bar.update(done - bar.n)

    return bar, advance


def sample_to_directory(
    checkpoint: Path,
    out: Path,
    num: int | None,
    labels: str | None,
    seed: int,
    kind: str,
    animate: bool,
    device: str,
    strengths: list[float],
    overrides: dict[str, Any],
    say: Say,
) -> None:
    """Sample, and write pictures, grid and animation; one folder for each of several strengths.

    Raises:
        ValueError: for settings, labels or checkpoints that do not fit.
        OSError: if ``out`` cannot be written.
    """
    trained = open_trained(checkpoint, device, say)
    settings = replace(trained.checkpoint.config.sample, **overrides)
    asked = _labels(trained, labels, num)
    columns = len(asked.unique(dim=0)) if trained.checkpoint.shape.class_names else 10
    names = _names(trained, asked)
    variants = [replace(settings, guidance=w) for w in strengths] or [settings]
    blocks = []
    for variant in variants:
        folder = out if len(variants) == 1 else out / f"w{variant.guidance:g}"
        images = _sample_one(trained, variant, asked, names, seed, kind, folder)
        picture = grid(images, columns, column_labels=names[:columns])
        save_png(folder / "grid.png", picture)
        if animate and len(variants) == 1:
            _animate(trained, variant, asked, names, seed, columns, folder / "denoising.webp")
        rows = images[: SWEEP_ROWS * columns]
        head = names[:columns]
        blocks.append((f"w = {variant.guidance:g}", grid(rows, columns, column_labels=head)))
        say(f"{len(images)} pictures at guidance {variant.guidance:g}: {folder / 'grid.png'}")
    if len(variants) > 1:
        save_png(out / "sweep.png", sheet(blocks))
        say(f"comparison: {out / 'sweep.png'}")


def _names(trained: Trained, labels: Tensor) -> list[str]:
    known = trained.checkpoint.shape.class_names
    return label_names(labels, known) if known else []


def _sample_one(
    trained: Trained,
    settings: SampleConfig,
    labels: Tensor,
    names: list[str],
    seed: int,
    kind: str,
    folder: Path,
) -> Tensor:
    """Sample one set and write it as PNGs or npz, with its settings."""
    make_directory(folder)  # fails now, not after the sampling
    bar, advance = _progress(len(labels))
    with bar:
        images = trained.generate(
            settings, labels, torch.arange(len(labels)), seed, progress=advance
        )
    write_json(
        folder / "settings.json",
        {"seed": seed, "num": len(images), "step": trained.checkpoint.step,
         "version": __version__, **asdict(settings)},
    )  # fmt: skip
    if kind == "npz":
        array = images.movedim(1, -1).numpy()
        buffer = io.BytesIO()
        if names:
            np.savez(buffer, arr_0=array, arr_1=labels.numpy())
        else:
            np.savez(buffer, arr_0=array)
        write_atomic(folder / "samples.npz", buffer.getvalue())
        return images
    stems = [f"{i:06d}" for i in range(len(images))]
    save_images(folder / "images", images, stems)
    if names:
        text = io.StringIO()
        rows = [(f"{stem}.png", name) for stem, name in zip(stems, names, strict=True)]
        head = ("file", "tags" if labels.ndim == 2 else "label")
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        write_atomic(folder / "images" / "labels.csv", text.getvalue())
    return images


def _animate(
    trained: Trained,
    settings: SampleConfig,
    labels: Tensor,
    names: list[str],
    seed: int,
    columns: int,
    path: Path,
) -> None:
    """Draw the first pictures again, keeping some of the states on the way."""
    count = min(len(labels), max(1, ANIMATED // columns) * columns)
    steps = settings.sample_timesteps
    wanted = {round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}
    states: list[Tensor] = []

    def watch(i: int, z: Tensor, _x0: Tensor) -> None:
        if i in wanted:
            states.append(to_uint8(z).cpu())

    final = trained.generate(
        replace(settings, sample_batch=count), labels[:count], torch.arange(count), seed,
        watch=watch,
    )  # fmt: skip
    frames = [grid(state, columns, column_labels=names[:columns]) for state in [*states, final]]
    save_animation(path, frames, FRAME_MS, HOLD_MS)


def evaluate_pictures(
    real: str,
    fake: str,
    held_out: str | None,
    metrics: str,
    num: int,
    seed: int,
    device: str,
    data_dir: str | None,
    overrides: dict[str, Any],
    say: Say,
    bpd: bool = False,
    features: str = "pixels",
    weights: Path | None = None,
    bootstrap: int = 0,
) -> Evaluation | None:
    """Judge the pictures that ``fake`` stands for against those of ``real``.

    Returns:
        Evaluation; None on all processes but the first.

    Raises:
        ValueError: for pictures, metrics, weights or checkpoints that do not fit.
    """
    names = [name.strip() for name in metrics.split(",")]
    world = join_world(device)
    try:
        extractor = open_extractor(features, weights, world.device)
        run = fake.removeprefix("run:") if fake.startswith("run:") else None
        trained = open_trained(Path(run), device, say) if run is not None else None
        data = trained.checkpoint.config.data if trained else DataConfig()
        data = replace(data, data_dir=data_dir or data.data_dir)
        chosen = [name for name in names if name != "loss"]
        lean = features != "pixels" and set(chosen) <= NO_REAL_FEATURES
        reals = _side(real, data, extractor, lean)
        unseen = _unseen(real, held_out, data) if isinstance(reals, Dataset) else None
        settings: dict[str, Any] = {"real": real, "fake": fake, "seed": seed}
        fakes: Dataset | Statistics
        if trained:
            sampling = replace(trained.checkpoint.config.sample, **overrides)
            fakes = _fakes(trained, sampling, num, seed, world)
            settings |= {
                "num": num,
                "step": trained.checkpoint.step,
                "ema_sha256": digest(trained.checkpoint.ema),
                **asdict(sampling),
            }
        else:
            if bpd:
                raise ValueError(f"--bpd goes with --fake run:DIR, got {fake}; leave it out")
            if overrides:
                raise ValueError(
                    f"sampling options go with --fake run:DIR, got {fake}; leave them out"
                )
            fakes = _side(fake, data, extractor, False)
            settings["num"] = _count(fakes)
        settings |= {"real_num": _count(reals), "bootstrap": bootstrap, **extractor.provenance}
        settings |= {"version": __version__, "torch": torch.__version__}
        if isinstance(reals, Dataset) and isinstance(fakes, Dataset):
            fakes = _relabel(fakes, reals)
            unseen = _relabel(unseen, reals) if unseen else None
        bar, advance = _progress(None)
        with bar:
            sides = Sides(reals, fakes, unseen)
            found = evaluate(sides, chosen, seed, extractor, bootstrap, world, advance)
        if world.rank:
            return None
        bins, bits = _held_out_figures(trained, data, "loss" in names, bpd, seed, say)
        return Evaluation(found, settings, bins, bits)
    finally:
        leave_world(world)


def _side(
    spec: str, data: DataConfig, extractor: Extractor, with_pictures: bool
) -> Dataset | Statistics:
    """Stored statistics, or pictures; ``with_pictures`` see `holds_statistics`."""
    path = Path(spec)
    if path.suffix == ".npz" and holds_statistics(path, with_pictures):
        return read_statistics(path, extractor)
    return read_pictures(spec, data)


def _count(side: Dataset | Statistics) -> int | None:
    return len(side.images) if isinstance(side, Dataset) else side.num


def _held_out_figures(
    trained: Trained | None, data: DataConfig, loss: bool, bpd: bool, seed: int, say: Say
) -> tuple[list[dict[str, float]], list[Bits]]:
    """Held-out loss by log-SNR bin and bits per dimension, where they are asked for."""
    if not trained or not (loss or bpd):
        return [], []
    pictures = load_held_out(data)
    if not pictures:
        say("no held-out loss: the run was trained on all pictures")
        return [], []
    unseen_by_it = (
        trained.model,
        trained.params,
        trained.checkpoint.config.diffusion,
        pictures,
        seed,
        trained.device,
    )
    bins = loss_by_logsnr(*unseen_by_it) if loss else []
    return bins, bits_per_dim(*unseen_by_it) if bpd else []


def _unseen(real: str, held_out: str | None, data: DataConfig) -> Dataset | None:
    """Real pictures never trained on: those named, or what the data set holds out."""
    if held_out:
        return read_pictures(held_out, data)
    if not real.startswith("dataset:"):
        return None
    asked = spec_settings(real, data)
    # `data` has the split that the run was trained on.
    if asked.dataset == data.dataset and load_held_out(data) is None:
        return None
    return load_held_out(asked)


def _relabel(pictures: Dataset, like: Dataset) -> Dataset:
    """Number the classes as ``like`` does, by their names."""
    if pictures.labels is None or pictures.multitags:
        return pictures
    if not pictures.class_names or not like.class_names:
        return pictures
    strange = [name for name in pictures.class_names if name not in like.class_names]
    if strange:
        raise ValueError(
            f"label {strange[0]!r} is not among the real pictures' {', '.join(like.class_names)}"
        )
    numbers = torch.tensor([0, *(like.class_names.index(n) + 1 for n in pictures.class_names)])
    return pictures._replace(labels=numbers[pictures.labels], class_names=like.class_names)


def _fakes(trained: Trained, settings: SampleConfig, num: int, seed: int, world: World) -> Dataset:
    """Samples of all processes together; nothing is written."""
    labels = _labels(trained, None, num)
    mine = share(num, world)
    bar, advance = _progress(len(mine))
    with bar:
        part = trained.generate(settings, labels[mine], mine, seed, progress=advance)
    images = gather(part, num, world)
    shape = trained.checkpoint.shape
    return Dataset(images, labels if shape.class_names else None, shape.class_names)
