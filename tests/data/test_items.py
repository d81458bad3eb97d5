"""Pictures that lie beside files: data sets of others, tar files; and changes that do not leak."""

import io
import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.small import small_config
from vfn.configs import DataConfig, override
from vfn.data import from_items, load_dataset, prepare
from vfn.data.augment import DRAWS, Change, changed, draw_change
from vfn.data.tar import tar_source
from vfn.sampling import load
from vfn.train import train
from vfn.train.batches import make_batch


def grey(level, size=(8, 8)):
    return Image.new("L", size, level)


class Rows(torch.utils.data.Dataset):
    """A map-style data set of somebody else's."""

    classes = ("dark", "light", "never seen")

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return grey(20 * index), int(index >= 6)


class Features(list):
    """Rows as a `datasets.Dataset` gives them: mappings, and names of the classes."""

    features = {"img": None, "label": SimpleNamespace(names=["even", "odd"])}  # noqa: RUF012


def test_pictures_and_classes_of_a_torch_data_set():
    found = from_items(Rows(), DataConfig())
    assert found.images[:, 0, 0, 0].tolist() == [20 * i for i in range(12)]
    assert found.labels.tolist() == [1] * 6 + [2] * 6
    assert found.legend.names == ("dark", "light", "never seen")


def test_mappings_with_named_classes():
    rows = Features({"img": grey(i), "label": i % 2} for i in range(4))
    found = from_items(rows, DataConfig())
    assert (found.labels.tolist(), found.legend.names) == ([1, 2, 1, 2], ("even", "odd"))


def test_what_is_held_out_may_lack_some_of_the_classes(tmp_path):
    """By numbers and by texts; the last class, and the first one."""
    config = override(
        small_config(), {"steps": 1, "preview_every": 0, "lr_schedule": "constant", "eval_every": 0}
    )
    for name, classes in (("numbers", (0, 1, 2)), ("texts", ("ant", "bee", "cat"))):
        rows = [(grey(20 * i), classes[i % 3]) for i in range(18)]
        for part, lacking in enumerate((classes[2], classes[0])):
            held_out = [row for row in rows if row[1] != lacking]
            out = tmp_path / f"{name}{part}"
            assert train(config, out, dataset=(rows, held_out), device="cpu").step == 1
        found = from_items(held_out, DataConfig(), ["ant", "bee", "cat"])
        assert found.labels.tolist() == [2, 3] * 6
        assert found.legend.names == ("ant", "bee", "cat")


def test_other_forms_of_pictures_and_classes():
    colours = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    arrays = from_items(list(colours), DataConfig())
    tensors = from_items([torch.from_numpy(c).movedim(-1, 0) for c in colours], DataConfig())
    assert torch.equal(arrays.images, torch.from_numpy(colours).movedim(-1, 1))
    assert torch.equal(arrays.images, tensors.images)
    assert arrays.labels is None
    texts = from_items([(grey(0), "dog"), (grey(1), "cat")], DataConfig())
    assert (texts.labels.tolist(), texts.legend.names) == ([2, 1], ("cat", "dog"))
    small = from_items([(grey(9, (16, 12)), torch.tensor(3))], DataConfig(image_size=(4, 4)))
    assert (small.images.shape, small.labels.tolist()) == ((1, 1, 4, 4), [4])


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "expected a data set with pictures, got an empty one"),
        ([torch.rand(1, 8, 8)], r"float32 \[1, 8, 8\], expected a PIL picture or uint8; leave out"),
        (
            [torch.zeros(8, 6, 3, dtype=torch.uint8)],
            r"torch.uint8 \[8, 6, 3\], expected 1 to 4 channels: tensors are \[C, H, W\]",
        ),
        ([{"text": "a"}], "expected an item with image, got text"),
        ([(grey(0), 0.5)], "expected classes as whole numbers from 0 on or as texts"),
        ([(grey(0), float("inf"))], "expected classes as whole numbers from 0 on or as texts"),
        ([(grey(0), float("nan"))], "expected classes as whole numbers from 0 on or as texts"),
        ([(grey(0), 10**400)], "expected classes as whole numbers from 0 on or as texts"),
        ([(grey(0), 1), (grey(0), "a")], "expected classes as whole numbers from 0 on or as texts"),
        ([(grey(0), None), (grey(1, (4, 4)), None)], "item 1 .* not 8 x 8 grey like item 0"),
    ],
)
def test_items_that_cannot_be_used_are_named(items, message):
    with pytest.raises(ValueError, match=message):
        from_items(items, DataConfig())


