"""The page about a run: pictures, numbers and how to get them again, in one HTML file."""

import json
import platform
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from vfn import __version__
from vfn.configs import Config, loads
from vfn.evaluation.plots import AXES, Point, draw_figures, is_number, lines_against
from vfn.files import write_atomic
from vfn.runs.log import read_log
from vfn.train.distill import halvings

_PREVIEWS = 12  # a page that is mailed cannot hold the previews of a long run
_SMOOTHING = 20  # the smoothed training loss averages over this part (1/20) of the curve
_NUMBER = (int, float)
_MISSING = "–"
# Of evaluations on the way, and how they are shown.
_FIGURES = {
    "frechet_distance": "Fréchet distance",
    "precision": "Precision",
    "recall": "Recall",
}
_RAW, _SMOOTH, _HELD_OUT = "#a9c7e8", "#1c65b3", "#d9480f"

Curve = dict[int, float]


class _Evaluation(NamedTuple):
    """What a metrics file says."""

    title: str
    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    bins: list[dict[str, Any]]
    command: str | None


def write_report(run: Path) -> Path:
    """Write ``report.html`` about a run, and its plots under ``plots/``.

    The page holds its pictures, so it can be moved and mailed. What the run does not have yet is
    left out.

    Args:
        run: a run directory, that is one with a ``config.toml``.

    Returns:
        path of the page.

    Raises:
        ValueError: if it is no run directory, or a file in it is malformed; the file is named.
    """
    config_file = run / "config.toml"
    if not config_file.is_file():
        raise ValueError(
            f"expected a run directory with a config.toml, got {run}; "
            "give the directory that a training wrote"
        )
    config_text = config_file.read_text(encoding="utf-8")
    config = loads(config_text, str(config_file))
    train, held_out = _read_curves(run / "log.jsonl")
    stages = _read_stages(run / "stages.json")
    on_the_way = _read_figures(run / "log.jsonl")
    evaluations = [_read_evaluation(path) for path in sorted(run.glob("metrics*.json"))]
    judged = [Point(e.settings, {m["name"]: m["value"] for m in e.metrics}) for e in evaluations]
    page = _page(
        run.resolve().name,
        config.data.dataset,
        _summary_of_stages(config, len(stages))
        if stages is not None
        else _summary(config, max([*train, *held_out], default=config.train.steps)),
        [
            _section("Samples", _picture(run / "sample" / "grid.png", *_GRID)),
            _section("From noise to picture", _picture(run / "sample" / "denoising.webp", *_MOVIE)),
            _section("Guidance", _picture(run / "sweep" / "sweep.png", *_SWEEP)),
            _section("Stages", _stage_table(stages or []), _stage_pictures(run, stages or [])),
            _section(
                "Evaluation",
                *map(_evaluation, evaluations),
                *(_plot_against(run, judged, axis) for axis in ("guidance", "sample_timesteps")),
            ),
            _section(
                "Training",
                _plot_losses(run, train, held_out),
                *(_plot_against(run, on_the_way, axis) for axis in ("step", "train_seconds")),
                _plot_bins(run, evaluations),
            ),
            _section("Samples during training", _previews(run)),
            _section("How to reproduce", _commands(_read_commands(run, evaluations))),
            _section("Configuration", _details("config.toml", config_text)),
        ],
    )
    path = run / "report.html"
    write_atomic(path, page)
    return path


# Reading


def _read_curves(path: Path) -> tuple[Curve, Curve]:
    """Training and held-out loss by step."""
    train: Curve = {}
    held_out: Curve = {}
    for number, entry in enumerate(read_log(path), 1):
        for curve, key in ((train, "loss"), (held_out, "held_out_loss")):
            _check_entry(entry, key, f"{path} line {number}")
            if key in entry:
                curve[entry["step"]] = entry[key]
    return train, held_out


def _read_figures(path: Path) -> list[Point]:
    """Evaluations on the way, with the training time of the last entry that has one."""
    points, seconds = [], None
    for entry in read_log(path):
        seconds = entry.get("seconds", seconds)
        figures = {title: entry[n] for n, title in _FIGURES.items() if is_number(entry.get(n))}
        if figures:
            points.append(Point({"step": entry["step"], "train_seconds": seconds}, figures))
    return points


