"""Students of progressive distillation beside their teacher at as many evaluations.

vfn train --config digits --out runs/demo
vfn distill --teacher runs/demo --out runs/fast
vfn distill --teacher runs/demo --out runs/guided --guidance-range 0,4 --first-steps 1000
python -m benchmarks.distillation runs/demo runs/fast runs/guided

The last directory, students that take guidance as an input, may be left out.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from benchmarks.common import RESULTS, write_table
from benchmarks.judged import AGREEMENT, DISTANCE, NUM, judge
from vfn.configs import SampleConfig
from vfn.pictures import grid, save_png, sheet
from vfn.runs import RunFiles
from vfn.sampling import Draws, Trained, load, of_each

SEED, STEPS, LONG = 0, (8, 4, 2, 1), 64
WEIGHTS = (0.0, 0.5, 1.0, 3.0)
DIGITS, COLUMNS = (2, 4, 8), 8
HEAD = ["Fréchet distance", "x teacher", "agreement", "precision", "recall"]


def opened(run: Path) -> Trained:
    return load(run)


def variants(teacher: Path, students: Path) -> dict[str, tuple[Path, SampleConfig]]:
    """What is judged, by name; the first is what the others are held against."""
    guidance = opened(teacher).config.sample.guidance

    def plain(sampler: str, steps: int) -> SampleConfig:
        return SampleConfig(sampler=sampler, sample_timesteps=steps, guidance=guidance)

    found = {f"teacher, ddim, {LONG}": (teacher, plain("ddim", LONG))}
    for steps in STEPS:
        student = SampleConfig(sampler="ddim", sample_timesteps=steps)  # whose steps it knows
        found[f"student, {steps}"] = (RunFiles(students).stage(steps).path, student)
        for sampler in ("ddim", "dpmpp_2m"):
            found[f"teacher, {sampler}, {steps}"] = (teacher, plain(sampler, steps))
    return found


def judge_with(run: Path, settings: SampleConfig) -> dict[str, float]:
    asked = {name: getattr(settings, name) for name in ("sampler", "sample_timesteps", "guidance")}
    return judge(run, "fd,pr,agreement", SEED, **asked)


def figures(got: dict[str, float], best: dict[str, float]) -> list[str]:
    """A row of the table, but for its name."""
    distance = got[DISTANCE]
    return [
        f"{distance:.4f}",
        f"{distance / best[DISTANCE]:.2f}",
        f"{100 * got[AGREEMENT]:.1f} %",
        f"{got['precision']:.3f}",
        f"{got['recall']:.3f}",
    ]


def draw(run: Path, settings: SampleConfig) -> Image.Image:
    """The first pictures of the seed: a digit in each row, so that sameness shows."""
    labels = torch.tensor(DIGITS).repeat_interleave(COLUMNS) + 1  # labels begin at 1
    trained = opened(run)
    draws = Draws(trained, settings, of_each(labels, trained.shape.legend), len(labels), SEED)
    return grid(draws.batch(torch.arange(len(labels))).images, COLUMNS)


def compare_steps(teacher: Path, students: Path) -> None:
    judged = {name: judge_with(*each) for name, each in variants(teacher, students).items()}
    (first, best), *_ = judged.items()
    (_, top), *blocks = [(n, draw(*each)) for n, each in variants(teacher, students).items()]
    save_png(
        RESULTS / "distillation.png",
        sheet([(first, top), ("students beside the teacher", sheet(blocks, columns=3))]),
    )
    write_table(
        "distillation",
        f"Distilled digits: {NUM} pictures, seed {SEED}, guidance of the teacher distilled in",
        ["network, sampler, steps", *HEAD],
        [[name, *figures(got, best)] for name, got in judged.items()],
        f"Bounds: at 4 steps agreement within 2 points of the teacher at {LONG} and a Fréchet "
        "distance of at most 1.5 times its own; at 1 step an agreement of at least 85 %. Steps are "
        "uniform in time. A guided evaluation of the teacher costs two of a student.\n\n"
        "The agreement tells nothing apart: fewer steps turn the teacher's pictures into the mean "
        "of their digit, which any classifier knows. Recall, the share of real pictures near a "
        "generated one, shows it, and so do the rows of the picture, where all columns become "
        "alike; precision even rises, since means are near to everything. Students keep most of "
        "the variety and pay with a little precision.\n\n"
        "![The same start noise in every block](distillation.png)",
    )


def compare_weights(teacher: Path, students: Path) -> None:
    """Students that take guidance as an input against the guided teacher, at each weight."""
    rows, blocks = [], []
    long = SampleConfig(sampler="ddim", sample_timesteps=LONG)
    for w in WEIGHTS:
        guided = replace(long, guidance=w)
        best = judge_with(teacher, guided)
        rows.append([f"w = {w:g}", f"teacher, {LONG}", *figures(best, best)])
        blocks.append((f"w = {w:g}: teacher, {LONG}", draw(teacher, guided)))
        for steps in (4, 1):
            student, run = (
                replace(guided, sample_timesteps=steps),
                RunFiles(students).stage(steps).path,
            )
            rows.append(
                [f"w = {w:g}", f"student, {steps}", *figures(judge_with(run, student), best)]
            )
            blocks.append((f"student, {steps}", draw(run, student)))
    save_png(RESULTS / "distillation_guidance.png", sheet(blocks, columns=3))
    write_table(
        "distillation_guidance",
        f"Guidance as an input of distilled digits: {NUM} pictures, seed {SEED}, ddim",
        ["guidance", "network, steps", *HEAD],
        rows,
        "One student for all weights, one evaluation a step. Recall tells how far it follows the "
        "weight; a distance below the teacher's at a large weight is weaker guidance, not a better "
        "student.\n\n"
        "![The same start noise in every block](distillation_guidance.png)",
    )


def main() -> None:
    teacher, students, *guided = map(Path, sys.argv[1:])
    compare_steps(teacher, students)
    for each in guided:
        compare_weights(teacher, each)


if __name__ == "__main__":
    main()
