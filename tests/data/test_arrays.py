"""Array files: npy and npz, grey and RGB, classes and tags."""

import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.formats import noise
from vfn.configs import DataConfig
from vfn.data import load_dataset, read_pictures
from vfn.data.arrays import array_source


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3)])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pictures_come_out_as_they_are(tmp_path, shape, suffix):
    images, path = noise(*shape), tmp_path / f"a.{suffix}"
    np.save(path, images) if suffix == "npy" else np.savez_compressed(path, arr_0=images)
    found = read_pictures(str(path))
    assert np.array_equal(found.images.movedim(1, -1), images.reshape(5, 4, 6, -1))
    assert found.labels is None


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_suffixes_in_capitals_are_the_same(tmp_path, suffix):
    images, path = noise(5, 4, 6), tmp_path / f"a.{suffix}"
    np.save(path, images) if suffix == "npy" else np.savez(path, images)
    path = path.rename(tmp_path / f"B.{suffix.upper()}")
    assert np.array_equal(read_pictures(str(path)).images[:, 0], images)


def test_labels_and_names(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=noise(3, 2, 2, 3), arr_1=[1, 0, 1], class_names=["cat", "dog"])
    found = read_pictures(str(path))
    assert (found.labels.tolist(), found.legend.names) == ([2, 1, 2], ("cat", "dog"))


def test_training_numbers_the_labels_that_have_no_names(tmp_path):
    data = DataConfig(dataset=str(tmp_path / "a.npz"), test_share=0.0)
    np.savez(data.dataset, arr_0=noise(3, 2, 2), arr_1=[2, 1, 2])
    assert load_dataset(data).legend.names == ("1", "2")
    np.savez(data.dataset, arr_0=noise(4, 2, 2), arr_1=np.eye(4, dtype=bool))
    found = load_dataset(data)
    assert found.legend.names == ("1", "2", "3", "4")
    assert found.legend.tags
    assert found.labels.tolist() == np.eye(4).tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": noise(2, 2, 2)}, "is not an array file of pictures"),
        ({"arr_0": np.zeros((2, 4, 4, 1))}, "uint8, uint16, float16, float32 .* got float64"),
        ({"arr_0": np.zeros((2, 4, 4, 1), ">f4")}, "float32 .* got >f4"),
        ({"arr_0": noise(2, 4)}, r"got uint8 \[2, 4\]"),
        ({"arr_0": noise(2, 3, 4, 4, 1)}, r"got uint8 \[2, 3, 4, 4, 1\]"),
        ({"arr_0": noise(0, 4, 4)}, r"holds no pictures: \[0, 4, 4, 1\]"),
        (
            {"arr_0": noise(2, 2, 2), "arr_1": [1]},
            r"classes 1..K \[2\].* got int64 \[1\] with 1..1",
        ),
        ({"arr_0": noise(2, 2, 2), "arr_1": [-1, 1]}, "with -1..1"),
        ({"arr_0": noise(2, 2, 2), "arr_1": [0, 10**9]}, "K at most 100000, got .*0..1000000000"),
        ({"arr_0": noise(2, 2, 2), "arr_1": [1, 10**9]}, "K at most 100000, got .*1..1000000000"),
        ({"arr_0": noise(2, 2, 2), "arr_1": np.array([1, 2**64 - 1], np.uint64)}, "K at most"),
        ({"arr_0": noise(1, 2, 2), "arr_1": np.zeros((1, 100_001), bool)}, r"\[1, 100001\]"),
        ({"arr_0": noise(2, 2, 2), "arr_1": np.ones((2, 0), int)}, r"got int64 \[2, 0\]"),
        ({"arr_0": noise(2, 2, 2), "arr_1": np.int64(0)}, r"got int64 \[\]"),
        ({"arr_0": noise(2, 2, 2), "arr_1": [b"a", b"b"]}, r"got \|S1 \[2\]"),
        ({"arr_0": noise(2, 2, 2), "arr_1": [1.0, float("inf")]}, "got float64"),
        (
            {"arr_0": noise(2, 2, 2), "arr_1": np.array([1, 2], "datetime64[s]")},
            r"got datetime64\[s\] \[2\]",
        ),
        (
            {"arr_0": noise(2, 2, 2), "arr_1": np.zeros(2, [("\x1b[31m\n", "f4")] * 1)},
            r"got \[.*\] \[2\] with",
        ),
        (
            {"arr_0": noise(2, 2, 2), "arr_1": [1, 2], "class_names": ["a", "b"]},
            "classes 0..1 .* with 1..2, 2 class_names; with class_names, or with a 0 among them, "
            "classes count from 0, and -1 is none$",
        ),
        (
            {"arr_0": noise(1, 2, 2), "arr_1": [0], "class_names": [1.5]},
            "class_names to be K texts",
        ),
        ({"arr_0": noise(1, 2, 2), "arr_1": [0], "class_names": "a"}, "class_names to be K texts"),
        ({"arr_0": noise(1, 2, 2), "arr_1": [0], "class_names": [b"\xff"]}, "codec can't decode"),
        (
            {"arr_0": noise(1, 2, 2), "arr_1": [0], "class_names": ["a", "a"]},
            "class_names in .*a.npz has the class 'a', 2 times; rename it",
        ),
        ({"arr_0": noise(2, 2, 2), "arr_1": [1.0, 2.0]}, "got float64"),
        ({"arr_0": noise(2, 2, 2), "arr_1": [[0, 2], [1, 0]]}, "with 0..2"),
        ({"arr_0": noise(2, 2, 2), "arr_1": [1, 3], "class_names": ["a", "b"]}, "2 class_names"),
        ({"arr_0": noise(1, 2, 2), "arr_1": [[0, 1]], "class_names": ["a"]}, "1 class_names"),
        ({"arr_0": noise(2, 2, 2), "arr_1": ["a", "b"]}, r"got <U1 \[2\] with 0..0$"),
        ({"arr_0": noise(2, 2, 2), "arr_1": [1.0, float("nan")]}, "got float64"),
        ({"arr_0": np.array([{}], dtype=object)}, "is not an array file of pictures"),
        (
            {"images": noise(2, 2, 2), "labels": [1, 2]},
            "expected pictures as arr_0, their classes or tags as arr_1, .* got images, labels; ",
        ),
        ({"arr_0": noise(2, 2, 2), "Labels": [1, 2]}, "classes or tags as arr_1.* got arr_0, Labe"),
        (
            {"arr_0": noise(2, 6, 6, 4)},
            r"1 or 3 channels in .*, got \[2, 6, 6, 4\]; drop an alpha .* array\[..., :3\]",
        ),
        (
            {"arr_0": noise(2, 3, 16, 16)},
            r"like \[N, C, H, W\]; .* array.transpose\(0, 2, 3, 1\)",
        ),
        ({"arr_0": np.zeros((2, 4, 8, 8), np.float32)}, r"got \[2, 4, 8, 8\], which looks like"),
        ({"arr_0": noise(6, 6, 3)}, r"looks like one picture \[H, W, C\]; save array\[None\]"),
        ({"arr_0": noise(2, 2, 2), "vectors": ["a", "b"]}, r"numbers \[N, D\], got <U1 \[2\]"),
        (
            {"arr_0": noise(2, 2, 2), "vectors": [[1e300], [0.0]]},
            r"finite vectors that float32 holds in .*, got 1e\+300 at 0, 0",
        ),
    ],
)
def test_other_contents_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as raised:
        read_pictures(str(tmp_path / "a.npz"))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("arrays", "labels", "names"),
    [
        # As ADM writes samples of classes, and torch-fidelity's readers expect them.
        ({"arr_1": [3, 0, 1]}, [4, 1, 2], ("0", "1", "2", "3")),
        ({"arr_1": [1, 1, 2], "class_names": ["a", "b", "c"]}, [2, 2, 3], ("a", "b", "c")),
        ({"arr_1": [0, 1, 0], "class_names": [b"caf\xc3\xa9", b"dog"]}, [1, 2, 1], ("café", "dog")),
        ({"arr_1": [3, 1, 1]}, [3, 1, 1], ("1", "2", "3")),
        ({"arr_1": [True, False, True]}, [2, 1, 2], ("0", "1")),
        ({"arr_1": np.array([3, 1, 0], np.uint8)}, [4, 2, 1], ("0", "1", "2", "3")),
    ],
)
def test_names_or_a_zero_make_classes_count_from_zero(tmp_path, arrays, labels, names):
    np.savez(tmp_path / "a.npz", arr_0=noise(3, 2, 2), **arrays)
    found = read_pictures(str(tmp_path / "a.npz"))
    assert (found.labels.tolist(), found.legend.names) == (labels, names)


