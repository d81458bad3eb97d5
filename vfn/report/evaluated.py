"""The evaluations of a run in one table, a column for each, and what they depend on below it."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vfn.evaluation import Evaluation, Figure, is_number
from vfn.evaluation.metrics import KINDS
from vfn.files import told_apart
from vfn.report.markup import ARROWS, MISSING, Cell, details, for_others, paragraph, plain, table

# Settings that tell columns apart, with what they are called; the first ones first.
_HEADS = {
    "guidance": "guidance",
    "guide_weight": "weaker network's weight",
    "sampler": "",
    "sample_timesteps": "steps",
    "step": "training step",
    "num": "pictures:",
    "labels": "labels",
    "real": "against",
    "seed": "seed",
}
# What figures hang on beside the pictures that are judged.
_EQUAL = {"num": "numbers of pictures", "real": "real pictures", "extractor": "features"}
_UNITS = {"train_seconds": "s"}
# Where things are on the machine is nobody's business, in a page that may be mailed.
_PRIVATE = {"run"}


def evaluated(evaluations: Sequence[Evaluation], titles: Sequence[str] | None = None) -> str:
    """One table of all figures, and two that are folded away: how, and with which settings.

    Args:
        evaluations: in the order of the columns if they have ``titles``.
        titles: of the columns; in order of what tells them apart, and named by it, if None.

    Returns:
        markup; nothing without evaluations.
    """
    if not evaluations:
        return ""
    if titles is None:
        evaluations = in_order(evaluations)
        titles = column_titles(evaluations)
    balances = dict.fromkeys(filter(None, (each.balance() for each in evaluations)))
    return "\n".join(
        filter(
            None,
            (
                _figures(evaluations, titles),
                paragraph(_unequal(evaluations)),
                *(paragraph(f"Labels: {balance}.") for balance in balances),
                details("How the figures were computed", _notes(evaluations)),
                details("Settings of the evaluations", _settings(evaluations, titles)),
            ),
        )
    )


def in_order(
    evaluations: Sequence[Evaluation], by: Sequence[str] = tuple(_HEADS)
) -> list[Evaluation]:
    """Evaluations in the order of what tells them apart, as far as it is numbers.

    Args:
        evaluations: any.
        by: names of settings, the first ones first.

    Returns:
        the same; those that are alike in the order in which they were given.

    >>> [e.title for e in in_order([Evaluation(settings={"guidance": w}) for w in (1.0, 0.5)])]
    ['Evaluation at guidance 0.5', 'Evaluation at guidance 1']
    """

    def place(evaluation: Evaluation) -> list[float]:
        values: list[Any] = [evaluation.settings.get(name) for name in by]
        return [float(value) if is_number(value) else -1.0 for value in values]

    return sorted(evaluations, key=place)


def column_titles(evaluations: Sequence[Evaluation]) -> list[str]:
    """What tells the evaluations apart: settings in which they differ, else their own titles.

    Args:
        evaluations: at least one.

    Returns:
        a title for each.

    >>> column_titles([Evaluation(settings={"guidance": w, "seed": 1}) for w in (0.0, 0.5)])
    ['guidance 0', 'guidance 0.5']
    >>> column_titles([Evaluation(settings={"guidance": 0.5})])
    ['Evaluation at guidance 0.5']
    """
    apart = _apart(evaluations)
    for some in range(1, len(apart) + 1):
        titles = [", ".join(words) for words in zip(*apart[:some], strict=True)]
        if len({*titles}) == len(titles):
            return titles
    own = [evaluation.title for evaluation in evaluations]
    return own if len({*own}) == len(own) else _numbered(own)


def titles_of_runs(evaluations: Sequence[Evaluation], runs: Sequence[str]) -> list[str]:
    """Columns of several runs: whose each is, and all settings in which any of them differ.

    Args:
        evaluations: of all runs.
        runs: the name of each one's run.

    Returns:
        a title for each.

    >>> titles_of_runs([Evaluation(settings={"guidance": w}) for w in (0.0, 0.5)], ["a", "b"])
    ['a: guidance 0', 'b: guidance 0.5']
    """
    words = [", ".join(texts) for texts in zip(*_apart(evaluations), strict=True)]
    told = [
        ": ".join(filter(None, each)) for each in zip(runs, words or [""] * len(runs), strict=True)
    ]
    return told if len({*told}) == len(told) else _numbered(told)


def _apart(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """For each setting in which evaluations differ its text in each of them."""
    values = {name: [each.settings.get(name) for each in evaluations] for name in _HEADS}
    return [
        [f"{text} {told}".strip() for told in _told(name, values[name])]
        for name, text in _HEADS.items()
        if len({*_wholes(values[name])}) > 1
    ]


def _numbered(titles: Sequence[str]) -> list[str]:
    """Titles of which some are the same, told apart."""
    return [f"{title} ({number})" for number, title in enumerate(titles, 1)]


def _unequal(evaluations: Sequence[Evaluation]) -> str:
    """A sentence where figures of some evaluations are not to be held to those of others."""
    found = {}
    for name, what in _EQUAL.items():
        values = [each.settings.get(name) for each in evaluations]
        found[what] = dict.fromkeys(_told(name, [value for value in values if value is not None]))
    told = [f"{what} ({', '.join(texts)})" for what, texts in found.items() if len(texts) > 1]
    return f"Figures compare only at equal {' and '.join(told)}." if told else ""


def _rows(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], list[Figure | None]]:
    """The figures of all evaluations by key and title; None where one does not have it."""
    each = [
        {(figure.key, figure.title): figure for figure in (*e.figures, *e.bits_per_dim)}
        for e in evaluations
    ]
    names = dict.fromkeys(name for figures in each for name in figures)
    return {name: [figures.get(name) for figures in each] for name in names}


def _figures(evaluations: Sequence[Evaluation], titles: Sequence[str]) -> str:
    rows: list[list[Cell | str]] = []
    several = len(evaluations) > 1
    for figures in _rows(evaluations).values():
        known = [figure for figure in figures if figure is not None]
        references = {(figure.reference, figure.reference_interval) for figure in known}
        alike = len(references) == 1
        head = f"{escape(known[0].title)} {ARROWS.get(known[0].better, '')}".rstrip()
        warnings = dict.fromkeys(figure.warning for figure in known if figure.warning)
        head += "".join(f"<small>{escape(warning)}</small>" for warning in warnings)
        last = _reference(known[0]) if alike else "beside the figures"
        cells = [
            Cell(_cell(figure, alike), figure.value if figure else None, moves=True)
            for figure in figures
        ]
        sorts = several and len(known) > 1
        rows.append([Cell(head, sorts=sorts, better=known[0].better), *cells, last])
    heads = [escape(title) for title in titles] if several else ["Model"]
    return table(["Metric", *heads, "Reference"], rows, "figures", "Figures of the evaluations")


def _cell(figure: Figure | None, alike: bool) -> str:
    """A figure with its error, its interval, and its reference where others have another."""
    if figure is None:
        return MISSING
    text = escape(figure_text(figure.key, figure.value))
    if figure.error is not None:
        text += f"<small>± {escape(figure_text(figure.key, figure.error))}</small>"
    if figure.interval is not None:
        ends = " .. ".join(figure_text(figure.key, end) for end in figure.interval)
        text += f"<small>{escape(ends)}</small>"
    if not alike and figure.reference is not None:
        text += f"<small>reference {_reference(figure)}</small>"
    return text


def _reference(figure: Figure) -> str:
    if figure.reference is None:
        return MISSING
    text = escape(figure_text(figure.key, figure.reference))
    if figure.reference_interval is not None:
        ends = " .. ".join(figure_text(figure.key, end) for end in figure.reference_interval)
        text += f"<small>{escape(ends)}</small>"
    return text


def figure_text(key: str, value: float) -> str:
    """A value in its unit: shares in per cent.

    Args:
        key: of the figure.
        value: as it is computed.

    Returns:
        text.

    >>> figure_text("label_agreement", 0.9951), figure_text("bits_flow", 2.0)
    ('99.51 %', '2 bits/dim')
    """
    unit = KINDS[key].unit if key in KINDS else ""
    if unit == "%":
        return KINDS[key].text(value)
    return f"{value:.4g} {unit}".rstrip()


def _notes(evaluations: Sequence[Evaluation]) -> str:
    """How each figure was computed, and what its reference is of."""
    rows = []
    for figures in _rows(evaluations).values():
        known = [figure for figure in figures if figure is not None]
        notes = dict.fromkeys(figure.note for figure in known if figure.note)
        baselines = dict.fromkeys(
            f"reference: {figure.baseline}"
            for figure in known
            if figure.baseline and figure.reference is not None
        )
        text = "; ".join([*notes, *baselines])
        if text:
            rows.append([escape(known[0].title), escape(text)])
    return table(["Metric", "How"], rows, "notes", "How the figures were computed")


def _settings(evaluations: Sequence[Evaluation], titles: Sequence[str]) -> str:
    """All settings, a column for each evaluation; one for all where they agree."""
    each: list[Mapping[str, Any]] = [evaluation.settings for evaluation in evaluations]
    names = dict.fromkeys(n for settings in each for n in settings if n not in _PRIVATE)
    rows = []
    for name in names:
        texts = _told(name, [settings.get(name) for settings in each])
        unit = _UNITS.get(name, "")
        rows.append([escape(str(name)), *(escape(f"{text} {unit}".rstrip()) for text in texts)])
    heads = ["Setting", *map(escape, titles)]
    return table(heads, rows, "settings", "Settings of the evaluations")


def _told(name: str, values: Sequence[Any]) -> list[str]:
    """Values of a setting as texts, which differ where they do; of absolute paths the last parts.

    Returns:
        a text for each.

    >>> _told("fake", ["run:/home/me/runs/a", None]), _told("real", ["dataset:digits"])
    (['run:runs/a', '–'], ['dataset:digits'])
    """
    show = plain if name == "labels" else for_others
    return told_apart([show(value) for value in values], _wholes(values))


def _wholes(values: Sequence[Any]) -> list[str]:
    """Texts that are the same where values are."""
    return [json.dumps(value, sort_keys=True) for value in values]
