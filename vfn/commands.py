"""What `vfn eval` does once its options are parsed."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vfn import __version__
from vfn.bits import Bits, bits_per_dim
from vfn.configs import DataConfig, SampleConfig
from vfn.data import Dataset, load_held_out, read_pictures, spec_settings
from vfn.evaluate import Metric, Sides, evaluate, loss_by_logsnr
from vfn.progress import Progress, Say
from vfn.trained import Trained, asked_labels, open_trained


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
            f"{m.name:{width}}  {m.value:8.4f}  {m.reference:8.4f}  {m.better} is better"
            for m in self.metrics
        ]
        for baseline in dict.fromkeys(m.baseline for m in self.metrics):
            names = ", ".join(m.name for m in self.metrics if m.baseline == baseline)
            lines.append(f"real: {baseline} ({names})")
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
            "metrics": [
                {**metric._asdict(), "note": f"{metric.note}; reference: {metric.baseline}"}
                for metric in self.metrics
            ],
            "loss_by_logsnr": self.loss_by_logsnr,
            "bits_per_dim": [bits._asdict() for bits in self.bits_per_dim],
        }


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
) -> Evaluation:
    """Judge the pictures that ``fake`` stands for against those of ``real``.

    Raises:
        ValueError: for pictures, metrics or checkpoints that do not fit.
    """
    names = [name.strip() for name in metrics.split(",")]
    run = fake.removeprefix("run:") if fake.startswith("run:") else None
    trained = open_trained(Path(run), device, say) if run is not None else None
    data = trained.checkpoint.config.data if trained else DataConfig()
    data = replace(data, data_dir=data_dir or data.data_dir)
    reals = read_pictures(real, data)
    unseen = _unseen(real, held_out, data)
    settings: dict[str, Any] = {"real": real, "fake": fake, "seed": seed, "version": __version__}
    bins: list[dict[str, float]] = []
    bits: list[Bits] = []
    if trained:
        sampling = replace(trained.checkpoint.config.sample, **overrides)
        fakes = _fakes(trained, sampling, num, seed, say)
        settings |= {"num": num, "step": trained.checkpoint.step, **asdict(sampling)}
        pictures = load_held_out(data) if "loss" in names or bpd else None
        if pictures:
            what = (trained.model, trained.params, trained.checkpoint.config.diffusion, pictures)
            bins = loss_by_logsnr(*what, seed, trained.device) if "loss" in names else []
            bits = bits_per_dim(*what, num, seed, trained.device) if bpd else []
        elif "loss" in names or bpd:
            say("no held-out loss: the run was trained on all pictures")
    else:
        if bpd:
            raise ValueError(f"--bpd goes with --fake run:DIR, got {fake}; leave it out")
        if overrides:
            raise ValueError(f"sampling options go with --fake run:DIR, got {fake}; leave them out")
        fakes = read_pictures(fake, data)
        settings["num"] = len(fakes.images)
    chosen = [name for name in names if name != "loss"]
    sides = Sides(reals, _relabel(fakes, reals), _relabel(unseen, reals) if unseen else None)
    return Evaluation(evaluate(sides, chosen, seed), settings, bins, bits)


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


def _fakes(trained: Trained, settings: SampleConfig, num: int, seed: int, say: Say) -> Dataset:
    labels = asked_labels(trained.checkpoint.shape).of(torch.arange(num))
    with Progress(num, say) as progress:
        images = trained.generate(settings, labels, torch.arange(num), seed, progress=progress.show)
    shape = trained.checkpoint.shape
    return Dataset(images, labels if shape.class_names else None, shape.class_names)
