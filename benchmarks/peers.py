"""How good are pictures after so many CPU seconds of training, ours beside others'?

VFN_REFERENCE=path/to/v-diffusion-torch VFN_EDM=path/to/edm python -m benchmarks.peers

Each row is one implementation with its own network, loss and sampler, see
`benchmarks.implementations`, at about the same number of parameters; ours also with augmentation
and dropout, which a long training on few pictures wants. All are trained by one loop:
the optimizer, learning-rate curve, batch, average and order of pictures of the preset that is named
as the data are. They do as many steps as the budget allows at what a step of theirs costs on one
thread; costs are measured first, in turn, and kept, so that no figure depends on what else the
machine does. One judge looks at pictures drawn without guidance by at most 10, and by at most 64
evaluations: Fréchet distance of pixels, precision and recall against held-out pictures, copies of
training pictures, and how many a classifier trained on these takes for what was asked. At the first
seed the others are trained at each of `RATES`, and draw by all of their samplers: the rate and the
samplers with the least distance there are theirs at all seeds. Ours have the preset's.
What is finished is kept under --out, so that an interrupted benchmark goes on. Whoever lacks a
checkout or package is left out. The table, a sheet of the first two pictures of each class at the
first seed and, of several budgets, a chart of distances go to benchmarks/results if all of them are
asked for, else beside the runs; --finished trains nothing and shows what is kept.
"""

import hashlib
import inspect
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import click
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image
from torch import Tensor

import vfn
from benchmarks.budget import (
    NUM,
    PROBED,
    cell,
    cost_of_a_step,
    costs,
    file_of,
    judged,
    kept,
    perfect,
    pictures,
    real_pictures,
    run_all,
    train_whole,
)
from benchmarks.common import RESULTS, markdown, processor, write_table
from benchmarks.implementations import (
    CLASSES,
    LACKING,
    PEERS,
    SHAPES,
    Peer,
    Sampler,
    nearest_in_size,
    size_of,
)
from vfn.configs import Config, load, override
from vfn.data import Dataset, load_dataset
from vfn.files import write_json
from vfn.memory import keep_freed_memory
from vfn.model import DataShape, build_model
from vfn.objective import Batch
from vfn.pictures import grid, save_png, sheet
from vfn.train.batches import image_indices
from vfn.train.state import init_state, train_step

# Our rows: the preset, and what is changed in it.
PLAIN = "ours"
OURS: dict[str, dict[str, float]] = {
    PLAIN: {},
    "ours-augmented": {"augment": 0.12, "dropout": 0.1},
}
# The presets were chosen with seeds 0 to 2. At the first the others choose rates and samplers.
BUDGETS, SEEDS = "60,300,1800", "3,4,5"
CHOOSING = SEEDS.split(",")[0]
RATES = (3e-3, 1e-3)
DRAWN = 250  # pictures at a time
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
HEAD = ["CPU s", "implementation", "parameters", "steps", "seeds", "rate", "sampler", "evaluations",
        *FIGURES]  # fmt: skip


class Made(NamedTuple):
    """A trained network.

    parameters: their number. seconds: CPU time of training. losses: on its way, each in its own
    scale. samplers: for each of `PARTS`. draw: pictures, the classes that were asked, and
    evaluations a picture.
    """

    parameters: int
    seconds: float
    losses: list[float]
    samplers: dict[str, tuple[Sampler, ...]]
    draw: Callable[[Sampler, int], tuple[Tensor, Tensor, int]]


