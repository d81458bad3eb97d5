"""Every example of docs/extending.md, run as a reader would: files in a folder, then commands."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small import SMALL
from vfn.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
# Seconds instead of minutes: fewer steps and a smaller network where it is the page's own.
SHORTER = {"train": ["--batch-size", "16", "--sample-timesteps", "2", "--device", "cpu"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reader's folder, with all files of the page."""
    place = tmp_path_factory.mktemp("reader")
    for kind, text in BLOCK.findall(PAGE):
        if kind == "python":
            name = re.match(r"# (mine/\w+\.py)\n", text)[1]
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text)
    return place


@pytest.fixture
def reader(folder, monkeypatch):
    """Run a command line in the reader's folder."""
    monkeypatch.chdir(folder)

    def run(line):
        words = shlex.split(line)
        if words[:2] == ["python", "-c"]:
            subprocess.run([sys.executable, *words[1:]], check=True)
            return
        assert words[0] == "vfn"
        more = SHORTER.get(words[1], [])
        if words[1] == "train" and "--network" not in words:
            more = [*SMALL, *more]
        # What the page says comes last, and so it counts.
        monkeypatch.setattr(sys, "argv", [*words[:2], *more, *words[2:]])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0, line

    yield run
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def lines(text):
    """Commands of a shell block, continued lines as one."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.slow
def test_commands_of_the_page_run_and_leave_what_they_say(folder, reader):
    """Section after section; names are recorded then, and the figures are there."""
    for text in SECTIONS.values():
        for kind, block in BLOCK.findall(text):
            for line in lines(block) if kind == "sh" else ():
                reader(line)
    config = (folder / "runs" / "plain" / "config.toml").read_text()
    assert 'network = "mine.nets:Plain"' in config
    assert "width = 48" in config
    assert 'reweight_type = "mine.weights:soft"' in (folder / "runs/soft/config.toml").read_text()
    record = json.loads((folder / "contrast.json").read_text())
    assert [metric["key"] for metric in record["metrics"]] == ["frechet_distance", "contrast"]
    assert (folder / "runs" / "words" / "words.txt").read_text().startswith("step 2: ")
    assert len([*(folder / "webp").glob("00000?.webp")]) == 4
    assert len((folder / "webp" / "labels.txt").read_text().split()) == 4


@pytest.mark.parametrize("table", ["network", "weighting", "schedule", "solver",
                                   "guidance rule",
                                   "time density", "objective", "data set", "extractor", "metric",
                                   "tracker", "output",
                                   "distillation method", "foreign format"])  # fmt: skip
def test_every_table_has_its_example(table):
    (section,) = [text for name, text in SECTIONS.items() if name.endswith(table)]
    assert "```python" in section
