"""Prepared data: written once, whole or not at all, whoever comes first; memory-mapped; reused."""

import copy
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.formats import noise, save_pictures
from vfn.configs import DataConfig
from vfn.data import (
    Dataset,
    cache,
    data_digest,
    find_prepared,
    load_dataset,
    load_held_out,
    prepare,
)
from vfn.data.cache import open_cache
from vfn.data.folder import folder_source
from vfn.data.mapped import MappedPictures

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
COUNT = 60


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of pictures, and a data directory of its own."""
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "home"))
    folder = tmp_path / "pictures"
    save_pictures(folder, {f"{i:03}.png": noise(4, 4, 3, seed=i) for i in range(COUNT)})
    return folder


def data(folder, **values):
    return DataConfig(dataset=str(folder), **values)


def contents(tmp_path):
    """Everything below the data directory, except the lock."""
    found = (tmp_path / "home" / "prepared").rglob("*")
    return sorted(path.name for path in found if path.is_file() and path.name != ".lock")


def test_pictures_are_memory_mapped(pictures):
    found = prepare(data(pictures))
    assert str(found.path / "images.bin") in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert found.images.shape == (COUNT, 3, 4, 4)
    # A split shares the memory.
    train = found.dataset("train").images
    assert train.untyped_storage().data_ptr() == found.images.untyped_storage().data_ptr()


def test_rows_are_the_pictures(pictures):
    for split in ("train", "test"):
        for image in load_dataset(data(pictures), split).images.movedim(1, -1):
            assert any(np.array_equal(image, noise(4, 4, 3, seed=i)) for i in range(COUNT))
    whole = load_dataset(data(pictures), "all").images
    assert len(whole.flatten(1).unique(dim=0)) == COUNT


def test_writing_to_the_tensor_does_not_reach_the_file(pictures):
    prepare(data(pictures)).images.zero_()
    assert prepare(data(pictures)).images.count_nonzero() > 0


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


def _sum_of(found, settings):
    return int(found.images.long().sum()), int(prepare(settings).images.long().sum())


@pytest.mark.slow
def test_data_go_to_a_process_that_is_spawned(pictures, tmp_path):
    settings = data(pictures, data_dir=str(tmp_path / "home"))
    found = load_dataset(settings, "all")
    source = folder_source(pictures, 0.1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        both = pool.apply(_sum_of, (found, settings))
        names = pool.apply(_first_of, (source,))
        part = pool.apply(_third, (found.images[10:].permute(0, 2, 3, 1),))
    assert both == (int(found.images.long().sum()),) * 2
    assert torch.equal(part, found.images[12].permute(1, 2, 0))
    assert names == np.asarray(source.read(0)).tolist()


def _third(pictures):
    assert type(pictures) is MappedPictures
    return pictures[2].clone()


def _first_of(source):
    return np.asarray(source.read(0)).tolist()


def test_a_disk_without_fast_reads_of_rows_still_gives_them(pictures, monkeypatch):
    found = load_dataset(data(pictures), "all").images
    index = torch.tensor([5, -1, 5, 0])
    rows = found[index]
    assert type(rows) is torch.Tensor
    monkeypatch.delattr("os.pread")
    assert torch.equal(found[index], rows)
    assert torch.equal(torch.stack([found[i] for i in index.tolist()]), rows)


def test_mapped_pictures_are_a_tensor_like_any(pictures):
    found = load_dataset(data(pictures), "train").images
    plain = found.clone()
    assert type(plain) is torch.Tensor
    for use in (
        lambda x: x[torch.arange(len(x)).flip(0)], lambda x: x[[3, 1]], lambda x: x[2:9:3],
        lambda x: x[torch.tensor([0, 3]), 0], lambda x: x[:, 1:][torch.tensor([2, 2])],
        lambda x: x[torch.zeros(0, dtype=torch.long)], lambda x: x[x.flatten(1).sum(1) % 2 == 0],
        lambda x: x.permute(0, 2, 3, 1), lambda x: x.float() / 2, lambda x: torch.cat([x, x[:1]]),
        lambda x: torch.stack(list(x)), lambda x: x[3][torch.tensor([0, 2])], copy.deepcopy,
        lambda x: x[torch.tensor([[0, 1], [2, 3]])], lambda x: torch.from_numpy(x.numpy()),
        lambda x: pickle.loads(pickle.dumps(x)), lambda x: x.sum(),
    ):  # fmt: skip
        assert torch.equal(use(found), use(plain))
    with pytest.raises(IndexError):
        found[torch.tensor([len(found)])]
    found[0] = 7
    assert found[torch.tensor([0])].unique().tolist() == [7]


# Reads batches of prepared pictures until that fails.
READING = """
import sys, torch
from vfn.configs import DataConfig
from vfn.data import load_dataset
found = load_dataset(DataConfig(dataset=sys.argv[1]), "all").images
index = torch.arange(len(found))
found[index].float().sum()
print("reading", flush=True)
try:
    while True:
        found[index[torch.randperm(len(index))]].float().sum()
except ValueError as error:
    print(error, flush=True)
try:
    found[:2].float()
except ValueError as error:
    print("again:", error, flush=True)
