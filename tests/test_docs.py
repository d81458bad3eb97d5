"""Generated parts of the documents: help texts and the table of settings.

Run this file to write them anew.
"""

import dataclasses
from pathlib import Path

import click
from click.testing import CliRunner

from vfn import configs
from vfn.cli import app
from vfn.configs.schema import SECTIONS

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- fields -->\n"


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
        for field in dataclasses.fields(section):
            chosen = [getattr(getattr(config, name), field.name) for config in presets.values()]
            differing = ["" if value == field.default else _text(value) for value in chosen]
            texts = [f"`{field.name}`", field.metadata["help"], _text(field.default), *differing]
            rows.append(_row(texts))
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _text(value) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def configuration() -> str:
    written = (DOCS / "configuration.md").read_text()
    return written[: written.index(MARK) + len(MARK)] + "\n" + field_tables()


def test_help_texts_are_current():
    assert (DOCS / "cli.md").read_text() == help_texts()


def test_tables_of_settings_are_current():
    assert (DOCS / "configuration.md").read_text() == configuration()


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(help_texts())
    (DOCS / "configuration.md").write_text(configuration())