def _check_entry(entry: Any, key: str, place: str) -> None:
    whole = isinstance(entry, dict) and isinstance(entry.get("step"), int)
    if not whole or not isinstance(entry.get(key, 0.0), _NUMBER):
        raise ValueError(
            f'{place}: expected an object with a whole "step" and a numeric "{key}" if any, '
            f"got {entry!r}; mend or remove the line"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _read_evaluation(path: Path) -> _Evaluation:
    value = _read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("settings", {}), dict):
        raise ValueError(
            f'{path}: expected an object with an object "settings", got {value!r}; '
            "evaluate the run again"
        )
    return _Evaluation(
        title=str(value.get("title", path.stem)),
        settings=value.get("settings", {}),
        metrics=_read_rows(path, value, "metrics", text=("name",), numbers=("value",)),
        bins=_read_rows(path, value, "loss_by_logsnr", numbers=("low", "high", "loss")),
        command=value.get("command"),
    )


def _read_rows(
    path: Path,
    value: dict[str, Any],
    key: str,
    text: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """A list of objects that have the named fields."""
    rows = value.get(key, [])
    types = dict.fromkeys(text, str) | dict.fromkeys(numbers, _NUMBER)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(row.get(n), t) for n, t in types.items())
        for row in rows
    ):
        raise ValueError(
            f'{path}: expected "{key}" to be a list of objects with {", ".join(types)}, '
            f"got {rows!r}; evaluate the run again"
        )
    return rows


def _read_commands(run: Path, evaluations: Sequence[_Evaluation]) -> list[str]:
    """The commands of ``commands.json``, else those of the evaluations."""
    path = run / "commands.json"
    if not path.is_file():
        return list(dict.fromkeys(e.command for e in evaluations if e.command))
    commands = _read_json(path)
    if not isinstance(commands, list) or not all(isinstance(c, str) for c in commands):
        raise ValueError(f"{path}: expected a list of commands, got {commands!r}; remove the file")
    return commands


def _read_stages(path: Path) -> list[dict[str, Any]] | None:
    """What the stages of a distillation came to; None in other runs."""
    if not path.is_file():
        return None
    rows = _read_json(path)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict)
        and isinstance(row.get("student_steps"), int)
        and all(isinstance(value, _NUMBER) for value in row.values())
        for row in rows
    ):
        raise ValueError(
            f'{path}: expected a list of objects of numbers with a whole "student_steps", '
            f"got {rows!r}; vfn distill --resume writes it again"
        )
    return rows


# Plots


def _plot_losses(run: Path, train: Curve, held_out: Curve) -> str:
    """Draw ``plots/losses.png`` and return the figure that shows it."""
    if not train and not held_out:
        return ""

    def draw(axes: Axes) -> None:
        values = np.array([train[step] for step in sorted(train)])
        if train:
            axes.plot(sorted(train), values, color=_RAW, lw=0.7, label="training")
            axes.plot(sorted(train), _smooth(values), color=_SMOOTH, label="training, smoothed")
        if held_out:
            held = [held_out[step] for step in sorted(held_out)]
            axes.plot(sorted(held_out), held, "o-", color=_HELD_OUT, ms=4, label="held out")
        axes.set(xlabel="step", ylabel="loss")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(frameon=False)

    path = run / "plots" / "losses.png"
    _save_plot(path, draw)
    last = max(held_out, default=None)
    note = "" if last is None else f" The held-out loss is {held_out[last]:.4g} at step {last:,}."
    return _picture(
        path,
        "Curves of training loss and held-out loss over steps",
        f"Loss on the batches of the training and on pictures never trained on.{note}",
        "plot",
    )


def _plot_bins(run: Path, evaluations: Sequence[_Evaluation]) -> str:
    """Draw ``plots/loss_by_logsnr.png`` and return the figure that shows it.

    Guidance does not enter the loss: evaluations that differ only in it share a line.
    """
    lines = {json.dumps(e.bins): e for e in reversed(evaluations) if e.bins}
    if not lines:
        return ""

    def draw(axes: Axes) -> None:
        for evaluation in reversed(lines.values()):
            centres = [(b["low"] + b["high"]) / 2 for b in evaluation.bins]
            losses = [b["loss"] for b in evaluation.bins]
            axes.plot(centres, losses, "o-", ms=4, label=evaluation.title)
        axes.set(xlabel="log-SNR (left: noise, right: clean picture)", ylabel="held-out loss")
        if len(lines) > 1:
            axes.legend(frameon=False)

    path = run / "plots" / "loss_by_logsnr.png"
    _save_plot(path, draw)
    return _picture(
        path,
        "Curve of the held-out loss over log signal-to-noise ratio",
        "Where the loss comes from: held-out loss by noise level.",
        "plot",
    )


