"""What does each lever of training give in the same time? Digits, by CPU seconds on one thread.

VFN_EDM=path/to/edm python -m benchmarks.recipes --budget 60 --seeds 0,1,2

Each recipe is the preset `digits` with some settings changed, trained for as many steps as its own
cost of a step allows, and judged at 10, 35 and 50 evaluations, without guidance, against the
held-out pictures. Beside it what a perfect sampler would get: the distance of draws of the Gaussian
fitted to the held-out pictures, and precision and recall of training pictures. EDM's network and
loss take part if VFN_EDM names a checkout of https://github.com/NVlabs/edm. What is finished is
kept under --out, so that an interrupted benchmark goes on.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch

import vfn
from benchmarks.common import markdown, write_table
from benchmarks.edm import CHECKOUT
from vfn import evaluation
from vfn.configs import Config, load, override
from vfn.data import load_dataset
from vfn.train import train

NUM, PROBED = 1000, (20, 60)
LEVELS = {"time_density": "lognormal", "time_options": {"mean": -1.2, "std": 1.2}}
EDM_LOSS = {**LEVELS, "reweight_type": "edm", "reweight_options": {"sigma_data": 0.5}}
EDM = {"network": "benchmarks.edm:SongUNet", "model_out_type": "x0", **EDM_LOSS}
FASTER = {"attend_after_resampling": False, "group_channels": 4}
TUNED = {**FASTER, **EDM_LOSS, "lr": 2e-3}
RECIPES: dict[str, dict[str, Any]] = {
    "preset digits": {},
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
    "flow: x0 weighed as u, logit-normal": {
        "logsnr_schedule": "flow", "model_out_type": "x0", "reweight_type": "flow",
        "time_density": "logit_normal",
    },
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
    "EDM": EDM,
    "EDM, learning rate 2e-3": {**EDM, "lr": 2e-3},
    "EDM, EMA 0.995": {**EDM, "ema_decay": 0.995},
    "EDM, attention at 4x4's first block alone": {**EDM, "options": {"attention": ()}},
    "EDM, skips not scaled": {**EDM, "options": {"skip_scale": 1.0}},
    "EDM's network, our prediction and loss": {
        "network": EDM["network"], "options": {"preconditioned": False},
    },
    "EDM's network, our prediction, its noise levels": {
        "network": EDM["network"], "options": {"preconditioned": False}, **LEVELS,
    },
    "at least 4 channels a group": {"group_channels": 4},
    "bf16": {"precision": "bf16"},
    "EDM, bf16": {**EDM, "precision": "bf16"},
    "faster network": FASTER,
    "tuned: faster network, EDM's noise levels and weight, learning rate 2e-3": TUNED,
    "tuned, bf16": {**TUNED, "precision": "bf16"},
}  # fmt: skip
SAMPLERS: dict[str, dict[str, Any]] = {
    "10": {"sampler": "abm2", "sample_timesteps": 10},
    "EDM's 35": {"sampler": "heun", "sample_timesteps": 18, "grid": "karras"},
}


def configuration(recipe: str, seed: int) -> Config:
    """The preset with a recipe's settings; the UNet's fields are dropped for another network."""
    changed = RECIPES[recipe]
    quiet = {"preview_every": 0, "checkpoint_every": 10**6, "log_every": 10, "seed": seed}
    config = load("digits")
    if "network" in changed:
        config = replace(config, model=type(config.model)(network=changed["network"]))
    return override(config, {**quiet, **changed})


def cost_of_a_step(config: Config) -> float:
    """CPU seconds, as training takes them."""
    marks: dict[int, float] = {}

    def watch(entry: dict[str, Any]) -> None:
        marks.setdefault(entry["step"], time.process_time())

    with tempfile.TemporaryDirectory() as out:
        train(override(config, {"steps": PROBED[1]}), out, callbacks=[watch], device="cpu")
    return (marks[PROBED[1]] - marks[PROBED[0]]) / (PROBED[1] - PROBED[0])


def figures(run: Path, **asked: Any) -> dict[str, float]:
    """Of pictures of a run, without guidance: against held-out ones, and how many are copies."""
    drawn = vfn.load(run, "cpu").sample(NUM, guidance=0.0, batch=NUM, **asked)
    found: dict[str, float] = {}
    for real, metrics in (("train", "memorisation"), ("test", "fd,pr")):
        judged = evaluation.judge(f"dataset:digits:{real}", drawn.images, metrics, device="cpu")
        assert judged is not None
        found |= {figure.key: figure.value for figure in judged.figures}
    return found


def one(recipe: str, seed: int, budget: float, out: Path) -> None:
    """Train and judge one run; its figures go into ``out``."""
    torch.set_num_threads(1)
    config = configuration(recipe, seed)
    steps = int(budget / cost_of_a_step(config))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        train(override(config, {"steps": steps}), folder, device="cpu")
        result: dict[str, Any] = {"steps": steps, "seconds": time.process_time() - begun}
        for name, asked in SAMPLERS.items():
            result[name] = figures(Path(folder), **asked)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result))


def perfect() -> dict[str, float]:
    """What a perfect sampler would get."""
    real, found = load_dataset("digits", "train"), {}
    judged = evaluation.judge("dataset:digits:test", real, "fd,pr", num=NUM, device="cpu")
    assert judged is not None
    for figure in judged.figures:
        distance = figure.key == "frechet_distance"
        found[figure.key] = figure.reference if distance else figure.value
    return {key: value for key, value in found.items() if value is not None}


def cell(values: list[float], form: str) -> str:
    """Mean and standard deviation over the seeds."""
    spread = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{spread}"


def rows(results: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    return [
        [
            recipe,
            cell([one["steps"] for one in found], ".0f"),
            *(
                cell([one[name][key] for one in found], form)
                for name in SAMPLERS
                for key, form in [("frechet_distance", ".4f"), ("precision", ".3f"),
                                  ("recall", ".3f"), ("memorised", ".3f")]
            ),
        ]
        for recipe, found in results.items()
    ]  # fmt: skip


@click.command(help=__doc__)
@click.option("--budget", default=60.0, help="CPU seconds of training.")
@click.option("--seeds", default="0,1,2")
@click.option("--recipes", default="", help="Some of them, by a part of their name; all if empty.")
@click.option("--out", default="runs/recipes", type=click.Path(path_type=Path))
@click.option("--jobs", default=1, help="Runs at a time, one thread each.")
@click.option("--only", default="", hidden=True)
def main(budget: float, seeds: str, recipes: str, out: Path, jobs: int, only: str) -> None:
    if only:
        recipe, seed, path = only.split("|")
        one(recipe, int(seed), budget, Path(path))
        return
    parts = recipes.split(",")
    chosen = [
        name for name, changed in RECIPES.items()
        if any(part in name for part in parts) and (CHECKOUT or "network" not in changed)
    ]  # fmt: skip
    names = {recipe: list(RECIPES).index(recipe) for recipe in chosen}
    paths = {
        (recipe, seed): out / f"{budget:g}" / f"{names[recipe]}-{seed}.json"
        for seed in seeds.split(",")
        for recipe in chosen
    }
    todo = [key for key, path in paths.items() if not path.exists()]
    running: list[subprocess.Popen[bytes]] = []
    for recipe, seed in todo:
        while len(running) >= jobs:
            running = [process for process in running if process.poll() is None]
            time.sleep(0.2)
        words = ["--budget", str(budget), "--only", f"{recipe}|{seed}|{paths[recipe, seed]}"]
        running.append(subprocess.Popen([sys.executable, "-m", "benchmarks.recipes", *words]))
    for process in running:
        process.wait()
    results = {
        recipe: [json.loads(paths[recipe, seed].read_text()) for seed in seeds.split(",")]
        for recipe in chosen
    }
    best = perfect()
    head = [
        "recipe", "steps",
        *(f"{title}, {name}" for name in SAMPLERS
          for title in ("distance", "precision", "recall", "memorised")),
    ]  # fmt: skip
    torch.set_num_threads(1)
    write_table(
        f"recipes_{budget:g}",
        f"Digits, {budget:g} CPU seconds of training, by recipe",
        head,
        rows(results),
        f"{NUM} pictures against the 360 held-out ones, guidance 0; mean and standard deviation "
        f"over seeds {seeds}. 10 and 50: evaluations of abm2, steps uniform in time. EDM's 35: "
        "Heun on EDM's grid.\n\nA perfect sampler:\n\n"
        + markdown(list(best), [[f"{value:.4f}" for value in best.values()]]),
    )


if __name__ == "__main__":
    main()
