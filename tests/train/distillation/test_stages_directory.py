"""What a distillation finds in its directory: nothing of it comes to harm, as of a run."""

import shutil

import pytest
import torch

from tests.helpers.distilling import go
from vfn.configs import load, override
from vfn.runs import RunFiles, find_checkpoint
from vfn.train import train


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """Stages of 4 and of 2 steps; tests work on copies."""
    out = tmp_path_factory.mktemp("finished")
    go(teacher, out, student_steps=2)
    return out


@pytest.fixture
def begun(finished, tmp_path):
    return RunFiles(shutil.copytree(finished, tmp_path / "begun"))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lose_checkpoints(files):
    for run in files.stage_runs():
        shutil.rmtree(run.checkpoints)


def refused(teacher, files, message, **options):
    """And the directory is as it was."""
    before = content(files.path)
    with pytest.raises(ValueError, match=message):
        go(teacher, files.path, student_steps=2, **options)
    assert content(files.path) == before


def test_stages_are_found_in_order(begun):
    (begun.path / "steps-x").mkdir()
    assert [run.path.name for run in begun.stage_runs()] == ["steps-4", "steps-2"]


@pytest.mark.parametrize("fresh", [False, True])
def test_checkpoints_are_never_replaced(teacher, begun, fresh):
    refused(teacher, begun, "begun already holds a run; add --resume", fresh=fresh)
    shutil.rmtree(begun.stage(4).path)
    refused(teacher, begun, "begun already holds a run; add --resume", fresh=fresh)


def test_what_has_lost_its_checkpoints_is_left_as_it_is(teacher, begun):
    lose_checkpoints(begun)
    missing = "config.toml, teacher.safetensors, stages.json but no checkpoint of a stage.*--fresh"
    refused(teacher, begun, missing)
    missing = "steps-4/config.toml, steps-4/log.jsonl, steps-2/config.toml and 1 more but no check"
    refused(None, begun, missing, resume=True)
    assert go(None, begun.path, student_steps=2, resume=True, fresh=True) == (2, 5, 0)


@pytest.mark.parametrize("damaged", [False, True])
def test_it_begins_anew_where_it_is_told(teacher, begun, damaged):
    """With other settings and stages too; what was there before counts for nothing."""
    if damaged:
        for run in begun.stage_runs():
            damage(run)
        refused(teacher, begun, "is damaged .*; restore one, or add --fresh to train anew")
    else:
        lose_checkpoints(begun)
    begun.teacher_grid.write_bytes(b"of another teacher")
    settings = {"student_steps": 2, "teacher_steps": 4, "teacher_guidance": 0.0}
    assert go(teacher, begun.path, fresh=True, **settings) == (2, 5, 0)
    assert find_checkpoint(begun.stage(2).path).config.distill.teacher_guidance == 0
    assert begun.teacher_grid.read_bytes() != b"of another teacher"
    assert not begun.begun.exists()
    assert not begun.stage(4).checkpoint_files()
    # It goes on as any other.
    assert go(None, begun.path, resume=True, **settings) == (2, 5, 0)


def test_fresh_does_no_harm_to_what_is_resumed(begun):
    before = content(begun.stage(4).checkpoints)
    assert go(None, begun.path, resume=True, fresh=True, student_steps=1) == (1, 5, 0)
    assert content(begun.stage(4).checkpoints) == before


def damage(run):
    for path in run.checkpoint_files():
        path.write_bytes(b"damaged")


def test_a_stage_whose_checkpoints_are_damaged_is_trained_anew_where_it_is_told(begun):
    """The last one: from those before it others have learned."""
    first, last = begun.stage(4), begun.stage(2)
    assert go(None, begun.path, resume=True) == (2, 5, 0)
    ema = find_checkpoint(last.path).ema
    expected, before = {name: value.clone() for name, value in ema.items()}, content(first.path)
    damage(last)
    refused(None, begun, "steps-2.*damaged.*; restore one, or add --fresh to train", resume=True)
    assert go(None, begun.path, resume=True, fresh=True) == (2, 5, 0)
    again = find_checkpoint(last.path).ema
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    assert content(first.path) == before
    damage(first)
    for fresh in (False, True):
        fault = "no checkpoint of .*steps-4 can be read, and .*steps-2 has learned from it"
        refused(None, begun, fault, resume=True, fresh=fresh)


@pytest.mark.parametrize("later", ["nothing else", "its teacher", "a stage"])
def test_what_was_killed_before_its_first_checkpoint_begins_again(teacher, begun, later):
    """As a run does: with the same command, or with other settings."""
    lose_checkpoints(begun)
    begun.begun.touch()  # as such a distillation leaves it
    for run in begun.stage_runs():
        if later != "a stage" or run.path.name == "steps-2":
            shutil.rmtree(run.path)
    if later == "a stage":
        begun.stage(4).begun.touch()
    if later == "nothing else":
        begun.teacher.unlink()
        begun.stages.unlink()
    assert go(teacher, begun.path, student_steps=2, teacher_guidance=0.0) == (2, 5, 0)
    assert not begun.begun.exists()


def test_foreign_directories_are_left_as_they_are(teacher, config, tmp_path):
    theirs = RunFiles(tmp_path / "theirs")
    theirs.path.mkdir()
    theirs.config.write_text("theirs")
    refused(teacher, theirs, "holds config.toml but no checkpoint of a stage")
    run = RunFiles(tmp_path / "run")
    train(override(config, {"steps": 1}), run.path, device="cpu")
    for fresh in (False, True):
        refused(teacher, run, "run already holds a run; add --resume", fresh=fresh)


def test_no_run_takes_the_place_of_a_distillation(config, begun):
    before = content(begun.path)
    for fresh in (False, True):
        with pytest.raises(ValueError, match="holds a distillation; choose another --out"):
            train(override(config, {"steps": 1}), begun.path, device="cpu", fresh=fresh)
    assert content(begun.path) == before
    assert load(str(begun.config)).distill.teacher_steps == 8
