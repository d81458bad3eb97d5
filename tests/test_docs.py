"""Generated parts of the documents: help texts, settings, public names, quality beside others'.

Run `python -m tests.test_docs` to write them anew.
"""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from docs.site.public import FACES
from vfn import configs
from vfn.cli import app
from vfn.configs.schema import SECTIONS
from vfn.options import meaning
from vfn.tables import Table

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS.parent / "benchmarks" / "results"
MARK = "<!-- fields -->\n"
PEERS = re.compile(r"(<!-- peers: (\w+) after (\d+) s -->\n\n)(?:\|.*\n)*")


def help_texts() -> str:
    parts = ["# Command line\n"]
    for verbs in commands(app):
        text = (
            CliRunner().invoke(app, [*verbs, "--help"], prog_name="vfn", terminal_width=100).output
        )
        parts.append(f"## {' '.join(('vfn', *verbs))}\n\n```text\n{text}```\n")
    return "\n".join(parts)


def commands(command: click.Command) -> list[tuple[str, ...]]:
    """The words of a command and of all below it."""
    below = command.commands if isinstance(command, click.Group) else {}
    return [(), *((name, *verbs) for name, sub in below.items() for verbs in commands(sub))]


def field_tables() -> str:
    parts, presets = [], {name: configs.load(name) for name in configs.presets()}
    for name, section in SECTIONS.items():
        heads = ["field", "meaning", "default", *presets]
        rows = [f"## [{name}]\n", _row(heads), _row(["---"] * len(heads))]
        default = section()
        for field in dataclasses.fields(section):
            usual = getattr(default, field.name)
            chosen = [getattr(getattr(config, name), field.name) for config in presets.values()]
            differing = ["" if value == usual else _text(value) for value in chosen]
            texts = [f"`{field.name}`", meaning(field.name, field), _text(usual), *differing]
            rows.append(_row(texts))
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _text(value) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    if value is None or value == {}:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def configuration() -> str:
    written = (DOCS / "configuration.md").read_text()
    return written[: written.index(MARK) + len(MARK)] + "\n" + field_tables()


def public_names() -> str:
    """Every public name with the first line of its docstring, by room and module."""
    parts = [
        "# Public names\n\nEverything that scripts may rely on; `help(name)` tells the rest. "
        "[python.md](python.md) shows\nwhat a notebook needs of it, in order.\n"
    ]
    for face in FACES:
        room = importlib.import_module(face)
        parts.append(f"## {face}\n\n{_first_line(room)}\n")
        rows = [_row(["name", "what it is"]), _row(["---", "---"])]
        rows += [
            _row([f"`{n}`", _summary(getattr(room, n))])
            for n in sorted(room.__all__, key=str.lower)
        ]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _summary(value: object) -> str:
    """What a name stands for, in one line."""
    if isinstance(value, Table):
        words = ", ".join(f"`{word}`" for word in value)
        return f"table of {value.kind}s: {words}"
    if inspect.isfunction(value) or inspect.isclass(value):
        return _first_line(value)
    return f"`{value!r}`".replace("|", "\\|") if isinstance(value, str | int | float) else "type"


def _first_line(value: object) -> str:
    lines = (inspect.getdoc(value) or "").splitlines()
    return lines[0].replace("|", "\\|") if lines else ""


def time_to_quality() -> str:
    """The page with the tables of `benchmarks.peers` in it, a budget each."""
    written = (DOCS / "time-to-quality.md").read_text()
    return PEERS.sub(lambda found: found[1] + after(found[2], found[3]), written)


def after(data: str, budget: str) -> str:
    """Of the table of a data set the rows of a budget, with the spread of distances alone."""
    text = (RESULTS / f"peers_{data}.md").read_text()
    head, rule, *rows = (
        re.split(r" (?<!\\)\| ", line[2:-2]) for line in text.splitlines() if line.startswith("|")
    )
    found = [row for row in rows if row[0] in (budget, "")]
    assert any(row[0] for row in found), f"no figures of {data} after {budget} s"
    spreading = head.index("distance")
    for row in found:
        row[spreading + 1 :] = [re.sub(r" ± [\d.]+", "", cell) for cell in row[spreading + 1 :]]
    return "".join(_row(row[1:]) + "\n" for row in (head, rule, *found))


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_says_what_it_is(face):
    room = importlib.import_module(face)
    silent = [
        name
        for name in room.__all__
        if callable(value := getattr(room, name))
        and getattr(value, "__module__", "").startswith("vfn")
        and not inspect.getdoc(value)
    ]
    assert silent == []


@pytest.mark.parametrize("face", FACES)
def test_every_public_function_has_an_example(face):
    room = importlib.import_module(face)
    functions = [value for n in room.__all__ if inspect.isfunction(value := getattr(room, n))]
    assert [f.__name__ for f in functions if ">>>" not in (inspect.getdoc(f) or "")] == []


def test_help_texts_are_current():
    assert (DOCS / "cli.md").read_text() == help_texts()


def test_tables_of_settings_are_current():
    assert (DOCS / "configuration.md").read_text() == configuration()


def test_list_of_public_names_is_current():
    assert (DOCS / "names.md").read_text() == public_names()


def test_quality_beside_others_is_current():
    text = time_to_quality()
    assert (DOCS / "time-to-quality.md").read_text() == text
    assert len(PEERS.findall(text)) >= 4


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(help_texts())
    (DOCS / "configuration.md").write_text(configuration())
    (DOCS / "names.md").write_text(public_names())
    (DOCS / "time-to-quality.md").write_text(time_to_quality())
