"""The page about a run: pictures, numbers and how to get them again, in one HTML file."""

import json
import math
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vfn import __version__
from vfn.configs import Config, SampleConfig
from vfn.evaluation import AXES, KINDS
from vfn.files import few, without_places, write_atomic
from vfn.nn import NETWORKS
from vfn.numbers import number_of
from vfn.report.drawings import OF_TRAINING, draw_all, loss_by_logsnr
from vfn.report.evaluated import evaluated
from vfn.report.frame import document
from vfn.report.heard import (
    curves_table,
    figures_in_words,
    in_words,
    levels_in_words,
    levels_table,
    on_the_way_table,
)
from vfn.report.markup import (
    ARROWS,
    Cell,
    Section,
    chart,
    code,
    details,
    paragraph,
    picture,
    plain,
    section,
    table,
)
from vfn.report.read import Curve, RunContents, Stage, figure_kinds, read_run
from vfn.runs import RunFiles, overfits_since
from vfn.sampling.job import DENOISING, GRID, SWEEP
from vfn.sampling.sheets import GRID_COLUMNS
from vfn.train.distillation.plan import stages_of

_PREVIEWS = 12  # a page that is mailed cannot hold the previews of a long run
_FOLDERS = 6  # of samples, and of comparisons
# An absolute path in TOML, perhaps after a word such as run:, and its last part.
_PLACE = re.compile(r"""(["'])((?:[A-Za-z]\w*:)?)/(?:(?!\1)[^\n])*(/(?:(?!\1)[^\n/])+)/?\1""")


def report(run: str | Path, add: Sequence[str | Path] = ()) -> Path:
    """Write ``report.html`` about a run, and its plots under ``plots/``.

    The page holds its pictures, so it can be moved and mailed. What the run does not have yet is
    left out. Samples, comparisons and evaluations are found in the run's directory, beside it and
    in the current directory, where they say that they are of this run.

    Args:
        run: a run directory, that is one with a ``config.toml``.
        add: more folders of `vfn sample` and files of ``vfn eval --json``.

    Returns:
        path of the page.

    Raises:
        ValueError: if it is no run directory, a file in it is malformed, or what is to be added is
            something else; the file is named.
        OSError: if the page or a plot cannot be written; the page is then as it was.

    >>> import tempfile
    >>> from vfn.configs import dumps, load
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = RunFiles(run).config.write_text(dumps(load("digits")))
    ...     report(run).name
    'report.html'
    """
    contents = read_run(run, [add] if isinstance(add, str | Path) else add)
    files, plots = contents.files, draw_all(contents)
    page = _page(contents, plots)
    for name, content in plots.items():
        write_atomic(files.plot(name), content)
    write_atomic(files.report, page)
    return files.report


def _page(contents: RunContents, plots: Mapping[str, bytes]) -> str:
    name = contents.files.path.resolve().name
    title = f"A diffusion model of {_data(contents.config)}"
    header = f"""<p class="run">Run {escape(name)}</p>
<h1>{escape(title)}</h1>
<p class="lead">{escape(_lead(contents))}</p>"""
    return document(f"{title} · {name}", header, _sections(contents, plots), versions())


def _sections(contents: RunContents, plots: Mapping[str, bytes]) -> list[Section]:
    files, stages = contents.files, contents.stages or []
    plot = partial(_plot, plots, contents)
    return [
        section("Samples", *sample_grids(contents)),
        section("From noise to picture", _movie(contents)),
        *_sweeps(contents),
        section("Stages", _stage_table(stages), _stage_pictures(files, stages)),
        section(
            "Evaluation",
            evaluated(contents.evaluations),
            plot("guidance"),
            plot("sample_timesteps"),
            picture(files.nearest, *_NEAREST_TEXTS),
        ),
        section(
            "Training",
            plot("losses") or paragraph(_losses(contents)),
            plot("step"),
            plot("train_seconds"),
            plot("loss_by_logsnr"),
        ),
        section("Samples during training", _previews(files)),
        section(commands_title([contents]), commands(contents.commands)),
        section("Configuration", details(files.config.name, configuration(contents.config_text))),
    ]


