"""Pictures named by a relative path, in a folder that moves: found, or missed in one line."""

import shutil

import pytest
from click.testing import CliRunner
from PIL import Image

import vfn
from tests.helpers.formats import noise, save_pictures
from tests.helpers.processes import differing
from tests.helpers.small import SMALL
from vfn.cli import app, line_of
from vfn.configs import load
from vfn.data import load_dataset
from vfn.evaluation import read_evaluation
from vfn.numbers import number_of
from vfn.runs import find_checkpoint, mark_of

DISTILL = ["--teacher-steps", "4", "--student-steps", "2", "--steps", "2", "--last-steps", "2",
           "--batch-size", "8", "--eval-every", "0", "--preview-every", "0",
           "--teacher-guidance", "0"]  # fmt: skip


def vfn_command(*arguments):
    """Standard output; of a mistake the line."""
    words = [*map(str, arguments)]
    if words[0] in ("train", "distill", "sample", "eval"):
        words += ["--device", "cpu"]
    result = CliRunner().invoke(app, words, obj=words)
    return line_of(result.exception) if result.exception else result.output


@pytest.fixture
def places(tmp_path, monkeypatch):
    """``here`` with pictures, and ``there``; the current directory is ``here``."""
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "data"))
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    files = {f"{name}/{i}.png": noise(8, 8, seed=i) for i, name in enumerate("ab" * 5)}
    save_pictures(here / "pics", files)
    monkeypatch.chdir(here)
    return here, there


def trained(steps=2, out="run", *more):
    told = vfn_command("train", "--dataset", "pics", "--out", out, "--steps", steps, *SMALL,
                       "--preview-every", "0", *more)  # fmt: skip
    assert f"finished {number_of(steps, 'step')}" in told, told


def test_every_command_works_from_any_directory(places, monkeypatch):
    here, there = places
    trained(4, "whole")
    trained()
    assert load("run/config.toml").data.dataset == str(here / "pics")
    monkeypatch.chdir(there)
    run = here / "run"
    assert "finished 4 steps" in vfn_command("train", "--out", run, "--resume", "--steps", "4")
    assert differing(run, here / "whole") == []
    asked = ["--metrics", "fd,loss", "--labels", "as-data", "--num", "4", "--json", "m.json"]
    told = vfn_command("eval", "--real", f"dataset:{here / 'pics'}", "--fake", run, *asked)
    assert "held-out loss" in told
    assert read_evaluation("m.json").settings["labels"] == "as in the data, split train"
    vfn_command("sample", "--checkpoint", run, "--out", "s", "--num", "2", "--no-animate")
    assert (there / "s" / "grid.png").is_file()
    told = vfn_command("distill", "--teacher", run, "--out", "fast", *DISTILL)
    assert "student_steps" in told, told
    monkeypatch.chdir(here)
    told = vfn_command("distill", "--out", there / "fast", "--resume", "--last-steps", "3")
    assert find_checkpoint(there / "fast" / "steps-2").step == 3, told


def test_a_folder_that_has_moved(places):
    here, there = places
    trained()
    shutil.move("pics", there / "moved")
    missing = f"there is no folder, .npy or .npz file at {here / 'pics'}, where the pictures of "
    advice = "; if they have moved, name their new place with --dataset"
    real = ["--real", f"dataset:{there / 'moved'}:test", "--fake", "run", "--num", "8"]
    asked = {
        "run were": ["train", "--out", "run", "--resume", "--steps", "3"],
        "the teacher were": ["distill", "--teacher", "run", "--out", "fast", *DISTILL],
        "run were ": ["eval", *real, "--metrics", "loss"],
    }
    for owner, words in asked.items():
        assert vfn_command(*words).endswith(missing + owner.strip() + advice), words
    assert not (here / "fast").exists()
    new = ["--dataset", "../there/moved"]
    resumed = ["train", "--out", "run", "--resume", "--steps"]
    assert "finished 3 steps" in vfn_command(*resumed, 3, *new)
    assert load("run/config.toml").data.dataset == str(there / "moved")
    assert find_checkpoint("run").config.data.dataset == str(there / "moved")
    assert "finished 4 steps" in vfn_command(*resumed, 4)
    trained_there = find_checkpoint("run")
    shutil.move(there / "moved", here / "pics")
    told = vfn_command("eval", "--real", "dataset:pics:test", "--fake", "run", "--num", "4",
                       "--dataset", "pics", "--metrics", "loss", "--labels", "as-data")  # fmt: skip
    assert "held-out loss" in told
    assert trained_there.data == vfn.load("run", "cpu").data