def test_pictures_without_a_class_are_read_and_not_trained_on(tmp_path):
    """-1 is what `vfn sample` writes for them; where classes count from 1 it is a mistake."""
    images = noise(4, 2, 2)
    np.savez(tmp_path / "a.npz", images, np.array([1, -1, 0, 1]), class_names=["cat", "dog"])
    found = read_pictures(str(tmp_path / "a.npz"))
    assert (found.labels.tolist(), found.legend.names) == ([2, 0, 1, 2], ("cat", "dog"))
    settings = DataConfig(dataset=str(tmp_path / "a.npz"), data_dir=str(tmp_path / "home"))
    with pytest.raises(ValueError, match=r"cannot be used: a.npz\[1\] \(no label in arr_1\)"):
        load_dataset(settings)
    kept = load_dataset(replace(settings, on_bad="skip", test_share=0.0))
    assert kept.labels.tolist() == [2, 1, 2]
    unnamed, beyond = ([1, -1, 2, 1], [-1] * 4), ([0, -2, 1, 0], ["cat", "dog"])
    for labels, names in (*((each, []) for each in unnamed), beyond):
        more = {"class_names": names} if names else {}
        np.savez(tmp_path / "b.npz", images, np.array(labels), **more)
        with pytest.raises(ValueError, match="expected arr_1 in .* to be classes .* -1 is none"):
            read_pictures(str(tmp_path / "b.npz"))


