"""The page about a run: pictures, numbers and how to get them again, in one HTML file."""

import platform
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vfn import __version__
from vfn.configs import Config
from vfn.evaluation import AXES, Evaluation, Figure
from vfn.files import write_atomic
from vfn.nn import NETWORKS
from vfn.report.drawings import draw_all
from vfn.report.read import Curve, RunContents, Stage, figure_kinds, read_run
from vfn.runs import RunFiles
from vfn.sampling.job import DENOISING, GRID, SWEEP
from vfn.train.distillation.plan import stages_of

_PREVIEWS = 12  # a page that is mailed cannot hold the previews of a long run
_MISSING = "–"
_ARROWS = {"lower": "↓", "higher": "↑"}


def report(run: str | Path) -> Path:
    """Write ``report.html`` about a run, and its plots under ``plots/``.

    The page holds its pictures, so it can be moved and mailed. What the run does not have yet is
    left out.

    Args:
        run: a run directory, that is one with a ``config.toml``.

    Returns:
        path of the page.

    Raises:
        ValueError: if it is no run directory, or a file in it is malformed; the file is named.
        OSError: if the page or a plot cannot be written; the page is then as it was.

    >>> import tempfile
    >>> from vfn.configs import dumps, load
    >>> with tempfile.TemporaryDirectory() as run:
    ...     _ = RunFiles(Path(run)).config.write_text(dumps(load("digits")))
    ...     report(run).name
    'report.html'
    """
    contents = read_run(run)
    files, plots = contents.files, draw_all(contents)
    page = _page(contents, plots)
    for name, content in plots.items():
        write_atomic(files.plot(name), content)
    write_atomic(files.report, page)
    return files.report


# HTML: every function returns markup, and an empty string when there is nothing to show.


