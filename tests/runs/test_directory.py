"""Where everything in a run directory is: users and old runs depend on these names."""

from pathlib import Path

from vfn.runs import RunFiles


def test_names_never_change():
    run = RunFiles(Path("r"))
    assert [path.as_posix() for path in (
        run.config, run.log, run.checkpoints, run.checkpoint(20), run.best, run.preview(20),
        run.not_finite(20), run.tensorboard, run.sample, run.sweep, run.metrics, run.commands,
        run.report, run.plot("loss"), run.teacher, run.teacher_grid, run.stages, run.stage(4).log,
    )] == [
        "r/config.toml", "r/log.jsonl", "r/checkpoints", "r/checkpoints/step-00000020.safetensors",
        "r/checkpoints/best.safetensors", "r/samples/step-00000020.png",
        "r/not-finite-00000020.json", "r/tensorboard", "r/sample", "r/sweep", "r/metrics.json", "r/commands.json",
        "r/report.html", "r/plots/loss.png", "r/teacher.safetensors", "r/teacher.png",
        "r/stages.json", "r/steps-4/log.jsonl",
    ]  # fmt: skip


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
