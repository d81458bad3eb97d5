"""Runs side by side on one page: settings that differ, figures, curves and pictures."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path

from vfn.configs.settings import flat_values
from vfn.files import check_place, file_name, given_path, told_apart, write_atomic
from vfn.report.drawings import draw_levels, draw_losses_beside, loss_by_logsnr
from vfn.report.evaluated import evaluated, in_order, titles_of_runs
from vfn.report.frame import document
from vfn.report.heard import curves_table, in_words, levels_in_words, levels_table
from vfn.report.markup import Section, chart, details, for_others, paragraph, section, table
from vfn.report.page import (
    commands,
    commands_title,
    configuration,
    preview,
    sample_grids,
    versions,
)
from vfn.report.read import RunContents, read_run
from vfn.runs import run_path

MOST = 4  # runs that a screen has room for
_PREVIEWS = 6
_LOSSES = "Smoothed training loss, and held-out loss as points, of each run"
_LEVELS = "Held-out loss of each run by log signal-to-noise ratio"
# Where data are differs between machines and says nothing of a run.
_PLACES = {"data_dir", "dataset"}


def compare(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one page that shows some runs side by side.

    What `vfn.report.report` finds of each is found here too: settings in which they differ, figures
    of all evaluations in one table, curves in one plot, samples and previews beside each other.

    Args:
        runs: 2 to 4 run directories; the order is that of the columns.
        out: the page; ``compare-B.html`` in the first run's directory if None.

    Returns:
        path of the page.

    Raises:
        ValueError: for fewer or more runs, the same one twice, or what `vfn.report.report` refuses.
        OSError: if the page cannot be written; it is then as it was.

    >>> compare(["runs/a"])
    Traceback (most recent call last):
    ValueError: expected 2 to 4 runs to compare, got 1
    """
    runs = [runs] if isinstance(runs, str | Path) else runs
    if not 2 <= len(runs) <= MOST:
        raise ValueError(f"expected 2 to {MOST} runs to compare, got {len(runs)}")
    paths = [run_path(run) for run in runs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"expected different runs to compare, got {' '.join(map(str, paths))}")
    others = "-".join(path.resolve().name for path in paths[1:])
    name = f"{file_name(f'compare-{others}')}.html"
    page = given_path(out) if out is not None else paths[0] / name
    check_place(page)
    contents = dict(zip(run_names(paths), map(read_run, paths), strict=True))
    write_atomic(page, _page(contents))
    return page


def run_names(paths: Sequence[Path]) -> list[str]:
    """What runs are called beside each other: the last parts of their paths that tell them apart.

    Args:
        paths: different ones.

    Returns:
        a name for each.

    >>> run_names([Path("/a/small/first"), Path("/a/large/first"), Path("/a/large/second")])
    ['small/first', 'large/first', 'large/second']
    """
    whole = [path.resolve() for path in paths]
    for parts in range(1, max(len(path.parts) for path in whole)):
        names = ["/".join(path.parts[1:][-parts:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


def _page(contents: Mapping[str, RunContents]) -> str:
    names = list(contents)
    title = f"{', '.join(names[:-1])} and {names[-1]}"
    count = {2: "Two", 3: "Three", 4: "Four"}[len(names)]
    header = f"""<p class="run">{count} runs side by side</p>
<h1>{escape(title)}</h1>"""
    return document(f"{title} · side by side", header, _sections(contents), versions(), "beside")


def _sections(contents: Mapping[str, RunContents]) -> list[Section]:
    steps = _common_steps(list(contents.values()))
    return [
        section("Settings that differ", _differing(contents)),
        section("Evaluation", _evaluations(contents)),
        section("Training", *_curves(contents)),
        section("Samples", _beside(contents, lambda each: "".join(sample_grids(each)))),
        section(
            "Samples during training",
            *(_beside(contents, partial(preview, step=step)) for step in steps),
        ),
        section(
            commands_title(list(contents.values())),
            _beside(contents, lambda each: commands(each.commands)),
        ),
        section(
            "Configuration",
            *(details(name, configuration(each.config_text)) for name, each in contents.items()),
        ),
    ]


def _beside(contents: Mapping[str, RunContents], show: Callable[[RunContents], str]) -> str:
    """Something of each run, each in a column under its name; nothing where none has it."""
    shown = {name: show(each) for name, each in contents.items()}
    if not any(shown.values()):
        return ""
    columns = "".join(
        f"<div><h3>{escape(name)}</h3>\n{content or paragraph('Nothing here yet.')}</div>"
        for name, content in shown.items()
    )
    return f'<div class="side">{columns}</div>'


def _differing(contents: Mapping[str, RunContents]) -> str:
    """A row for each setting that is not the same in all runs."""
    values = [flat_values(each.config) for each in contents.values()]
    differ = {
        name: [each[name] for each in values]
        for name in values[0]
        if name not in _PLACES and any(each[name] != values[0][name] for each in values)
    }
    rows = [
        [name, *told_apart([*map(for_others, found)], [*map(repr, found)])]
        for name, found in differ.items()
    ]
    data = [each.config.data.dataset for each in contents.values()]
    if len({*data}) > 1:
        rows.insert(0, ["dataset", *told_apart([Path(name).name for name in data], data)])
    rows = [[*map(escape, row)] for row in rows]
    if not rows:
        return paragraph("All settings are the same.")
    return table(["Setting", *map(escape, contents)], rows, "settings", "Settings that differ")


def _evaluations(contents: Mapping[str, RunContents]) -> str:
    """One table of all evaluations, those at the same settings beside each other."""
    runs = {id(e): name for name, each in contents.items() for e in each.evaluations}
    own = [found for each in contents.values() for found in in_order(each.evaluations)]
    found = in_order(own, ("guidance", "sample_timesteps"))
    return evaluated(found, titles_of_runs(found, [runs[id(each)] for each in found]))


def _curves(contents: Mapping[str, RunContents]) -> list[str]:
    """Both charts, with the same in words and tables."""
    curves = {n: (c.train_loss, c.held_out_loss) for n, c in contents.items()}
    each = {
        f"{name}, {what}": curve
        for name, pair in curves.items()
        for what, curve in zip(("training", "held out"), pair, strict=True)
        if curve
    }
    found = {name: loss_by_logsnr(in_order(c.evaluations)) for name, c in contents.items()}
    levels = {name: next(iter(lines.values())) for name, lines in found.items() if lines}
    parts = []
    if (plot := draw_losses_beside(curves)) is not None:
        parts += [_plot(plot, _LOSSES, in_words(each)), curves_table(each, "Losses by step")]
    if (plot := draw_levels(levels)) is not None:
        without = [name for name in contents if name not in levels]
        parts += [_plot(plot, _LEVELS, levels_in_words(levels)), levels_table(levels)]
        parts += [paragraph(f"Nothing is known of {', '.join(without)}.")] if without else []
    return parts


def _plot(content: bytes, text: str, told: str) -> str:
    return chart(content, f"{text}: {told}", f"{text}.")


def _common_steps(contents: Sequence[RunContents]) -> list[int]:
    """Steps of which every run has a preview, some at even distances with the last."""
    each = [{_step(path) for path in found.files.previews()} for found in contents]
    steps = sorted(set.intersection(*each))
    stride = -(-len(steps) // _PREVIEWS) or 1
    return steps[::-1][::stride][::-1]


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