def _page(contents: RunContents, plots: Mapping[str, bytes]) -> str:
    name = contents.files.path.resolve().name
    title = f"A diffusion model of {escape(contents.config.data.dataset)}"
    content = "\n".join(section for section in _sections(contents, plots) if section)
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title} · {escape(name)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<p class="run">Run {escape(name)}</p>
<h1>{title}</h1>
<p class="lead">{escape(_lead(contents))}</p>
</header>
<main>
{content}
</main>
<footer>{escape(_versions())}</footer>
</body>
</html>
"""


def _sections(contents: RunContents, plots: Mapping[str, bytes]) -> list[str]:
    files, stages = contents.files, contents.stages or []
    plot = partial(_plot, plots, contents)
    return [
        _section("Samples", _picture(files.sample / GRID, *_GRID_TEXTS)),
        _section("From noise to picture", _picture(files.sample / DENOISING, *_MOVIE_TEXTS)),
        _section("Guidance", _picture(files.sweep / SWEEP, *_SWEEP_TEXTS)),
        _section("Stages", _stage_table(stages), _stage_pictures(files, stages)),
        _section(
            "Evaluation",
            *map(_evaluation, contents.evaluations),
            plot("guidance"),
            plot("sample_timesteps"),
        ),
        _section(
            "Training",
            plot("losses"),
            plot("step"),
            plot("train_seconds"),
            plot("loss_by_logsnr"),
        ),
        _section("Samples during training", _previews(files)),
        _section("How to reproduce", _commands(contents.commands)),
        _section("Configuration", _details(files.config.name, contents.config_text)),
    ]


# What stands instead of a picture, and below it.
_GRID_TEXTS = (
    "Grid of generated pictures",
    "Pictures that the model drew from pure noise, none of them chosen by hand.",
)
_MOVIE_TEXTS = (
    "Animation of noise turning into pictures",
    "The sampler at work: each frame is a step from noise towards a picture.",
)
_SWEEP_TEXTS = (
    "Grids of generated pictures for several guidance weights",
    "The same noise under growing guidance weight w: from variety towards typical pictures.",
)
_LOGSNR_TEXTS = (
    "Curve of the held-out loss over log signal-to-noise ratio",
    "Where the loss comes from: held-out loss by noise level.",
)


def _plot_texts(name: str, held_out: Curve) -> tuple[str, str]:
    """What stands instead of a plot, and below it."""
    if name == "loss_by_logsnr":
        return _LOGSNR_TEXTS
    if name in AXES:
        text = f"Metrics against {AXES[name].partition(' /')[0]}"
        return text, f"{text}."
    last = max(held_out, default=None)
    note = "" if last is None else f" The held-out loss is {held_out[last]:.4g} at step {last:,}."
    return (
        "Curves of training loss and held-out loss over steps",
        f"Loss on the batches of the training and on pictures never trained on.{note}",
    )


def _lead(contents: RunContents) -> str:
    """One sentence about the run."""
    config = contents.config
    if contents.stages is not None:
        return _lead_of_stages(config, len(contents.stages))
    steps = max([*contents.train_loss, *contents.held_out_loss], default=config.train.steps)
    target = "x0 and eps" if (out := config.diffusion.model_out_type) == "both" else out
    planned = config.train.steps
    done = f"{planned:,} steps" if steps >= planned else f"{steps:,} of {planned:,} steps"
    return (
        f"A {_network(config.model.network)} that turns noise into pictures like those of the data "
        f"set {config.data.dataset}: it predicts {target} under the "
        f"{config.diffusion.logsnr_schedule} log-SNR schedule and "
        f"was trained for {done} of {config.train.batch_size:,} pictures each."
    )


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


def _lead_of_stages(config: Config, begun: int) -> str:
    steps = [str(number) for number in stages_of(config)]
    return (
        f"A teacher of {config.distill.teacher_steps} steps of DDIM, distilled into students that "
        f"turn noise into pictures like those of the data set {config.data.dataset} in "
        f"{', '.join(steps)} {'step' if steps == ['1'] else 'steps'}: {begun} of {len(steps)} "
        "stages are begun."
    )


def _versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pillow"))
    return f"Made by vfn {__version__} with Python {platform.python_version()}, {packages}."


def _section(title: str, *parts: str) -> str:
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _picture(path: Path, alt: str, caption: str) -> str:
    """A picture file, if it is there."""
    if not path.is_file():
        return ""
    return _embedded(path.read_bytes(), path.suffix[1:], alt, caption, "tiles")


def _plot(plots: Mapping[str, bytes], contents: RunContents, name: str) -> str:
    """A plot, if it is drawn."""
    if name not in plots:
        return ""
    texts = _plot_texts(name, contents.held_out_loss)
    return _embedded(plots[name], "png", *texts, "plot")


def _embedded(content: bytes, kind: str, alt: str, caption: str, style: str) -> str:
    """A figure with the bytes of the picture in it."""
    return (
        f'<figure class="{style}"><img alt="{escape(alt)}" '
        f'src="data:image/{kind};base64,{b64encode(content).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _previews(files: RunFiles) -> str:
    """Previews at even distances from the first to the last."""
    paths = files.previews()
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), _PREVIEWS)).round().astype(int)
    figures = []
    for path in (paths[i] for i in chosen):
        step = path.stem.removeprefix("step-").lstrip("0") or "0"
        figures.append(_picture(path, f"Generated pictures after step {step}", f"Step {step}"))
    if not figures:
        return ""
    return (
        "<p>Every grid starts from the same noise, so one place shows one picture getting better."
        f'</p>\n<div class="previews">{"".join(figures)}</div>'
    )


def _stage_heads() -> dict[str, str]:
    """Heads of the table of stages by the keys of figures, in order."""
    arrows = {
        key: f"{kind.title} {_ARROWS.get(kind.better, '')}".rstrip()
        for key, kind in figure_kinds().items()
    }
    losses = {"updates": "Updates", "loss": "Loss", "held_out_loss": "Held out"}
    return {**losses, **arrows, "seconds": "Minutes"}


def _stage_table(stages: Sequence[Stage]) -> str:
    """A row for each student, with the figures that any of them has."""
    if not stages:
        return ""
    heads = {
        key: title
        for key, title in _stage_heads().items()
        if any(key in stage.figures for stage in stages)
    }
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in ["Steps", *heads.values()])
    rows = "\n".join(
        f'<tr><th scope="row">{stage.student_steps}</th>'
        + "".join(f"<td>{escape(_figure(key, stage.figures.get(key)))}</td>" for key in heads)
        + "</tr>"
        for stage in stages
    )
    return f"""<div class="wide"><table class="stages">
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _figure(key: str, value: float | None) -> str:
    """Seconds as minutes, others as they are.

    Returns:
        text of a cell.

    >>> _figure("seconds", 90.0), _figure("loss", 0.00123456), _figure("loss", None)
    ('1.5', '0.001235', '–')
    """
    return f"{value / 60:.1f}" if key == "seconds" and value is not None else _text(value)


def _stage_pictures(files: RunFiles, stages: Sequence[Stage]) -> str:
    """The teacher's grid, and the last one of each student."""
    figures = [_picture(files.teacher_grid, "Pictures that the teacher drew", "The teacher")]
    for steps in (stage.student_steps for stage in stages):
        title = "1 step" if steps == 1 else f"{steps} steps"
        for path in files.stage(steps).previews()[-1:]:
            figures.append(_picture(path, f"Pictures of the student of {title}", title))
    if not any(figures):
        return ""
    return (
        "<p>Every grid starts from the same noise, so one place shows what each student makes of "
        f'the teacher\'s picture.</p>\n<div class="previews">{"".join(figures)}</div>'
    )


def _evaluation(evaluation: Evaluation) -> str:
    settings = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_text(value))}</dd></div>"
        for name, value in evaluation.settings.items()
    )
    return f"<h3>{escape(evaluation.title)}</h3>\n<dl>{settings}</dl>\n{_table(evaluation.figures)}"


