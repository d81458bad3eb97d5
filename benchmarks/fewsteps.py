"""One, two, four and eight steps: which method, at the same CPU seconds of training?

vfn train --config digits --out runs/demo
python -m benchmarks.fewsteps runs/demo --budget 300 --weights 0,0.5 --seeds 0,1,2

Students of the run are taught for as many updates as their own cost of an update allows, on one
thread, and judged beside it: against the training pictures, as the tables of distillation are, and
against the held-out ones. Mean flows are trained from scratch, for --scratch seconds; 0 leaves them
out. What is finished is kept under --out, so that an interrupted benchmark goes on.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch

import vfn
from benchmarks.common import RESULTS, write_table
from vfn import evaluation
from vfn.configs import load, override
from vfn.pictures import grid, save_png, sheet
from vfn.runs import RunFiles
from vfn.train import train
from vfn.train.distillation import METHODS, distill

NUM, STEPS, LONG = 1000, (1, 2, 4, 8), 64
PROBED = 40  # updates that tell what one costs
QUIET = {"eval_every": 0, "preview_every": 0, "log_every": 10, "device": "cpu"}
COUNTED = {"regress_updates", "tangent_warmup", "stage_updates"}  # in updates
BACK = 0.7  # time that a second step of a consistency model begins at, where it is not t = 0.5
TAUGHT_FOR = 2  # steps, of a student of moment matching
SHOWN = ("3", "5", "8")  # digits of the picture, so many of each:
COLUMNS = 4


def settings(method: str, updates: int) -> dict[str, Any]:
    """What is asked of `distill`; the updates of all stages come to about as many as are given.

    Parts of a run have the share of it that the presets give them.
    """
    if method == "progressive":  # the preset's 100 updates a halving, 400 for the last two
        each = max(1, updates // 12)
        return {"steps": each, "last_steps": 4 * each}
    if method == "moment_matching":
        return {"steps": updates, "student_steps": TAUGHT_FOR}
    preset = load(METHODS[method].preset)
    share = updates / preset.train.steps
    parts = {
        "objective_options": preset.diffusion.objective_options,
        "method_options": preset.distill.method_options,
    }
    asked = {
        part: {n: max(1, round(share * v)) if n in COUNTED else v for n, v in options.items()}
        for part, options in parts.items()
    }
    return {"steps": updates, **asked}


def cost(teacher: Path, method: str, w: float) -> float:
    """CPU seconds of an update, as training takes them."""
    marks: list[tuple[int, float]] = []

    def watch(entry: Mapping[str, Any]) -> None:
        if "loss" in entry:  # not of the held-out pictures
            marks.append((entry["step"], time.process_time()))

    asked = {**settings(method, PROBED), "teacher_guidance": w, "method": method}
    if method == "progressive":
        asked |= {"steps": PROBED, "last_steps": PROBED, "student_steps": 32}
    with tempfile.TemporaryDirectory() as out:
        distill(teacher, out, callbacks=[watch], **{**QUIET, **asked})
    (begun, start), *_, (ended, end) = marks[1:]
    return (end - start) / (ended - begun)


def scratch_cost() -> float:
    """The same of a step of a mean flow."""
    marks: list[float] = []
    config = override(load("digits_meanflow"), {"steps": 40, "log_every": 10, "preview_every": 0})
    with tempfile.TemporaryDirectory() as out:
        train(config, out, callbacks=[lambda _: marks.append(time.process_time())], device="cpu")
    return (marks[3] - marks[1]) / 20


def figures(run: Path, asked: dict[str, Any], w: float, seed: int) -> dict[str, float]:
    """Of pictures of a run."""
    drawn = vfn.load(run, "cpu").sample(NUM, guidance=w, batch=NUM, seed=seed, **asked)
    found: dict[str, float] = {}
    for real, metrics in (("train", "fd,pr,memorisation"), ("test", "fd")):
        judged = evaluation.judge(f"dataset:digits:{real}", drawn.images, metrics, device="cpu")
        assert judged is not None
        for figure in judged.figures:
            found[f"{real} {figure.key}"] = figure.value
            if figure.key == "frechet_distance" and "perfect" not in found:
                found["perfect"] = figure.reference or float("nan")
    return found


def ways(method: str, teacher: Path, out: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The networks and settings of sampling that a method is judged by, by numbers of steps."""
    if method == "teacher":
        many = {str(n): (teacher, {"sampler": "abm2", "steps": n}) for n in STEPS}
        return {**many, f"{LONG}": (teacher, {"sampler": "ddim", "steps": LONG})}
    if method == "progressive":
        return {str(n): (RunFiles(out).stage(n).path, {}) for n in STEPS}
    run = out if method == "mean_flow" else RunFiles(out).stage(TAUGHT_FOR).path
    found: dict[str, tuple[Path, dict[str, Any]]] = {str(n): (run, {"steps": n}) for n in STEPS}
    if method in ("consistency", "ect"):
        found[f"2, from t = {BACK:g}"] = run, {"steps": 2, "times": [1.0, BACK]}
    return found