def commands_title(several: Sequence[RunContents]) -> str:
    """Over the commands of runs: without a list they are those of evaluations alone."""
    listed = all(contents.files.commands.is_file() for contents in several)
    return "How to reproduce" if listed else "Commands of the evaluations"


def commands(lines: Sequence[str]) -> str:
    """Commands as markup, in which paths of this machine have their last two parts alone.

    Args:
        lines: a command each.

    Returns:
        markup; nothing without commands.

    >>> commands(["vfn report '/home/me/my runs/a'"])
    '<pre><code>vfn report &#x27;my runs/a&#x27;</code></pre>'
    """
    return code("\n".join(map(_without_places_in_words, lines)))


def _without_places_in_words(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError:  # somebody's own list
        words = line.split()
    kept = [without_places(word) for word in words]
    for word, instead in zip(words, kept, strict=True):
        if word != instead and word not in line:  # escaped, or another is the beginning of it
            return shlex.join(kept)
        line = line.replace(word, instead)
    return line


def configuration(toml: str) -> str:
    """A configuration as markup, in which paths of this machine have their last part alone.

    Args:
        toml: its text.

    Returns:
        markup.

    >>> configuration('dataset = "/home/me/pictures"')
    '<pre><code>dataset = &quot;.../pictures&quot;</code></pre>'
    """
    return code(_PLACE.sub(r"\1\2...\3\1", toml))


def _place(path: Path, contents: RunContents) -> str:
    """Where samples are, by names that tell nothing of the machine."""
    own = contents.files.path.resolve()
    inside = path.is_relative_to(own)
    return str(path.relative_to(own) if inside else Path(path.parent.name, path.name))


def sample_grids(contents: RunContents) -> list[str]:
    """The grid of each folder of samples, with what tells it from the others."""
    alone = len(contents.samples) == 1
    figures = []
    for path, record in contents.samples[:_FOLDERS]:
        told = f" {text}." if (text := _settings_text(record)) else ""
        place = "" if alone else f" In {_place(path, contents)}."
        caption = f"{_GRID_TEXTS[1]}{told}{place}"
        figures.append(picture(path / GRID, f"{_GRID_TEXTS[0]}{_of_labels(record)}", caption))
    return [*figures, _more(len(contents.samples) - _FOLDERS, "folders of samples")]


def _of_labels(record: Mapping[str, Any]) -> str:
    """What was asked for, after the words for a picture of it.

    Returns:
        text, empty where nothing is known.

    >>> _of_labels({"labels": ["cats", "dogs"]}), _of_labels({"labels": []})
    (' of cats, dogs', '')
    """
    names = [name for name in record.get("labels", []) if name]
    return f" of {few(names, GRID_COLUMNS)}" if names else ""


def _settings_text(record: Mapping[str, Any]) -> str:
    """How samples were drawn, in few words.

    Returns:
        text, empty where nothing is known.

    >>> _settings_text({"guidance": 0.5, "sampler": "ddim", "sample_timesteps": 64, "step": 800})
    'Guidance 0.5, ddim, 64 steps, after 800 training steps'
    """

    def told(name: str, value: str | int | float) -> str:
        if name in _COUNTED and isinstance(value, int):
            return number_of(value, _COUNTED[name])
        return plain(value)

    parts = [
        text.format(told(name, record[name]))
        for name, text in _TOLD.items()
        if isinstance(record.get(name), str | int | float)
    ]
    return ", ".join(parts)


def _more(count: int, what: str) -> str:
    return paragraph(f"{count} more {what} are not shown.") if count > 0 else ""


def _movie(contents: RunContents) -> str:
    """The first animation that is found."""
    text, caption = _MOVIE_TEXTS
    films = (
        picture(path / DENOISING, f"{text}{_of_labels(record)}", caption)
        for path, record in contents.samples
    )
    return next(filter(None, films), "")


def _sweeps(contents: RunContents) -> list[Section]:
    """Sheets that compare: of guidance, and of anything else."""
    sheets: dict[str, list[str]] = {"Guidance": [], "Comparison": []}
    for path, parts in contents.sweeps[:_FOLDERS]:
        differing = _differing([part.record for part in parts])
        # Of a demonstration, though its folders are gone.
        of_guidance = not parts and path == contents.files.sweep.resolve()
        title, texts = ("Guidance", _SWEEP_TEXTS)
        if differing != ["guidance"] and not of_guidance:
            named = " and ".join(_NAMES.get(name, name) for name in differing)
            title, texts = "Comparison", _compared_texts(named)
        place = "" if len(contents.sweeps) == 1 else f" In {_place(path, contents)}."
        told = texts[0] + (_of_labels(parts[0].record) if parts else "")
        sheets[title].append(picture(path / SWEEP, told, texts[1] + place))
    sheets["Comparison"].append(_more(len(contents.sweeps) - _FOLDERS, "comparisons"))
    return [section(title, *figures) for title, figures in sheets.items()]


def _differing(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings of sampling in which folders differ; records leave out those not in use.

    Returns:
        names.

    >>> guided = {"guide_with": "20", "guide_weight": 1.0}
    >>> _differing([{"guidance": 0.5}, {"guidance": 0.5, **guided}])
    ['guide_weight']
    """
    defaults = {**vars(SampleConfig()), "guide_weight": 0.0}  # a weaker network that is left out
    known = {"guide_with": [record for record in records if record.get("guide_with")]}

    def values(name: str) -> list[str]:
        return [json.dumps(r.get(name, defaults[name])) for r in known.get(name, records)]

    return [name for name in defaults if len({*values(name)}) > 1]


def _losses(contents: RunContents) -> str:
    """The last losses, where there are too few for a curve."""
    parts = [
        f"{what} {curve[max(curve)]:.4g} at step {max(curve):,}"
        for what, curve in (
            ("Loss", contents.train_loss),
            ("held-out loss", contents.held_out_loss),
        )
        if curve
    ]
    return f"{', '.join(parts)}." if parts else ""


# What stands instead of a picture, and below it.
_GRID_TEXTS = (
    "Grid of generated pictures",
    "Pictures that the model drew from pure noise, none of them chosen by hand.",
)
_MOVIE_TEXTS = (
    "Animation of noise turning into pictures",
    "The sampler at work: each frame is a step from noise towards a picture.",
)
_NAMES = {
    **AXES,
    "sample_timesteps": "steps",
    "sampler": "solver",
    "guide_with": "weaker network",
}
# What is said of a folder of samples, and what is counted.
_TOLD = {
    "guidance": "Guidance {}",
    "guide_weight": "weaker network's weight {}",
    "sampler": "{}",
    "sample_timesteps": "{}",
    "step": "after {}",
}
_COUNTED = {"sample_timesteps": "step", "step": "training step"}
_NEAREST_TEXTS = (
    "Generated pictures, and beside each the real ones nearest to it",
    "The generated pictures that are nearest to one of the real ones, and these in order: a model "
    "that copies what it was trained on is seen by it. Beside each row the distance to the first.",
)
_SWEEP_TEXTS = (
    "Grids of generated pictures for several guidance weights",
    "The same noise under growing guidance weight w: from variety towards typical pictures.",
)
_LOGSNR_TEXTS = (
    "Curve of the held-out loss over log signal-to-noise ratio",
    "Where the loss comes from: held-out loss by noise level.",
)


def _compared_texts(differing: str) -> tuple[str, str]:
    """What stands instead of a comparison, and below it."""
    if not differing:
        return "Grids of generated pictures, one for each folder", "The same noise."
    told = f"Grids of generated pictures for several values of {differing}"
    return told, f"The same noise: {differing}."


def _plot_texts(name: str, training: Curve, held_out: Curve) -> tuple[str, str]:
    """What stands instead of a plot, and below it."""
    if name == "loss_by_logsnr":
        return _LOGSNR_TEXTS
    if name in AXES:
        text = f"Metrics against {AXES[name].partition(' /')[0]}"
        return text, f"{text}."
    last, least = max(held_out, default=None), overfits_since(training, held_out)
    note = "" if last is None else f" The held-out loss is {held_out[last]:.4g} at step {last:,}."
    if least is not None:
        note += (
            f" It was {held_out[least]:.4g} at step {least:,}: since then the training pictures "
            "are learned by heart."
        )
    return (
        "Curves of training loss and held-out loss over steps",
        f"Loss on the batches of the training and on pictures never trained on.{note}",
    )


def _lead(contents: RunContents) -> str:
    """One sentence about the run."""
    config = contents.config
    if contents.stages is not None:
        return _lead_of_stages(config, contents.stages)
    steps = max([*contents.train_loss, *contents.held_out_loss], default=config.train.steps)
    target = "x0 and eps" if (out := config.diffusion.model_out_type) == "both" else out
    planned = config.train.steps
    done = f"{steps:,} of {number_of(planned, 'step')}"
    done = number_of(planned, "step") if steps >= planned else done
    return (
        f"A {_network(config.model.network)} that turns noise into pictures like those of the data "
        f"set {_data(config)}: it predicts {target} under the "
        f"{config.diffusion.logsnr_schedule} log-SNR schedule and "
        f"was trained for {done} of {config.train.batch_size:,} pictures each."
    )


def _data(config: Config) -> str:
    """What the data set is called, wherever it lies: pages are sent to others."""
    name = config.data.dataset
    return Path(name).name if Path(name).is_absolute() else name


def _network(word: str) -> str:
    """What a network is called in a sentence.

    Returns:
        a noun, perhaps with the word.

    >>> _network("unet"), _network("mine.nets:Small")
    ('UNet', 'network (mine.nets:Small)')
    """
    if word in NETWORKS:
        return NETWORKS[word].target.rpartition(":")[2]
    return f"network ({word})"


def _lead_of_stages(config: Config, begun: Sequence[Stage]) -> str:
    planned = {steps: stage.train.steps for steps, stage in stages_of(config).items()}
    steps = f"{', '.join(map(str, planned))} step{'' if [*planned] == [1] else 's'}"
    done = [
        stage
        for stage in begun
        if stage.figures.get("updates", 0) >= planned.get(stage.student_steps, math.inf)
    ]
    if not config.distill.teacher_steps:
        return (
            f"A teacher whose student learned by the method {config.distill.method} to turn noise "
            f"into pictures like those of the data set {_data(config)} in {steps}, or in "
            f"others: {'finished' if done else 'begun' if begun else 'not begun'}."
        )
    state = "finished" if len(done) == len(planned) else "begun"
    be = "is" if len(planned) == 1 else "are"
    return (
        f"A teacher of {config.distill.teacher_steps} steps of DDIM, distilled into students that "
        f"turn noise into pictures like those of the data set {_data(config)} in {steps}: "
        f"{len(begun)} of {number_of(len(planned), 'stage')} {be} {state}."
    )


def versions() -> str:
    """What made the page."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pillow"))
    return f"Made by vfn {__version__} with Python {platform.python_version()}, {packages}."