def test_conditions_and_the_weaker_network_are_found_from_any_directory(places, monkeypatch):
    here, there = places
    shutil.copytree("pics", "beside")
    trained(1, "weak", "--condition", "beside")
    trained(2, "run", "--condition", "beside", "--guide-with", "run:weak")
    known = load("run/config.toml")
    assert known.data.condition == str(here / "beside")
    assert known.sample.guide_with == str(here / "weak")
    # Others of these names at another place are not taken.
    monkeypatch.chdir(there)
    save_pictures(there / "beside", {f"{n}/{i}.png": noise(8, 8) for i, n in enumerate("ab" * 5)})
    run = here / "run"
    before = vfn.load(run, "cpu").data
    assert mark_of(load_dataset(known.data)) == before
    asked = ["--fake", run, "--metrics", "fd", "--num", "4"]
    told = vfn_command("eval", "--real", f"dataset:{here / 'pics'}", *asked)
    assert "Fréchet" in told, told
    assert "any more" not in told
    # What has moved is named by its new place, and has to be what it was.
    shutil.move(here / "beside", there / "moved")
    resume = ["train", "--out", run, "--resume", "--steps", "3"]
    missing = (
        f"there is no folder, .npy or .npz file at {here / 'beside'}, where the conditions of "
        f"{run} were; if they have moved, name their new place with --condition"
    )
    assert missing in vfn_command(*resume)
    told = vfn_command("eval", "--real", f"dataset:{here / 'pics'}", *asked, "--condition", "moved")
    assert "Fréchet" in told, told
    other = vfn_command(
        "eval", "--real", f"dataset:{here / 'pics'}", *asked, "--condition", "beside"
    )
    assert f"beside is not what {run} was trained on: other pictures, labels or conditions" in other
    none = vfn_command("eval", "--real", "dataset:digits", *asked, "--condition", "grey")
    assert "expected the place of pictures beside those of the network" in none
    assert "finished 3 steps" in vfn_command(*resume, "--condition", "moved")
    assert load(str(run / "config.toml")).data.condition == str(there / "moved")
    # An evaluation under other conditions than those of the run says so.
    Image.fromarray(255 - noise(8, 8)).save(there / "moved" / "a" / "0.png")
    told = vfn_command("eval", "--real", f"dataset:{here / 'pics'}", *asked)
    assert f"{here / 'pics'} is not what {run} was trained on any more" in told
    assert "(other pictures, labels or conditions, as many as before)" in told


def test_other_pictures_are_not_those_of_the_run(places):
    here, _ = places
    trained()
    shutil.copytree("pics", "other")
    Image.fromarray(255 - noise(8, 8, seed=0)).save("other/a/0.png")
    vfn_command("distill", "--teacher", "run", "--out", "fast", *DISTILL)
    before = {path: path.read_bytes() for path in here.rglob("*.toml")}
    told = vfn_command("train", "--out", "run", "--resume", "--steps", "3", "--dataset", "other")
    assert "other is not what run was begun with: other pictures, labels or conditions, as" in told
    told = vfn_command("distill", "--out", "fast", "--resume", "--dataset", "other")
    assert "was begun with: other pictures, labels or conditions, as many as before" in told
    assert {path: path.read_bytes() for path in here.rglob("*.toml")} == before
    told = vfn_command("eval", "--real", "dataset:other", "--fake", "run", "--dataset", "other",
                       "--metrics", "fd", "--num", "8")  # fmt: skip
    assert "other is not what run was trained on: other pictures, labels or conditions" in told
    shutil.copytree("other/a", "other/c")
    told = vfn_command("train", "--out", "run", "--resume", "--steps", "3", "--dataset", "other")
    assert "was begun with: other labels, 3 classes, before 2 classes; bring back" in told
