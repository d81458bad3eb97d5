"""Draws that differ in a setting: folders of their own, and what compares them."""

import json

import numpy as np
import pytest
from PIL import Image

from vfn.sampling import untrained, variants, write_samples
from vfn.sampling.job import compared_folders


def test_solvers_and_steps_are_compared(trained, tmp_path, capsys):
    several = variants(trained, {"sampler": ["ddim", "unipc"], "steps": [1, 2, 4]}, num=10)
    written = write_samples(several, tmp_path)
    folders = [f"{s}-steps{n}" for s in ("ddim", "unipc") for n in (1, 2, 4)]
    assert [one.folder.name for one in written] == folders
    assert [one.nfe for one in written] == [1, 2, 4] * 2
    assert {path.name for path in tmp_path.iterdir()} == {*folders, "sweep.png", "sweep.json"}
    assert f"comparison: {tmp_path / 'sweep.png'}" in capsys.readouterr().err
    record = json.loads((tmp_path / "unipc-steps4" / "settings.json").read_text())
    assert (record["sampler"], record["sample_timesteps"]) == ("unipc", 4)
    with Image.open(tmp_path / "sweep.png") as sheet:  # two blocks of three rows of ten tiles
        assert sheet.height > 2 * 3 * 48
        assert sheet.width > 10 * 48


def test_guidance_is_animated(trained, tmp_path):
    several = variants(trained, {"guidance": [0.0, 1.0, 20.0, 1.0]}, num=10)
    write_samples(several, tmp_path / "a")
    with Image.open(tmp_path / "a" / "guidance.webp") as animation:
        assert animation.n_frames == 3
    assert {path.name for path in (tmp_path / "a").iterdir()} >= {"w0", "w1", "w20"}
    write_samples(several[:2], tmp_path / "b", animate=False)
    assert not (tmp_path / "b" / "guidance.webp").exists()
    write_samples(several[:2], tmp_path / "c", grid=False)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"w0", "w1"}


def test_what_compares_other_folders_is_removed(trained, tmp_path):
    sheet, film = tmp_path / "sweep.png", tmp_path / "guidance.webp"
    strengths = variants(trained, {"guidance": [0.0, 1.0]}, num=2)
    write_samples(strengths, tmp_path)
    assert compared_folders(tmp_path) == ["w0", "w1"]
    first = sheet.read_bytes()
    write_samples(strengths, tmp_path, animate=False)  # the same again
    assert (sheet.read_bytes(), film.exists()) == (first, True)
    compared = {"guidance": [0.0, 1.0], "sampler": ["ddim", "heun"]}
    write_samples(variants(trained, compared, num=2), tmp_path)
    assert compared_folders(tmp_path) == ["ddim-w0", "heun-w0", "ddim-w1", "heun-w1"]
    assert sheet.read_bytes() != first
    assert not film.exists()
    write_samples(strengths, tmp_path)
    assert (sheet.read_bytes(), film.exists()) == (first, True)


@pytest.mark.parametrize("text", [None, "", "[]", '{"folders": 3}', "{}"])
def test_a_sheet_of_an_earlier_version_does_not_say_what_it_shows(trained, tmp_path, text):
    strengths = variants(trained, {"guidance": [0.0, 1.0]}, num=2)
    write_samples(strengths, tmp_path)
    (tmp_path / "sweep.json").unlink()
    if text is not None:
        (tmp_path / "sweep.json").write_text(text)
    assert compared_folders(tmp_path) is None
    write_samples(strengths, tmp_path)
    assert compared_folders(tmp_path) == ["w0", "w1"]


def test_lists_of_many_times_have_folders_of_their_own(trained, tmp_path):
    """No file system takes a name of all of them."""
    lists = [tuple(round(1 - (1 - end) * i / 63, 6) for i in range(64)) for end in (0.01, 0.02)]
    compared = variants(trained, {"times": lists}, num=1, steps=64)
    written = write_samples(compared, tmp_path, animate=False)
    assert sorted(compared_folders(tmp_path)) == sorted(one.folder.name for one in written)
    assert all((one.folder / "grid.png").is_file() for one in written)
    assert [one.present for one in write_samples(compared, tmp_path, animate=False)] == [1, 1]


def test_any_setting_can_be_compared(trained, tmp_path):
    compared = variants(trained, {"eta": [0.0, 0.5]}, num=2, sampler="ddim")
    written = write_samples(compared, tmp_path)
    assert [one.folder.name for one in written] == ["eta0", "eta0.5"]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (lambda t: [], "expected at least one Draws to write, got none"),
        (lambda t: [t.draws(2), t.draws(3, steps=4)], "expected draws of one network, number, la"),
        (lambda t: [t.draws(2), t.draws(2, "7", steps=4)], "expected draws of one network, number"),
        (lambda t: [t.draws(2), t.draws(2, seed=1, steps=4)], "expected draws of one network"),
        (lambda t: [t.draws(2), t.draws(2, batch=1)], "whose settings differ, got some that are"),
    ],
)
def test_draws_that_cannot_be_compared(trained, tmp_path, others, message):
    with pytest.raises(ValueError, match=message):
        write_samples(others(trained), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_variants_share_what_is_not_compared(trained):
    several = variants(trained, {"guidance": [], "steps": [2, 4]}, 5, "7", seed=3, sampler="ab2")
    assert [(d.num, d.seed, d.asked.names) for d in several] == [(5, 3, ["7"])] * 2
    assert [d.settings.sampler for d in several] == ["ab2"] * 2
    assert [d.settings.sample_timesteps for d in several] == [2, 4]
    assert len(variants(trained, {}, 5)) == 1
    several = variants(trained, {"guidance": np.array([0.0, 1.0])}, 5)
    assert [d.settings.guidance for d in several] == [0.0, 1.0]
    with pytest.raises(ValueError, match="solver ddim takes no churn"):
        variants(trained, {"sampler": ["heun", "ddim"]}, churn=0.1)


def test_a_comparison_of_somebody_else_is_not_written_over(trained, tmp_path):
    (tmp_path / "sweep.png").write_bytes(b"theirs")
    several = variants(trained, {"steps": [1, 2]}, num=2)
    with pytest.raises(ValueError, match=r"sweep\.png is there, and no pictures of vfn sample"):
        write_samples(several, tmp_path)
    (tmp_path / "sweep.png").unlink()
    write_samples(several, tmp_path)
    write_samples(variants(trained, {"steps": [3, 4]}, num=2), tmp_path)


def test_strengths_that_differ_little_have_folders_of_their_own(trained, tmp_path):
    weights = [0.1, 0.1 + 1e-9, 0.1234567, 0.12345674]
    several = variants(trained, {"guidance": weights}, num=1)
    written = write_samples(several, tmp_path, animate=False)
    assert [float(one.folder.name.removeprefix("w")) for one in written] == weights


def test_labels_that_get_no_picture_are_named(capsys):
    trained = untrained("digits")
    variants(trained, {}, 1, "3,7,5")
    line = "of 3 labels the first 1 get a picture each; not 7, 5"
    assert line in capsys.readouterr().err
    variants(trained, {}, 3, "3,7,5")
    variants(trained, {}, 1)
    assert "get a picture" not in capsys.readouterr().err
