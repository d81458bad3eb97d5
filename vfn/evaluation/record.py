"""An evaluation as a value: printed, written, read, compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfn.data.labels import AS_DATA
from vfn.evaluation.metrics import KINDS
from vfn.evaluation.sides import Figure
from vfn.files import given_path, read_json, short, shortened, shown, write_json
from vfn.ops import Interval
from vfn.progress import text_table
from vfn.sampling import balance_text

_NUMBER = (int, float)


@dataclass(frozen=True)
class Evaluation:
    """What came of `vfn.evaluation.judge`.

    figures: of the pictures. settings: what they depend on. loss_by_logsnr: for each bin ``low``,
    ``high``, ``loss`` and ``count``. bits_per_dim: figures with standard errors. title: for people;
    from the settings if empty. command: the command line that made it.

    >>> print(Evaluation([Figure("recall", "Recall", 0.5, better="higher")]).table())
            pictures  reference
    Recall    0.5000             higher is better
    """

    figures: Sequence[Figure] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss_by_logsnr: Sequence[Mapping[str, float]] = ()
    bits_per_dim: Sequence[Figure] = ()
    title: str = ""
    command: str | None = None

    def __post_init__(self) -> None:
        if not self.title:
            guidance = self.settings.get("guidance")
            at = f" at guidance {guidance:g}" if is_number(guidance) else ""
            object.__setattr__(self, "title", f"Evaluation{at}")

    def figure(self, key: str) -> Figure:
        """A figure by its key.

        Args:
            key: such as ``frechet_distance``.

        Returns:
            Figure.

        Raises:
            KeyError: if there is none.
        """
        return {figure.key: figure for figure in (*self.bits_per_dim, *self.figures)}[key]

    def table(self) -> str:
        """The figures as lines of text for a terminal."""
        parts = [self._figure_lines()] if self.figures else []
        if self.loss_by_logsnr:
            parts.append(
                "\n".join([f"{'logsnr':>17}  held-out loss", *map(_bin_line, self.loss_by_logsnr)])
            )
        if self.bits_per_dim:
            width = max(len(bits.title) for bits in self.bits_per_dim)
            lines = [
                f"{bits.title:{width}}  {bits.value:.4f}{_error(bits, ' ± ')}  ({bits.note})"
                for bits in self.bits_per_dim
            ]
            parts.append("\n".join(["bits per dimension of held-out pictures", *lines]))
        return "\n\n".join(parts)

    def _figure_lines(self) -> str:
        rows = [["", "pictures", "reference", ""]]
        rows += [
            [
                f.title,
                value_text(f.key, f.value),
                value_text(f.key, f.reference),
                f"{_direction(f)}{_spread(f)}",
            ]
            for f in self.figures
        ]
        lines = [text_table(rows, left=(0, 3))]
        compared = [f for f in self.figures if f.reference is not None]
        for baseline in dict.fromkeys(f.baseline for f in compared):
            titles = ", ".join(f.title for f in compared if f.baseline == baseline)
            lines.append(f"reference: {baseline} ({titles})")
        if balance := self.balance():
            lines.append(f"labels: {balance}")
        lines += [f"{f.title}: {f.warning}" for f in self.figures if f.warning]
        return "\n".join(lines)

    def balance(self) -> str:
        """How often each class was asked for, and how often the real pictures have it.

        Returns:
            text, empty where nothing is known.

        >>> shares = {"fake_classes": [0.5, 0.5], "real_classes": [0.3, 0.7]}
        >>> Evaluation(settings={"labels": "in turn", **shares}).balance()
        'every class as often, 50.0 % each (30.0 % to 70.0 % each among the real ones; ...)'
        """
        labels = self.settings.get("labels")
        if not isinstance(labels, str):
            return ""
        ours, theirs = (balance_text(_shares(self.settings, side)) for side in ("fake", "real"))
        asked = "every class as often" if labels == "in turn" else short(labels)
        real = f"{theirs} among the real ones" if theirs else ""
        advice = f"--labels {AS_DATA} asks for them so" if theirs and labels == "in turn" else ""
        beside = "; ".join(filter(None, (real, advice)))
        return f"{asked}{f', {ours}' if ours else ''}{f' ({beside})' if beside else ''}"

    def record(self) -> dict[str, Any]:
        """The evaluation as plain values for a JSON file."""
        return {
            "title": self.title,
            "settings": dict(self.settings),
            "metrics": [_figure_record(figure) for figure in self.figures],
            "loss_by_logsnr": [dict(row) for row in self.loss_by_logsnr],
            "bits_per_dim": [
                {"key": b.key, "name": b.title, "value": b.value, "error": b.error, "note": b.note}
                for b in self.bits_per_dim
            ],
            **({} if self.command is None else {"command": self.command}),
        }

    def write(self, path: str | Path) -> None:
        """Write the evaluation as JSON, which `read_evaluation` reads.

        Raises:
            ValueError: if a figure is not finite, for which JSON has no number.
            OSError: if it cannot be written.
        """
        if fault := not_finite([*self.figures, *self.loss_by_logsnr, *self.bits_per_dim]):
            raise ValueError(f"expected finite figures to write to {path}, got {fault}")
        write_json(given_path(path), self.record())


def not_finite(parts: Sequence[Figure | Mapping[str, float]]) -> str:
    """The first number that is not finite, for a message.

    Args:
        parts: figures, or rows of the loss by logsnr; an error may be unknown, and is left aside.

    Returns:
        what it is and of what; empty if all are finite.

    >>> not_finite([Figure("recall", "Recall", float("nan"))])
    'value nan of Recall'
    """
    for part in parts:
        if isinstance(part, Figure):
            of, numbers = part.title, {"value": part.value, "reference": part.reference}
            for name in ("interval", "reference_interval"):
                low, high = getattr(part, name) or (None, None)
                numbers |= {f"low end of {name}": low, f"high end of {name}": high}
        else:
            of = f"held-out loss at logsnr {part['low']:.4g} .. {part['high']:.4g}"
            numbers = {"value": part["loss"]}
        for name, number in numbers.items():
            if number is not None and not math.isfinite(number):
                return f"{name} {number} of {shortened(of)}"
    return ""


def read_evaluation(path: str | Path) -> Evaluation:
    """An evaluation from a file of `Evaluation.write`, or of ``vfn eval --json``.

    Args:
        path: of this or an earlier version.

    Returns:
        Evaluation; figures of earlier versions have the keys of today's.

    Raises:
        ValueError: if it cannot be read or holds no evaluation; one line that names it.

    >>> Evaluation([Figure("fid", "FID", 4.0)], {"guidance": 0.5}).write("found.json")
    >>> read_evaluation("found.json").figure("fid").value
    4.0
    """
    path = given_path(path)
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("settings", {}), dict):
        fault = f'an object with an object "settings", got {short(value)}'
        raise ValueError(_refusal(path, fault))
    settings = value.get("settings", {})
    extractor = settings.get("extractor")
    metrics = _rows(path, value, "metrics", {"name": str, "value": _NUMBER})
    bits = _rows(path, value, "bits_per_dim", {"name": str, "value": _NUMBER})
    ends = {"low": _NUMBER, "high": _NUMBER, "loss": _NUMBER}
    command = value.get("command")
    return Evaluation(
        [_figure_read(path, row, extractor) for row in metrics],
        settings,
        _rows(path, value, "loss_by_logsnr", ends),
        [_figure_read(path, row, extractor) for row in bits],
        str(value.get("title", path.stem)),
        None if command is None else str(command),
    )


def compare(
    evaluations: Mapping[str, Evaluation] | Sequence[Evaluation], against: str = "guidance"
) -> str:
    """A table of several evaluations, one a row.

    Args:
        evaluations: by name, such as that of a file, or without names.
        against: the setting that orders them, such as guidance, sample_timesteps, step or
            train_seconds.

    Returns:
        lines of text.

    Raises:
        ValueError: if one lacks the setting.

    >>> some = [Evaluation([Figure("fid", "FID", 4.0 - w)], {"guidance": w}) for w in (1.0, 0.0)]
    >>> print(compare(some))
    guidance     FID
           0  4.0000
           1  3.0000
    """
    named = isinstance(evaluations, Mapping)
    pairs = evaluations.items() if isinstance(evaluations, Mapping) else enumerate(evaluations)
    each: list[tuple[str | int, Evaluation]] = list(pairs)
    for name, evaluation in each:
        if not is_number(evaluation.settings.get(against)):
            raise ValueError(
                f"{name if named else evaluation.title} has no number {shown(against)} among its "
                "settings; choose another --against"
            )
    ordered = sorted(each, key=lambda item: item[1].settings[against])
    titles = list(dict.fromkeys(f.title for _, e in ordered for f in e.figures))
    rows = [[against, *titles, *(["file"] if named else [])]]
    for name, evaluation in ordered:
        values = {
            figure.title: value_text(figure.key, figure.value) for figure in evaluation.figures
        }
        cells = [f"{evaluation.settings[against]:g}", *(values.get(t, "") for t in titles)]
        rows.append([*cells, *([str(name)] if named else [])])
    return text_table(rows, left=())


def is_number(value: Any) -> bool:
    """Whether a value of a setting is a number that can be compared and drawn.

    Args:
        value: any value.

    Returns:
        True for integers and floats, False for truth values, NaN and what is nearly beyond a float.

    >>> is_number(1.5), is_number(True), is_number(10**400)
    (True, False, False)
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 10**300  # with room for the axes of a plot; not of nan


