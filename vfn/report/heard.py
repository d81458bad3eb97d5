"""What charts show, in words and in tables, for those who cannot see them."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from vfn.evaluation import AXES, Evaluation, lines_against
from vfn.report.drawings import Rows
from vfn.report.evaluated import figure_text
from vfn.report.markup import MISSING, details, plain, table
from vfn.report.read import Curve

_ROWS = 24  # about as many steps of a curve


def in_words(curves: Mapping[str, Curve]) -> str:
    """First, last and least value of each curve.

    Args:
        curves: by what they are; those without values are left out.

    Returns:
        text.

    >>> in_words({"loss": {20: 0.5, 40: 0.2, 60: 0.3}, "held-out loss": {}})
    'loss from 0.5 at step 20 to 0.3 at step 60, least 0.2 at step 40'
    """
    return "; ".join(
        f"{what} from {_at(curve, min(curve))} to {_at(curve, max(curve))}, "
        f"least {_at(curve, min(curve, key=lambda step: (curve[step], step)))}"
        for what, curve in curves.items()
        if curve
    )


def _at(curve: Curve, step: int) -> str:
    return f"{plain(curve[step])} at step {step:,}"


def curves_table(curves: Mapping[str, Curve], label: str) -> str:
    """Some steps of curves, the first and the last one among them, folded away.

    Args:
        curves: by the heads of their columns.
        label: what the table is of.

    Returns:
        markup.
    """
    steps = sorted({step for curve in curves.values() for step in _some([*curve])})
    rows = [[f"{step:,}", *(plain(curve.get(step)) for curve in curves.values())] for step in steps]
    return details(label, table(["Step", *map(escape, curves)], rows, "values", label))


def _some(steps: Sequence[int]) -> list[int]:
    """Some steps at even distances."""
    ordered = sorted(steps)
    places = np.linspace(0, len(ordered) - 1, min(len(ordered), _ROWS)).round().astype(int)
    return [ordered[place] for place in places]


def levels_in_words(lines: Mapping[str, Rows]) -> str:
    """First, last and least loss by log-SNR of each line.

    Args:
        lines: bins by the names of the lines.

    Returns:
        text.

    >>> rows = [{"low": k, "high": k + 1, "loss": loss} for k, loss in enumerate((0.5, 0.1, 0.2))]
    >>> levels_in_words({"a": rows})
    'a from 0.5 at 0 .. 1 to 0.2 at 2 .. 3, least 0.1 at 1 .. 2'
    """

    def at(row: Mapping[str, float]) -> str:
        return f"{plain(row['loss'])} at {_span(row['low'], row['high'])}"

    return "; ".join(
        f"{name} from {at(rows[0])} to {at(rows[-1])}, "
        f"least {at(min(rows, key=lambda row: row['loss']))}"
        for name, rows in lines.items()
    )


def _span(low: float, high: float) -> str:
    return f"{plain(low)} .. {plain(high)}"


def levels_table(lines: Mapping[str, Rows]) -> str:
    """Losses by log-SNR, folded away.

    Args:
        lines: bins by the names of the lines.

    Returns:
        markup.
    """
    label = "Held-out loss by log-SNR"
    bins = sorted({(row["low"], row["high"]) for rows in lines.values() for row in rows})
    found = {name: {(r["low"], r["high"]): r["loss"] for r in rows} for name, rows in lines.items()}
    rows = [
        [
            _span(low, high),
            *(plain(each.get((low, high))) for each in found.values()),
        ]
        for low, high in bins
    ]
    return details(label, table(["log-SNR", *map(escape, lines)], rows, "values", label))


def on_the_way_table(evaluations: Sequence[Evaluation]) -> str:
    """Figures of evaluations during the training, folded away.

    Args:
        evaluations: in order.

    Returns:
        markup.
    """
    label = "Figures during the training"
    figures = [{f.title: figure_text(f.key, f.value) for f in e.figures} for e in evaluations]
    titles = dict.fromkeys(title for each in figures for title in each)
    rows = [
        [
            f"{evaluation.settings['step']:,}",
            plain(evaluation.settings.get("train_seconds")),
            *(escape(each.get(title, MISSING)) for title in titles),
        ]
        for evaluation, each in zip(evaluations, figures, strict=True)
    ]
    heads = ["Step", AXES["train_seconds"].capitalize(), *map(escape, titles)]
    return details(label, table(heads, rows, "values", label))


def figures_in_words(evaluations: Sequence[Evaluation], against: str) -> str:
    """Each figure at the ends of a setting.

    Args:
        evaluations: those without the setting are left out.
        against: a setting that is a number.

    Returns:
        text.

    >>> from vfn.evaluation import Figure
    >>> some = [Evaluation([Figure("recall", "Recall", w)], {"guidance": w}) for w in (0.5, 0.25)]
    >>> figures_in_words(some, "guidance")
    'Recall 0.25 at 0.25, 0.5 at 0.5'
    """
    parts = []
    for label, line in lines_against(evaluations, against).items():
        ends: dict[str, list[str]] = {}
        for each in (line[0], line[-1]):
            for figure in each.figures:
                value = figure_text(figure.key, figure.value)
                ends.setdefault(figure.title, []).append(f"{value} at {each.settings[against]:g}")
        told = "; ".join(f"{title} {', '.join(values)}" for title, values in ends.items())
        parts.append(f"{label}: {told}" if label else told)
    return "; ".join(parts)
