"""The demo does what its command lines say, and its page shows them."""

import json
import shlex
import subprocess
import sys

import pytest

from vfn.demo import demo_steps, run_demo
from vfn.runs import RunFiles

NUM = 40
# What tells one run of the same commands from another.
CLOCKS = ("seconds", "images_per_s", "memory_mib", "train_seconds")


def test_the_words_of_the_steps(tmp_path):
    lines = [step.line for step in demo_steps(tmp_path / "a run", 7, 50)]
    assert [shlex.split(line)[1] for line in lines] == [
        "train", "sample", "sample", "eval", "eval", "report",
    ]  # fmt: skip
    assert lines[0].endswith("--resume --steps 7")
    assert all(f"{tmp_path}/a run" in line for line in lines)
    assert shlex.split(lines[0])[5] == f"{tmp_path}/a run"


def test_no_steps_are_the_preset_s(tmp_path):
    assert "--steps" not in demo_steps(tmp_path, None, 50)[0].line


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo of two steps."""
    out = tmp_path_factory.mktemp("demo") / "run"
    assert run_demo(out, 2, NUM) == out / "report.html"
    return RunFiles(out)


def test_everything_is_there(demo):
    lines = [step.line for step in demo_steps(demo.path, 2, NUM)]
    assert json.loads(demo.commands.read_text()) == lines
    page = demo.report.read_text(encoding="utf-8")
    for heading in ("Samples", "From noise to picture", "Guidance", "Evaluation", "Training"):
        assert f"<h2>{heading}</h2>" in page
    assert [path.name for path in demo.evaluations()] == ["metrics-w0.json", "metrics.json"]
    for line in lines:
        assert line in page
    commands = [json.loads(path.read_text())["command"] for path in demo.evaluations()]
    assert commands == [lines[4], lines[3]]


def test_each_step_is_announced(demo, capsys):
    """What is done already is quick: nothing is trained again."""
    run_demo(demo.path, 2, NUM)
    told = capsys.readouterr().err
    assert [line for line in told.splitlines() if line.startswith("$ ")] == [
        f"$ {step.line}" for step in demo_steps(demo.path, 2, NUM)
    ]
    assert "Label agreement" in told
    assert f"vfn distill --teacher {demo.path} --out {demo.path}-fast" in told


def test_a_stopped_training_ends_the_demo(tmp_path, monkeypatch):
    from vfn.train import Outcome

    monkeypatch.setattr("vfn.train.train", lambda *_args, **_more: Outcome(1, 2))
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, 2, NUM)
    assert not list(tmp_path.iterdir())


def test_the_command_lines_give_the_same_files(demo, tmp_path):
    """They are run in a directory of another name, the last one as well."""
    moved = tmp_path / demo.path.name
    for step in demo_steps(moved, 2, NUM):
        command = [sys.executable, "-m", "vfn", *step.arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    ours, theirs = (_files(out) for out in (demo.path, moved))
    assert set(ours) - {"commands.json"} == set(theirs)
    for name in theirs:
        assert ours[name] == theirs[name], name


def _files(out):
    """What is in a run, without what differs from one run to the next."""
    return {
        str(path.relative_to(out)): _content(path, out)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".html" and path.parent.name != "plots"
    }


def _content(path, out):
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    text = path.read_text().replace(str(out), "OUT")
    if path.suffix == ".json":
        return _without_clocks(json.loads(text))
    return [_without_clocks(json.loads(line)) for line in text.splitlines()]


def _without_clocks(value):
    if isinstance(value, dict):
        return {k: _without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    return value