def value_text(key: str, value: float | None) -> str:
    """A figure as people read it: a share in per cent, else four digits after the point.

    Args:
        key: of the figure.
        value: None for nothing.

    Returns:
        text.

    >>> value_text("near_copies", 0.002), value_text("fid", 2.5), value_text("fid", None)
    ('0.2 %', '2.5000', '')
    """
    if value is None:
        return ""
    return KINDS[key].text(value) if key in KINDS else f"{value:.4f}"


def _shares(settings: Mapping[str, Any], side: str) -> list[float] | None:
    """Shares of the rarest and the most frequent class, as a file may have them."""
    found = settings.get(f"{side}_classes")
    known = isinstance(found, list) and len(found) == 2 and all(map(is_number, found))
    return found if known else None


def _direction(figure: Figure) -> str:
    return f"{figure.better} is better" if figure.better else ""


def _spread(figure: Figure) -> str:
    """The error and the interval of a figure, if it has them."""
    text = _error(figure, ", ± ")
    if figure.interval:
        text += f", 95 % {_ends(figure.key, figure.interval)}"
    if figure.reference_interval:
        text += f", reference 95 % {_ends(figure.key, figure.reference_interval)}"
    return text


def _ends(key: str, interval: Interval) -> str:
    return f"{value_text(key, interval.low)} .. {value_text(key, interval.high)}"


