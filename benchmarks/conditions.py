"""Do samples follow their conditions? Numbers with a known law, and small pictures made large.

python -m benchmarks.conditions law
python -m benchmarks.conditions large

Both train for so many CPU seconds of one thread, by the cost of a step that they measure first.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

import vfn
from benchmarks.budget import cost_of_a_step, train_whole
from benchmarks.common import write_table
from vfn.configs import Config, load, override
from vfn.data import Dataset, as_dataset, load_dataset, to_uint8, to_unit
from vfn.ops import psnr

SIDE, NAMES = 16, ("row", "column", "radius")
LOW, HIGH = torch.tensor([5.0, 5.0, 2.0]), torch.tensor([11.0, 11.0, 4.5])


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


def config(preset: str, **more: Any) -> Config:
    quiet = {"preview_every": 0, "eval_every": 0, "checkpoint_every": 10**6, "log_every": 10}
    return override(load(preset), {**quiet, "batch_size": 64, "guidance": 0.0, **more})


def trained(settings: Config, budget: float, out: str, data: Dataset | None = None) -> int:
    """Train for a budget of CPU seconds; the number of steps."""
    torch.set_num_threads(1)
    settings = override(settings, {"steps": round(budget / cost_of_a_step(settings, data))})
    train_whole(settings, out, dataset=data)
    return settings.train.steps


def spent(budget: float, steps: int) -> str:
    return f"After {budget:g} CPU seconds of one thread: {steps} steps of 64 pictures."


@click.group()
def main() -> None:
    pass


@main.command()
@click.option("--budget", default=300.0)
@click.option("--num", default=300)
def law(budget: float, num: int) -> None:
    draw = torch.Generator().manual_seed(0)

    def asked(count: int) -> Tensor:
        return LOW + (HIGH - LOW) * torch.rand(count, 3, generator=draw)

    numbers = asked(4000)
    data = as_dataset(discs(numbers), vectors=numbers, vector_names=NAMES)
    wanted = asked(num)
    with TemporaryDirectory() as out:
        steps = trained(config("digits"), budget, out, data)
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
    title = f"Place and size that were asked for, {num} pictures"
    write_table("conditions_law", title, head, rows, spent(budget, steps))


@main.command()
@click.option("--budget", default=600.0)
@click.option("--num", default=200)
@click.option("--dataset", default="mnist5k")
def large(budget: float, num: int, dataset: str) -> None:
    unseen = load_dataset(dataset, "test")
    rows_of = torch.arange(num) * len(unseen.images) // num
    real = unseen.images[rows_of]
    settings = config(
        "mnist5k", dataset=dataset, condition="downscale:4", p_uncond=0.0, model_out_type="x0",
        conditional=False,
    )  # fmt: skip
    with TemporaryDirectory() as out:
        steps = trained(settings, budget, out)
        model = vfn.load(Path(out))
        given = model.condition(Dataset(real))
        one = model.sample(condition=given).images
        mean = torch.stack(
            [model.sample(condition=given, seed=seed).images.float() for seed in range(1, 9)]
        ).mean(0)
    small = to_uint8(F.avg_pool2d(to_unit(real), 4))  # as 8 bits, which is what people have
    size = tuple(real.shape[2:])
    bicubic = to_uint8(F.interpolate(to_unit(small), size=size, mode="bicubic"))
    pictures = {"bicubic": bicubic, "one sample": one, "mean of 8 samples": mean}
    found = {name: psnr(each, real, 255.0).mean().item() for name, each in pictures.items()}
    rows = [[name, f"{v:.2f}", f"{v - found['bicubic']:+.2f}"] for name, v in found.items()]
    title = f"{dataset} four times as large, {num} held-out pictures"
    head = ["pictures", "PSNR, dB", "beside bicubic"]
    write_table("conditions_large", title, head, rows, spent(budget, steps))


if __name__ == "__main__":
    main()
