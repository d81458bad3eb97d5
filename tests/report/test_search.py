"""Results are found where they were written, by what they say of their run."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.small import small_checkpoint
from vfn.configs import dumps
from vfn.evaluation import judge
from vfn.report import report
from vfn.report.search import find_results
from vfn.runs import RunFiles, save_checkpoint
from vfn.sampling import load, variants, write_samples


def make_run(path, step=3):
    run, checkpoint = RunFiles(path), small_checkpoint(step=step)
    save_checkpoint(run, checkpoint, keep=1)
    run.config.write_text(dumps(checkpoint.config))
    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A project with two runs, and results of both in many places."""
    place = tmp_path_factory.mktemp("project")
    ours, theirs = make_run(place / "runs/ours"), make_run(place / "runs/theirs", step=4)
    for run, name in ((ours, "ours"), (theirs, "theirs")):
        network = load(run.path, "cpu")
        write_samples(network.draws(4), place / f"{name}-samples", animate=False)
        write_samples(variants(network, {"guidance": [0.0, 1.0]}, 4), place / f"out/{name}-sweep",
                      animate=False)  # fmt: skip
        found = judge("dataset:digits", network.draws(8), ["fd"], device="cpu")
        found.write(place / "json" / f"{name}.json")
    network = load(ours.path, "cpu")
    write_samples(network.draws(4, steps=1), ours.path / "more", animate=False)
    judge("dataset:digits", place / "ours-samples", ["pr"], device="cpu").write(
        place / "folder.json"
    )
    return place


@pytest.fixture
def project(written, tmp_path, monkeypatch):
    """A copy of it, from which a report is asked for; the paths that it records are stale."""
    place = shutil.copytree(written, tmp_path / "project")
    for path in place.rglob("*.json"):
        path.write_text(path.read_text().replace(str(written), str(place)))
    monkeypatch.chdir(place)
    return place


def names(found, place):
    """Where results are, in order."""
    return (
        [path.relative_to(place).as_posix() for path, _ in found.samples],
        [(sweep.path.relative_to(place).as_posix(), len(sweep.parts)) for sweep in found.sweeps],
        [evaluation.settings["num"] for evaluation in found.evaluations],
    )


ALL = (["runs/ours/more", "ours-samples"], [("out/ours-sweep", 2)], [4, 8])


def test_results_are_found_in_the_run_and_in_the_current_directory(project):
    found = find_results(RunFiles(Path("runs/ours")))
    assert names(found, project) == ALL
    page = report("runs/ours").read_text()
    assert page.count('alt="Grid of generated pictures of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"') == 2
    assert "Guidance 0.5, abm2, 1 step, after 3 training steps. In more." in page
    assert "In project/ours-samples." in page
    assert "<h2>Guidance <a" in page
    assert page.count('<table class="figures"') == 1
    assert str(project) not in page


def test_a_sheet_is_of_the_folders_that_it_shows(project):
    """Strengths of guidance, and beside them two solvers, which the sheet shows alone."""
    network, out = load(Path("runs/ours"), "cpu"), project / "out/ours-sweep"
    write_samples(variants(network, {"sampler": ["ddim", "heun"]}, 4), out, animate=False)

    def shown():
        [sweep] = find_results(RunFiles(Path("runs/ours"))).sweeps
        return [part.path.name for part in sweep.parts]

    assert shown() == ["ddim", "heun"]
    assert "The same noise: solver." in report("runs/ours").read_text()
    (out / "sweep.json").unlink()  # as beside a sheet of an earlier version
    assert shown() == ["ddim", "heun", "w0", "w1"]


def test_results_are_found_beside_the_run(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # two levels above
    (project / "ours-samples").rename(project / "runs" / "ours-samples")
    found = names(find_results(RunFiles(project / "runs/ours")), project)
    assert "runs/ours-samples" in found[0]


def test_a_run_that_was_moved_is_known_by_its_parameters(project):
    (project / "runs/ours").rename(project / "runs/moved")
    found = names(find_results(RunFiles(project / "runs/moved")), project)
    assert found == (["runs/moved/more", "ours-samples"], *ALL[1:])


def test_another_run_at_the_recorded_path_is_another_run(project):
    """Its results are not those of a copy of it, although parameters are the same."""
    shutil.copytree(project / "runs/ours", project / "runs/copy")
    found = names(find_results(RunFiles(project / "runs/copy")), project)
    assert found == (["runs/copy/more"], [], [])


def test_what_belongs_to_nobody_can_be_added(project):
    files = RunFiles(project / "runs/ours")
    add = ["theirs-samples", "json/theirs.json", "out/theirs-sweep"]
    samples, sweeps, evaluations = names(find_results(files, add), project)
    assert samples == [*ALL[0][:1], "theirs-samples", *ALL[0][1:]]
    assert [name for name, _ in sweeps] == ["out/theirs-sweep", "out/ours-sweep"]
    assert len(evaluations) == 3


@pytest.mark.parametrize("name", ["runs", "nowhere", "note.txt", "note.json"])
def test_what_cannot_be_added_is_refused(project, name):
    for path in (project / "note.txt", project / "note.json"):
        path.write_text("[]")
    with pytest.raises(ValueError, match=r"expected a folder of vfn sample|holds no evaluation"):
        report("runs/ours", [name])


@pytest.mark.usefixtures("project")
def test_the_command_takes_them():
    from click.testing import CliRunner

    from vfn.cli import app

    words = ["report", "run:runs/ours", "--add", "theirs-samples", "--add", "json/theirs.json"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.output == "open runs/ours/report.html\n"
    page = Path("runs/ours/report.html").read_text(encoding="utf-8")
    assert page.count('alt="Grid of generated pictures of') == 3


def test_files_of_somebody_else_are_passed_over(project):
    (project / "package.json").write_text('{"name": "web", "metrics": [1]}')
    (project / "broken.json").write_text("{")
    (project / "deep.json").write_text("[" * 100_000)
    (project / "link.json").symlink_to("nowhere")
    (project / "camera").mkdir()
    (project / "camera" / "settings.json").write_text('{"fake": "run:runs/ours"}')
    record = json.loads((project / "json/ours.json").read_text())
    for name, run in (("long", "a" * 5000), ("null", "a\0b")):
        record["settings"] = {"run": run}
        (project / f"{name}.json").write_text(json.dumps(record))
    (project / "loop").symlink_to(project)
    env = project / "env"
    env.mkdir()
    (env / "pyvenv.cfg").touch()
    shutil.copy(project / "json/ours.json", env)
    assert names(find_results(RunFiles(Path("runs/ours"))), project) == ALL


def test_evaluations_of_earlier_versions_name_their_run_as_it_was_typed(project):
    path = project / "json/ours.json"
    record = json.loads(path.read_text())
    for name in ("run", "ema_sha256"):
        del record["settings"][name]
    for fake, count in (("run:runs/ours", 2), ("run:runs/theirs", 1), ("pictures", 1)):
        path.write_text(json.dumps({**record, "settings": {**record["settings"], "fake": fake}}))
        found = find_results(RunFiles(Path("runs/ours"))).evaluations
        assert len(found) == count


@pytest.mark.usefixtures("project")
def test_a_large_place_is_not_searched_to_its_end(monkeypatch):
    monkeypatch.setattr("vfn.report.search._MOST", 3)
    found = find_results(RunFiles(Path("runs/ours")))
    assert "ours-samples" not in [path.name for path, _ in found.samples]
