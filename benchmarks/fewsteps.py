"""One, two, four and eight steps: which method, at the same CPU seconds of training?

vfn train --config digits --out runs/demo
python -m benchmarks.fewsteps runs/demo --weights 0,0.5 --jobs 2

Students of the run are taught for as many updates as their own cost of an update allows, on one
thread, and judged beside it: against the training pictures, as the tables of distillation are, and
against the held-out ones. Mean flows are trained from scratch, for --scratch seconds; 0 leaves them
out. What is finished is kept under --out, so that an interrupted benchmark goes on.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch

import vfn
from benchmarks.budget import NUM, cell, run_all
from benchmarks.common import RESULTS, write_table
from vfn import evaluation
from vfn.configs import load, override
from vfn.pictures import grid, save_png, sheet
from vfn.runs import RunFiles
from vfn.train import train
from vfn.train.distillation import METHODS, distill

STEPS, LONG = (1, 2, 4, 8), 64
METHODS_ASKED = ("teacher", "consistency", "ect", "moment_matching", "progressive", "mean_flow")
FIGURES = {
    "distance": ("train frechet_distance", ".4f"),
    "precision": ("train precision", ".3f"),
    "recall": ("train recall", ".3f"),
    "copies": ("train near_copies", ".3f"),
    "to held-out pictures": ("test frechet_distance", ".4f"),
}
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


def taught(method: str, updates: int, steps: str) -> int:
    """Updates of a student of some steps, and of those before it that it comes from."""
    if method != "progressive":
        return updates
    asked, halvings = settings(method, updates), int(math.log2(LONG // int(steps)))
    long = max(0, halvings - 4)  # those to 2 steps and to 1
    return (halvings - long) * int(asked["steps"]) + long * int(asked["last_steps"])


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
        for figure in judged.figures:
            found[f"{real} {figure.key}"] = figure.value
            if figure.key == "frechet_distance":
                found[f"{real} perfect"] = figure.reference or float("nan")
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
    plan, done = (here.with_name(f"{here.name}{end}") for end in (".plan.json", ".json"))
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
            if not steps.isdigit():  # other times of the same student
                continue
            guidance = w if method == "teacher" else 0.0
            trained = vfn.load(run, "cpu")
            names = [name for name in SHOWN for _ in range(COLUMNS)]
            drawn = trained.sample(len(names), labels=names, guidance=guidance, **asked)
            blocks.append((steps, grid(drawn.images, COLUMNS)))
        rows.append((method, sheet(blocks, columns=len(blocks))))
    save_png(RESULTS / "fewsteps.png", sheet(rows))


Kept = dict[tuple[float, str], list[dict[str, Any]]]  # by weight and method, one a seed


def rows(kept: Kept) -> list[list[str]]:
    """A line for each number of steps of each method."""
    lines = []
    for (w, method), runs in kept.items():
        for steps in runs[0]["figures"]:
            cells = (
                cell([run["figures"][steps][key] for run in runs], form)
                for key, form in FIGURES.values()
            )
            updates = mean(taught(method, run["updates"], steps) for run in runs)
            each = mean(run["cost"] for run in runs)
            lines.append(
                [f"{w:g}", method, steps, str(len(runs)), *cells, f"{updates:.0f}",
                 f"{1000 * each:.0f}"]
            )  # fmt: skip
    return lines


@click.command(help=__doc__)
@click.argument("teacher", type=click.Path(path_type=Path, exists=True))
@click.option("--budget", default=300.0, help="CPU seconds of a student.", show_default=True)
@click.option("--scratch", default=300.0, help="Of a mean flow from scratch.", show_default=True)
@click.option("--weights", default="0", help="Of the teacher's guidance.", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--methods", default=",".join(METHODS_ASKED), show_default=True)
@click.option("--jobs", default=1, help="Runs at a time, one thread each; 0: what is there, alone.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/fewsteps"))
@click.option("--only", default="", hidden=True)
def main(
    teacher: Path,
    budget: float,
    scratch: float,
    weights: str,
    seeds: str,
    methods: str,
    jobs: int,
    out: Path,
    only: str,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if only:
        torch.set_num_threads(1)
        word, weight, number = only.split("|")
        seconds = scratch if word == "mean_flow" else budget
        job(teacher, word, float(weight), int(number), seconds, out)
        return
    ws, each = [float(w) for w in weights.split(",")], seeds.split(",")
    asked = [
        (w, method)
        for w in ws
        for method in methods.split(",")
        # Mean flows have guidance in their training: one weight is enough to compare.
        if method != "mean_flow" or (scratch and w == ws[0])
    ]
    paths = {
        (w, method): [out / f"{method}-{w:g}-{seed}.json" for seed in each] for w, method in asked
    }
    if jobs:
        words = [
            str(teacher),
            "--budget",
            str(budget),
            "--scratch",
            str(scratch),
            "--out",
            str(out),
        ]
        todo = [
            [*words, "--only", f"{method}|{w}|{seed}"]
            for (w, method), files in paths.items()
            for seed, path in zip(each, files, strict=True)
            if not path.exists()
        ]
        run_all("benchmarks.fewsteps", todo, jobs)
    found = {
        key: [json.loads(path.read_text()) for path in files if path.exists()]
        for key, files in paths.items()
    }
    kept = {key: runs for key, runs in found.items() if runs}
    absent = [f"{method} at w = {w:g}" for (w, method), runs in found.items() if not runs]
    left_out = f" Not run: {', '.join(absent)}." if absent else ""
    first, real = kept[asked[0]][0]["figures"], ("train", "test")
    perfect = {side: next(iter(first.values()))[f"{side} perfect"] for side in real}
    picture(teacher, [m for w, m in kept if w == ws[0]], ws[0], int(each[0]), out)
    write_table(
        "fewsteps",
        f"Few steps: {NUM} pictures of digits, {budget:g} CPU seconds of teaching",
        ["w", "method", "steps", "seeds", *FIGURES, "updates", "ms an update"],
        rows(kept),
        f"Mean and standard deviation over seeds. Distance, precision and recall against training "
        f"pictures; copies are nearer to one than 95 % of the held-out ones are. The teacher takes "
        f"abm2, and at {LONG} steps ddim. Mean flows are trained from scratch, for {scratch:g} CPU "
        f"seconds. A perfect sampler would get distances of {perfect['train']:.4f}, and of "
        f"{perfect['test']:.4f} to held-out pictures. A student of progressive distillation has "
        f"the updates of its own and of the stages before it.{left_out}\n\n"
        f"![The same start noise in every block, w = {ws[0]:g}](fewsteps.png)",
    )  # fmt: skip


if __name__ == "__main__":
    main()
