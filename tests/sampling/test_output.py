"""Folders of pictures: what is there, what is refused, and formats of others."""

import errno
import io
import json
import os
import platform
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn.data import read_pictures
from vfn.data.arrays import npz_labels
from vfn.sampling import OUTPUTS
from vfn.sampling.output import PARTS, PngFolder, open_output
from vfn.sampling.provenance import (
    begin_folder,
    check_own,
    check_record,
    clear_recorded,
    read_record,
)

IMAGES = (torch.arange(6 * 3 * 4 * 5) % 251).to(torch.uint8).reshape(6, 3, 4, 5)
LABELS = torch.arange(6) % 2 + 1
NAMES = ["cat", "dog"] * 3
RECORD = {"seed": 0, "num": 6, "labels": ["cat"], "format": "png", "sha256": "0", "step": 3}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_written_is_read(tmp_path, kind, channels):
    images = IMAGES[:, :channels]
    output = open_output(kind, tmp_path, 6)
    assert output.present() == set()
    output.write(torch.arange(3, 6), images[3:])
    assert output.present() == {3, 4, 5}
    output.write(torch.arange(3), images[:3])
    assert output.present() == set(range(6))
    output.finish(LABELS, NAMES, False)
    assert open_output(kind, tmp_path, 6).present() == set(range(6))
    assert torch.equal(output.read(torch.tensor([5, 0, 2])), images[[5, 0, 2]])
    assert not (tmp_path / PARTS).exists()
    output.clear()
    assert output.present() == set()


@pytest.mark.parametrize("kind", [name for name in OUTPUTS if name != "png"])
@pytest.mark.parametrize("numbers", [torch.uint8, torch.uint16, torch.float16, torch.float32])
def test_numbers_are_read_as_what_they_were(tmp_path, kind, numbers):
    images = IMAGES.to(numbers) if not numbers.is_floating_point else (IMAGES / 7).to(numbers)
    output = open_output(kind, tmp_path, 6)
    output.write(torch.arange(6), images)
    output.finish(LABELS, NAMES, False)
    found = output.read(torch.tensor([5, 0, 2]))
    assert found.dtype == numbers
    assert torch.equal(found, images[[5, 0, 2]])


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_file_that_is_there_is_left_as_it_is(tmp_path, kind):
    """A process that was killed after it had written the file, before it removed the parts."""
    output = open_output(kind, tmp_path, 6)
    output.write(torch.arange(6), IMAGES)
    output.finish(LABELS, NAMES, False)
    before = output.file.read_bytes()
    output.write(torch.arange(2), IMAGES[2:4])
    output.finish(LABELS, NAMES, False)
    assert output.file.read_bytes() == before
    assert not output.place.exists()


@pytest.mark.parametrize("tags", [False, True])
def test_labels_stand_in_a_table(tmp_path, tags):
    output = PngFolder(tmp_path, 6)
    output.write(torch.arange(6), IMAGES)
    output.finish(LABELS, ["a,b", *NAMES[1:]], tags)
    lines = (tmp_path / "images" / "labels.csv").read_text().splitlines()
    assert lines[:2] == ["file,tags" if tags else "file,label", '000000.png,"a,b"']


def test_pictures_in_a_folder_can_be_trained_on(tmp_path):
    """What `vfn sample` writes is a data set."""
    output = PngFolder(tmp_path, 6)
    output.write(torch.arange(6), IMAGES)
    output.finish(LABELS, NAMES, False)
    found = read_pictures(str(tmp_path / "images"))
    assert found.legend.names == ("cat", "dog")
    assert sorted(found.labels.tolist()) == sorted(LABELS.tolist())


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (LABELS, ["cat", "dog", "fox"], [0, 1] * 3),
        (torch.eye(6, 3, dtype=torch.int64), ["Bald", "Male", "Wavy"], np.eye(6, 3).tolist()),
    ],
)
def test_an_array_file_counts_as_others_do_and_is_read_back(tmp_path, labels, names, expected):
    """ADM's and torch-fidelity's classes count from 0."""
    output = open_output("npz", tmp_path, 6)
    output.write(torch.arange(6), IMAGES)
    tags = labels.ndim == 2
    output.finish(labels, ["some"] * 6, tags, names)
    with np.load(tmp_path / "samples.npz") as file:
        assert sorted(file) == ["arr_0", "arr_1", "class_names"]
        assert file["arr_1"].tolist() == expected
        assert file["class_names"].tolist() == names
    found = read_pictures(str(tmp_path / "samples.npz"))
    assert (found.legend.names, found.legend.tags) == (tuple(names), tags)
    assert torch.equal(found.images, IMAGES)
    assert torch.equal(found.labels.long(), labels)


