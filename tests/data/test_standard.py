"""MNIST, CIFAR-10 and CelebA from small files in their true formats."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10 as Cifar10
from torchvision.datasets import MNIST, CelebA
from torchvision.transforms import v2

from tests.helpers.formats import (
    CELEBA_TAGS,
    CIFAR_CLASSES,
    celeba_jpeg,
    fake_celeba,
    fake_cifar10,
    fake_mnist,
)
from vfn.configs import DataConfig
from vfn.data import find_prepared, load_dataset, prepare

# Python 3.12 announces another default of tarfile, which torchvision leaves to it.
pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def settings(name, root, **values):
    return DataConfig(dataset=name, data_dir=str(root), **values)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads fail at once, and say so."""
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(Cifar10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)


def resized(images):
    """28 x 28 to 32 x 32 by torchvision."""
    transform = v2.Compose([v2.Resize((32, 32)), v2.PILToTensor()])
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def test_mnist(root, monkeypatch):
    made = fake_mnist(root, monkeypatch)
    for split in ("train", "test"):
        found = load_dataset(settings("mnist", root), split)
        assert torch.equal(found.images, resized(made[f"{split}_images"]))
        assert (found.labels - 1).tolist() == made[f"{split}_labels"].tolist()
        assert found.legend.names == tuple("0123456789")
    assert len(load_dataset(settings("mnist", root), "all").images) == 20


def test_mnist_at_its_own_size(root, monkeypatch):
    made = fake_mnist(root, monkeypatch)
    found = load_dataset(settings("mnist", root, image_size=(28,)))
    assert np.array_equal(found.images[:, 0], made["train_images"])


def test_other_files_of_the_names_of_mnist_are_refused(root, monkeypatch):
    """Unpacked ones, as of Fashion-MNIST, which torchvision takes; and those of the true names."""
    fake_mnist(root, monkeypatch)
    prepare(settings("mnist", root, image_size=(28,)))  # unpacks them
    other = fake_mnist(root / "other", monkeypatch, train=30)
    for file in (root / "other" / "MNIST" / "raw").iterdir():
        assert file.suffix == ".gz"
        shutil.move(file, root / "MNIST" / "raw" / file.name)
    assert len(other["train_images"]) == 30
    message = r"expected train-images-idx3-ubyte of MNIST in \S+/MNIST/raw, got a file of another"
    with pytest.raises(ValueError, match=message):
        prepare(settings("mnist", root))


def test_cifar10(root, monkeypatch):
    made = fake_cifar10(root, monkeypatch)
    for split in ("train", "test"):
        found = load_dataset(settings("cifar10", root), split)
        assert np.array_equal(found.images, made[f"{split}_images"])
        assert (found.labels - 1).tolist() == made[f"{split}_labels"].tolist()
        assert found.legend.names == CIFAR_CLASSES


@pytest.mark.parametrize("packed", [False, True])
def test_celeba(root, monkeypatch, packed):
    made = fake_celeba(root, monkeypatch, packed=packed)
    data = settings("celeba", root)
    whole = load_dataset(data, "all")
    crop = v2.Lambda(
        lambda image: v2.functional.crop(image, top=40, left=15, height=148, width=148)
    )
    transform = v2.Compose([crop, v2.Resize((64, 64)), v2.PILToTensor()])
    for i, image in enumerate(whole.images):
        with Image.open(io.BytesIO(celeba_jpeg(i))) as picture:
            assert torch.equal(image, transform(picture))
    assert whole.legend.names == CELEBA_TAGS
    assert whole.legend.tags
    assert whole.labels.dtype == torch.uint8
    assert np.array_equal(whole.labels, made["tags"])
    for number, split in enumerate(("train", "valid", "test")):
        rows = np.flatnonzero(made["partition"] == number)
        part = load_dataset(data, split)
        assert torch.equal(part.images, whole.images[rows])
        assert np.array_equal(part.labels, made["tags"][rows])


def test_celeba_names_a_missing_picture(root, monkeypatch):
    fake_celeba(root, monkeypatch)
    (root / "celeba" / "img_align_celeba" / "000007.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 12 pictures in celeba .*: 000007.jpg \(.*No such"):
        prepare(settings("celeba", root))
    found = prepare(settings("celeba", root, on_bad="skip"))
    assert found.splits == {"train": 6, "valid": 1, "test": 4}


def test_a_split_that_is_not_there(root, monkeypatch):
    fake_mnist(root, monkeypatch)
    with pytest.raises(ValueError, match="unknown split 'valid', expected one of train, test, all"):
        load_dataset(settings("mnist", root), "valid")


def test_original_files_are_not_needed_again(root, monkeypatch):
    fake_mnist(root, monkeypatch)
    before = load_dataset(settings("mnist", root))
    shutil.rmtree(root / "MNIST")
    assert torch.equal(load_dataset(settings("mnist", root)).images, before.images)
    with pytest.raises(ValueError, match="cannot be downloaded"):
        load_dataset(settings("mnist", root, image_size=(16,)))


def test_other_content_is_prepared_anew(root, monkeypatch):
    fake_mnist(root, monkeypatch)
    before = prepare(settings("mnist", root))
    shutil.rmtree(root / "MNIST")
    fake_mnist(root, monkeypatch, train=5)
    assert find_prepared(settings("mnist", root)) is None
    after = prepare(settings("mnist", root))
    assert (before.splits["train"], after.splits["train"]) == (12, 5)


@pytest.mark.parametrize(
    ("name", "place", "files"),
    [
        ("mnist", "MNIST/raw", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]),
        ("cifar10", "", ["cifar-10-python.tar.gz"]),
        ("celeba", "celeba", ["img_align_celeba.zip", "list_attr_celeba.txt"]),
    ],
)
def test_without_files_and_network_one_line_says_what_goes_where(root, name, place, files):
    with pytest.raises(ValueError, match=f"^{name} is not in ") as error:
        prepare(settings(name, root))
    message = str(error.value)
    assert f"{name} is not in {root / place} and cannot be downloaded; put " in message
    assert all(file in message for file in files)
    assert "\n" not in message
    assert find_prepared(settings(name, root)) is None


def test_a_damaged_file_is_not_taken(root, monkeypatch):
    fake_cifar10(root, monkeypatch)
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(ValueError, match="put cifar-10-python.tar.gz there"):
        prepare(settings("cifar10", root))


def test_an_archive_that_breaks_off_leaves_no_half_folder(root, monkeypatch):
    fake_celeba(root, monkeypatch, packed=True)
    archive = root / "celeba" / "img_align_celeba.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match="celeba is not in"):
        prepare(settings("celeba", root))
    assert sorted(path.name for path in (root / "celeba").iterdir()) == sorted(
        name for *_, name in CelebA.file_list
    )
