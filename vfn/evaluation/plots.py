"""Plots of figures against what they depend on: guidance, sampling steps, training."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.axes
import matplotlib.figure
import matplotlib.text

from vfn.evaluation.metrics import KINDS
from vfn.evaluation.record import Evaluation, is_number
from vfn.files import given_path, printable, shown, write_atomic
from vfn.lettering import families, one_line

# Settings that evaluations of a line share, unless it is drawn against one of them; its label.
AXES = {
    "guidance": "guidance",
    "sample_timesteps": "sampling steps",
    "step": "training step",
    "train_seconds": "training time / s",
    "guide_weight": "weight of the weaker network",
    "guide_step": "step of the weaker network",
    "sigma_rel": "length of the average, sigma_rel",
}
_TRAINING = {"step", "train_seconds"}  # one goes with the other
_COLUMNS = 4
# What a file would say of when and by what it was written, by its kind.
_PLAIN = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def lines_against(evaluations: Sequence[Evaluation], against: str) -> dict[str, list[Evaluation]]:
    """Evaluations that differ in one setting, in its order, by what tells the lines apart.

    Args:
        evaluations: those without the setting are left out.
        against: a setting that is a number.

    Returns:
        lines by their label.

    >>> some = [Evaluation(settings={"guidance": w, "step": 9}) for w in (1.0, 0.0)]
    >>> lines = lines_against(some, "guidance")
    >>> {label: [each.settings["guidance"] for each in line] for label, line in lines.items()}
    {'training step 9': [0.0, 1.0]}
    """
    apart = [n for n in AXES if n not in (_TRAINING if against in _TRAINING else {against})]
    lines: dict[str, list[Evaluation]] = {}
    for evaluation in sorted(
        (e for e in evaluations if is_number(e.settings.get(against))),
        key=lambda e: e.settings[against],
    ):
        named = [name for name in apart if is_number(evaluation.settings.get(name))]
        if "step" in named and "train_seconds" in named:
            named.remove("train_seconds")
        label = ", ".join(f"{AXES[name]} {evaluation.settings[name]:g}" for name in named)
        lines.setdefault(label, []).append(evaluation)
    return lines


def draw_figures(evaluations: Sequence[Evaluation], against: str, kind: str) -> bytes:
    """One panel a figure, in each a curve for every line of `lines_against`.

    Args:
        evaluations: at least one with the setting and a figure.
        against: a setting that is a number.
        kind: png, svg or pdf.

    Returns:
        the picture file.

    >>> from vfn.evaluation.sides import Figure
    >>> some = [Evaluation([Figure("fid", "FID", 4 - w)], {"guidance": w}) for w in (0.0, 1.0)]
    >>> draw_figures(some, "guidance", "png")[1:4]
    b'PNG'
    """
    lines = lines_against(evaluations, against)
    titles = list(
        dict.fromkeys(f.title for line in lines.values() for e in line for f in e.figures)
    )
    units = {
        f.title: f" / {KINDS[f.key].unit}" if f.key in KINDS and KINDS[f.key].unit else ""
        for line in lines.values()
        for e in line
        for f in e.figures
    }
    rows = -(-len(titles) // _COLUMNS)
    columns = -(-len(titles) // rows)
    page = matplotlib.figure.Figure(
        figsize=(3.2 * columns, 2.8 * rows), dpi=130, layout="constrained"
    )
    panels = list(page.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(titles) :]:
        axes.remove()
    for axes, title in zip(panels, titles, strict=False):
        values = []
        for label, line in lines.items():
            drawn = [(e.settings[against], f.value * _scale(f.key)) for e in line for f in e.figures
                     if f.title == title and is_number(f.value)]  # fmt: skip
            if drawn:
                axes.plot(*zip(*drawn, strict=True), marker="o", ms=4, label=label, clip_on=False)
                values += [value for _, value in drawn]
        if values:
            _fit(axes, values, most=100.0 if units[title] == " / %" else math.inf)
        named = plain_text(f"{title}{units[title]}")
        axes.set(xlabel=AXES.get(against, plain_text(against)), title=named)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", lw=0.6)
    if len(lines) > 1:
        handles = {h.get_label(): h for axes in page.axes for h in axes.lines}
        page.legend(
            handles=list(handles.values()), loc="outside lower center", ncols=2, frameon=False
        )
    return saved(page, kind)


def saved(page: matplotlib.figure.Figure, kind: str = "png") -> bytes:
    """A finished chart as a file, all letters in fonts that have them.

    Args:
        page: the chart.
        kind: png, svg or pdf.

    Returns:
        the picture file; equal charts give equal bytes.
    """
    texts = page.findobj(matplotlib.text.Text)
    fonts = families(text.get_text() for text in texts)
    for text in texts:
        text.set_fontfamily(fonts)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # which `families` has told
        page.savefig(buffer, format=kind, metadata=_PLAIN[kind])
    return buffer.getvalue()


def _fit(axes: matplotlib.axes.Axes, values: Sequence[float], most: float) -> None:
    """No numbers on the axis that the figure cannot have, where it has none below 0."""
    low, high = min(values), max(values)
    if low < 0:
        return
    if low == high:
        axes.set_ylim(0, min(2 * high or 1, most))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, 0), min(top, max(high, most)))


def plain_text(text: str) -> str:
    r"""A text of somebody's as it is drawn: nothing in it is a formula.

    Args:
        text: any text.

    Returns:
        text for matplotlib.

    >>> print(plain_text("a $ b"))
    a \$ b
    """
    return printable(one_line(text)).replace("$", "\\$")


def _scale(key: str) -> float:
    """What a figure is multiplied by, to be in its unit."""
    return 100.0 if key in KINDS and KINDS[key].unit == "%" else 1.0


def write_plot(
    path: str | Path, evaluations: Sequence[Evaluation], against: str = "guidance"
) -> None:
    """Write `draw_figures` to a file.

    Args:
        path: ends in .png, .svg or .pdf.
        evaluations: at least one with the setting and a figure.
        against: a setting that is a number.

    Raises:
        ValueError: for another ending, or if no evaluation has a figure and the setting.
        OSError: if it cannot be written.

    >>> from vfn.evaluation.sides import Figure
    >>> some = [Evaluation([Figure("fid", "FID", 4 - w)], {"guidance": w}) for w in (0.0, 1.0)]
    >>> write_plot("fid.png", some)
    >>> write_plot("fid.png", some, against="colour")
    Traceback (most recent call last):
    ValueError: expected evaluations with figures and a number 'colour', got none
    """
    path = given_path(path)
    kind = path.suffix.removeprefix(".")
    if kind not in _PLAIN:
        raise ValueError(f"expected --plot to end in .png, .svg or .pdf, got {path}")
    lines = lines_against(evaluations, against)
    if not any(evaluation.figures for line in lines.values() for evaluation in line):
        raise ValueError(
            f"expected evaluations with figures and a number {shown(against)}, got none"
        )
    write_atomic(path, draw_figures(evaluations, against, kind))
