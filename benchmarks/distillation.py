"""Students of progressive distillation beside their teacher at as many evaluations.

vfn train --config digits --out runs/demo
vfn distill --teacher runs/demo --out runs/fast
python benchmarks/distillation.py runs/demo runs/fast
"""

import sys
from pathlib import Path

import torch
from common import RESULTS, write_table

from vfn.commands import evaluate_pictures, open_trained
from vfn.configs import SampleConfig
from vfn.generate import preview_labels
from vfn.pictures import grid, save_png, sheet
from vfn.train.distill import stage_directory

NUM, SEED, STEPS, LONG = 1000, 0, (8, 4, 2, 1), 64
ROWS = 3


def variants(teacher: Path, students: Path) -> dict[str, tuple[Path, SampleConfig]]:
    """What is judged, by name."""
    guidance = open_trained(teacher, "auto", print).checkpoint.config.sample.guidance

    def plain(sampler: str, steps: int) -> SampleConfig:
        return SampleConfig(sampler=sampler, sample_timesteps=steps, guidance=guidance)

    found = {f"teacher, ddim, {LONG}": (teacher, plain("ddim", LONG))}
    for steps in STEPS:
        student = SampleConfig(sample_timesteps=steps)
        found[f"student, {steps}"] = (stage_directory(students, steps), student)
        for sampler in ("ddim", "dpmpp_2m"):
            found[f"teacher, {sampler}, {steps}"] = (teacher, plain(sampler, steps))
    return found


def judge(run: Path, settings: SampleConfig) -> dict[str, float]:
    """Metrics of a run's pictures by name, as `vfn eval` computes them."""
    asked = {name: getattr(settings, name) for name in ("sampler", "sample_timesteps", "guidance")}
    result = evaluate_pictures(
        real="dataset:digits:train",
        fake=f"run:{run}",
        held_out=None,
        metrics="fd,pr,agreement",
        num=NUM,
        seed=SEED,
        device="auto",
        data_dir=None,
        overrides=asked,
        say=print,
    )
    return {metric.name: metric.value for metric in result.metrics}


def draw(run: Path, settings: SampleConfig) -> torch.Tensor:
    """The first pictures of the seed, a column for each digit."""
    trained = open_trained(run, "auto", print)
    labels = preview_labels(10, ROWS)
    return grid(trained.generate(settings, labels, torch.arange(len(labels)), SEED), 10)


def main() -> None:
    teacher, students = map(Path, sys.argv[1:])
    rows, pictures, best = [], [], None
    for name, (run, settings) in variants(teacher, students).items():
        got = judge(run, settings)
        distance, agreement = got["Fréchet distance (pixels)"], got["Label agreement"]
        best = best or distance
        rows.append(
            [
                name,
                f"{distance:.4f}",
                f"{distance / best:.2f}",
                f"{100 * agreement:.1f} %",
                f"{got['Precision']:.3f}",
                f"{got['Recall']:.3f}",
            ]
        )
        pictures.append((name, draw(run, settings)))
    save_png(RESULTS / "distillation.png", sheet(pictures))
    write_table(
        "distillation",
        f"Distilled digits: {NUM} pictures, seed {SEED}, guidance of the teacher distilled in",
        ["network, sampler, steps", "Fréchet distance", "x teacher", "agreement", "precision",
         "recall"],
        rows,
        f"Targets: at 4 steps agreement within 2 points of the teacher at {LONG} and a Fréchet "
        "distance of at most 1.5 times its own; at 1 step an agreement of at least 85 %. Steps are "
        "uniform in time. A guided evaluation of the teacher costs two of a student.\n\n"
        "![The same start noise in every block](distillation.png)",
    )  # fmt: skip


if __name__ == "__main__":
    main()
