"""Where everything in a run directory is: users and old runs depend on these names."""

from pathlib import Path

from vfn.runs import RunFiles

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
    assert RunFiles(Path("r")) == RunFiles(Path("r"))
    assert RunFiles(Path("r")).stage(2) == RunFiles(Path("r/steps-2"))
