"""Data sets of somebody else: a module that Python finds from here."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from vfn.configs import DataConfig
from vfn.data import (
    Labels,
    find_prepared,
    load_dataset,
    load_held_out,
    prepare,
    read_pictures,
    spec_settings,
)

MODULE = """
import numpy as np, torch
from PIL import Image
from vfn.data import Source, as_dataset

IMAGES = np.arange(20 * 4 * 6 * 3).reshape(20, 4, 6, 3).astype(np.uint8)
LABELS = np.arange(20) % 2 + 1

def source(**changed):
    made = Source("mine", [str(i) for i in range(20)], lambda i: Image.fromarray(IMAGES[i]),
                  LABELS, ("cat", "dog"), {"train": range(15), "valid": range(15, 20)})
    return made._replace(**changed)

def Files(directory):
    (directory / "seen").parent.mkdir(parents=True, exist_ok=True)
    (directory / "seen").write_text("seen")
    return source()

def Memory(_directory):
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    return as_dataset(images, torch.from_numpy(LABELS), ["cat", "dog"])

def Tags(_directory):
    return as_dataset(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.eye(20, 3).int())

def Unlabelled(_directory):
    return as_dataset(torch.zeros(20, 1, 4, 4, dtype=torch.uint8))

def Narrow(_directory):
    return source(labels=LABELS.astype(np.uint8))

def Zero(_directory):
    return source(labels=LABELS - 1)

def Three(_directory):
    return source(labels=LABELS + 1)

def Short(_directory):
    return source(labels=LABELS[:3])

def Floats(_directory):
    return source(labels=LABELS * 1.0)

def Wrong(_directory):
    return IMAGES

def Beyond(_directory):
    return source(splits={"train": range(15), "test": range(15, 25)})

def Twice(_directory):
    return source(splits={"train": range(15), "test": range(14, 20)})

def Empty(_directory):
    return source(splits={"train": [], "test": []})

def Whole(_directory):
    return source(splits={"all": range(20)})

def FewVectors(_directory):
    return source(vectors=np.zeros((3, 2), np.float32))

def FlatVectors(_directory):
    return source(vectors=np.zeros(20, np.float32))

def NoVectors(_directory):
    return source(vectors=np.full((20, 2), np.nan))

def Doubles(_directory):
    return source(numbers="float64")

def Other(_directory):
    return source(numbers="float32", read=lambda i: np.zeros((2, 4, 4)))

def Alpha(_directory):
    return source(numbers="uint8", read=lambda i: np.zeros((4, 4, 4), np.uint8))

def Exits(_directory):
    raise SystemExit(3)

def ExitsLater(_directory):
    def read(number):
        raise SystemExit(3)
    return source(read=read)

def Whole_numbers(_directory):
    return source(vectors=np.arange(40).reshape(20, 2))

def Ranged(_directory):
    from vfn.data.values import ranged
    return as_dataset(torch.rand(20, 2, 4, 4) / 2, values=ranged("float32", -1, 1))

def Mistaken(_directory):
    from vfn.data.values import ranged
    return source(read=lambda i: np.zeros((2, 4, 4), np.float32), numbers="float32",
                  values=ranged("uint16", 0, 1))

def Unscaled(_directory):
    from vfn.data.values import Values
    return source(read=lambda i: np.zeros((2, 4, 4), np.float32), numbers="float32",
                  values=Values("float32", (0.0,) * 3, (1.0,) * 3))

def First(_directory):
    return source(splits={"train": range(2, 20), "test": range(2)})

def Last(_directory):
    return source(splits={"train": range(18), "test": range(18, 20)})

def Turned(_directory):
    return source(splits={"test": range(18, 20), "train": range(18)})

def Shuffled(_directory):
    order = np.random.default_rng().permutation(20)
    return source(splits={"train": order[:15], "test": order[15:]})

