"""How good are pictures after so many CPU seconds of training, ours beside others'?

VFN_REFERENCE=path/to/v-diffusion-torch VFN_EDM=path/to/edm python -m benchmarks.peers

Each row is one implementation with its own network, loss and sampler, see
`benchmarks.implementations`, at about the same number of parameters. A long training on few
pictures wants augmentation and dropout: ours and EDM's have a row with both, the reference's one
with dropout. All are trained by one loop: the optimizer, learning-rate curve, batch, average and
order of pictures of the preset that is named as the data are; rows of -muon have that optimizer and
twice the rate. They do as many steps as the budget allows at what a step of theirs costs on one
thread; costs are measured first, in turn, and kept, so that no figure depends on what else the
machine does. One judge looks at pictures drawn without guidance by at most 10, and by at most 64
evaluations: Fréchet distance of pixels, precision and recall against held-out pictures, copies of
training pictures, and how many a classifier trained on these takes for what was asked. At the first
seed the others are trained at each of `RATES`, and draw by all of their samplers: the rate and the
samplers with the least distance there are theirs at all seeds. Ours have the preset's. What is
finished is kept under --out, so that an interrupted benchmark goes on. Whoever lacks a checkout or
package is left out. The table, a sheet of the first two pictures of each class at the first seed
and, of several budgets, a chart of distances go to benchmarks/results if all of them are asked for,
else beside the runs; --finished trains nothing and shows what is kept.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import click
import torch
from torch import Tensor

from benchmarks.budget import NUM, costs, file_of, judged, kept, pictures, run_all
from benchmarks.common import RESULTS, processor
from benchmarks.implementations import CLASSES, LACKING, PEERS, SHAPES
from benchmarks.peer_tables import (
    OF_TRAINING,
    PARTS,
    SHOWN,
    Result,
    Results,
    least,
    picture,
    tables,
)
from benchmarks.peer_training import FASTER, OURS, PLAIN, Made, configuration, cost, ours, theirs
from vfn.files import write_json
from vfn.memory import keep_freed_memory
from vfn.pictures import grid, save_png

# The presets were chosen with seeds 0 to 2. At the first the others choose rates and samplers.
BUDGETS, SEEDS = "60,300,1800", "3,4,5"
CHOOSING = SEEDS.split(",")[0]
RATES = (3e-3, 1e-3)


def one(
    row: str, data: str, seed: int, steps: int, num: int, trials: int, other: Result, shown: Path
) -> Result:
    """Train and judge one run, by all rates and samplers or by those of another; show pictures.

    What is best is chosen by as many pictures as trials, and judged by num.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    rates = [other["rate"]] if other else rates_of(row, data)
    chosen = {part: least(other[part]) for part in PARTS} if other else {}
    few = num if other or row in OURS else min(num, trials)
    runs = [trained(row, data, seed, steps, rate) for rate in rates]
    tried = [(run, *figures(made, data, few, chosen)) for run, made in runs]
    best = min(range(len(tried)), key=lambda number: distance(tried[number][1]))
    run, found, first = tried[best]
    if few < num:
        found, first = figures(
            runs[best][1], data, num, {part: least(found[part]) for part in PARTS}
        )
    save_png(shown, grid(first, CLASSES))
    distances = {str(each["rate"]): distance(by) for each, by, _ in tried}
    return {**run, **found, "tried": distances, "tried_by": few}


def rates_of(row: str, data: str) -> Sequence[float]:
    """Those that are tried at the first seed."""
    if row in OURS:
        return [configuration(row, data).train.lr]
    return [FASTER.get(row, 1.0) * rate for rate in RATES]


def distance(result: Result) -> float:
    """Of a run, the geometric mean of those by few and by many evaluations."""
    best = (result[part][least(result[part])]["frechet_distance"] for part in PARTS)
    return math.prod(best) ** (1 / len(PARTS))


