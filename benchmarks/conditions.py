"""Do samples follow their conditions? Numbers with a known law, and small pictures made large.

python -m benchmarks.conditions law --steps 1500
python -m benchmarks.conditions large --steps 2000
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

import vfn
from benchmarks.common import write_table
from vfn.configs import Config, load, override
from vfn.data import Dataset, as_dataset, load_dataset, to_uint8, to_unit
from vfn.ops import psnr
from vfn.train import train

SIDE, NAMES = 16, ("row", "column", "radius")
LOW, HIGH = torch.tensor([5.0, 5.0, 2.0]), torch.tensor([11.0, 11.0, 4.5])
SMALL: dict[str, Any] = {"hid_channels": 32, "ch_multipliers": (1, 2), "apply_attn": (False, True)}


def discs(numbers: Tensor) -> Tensor:
    """White discs on black, with soft edges, uint8 [N, 1, 16, 16]."""
    place = torch.arange(SIDE) + 0.5
    row, column, radius = (each.view(-1, 1, 1) for each in numbers.unbind(1))
    away = ((place.view(1, -1, 1) - row).square() + (place - column).square()).sqrt()
    return (255 * (radius + 0.5 - away).clamp(0, 1)).round().byte()[:, None]


def found_back(images: Tensor) -> Tensor:
    """Row, column and radius of a disc, from its centre of mass and its area."""
    light = images[:, 0].double() / 255
    mass, place = light.sum((1, 2)), torch.arange(SIDE) + 0.5
    row, column = ((light.sum(axis) * place).sum(1) / mass for axis in (2, 1))
    return torch.stack([row, column, (mass / torch.pi).sqrt()], 1)


def config(steps: int, **more: Any) -> Config:
    fixed = {"steps": steps, "preview_every": 0, "eval_every": 0, "checkpoint_every": steps}
    return override(load("digits"), {**SMALL, **fixed, **more})


@click.group()
def main() -> None:
    pass


@main.command()
@click.option("--steps", default=1500)
@click.option("--num", default=300)
def law(steps: int, num: int) -> None:
    draw = torch.Generator().manual_seed(0)

    def asked(count: int) -> Tensor:
        return LOW + (HIGH - LOW) * torch.rand(count, 3, generator=draw)

    numbers = asked(4000)
    data = as_dataset(discs(numbers), vectors=numbers, vector_names=NAMES)
    settings = config(steps, batch_size=64, guidance=0.0)
    wanted = asked(num)
    with TemporaryDirectory() as out:
        train(settings, out, dataset=data)
        images = vfn.load(out).sample(condition=wanted).images
    errors = found_back(images) - wanted
    seen = found_back(discs(wanted)) - wanted  # what the measurement itself is off by
    rows = []
    for k, name in enumerate(NAMES):
        span = (HIGH - LOW)[k].item()
        off, least = (each[:, k].square().mean().sqrt().item() for each in (errors, seen))
        rows.append(
            [name, f"{off:.3f}", f"{100 * off / span:.1f} %", f"{100 * least / span:.1f} %"]
        )
    head = ["number", "rms error, pixels", "of the range", "of true pictures"]
    title = f"Place and size that were asked for, {steps} steps of batch 64, {num} pictures"
    write_table("conditions_law", title, head, rows)


@main.command()
@click.option("--steps", default=2000)
@click.option("--num", default=200)
@click.option("--dataset", default="mnist5k")
def large(steps: int, num: int, dataset: str) -> None:
    unseen = load_dataset(dataset, "test")
    rows_of = torch.arange(num) * len(unseen.images) // num
    real = unseen.images[rows_of]
    settings = config(
        steps, dataset=dataset, condition="downscale:4", batch_size=64, guidance=0.0, p_uncond=0.0,
        model_out_type="x0", conditional=False,
    )  # fmt: skip
    with TemporaryDirectory() as out:
        train(settings, out)
        trained = vfn.load(Path(out))
        given = trained.condition(Dataset(real))
        one = trained.sample(condition=given).images
        mean = torch.stack(
            [trained.sample(condition=given, seed=seed).images.float() for seed in range(1, 9)]
        ).mean(0)
    small = to_uint8(F.avg_pool2d(to_unit(real), 4))  # as 8 bits, which is what people have
    size = tuple(real.shape[2:])
    bicubic = to_uint8(F.interpolate(to_unit(small), size=size, mode="bicubic"))
    pictures = {"bicubic": bicubic, "one sample": one, "mean of 8 samples": mean}
    found = {name: psnr(each, real, 255.0).mean().item() for name, each in pictures.items()}
    rows = [[name, f"{v:.2f}", f"{v - found['bicubic']:+.2f}"] for name, v in found.items()]
    title = f"{dataset} four times as large, {steps} steps of batch 64, {num} held-out pictures"
    write_table("conditions_large", title, ["pictures", "PSNR, dB", "beside bicubic"], rows)


if __name__ == "__main__":
    main()