def configuration(
    row: str, data: str, seed: int = 0, steps: int = PROBED[1], rate: float | None = None
) -> Config:
    """The preset of so many steps; few of them do not all go to warming up."""
    preset = override(load(data), OURS.get(row, {}))
    rate = preset.train.lr if rate is None else rate
    warmup = min(preset.train.warmup, steps // 4)
    shorter = {"seed": seed, "steps": steps, "warmup": warmup, "lr": rate}
    quiet = {"preview_every": 0, "checkpoint_every": 10**6, "log_every": 10}
    return override(preset, {**quiet, **shorter})


def shared_loop(peer: Peer, data: Dataset, config: Config) -> Iterator[float]:
    """Train as `vfn.train.train` does, but for the loss; in the end the network has the average.

    Yields the loss of each step.
    """
    settings = config.train
    state = init_state(peer.net, settings)

    def objective(_network: Any, batch: Batch, _diffusion: Any) -> Tensor:
        assert batch.labels is not None
        return peer.loss(batch.x0, batch.labels)

    assert data.labels is not None
    peer.net.train()
    for step in range(settings.steps):
        draws = step * settings.batch_size + torch.arange(settings.batch_size)
        index = image_indices(settings.seed, draws, len(data.images))
        x0, unused = data.values.to_unit(data.images[index]), torch.zeros(len(index)).double()
        batch = Batch(x0, data.labels[index] - 1, unused, x0)  # times and noise are the peer's own
        yield train_step(state, peer.net, [batch], config, objective).loss.item()
    peer.net.load_state_dict(peer.net.state_dict() | state.ema)
    peer.net.eval().to(memory_format=torch.channels_last)  # 28x28 is drawn faster so


def ours(config: Config) -> Made:
    entries: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = train_whole(config, folder, callbacks=[entries.append])
        trained = vfn.load(folder, "cpu")

    def draw(sampler: Sampler, num: int) -> tuple[Tensor, Tensor, int]:
        asked = {"sampler": sampler.word, "sample_timesteps": sampler.steps, "guidance": 0.0}
        drawn = trained.sample(num, seed=config.train.seed, batch=DRAWN, **asked)
        return drawn.images, drawn.classes, drawn.nfe

    samplers = {
        part: (Sampler(config.sample.sampler, steps),)
        for part, steps in zip(PARTS, (10, 64), strict=True)
    }
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    return Made(size_of(trained.model), seconds, losses, samplers, draw)


def peer_of(row: str, config: Config) -> Peer:
    """Of a width and blocks whose number of parameters is nearest to ours."""
    shape, legend = SHAPES[config.data.dataset], load_dataset(config.data.dataset, "test").legend
    our = build_model(config, DataShape(1, shape.size, shape.size, legend))
    width, blocks = nearest_in_size(PEERS[row], shape, size_of(our))
    torch.manual_seed(config.train.seed)
    return PEERS[row](shape, width, blocks)


def theirs(row: str, config: Config) -> Made:
    peer, begun = peer_of(row, config), time.process_time()
    losses = list(shared_loop(peer, load_dataset(config.data.dataset, "train"), config))
    seconds = time.process_time() - begun

    def draw(sampler: Sampler, num: int) -> tuple[Tensor, Tensor, int]:
        calls: list[None] = []
        counted = peer.net.register_forward_hook(lambda *_: calls.append(None))
        parts = (torch.arange(num) % CLASSES).split(DRAWN)
        torch.manual_seed(config.train.seed)
        with torch.inference_mode():
            drawn = torch.cat([peer.sample(sampler, y) for y in parts])
        counted.remove()
        images = ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte()
        return images, torch.cat(parts) + 1, len(calls) // len(parts)

    samplers = {"few": peer.few, "many": peer.many}
    return Made(size_of(peer.net), seconds, losses, samplers, draw)


def cost(row: str, data: str) -> float:
    """CPU seconds of a step; all keep the memory that they free, as ours do in training."""
    keep_freed_memory()
    config = configuration(row, data)
    if row in OURS:
        return cost_of_a_step(config)
    loop = shared_loop(peer_of(row, config), load_dataset(data, "train"), config)
    marks = [time.process_time() for step, _ in enumerate(loop, 1) if step in PROBED]
    return (marks[1] - marks[0]) / (PROBED[1] - PROBED[0])


def least(by_sampler: dict[str, Any]) -> str:
    """The sampler with the least distance."""
    return min(by_sampler, key=lambda name: by_sampler[name]["frechet_distance"])


def one(
    row: str, data: str, seed: int, steps: int, num: int, choosing: Result, shown: Path
) -> Result:
    """Train and judge one run, by all rates and samplers or by another run's; show pictures."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rates = [choosing["rate"]] if choosing else [load(data).train.lr] if row in OURS else RATES
    tried = [at_rate(row, data, seed, steps, num, choosing, rate) for rate in rates]
    result, first = min(tried, key=lambda each: distance(each[0]))
    save_png(shown, grid(first, CLASSES))
    return {**result, "tried": {str(each["rate"]): distance(each) for each, _ in tried}}


def distance(result: Result) -> float:
    """Of a run, the geometric mean of those by few and by many evaluations."""
    best = (result[part][least(result[part])]["frechet_distance"] for part in PARTS)
    return math.prod(best) ** (1 / len(PARTS))


def at_rate(
    row: str, data: str, seed: int, steps: int, num: int, choosing: Result, rate: float
) -> tuple[Result, Tensor]:
    """A run and its first pictures by few evaluations."""
    config = configuration(row, data, seed, steps, rate)
    made = ours(config) if row in OURS else theirs(row, config)
    tenth = max(1, len(made.losses) // 10)
    result: Result = {
        "steps": steps, "rate": rate, "seconds": made.seconds, "parameters": made.parameters,
        "loss": [mean(made.losses[:tenth]), mean(made.losses[-tenth:])], "of": mark(row),
        "made": f"{processor()}, torch {torch.__version__}",
    }  # fmt: skip
    pictured: dict[str, Tensor] = {}
    for part, samplers in made.samplers.items():
        result[part] = {}
        only = choosing and least(choosing[part])
        for sampler in samplers:
            if only and only != str(sampler):
                continue
            images, classes, nfe = made.draw(sampler, num)
            if part == "few":
                pictured[str(sampler)] = images[:SHOWN]
            found = judged(pictures(images, classes, data), data, OF_TRAINING)
            result[part][str(sampler)] = {"evaluations": nfe, **found}
    return result, pictured[least(result["few"])]


def mark(row: str) -> str:
    """Of how the row is made here: runs of another one are not its own."""
    made = str(OURS[row]) if row in OURS else inspect.getsource(PEERS[row])
    return hashlib.sha256(made.encode()).hexdigest()[:8]


def finished_run(path: Path, row: str) -> Result | None:
    """What is kept of a run, if it was made as the row is now."""
    found: Result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if found.get("of") == mark(row) else None


def best_of(found: list[Result], part: str) -> tuple[str, list[dict[str, float]]]:
    """The sampler with the least distance at the first seed, and its figures at each."""
    of_all = set.intersection(*(set(each[part]) for each in found))
    name = least({name: found[0][part][name] for name in of_all})
    return name, [each[part][name] for each in found]


def rows(results: Results, part: str) -> list[list[str]]:
    """Of each implementation its best sampler."""
    lines = []
    for (budget, row), found in results.items():
        name, best = best_of(found, part)
        lines.append(
            [
                f"{budget:g}", row, f"{found[0]['parameters'] / 1e6:.2f} M",
                str(found[0]["steps"]), str(len(found)), f"{found[0]['rate']:g}",
                name, str(best[0]["evaluations"]),
                *(cell([each[key] for each in best], form) for key, form in FIGURES.values()),
            ]
        )  # fmt: skip
    return lines


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
    few, many = ([*rows(results, part), *lines] for part in PARTS)
    shown = {place.name: f"Two pictures of each class, {PARTS['few']}"}
    if len({budget for budget, _ in results}) > 1:
        curve = place.with_name(f"{place.name}_by_budget.png")
        chart(results, best[FIGURES["distance"][0]]).savefig(curve, metadata={"Software": None})
        shown = {curve.stem: "Distance by budget", **shown}
    links = "\n\n".join(f"![{title}]({name}.png)" for name, title in shown.items())
    torch.set_num_threads(1)
    write_table(
        place.name,
        f"{data} by CPU seconds of training, {PARTS['few']}",
        HEAD,
        few,
        f"## {PARTS['many'].capitalize()}\n\n{markdown(HEAD, many)}\n\n"
        f"{num} pictures without guidance, against {held_out} held-out ones; mean and standard "
        f"deviation over the seeds. Of each other implementation the learning rate and the sampler "
        f"with the least distance at the first seed, {CHOOSING}. The distance of a perfect sampler "
        f"is that of draws of the Gaussian fitted to the held-out pictures; of training pictures "
        f"there are as many of each class.\n\n{made_on(results)}\n\n{links}",
        folder=place.parent,
    )


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
                ["--data", data, "--num", str(num), "--only",
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
@click.option("--num", default=NUM, help="Pictures that are judged.", show_default=True)
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
        write_json(Path(name), one(row, data, int(number), int(steps), num, choosing, shown))
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
        train_missing(paths, chosen, data, num, jobs, folder)
    results: Results = {}
    shown = {}  # not those of a row as it was before
    for (seconds, row, seed), path in paths.items():
        if found := finished_run(path, row):
            results.setdefault((seconds, row), []).append(found)
            shown[seconds, row, seed] = path
    if not results:
        raise click.UsageError(f"expected finished runs of {budget} s in {folder}, found none")
    full = (budget, seeds, num) == (BUDGETS, SEEDS, NUM) and len(chosen) == len(OURS) + len(PEERS)
    part = "" if budget == BUDGETS else f"_{budget.replace(',', '_')}"
    place = (RESULTS if full else folder) / f"peers_{data}{part}"
    save_png(place.with_name(f"{place.name}.png"), picture(shown, seeds.split(",")[0], data))
    tables(results, data, num, place)


if __name__ == "__main__":
    main()
