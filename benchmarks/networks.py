"""UNet and transformer beside each other: what do they give after the same CPU seconds?

python -m benchmarks.networks --jobs 2

Each is trained on one thread for as many steps as the budget allows at its own cost of a step,
which is measured first. What is finished is kept under --out, so that an interrupted benchmark goes
on.
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

import vfn
from benchmarks.budget import (
    NUM,
    cell,
    cost_of_a_step,
    costs,
    file_of,
    judged,
    kept,
    perfect,
    run_all,
    train_whole,
)
from benchmarks.common import markdown, write_table
from benchmarks.implementations import size_of
from vfn.configs import Config, load, override
from vfn.data import load_dataset
from vfn.files import write_json
from vfn.model import build_model, shape_of

# Presets; patches of 4 x 4 of the larger pictures are 49 tokens.
NETWORKS: dict[str, dict[str, Any]] = {"digits": {}, "digits_transformer": {}}
LARGER: dict[str, dict[str, Any]] = {
    "mnist5k": {},
    "digits_transformer": {
        "dataset": "mnist5k", "batch_size": 64, "warmup": 200,
        "time_options": load("mnist5k").diffusion.time_options,  # of such pictures, for both
        "options": {"patch_size": 4, "width": 128, "depth": 6, "num_heads": 4},
    },
}  # fmt: skip
ASKED = {"digits": NETWORKS, "mnist5k": LARGER}
SAMPLER: dict[str, Any] = {"sampler": "abm2", "steps": 16, "guidance": 0.0}
FIGURES = {
    "distance": ("frechet_distance", ".3f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "copies": ("near_copies", ".3f"),
}


def configuration(data: str, preset: str, seed: int = 0) -> Config:
    quiet = {"preview_every": 0, "checkpoint_every": 10**6, "log_every": 10, "seed": seed}
    return override(load(preset), {**quiet, **ASKED[data][preset]})


def one(data: str, preset: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one run and judge it, against held-out pictures and for copies of others."""
    torch.set_num_threads(1)
    config = configuration(data, preset, seed)
    with tempfile.TemporaryDirectory() as out:
        seconds = train_whole(override(config, {"steps": steps}), out)
        drawn = vfn.load(out, "cpu").sample(NUM, batch=250, **SAMPLER)
    return {"steps": steps, "seconds": seconds, **judged(drawn.images, data, "memorisation")}


def row(data: str, preset: str, each: float, found: list[dict[str, Any]]) -> list[str]:
    config = configuration(data, preset)
    parameters = size_of(build_model(config, shape_of(load_dataset(data, "train"))))
    return [
        data, config.model.network, f"{parameters / 1e6:.2f} M",
        f"{config.train.batch_size / each:.0f}", str(found[0]["steps"]), str(len(found)),
        *(cell([run[key] for run in found], form) for key, form in FIGURES.values()),
    ]  # fmt: skip


@click.command(help=__doc__)
@click.option("--budget", default=300.0, help="CPU seconds of training.", show_default=True)
@click.option("--data", default="digits,mnist5k", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--jobs", default=1, help="Runs at a time, one thread each; 0: what is there, alone.")
@click.option("--out", default="runs/networks", type=click.Path(path_type=Path))
@click.option("--only", default="", hidden=True)
def main(budget: float, data: str, seeds: str, jobs: int, out: Path, only: str) -> None:
    if only:
        of, preset, seed, steps, path = only.split("|")
        write_json(Path(path), one(of, preset, int(seed), int(steps)))
        return
    sets, out = data.split(","), kept(out, "networks", *NETWORKS, *LARGER)
    rows_of = [(of, preset) for of in sets for preset in ASKED[of]]
    each = costs(
        {f"{of} {preset}": partial(cost_of_a_step, configuration(of, preset))
         for of, preset in rows_of},
        out / "costs.json",
    )  # fmt: skip
    paths = {
        (of, preset, seed): file_of(f"{of} {preset}", seed, out / f"{budget:g}")
        for seed in seeds.split(",")
        for of, preset in rows_of
    }
    todo = [
        ["--only", f"{of}|{preset}|{seed}|{int(budget / each[f'{of} {preset}'])}|{place}"]
        for (of, preset, seed), place in paths.items()
        if not place.exists()
    ]
    (out / f"{budget:g}").mkdir(parents=True, exist_ok=True)
    if jobs:
        run_all("benchmarks.networks", todo, jobs)
    found = {
        (of, preset): [
            json.loads(place.read_text())
            for seed in seeds.split(",")
            if (place := paths[of, preset, seed]).exists()
        ]
        for of, preset in rows_of
    }
    rows = [row(*key, each[" ".join(key)], runs) for key, runs in found.items() if runs]
    best = {of: perfect(of, NUM, "memorisation") for of in sets}
    torch.set_num_threads(1)
    columns = [key for key, _ in FIGURES.values()]
    bound = [[of, *(f"{best[of][key]:.3f}" for key in columns)] for of in sets]
    write_table(
        "networks",
        f"UNet and transformer after {budget:g} CPU seconds of training",
        ["data", "network", "parameters", "pictures/s in training", "steps", "seeds", *FIGURES],
        rows,
        f"{NUM} pictures by abm2 in 16 steps of the same noise, without guidance, against "
        "held-out ones; copies: nearer to a training picture than 95 % of the held-out ones are. "
        "Mean and standard deviation over seeds.\n\nA perfect sampler:\n\n"
        f"{markdown(['data', *FIGURES], bound)}",
    )


if __name__ == "__main__":
    main()