def Besides(_directory):
    images = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    return as_dataset(images, beside=images)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """The module ``mine_of_them.data`` in the current directory."""
    (tmp_path / "mine_of_them").mkdir()
    (tmp_path / "mine_of_them" / "data.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("mine_of_them")]:
        del sys.modules[name]


def settings(name, **values):
    return DataConfig(dataset=f"mine_of_them.data:{name}", **values)


def test_a_source(tmp_path):
    config = settings("Files", data_dir=str(tmp_path / "home"))
    found = prepare(config)
    assert (tmp_path / "home" / "seen").exists()  # it is told where downloads are
    assert found.splits == {"train": 15, "valid": 5}
    train = load_dataset(config)
    assert train.images.shape == (15, 3, 4, 6)
    assert train.legend == Labels(("cat", "dog"))
    assert train.labels.tolist() == [1, 2] * 7 + [1]
    assert load_dataset(config, "valid").labels.dtype == torch.int64
    assert load_held_out(config) is None  # it has no split of that name


def test_settings_shape_its_pictures():
    config = settings("Files", image_size=(8,), channels=1)
    assert load_dataset(config).images.shape == (15, 1, 8, 8)
    assert load_dataset(settings("Memory", conditional=False)).labels is None


def test_pictures_in_memory():
    """A tenth of them, always the same, is the test split."""
    whole, train, test = (load_dataset(settings("Memory"), s) for s in ("all", "train", "test"))
    assert [len(part.images) for part in (whole, train, test)] == [20, 18, 2]
    rows = sorted(zip(whole.images.flatten(1).tolist(), whole.labels.tolist(), strict=True))
    expected = np.arange(20 * 72).reshape(20, 4, 6, 3).astype(np.uint8).transpose(0, 3, 1, 2)
    labels = [1, 2] * 10
    assert rows == sorted(zip(expected.reshape(20, -1).tolist(), labels, strict=True))
    assert whole.legend == Labels(("cat", "dog"))
    assert torch.equal(load_held_out(settings("Memory")).images, test.images)


def test_tags_and_no_labels():
    tags = load_dataset(settings("Tags"), "all")
    assert tags.legend == Labels(("1", "2", "3"), tags=True)
    assert int(tags.labels.sum()) == 3
    assert load_dataset(settings("Unlabelled")).legend == Labels()


def test_labels_of_another_width():
    found = load_dataset(settings("Narrow"))
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist()[:2] == [1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Zero",
            r"labels of mine_of_them.data:Zero to be classes 1..K \[20\] .* with 0..1, 2 class",
        ),
        ("Three", r"got int64 \[20\] with 2..3, 2 class_names"),
        ("Short", r"got int64 \[3\]"),
        ("Floats", r"got float64 \[20\]"),
        ("Wrong", r"Wrong\(directory\) to give a vfn.data.Source or .*, got ndarray"),
        ("Beyond", r"numbers in 0..19 in the splits of mine_of_them.data:Beyond, got 20 in test"),
        (
            "Twice",
            "of mine_of_them.data:Twice in one split, once, got 14 in train and in test",
        ),
        ("Empty", "expected splits of mine_of_them.data:Empty .* got 0 train, 0 test"),
        ("Whole", "none of them called all, got 20 all"),
        ("FewVectors", "expected vectors of 20 pictures in mine_of_them.data:FewVectors, got 3"),
        ("FlatVectors", r"as numbers \[N, D\], got float32 \[20\]"),
        ("NoVectors", "expected finite vectors .* got nan at 0, 0"),
        ("Doubles", "to be one of uint8, uint16, float16, float32, got 'float64'"),
        ("Other", r"0 \(float64 \[2, 4, 4\], expected float32 \[C, H, W\]\)"),
        ("Mistaken", "expected values of numbers in mine for float32, got uint16; make them alike"),
        ("Unscaled", "expected 1 or 2 offsets of numbers in mine, one for each channel, got 3"),
        ("Alpha", "expected 1 or 3 channels of 8-bit pictures in mine, got 4"),
        ("Exits", "Exits cannot be opened: SystemExit: 3"),
        ("ExitsLater", r"20 of 20 pictures in mine cannot be used: 0 \(3\)"),
        ("Besides", "expected mine_of_them.data:Besides without pictures beside others"),
        ("Nothing", "mine_of_them.data:Nothing: there is no Nothing in mine_of_them.data"),
    ],
)
def test_what_is_no_data_set_is_one_line(name, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_dataset(settings(name))
    assert "\n" not in str(raised.value)


def test_conditions_of_one_file_follow_the_splits_of_each_data_set(tmp_path):
    """Each condition is the inverse of its picture, whichever data set was prepared first."""
    images = np.arange(20 * 4 * 6 * 3).reshape(20, 4, 6, 3).astype(np.uint8)
    np.save(tmp_path / "beside.npy", 255 - images)
    for name in ("First", "Last", "Turned", "Shuffled", "First", "Shuffled"):
        for split in ("train", "test", "all"):
            asked = settings(name, condition="beside.npy", data_dir=str(tmp_path / "data"))
            found = load_dataset(asked, split)
            assert torch.equal(found.beside[:], 255 - found.images)


def test_the_meaning_of_numbers_is_kept():
    found = load_dataset(settings("Ranged"))
    assert found.values.describe() == "float32, -1 to 1"
    scaled = load_dataset(settings("Ranged", value_range=(0.0, 0.5)))
    assert scaled.values.describe() == "float32, 0 to 0.5"


def test_whole_numbers_of_pictures_are_numbers():
    assert load_dataset(settings("Whole_numbers"), "train").vectors[1].tolist() == [2, 3]


def test_a_module_that_is_not_there():
    with pytest.raises(ValueError, match="yours:Cats cannot be imported .ModuleNotFoundError"):
        load_dataset("yours:Cats")


@pytest.mark.parametrize(
    ("spec", "name", "split"),
    [
        ("dataset:mine_of_them.data:Files", "mine_of_them.data:Files", "train"),
        ("dataset:mine_of_them.data:Files:valid", "mine_of_them.data:Files", "valid"),
        ("dataset:digits", "digits", "train"),
        ("dataset:digits:all", "digits", "all"),
        ("dataset:some.folder:test", "some.folder", "test"),
        ("dataset:some/folder", "some/folder", "train"),
    ],
)
def test_a_spec_may_name_a_split(spec, name, split):
    found = spec_settings(spec, DataConfig(data_dir="/data"))
    assert (found.dataset, found.split, found.data_dir) == (name, split, "/data")


def test_pictures_of_a_spec():
    assert len(read_pictures("dataset:mine_of_them.data:Files:valid").images) == 5
    assert len(read_pictures("dataset:mine_of_them.data:Memory").images) == 18
    with pytest.raises(ValueError, match="unknown split 'test', expected one of train, valid, all"):
        read_pictures("dataset:mine_of_them.data:Files:test")
    with pytest.raises(ValueError, match="unknown data set 'cats', expected one of digits, "):
        read_pictures("dataset:cats:test")


def test_nothing_is_kept_on_the_disk(tmp_path):
    found = find_prepared(settings("Memory", data_dir=str(tmp_path / "home")))
    assert found.path is None
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("module", ["vfn.data.standard", "vfn.configs"])
def test_tables_and_configurations_need_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_data_set_that_cannot_be_made_is_one_line():
    """What is named may be anything, such as a class that wants arguments."""
    with pytest.raises(
        ValueError, match=r"data set vfn.nn:UNet cannot be opened: TypeError: "
    ) as e:
        load_dataset("vfn.nn:UNet")
    assert len(str(e.value).splitlines()) == 1
