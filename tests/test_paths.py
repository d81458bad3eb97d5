"""Public functions take the names of files as text, as notebooks give them, and as paths."""

import importlib
import inspect
import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from PIL import Image

from tests.helpers.small import small_checkpoint
from tests.test_docs import FACES
from vfn.evaluation import read_statistics, save_statistics
from vfn.evaluation.features import Statistics
from vfn.interop import export_diffusers, export_hub, export_pt2, import_diffusers
from vfn.pictures import save_animation, save_png
from vfn.runs import (
    RunFiles,
    find_checkpoint,
    log_lines,
    read_log,
    read_stages,
    seconds_until,
    write_checkpoint,
)


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