def _table(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    rows = "\n".join(map(_row, figures))
    return f"""<div class="wide"><table>
<thead><tr><th scope="col">Metric</th><th scope="col">Model</th><th scope="col">Reference</th>
<th scope="col">Better</th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _row(figure: Figure) -> str:
    note = f"<small>{escape(_note(figure))}</small>" if _note(figure) else ""
    arrow = f"{_ARROWS[figure.better]} " if figure.better in _ARROWS else ""
    return (
        f'<tr><th scope="row">{escape(figure.title)}{note}</th>'
        f"<td>{escape(_text(figure.value))}</td>"
        f"<td>{escape(_text(figure.reference))}</td>"
        f"<td>{arrow}{escape(_text(figure.better or None))}</td></tr>"
    )


def _note(figure: Figure) -> str:
    """How a figure was computed, why it says little if it does, and what its reference is of.

    Returns:
        what is known of it, in that order.

    >>> _note(Figure("fid", "FID", 4.0, 1.0, note="of means", baseline="two halves"))
    'of means; reference: two halves'
    """
    known = figure.baseline and figure.reference is not None
    reference = f"reference: {figure.baseline}" if known else ""
    return "; ".join(part for part in (figure.note, figure.warning, reference) if part)


def _text(value: Any) -> str:
    """A value as people read it.

    Returns:
        four digits of a number, a dash for None.

    >>> [_text(v) for v in (None, 0.0391834, 12345, True, [1, 2])]
    ['–', '0.03918', '12345', 'true', '1, 2']
    """
    if value is None:
        return _MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _commands(commands: Sequence[str]) -> str:
    return f"<pre><code>{escape(chr(10).join(commands))}</code></pre>" if commands else ""


def _details(title: str, text: str) -> str:
    return (
        f"<details><summary>{escape(title)}</summary>"
        f"<pre><code>{escape(text)}</code></pre></details>"
    )
