"""An extraction that is killed goes on from its shards; shards that do not fit are not used."""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.processes import wait_until
from vfn.evaluation.extractors import Extractor, Outputs
from vfn.evaluation.judging import judge
from vfn.evaluation.shards import resumable
from vfn.evaluation.stored import store_reference

CPU = torch.device("cpu")


def counted(batches, weights="a", pause=0.0):
    """A network of sorts; ``batches`` gets those it has computed."""

    def run(images):
        time.sleep(pause)
        if len(images) > 2:  # those of the trial that comes before the work do not count
            batches.append(images.clone())
        rows = images.flatten(1).float()
        return Outputs(rows.sqrt(), rows[:, :5] * 2)

    return Extractor("counted", run, {"extractor": "counted", "weights_sha256": weights})


def work(name, out, batches, pause=0.0):
    """An extraction with such a network, in a folder that has its data too."""
    network, where = counted(batches, pause=pause), {"device": "cpu", "data_dir": str(out / "data")}
    if name == "reference":
        store_reference("dataset:digits", out / "reference.npz", network, **where)
    else:
        sides = ("dataset:digits", "dataset:digits:test")
        judge(*sides, "fid,kid,is,pr", features=network, **where).write(out / "eval.json")


def results(name, out):
    """What has been written, as plain values."""
    if name == "eval":
        return json.loads((out / "eval.json").read_text())["metrics"]
    with np.load(out / "reference.npz") as file:
        assert {*file.files} >= {"mu", "sigma", "features", "logits"}
        return {key: file[key].tolist() for key in file.files}


def shards(folder):
    return sorted((folder / "data" / "features").glob("*.shard"))


@pytest.mark.parametrize(("name", "total"), [("reference", 23), ("eval", 29)])
def test_a_killed_extraction_goes_on(forks, tmp_path, name, total):
    """Of 1,437 and 360 pictures, 23 and 6 batches."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    forks.start(name, killed, script=__file__)
    wait_until(lambda: len(shards(killed)) >= 4, forks.alive)
    forks.end(-signal.SIGKILL, signal.SIGKILL)
    done = len(shards(killed))
    assert 4 <= done < 20
    assert [path.name for path in killed.iterdir()] == ["data"]
    work(name, killed, batches := [])
    assert len(batches) == total - done
    assert not (killed / "data" / "features").exists()
    work(name, whole, batches := [])
    assert len(batches) == total
    assert results(name, killed) == results(name, whole)


def pictures(value):
    return torch.full((3, 1, 2, 4), value, dtype=torch.uint8)


def interrupted(folder, batches, images, **options):
    """Extract, then stop before the end; the features."""
    try:
        with resumable(counted(batches, **options), folder, CPU) as kept:
            got = kept.run(images)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return got


def test_shards_are_of_these_pictures_and_weights_alone(tmp_path):
    batches = []
    first = interrupted(tmp_path, batches, pictures(4))
    again = interrupted(tmp_path, batches, pictures(4))
    assert len(batches) == 1
    assert all(map(torch.equal, first, again))
    assert interrupted(tmp_path, batches, pictures(9)).features[0, 0] == 3
    interrupted(tmp_path, batches, pictures(4), weights="b")
    interrupted(tmp_path, batches, pictures(4).view(3, 1, 4, 2))
    assert len(batches) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "swapped"])
def test_damaged_shards_are_computed_again(tmp_path, damage):
    batches = []
    interrupted(tmp_path, batches, pictures(9))
    (other,) = tmp_path.iterdir()
    interrupted(tmp_path, batches, pictures(4))
    (path,) = set(tmp_path.iterdir()) - {other}
    content = path.read_bytes()
    path.write_bytes({
        "cut": content[:-1],
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "empty": b"",
        "swapped": other.read_bytes(),
    }[damage])  # fmt: skip
    assert interrupted(tmp_path, batches, pictures(4)).features[0, 0] == 2
    assert len(batches) == 3
    assert path.read_bytes() == content


def test_the_end_removes_its_own_shards(tmp_path):
    interrupted(tmp_path, [], pictures(9))
    (others,) = tmp_path.iterdir()
    interrupted(tmp_path, [], pictures(4))
    (mine,) = set(tmp_path.iterdir()) - {others}
    (tmp_path / f".{mine.name}.1.tmp").touch()  # of a process that was killed while it wrote
    with resumable(counted([]), tmp_path, CPU) as kept:
        kept.run(pictures(4))
    assert [*tmp_path.iterdir()] == [others]


def test_another_job_may_remove_the_folder_meanwhile(tmp_path, monkeypatch):
    """Just before a shard is written there, and before the end looks into it."""
    folder, real = tmp_path / "features", Path.open

    def opened(path, mode="r", *args, **options):
        if mode == "wb":
            monkeypatch.setattr(Path, "open", real)
            folder.rmdir()
        return real(path, mode, *args, **options)

    with resumable(counted([]), folder, CPU) as kept:
        monkeypatch.setattr(Path, "open", opened)
        kept.run(pictures(4))
        (shard,) = folder.iterdir()
        shard.unlink()
        folder.rmdir()
    assert not folder.exists()


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), [], pause=0.1)