def test_a_record_is_kept(tmp_path):
    record = {"seed": 0, "num": 1, "labels": ["7"], "format": "png", "sha256": "a"}
    begin_folder(tmp_path / "a", record)
    assert json.loads((tmp_path / "a" / "settings.json").read_text()) == record
    output = PngFolder(tmp_path / "a", 1)
    check_record(output, tmp_path / "a", record)
    with pytest.raises(ValueError, match=r'other settings: labels \["7"\], now null; use another'):
        check_record(output, tmp_path / "a", {**record, "labels": None})
    with pytest.raises(ValueError, match=r'labels \["7"\], now \["0", "1", .*\.\.\.; use another'):
        check_record(output, tmp_path / "a", {**record, "labels": list("0123456789" * 2)})


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    """What lives, here or perhaps on another machine, goes on writing its own."""
    here, day = platform.node(), 24 * 3600
    dead = [f".a.png.{here}.{2**22 + 1}.tmp", ".a.png.elsewhere.1.tmp", ".old.tmp"]
    alive = [f".b.png.{here}.{os.getppid()}.tmp", ".b.png.elsewhere.1.tmp"]
    for place in ("", "images", PARTS):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / ".export.tmp").mkdir()
        for name in (*dead, *alive):
            (tmp_path / place / name).write_bytes(b"half")
        for path in [tmp_path / place / name for name in (".export.tmp", *dead[1:])]:
            os.utime(path, (time.time() - day - 100,) * 2)
    begin_folder(tmp_path, {})
    left = [path.name for path in tmp_path.rglob(".*.tmp")]
    assert sorted(left) == sorted([*alive, ".export.tmp"] * 3)


@pytest.mark.parametrize(
    "spoil",
    [lambda p: p.unlink(), lambda p: p.write_text("{"), lambda p: p.write_text("[1]"),
     lambda p: p.write_text("3")],
)  # fmt: skip
def test_pictures_without_a_record_are_left_alone(tmp_path, spoil):
    begin_folder(tmp_path, RECORD)
    output = PngFolder(tmp_path, 6)
    output.write(torch.arange(6), IMAGES)
    spoil(tmp_path / "settings.json")
    with pytest.raises(ValueError, match="of unknown settings|is no record of|is not JSON"):
        check_record(output, tmp_path, {"seed": 0})


def test_an_empty_place_needs_no_record(tmp_path):
    check_record(PngFolder(tmp_path, 6), tmp_path, {"seed": 0})
    check_record(PngFolder(tmp_path / "none", 6), tmp_path / "none", {"seed": 0})


