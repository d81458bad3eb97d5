"""What a distillation learns from: a student that has begun goes on with that alone."""

import shutil

import pytest

from tests.helpers.distilling import go
from vfn.configs import override
from vfn.runs import RunFiles, export_model, find_checkpoint
from vfn.train import train

SETTINGS = {"student_steps": 4, "teacher_guidance": 0.0}


@pytest.fixture(scope="module")
def other(teacher, tmp_path_factory):
    """A run of a network like the teacher."""
    out, own = tmp_path_factory.mktemp("other"), find_checkpoint(teacher).config
    train(override(own, {"steps": 1, "seed": 7}), out, device="cpu")
    return out


@pytest.fixture(scope="module")
def finished(teacher, other, tmp_path_factory):
    """A stage of a teacher that is led away from another network; tests work on copies."""
    out = tmp_path_factory.mktemp("finished")
    go(teacher, out, teacher_guide_with=str(other), **SETTINGS)
    return out


@pytest.fixture
def begun(finished, tmp_path):
    return RunFiles(shutil.copytree(finished, tmp_path / "begun"))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(begun, message, teacher=None):
    before = content(begun.path)
    with pytest.raises(ValueError, match=message):
        go(teacher, begun.path, resume=True, **SETTINGS)
    assert content(begun.path) == before


@pytest.mark.parametrize("name", ["teacher", "weak"])
def test_a_network_that_is_lost_has_to_be_restored(teacher, other, begun, name):
    """The run that it was of may have gone on meanwhile."""
    path, run = getattr(begun, name), teacher if name == "teacher" else other
    path.unlink()
    for named in (None, teacher):
        missing = f"{name}.safetensors is missing, from which students have learned; restore it"
        refused(begun, missing, named)
    export_model(find_checkpoint(run), path)  # as `vfn export` does
    assert go(None, begun.path, resume=True, **SETTINGS) == (4, 4, 0)


@pytest.mark.parametrize("name", ["teacher", "weak"])
def test_no_other_network_takes_its_place(teacher, other, begun, name):
    wrong = other if name == "teacher" else teacher
    export_model(find_checkpoint(wrong), getattr(begun, name))
    refused(begun, f"{name}.safetensors is another network than students have learned from")


@pytest.mark.parametrize("name", ["teacher", "weak"])
def test_a_damaged_network_has_to_be_restored(begun, name):
    """There is no other one of the same run."""
    path = getattr(begun, name)
    path.write_bytes(path.read_bytes()[:1000])
    refused(begun, f"{name}.safetensors is damaged or not a checkpoint .*; restore it, or write it")


def test_what_an_earlier_version_began_goes_on(begun):
    noted = begun.teachers.read_bytes()
    begun.teachers.unlink()
    assert go(None, begun.path, resume=True, **SETTINGS) == (4, 4, 0)
    assert begun.teachers.read_bytes() == noted


def test_what_tells_them_apart_is_no_text(begun):
    begun.teachers.write_text('{"teacher.safetensors": 1}')
    refused(begun, r"teachers.json: expected a digest of each network, got \{'teacher")


def test_before_the_first_checkpoint_it_is_asked_for_again(other, begun):
    shutil.rmtree(begun.stage(4).path)
    begun.begun.touch()  # as such a distillation leaves it
    begun.teacher.unlink()
    with pytest.raises(ValueError, match="there is no distillation in .*; name a --teacher"):
        go(None, begun.path, resume=True, **SETTINGS)
    assert go(other, begun.path, resume=True, **SETTINGS) == (4, 4, 0)
    assert find_checkpoint(begun.teacher).step == 1
