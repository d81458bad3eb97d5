"""What `vfn eval` does once its options are parsed."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vfn import __version__
from vfn.configs import DataConfig, SampleConfig
from vfn.data import Dataset, data_home, load_dataset, load_held_out, read_pictures, spec_settings
from vfn.distributed import World, gather, join_world, leave_world, share
from vfn.evaluation.bits import Bits, bits_per_dim
from vfn.evaluation.extractors import Extractor, open_extractor
from vfn.evaluation.features import Statistics, holds_statistics, read_statistics
from vfn.evaluation.metrics import NO_REAL_FEATURES, Metric, Sides, evaluate, loss_by_logsnr
from vfn.evaluation.shards import SHARDS, resumable
from vfn.ops import epoch_permutation
from vfn.progress import Progress, Say
from vfn.runs.checkpoint import digest
from vfn.runs.log import read_log
from vfn.sampling.asked import asked_labels
from vfn.sampling.trained import Trained, open_trained


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
    labels: str | None = None,
) -> Evaluation | None:
    """Judge the pictures that ``fake`` stands for against those of ``real``.

    ``labels`` are those asked of a run, see `parse_labels`; by default every class in turn, or tag
    sets as the training pictures have them.

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
            asked = _asked(trained, data, labels, num, seed)
            fakes = _fakes(trained, sampling, asked, seed, world, say)
            settings |= {
                "num": num,
                "labels": labels
                or ("as in the data" if trained.checkpoint.shape.multitags else "in turn"),
                "step": trained.checkpoint.step,
                "train_seconds": _train_seconds(Path(fake.removeprefix("run:")), trained),
                "ema_sha256": digest(trained.checkpoint.ema),
                **asdict(sampling),
            }
        else:
            if bpd:
                raise ValueError(f"--bpd goes with --fake run:DIR, got {fake}; leave it out")
            if overrides or labels is not None:
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
        sides = Sides(reals, fakes, unseen)
        bar = tqdm(unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        with bar, resumable(extractor, data_home(data) / SHARDS, world.device) as kept:
            found = evaluate(
                sides, chosen, seed, kept, bootstrap, world, lambda n: bar.update(n - bar.n)
            )
        if world.rank:
            return None
        given = settings["guidance"] if trained and trained.model.guidance_range else None
        bins, bits = _held_out_figures(
            trained, data, "loss" in names, num if bpd else 0, seed, given, say
        )
        return Evaluation(found, settings, bins, bits)
    finally:
        leave_world(world)


def _train_seconds(run: Path, trained: Trained) -> float | None:
    """How long the training took up to the checkpoint; None where no log says so."""
    log = read_log(run / "log.jsonl") if run.is_dir() else []
    passed = [e["seconds"] for e in log if "seconds" in e and e["step"] <= trained.checkpoint.step]
    return max(passed, default=None)


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
    trained: Trained | None,
    data: DataConfig,
    loss: bool,
    bpd: int,
    seed: int,
    guidance: float | None,
    say: Say,
) -> tuple[list[dict[str, float]], list[Bits]]:
    """Held-out loss by log-SNR bin, and bits per dimension of ``bpd`` pictures.

    ``guidance`` is for a network that takes it as an input; others show their figures without it.
    """
    if not trained or not (loss or bpd):
        return [], []
    pictures = load_held_out(data)
    if not pictures:
        say("no held-out loss: the run was trained on all pictures")
        return [], []
    what = (trained.model, trained.params, trained.checkpoint.config.diffusion, pictures)
    how = (seed, trained.device)
    bins = loss_by_logsnr(*what, *how, guidance) if loss else []
    return bins, bits_per_dim(*what, bpd, *how, guidance=guidance) if bpd else []


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


def _asked(trained: Trained, data: DataConfig, names: str | None, num: int, seed: int) -> Tensor:
    """The labels of the samples: those named in turn, every class, or tags as the data have them.

    Each tag alone is what no picture has; the figures would be those of another distribution.
    """
    if names is not None or not trained.checkpoint.shape.multitags:
        return asked_labels(trained.checkpoint.shape, names).of(torch.arange(num))
    known = load_dataset(data).labels
    assert known is not None  # those that the network was trained with
    order = epoch_permutation(seed, 0, len(known))
    return known[order[torch.arange(num) % len(known)]]


def _fakes(
    trained: Trained, settings: SampleConfig, labels: Tensor, seed: int, world: World, say: Say
) -> Dataset:
    """Samples of all processes together; nothing is written."""
    num = len(labels)
    mine = share(num, world)
    with Progress(len(mine), say, not world.rank) as progress:
        part = trained.generate(settings, labels[mine], mine, seed, progress=progress.show)
    images = gather(part, num, world)
    shape = trained.checkpoint.shape
    return Dataset(images, labels if shape.class_names else None, shape.class_names)