def test_a_format_of_somebody_else(tmp_path, monkeypatch):
    (tmp_path / "their_format.py").write_text(
        "class Half:\n"
        "    def __init__(self, folder, num):\n"
        "        self.folder, self.num = folder, num\n"
        "    def present(self): ...\n"
        "class Lines(Half):\n"
        "    write = read = finish = clear = Half.present\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="their_format:Half to be an Output, but it has no write"):
        open_output("their_format:Half", tmp_path, 6)
    output = open_output("their_format:Lines", tmp_path, 6)
    assert (output.folder, output.num) == (tmp_path, 6)
    monkeypatch.delitem(sys.modules, "their_format")


def test_the_table_needs_no_torch():
    """Checked in another process, as this one has loaded everything."""
    import subprocess

    code = "import sys, vfn.sampling.output_table; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_the_files_are_those_of_numpy_and_safetensors(tmp_path, kind, labelled):
    """To the byte, from parts that overlap, as those of another batch size do."""
    output = open_output(kind, tmp_path, 6)
    output.write(torch.arange(4), IMAGES[:4])
    output.write(torch.arange(2, 6), IMAGES[2:])
    output.finish(LABELS, NAMES if labelled else [], False)
    pictures = np.ascontiguousarray(IMAGES.movedim(1, -1).numpy())
    if kind == "npz":
        expected = io.BytesIO()
        labels = npz_labels(LABELS.numpy(), ()) if labelled else {}
        np.savez(expected, arr_0=pictures, **labels)
        assert output.file.read_bytes() == expected.getvalue()
    else:
        tensors = {"images": IMAGES.numpy(), **({"labels": LABELS.numpy()} if labelled else {})}
        assert output.file.read_bytes() == safetensors.numpy.save(tensors)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_full_disk_is_told_and_the_parts_are_kept(tmp_path, kind, monkeypatch):
    output = open_output(kind, tmp_path, 6)
    output.write(torch.arange(6), IMAGES)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(type(output), "_save", full)
        with pytest.raises(OSError, match=r"No space left on device; pictures drawn so far are ke"):
            output.finish(LABELS, NAMES, False)
    assert output.present() == set(range(6))
    assert not output.file.exists()
    assert [path.suffix for path in output.place.iterdir()] == [".npy"]
    output.finish(LABELS, NAMES, False)
    assert torch.equal(output.read(torch.arange(6)), IMAGES)


def test_only_recorded_files_are_removed(tmp_path):
    begin_folder(tmp_path, RECORD)
    output = PngFolder(tmp_path, 6)
    output.write(torch.arange(6), IMAGES)
    output.finish(LABELS, NAMES, False)
    ours = sorted(tmp_path.rglob("images/*"))
    theirs = [tmp_path / "images" / name for name in ("holiday.png", "000006.png", "7.png")]
    for path in theirs:
        path.write_bytes(b"theirs")
    assert output.present() == set(range(6))
    clear_recorded(tmp_path, read_record(tmp_path))
    assert sorted(tmp_path.rglob("images/*")) == sorted(theirs)
    assert len(ours) == 7
    (tmp_path / "images" / "labels.csv").write_text("theirs")
    clear_recorded(tmp_path, {**RECORD, "labels": []})
    assert (tmp_path / "images" / "labels.csv").read_text() == "theirs"


@pytest.mark.parametrize(
    "name", ["images/holiday.png", "images/labels.csv", "grid.png", "samples.npz", "denoising.webp"]
)
def test_files_of_somebody_else_are_not_written_over(tmp_path, name):
    check_own(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"theirs")
    with pytest.raises(
        ValueError, match=r"is there, and no settings\.json of vfn sample beside it"
    ):
        check_own(tmp_path)
    begin_folder(tmp_path, RECORD)
    check_own(tmp_path)


# What a damaged or edited file may hold.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text()
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([*RECORD]), VALUES), st.sampled_from(["", "[" * 9**5, "{"]))
def test_any_record_is_read_or_refused(tmp_path_factory, changes, text):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text(text or json.dumps({**RECORD, **changes}))
    message, found = "", None
    try:
        found = read_record(folder)
    except ValueError as error:
        message = str(error)
    if found is None:
        assert "is no record of vfn sample" in message or "is not JSON" in message
        assert "\n" not in message
    else:
        assert found == {**RECORD, **changes}


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_part_that_a_power_cut_damaged_is_drawn_again(tmp_path, kind):
    output = open_output(kind, tmp_path, 6)
    for start in (0, 2, 4):
        output.write(torch.arange(start, start + 2), IMAGES[start : start + 2])
    parts = sorted((tmp_path / PARTS).iterdir())
    for content in (b"", parts[1].read_bytes()[:-9], b"\0" * 200, b"PK\3\4 no archive"):
        parts[1].write_bytes(content)
        assert output.present() == {0, 1, 4, 5}
    (tmp_path / PARTS / "notes.npy").write_text("somebody else's")
    with pytest.raises(ValueError, match="has been changed: its parts do not make 6 pictures"):
        output.finish(LABELS, [], False)
    output.write(torch.arange(2, 4), IMAGES[2:4])
    output.finish(LABELS, [], False)
    assert torch.equal(output.read(torch.arange(6)), IMAGES)
    assert [path.name for path in (tmp_path / PARTS).iterdir()] == ["notes.npy"]


def test_damaged_files_of_all_pictures_are_told(tmp_path):
    for kind in ("png", "npz", "safetensors"):
        output = open_output(kind, tmp_path / kind, 6)
        output.write(torch.arange(6), IMAGES)
        output.finish(LABELS, [], False)
        path = max((p for p in (tmp_path / kind).rglob("*") if p.is_file()), key=str)
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(ValueError, match=f"{path.name} is damaged .*; draw the pictures anew"):
            output.read(torch.arange(6))
