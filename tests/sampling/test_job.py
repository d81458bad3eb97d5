"""Pictures in files: the same in any layout, and none lost or drawn twice after a kill."""

import json
import platform
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from safetensors.numpy import load_file

import vfn
from tests.helpers.processes import wait_until
from tests.helpers.small import SHAPE, small_config
from vfn.configs import override
from vfn.data import Labels
from vfn.sampling import Draws, ask, untrained, variants, write_samples
from vfn.sampling.job import compared_folders
from vfn.sampling.output import PARTS, open_output

# Less memory may be free for one process than for another one, which then takes other batches.
SCRIPT = """
import os, sys
from pathlib import Path
import vfn
from vfn.sampling import write_samples
run, out, kind, num, batch, steps, animate = sys.argv[1:]
size = int(batch) + int(os.environ.get("RANK", 0))
draws = vfn.load(run, "cpu").draws(int(num), batch=size, steps=int(steps))
write_samples(draws, Path(out), kind, animate=animate == "animate")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A script that writes samples, for processes of their own."""
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT)
    return path


def contents(folder):
    """Name and bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def drawn(monkeypatch):
    """How many pictures each batch has that is drawn."""
    calls = []
    whole = Draws.batch

    def counting(self, indices, watch=None):
        calls.append(len(indices))
        return whole(self, indices, watch)

    monkeypatch.setattr(Draws, "batch", counting)
    return calls


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_two_processes_write_what_one_does(run, trained, forks, script, tmp_path, kind):
    write_samples(trained.draws(30, batch=7), tmp_path / "one", kind)
    words = (run, tmp_path / "two", kind, 30, 7, 2, "animate")
    err = forks.run(*words, script=script, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert err.count("30 pictures at guidance") == 1


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_a_killed_job_goes_on(run, trained, forks, script, tmp_path, capsys, kind):
    """SIGKILL among 1,000 pictures: then the whole is there, and what was there is not touched."""
    out = tmp_path / "out"
    draws = trained.draws(1000, batch=50, steps=1)
    output = open_output(kind, out, 1000)
    forks.start(run, out, kind, 1000, 50, 1, "still", script=script)
    wait_until(lambda: len(output.present()) >= 200, forks.alive)
    forks.end(-signal.SIGKILL, signal.SIGKILL)
    kept = output.present()
    assert 200 <= len(kept) < 1000
    times = {p: p.stat().st_mtime_ns for p in out.glob("images/*.png")}
    [written] = write_samples(draws, out, kind, animate=False)
    assert written.present == len(kept) - len(kept) % 50
    assert f"{written.present} of 1000 pictures were there already" in capsys.readouterr().err
    if kind == "png":  # those of a batch that was cut short are written again
        touched = [path for path, then in times.items() if path.stat().st_mtime_ns != then]
        assert len(touched) == len(kept) % 50
    write_samples(draws, tmp_path / "whole", kind, animate=False)
    assert contents(out) == contents(tmp_path / "whole")
    assert open_output(kind, out, 1000).present() == set(range(1000))


@pytest.mark.parametrize("kind", ["png", "npz", "safetensors"])
def test_what_is_there_is_not_drawn_again(trained, tmp_path, drawn, kind):
    draws = trained.draws(20, batch=5)
    [first] = write_samples(draws, tmp_path, kind, animate=False)
    before = contents(tmp_path)
    assert drawn == [5] * 4
    assert first == (tmp_path, tmp_path / "grid.png", 20, 2, 0)
    [again] = write_samples(draws, tmp_path, kind, animate=False)
    assert again == (tmp_path, tmp_path / "grid.png", 20, 0, 20)
    assert len(drawn) == 4
    assert contents(tmp_path) == before
    write_samples(draws, tmp_path, kind, animate=False, fresh=True)
    assert len(drawn) == 8
    assert contents(tmp_path) == before


def test_lost_and_empty_pictures_are_drawn_again(trained, tmp_path, drawn):
    """An empty file is what a power cut may leave."""
    draws = trained.draws(20, batch=5)
    write_samples(draws, tmp_path, animate=False)
    before = contents(tmp_path)
    (tmp_path / "images" / "000007.png").unlink()
    (tmp_path / "images" / "000019.png").write_bytes(b"")
    (tmp_path / "images" / f".000003.png.{platform.node()}.{2**22 + 1}.tmp").write_bytes(b"half")
    [written] = write_samples(draws, tmp_path, animate=False)
    assert written.present == 10
    assert len(drawn) == 6
    assert contents(tmp_path) == before


def test_parts_of_another_batch_are_used(trained, tmp_path, drawn):
    output = open_output("npz", tmp_path, 20)
    write_samples(trained.draws(20, batch=5), tmp_path, "npz", animate=False)
    with np.load(tmp_path / "samples.npz") as file:
        whole = file["arr_0"]
    output.clear()
    output.write(torch.arange(10), torch.from_numpy(whole[:10]).movedim(-1, 1))
    write_samples(trained.draws(20, batch=4), tmp_path, "npz", animate=False)
    assert drawn == [5] * 4 + [4] * 3
    with np.load(tmp_path / "samples.npz") as again:
        assert np.abs(again["arr_0"].astype(int) - whole).max() <= 1
    assert not (tmp_path / PARTS).exists()


def test_formats_hold_the_same_pictures(trained, tmp_path):
    draws = trained.draws(12, ["3", "9"])
    for kind in ("png", "npz", "safetensors"):
        write_samples(draws, tmp_path / kind, kind)
    with np.load(tmp_path / "npz" / "samples.npz") as file:
        array, labels = file["arr_0"], file["arr_1"]
        assert file["class_names"].tolist() == list("0123456789")
    assert array.shape == (12, 8, 8, 1)
    assert array.dtype == np.uint8
    assert np.array_equal(array, draws.all().images.movedim(1, -1).numpy())
    assert labels.tolist() == [3, 9] * 6  # from 0, as everybody's files
    for i in range(12):
        with Image.open(tmp_path / "png" / "images" / f"{i:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), array[i, ..., 0])
    tensors = load_file(tmp_path / "safetensors" / "samples.safetensors")
    assert np.array_equal(tensors["images"], array.transpose(0, 3, 1, 2))
    assert np.array_equal(tensors["labels"], labels + 1)
    grids = {(tmp_path / kind / "grid.png").read_bytes() for kind in ("png", "npz", "safetensors")}
    assert len(grids) == 1


@pytest.mark.parametrize(
    ("opened", "settings"),
    [
        ({"ema": False}, {}),
        ({"precision": "bf16"}, {}),
        ({}, {"guidance": 2.0, "guidance_interval": (-3, 5)}),
        ({}, {"guidance": 2.0, "guidance_rescale": 1.0}),
        ({}, {"guidance": 2.0}),
    ],
)
def test_options_change_the_pictures(run, trained, tmp_path, opened, settings):
    plain = trained.draws(4, steps=8, guidance=0.0)
    other = vfn.load(run, "cpu", **opened).draws(4, steps=8, **{"guidance": 0.0, **settings})
    arrays = []
    for name, draws in (("plain", plain), ("other", other)):
        write_samples(draws, tmp_path / name, "npz", grid=False, animate=False)
        with np.load(tmp_path / name / "samples.npz") as file:
            arrays.append(file["arr_0"])
    assert not np.array_equal(*arrays)
    assert {p.name for p in (tmp_path / "other").iterdir()} == {"samples.npz", "settings.json"}


@pytest.mark.parametrize(
    ("opened", "changed", "kind", "name"),
    [
        ({}, {"seed": 1}, "png", "seed 0, now 1"),
        ({}, {"steps": 3}, "png", "sample_timesteps 2, now 3"),
        ({}, {"labels": "3,9"}, "png", 'labels ["0", "1"'),
        ({}, {"num": 21}, "png", "num 20, now 21"),
        ({}, {}, "npz", 'format "png", now "npz"'),
        ({"ema": False}, {}, "png", 'parameters "ema", now "raw"'),
        ({}, {"guidance": 0.25}, "png", "guidance 0.5, now 0.25"),
        ({}, {"guidance_interval": (-3, 5)}, "png", "guidance_interval null, now [-3.0, 5.0]"),
        ({"precision": "bf16"}, {}, "png", 'precision "fp32", now "bf16"'),
    ],
)
def test_pictures_of_other_settings_are_left_alone(
    run, trained, tmp_path, drawn, opened, changed, kind, name
):
    write_samples(trained.draws(20), tmp_path, animate=False)
    before = contents(tmp_path)
    other = vfn.load(run, "cpu", **opened).draws(**{"num": 20, **changed})
    with pytest.raises(ValueError, match="holds pictures of other settings") as refused:
        write_samples(other, tmp_path, kind, animate=False)
    assert name in str(refused.value)
    assert "use another --out, or --fresh to draw them anew" in str(refused.value)
    assert len(drawn) == 1
    assert contents(tmp_path) == before


def test_pictures_of_another_network_are_left_alone(trained, tmp_path):
    """Even at the same step."""
    write_samples(trained.draws(2), tmp_path, animate=False)
    record = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(record | {"sha256": "0"}))
    with pytest.raises(ValueError, match='other settings: sha256 "0", now'):
        write_samples(trained.draws(2), tmp_path)


def test_a_grid_that_times_replace_is_not_recorded(trained, tmp_path, drawn):
    """A folder of an earlier version, which has one in its record, goes on all the same."""
    draws = trained.draws(4, steps=2, times=(1, 0.6))
    write_samples(draws, tmp_path, animate=False)
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record["times"] == [1.0, 0.6]
    assert "grid" not in record
    (tmp_path / "settings.json").write_text(json.dumps({**record, "grid": "logsnr"}))
    [written] = write_samples(draws, tmp_path, animate=False)
    assert (written.present, drawn) == (4, [4])
    with pytest.raises(ValueError, match="other settings: grid null, now"):
        write_samples(trained.draws(4, steps=2), tmp_path, animate=False)


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


def test_learned_variance(tmp_path, capsys):
    learned = override(small_config(), {"learned_variance": True, "train_timesteps": 8})
    network = untrained(learned, SHAPE)
    for value in network.params.values():
        value.add_(0.05 * torch.randn_like(value))
    given = {"sampler": "ancestral", "steps": 3}
    for name, more in (
        ("a", {"var_type": "learned"}),
        ("b", {"var_type": "learned", "guidance": 1.0}),
        ("c", {"var_type": "fixed_small"}),
    ):
        write_samples(network.draws(4, **given, **more), tmp_path / name)
    assert "NFE 3" in capsys.readouterr().err
    assert len({(tmp_path / name / "grid.png").read_bytes() for name in "abc"}) == 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sampler": "heun", "steps": 4, "guidance": 0.0}, "with heun, NFE 6\n"),
        ({"guidance": 1.0}, "with abm2, NFE 2 of doubled batches for guidance\n"),
        ({"sampler": "adaptive", "guidance": 0.0}, "with adaptive, NFE up to "),
    ],
)
def test_evaluations_are_told(trained, tmp_path, capsys, settings, told):
    write_samples(trained.draws(4, **settings), tmp_path)
    assert f"4 pictures drawn {told}" in capsys.readouterr().err


def test_a_network_that_takes_guidance_has_no_second_branch(tmp_path, capsys):
    config = override(small_config(), {"guidance_range": [0, 4], "teacher_steps": 4})
    write_samples(untrained(config, SHAPE).draws(4, guidance=2.0), tmp_path)
    assert "4 pictures drawn with abm2, NFE 2\n" in capsys.readouterr().err


def test_tags_and_combinations_of_tags(tmp_path):
    shape = SHAPE._replace(legend=Labels(("Bald", "Male", "Wavy"), tags=True))
    network = untrained(small_config(), shape)
    asked = ask(shape.legend, tags=["Male,Wavy", "Bald"])
    write_samples(network.draws(4, asked), tmp_path / "a", animate=False)
    lines = (tmp_path / "a" / "images" / "labels.csv").read_text().splitlines()
    assert lines == ["file,tags", "000000.png,Bald+Male", "000001.png,Bald+Wavy",
                     "000002.png,Bald+Male", "000003.png,Bald+Wavy"]  # fmt: skip
    write_samples(network.draws(4, asked), tmp_path / "b", "npz", animate=False)
    with np.load(tmp_path / "b" / "samples.npz") as file:
        assert file["arr_1"].tolist() == [[1, 1, 0], [1, 0, 1]] * 2
        assert file["class_names"].tolist() == ["Bald", "Male", "Wavy"]


def test_an_unconditional_network(tmp_path):
    network = untrained(small_config(), SHAPE._replace(legend=Labels()))
    [written] = write_samples(network.draws(12, guidance=0.0), tmp_path / "png")
    assert not (tmp_path / "png" / "images" / "labels.csv").exists()
    assert written.num == 12
    write_samples(network.draws(12, guidance=0.0), tmp_path / "npz", "npz")
    with np.load(tmp_path / "npz" / "samples.npz") as file:
        assert file.files == ["arr_0"]


def test_places_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="expected a directory at .*file, but there is a file"):
        write_samples(trained.draws(2), tmp_path / "file")
    with pytest.raises(ValueError, match="unknown format 'gif', expected one of png, npz, npy"):
        write_samples(trained.draws(2), tmp_path / "out", "gif")
    assert not (tmp_path / "out").exists()


def test_a_path_may_be_given_as_text(trained, tmp_path):
    assert write_samples(trained.draws(2), str(tmp_path))[0].folder == Path(tmp_path)


def test_fresh_removes_nothing_that_no_record_names(trained, tmp_path):
    theirs = tmp_path / "images" / "holiday.png"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    for fresh in (False, True):
        with pytest.raises(ValueError, match="is there, and no settings.json of vfn sample"):
            write_samples(trained.draws(2), tmp_path, fresh=fresh)
    (tmp_path / "images" / "holiday.png").unlink()
    write_samples(trained.draws(20), tmp_path)
    theirs.write_bytes(b"theirs")
    write_samples(trained.draws(3, seed=1), tmp_path, "npz", fresh=True)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["holiday.png"]
    assert (tmp_path / "samples.npz").is_file()


@pytest.mark.parametrize("shown", [{"grid": False}, {"animate": False}, {}])
def test_fresh_leaves_nothing_that_shows_the_pictures_before(trained, tmp_path, shown):
    alone, several = tmp_path / "alone", tmp_path / "several"
    strengths = {"guidance": [0.0, 1.0]}
    for folder in (alone, several, tmp_path / "a", tmp_path / "b"):
        seed, how = (1, shown) if folder in (tmp_path / "a", tmp_path / "b") else (0, {})
        whole = folder in (alone, tmp_path / "a")
        draws = trained.draws(2, seed=seed) if whole else variants(trained, strengths, 2, seed=seed)
        write_samples(draws, folder, **how)
    write_samples(trained.draws(2, seed=1), alone, fresh=True, **shown)
    write_samples(variants(trained, strengths, 2, seed=1), several, fresh=True, **shown)
    assert contents(alone) == contents(tmp_path / "a")
    assert contents(several) == contents(tmp_path / "b")


def test_fresh_leaves_a_comparison_of_other_folders(trained, tmp_path):
    write_samples(variants(trained, {"guidance": [0.0, 1.0]}, 2), tmp_path)
    before = contents(tmp_path)
    write_samples(trained.draws(2), tmp_path)
    write_samples(trained.draws(2, seed=1), tmp_path, fresh=True)
    assert contents(tmp_path).items() >= before.items()


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


def test_the_animation_comes_from_the_same_pass(trained, tmp_path, drawn):
    write_samples(trained.draws(100, steps=4, batch=30), tmp_path / "a")
    assert drawn == [30, 30, 30, 10]
    write_samples(trained.draws(100, steps=4, batch=30), tmp_path / "b", animate=False)
    for path in (tmp_path / "b").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()
    del drawn[:]
    write_samples(trained.draws(100, steps=4, batch=30), tmp_path / "b")  # all is there
    assert drawn == [30, 20]
    first, second = (
        np.stack([np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(movie)])
        for movie in (Image.open(tmp_path / name / "denoising.webp") for name in "ab")
    )
    assert len(first) == 5
    assert np.abs(first.astype(int) - second).max() <= 1


def test_a_large_animation_is_refused_before_drawing(tmp_path, drawn):
    wide = SHAPE._replace(width=1024, legend=Labels(tuple("abcdefghijklmnopqrst")))
    draws = untrained(small_config(), wide).draws(20, steps=1)
    with pytest.raises(ValueError, match="of 205.. x .* pixels exceeds WebP's 16383; leave it out"):
        write_samples(draws, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert drawn == []


@pytest.mark.parametrize(
    ("kind", "free", "count"),
    [("png", 4 * 4095, 4), ("npz", 2 * 4 * 64 - 1, 4), ("safetensors", 2 * 4 * 64 - 1, 4)],
)
def test_a_disk_without_room_is_told_before(
    trained, tmp_path, drawn, monkeypatch, kind, free, count
):
    def disk(_path):
        return SimpleNamespace(total=10**9, used=0, free=free)

    monkeypatch.setattr("shutil.disk_usage", disk)
    with pytest.raises(ValueError, match="4 pictures take about .* GB, and where"):
        write_samples(trained.draws(count), tmp_path / "a", kind, animate=False)
    assert drawn == []
    assert not (tmp_path / "a").exists()
    free += 10
    write_samples(trained.draws(count), tmp_path / "a", kind, animate=False)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_where_nothing_can_be_written_is_told_before(trained, tmp_path, drawn, place):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a directory at .*, but there is a file"):
        write_samples(trained.draws(4), tmp_path / place)
    assert drawn == []


def test_names_that_no_file_can_hold_are_told_before(tmp_path, drawn):
    broken = SHAPE._replace(legend=Labels(("a", "\udcff")))
    with pytest.raises(ValueError, match=r"the label '\\udcff', which is no UTF-8"):
        write_samples(untrained(small_config(), broken).draws(2, steps=1), tmp_path / "a")
    assert drawn == []
    assert not (tmp_path / "a").exists()


def test_a_job_tells_of_pictures_that_are_not_finite(trained, tmp_path, capsys):
    params = {name: value * float("nan") for name, value in trained.params.items()}
    write_samples(replace(trained, params=params).draws(6, batch=2), tmp_path)
    assert capsys.readouterr().err.count("6 of 6 pictures are not finite") == 1


def test_processes_that_were_asked_for_something_else(run, forks, tmp_path):
    """Each process gets another seed: all of them refuse, and nothing is written."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, vfn\n"
        "from pathlib import Path\n"
        "from vfn.sampling import write_samples\n"
        "draws = vfn.load(sys.argv[1], 'cpu').draws(4, steps=2, seed=int(os.environ['RANK']))\n"
        "write_samples(draws, Path(sys.argv[2]))\n"
    )
    err = forks.run(run, tmp_path / "out", script=script, processes=2, code=1)  # uncaught there
    assert err.count("started with different arguments: seed differs") == 2
    assert not (tmp_path / "out").exists()