def _plot(plots: Mapping[str, bytes], contents: RunContents, name: str) -> str:
    """A plot, if it is drawn."""
    if name not in plots:
        return ""
    text, caption = _plot_texts(name, contents.train_loss, contents.held_out_loss)
    told, below = _heard(name, contents)
    alt = f"{text}: {told}" if told else text
    return f"{chart(plots[name], alt, caption)}\n{below}".rstrip()


def _heard(name: str, contents: RunContents) -> tuple[str, str]:
    """What a plot shows, in words and as a table, where the page has none of it elsewhere."""
    if name == "losses":
        curves = {"training loss": contents.train_loss, "held-out loss": contents.held_out_loss}
        curves = {what: curve for what, curve in curves.items() if curve}
        return in_words(curves), curves_table(curves, "Losses by step")
    if name == "loss_by_logsnr":
        lines = loss_by_logsnr(contents.evaluations)
        return levels_in_words(lines), levels_table(lines)
    if name not in OF_TRAINING:
        return figures_in_words(contents.evaluations, name), ""
    below = on_the_way_table(contents.on_the_way) if name == OF_TRAINING[0] else ""
    return figures_in_words(contents.on_the_way, name), below


def _previews(files: RunFiles) -> str:
    """Previews at even distances from the first to the last."""
    paths = files.previews()
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), _PREVIEWS)).round().astype(int)
    figures = []
    figures += [_preview(paths[i]) for i in chosen]
    if not figures:
        return ""
    return (
        "<p>Every grid starts from the same noise, so one place shows one picture getting better."
        f'</p>\n<div class="previews">{"".join(figures)}</div>'
    )