def test_ids_are_refused_before_a_name_for_each_number_is_made(monkeypatch):
    monkeypatch.setattr("vfn.data.items.as_dataset", pytest.fail)
    message = (
        "expected 100000 classes or tags at most, got 100001; classes are counted without gaps"
    )
    with pytest.raises(ValueError, match=message):
        from_items([(grey(0), 0), (grey(1), 100_000)], DataConfig())


def test_bad_items_are_left_out_with_their_classes():
    items = [(grey(0), 0), (grey(1, (4, 4)), 1), (grey(2), 2)]
    found = from_items(items, DataConfig(on_bad="skip"))
    assert found.images[:, 0, 0, 0].tolist() == [0, 2]
    assert found.labels.tolist() == [1, 3]


def test_a_data_set_of_somebody_elses_is_trained_on(tmp_path):
    train(small_config(), tmp_path / "run", dataset=(Rows(), Rows()), device="cpu")
    model = load(tmp_path / "run", "cpu")
    assert model.shape.legend.names == ("dark", "light", "never seen")
    with pytest.raises(ValueError, match="a map-style data set of pictures, or a pair of them"):
        train(small_config(), tmp_path / "other", dataset=3, device="cpu")


@pytest.mark.parametrize("lacking", [0, 1])
def test_items_with_and_without_a_class_are_refused(lacking):
    items = [(grey(i), None if i == lacking else i) for i in range(3)]
    with pytest.raises(ValueError, match=f"item {lacking} has no class, and others have one"):
        from_items(items, DataConfig())
    assert from_items([(grey(i), None) for i in range(3)], DataConfig()).labels is None


# Tar files

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def packed(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def png(level):
    buffer = io.BytesIO()
    grey(level).save(buffer, "PNG")
    return buffer.getvalue()


def shards(folder, count=20, per=7, told=None):
    """Pictures in several tar files; what is told of each comes from ``told(i)``."""
    folder.mkdir()
    for first in range(0, count, per):
        members = []
        for i in range(first, min(first + per, count)):
            members += [(f"a/{i:04d}.png", png(10 * i)), *(told(i) if told else [])]
        packed(folder / f"part-{first:02d}.tar", members)
    return folder


@pytest.mark.parametrize("kind", ["number", "text", "json"])
def test_pictures_of_tar_files_have_their_classes(kind, tmp_path):
    tell = {
        "number": lambda i: [(f"a/{i:04d}.cls", str(i % 3).encode())],
        "text": lambda i: [(f"a/{i:04d}.cls", [b"cat", b"dog", b"fox"][i % 3] + b"\n")],
        "json": lambda i: [(f"a/{i:04d}.json", json.dumps({"label": i % 3, "x": 1}).encode())],
    }[kind]
    folder = shards(tmp_path / "shards", told=tell)
    settings = DataConfig(dataset=str(folder), data_dir=str(tmp_path))
    found = load_dataset(settings, "all")
    numbers = found.images[:, 0, 0, 0] // 10
    assert sorted(numbers.tolist()) == list(range(20))
    assert torch.equal(found.labels, numbers % 3 + 1)
    assert found.legend.names == (("cat", "dog", "fox") if kind == "text" else ("0", "1", "2"))
    assert prepare(settings).splits == {"train": 18, "test": 2}
    capitals = (folder / "part-00.tar").rename(folder / "part-00.TAR")
    alone = load_dataset(DataConfig(dataset=str(capitals), data_dir=str(tmp_path)), "all")
    assert len(alone.images) == 7
    assert torch.equal(load_dataset(settings, "all").images, found.images)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: packed(f / "part-00.tar", [("x.txt", b"a")]), "is no picture"),
        (lambda f: (f / "part-00.tar").write_bytes(b"a" * 2000), "is no uncompressed tar file"),
        (lambda f: packed(f / "part-00.tar", [("a.png", png(1)[:20])]), r"part-00.tar\[a\] \("),
        # of formats for which Pillow may start another program
        (lambda f: packed(f / "part-00.tar", [("a.png", EPS)]), r"part-00.tar\[a\] \(cannot ident"),
        (lambda f: packed(f / "part-00.tar", [("a.png", png(1)), ("a.cls", b"1")]), "has no class"),
        (
            lambda f: packed(f / "part-00.tar", [("a.png", png(1)), ("a.json", b"{")]),
            "a.json is no JSON",
        ),
    ],
)
def test_tar_files_that_cannot_be_used_are_named(spoil, message, tmp_path):
    folder = shards(tmp_path / "shards")
    spoil(folder)
    settings = DataConfig(dataset=str(folder), data_dir=str(tmp_path))
    if message == "is no picture":
        assert prepare(settings).splits == {
            "train": 11,
            "test": 2,
        }  # what is no picture is passed by
        return
    with pytest.raises(ValueError, match=message):
        prepare(settings)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF"])
