"""The benchmark of few-step methods: what is asked of each for a number of updates."""

import json
from argparse import Namespace

import pytest
from click.testing import CliRunner

from benchmarks import fewsteps
from vfn.configs import load, override
from vfn.train.distillation import METHODS, stages_of


@pytest.mark.parametrize("method", ["consistency", "ect", "moment_matching", "progressive"])
@pytest.mark.parametrize("updates", [600, 3000])
def test_all_stages_together_take_about_as_many_updates_as_are_asked_for(method, updates):
    asked = fewsteps.settings(method, updates)
    plan = override(load(METHODS[method].preset), asked)
    taken = sum(stage.train.steps for stage in stages_of(plan).values())
    assert 0.98 * updates <= taken <= updates


def test_a_student_of_progressive_distillation_has_the_updates_of_its_teachers():
    """Of 1,200: 100 to each of 32, 16, 8 and 4 steps, 400 to 2 and to 1."""
    found = {n: fewsteps.taught("progressive", 1200, n) for n in ("32", "8", "4", "2", "1")}
    assert found == {"32": 100, "8": 300, "4": 400, "2": 800, "1": 1200}
    assert fewsteps.taught("ect", 1200, "2, from t = 0.7") == 1200


def test_parts_of_a_run_keep_their_share_of_it():
    preset = load("digits_consistency")
    share = preset.diffusion.objective_options["tangent_warmup"] / preset.train.steps
    asked = fewsteps.settings("consistency", 600)
    assert asked["objective_options"]["tangent_warmup"] == round(600 * share)
    assert asked["method_options"]["regress_updates"] == 40
    stages = [
        n / fewsteps.settings("ect", n)["objective_options"]["stage_updates"] for n in (500, 4000)
    ]
    assert stages == [10, 10]


def test_the_table_has_what_is_there(tmp_path, monkeypatch):
    """A row for each number of steps, with as many seeds as there are; the picture of the first."""
    figures = {key: 0.5 for key, _ in fewsteps.FIGURES.values()}
    figures |= {"train perfect": 0.1, "test perfect": 0.2}
    for name in ("ect-0-0", "ect-0-1", "teacher-0-0", "ect-0.5-0"):
        kept = {"updates": 10, "cost": 0.1, "figures": {"1": figures, "2": figures}}
        (tmp_path / f"{name}.json").write_text(json.dumps(kept))
    tables, pictures = [], []
    monkeypatch.setattr(fewsteps, "write_table", lambda *given: tables.append(given))
    monkeypatch.setattr(fewsteps, "picture", lambda *given: pictures.append(given))
    words = [str(tmp_path), "--weights", "0,0.5", "--jobs", "0", "--out", str(tmp_path)]
    done = CliRunner().invoke(fewsteps.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    _, _, head, lines, note = tables[0]
    assert all(len(line) == len(head) for line in lines)
    assert [line[:4] for line in lines] == [
        ["0", "teacher", "1", "1"], ["0", "teacher", "2", "1"], ["0", "ect", "1", "2"],
        ["0", "ect", "2", "2"], ["0.5", "ect", "1", "1"], ["0.5", "ect", "2", "1"],
    ]  # fmt: skip
    assert lines[2][4] == "0.5000 ± 0.0000"
    assert "0.1000, and of 0.2000 to held-out" in note
    assert "Not run: consistency at w = 0, moment_matching at w = 0, progressive at" in note
    assert pictures[0][1:] == (["teacher", "ect"], 0.0, 0, tmp_path)


def test_every_run_has_figures_of_its_own(tmp_path, monkeypatch):
    """A weight of guidance has a point in it, as the endings of files do."""
    monkeypatch.setattr(fewsteps, "cost", lambda *_: 0.1)
    monkeypatch.setattr(fewsteps, "distill", lambda *_, **__: Namespace(signum=0))
    monkeypatch.setattr(fewsteps, "figures", lambda *_: {"train perfect": 0.0})
    for w, seed in ((0.5, 0), (0.5, 1), (0.25, 0), (0.0, 0)):
        fewsteps.job(tmp_path, "ect", w, seed, 1.0, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"ect-{run}{end}" for run in ("0.5-0", "0.5-1", "0.25-0", "0-0")
        for end in (".json", ".plan.json")
    }  # fmt: skip