def preview(contents: RunContents, step: int) -> str:
    """The grid that a run drew after some step, if it is there."""
    return _preview(contents.files.preview(step))


def _preview(path: Path) -> str:
    step = path.stem.removeprefix("step-").lstrip("0") or "0"
    return picture(path, f"Generated pictures after step {step}", f"Step {step}")


def _stage_heads() -> dict[str, str]:
    """Heads of the table of stages by the keys of figures, in order."""
    arrows = {
        key: f"{kind.title} {ARROWS.get(kind.better, '')}".rstrip()
        for key, kind in figure_kinds().items()
    }
    losses = {"updates": "Updates", "loss": "Loss", "held_out_loss": "Held out"}
    return {**losses, **arrows, "seconds": "Time"}


def _stage_table(stages: Sequence[Stage]) -> str:
    """A row for each student, with the figures that any of them has."""
    if not stages:
        return ""
    heads = {
        key: title
        for key, title in _stage_heads().items()
        if any(key in stage.figures for stage in stages)
    }
    several = len(stages) > 1
    rows = [
        [
            Cell(str(stage.student_steps), stage.student_steps),
            *(Cell(_figure(key, value := stage.figures.get(key)), value) for key in heads),
        ]
        for stage in stages
    ]
    first = Cell("Steps", sorts=several, better="higher")
    titles = [
        Cell(escape(title), sorts=several, better=KINDS[key].better if key in KINDS else "lower")
        for key, title in heads.items()
    ]
    return table([first, *titles], rows, "stages", "Stages of the distillation")


def _figure(key: str, value: float | None) -> str:
    """A time in its unit, shares in per cent, others as they are; as markup.

    Returns:
        text of a cell.

    >>> _figure("seconds", 90.0), _figure("seconds", 9.0), _figure("loss", 0.00123456)
    ('1.5 min', '9 s', '0.001235')
    """
    if key == "seconds" and value is not None:
        return f"{value / 60:.1f} min" if value >= 60 else f"{value:.2g} s"
    shares = key in KINDS and KINDS[key].unit == "%" and value is not None
    return escape(KINDS[key].text(value) if shares and value is not None else plain(value))


def _stage_pictures(files: RunFiles, stages: Sequence[Stage]) -> str:
    """The teacher's grid, and the last one of each student."""
    figures = [picture(files.teacher_grid, "Pictures that the teacher drew", "The teacher")]
    for steps in (stage.student_steps for stage in stages):
        title = number_of(steps, "step")
        for path in files.stage(steps).previews()[-1:]:
            figures.append(picture(path, f"Pictures of the student of {title}", title))
    if not any(figures):
        return ""
    return (
        "<p>Every grid starts from the same noise, so one place shows what each makes of it."
        f'</p>\n<div class="previews">{"".join(figures)}</div>'
    )