def test_nothing_but_the_four_formats_is_read_from_tar_files(kind, tmp_path):
    """The reader of EPS starts another program with what a stranger wrote."""
    other = io.BytesIO()
    grey(9).convert("RGB").save(other, kind)
    packed(tmp_path / "a.tar", [("0.png", png(1)), ("1.png", other.getvalue()), ("2.png", png(2))])
    with pytest.raises(ValueError, match=r"a.tar\[1\] \(cannot identify image file"):
        prepare(DataConfig(dataset=str(tmp_path / "a.tar"), data_dir=str(tmp_path)))


def test_pictures_in_tar_files_that_are_not_taken_are_named(tmp_path, capsys):
    path = tmp_path / "a.tar"
    members = [("a.png", png(1)), ("v1.0.png", png(2)), ("b.png", png(3)), ("b.png", png(4)),
               ("c.png", png(5)), ("c.bmp", png(6)), ("._a.png", b"hidden")]  # fmt: skip
    packed(path, members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    found = load_dataset(DataConfig(dataset=str(path), data_dir=str(tmp_path)), "all")
    assert sorted(found.images[:, 0, 0, 0].tolist()) == [1, 4, 5]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert len(told) == 1
    for part in ("a.tar: 4 files", "v1.0.png (by its first dot of kind .0.png)",
                 "b.png (the name comes again)", "c.bmp (beside c.png)"):  # fmt: skip
        assert part in told[0]


def test_a_folder_of_pictures_with_a_tar_file_in_it_stays_one(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        grey(i).save(tmp_path / "pictures" / f"{i}.png")
    packed(tmp_path / "pictures" / "backup.tar", [("b.png", png(9))])
    settings = DataConfig(dataset=str(tmp_path / "pictures"), data_dir=str(tmp_path))
    assert len(load_dataset(settings, "all").images) == 3


# Augmentation


def change_of(matrix):
    return Change(torch.tensor([matrix]), torch.ones(1, 9))


@pytest.mark.parametrize("size", [(6, 6), (4, 8)])
def test_changes_are_those_of_pixels(size):
    """Mirrors and half turns by flips; in a square a quarter turn; whole pixels by rolls."""
    x = torch.rand(1, 2, *size)
    half = change_of([[-1.0, 0, 0], [0, -1, 0]])
    torch.testing.assert_close(changed(x, half), x.flip(-1, -2), rtol=0, atol=1e-5)
    shift = change_of([[1.0, 0, 2 / size[1]], [0, 1, 0]])  # one pixel of a side of 2
    torch.testing.assert_close(changed(x, shift)[..., :-1], x[..., 1:], rtol=0, atol=1e-5)
    quarter = changed(x, change_of([[0.0, -1, 0], [1, 0, 0]]))
    if size[0] == size[1]:
        torch.testing.assert_close(quarter, torch.rot90(x, -1, (-1, -2)), rtol=0, atol=1e-5)
    else:  # the middle turns as pixels do, whatever the sides are
        middle = torch.rot90(x[..., 0:4, 2:6], -1, (-1, -2))
        torch.testing.assert_close(quarter[..., 0:4, 2:6], middle, rtol=0, atol=1e-5)


def test_kinds_are_drawn_one_by_one_and_told():
    uniform = torch.rand(4000, DRAWS, generator=torch.manual_seed(0), dtype=torch.float64)
    change = draw_change(uniform, 0.25)
    told = change.told
    kinds = torch.stack([told[:, 0], told[:, 1], told[:, 2], told[:, 3:5].abs().sum(1),
                         told[:, 5:7].abs().sum(1), told[:, 7:].abs().sum(1)], 1) != 0  # fmt: skip
    # Six standard errors of a share of 4,000.
    assert (kinds.float().mean(0) - 0.25).abs().max() < 6 * (0.25 * 0.75 / 4000) ** 0.5
    still = ~kinds.any(1)
    assert torch.equal(change.matrix[still], torch.eye(2, 3).expand(int(still.sum()), 2, 3))
    size = torch.linalg.det(change.matrix[:, :, :2].double()).abs()
    torch.testing.assert_close(size.log2(), -2 * 0.2 * told[:, 2].double(), rtol=1e-4, atol=1e-5)
    scaled = told[:, 2][kinds[:, 2]]
    assert scaled.std() == pytest.approx(1, abs=0.15)
    torch.testing.assert_close(change.matrix[:, :, 2], 0.25 * told[:, 7:], rtol=1e-5, atol=1e-6)


def test_unchanged_pictures_come_back_to_the_bit():
    x = torch.rand(64, 1, 5, 7, generator=torch.manual_seed(1))
    uniform = torch.rand(64, DRAWS, generator=torch.manual_seed(2), dtype=torch.float64)
    change = draw_change(uniform, 0.1)
    still = (change.told == 0).all(1)
    assert 10 < still.sum() < 60
    assert torch.equal(changed(x, change)[still], x[still])


def test_changes_of_training_belong_to_draws_and_sampling_has_none(tmp_path):
    config = override(small_config(), {"augment": 0.3, "condition": "downscale:2"})
    digits = load_dataset("digits")
    whole = make_batch(digits, config, torch.arange(24), torch.device("cpu"))
    part = make_batch(digits, config, torch.arange(7, 15), torch.device("cpu"))
    assert torch.equal(part.augment, whole.augment[7:15])
    torch.testing.assert_close(part.x0, whole.x0[7:15], rtol=0, atol=1e-6)
    assert (whole.augment != 0).any(1).sum() > 10
    assert whole.x0.abs().max() <= 1
    train(config, tmp_path / "run", device="cpu")
    model = load(tmp_path / "run", "cpu")
    assert model.model.augment_dim == 9
    assert model.sample(2, condition="dataset:digits:test", steps=2).images.shape == (2, 1, 8, 8)


def test_a_tar_file_that_is_cut_meanwhile_is_told(tmp_path):
    path = tmp_path / "a.tar"
    packed(path, [("0.png", png(1)), ("1.png", png(2))])
    source = tar_source([path], 0.0)
    path.write_bytes(path.read_bytes()[: 512 + 10])
    with pytest.raises(ValueError, match="a.tar is cut short"):
        source.read(0)


@pytest.mark.parametrize("classes", [[0, 2], ["cat", "fox"]])
def test_names_that_lack_a_class_are_refused(classes):
    """They gave way to numbers, or to the texts that were found, without a word."""
    items = [(Image.new("L", (8, 8)), each) for each in classes]
    with pytest.raises(ValueError, match="expected names of all classes.* got cat, dog; name each"):
        from_items(items, DataConfig(), ["cat", "dog"])
    found = from_items(items, DataConfig(), ["cat", "dog", "fox"])
    assert found.legend.names == ("cat", "dog", "fox")
    assert found.labels.tolist() == [1, 3]