def trained(row: str, data: str, seed: int, steps: int, rate: float) -> tuple[Result, Made]:
    """A run before it is judged."""
    config = configuration(row, data, seed, steps, rate)
    made = ours(config) if row in OURS else theirs(row, config)
    tenth = max(1, len(made.losses) // 10)
    result: Result = {
        "steps": steps, "rate": rate, "seconds": made.seconds, "parameters": made.parameters,
        "loss": [mean(made.losses[:tenth]), mean(made.losses[-tenth:])], "of": mark(row),
        "made": f"{processor()}, torch {torch.__version__}",
    }  # fmt: skip
    return result, made


def figures(made: Made, data: str, num: int, chosen: Mapping[str, str]) -> tuple[Result, Tensor]:
    """Of the chosen samplers, or of all, by part; and the first pictures by few evaluations."""
    result: Result = {}
    pictured: dict[str, Tensor] = {}
    for part, samplers in made.samplers.items():
        result[part] = {}
        for sampler in samplers:
            if chosen and chosen[part] != str(sampler):
                continue
            images, classes, nfe = made.draw(sampler, num)
            if part == "few":
                pictured[str(sampler)] = images[:SHOWN]
            found = judged(pictures(images, classes, data), data, OF_TRAINING)
            result[part][str(sampler)] = {"evaluations": nfe, **found}
    return result, pictured[least(result["few"])]


def mark(row: str) -> str:
    """Of how the row is made here: runs of another one are not its own."""
    kinds = () if row in OURS else PEERS[row].__mro__[:-1]  # what it inherits, too
    made = str(OURS[row]) if row in OURS else "".join(map(inspect.getsource, kinds))
    return hashlib.sha256(made.encode()).hexdigest()[:8]


def finished_run(path: Path, row: str) -> Result | None:
    """What is kept of a run, if it was made as the row is now."""
    found: Result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if found.get("of") == mark(row) else None


def numbers(_context: click.Context, option: click.Parameter, words: str) -> str:
    """As they are, if they are such numbers, apart by commas, as the option has by default."""
    try:
        [(int if option.name == "seeds" else float)(word) for word in words.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"expected numbers as in {option.default}, got {words!r}"
        ) from None
    return words


def chosen_of(words: str, lacking: Mapping[str, str]) -> list[str]:
    """The rows that are asked for and not lacking; a line for each that is."""
    asked = words.split(",") if words else [*OURS, *PEERS]
    if unknown := {*asked} - {*OURS, *PEERS}:
        given = ", ".join(sorted(unknown))
        raise click.UsageError(f"expected rows of {', '.join((*OURS, *PEERS))}, got {given}")
    for row in asked:
        if lacking.get(row):
            click.echo(f"{row} is left out: {lacking[row]}", err=True)
    return [row for row in asked if not lacking.get(row)]


def train_missing(
    paths: Mapping[tuple[float, str, str], Path],
    chosen: list[str],
    data: str,
    num: int,
    trials: int,
    jobs: int,
    folder: Path,
) -> None:
    """The runs that are not finished, those of the seed that chooses samplers first."""
    measured = {row: partial(cost, row, data) for row in dict.fromkeys([PLAIN, *chosen])}
    each = costs(measured, folder / "costs.json")
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    for first in (True, False):
        run_all(
            "benchmarks.peers",
            [
                ["--data", data, "--num", str(num), "--trials", str(trials), "--only",
                 f"{row}|{seed}|{max(1, int(seconds / each[row]))}|{path}"]
                for (seconds, row, seed), path in paths.items()
                if (seed == CHOOSING) == first and not finished_run(path, row)
            ],
            jobs,
        )  # fmt: skip


@click.command(help=__doc__)
@click.option("--data", default="digits", type=click.Choice(list(SHAPES)))
@click.option(
    "--budget",
    default=BUDGETS,
    callback=numbers,
    help="CPU seconds of training.",
    show_default=True,
)
@click.option("--seeds", default=SEEDS, callback=numbers, show_default=True)
@click.option("--rows", "asked", default="", help=f"Of {','.join((*OURS, *PEERS))}; all if empty.")
@click.option(
    "--num", default=NUM, type=click.IntRange(SHOWN), help="Pictures that are judged.",
    show_default=True,
)  # fmt: skip
@click.option(
    "--trials", default=NUM, type=click.IntRange(SHOWN),
    help="Pictures by which rates and samplers are chosen.", show_default=True,
)  # fmt: skip
@click.option("--jobs", default=1, help="Runs at a time, one thread each.", show_default=True)
@click.option("--out", default="runs/peers", type=click.Path(path_type=Path), show_default=True)
@click.option("--finished", is_flag=True, help="Train nothing; the table of what is kept.")
@click.option("--only", default="", hidden=True)
def main(
    data: str,
    budget: str,
    seeds: str,
    asked: str,
    num: int,
    trials: int,
    jobs: int,
    out: Path,
    finished: bool,
    only: str,
) -> None:
    if only:
        row, number, steps, name = only.split("|")
        other = file_of(row, CHOOSING, Path(name).parent)
        choosing = finished_run(other, row) or {}
        shown = Path(name).with_suffix(".png")
        run = one(row, data, int(number), int(steps), num, trials, choosing, shown)
        write_json(Path(name), run)
        return
    chosen = chosen_of(asked, {} if finished else LACKING)
    folder = kept(out, f"{data}-{num}", data)
    paths = {
        (seconds, row, seed): file_of(row, seed, folder / f"{seconds:g}")
        for seconds in map(float, budget.split(","))
        for row in chosen
        for seed in seeds.split(",")
    }
    if not finished:
        train_missing(paths, chosen, data, num, trials, jobs, folder)
    results: Results = {}
    pictured = {}  # not those of a row as it was before
    for (seconds, row, seed), path in paths.items():
        if found := finished_run(path, row):
            results.setdefault((seconds, row), []).append(found)
            pictured[seconds, row, seed] = path
    if not results:
        raise click.UsageError(f"expected finished runs of {budget} s in {folder}, found none")
    full = (budget, seeds, num) == (BUDGETS, SEEDS, NUM) and len(chosen) == len(OURS) + len(PEERS)
    part = "" if budget == BUDGETS else f"_{budget.replace(',', '_')}"
    place = (RESULTS if full else folder) / f"peers_{data}{part}"
    save_png(place.with_name(f"{place.name}.png"), picture(pictured, seeds.split(",")[0], data))
    tables(results, data, num, place)


if __name__ == "__main__":
    main()