def job(teacher: Path, method: str, w: float, seed: int, budget: float, out: Path) -> None:
    """One training, and its figures."""
    here = out / f"{method}-{w:g}-{seed}"
    plan, done = here.with_suffix(".plan.json"), here.with_suffix(".json")
    if not plan.exists():
        each = (
            scratch_cost() if method == "mean_flow"
            else 0.0 if method == "teacher"
            else cost(teacher, method, w)
        )  # fmt: skip
        updates = round(budget / each) if each else 0
        plan.write_text(json.dumps({"cost": each, "updates": updates}))
    planned = json.loads(plan.read_text())
    updates, signum = planned["updates"], 0
    if method == "mean_flow":
        config = override(load("digits_meanflow"), {
            "steps": updates, "seed": seed, "preview_every": 0, "checkpoint_every": 200,
            **({"objective_options": {"guidance": w}} if w else {}),
        })  # fmt: skip
        signum = train(config, here, resume=True, device="cpu").signum
    elif method != "teacher":
        asked = settings(method, updates)
        more = {"method": method, "teacher_guidance": w, "seed": seed, **QUIET}
        signum = distill(teacher, here, resume=here.is_dir(), **{**more, **asked}).signum
    if signum:
        sys.exit(128 + signum)  # the same command goes on
    guidance = w if method == "teacher" else 0.0
    found = {
        steps: figures(run, asked, guidance, seed)
        for steps, (run, asked) in ways(method, teacher, here).items()
    }
    done.write_text(json.dumps({**planned, "figures": found}))


def picture(teacher: Path, methods: Sequence[str], w: float, seed: int, out: Path) -> None:
    """The same noise in every block: a row of blocks for each method."""
    rows = []
    for method in methods:
        blocks = []
        for steps, (run, asked) in ways(method, teacher, out / f"{method}-{w:g}-{seed}").items():
            if "," in steps:
                continue
            guidance = w if method == "teacher" else 0.0
            trained = vfn.load(run, "cpu")
            names = [name for name in SHOWN for _ in range(COLUMNS)]
            drawn = trained.sample(len(names), labels=names, guidance=guidance, **asked)
            blocks.append((steps, grid(drawn.images, COLUMNS)))
        rows.append((method, sheet(blocks, columns=len(blocks))))
    save_png(RESULTS / "fewsteps.png", sheet(rows))


def spread(values: list[float]) -> str:
    """A mean, and what single seeds are off by."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


@click.command()
@click.argument("teacher", type=click.Path(path_type=Path, exists=True))
@click.option("--budget", type=float, default=300.0, help="CPU seconds of a student")
@click.option("--scratch", type=float, default=300.0, help="of a mean flow from scratch")
@click.option("--weights", default="0", help="guidance of the teacher, several after commas")
@click.option("--seeds", default="0")
@click.option("--methods",
              default="teacher,consistency,ect,moment_matching,progressive,mean_flow")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/fewsteps"))
@click.option("--only", help="METHOD|W|SEED: that training alone, without a table")
def main(
    teacher: Path,
    budget: float,
    scratch: float,
    weights: str,
    seeds: str,
    methods: str,
    out: Path,
    only: str | None,
) -> None:
    """Train, judge, and write the table and the picture."""
    out.mkdir(parents=True, exist_ok=True)
    if only is not None:
        torch.set_num_threads(1)
        word, weight, number = only.split("|")
        seconds = scratch if word == "mean_flow" else budget
        job(teacher, word, float(weight), int(number), seconds, out)
        return
    asked = [m for m in methods.split(",") if scratch or m != "mean_flow"]
    ws, each = [float(w) for w in weights.split(",")], [int(seed) for seed in seeds.split(",")]
    # Mean flows have guidance in their training: one weight is enough to compare.
    by_weight = {w: [m for m in asked if m != "mean_flow" or w == ws[0]] for w in ws}
    todo = [(m, w, seed) for w in ws for m in by_weight[w] for seed in each]
    for method, w, seed in todo:
        if not (out / f"{method}-{w:g}-{seed}.json").exists():
            words = [sys.executable, "-m", "benchmarks.fewsteps", *sys.argv[1:], "--only",
                     f"{method}|{w}|{seed}"]  # fmt: skip
            subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    rows = []
    for w in ws:
        for method in by_weight[w]:
            found = [json.loads((out / f"{method}-{w:g}-{seed}.json").read_text()) for seed in each]
            for steps in found[0]["figures"]:
                values = [one["figures"][steps] for one in found]

                def told(key: str, values: list[dict[str, float]] = values) -> str:
                    return spread([value[key] for value in values])

                rows.append([
                    f"{w:g}", method, steps, told("train frechet_distance"),
                    told("train precision"), told("train recall"), told("train memorisation"),
                    told("test frechet_distance"), f"{mean(one['updates'] for one in found):.0f}",
                    f"{1000 * mean(one['cost'] for one in found):.0f}",
                ])  # fmt: skip
    perfect = found[0]["figures"][steps]["perfect"]
    picture(teacher, asked, ws[0], each[0], out)
    write_table(
        "fewsteps",
        f"Few steps: {NUM} pictures of digits, seeds {seeds}, {budget:g} CPU seconds of teaching",
        ["w", "method", "steps", "Fréchet distance", "precision", "recall", "memorisation",
         "to held-out pictures", "updates", "ms an update"],
        rows,
        f"The teacher takes abm2, and at {LONG} steps ddim. Mean flows are trained from scratch, "
        f"for {scratch:g} CPU seconds. A perfect sampler would get a distance of {perfect:.4f}.\n\n"
        f"![The same start noise in every block, w = {ws[0]:g}](fewsteps.png)",
    )  # fmt: skip


if __name__ == "__main__":
    main()
