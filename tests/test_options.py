"""Options made of fields and tables; help and mistakes that come at once."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tests.test_docs import commands
from vfn.cli import app
from vfn.ops.solver_table import SOLVERS
from vfn.options import Listed, Pair, Word, given, refuse_given
from vfn.tables import Entry, Table

COLOURS = Table(
    "colour",
    {
        "red": Entry(text="like blood", target="a:b"),
        "green": Entry(text="like grass", target="a:c"),
    },
)
OPEN = Table("colour", dict(COLOURS), lambda name: Entry(text=name, target=name))
# Prints, for each line of arguments, its exit code and whether torch has been loaded by then.
LIGHT = """
import contextlib, io, json, sys
for line in json.loads(sys.argv[1]):
    from vfn.cli import main
    sys.argv = ["vfn", *line]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    print(json.dumps([line, code, "torch" in sys.modules]))
"""


def after(lines):
    """Exit code of each command line, and whether a fresh process has loaded torch by then."""
    command = [sys.executable, "-c", LIGHT, json.dumps(lines)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(row) for row in found]


def test_help_and_version_load_no_torch():
    lines = [[*verbs, "--help"] for verbs in commands(app)]
    rows = after(
        [*lines, ["--version"], [], ["train", "--out", "x", "--config", "digits", "--dry-run"]]
    )
    assert [line for line, _, torch in rows if torch] == []
    assert {code for _, code, _ in rows[:-2]} == {0}


def test_wrong_options_load_no_torch():
    lines = [
        ["nonsense"],
        ["train"],
        ["train", "--out", "x", "--nonsense", "1"],
        ["train", "--out", "x", "--lr", "fast"],
        ["train", "--out", "x", "--sampler", "dimm"],
        ["train", "--out", "x", "--network", "unot"],
        ["train", "--out", "x", "--batch-size", "0"],
        ["sample", "--checkpoint", "x"],
        ["sample", "--checkpoint", "x", "--out", "y", "--sampler", "ddim,dimm"],
        ["eval", "--fake", "x"],
        ["eval", "--real", "x", "--fake", "y", "--metrics", "fid,fud"],
        ["eval", "--real", "x", "--fake", "y", "--features", "perception"],
        ["eval", "--compare", "x", "--real", "y"],
        ["eval", "--real", "x", "--fake", "y", "--steps", "3"],
        ["import", "config", "x", "--format", "none"],
        ["sample", "--checkpoint", "x", "--out", "y", "--guidance-rule", "apgg"],
        ["train", "--out", "x", "--keep-at", "first"],
        ["ema", "x"],
        ["ema", "x", "--sigma-rel", "short"],
        ["ema", "x", "--sigma-rel", "0.1", "--num", "9"],
        ["ema", "x", "--sigma-rel", "0.1", "--metrics", "fud"],
    ]
    rows = after(lines)
    assert [line for line, _, torch in rows if torch] == []
    assert {code for _, code, _ in rows} == {2}


def test_loading_torch_is_noticed(tmp_path):
    rows = after([["export", str(tmp_path), "--out", str(tmp_path / "a.safetensors")]])
    assert [torch for *_, torch in rows] == [True]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Word(COLOURS), "red", "red"),
        (Word(OPEN), "mine.colours:Blue", "mine.colours:Blue"),
        (Word(COLOURS, path=True), "some/where", "some/where"),
        (Listed(int), "1, 2", (1, 2)),
        (Listed(bool), "true,no", (True, False)),
        (Listed(Word(COLOURS)), "red,green", ("red", "green")),
        (Pair(), "depth=3", ("depth", 3)),
        (Pair(), "wide=[1, 2]", ("wide", [1, 2])),
        (Pair(), "name=plain text", ("name", "plain text")),
    ],
)
def test_values(kind, text, value):
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Word(COLOURS), "blue", "unknown colour 'blue', expected one of red, green"),
        (Word(COLOURS), "mine:Blue", "unknown colour"),
        (Listed(Word(COLOURS)), "red,blue", "unknown colour 'blue'"),
        (Listed(int), "1,two", "'two' is not a valid integer"),
        (Pair(), "depth", "expected NAME=VALUE, got 'depth'"),
        (Pair(), "=3", "expected NAME=VALUE"),
    ],
)
def test_mistakes(kind, text, message):
    with pytest.raises(click.BadParameter, match=message):
        kind.convert(text, None, None)


def test_help_and_completion_are_read_off_the_table():
    text = CliRunner().invoke(app, ["train", "--help"], terminal_width=100).output
    assert "|".join(SOLVERS).replace("|", "") in text.replace("|", "").replace("\n", "").replace(
        " ", ""
    )
    found = Word(COLOURS).shell_complete(None, None, "g")
    assert [(item.value, item.help) for item in found] == [("green", "like grass")]


def test_pairs_become_a_table():
    options = {"lr": None, "steps": 3, "options": (("a", 1), ("b", 2)), "reweight_options": ()}
    assert given(options) == {"steps": 3, "options": {"a": 1, "b": 2}}


def test_options_that_would_be_ignored_are_refused():
    @click.command()
    @click.option("--depth", type=int, default=3)
    @click.pass_context
    def command(context, depth):
        assert depth == 3
        refuse_given(context, ["depth"], "goes with something else")

    assert CliRunner().invoke(command, []).exit_code == 0
    failed = CliRunner().invoke(command, ["--depth", "3"])
    assert "--depth goes with something else" in failed.output


def test_the_number_of_pictures_is_n_wherever_there_is_one():
    """Torchrun takes ``--num`` for an abbreviation of its own options."""
    told = []
    for words in commands(app):
        command = app
        for word in words:
            command = command.commands[word]
        told += [(words, option.opts) for option in command.params if option.name == "num"]
    assert (("eval",), ["-n", "--num"]) in told
    assert all("-n" in options for _, options in told), told
