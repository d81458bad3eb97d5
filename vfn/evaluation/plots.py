"""Plots of figures against what they depend on: guidance, sampling steps, training."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

# Settings that evaluations of a line share, unless it is drawn against one of them; its label.
AXES = {
    "guidance": "guidance",
    "sample_timesteps": "sampling steps",
    "step": "training step",
    "train_seconds": "training time / s",
}
_TRAINING = {"step", "train_seconds"}  # one goes with the other
_COLUMNS = 4


class Point(NamedTuple):
    """An evaluation: its settings, and its figures by name."""

    settings: dict[str, Any]
    figures: dict[str, float]


def lines_against(points: Sequence[Point], against: str) -> dict[str, list[Point]]:
    """Evaluations that differ in one setting, in its order, by what tells the lines apart.

    Args:
        points: evaluations; those without the setting are left out.
        against: a setting that is a number.

    Returns:
        lines by their label.

    >>> points = [Point({"guidance": w, "step": 9}, {"FID": 4.0 - w}) for w in (1.0, 0.0)]
    >>> lines = lines_against(points, "guidance")
    >>> {label: [point.figures["FID"] for point in line] for label, line in lines.items()}
    {'training step 9': [4.0, 3.0]}
    """
    apart = [n for n in AXES if n not in (_TRAINING if against in _TRAINING else {against})]
    lines: dict[str, list[Point]] = {}
    for point in sorted(
        (p for p in points if is_number(p.settings.get(against))),
        key=lambda p: p.settings[against],
    ):
        named = [name for name in apart if is_number(point.settings.get(name))]
        if "step" in named and "train_seconds" in named:
            named.remove("train_seconds")
        label = ", ".join(f"{AXES[name]} {point.settings[name]:g}" for name in named)
        lines.setdefault(label, []).append(point)
    return lines


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def draw_figures(points: Sequence[Point], against: str, kind: str) -> bytes:
    """One panel a figure, in each a curve for every line of `lines_against`.

    Args:
        points: evaluations, at least one with the setting.
        against: see `lines_against`.
        kind: png, svg or pdf.

    Returns:
        the picture file.
    """
    lines = lines_against(points, against)
    names = list(dict.fromkeys(name for line in lines.values() for p in line for name in p.figures))
    rows = -(-len(names) // _COLUMNS)
    columns = -(-len(names) // rows)
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(names) :]:
        axes.remove()
    for axes, name in zip(panels, names, strict=False):
        for label, line in lines.items():
            drawn = [(p.settings[against], p.figures[name]) for p in line if name in p.figures]
            if drawn:
                axes.plot(*zip(*drawn, strict=True), marker="o", ms=4, label=label)
        axes.set(xlabel=AXES.get(against, against), title=name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6", lw=0.6)
    if len(lines) > 1:
        handles = {h.get_label(): h for axes in figure.axes for h in axes.lines}
        figure.legend(
            handles=list(handles.values()), loc="outside lower center", ncols=2, frameon=False
        )
    buffer = io.BytesIO()
    plain = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(buffer, format=kind, dpi=130, metadata=plain[kind])
    return buffer.getvalue()
