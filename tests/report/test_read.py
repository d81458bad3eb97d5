import json
import re

import pytest

from tests.helpers.reported import write_log
from vfn.report import read_run, report
from vfn.report.read import Stage, figure_kinds


def test_everything_in_a_run_is_read(run):
    found = read_run(run)
    assert found.config.data.dataset == "digits"
    assert found.config_text == (run / "config.toml").read_text()
    assert len(found.train_loss) == 40
    assert found.train_loss[20] == 1 / 20
    assert found.held_out_loss == {400: 0.25, 800: 0.125}
    assert found.stages is None
    assert [e.title for e in found.evaluations] == ["guidance 0"]
    assert found.commands == ["vfn eval --guidance 0 && echo done"]


def test_what_is_not_there_is_empty(bare):
    found = read_run(str(bare))
    empty = (found.train_loss, found.held_out_loss, found.on_the_way, found.evaluations)
    assert not any(empty)
    assert (found.stages, found.commands) == (None, [])


def test_a_figure_of_the_way_has_the_time_before_it(bare):
    write_log(bare, [
        {"step": 1, "recall": 0.25},
        {"step": 2, "loss": 1.0, "seconds": 7.0},
        {"step": 2, "recall": 0.5, "precision": None},
    ])  # fmt: skip
    first, second = read_run(bare).on_the_way
    assert first.settings == {"step": 1, "train_seconds": None}
    assert second.settings == {"step": 2, "train_seconds": 7.0}
    assert [(f.title, f.value, f.better) for f in second.figures] == [("Recall", 0.5, "higher")]


def test_figures_are_called_what_the_table_of_metrics_calls_them():
    kinds = figure_kinds()
    assert {"frechet_distance": "lower", "precision": "higher", "recall": "higher"}.items() <= {
        key: kind.better for key, kind in kinds.items()
    }.items()


def test_stages(distilled):
    stages = read_run(distilled).stages
    assert stages[1] == Stage(16, {"updates": 10, "loss": 0.125, "seconds": 9.0})
    (distilled / "stages.json").unlink()
    assert read_run(distilled).stages == []  # the logs tell them then, and there are none
    (distilled / "steps-16").mkdir()
    (distilled / "steps-16" / "log.jsonl").write_text('{"step": 10, "loss": 0.125}\n')
    assert read_run(distilled).stages == [Stage(16, {"updates": 10, "loss": 0.125})]
    (distilled / "stages.json").write_text("[]")
    assert read_run(distilled).stages == []


def test_commands_of_several_evaluations_stand_once(run):
    for name in ("a", "b"):
        record = {"settings": {}, "command": "vfn eval"}
        (run / f"metrics-{name}.json").write_text(json.dumps(record))
    assert read_run(run).commands == ["vfn eval", "vfn eval --guidance 0 && echo done"]


def test_the_last_of_two_entries_of_a_step_counts(bare):
    write_log(bare, [{"step": 20, "loss": 0.5}, {"step": 20, "loss": 0.4}])
    assert read_run(bare).train_loss == {20: 0.4}


@pytest.mark.parametrize("line", ["{oops", "[1]", '{"loss": 1.0}', '{"step": 4, "loss": "big"}'])
def test_a_malformed_log_line_is_named(bare, line):
    (bare / "log.jsonl").write_text('{"step": 2, "loss": 0.5}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"log\.jsonl line 2"):
        report(bare)
    assert not (bare / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", "{oops"),
        ("metrics.json", "[]"),
        ("metrics.json", '{"settings": 1}'),
        ("metrics.json", '{"metrics": [{"name": "a"}]}'),
        ("metrics-w1.json", '{"loss_by_logsnr": [{"low": 0}]}'),
        ("metrics.json", '{"metrics": 1}'),
        ("commands.json", "{}"),
        ("commands.json", "[1]"),
        ("stages.json", "{}"),
        ("stages.json", "[1]"),
        ("stages.json", '[{"loss": 1.0}]'),
        ("stages.json", '[{"student_steps": 2, "loss": "low"}]'),
        ("stages.json", "[" * 100_000),
        ("config.toml", "[train"),
    ],
)
def test_a_malformed_file_is_named(bare, name, text):
    (bare / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        report(bare)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.toml", "log.jsonl", "metrics.json", "commands.json"])
def test_a_file_that_is_no_text_is_named(bare, name):
    (bare / name).write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=re.escape(name)):
        report(bare)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected a run directory with a config\.toml"):
        report(tmp_path)