"""


@pytest.mark.slow
def test_a_file_cut_short_while_it_is_read_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "home"))
    np.save(tmp_path / "a.npy", noise(500, 32, 32, 3))
    path = prepare(data(tmp_path / "a.npy")).path / "images.bin"
    for kept in (0, 5000):
        command = [sys.executable, "-c", READING, str(tmp_path / "a.npy")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "reading\n"
            whole = path.read_bytes()
            os.truncate(path, kept)
            first, again = process.communicate(timeout=60)[0].splitlines()
        assert process.returncode == 0
        assert (
            first == f"{path} was cut short while it was in use, from {len(whole)} to {kept} "
            "bytes; remove its directory, so that the data are prepared anew"
        )
        assert again == f"again: {first}"
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["images.bin", "info.json"])
def test_damaged_prepared_data_are_named(pictures, name):
    path = prepare(data(pictures)).path
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-5])
    with pytest.raises(ValueError, match=f"prepared data in {path} is damaged .*remove that dir"):
        prepare(data(pictures))
    assert len(prepare(data(pictures), fresh=True).images) == COUNT


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


def test_summary_says_what_is_there(tmp_path):
    save_pictures(tmp_path / "p", {f"{c}/{i}.png": noise(4, 6) for c in "abb" for i in range(5)})
    (tmp_path / "p" / "b" / "x.png").write_bytes(b"")
    found = prepare(data(tmp_path / "p", on_bad="skip", test_share=0.2))
    lines = found.summary().splitlines()
    assert lines[0] == "pictures  8 train, 2 test; 1 x 4 x 6"
    assert lines[1] == "labels    2 classes: a (5), b (5)"
    assert lines[2].startswith("left out  1: b/x.png (cannot identify")
    assert lines[3] == f"prepared  {found.path}, 0.0 MB"
    assert json.loads((found.path / "info.json").read_text())["origin"] == str(tmp_path / "p")


def test_summary_counts_tags_and_shortens_what_is_long(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=noise(3, 2, 2), arr_1=np.tri(3, 12, dtype=int))
    line = prepare(data(path)).summary().splitlines()[1]
    assert line.startswith("labels    12 tags: 1 (3), 2 (2), 3 (1), 4 (0)")
    assert line.endswith("10 (0) and 2 more")
    assert torch.equal(load_dataset(data(path), "all").labels.sum(0)[:3], torch.tensor([3, 2, 1]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.integers() | st.floats() | st.text()
    | st.sampled_from([10**400, -(10**18), 10**18]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Prepared data of two classes."""
    home = tmp_path_factory.mktemp("labelled")
    np.savez(home / "a.npz", arr_0=noise(20, 4, 4), arr_1=np.arange(20) % 2, class_names=["a", "b"])
    return prepare(data(home / "a.npz", data_dir=str(home))).path


def opened(path):
    """Everything that is done with prepared data, or one line."""
    fault = ""
    try:
        found = open_cache(path)
    except ValueError as error:
        fault = str(error)
    if fault:
        assert fault.startswith(f"the prepared data in {path} is damaged (")
        assert fault.isprintable()
        assert len(fault) < 600
        return
    for split in [name for name, count in found.splits.items() if count] + ["all"]:
        part = found.dataset(split)
        if part.labels is not None:  # the file may say that there are none
            assert len(part.legend.texts(part.labels)) == len(part.images)
        data_digest(part)
    found.summary()


@given(st.dictionaries(st.sampled_from(
    ["shape", "labels", "class_names", "splits", "bad", "sha256", "format"]), VALUES,
    min_size=1))  # fmt: skip
def test_any_info_is_read_or_refused(labelled, changes):
    content = (labelled / "info.json").read_text()
    try:
        (labelled / "info.json").write_text(json.dumps(json.loads(content) | changes))
        opened(labelled)
    finally:
        (labelled / "info.json").write_text(content)


DAMAGED = [b"[" * 10**5, b'{"a":' * 10**5, b"1" * 10**5, b"\xff", b"\0" * 9]


@given(VALUES.map(json.dumps).map(str.encode) | st.binary() | st.sampled_from(DAMAGED))
def test_any_bytes_in_the_place_of_info(labelled, content):
    before = (labelled / "info.json").read_bytes()
    try:
        (labelled / "info.json").write_bytes(content)
        opened(labelled)
    finally:
        (labelled / "info.json").write_bytes(before)


def test_labels_without_a_dimension_are_refused(labelled):
    path = labelled / "labels.npy"
    before = path.read_bytes()
    try:
        np.save(path, np.int64(3))
        with pytest.raises(ValueError, match="labels"):
            open_cache(labelled)
    finally:
        path.write_bytes(before)


@given(st.data())
def test_any_labels_are_read_or_refused(labelled, data):
    before = (labelled / "labels.npy").read_bytes()
    damaged = bytearray(before)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(before) - 1))] = data.draw(st.integers(0, 255))
    try:
        cut = data.draw(st.integers(0, len(before)) | st.just(len(before)))
        (labelled / "labels.npy").write_bytes(bytes(damaged[:cut]))
        opened(labelled)
    finally:
        (labelled / "labels.npy").write_bytes(before)


def test_the_digest_is_stored_and_is_that_of_the_content(pictures):
    found = prepare(data(pictures, test_share=0.2))
    for split in ("train", "test", "all"):
        part = found.dataset(split)
        assert found.known[split] == hashlib.sha256(part.images.numpy().tobytes()).hexdigest()
        assert data_digest(part) == data_digest(Dataset(part.images.clone()))
    assert found.digest == data_digest(found.dataset("all"))
    # Data that were prepared by an earlier version have none, and get the same.
    info = json.loads((found.path / "info.json").read_text())
    del info["sha256"]
    (found.path / "info.json").write_text(json.dumps(info))
    assert prepare(data(pictures, test_share=0.2)).digest == found.digest


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
