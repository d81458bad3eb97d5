"""Mistakes in a distillation: one line, exit code 2, and nothing that was not there before."""

import shutil
import sys

import pytest

from tests.helpers.distilling import MINI, SMALL_STAGES, go
from vfn.cli import main
from vfn.train.distillation import distill


@pytest.fixture
def vfn_distill(monkeypatch, capsys):
    """``vfn_distill("--out", path) -> (exit code, standard error)``."""

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["vfn", "distill", "--device", "cpu", *map(str, arguments)]
        )
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """A finished distillation; tests work on copies."""
    out = tmp_path_factory.mktemp("finished")
    go(teacher, out)
    return out


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_refused(run, folder, *arguments, message):
    """And the folder is as it was."""
    before = content(folder)
    code, err = run(*arguments)
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("vfn: ")
    assert message in err
    assert content(folder) == before
    assert not [path for path in folder.iterdir() if path.name == "out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--logsnr-schedule", "linear"], "the teacher's logsnr_schedule cosine, got linear"),
        (["--logsnr-min", "-10"], "the teacher's logsnr_min -20.0, got -10.0"),
        (["--model-out-type", "x0"], "the teacher's model_out_type v, got x0"),
        (["--conditional", "false"], "expected the teacher's pictures"),
        (["--dataset", "digits", "--image-size", "16"], "expected the teacher's pictures"),
        (["--num-res-blocks", "2"], "the teacher's num_res_blocks 1, got 2"),
        (["--teacher-steps", "6", "--student-steps", "4"], "2, 4, 8, ... times student_steps"),
        (["--teacher-steps", "12"], "2, 4, 8, ... times student_steps, got 12 and 1"),
        (["--teacher-steps", "4", "--student-steps", "4"], "2, 4, 8, ... times student_steps"),
        (["--teacher-steps", "0"], "does not say how many steps the teacher takes"),
        (["--guidance-range", "3"], "expected guidance_range to be the lowest and the highest"),
        (["--guidance-range", "0,4", "--teacher-guidance", "1"], "one w, or guidance_range"),
        (["--batch-size", "17", "--accumulate", "2"], "batch_size that 1 processes x 2"),
        (["--config", "nowhere.toml"], "config file nowhere.toml does not exist"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_settings_that_do_not_fit(teacher, vfn_distill, tmp_path, options, message):
    begin = ["--teacher", teacher, "--out", tmp_path / "out", *SMALL_STAGES, *options]
    assert_refused(vfn_distill, tmp_path, *begin, message=message)


def test_a_teacher_that_is_not_there(vfn_distill, tmp_path):
    (tmp_path / "empty").mkdir()
    out = ["--out", tmp_path / "out"]
    for arguments, message in (
        (out, "there is no distillation in"),
        ([*out, "--resume"], "there is no distillation in"),
        ([*out, "--teacher", tmp_path / "nowhere"], "nowhere does not exist"),
        ([*out, "--teacher", tmp_path / "empty"], "holds no intact checkpoint"),
    ):
        assert_refused(vfn_distill, tmp_path, *arguments, message=message)


@pytest.fixture
def begun(finished, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(finished, tmp_path / "begun")


def test_a_stage_without_a_checkpoint(vfn_distill, begun, tmp_path):
    shutil.rmtree(begun / "steps-4" / "checkpoints")
    message = "has a checkpoint, but the stage before it"
    assert_refused(vfn_distill, tmp_path, "--out", begun, "--resume", message=message)


def test_a_distillation_is_not_begun_twice(teacher, vfn_distill, begun, tmp_path):
    arguments = ["--out", begun, "--teacher", teacher, *SMALL_STAGES]
    message = "already holds a run; add --resume"
    assert_refused(vfn_distill, tmp_path, *arguments, message=message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher-steps", "16"], "has a checkpoint, but the stage before it"),
        (["--teacher-steps", "4"], "was begun with teacher_steps 8, got 4"),
        (["--teacher-guidance", "1"], "was begun with teacher_guidance 0.5, got 1.0"),
        (["--teacher-guidance", "0"], "was begun with teacher_guidance 0.5, got 0.0"),
        (["--optimizer", "muon"], "was begun with optimizer adamw, got muon"),
    ],
)
def test_a_distillation_of_other_settings(vfn_distill, begun, tmp_path, options, message):
    arguments = ["--out", begun, "--resume", *options]
    assert_refused(vfn_distill, tmp_path, *arguments, message=message)


def test_no_student_is_left_behind(vfn_distill, begun, tmp_path):
    """One of fewer steps has learned from those that would go on."""
    shutil.rmtree(begun / "steps-1")
    fewer = ["--student-steps", "4", "--steps", "16"]
    message = "was begun with student_steps 2, got 4, and steps-2 has a checkpoint; leave that"
    for asked in (fewer[:2], fewer):
        assert_refused(vfn_distill, tmp_path, "--out", begun, "--resume", *asked, message=message)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_student_of_any_steps_is_not_trained_anew(teacher, vfn_distill, tmp_path, steps):
    """Its own steps are but those that it is drawn in by default."""
    settings = {"steps": 2, "batch_size": 16, "eval_every": 0, "preview_every": 0}
    distill(teacher, tmp_path / "begun", device="cpu", method="ect", student_steps=2, **settings)
    arguments = ["--out", tmp_path / "begun", "--resume", "--student-steps", steps]
    message = f"student_steps 2, got {steps}, and steps-2 has a checkpoint; leave that setting as"
    assert_refused(vfn_distill, tmp_path, *arguments, message=message)
    drawn = f"draw it in other steps with vfn sample --steps {steps}, or choose another --out"
    assert_refused(vfn_distill, tmp_path, *arguments, message=drawn)


def test_a_range_cannot_be_changed_on_the_way(teacher, vfn_distill, tmp_path):
    go(teacher, tmp_path / "begun", student_steps=4, guidance_range=(0.0, 4.0))
    arguments = ["--out", tmp_path / "begun", "--resume", "--guidance-range", "0,2"]
    message = "was begun with guidance_range (0.0, 4.0), got (0.0, 2.0)"
    assert_refused(vfn_distill, tmp_path, *arguments, message=message)


def test_a_student_s_directory_of_another_distillation(teacher, vfn_distill, begun, tmp_path):
    go(teacher, tmp_path / "other", student_steps=4, teacher_guidance=0.0)
    shutil.rmtree(begun / "steps-4")
    (tmp_path / "other" / "steps-4").rename(begun / "steps-4")
    message = "steps-4 was begun with teacher_guidance 0.0, got 0.5"
    assert_refused(vfn_distill, tmp_path, "--out", begun, "--resume", message=message)


def test_what_may_change_on_the_way_may_change(teacher, tmp_path):
    """Further down than planned, or for longer."""
    go(teacher, tmp_path, student_steps=4)
    longer = MINI["last_steps"] + 1
    assert go(teacher, tmp_path, resume=True, student_steps=2, last_steps=longer) == (2, longer, 0)