def test_labels_that_get_no_picture_are_named(capsys):
    trained = untrained("digits")
    variants(trained, {}, 1, "3,7,5")
    line = "of 3 labels the first 1 get a picture each; not 7, 5"
    assert line in capsys.readouterr().err
    variants(trained, {}, 3, "3,7,5")
    variants(trained, {}, 1)
    assert "get a picture" not in capsys.readouterr().err


def test_a_job_tells_the_most_evaluations_of_its_batches(trained, tmp_path, monkeypatch):
    """As where a solver chooses its steps."""
    whole = Draws.batch

    def uneven(self, indices, watch=None):
        return whole(self, indices, watch)._replace(nfe=9 - int(indices[0]))

    monkeypatch.setattr(Draws, "batch", uneven)
    [written] = write_samples(trained.draws(4, batch=2), tmp_path, animate=False)
    assert written.nfe == 9


def test_room_is_needed_for_what_is_missing_alone(trained, tmp_path, monkeypatch):
    write_samples(trained.draws(4), tmp_path, animate=False)
    (tmp_path / "images" / "000003.png").unlink()
    free = SimpleNamespace(total=10**9, used=0, free=4096 + 10)  # for one picture
    monkeypatch.setattr("shutil.disk_usage", lambda _path: free)
    [written] = write_samples(trained.draws(4, batch=1), tmp_path, animate=False)
    assert (written.num, written.present) == (4, 3)


def test_an_animation_that_is_there_is_not_drawn_again(trained, tmp_path, drawn):
    draws = trained.draws(4)
    write_samples(draws, tmp_path, grid=False)
    before, made = contents(tmp_path), len(drawn)
    assert "denoising.webp" in before
    write_samples(draws, tmp_path, grid=False)
    assert len(drawn) == made
    assert contents(tmp_path) == before