@pytest.mark.parametrize("shape", [(2, 4, 4, 8), (2, 1, 1, 64), (3, 8, 8, 5), (2, 3, 3, 16)])
def test_many_channels_last_are_read(tmp_path, shape):
    """Latents of 4 x 4 as well: as high as wide, and with more channels."""
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    found = read_pictures(str(tmp_path / "a.npy"))
    assert list(found.images.shape) == [shape[0], shape[3], *shape[1:3]]


def test_arrays_that_are_passed_by_are_named(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", arr_0=noise(2, 2, 2), mu=np.zeros(3))
    read_pictures(str(tmp_path / "a.npz"))
    assert "a.npz has arrays that are passed by: mu" in capsys.readouterr().err


def test_nothing_that_cannot_be_opened_is_published(tmp_path):
    """A range of 0 to 255 is that of pictures, which have 1 or 3 channels."""
    np.save(tmp_path / "a.npy", noise(4, 8, 8, 5))
    settings = DataConfig(dataset=str(tmp_path / "a.npy"), data_dir=str(tmp_path / "home"))
    for span in (None, (0.0, 255.0)):
        with pytest.raises(ValueError, match="1 or 3 channels"):
            load_dataset(replace(settings, value_range=span))
    assert [path.name for path in (tmp_path / "home" / "prepared" / "a.npy").iterdir()] == [".lock"]
    found = load_dataset(replace(settings, value_range=(0.0, 300.0)))
    assert found.images.shape[1:] == (5, 8, 8)


def test_the_only_picture_of_a_class_is_never_held_out(tmp_path):
    """The others are split as pictures without labels are."""
    images = noise(100, 2, 2)
    np.savez(tmp_path / "a.npz", arr_0=images)
    plain = array_source(tmp_path / "a.npz", 0.1).splits
    labels = np.ones(100, int)
    labels[[plain["test"][3], plain["train"][5]]] = 2, 3
    np.savez(tmp_path / "b.npz", arr_0=images, arr_1=labels)
    found = array_source(tmp_path / "b.npz", 0.1).splits
    assert set(plain["test"]) - set(found["test"]) == {plain["test"][3]}
    assert set(found["train"]) - set(plain["train"]) == {plain["test"][3]}
    assert set(labels[found["train"]]) == {1, 2, 3}


@given(content=st.binary(max_size=60), suffix=st.sampled_from(["npy", "npz"]))
def test_any_bytes_end_in_a_clean_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not an array file of pictures"):
        array_source(path, 0.0)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path_factory, place, bit):
    path, images = tmp_path_factory.mktemp("flip") / "a.npz", noise(3, 8, 8)
    np.savez(path, arr_0=images)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        source = array_source(path, 0.0)
    except ValueError:
        return
    read = [np.asarray(source.read(i)) for i in range(len(source.names))]
    assert np.array_equal(np.stack(read), images)


@given(cut=st.floats(0, 0.99), suffix=st.sampled_from(["npy", "npz"]))
def test_a_truncated_file_ends_in_a_clean_error(tmp_path_factory, cut, suffix):
    path = tmp_path_factory.mktemp("cut") / f"a.{suffix}"
    images = noise(3, 8, 8)
    np.save(path, images) if suffix == "npy" else np.savez(path, arr_0=images)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(ValueError, match="is not an array file of pictures"):
        array_source(path, 0.0)


HEADERS = st.fixed_dictionaries({
    "descr": st.sampled_from(["|u1", "<f8", "|O", "<M8[s]", ">i4", "|S3", "<U9", "|V0", "|S0"])
    | st.text(max_size=4) | st.lists(st.tuples(st.text(max_size=3), st.just("<f4")), max_size=2),
    "fortran_order": st.booleans() | st.integers(0, 3),
    "shape": st.lists(st.integers(-2, 6) | st.sampled_from([2**31, 2**62, 10**25]), max_size=5)
    .map(tuple) | st.integers(),
})  # fmt: skip


@given(HEADERS, st.sampled_from(["arr_0", "arr_1", "class_names", None]), st.binary(max_size=96))
def test_any_header_is_read_or_refused(tmp_path_factory, header, place, content):
    """``place``: in which array of an npz, or in an npy; nothing is reserved by its promise."""
    text = repr(header).encode("utf-8", "backslashreplace") + b"\n"
    array = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + content
    folder, fault = tmp_path_factory.getbasetemp(), ""
    path = folder / ("fuzzed.npz" if place else "fuzzed.npy")
    if place is None:
        path.write_bytes(array)
    else:
        np.savez(path, **{"arr_0": noise(3, 2, 2), "arr_1": [1, 1, 2]} | {place: 0})
        with zipfile.ZipFile(path) as archive:
            others = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, other in (others | {f"{place}.npy": array}).items():
                archive.writestr(name, other)
    try:
        source = array_source(path, 0.1)
    except ValueError as error:
        fault = str(error)
    assert fault.isprintable()
    assert len(fault) < 700
    if not fault:
        for number in range(len(source.names)):
            source.read(number)
