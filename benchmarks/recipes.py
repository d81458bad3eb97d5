"""What does each lever of training give in the same time? Digits, by CPU seconds on one thread.

VFN_EDM=path/to/edm python -m benchmarks.recipes --budget 60 --seeds 0,1,2

Each recipe is the preset `digits` as it was before it was tuned, with some settings changed. It is
trained for as many steps as the budget allows at what one step of its network costs, and judged at
10 evaluations, or as --samplers names, without guidance, against the held-out pictures. Costs are
measured first, in turn, and kept: the numbers of steps, and with them all figures, do not depend
on what else the machine does during a training. Beside them what a perfect sampler would get: the
distance of draws of the Gaussian fitted to the held-out pictures, and precision and recall of
training pictures. EDM's network and loss take part if VFN_EDM names a checkout of
https://github.com/NVlabs/edm. What is finished is kept under --out, so that an interrupted
benchmark goes on.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
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
    shortened,
    train_whole,
)
from benchmarks.common import markdown, write_table
from benchmarks.edm import CHECKOUT
from vfn.configs import Config, ModelConfig, load, override
from vfn.files import write_json

BASE = {
    "num_res_blocks": 2, "resample_with_res": True, "attend_after_resampling": True,
    "time_embedding": "sinusoidal", "group_channels": 1, "reweight_type": "truncated_snr",
    "time_density": "uniform", "lr": 1e-3, "ema_decay": 0.998,
}  # fmt: skip
OF_UNET = {field.name for field in fields(ModelConfig)}
LEVELS = {"time_density": "lognormal", "time_options": {"mean": -1.2, "std": 1.2}}
EDM_LOSS = {**LEVELS, "reweight_type": "edm", "reweight_options": {"sigma_data": 0.5}}
EDM = {"network": "benchmarks.edm:SongUNet", "model_out_type": "x0", **EDM_LOSS}
FASTER = {"attend_after_resampling": False, "group_channels": 4}
TUNED = {**FASTER, **EDM_LOSS, "lr": 2e-3}
FLOW_X0 = {
    "logsnr_schedule": "flow", "model_out_type": "x0", "reweight_type": "flow",
    "time_density": "logit_normal",
}  # fmt: skip
LEAN = {
    **FASTER, "num_res_blocks": 1, "resample_with_res": False, "time_embedding": "smooth",
    "lr": 3e-3,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "preset as it was": {},
    "EDM's noise levels": LEVELS,
    "EDM's noise levels and weight": EDM_LOSS,
    "weight alpha2": {"reweight_type": "alpha2"},
    "weight constant": {"reweight_type": "constant"},
    "learned weight": {"reweight_type": "alpha2", "learned_weight": True},
    "low-discrepancy times": {"time_density": "low_discrepancy"},
    "flow: u, logit-normal": {
        "logsnr_schedule": "flow", "model_out_type": "u", "reweight_type": "flow",
        "time_density": "logit_normal",
    },
    "flow: x0 weighed as u, logit-normal": FLOW_X0,
    "learning rate 2e-3": {"lr": 2e-3},
    "learning rate 5e-4": {"lr": 5e-4},
    "EMA 0.995": {"ema_decay": 0.995},
    "EMA 0.999": {"ema_decay": 0.999},
    "batch 64": {"batch_size": 64},
    "no attention": {"apply_attn": (False, False)},
    "no attention after resampling": {"attend_after_resampling": False},
    "smooth time embedding": {"time_embedding": "smooth"},
    "one block a level": {"num_res_blocks": 1},
    "plain convolutions resample": {"resample_with_res": False},
    "at least 4 channels a group": {"group_channels": 4},
    "bf16": {"precision": "bf16"},
    "tuned": TUNED,
    "tuned, smooth": {**TUNED, "time_embedding": "smooth"},
    "tuned, learning rate 3e-3": {**TUNED, "lr": 3e-3},
    "tuned, plain convolutions resample": {**TUNED, "resample_with_res": False},
    "tuned, one block a level": {**TUNED, "num_res_blocks": 1},
    "tuned, bf16": {**TUNED, "precision": "bf16"},
    "lean": {**LEAN, **EDM_LOSS},
    "lean, two blocks a level": {**LEAN, **EDM_LOSS, "num_res_blocks": 2},
    "lean, wider noise levels": {
        **LEAN, **EDM_LOSS, "time_options": {"mean": -0.8, "std": 1.6},
    },
    "lean, dropout 0.1": {**LEAN, **EDM_LOSS, "dropout": 0.1},
    "lean, augmentation": {**LEAN, **EDM_LOSS, "augment": 0.12},
    "lean, two blocks a level, augmentation": {
        **LEAN, **EDM_LOSS, "num_res_blocks": 2, "augment": 0.12,
    },
    "lean, two blocks a level, learning rate 1e-3": {
        **LEAN, **EDM_LOSS, "num_res_blocks": 2, "lr": 1e-3,
    },
    "EDM": EDM,
    "EDM, bf16": {**EDM, "precision": "bf16"},
    "EDM, learning rate 2e-3": {**EDM, "lr": 2e-3},
    "EDM, EMA 0.995": {**EDM, "ema_decay": 0.995},
    "EDM, attention in the middle alone": {**EDM, "options": {"attention": ()}},
    "EDM, skips not scaled": {**EDM, "options": {"skip_scale": 1.0}},
    "EDM, torch's initialisation": {**EDM, "options": {"own_start": False}},
    "EDM, labels not scaled": {**EDM, "options": {"label_scale": 1.0}},
    "EDM's network, our prediction and loss": {
        "network": EDM["network"], "options": {"preconditioned": False},
    },
    "EDM's network, our prediction, its noise levels": {
        "network": EDM["network"], "options": {"preconditioned": False}, **LEVELS,
    },
}  # fmt: skip
# What changes neither the network nor the batch costs nothing.
FREE = {
    *EDM_LOSS, "lr", "ema_decay", "learned_weight", "logsnr_schedule", "time_embedding",
}  # fmt: skip
FREE_OPTIONS = {"skip_scale", "own_start", "label_scale"}
SAMPLERS: dict[str, dict[str, Any]] = {
    "10": {"sampler": "abm2", "sample_timesteps": 10},
    "EDM's 35": {"sampler": "heun", "sample_timesteps": 18, "grid": "karras"},
}
FIGURES = {
    "distance": ("frechet_distance", ".4f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "memorised": ("memorised", ".3f"),
    "near-copies": ("near_copies", ".3f"),
}


def configuration(recipe: str, seed: int) -> Config:
    """The preset with a recipe's settings; the UNet's fields are dropped for another network."""
    changed = RECIPES[recipe]
    quiet = {"preview_every": 0, "checkpoint_every": 10**6, "log_every": 10, "seed": seed}
    config = load("digits")
    if "network" in changed:
        config = replace(config, model=ModelConfig(network=changed["network"]))
        base = {key: value for key, value in BASE.items() if key not in OF_UNET}
    else:
        base = BASE
    return override(config, {**quiet, **base, **changed})


def workload(recipe: str) -> str:
    """What decides the cost of a step."""
    changed = RECIPES[recipe]
    free = FREE if "network" in changed else FREE | {"model_out_type"}
    kept = {key: value for key, value in changed.items() if key not in free}
    options = {k: v for k, v in kept.pop("options", {}).items() if k not in FREE_OPTIONS}
    return json.dumps(kept | ({"options": options} if options else {}))


def figures(run: Path, seed: int, **asked: Any) -> dict[str, float]:
    """Of pictures of a run, without guidance: against held-out ones, and how many are copies."""
    drawn = vfn.load(run, "cpu").sample(NUM, seed=seed, guidance=0.0, batch=NUM, **asked)
    return judged(drawn.images, "digits", "memorisation")


def one(recipe: str, seed: int, steps: int, samplers: Sequence[str], out: Path) -> None:
    """Train and judge one run; its figures go into ``out``."""
    torch.set_num_threads(1)
    config = configuration(recipe, seed)
    with tempfile.TemporaryDirectory() as folder:
        seconds = train_whole(shortened(config, steps), folder)
        result: dict[str, Any] = {"steps": steps, "seconds": seconds}
        for name in samplers:
            result[name] = figures(Path(folder), seed, **SAMPLERS[name])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)


def rows(results: dict[str, list[dict[str, Any]]], samplers: Sequence[str]) -> list[list[str]]:
    return [
        [
            recipe,
            str(found[0]["steps"]),
            str(len(found)),
            *(
                cell([one[name][key] for one in found], form)
                for name in samplers
                for key, form in FIGURES.values()
            ),
        ]
        for recipe, found in results.items()
    ]


def run_missing(
    paths: Mapping[tuple[str, str], Path], budget: float, samplers: str, out: Path, jobs: int
) -> None:
    """Train and judge what has no file yet."""
    recipes = {recipe for recipe, _ in paths}
    each = costs(
        {workload(name): partial(cost_of_a_step, configuration(name, 0)) for name in recipes},
        out / "costs.json",
    )
    run_all(
        "benchmarks.recipes",
        [
            ["--samplers", samplers, "--only",
             f"{recipe}|{seed}|{int(budget / each[workload(recipe)])}|{path}"]
            for (recipe, seed), path in paths.items()
            if not path.exists()
        ],
        jobs,
    )  # fmt: skip


@click.command(help=__doc__)
@click.option("--budget", default=60.0, help="CPU seconds of training.")
@click.option("--seeds", default="0,1,2")
@click.option("--recipes", default="", help="Some, by parts of their names with ; between.")
@click.option("--samplers", default="10", help=f"Of {', '.join(SAMPLERS)}.")
@click.option("--out", default="runs/recipes", type=click.Path(path_type=Path))
@click.option("--jobs", default=1, help="Runs at a time, one thread each; 0: what is there, alone.")
@click.option("--only", default="", hidden=True)
def main(
    budget: float, seeds: str, recipes: str, samplers: str, out: Path, jobs: int, only: str
) -> None:
    asked = samplers.split(",")
    if only:
        recipe, seed, steps, path = only.split("|")
        one(recipe, int(seed), int(steps), asked, Path(path))
        return
    parts, out = recipes.split(";"), kept(out, "recipes", "digits")
    chosen = [
        name for name, changed in RECIPES.items()
        if any(part in name for part in parts) and (CHECKOUT or "network" not in changed)
    ]  # fmt: skip
    paths = {
        (recipe, seed): file_of(recipe, seed, out / f"{budget:g}")
        for seed in seeds.split(",")
        for recipe in chosen
    }
    if jobs:
        run_missing(paths, budget, samplers, out, jobs)
    results = {
        recipe: [
            json.loads(path.read_text())
            for (row, _), path in paths.items()
            if row == recipe and path.exists()
        ]
        for recipe in chosen
    }
    best = perfect("digits")
    torch.set_num_threads(1)
    write_table(
        f"recipes_{budget:g}",
        f"Digits, {budget:g} CPU seconds of training, by recipe",
        ["recipe", "steps", "seeds", *(f"{title}, {name}" for name in asked for title in FIGURES)],
        rows({recipe: found for recipe, found in results.items() if found}, asked),
        f"{NUM} pictures against the 360 held-out ones, guidance 0; mean and standard deviation "
        "over seeds. lean is the preset. 10: evaluations of abm2, steps uniform in time. EDM's 35: "
        "Heun on EDM's grid.\n\nA perfect sampler:\n\n"
        + markdown(list(best), [[f"{value:.4f}" for value in best.values()]]),
    )


if __name__ == "__main__":
    main()