def _error(figure: Figure, sign: str) -> str:
    return "" if figure.error is None else f"{sign}{value_text(figure.key, figure.error)}"


def _bin_line(row: Mapping[str, float]) -> str:
    return f"{row['low']:7.2f} ..{row['high']:7.2f}  {row['loss']:.4f}"


def _figure_record(figure: Figure) -> dict[str, Any]:
    values = figure._asdict()
    return {
        "key": values.pop("key"),
        "name": values.pop("title"),
        **values,
        "note": figure.about,
    }


def _figure_read(path: Path, row: Mapping[str, Any], extractor: Any) -> Figure:
    """A figure of a file; a key that earlier versions did not write is found by the title."""
    title, better = row["name"], row.get("better")
    key = str(row.get("key") or _key_of(title, str(extractor)))
    figure = Figure(
        key,
        title,
        row["value"],
        _optional(path, row, "reference"),
        better if better in ("lower", "higher") else KINDS[key].better if key in KINDS else "",
        str(row.get("note") or ""),
        str(row.get("baseline") or ""),
        _interval(path, row, "interval"),
        _optional(path, row, "error"),
        str(row.get("warning") or ""),
        _interval(path, row, "reference_interval"),
    )
    bare = figure._replace(note="").about  # what `about` has added
    return figure._replace(note=figure.note.removesuffix(bare)) if bare else figure


def _optional(path: Path, row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is not None and not is_number(value):
        fault = f"a number as {name} of {short(row['name'])}, got {short(value)}"
        raise ValueError(_refusal(path, fault))
    return value


def _interval(path: Path, row: Mapping[str, Any], name: str) -> Interval | None:
    ends = row.get(name)
    if ends is None:
        return None
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        fault = f"two numbers as {name} of {short(row['name'])}, got {short(ends)}"
        raise ValueError(_refusal(path, fault))
    return Interval(*ends)


def _key_of(title: str, extractor: str) -> str:
    """The key of a figure by its title; the title of one that is not known."""
    for kind in KINDS.values():
        if title in (kind.title_of(extractor), kind.title, kind.inception, kind.title_of("pixels")):
            return kind.key
    return title


def _rows(
    path: Path, value: Mapping[str, Any], key: str, types: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A list of objects that have the named fields."""
    rows = value.get(key, [])
    if not isinstance(rows, list) or not all(
        isinstance(row, dict)
        and all(
            is_number(row.get(n)) if t is _NUMBER else isinstance(row.get(n), t)
            for n, t in types.items()
        )
        for row in rows
    ):
        fields = ", ".join(types)
        raise ValueError(
            _refusal(path, f'"{key}" as a list of objects with {fields}, got {short(rows)}')
        )
    return rows


def _refusal(path: Path, expected: str) -> str:
    return f"{path} holds no evaluation: expected {expected}; evaluate again with vfn eval --json"
