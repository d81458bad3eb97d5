"""What a job refuses before its first picture: places, room, names, other settings."""

import json
from types import SimpleNamespace

import pytest

import vfn
from tests.helpers.small import SHAPE, small_config
from tests.sampling.conftest import contents
from vfn.data import Labels
from vfn.sampling import untrained, write_samples


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


def test_places_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="expected a directory at .*file, but there is a file"):
        write_samples(trained.draws(2), tmp_path / "file")
    with pytest.raises(ValueError, match="unknown format 'gif', expected one of png, npz, npy"):
        write_samples(trained.draws(2), tmp_path / "out", "gif")
    assert not (tmp_path / "out").exists()


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


def test_room_is_needed_for_what_is_missing_alone(trained, tmp_path, monkeypatch):
    write_samples(trained.draws(4), tmp_path, animate=False)
    (tmp_path / "images" / "000003.png").unlink()
    free = SimpleNamespace(total=10**9, used=0, free=4096 + 10)  # for one picture
    monkeypatch.setattr("shutil.disk_usage", lambda _path: free)
    [written] = write_samples(trained.draws(4, batch=1), tmp_path, animate=False)
    assert (written.num, written.present) == (4, 3)
