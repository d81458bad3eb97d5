"""Public functions take the names of files as text, as notebooks give them, and as paths."""

import importlib
import inspect
import json
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.helpers.small import small_checkpoint
from tests.test_docs import FACES
from vfn.cli import app
from vfn.configs import load as load_config
from vfn.evaluation import judge, read_statistics, save_statistics, store_reference
from vfn.evaluation.features import Statistics
from vfn.interop import export_diffusers, export_hub, export_pt2, import_diffusers
from vfn.pictures import save_animation, save_png
from vfn.report import report
from vfn.runs import (
    RunFiles,
    export_model,
    find_checkpoint,
    log_lines,
    read_log,
    read_stages,
    seconds_until,
    write_checkpoint,
)
from vfn.sampling import load, untrained, write_samples
from vfn.train import distill, train
from vfn.train.session import as_checkpoint


def kinds(function):
    """What each argument may be: types, or the text of the annotation where type checkers alone
    import its names."""
    try:
        hints = get_type_hints(function)
    except NameError:
        parameters = inspect.signature(function).parameters.values()
        return {p.name: str(p.annotation).split(" | ") for p in parameters}
    del hints["return"]
    return {name: get_args(hint) or (hint,) for name, hint in hints.items()}


@pytest.mark.parametrize("face", FACES)
def test_where_a_path_goes_text_does(face):
    room = importlib.import_module(face)
    functions = [value for n in room.__all__ if inspect.isfunction(value := getattr(room, n))]
    wrong = [
        (function.__name__, name)
        for function in functions
        for name, kind in kinds(function).items()
        if (Path in kind or "Path" in kind) and not (str in kind or "str" in kind)
    ]
    assert wrong == []


def parameters(command):
    """All of a command and of those below it."""
    found = list(command.params)
    for below in getattr(command, "commands", {}).values():
        found += parameters(below)
    return found


def test_no_option_takes_an_empty_name_for_the_current_directory():
    """A shell gives one for a variable that is not set."""
    paths = [each for each in parameters(app) if each.type.name == "path"]
    assert len(paths) > 20
    for each in paths:
        with pytest.raises(click.BadParameter, match=r"expected a path, got ''; the current dir"):
            each.type.convert("", each, None)


@pytest.mark.parametrize("given", ["", None, 3])
@pytest.mark.parametrize(
    "function",
    [
        lambda given: train("digits", given, device="cpu"),
        lambda given: distill(untrained("digits"), given, device="cpu"),
        lambda given: distill("" if given is None else given, "out", device="cpu"),
        lambda given: write_samples(untrained("digits").draws(1, steps=1), given),
        lambda given: import_diffusers("nowhere", None, given),
        lambda given: export_model(untrained_checkpoint(), given),
        lambda given: find_checkpoint("run:" if given == "" else given),
        find_checkpoint,
        load,
        report,
    ],
)
def test_what_is_no_path_is_refused(function, given, tmp_path, monkeypatch):
    """And nothing is written, in the current directory least of all."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^expected a path, got "):
        function(given)
    assert list(tmp_path.iterdir()) == []


def test_home_is_home_everywhere(tmp_path, monkeypatch):
    """Shells leave the ~ of --out=~/run as it is, and Python that of any text."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    run = RunFiles("~/run")
    write_checkpoint(run.checkpoint(3), small_checkpoint())
    assert run.path == tmp_path / "run"
    (tmp_path / "own.toml").write_text("[train]\nsteps = 7\n", encoding="utf-8")
    assert load_config("~/own.toml").train.steps == 7
    drawn = load("run:~/run", "cpu").draws(20, steps=1)
    write_samples(drawn, "~/samples")
    store_reference("dataset:digits:test", "~/ref.npz", device="cpu")
    (tmp_path / "ref.npz").rename(tmp_path / "REF.NPZ")
    found = judge("~/REF.NPZ", "~/samples", ["fd"], device="cpu")
    assert found.figures[0].value > 0
    command = ["export", "~/run", "--out=~/one.safetensors"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "one.safetensors").is_file()
    assert list((tmp_path / "work").iterdir()) == []
    with pytest.raises(ValueError, match=r"'~nobody-at-all/x' is no path .* begins with ~ is \./~"):
        load("~nobody-at-all/x")


def untrained_checkpoint():
    return as_checkpoint(untrained("digits"))


def decoded(path):
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_pictures_statistics_and_logs(tmp_path):
    picture = Image.new("RGB", (2, 2), "red")
    save_png(f"{tmp_path}/one.png", picture)
    assert decoded(tmp_path / "one.png") == picture.tobytes()
    save_animation(f"{tmp_path}/two.webp", [picture, picture], 100, 100)
    assert decoded(tmp_path / "two.webp") == picture.tobytes()
    features = torch.randn(4, 2)
    save_statistics(f"{tmp_path}/s.npz", Statistics(4, None, features, None, {}))
    assert torch.equal(read_statistics(f"{tmp_path}/s.npz").features, features)
    entry = {"step": 2, "seconds": 1.5}
    (tmp_path / "log.jsonl").write_text(json.dumps(entry) + "\n")
    log = f"{tmp_path}/log.jsonl"
    assert (read_log(log), log_lines(log)[0][0], seconds_until(log, 2)) == ([entry], entry, 1.5)
    (tmp_path / "stages.json").write_text(json.dumps([{"student_steps": 4}]))
    assert read_stages(f"{tmp_path}/stages.json") == [{"student_steps": 4}]


def test_runs(tmp_path):
    pytest.importorskip("diffusers")
    run = f"{tmp_path}/run"
    write_checkpoint(str(RunFiles(tmp_path / "run").checkpoint(3)), small_checkpoint())
    for export in (export_hub, export_pt2, export_diffusers):
        export(run, f"{tmp_path}/{export.__name__}")
        assert (tmp_path / export.__name__).exists()
    path = import_diffusers(f"{tmp_path}/export_diffusers", None, f"{tmp_path}/again")
    ours, back = find_checkpoint(run), find_checkpoint(path)
    torch.testing.assert_close(back.ema, ours.ema)
