"""The table of `benchmarks.peers`, its chart and its sheet of pictures."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

from benchmarks.budget import cell, perfect, real_pictures
from benchmarks.common import write_table
from benchmarks.implementations import CLASSES
from vfn.data import load_dataset
from vfn.pictures import grid, sheet

SHOWN = 2 * CLASSES  # the first pictures of a run, by few evaluations
OF_TRAINING = "memorisation,agreement"
PARTS = {"few": "at most 10 evaluations", "many": "at most 64 evaluations"}
FIGURES = {
    "distance": ("frechet_distance", ".3f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "memorised": ("memorised", ".3f"),
    "agreement": ("label_agreement", ".3f"),
}
Result = dict[str, Any]  # of a run; for each of PARTS, figures by sampler
Results = dict[tuple[float, str], list[Result]]  # by budget and row, one a seed
HEAD = ["CPU s", "implementation", "samplers", "parameters", "steps", "seeds", "rate", *FIGURES]
OR = r" \| "  # between what few and what many evaluations give


def least(by_sampler: dict[str, Any]) -> str:
    """The sampler with the least distance."""
    return min(by_sampler, key=lambda name: by_sampler[name]["frechet_distance"])


def best_of(found: list[Result], part: str) -> tuple[str, list[dict[str, float]]]:
    """The sampler with the least distance at the first seed, and its figures at each."""
    of_all = set.intersection(*(set(each[part]) for each in found))
    name = least({name: found[0][part][name] for name in of_all})
    return name, [each[part][name] for each in found]


def rows(results: Results) -> list[list[str]]:
    """Of each implementation its best samplers, of a budget first what few evaluations do best."""
    lines: list[tuple[float, float, list[str]]] = []
    for (budget, row), found in results.items():
        best = {part: best_of(found, part) for part in PARTS}
        told = [
            row,
            OR.join(sampler(name, figures[0]["evaluations"]) for name, figures in best.values()),
            f"{found[0]['parameters'] / 1e6:.2f} M",
            f"{found[0]['steps']:,}",
            str(len(found)),
            f"{found[0]['rate']:g}",
            *(
                OR.join(cell([each[key] for each in figures], form) for _, figures in best.values())
                for key, form in FIGURES.values()
            ),
        ]
        _, few = best["few"]
        lines.append((budget, mean(each["frechet_distance"] for each in few), told))
    return [[f"{budget:g}", *told] for budget, _, told in sorted(lines)]


def sampler(name: str, evaluations: float) -> str:
    """Its name, and how often it asks the network where that is not once a step."""
    return name if f", {evaluations} steps" in name else f"{name}, {evaluations} evaluations"


def chart(results: Results, perfect_distance: float) -> Figure:
    """Distance by budget: a point is the mean over the seeds, a bar their standard deviation."""
    key, _ = FIGURES["distance"]
    budgets = sorted({budget for budget, _ in results})
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (part, title) in zip(axes, PARTS.items(), strict=True):
        for number, row in enumerate(dict.fromkeys(row for _, row in results)):
            at = [budget for budget in budgets if (budget, row) in results]
            found = [best_of(results[budget, row], part)[1] for budget in at]
            values = [[each[key] for each in best] for best in found]
            spread = [stdev(each) if len(each) > 1 else math.nan for each in values]
            style = {"marker": "o", "markersize": 4, "capsize": 3, "color": f"C{number}"}
            axis.errorbar(at, [*map(mean, values)], spread, label=row, **style)
        axis.axhline(perfect_distance, color="0.5", ls="--", lw=1, label="a perfect sampler")
        axis.set(xscale="log", yscale="log", xlabel="CPU seconds of training", title=title)
        axis.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Fréchet distance of pixels, held-out")
    axes[1].legend(fontsize=8)
    return figure


def picture(paths: Mapping[tuple[float, str, str], Path], seed: str, data: str) -> Image.Image:
    """The first pictures of each run at a seed, where they were kept, and real ones."""
    blocks = []
    for (budget, row, number), path in paths.items():
        if number == seed and (shown := path.with_suffix(".png")).exists():
            with Image.open(shown) as image:
                blocks.append((f"{row}, {budget:g} s", image.copy()))
    real = load_dataset(data, "test")
    assert real.labels is not None
    each = [real.images[real.labels == c + 1][: SHOWN // CLASSES] for c in range(CLASSES)]
    rows = torch.stack(each, 1).flatten(0, 1)
    return sheet([*blocks, ("held-out pictures", grid(rows, CLASSES))], columns=2)


def tables(results: Results, data: str, num: int, place: Path) -> None:
    best = perfect(data, num, OF_TRAINING)
    empty = [""] * (len(HEAD) - len(FIGURES) - 2)
    lines = [
        [
            "",
            name,
            *empty,
            *(f"{of[key]:{form}}" if key in of else "" for key, form in FIGURES.values()),
        ]
        for name, of in (
            ("a perfect sampler", best),
            ("training pictures", real_pictures(data, num)),
        )
    ]
    held_out = len(load_dataset(data, "test").images)
    shown = {place.name: f"Two pictures of each class, {PARTS['few']}"}
    if len({budget for budget, _ in results}) > 1:
        curve = place.with_name(f"{place.name}_by_budget.png")
        chart(results, best[FIGURES["distance"][0]]).savefig(curve, metadata={"Software": None})
        shown = {curve.stem: "Distance by budget", **shown}
    links = "\n\n".join(f"![{title}]({name}.png)" for name, title in shown.items())
    torch.set_num_threads(1)
    write_table(
        place.name,
        f"{data} by CPU seconds of training, {' | '.join(PARTS.values())}",
        HEAD,
        [*rows(results), *lines],
        f"{num} pictures without guidance, against {held_out} held-out ones; mean and standard "
        f"deviation over the seeds. Of each other implementation the learning rate and the sampler "
        f"with the least distance at the first seed{by_fewer(results, num)}. The distance of a "
        f"perfect sampler "
        f"is that of draws of the Gaussian fitted to the held-out pictures; of training pictures "
        f"there are as many of each class.\n\n{made_on(results)}\n\n{links}",
        folder=place.parent,
    )


def by_fewer(results: Results, num: int) -> str:
    """How many pictures choose, where they are fewer than those that are judged."""
    counts = {each.get("tried_by", num) for found in results.values() for each in found} - {num}
    return f", by {' or '.join(map(str, sorted(counts)))} pictures" if counts else ""


def made_on(results: Results) -> str:
    """Processors and the CPU seconds of training there, where steps are by costs of one of them."""
    taken: dict[tuple[float, str], list[float]] = {}
    for (budget, _), found in results.items():
        for each in found:
            taken.setdefault((budget, each["made"]), []).append(each["seconds"])
    parts = (
        f"{made}: {min(seconds):.0f} to {max(seconds):.0f} CPU seconds for {budget:g}"
        for (budget, made), seconds in taken.items()
    )
    return f"Trained on {'; '.join(parts)}."
