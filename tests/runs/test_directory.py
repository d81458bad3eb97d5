"""Where everything in a run directory is: users and old runs depend on these names."""

from pathlib import Path

import pytest

from vfn.runs import RunFiles, find_checkpoint, run_path
from vfn.runs.directory import run_of

NAMES = {
    "config": "config.toml",
    "log": "log.jsonl",
    "checkpoints": "checkpoints",
    "best": "checkpoints/best.safetensors",
    "tensorboard": "tensorboard",
    "sample": "sample",
    "sweep": "sweep",
    "metrics": "metrics.json",
    "commands": "commands.json",
    "report": "report.html",
    "teacher": "teacher.safetensors",
    "teacher_grid": "teacher.png",
    "stages": "stages.json",
    "teachers": "teachers.json",
}


def test_names_never_change():
    run = RunFiles(Path("r"))
    assert {name: getattr(run, name).relative_to("r").as_posix() for name in NAMES} == NAMES
    assert run.checkpoint(20) == Path("r/checkpoints/step-00000020.safetensors")
    assert run.preview(20) == Path("r/samples/step-00000020.png")
    assert run.not_finite(20) == Path("r/not-finite-00000020.json")
    assert run.plot("loss") == Path("r/plots/loss.png")
    assert run.stage(4).log == Path("r/steps-4/log.jsonl")


def test_what_is_there_is_found_in_order(tmp_path):
    run = RunFiles(tmp_path)
    assert run.checkpoint_files() == run.previews() == run.evaluations() == []
    for path in (run.checkpoint(9), run.checkpoint(10), run.best, run.preview(3), run.preview(20),
                 run.metrics, tmp_path / "metrics-fid.json", tmp_path / "other.json"):  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert run.checkpoint_files() == [run.checkpoint(10), run.checkpoint(9)]
    assert run.previews() == [run.preview(3), run.preview(20)]
    assert run.evaluations() == [tmp_path / "metrics-fid.json", run.metrics]


def test_runs_of_one_place_are_equal():
    assert RunFiles(Path("r")) == RunFiles("r")
    assert RunFiles(Path("r")).stage(2) == RunFiles(Path("r/steps-2"))


def test_a_run_is_called_by_its_path_with_or_without_the_word(tmp_path):
    run = RunFiles(tmp_path / "a")
    run.checkpoints.mkdir(parents=True)
    run.config.touch()
    for spec in (run.path, str(run.path), f"run:{run.path}"):
        assert run_path(spec) == run_of(spec) == run.path
    assert run_of("run:nowhere") == Path("nowhere")
    assert run_of(tmp_path) is None  # pictures, or nothing
    assert run_of(3) is None


def test_a_run_without_checkpoints_is_no_folder_of_pictures(tmp_path):
    """Its previews would be taken for samples."""
    run = RunFiles(tmp_path)
    run.config.touch()
    assert run_of(tmp_path) is None  # somebody else's config.toml
    run.log.touch()
    assert run_of(tmp_path) == tmp_path


def test_the_students_of_a_distillation_are_named(tmp_path):
    run = RunFiles(tmp_path)
    for steps in (4, 16, 8):
        run.stage(steps).path.mkdir()
        run.stage(steps).config.touch()
    (tmp_path / "steps-all").mkdir()
    assert run.students() == [run.stage(16), run.stage(8), run.stage(4)]
    with pytest.raises(ValueError, match="name one of them: steps-16, steps-8, steps-4$"):
        find_checkpoint(tmp_path)
