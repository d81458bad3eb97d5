"""Prepared data: written once, whole or not at all, whoever comes first; reused."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.data.conftest import COUNT, data
from tests.helpers.formats import noise, save_pictures
from vfn.data import cache, find_prepared, load_dataset, load_held_out, prepare

# Prepares slowly: every picture takes a moment to read, and is counted in a file.
SLOW = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from vfn.configs import DataConfig
from vfn.data import folder, prepare
source_of = folder.folder_source
counter = Path(sys.argv[2])

def slow(*given):
    source = source_of(*given)
    def read(number):
        time.sleep(0.005)
        with counter.open("a") as file:
            file.write("x")
        return source.read(number)
    return source._replace(read=read)

import vfn.data.load
vfn.data.load.folder_source = slow
found = prepare(DataConfig(dataset=sys.argv[1], num_workers=1))
print("sum", int(found.images.long().sum()))
"""


def contents(tmp_path):
    """Everything below the data directory, except the lock."""
    found = (tmp_path / "home" / "prepared").rglob("*")
    return sorted(path.name for path in found if path.is_file() and path.name != ".lock")


def test_rows_are_the_pictures(pictures):
    for split in ("train", "test"):
        for image in load_dataset(data(pictures), split).images.movedim(1, -1):
            assert any(np.array_equal(image, noise(4, 4, 3, seed=i)) for i in range(COUNT))
    whole = load_dataset(data(pictures), "all").images
    assert len(whole.flatten(1).unique(dim=0)) == COUNT


def test_prepared_data_are_reused(pictures, capsys):
    first = prepare(data(pictures))
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        "preparing", "prepared"
    ]  # fmt: skip
    written = (first.path / "images.bin").stat().st_ino
    assert prepare(data(pictures)).path == first.path
    assert capsys.readouterr().err == ""
    prepare(data(pictures), fresh=True)
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert (first.path / "images.bin").stat().st_ino != written


@pytest.mark.parametrize(
    "values",
    [{"image_size": (2,)}, {"crop": (0, 0, 2, 2)}, {"channels": 1}, {"test_share": 0.5},
     {"on_bad": "skip"}],
)  # fmt: skip
def test_settings_that_change_the_rows_are_prepared_beside_each_other(pictures, values):
    assert prepare(data(pictures)).path != prepare(data(pictures, **values)).path
    assert find_prepared(data(pictures)) is not None


def test_a_square_may_be_one_number(pictures):
    one, two = (prepare(data(pictures, image_size=size)) for size in ((2,), (2, 2)))
    assert one.path == two.path


@pytest.mark.parametrize(
    "values", [{"split": "test"}, {"flip": True}, {"conditional": False}, {"num_workers": 1}]
)
def test_settings_that_only_use_the_rows_share_them(pictures, values):
    assert prepare(data(pictures)).path == prepare(data(pictures, **values)).path


def touch(path):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: save_pictures(folder, {"new.png": noise(4, 4, 3)}),
        lambda folder: (folder / "007.png").unlink(),
        lambda folder: (folder / "007.png").rename(folder / "z.png"),
        lambda folder: touch(folder / "007.png"),
        lambda folder: (folder / "labels.csv").write_text("file,label\n"),
    ],
)
def test_other_content_is_noticed(pictures, change):
    prepare(data(pictures))
    change(pictures)
    assert find_prepared(data(pictures)) is None


def test_what_cannot_be_used_leaves_nothing_behind(pictures, tmp_path):
    (pictures / "007.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=f"1 of {COUNT} pictures"):
        prepare(data(pictures))
    assert contents(tmp_path) == []
    found = prepare(data(pictures, on_bad="skip"))
    assert [name for name, _ in found.bad] == ["007.png"]
    assert sum(found.splits.values()) == len(found.images) == COUNT - 1
    assert find_prepared(data(pictures, on_bad="skip")).bad == found.bad


def test_a_full_disk_leaves_nothing_behind(pictures, tmp_path, monkeypatch):
    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(data(pictures))
    assert contents(tmp_path) == []


def test_a_disk_without_locks_is_named(pictures, monkeypatch):
    def refuse(_file, _kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match=r"lock cannot be locked \(.*\); name another --data-dir"):
        prepare(data(pictures))


def test_splits_and_what_is_left_of_them(pictures):
    found = prepare(data(pictures, test_share=0.25))
    assert found.splits == {"train": 45, "test": 15}
    assert len(load_held_out(data(pictures, test_share=0.25)).images) == 15
    assert load_held_out(data(pictures, test_share=0.25, split="all")) is None
    assert load_held_out(data(pictures, test_share=0.0)) is None
    with pytest.raises(ValueError, match="split test has no pictures; change --test-share"):
        load_dataset(data(pictures, test_share=0.0), "test")


def test_unconditional_training_sees_no_labels(tmp_path):
    save_pictures(tmp_path / "p", {f"{c}/{i}.png": noise(4, 4) for c in "ab" for i in range(5)})
    assert load_dataset(data(tmp_path / "p")).legend.names == ("a", "b")
    found = load_dataset(data(tmp_path / "p", conditional=False))
    assert (found.labels, found.legend.names) == (None, ())


def start(pictures, tmp_path):
    command = [sys.executable, "-c", SLOW, str(pictures), str(tmp_path / "counter")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return err + out


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


@pytest.mark.slow
def test_one_of_several_processes_prepares_and_the_others_wait(pictures, tmp_path):
    outs = [finish(process) for process in [start(pictures, tmp_path) for _ in range(3)]]
    assert len((tmp_path / "counter").read_text()) == COUNT  # each picture was read once
    assert len({out.splitlines()[-1] for out in outs}) == 1
    assert sum("preparing" in out for out in outs) == 1
    assert contents(tmp_path) == ["images.bin", "info.json"]


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_prepares_is_replaced(pictures, tmp_path):
    counter = tmp_path / "counter"
    first = start(pictures, tmp_path)
    wait_for(lambda: counter.is_file() and len(counter.read_text()) > 5)
    second = start(pictures, tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    total = sum(int(noise(4, 4, 3, seed=i).sum()) for i in range(COUNT))
    assert finish(second).splitlines()[-1] == f"sum {total}"
    assert contents(tmp_path) == ["images.bin", "info.json"]


def test_a_disk_without_room_is_told_at_the_first_picture(pictures, monkeypatch):
    disk = SimpleNamespace(total=10**9, used=0, free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: disk)
    with pytest.raises(ValueError, match="60 prepared pictures take about .* GB, and where"):
        prepare(data(pictures))
    assert not list(pictures.parent.rglob("images.bin"))


def test_all_files_are_forced_to_the_disk_before_they_have_their_place(pictures, monkeypatch):
    synced = []
    monkeypatch.setattr(cache, "_sync", lambda path: synced.append((path.name, path.parent.name)))
    found = prepare(data(pictures))
    assert sorted(name for name, _ in synced) == ["images.bin", "info.json"]
    assert {folder for _, folder in synced} == {f".{found.path.name}.new.tmp"}