def _plot_against(run: Path, points: Sequence[Point], against: str) -> str:
    """Draw ``plots/AGAINST.png`` if evaluations differ in that setting; the figure of it."""
    lines = lines_against(points, against).values()
    if not any(len({point.settings[against] for point in line}) > 1 for line in lines):
        return ""
    path = run / "plots" / f"{against}.png"
    write_atomic(path, draw_figures(points, against, "png"))
    text = f"Metrics against {AXES[against].partition(' /')[0]}"
    return _picture(path, text, f"{text}.", "plot")


def _save_plot(path: Path, draw: Callable[[Axes], None]) -> None:
    """A figure of its own for one plot; the loss axis is logarithmic where it can be."""
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    if not any(np.any(np.asarray(line.get_ydata()) <= 0) for line in axes.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", lw=0.6)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average, over fewer values near the ends."""
    kernel = np.ones(2 * (len(values) // (2 * _SMOOTHING)) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


# HTML: every function returns markup, and an empty string when there is nothing to show.

_GRID = (
    "Grid of generated pictures",
    "Pictures that the model drew from pure noise, none of them chosen by hand.",
)
_MOVIE = (
    "Animation of noise turning into pictures",
    "The sampler at work: each frame is a step from noise towards a picture.",
)
_SWEEP = (
    "Grids of generated pictures for several guidance weights",
    "The same noise under growing guidance weight w: from variety towards typical pictures.",
)

_STAGE_HEADS = {
    "student_steps": "Steps",
    "updates": "Updates",
    "loss": "Loss",
    "held_out_loss": "Held out",
    "frechet_distance": "Fréchet distance ↓",
    "precision": "Precision ↑",
    "recall": "Recall ↑",
    "seconds": "Minutes",
}


def _page(name: str, dataset: str, lead: str, sections: Sequence[str]) -> str:
    title = f"A diffusion model of {escape(dataset)}"
    content = "\n".join(section for section in sections if section)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title} · {escape(name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<p class="run">Run {escape(name)}</p>
<h1>{title}</h1>
<p class="lead">{escape(lead)}</p>
</header>
<main>
{content}
</main>
<footer>{escape(_versions())}</footer>
</body>
</html>
"""


def _summary(config: Config, steps: int) -> str:
    """One sentence; ``steps`` are those done so far."""
    target = "x0 and eps" if (out := config.diffusion.model_out_type) == "both" else out
    planned = config.train.steps
    done = f"{planned:,} steps" if steps >= planned else f"{steps:,} of {planned:,} steps"
    return (
        f"A UNet that turns noise into pictures like those of the data set {config.data.dataset}: "
        f"it predicts {target} under the {config.diffusion.logsnr_schedule} log-SNR schedule and "
        f"was trained for {done} of {config.train.batch_size:,} pictures each."
    )


def _summary_of_stages(config: Config, begun: int) -> str:
    steps = [str(number) for number in halvings(config.distill)]
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


def _picture(path: Path, alt: str, caption: str, kind: str = "tiles") -> str:
    """A figure with the file's bytes in it."""
    if not path.is_file():
        return ""
    data = b64encode(path.read_bytes()).decode()
    return (
        f'<figure class="{kind}"><img alt="{escape(alt)}" '
        f'src="data:image/{path.suffix[1:]};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _previews(run: Path) -> str:
    """Previews at even distances from the first to the last."""
    paths = sorted((run / "samples").glob("step-*.png"))
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


def _stage_table(stages: Sequence[dict[str, Any]]) -> str:
    """A row for each student, with the figures that any of them has."""
    names = [name for name in _STAGE_HEADS if any(name in row for row in stages)]
    if not names:
        return ""
    head = "".join(f'<th scope="col">{_STAGE_HEADS[name]}</th>' for name in names)
    rows = "\n".join(
        f'<tr><th scope="row">{row["student_steps"]}</th>'
        + "".join(f"<td>{escape(_figure(name, row.get(name)))}</td>" for name in names[1:])
        + "</tr>"
        for row in stages
    )
    return f"""<div class="wide"><table class="stages">
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _figure(name: str, value: Any) -> str:
    """Seconds as minutes, others as they are.

    >>> _figure("seconds", 90.0), _figure("loss", 0.00123456), _figure("loss", None)
    ('1.5', '0.001235', '–')
    """
    return f"{value / 60:.1f}" if name == "seconds" and value is not None else _text(value)


def _stage_pictures(run: Path, stages: Sequence[dict[str, Any]]) -> str:
    """The teacher's grid, and the last one of each student."""
    figures = [_picture(run / "teacher.png", "Pictures that the teacher drew", "The teacher")]
    for steps in (row["student_steps"] for row in stages):
        title = "1 step" if steps == 1 else f"{steps} steps"
        for path in sorted((run / f"steps-{steps}" / "samples").glob("step-*.png"))[-1:]:
            figures.append(_picture(path, f"Pictures of the student of {title}", title))
    if not any(figures):
        return ""
    return (
        "<p>Every grid starts from the same noise, so one place shows what each student makes of "
        f'the teacher\'s picture.</p>\n<div class="previews">{"".join(figures)}</div>'
    )


def _evaluation(evaluation: _Evaluation) -> str:
    settings = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(_text(value))}</dd></div>"
        for name, value in evaluation.settings.items()
    )
    return f"<h3>{escape(evaluation.title)}</h3>\n<dl>{settings}</dl>\n{_table(evaluation.metrics)}"


def _table(metrics: Sequence[dict[str, Any]]) -> str:
    if not metrics:
        return ""
    rows = "\n".join(map(_metric, metrics))
    return f"""<div class="wide"><table>
<thead><tr><th scope="col">Metric</th><th scope="col">Model</th><th scope="col">Reference</th>
<th scope="col">Better</th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _metric(row: dict[str, Any]) -> str:
    note = f"<small>{escape(str(row['note']))}</small>" if row.get("note") else ""
    arrow = {"lower": "↓ ", "higher": "↑ "}.get(row.get("better", ""), "")
    return (
        f'<tr><th scope="row">{escape(row["name"])}{note}</th>'
        f"<td>{escape(_text(row['value']))}</td>"
        f"<td>{escape(_text(row.get('reference')))}</td>"
        f"<td>{arrow}{escape(_text(row.get('better')))}</td></tr>"
    )


def _text(value: Any) -> str:
    """A value as people read it.

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


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f4f4f4; --text: #1d2126; --soft: #5b6470; --line: #d9dde2;
  --accent: #1c65b3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15181c; --card: #1f242a; --text: #e6e8ea; --soft: #9aa4af; --line: #333a42;
    --accent: #7db4ee;
  }
  .plot img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
  .tiles img { filter: brightness(0.88); }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem; max-width: 58rem;
  background: var(--page); color: var(--text);
  font: 1rem/1.6 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1, h2, h3 { line-height: 1.25; text-wrap: balance; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: clamp(1.8rem, 6vw, 2.6rem); letter-spacing: -0.02em; }
h2 { margin: 0 0 1rem; font-size: 1.35rem; }
h3 { margin: 1.75rem 0 0.5rem; font-size: 1.05rem; }
.run { margin: 0 0 0.25rem; color: var(--accent); font-weight: 600; overflow-wrap: anywhere; }
.lead { margin: 0.75rem 0 0; max-width: 42rem; font-size: 1.1rem; color: var(--soft); }
section { margin-top: 2.5rem; padding-top: 1.75rem; border-top: 1px solid var(--line); }
figure { margin: 0 0 1.5rem; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
.plot img { width: 100%; }
figcaption, section > p { margin: 0.6rem 0 0; color: var(--soft); font-size: 0.95rem; }
section > p { margin: 0 0 1rem; }
.previews {
  display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr));
}
.previews figure { margin: 0; }
.previews img { width: 100%; }
dl { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 0 0 0.9rem; font-size: 0.85rem; }
dl div {
  display: flex; gap: 0.45rem; padding: 0.1rem 0.6rem; border-radius: 1rem;
  background: var(--card);
}
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.55rem 0.75rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-size: 0.85rem; }
th { text-align: left; font-weight: 600; }
td, thead th:not(:first-child) { text-align: right; white-space: nowrap; }
tbody th { font-weight: 500; }
.stages { margin-bottom: 1.5rem; }
small { display: block; color: var(--soft); font-weight: 400; }
@media (max-width: 36rem) {
  tr { display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line); }
  tbody tr:last-child { border-bottom: 0; }
  th, td { padding: 0.4rem 0; border-bottom: 0; }
  th:first-child { grid-column: 1 / -1; padding-bottom: 0; }
  td:nth-child(2), thead th:nth-child(2) { text-align: left; }
  .stages tr { display: table-row; }
  .stages th, .stages td { padding: 0.4rem 0.75rem; text-align: right; }
}
pre {
  margin: 0; padding: 1rem; overflow-x: auto; border-radius: 6px; background: var(--card);
  font: 0.88rem/1.55 ui-monospace, "Cascadia Code", Menlo, Consolas, monospace;
}
summary { cursor: pointer; color: var(--accent); }
details pre { margin-top: 0.75rem; }
footer {
  margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: 0.85rem;
}
"""
