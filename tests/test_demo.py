"""The demo does what its command lines say, and its page shows them."""

import json
import shlex

import pytest
from safetensors import safe_open

from vfn.configs import dumps, load, override
from vfn.demo import demo_steps, run_demo
from vfn.files import without_places
from vfn.runs import RunFiles

NUM = 40
# What tells one run of the same commands from another.
CLOCKS = ("seconds", "images_per_s", "memory_mib", "train_seconds")


def test_the_words_of_the_steps(tmp_path):
    lines = [step.line for step in demo_steps(tmp_path / "a run", 7, 50)]
    assert [shlex.split(line)[1] for line in lines] == [
        "train", "sample", "sample", "eval", "eval", "eval", "report",
    ]  # fmt: skip
    assert lines[0].endswith("--resume --steps 7")
    assert all(f"{tmp_path}/a run" in line for line in lines)
    assert shlex.split(lines[0])[5] == f"{tmp_path}/a run"


def test_the_preset_names_the_data(tmp_path):
    lines = [step.line for step in demo_steps(tmp_path / "a", 7, 50, preset="mnist5k")]
    assert "--config mnist5k" in lines[0]
    assert all("--real dataset:mnist5k:train" in line for line in lines[3:6])
    with pytest.raises(ValueError, match="unknown config 'nothing'"):
        run_demo(tmp_path / "a", preset="nothing")


def test_no_steps_are_the_preset_s(tmp_path):
    assert "--steps" not in demo_steps(tmp_path, None, 50)[0].line


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory):
    """A network in place of the preset's that draws in no time."""
    small = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,),
             "num_res_blocks": 1, "batch_size": 16, "sample_timesteps": 2}  # fmt: skip
    path = tmp_path_factory.mktemp("configs") / "tiny.toml"
    path.write_text(dumps(override(load("digits"), small)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfn.demo.PRESET", str(path))
        yield


@pytest.fixture(scope="module")
def told():
    """What the demo says."""
    return []


@pytest.fixture(scope="module")
def demo(tmp_path_factory, told):
    """A demo of two steps."""
    out = tmp_path_factory.mktemp("demo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfn.demo.say", told.append)
        assert run_demo(out, 2, NUM) == out / "report.html"
    return RunFiles(out)


def test_everything_is_there(demo):
    lines = [step.line for step in demo_steps(demo.path, 2, NUM)]
    assert json.loads(demo.commands.read_text()) == lines
    page = demo.report.read_text(encoding="utf-8")
    for heading in ("Samples", "From noise to picture", "Guidance", "Evaluation", "Training"):
        assert f"<h2>{heading} <a" in page
    assert [path.name for path in demo.evaluations()] == ["metrics-w0.json", "metrics.json"]
    for line in lines:  # of the machine's own places the last parts
        assert shlex.join(map(without_places, shlex.split(line))) in page
    commands = [json.loads(path.read_text())["command"] for path in demo.evaluations()]
    assert commands == [lines[4], lines[3]]


def test_each_step_is_announced(demo, told):
    announced = [line for line in told if line.startswith("\n$ ")]
    assert announced == [f"\n$ {step.line}" for step in demo_steps(demo.path, 2, NUM)]
    assert sum("Label agreement" in line for line in told) == 2
    assert f"vfn distill --teacher {demo.path} --method ect --out {demo.path}-fast" in told[-1]


def test_a_stopped_training_ends_the_demo(tmp_path, monkeypatch, capsys):
    from vfn.train import Outcome

    monkeypatch.setattr("vfn.train.train", lambda *_args, **_more: Outcome(1, 2))
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, 2, NUM)
    assert "stopped at step 1; the same command goes on from there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_lines_give_the_same_files(demo, tmp_path):
    """They are run as a shell would, in a directory of the same name elsewhere."""
    from vfn.cli import app

    moved = tmp_path / demo.path.name
    for step in demo_steps(moved, 2, NUM):
        arguments = shlex.split(step.line)[1:]
        app.main(arguments, prog_name="vfn", standalone_mode=False, obj=arguments)
    ours, theirs = (_files(out) for out in (demo.path, moved))
    assert set(ours) - {demo.commands.name} == set(theirs)
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
    if path.suffix == ".safetensors":  # whose metadata stand in any order
        with safe_open(path, framework="pt") as file:
            return file.metadata()  # with a checksum of everything
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
