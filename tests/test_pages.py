"""Code on the pages: every block runs in the tests, or is checked as far as it can be.

Sessions (pycon) are run as doctests, extending.md by its own tests, tutorials by theirs. Here: the
Python of the first pages runs in a short form, and every command is parsed with all its options.
"""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

import vfn.evaluation
import vfn.train
from vfn import configs
from vfn.cli import app
from vfn.progress import silence

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
}
# Words that begin a line of a shell block, beside vfn.
OTHERS = {"make", "pip", "python", "eval", "source", "git"}
VARIABLES = re.compile(r"([A-Z_]+=\S+ )+")
RUN_ELSEWHERE = {"docs/extending.md"}  # tests/test_extending.py
TINY = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,), "num_res_blocks": 1,
        "batch_size": 16, "sample_timesteps": 2, "steps": 2}  # fmt: skip


def blocks(page, kind):
    return [text for found, text in BLOCK.findall(PAGES[page]) if found == kind]


def lines(text):
    """Commands of a shell block, continued lines as one, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line for line in joined if line.strip() and not line.lstrip().startswith("#")]


def command(line):
    """The words after ``vfn`` of a line, also of one that torchrun starts; None of other lines."""
    words = shlex.split(line.replace("$resume", ""), comments=True)  # which the shell fills in
    ends = [number for number, word in enumerate(words) if word in {">", "&", "|", "&&"}]
    words = words[: ends[0]] if ends else words
    if words and words[0] in {"torchrun", "srun"} and "vfn" in words:
        assert words[words.index("vfn") - 1] == "-m", line
        return words[words.index("vfn") + 1 :]
    return words[1:] if words and words[0] == "vfn" else None


COMMANDS = sorted({
    line
    for page in PAGES
    if page not in RUN_ELSEWHERE
    for text in blocks(page, "sh")
    for line in lines(text)
    if command(line) is not None
})  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_checked(page):
    kinds = {kind for kind, _ in BLOCK.findall(PAGES[page]) if not kind.startswith("{")}
    known = {"pycon", "sh", "text", "toml"}
    # interop.md shows code of others, for files that are not here; conditions.md has its own test
    if (
        page
        in {
            "README.md",
            "docs/start.md",
            "docs/extending.md",
            "docs/interop.md",
            "docs/conditions.md",
        }
        or "/tutorials/" in page
    ):
        known |= {"python"}
    assert kinds <= known


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")])
def test_a_shell_block_has_nothing_but_known_commands(page):
    for text in blocks(page, "sh"):
        if text.startswith("#!"):  # a whole script, of SLURM, which is not here
            continue
        for line in lines(text):
            first = VARIABLES.sub("", line, count=1).split()[0]
            assert command(line) is not None or first in OTHERS, line


def quiet(group, monkeypatch):
    """Let no command do anything."""
    for each in group.commands.values():
        if isinstance(each, click.Group):
            quiet(each, monkeypatch)
        monkeypatch.setattr(each, "callback", lambda *_, **__: None)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line, monkeypatch):
    quiet(app, monkeypatch)
    assert app.main(command(line), prog_name="vfn", standalone_mode=False) is None


@pytest.mark.parametrize(
    "line", ["vfn train --stepz 3", "vfn sample --num many", "vfn repport runs/a"]
)
def test_a_wrong_command_is_noticed(line, monkeypatch):
    quiet(app, monkeypatch)
    with pytest.raises(click.UsageError):
        app.main(command(line), prog_name="vfn", standalone_mode=False)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")])
def test_a_piece_of_a_configuration_is_one(page):
    for text in blocks(page, "toml"):
        for name, table in tomllib.loads(text).items():
            fields = configs.flat_fields(name)
            assert set(table) <= set(fields), text


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_first_example_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full, judge = vfn.train.train, vfn.evaluation.judge

    def short(config, out):
        assert config == "digits"
        return full(configs.override(configs.load(config), TINY), out)

    monkeypatch.setattr(vfn.train, "train", short)
    monkeypatch.setattr(vfn.evaluation, "judge", lambda *a, **k: judge(*a, **{**k, "num": 20}))
    (code,) = blocks(page, "python")
    with silence():
        exec(compile(code, page, "exec"), {"__name__": "__main__"})
    assert (tmp_path / "runs" / "digits" / "config.toml").is_file()
