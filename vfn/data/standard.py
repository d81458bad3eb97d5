"""Data sets that are known by name."""

import tempfile
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import ConcatDataset

from vfn.data.arrays import to_picture
from vfn.data.dataset import own_splits
from vfn.data.source import Source

DIGITS = tuple(str(digit) for digit in range(10))


class Standard(NamedTuple):
    """How to get a data set, and how its pictures are prepared unless settings say otherwise.

    source: reads it below a directory, downloading what is missing. content: what identifies the
    files it is made of; None if it needs none and is read into memory whenever it is used.
    """

    source: Callable[[Path], Source]
    content: Callable[[], Any] | None
    image_size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None


def _digits(_root: Path) -> Source:
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)  # from 0..16
    labels = source.target.astype(np.int64) + 1
    names = [f"digits[{i}]" for i in range(len(images))]
    splits = own_splits(len(images))
    return Source("digits", names, lambda i: to_picture(images[i]), labels, DIGITS, splits)


def _mnist(root: Path) -> Source:
    from torchvision.datasets import MNIST

    files = [name for name, _ in MNIST.resources]
    parts = _fetch(
        "mnist",
        files,
        root / "MNIST" / "raw",
        lambda: {"train": MNIST(root, download=True), "test": MNIST(root, train=False)},
    )
    labels = np.concatenate([part.targets.numpy() + 1 for part in parts.values()])
    return _joined("mnist", parts, labels, DIGITS)


def _mnist_content() -> Any:
    from torchvision.datasets import MNIST

    return MNIST.resources


def _cifar10(root: Path) -> Source:
    from torchvision.datasets import CIFAR10

    parts = _fetch(
        "cifar10",
        [CIFAR10.filename],
        root,
        lambda: {"train": CIFAR10(root, download=True), "test": CIFAR10(root, train=False)},
    )
    labels = np.concatenate([np.array(part.targets) + 1 for part in parts.values()])
    return _joined("cifar10", parts, labels, tuple(parts["train"].classes))


def _cifar10_content() -> Any:
    from torchvision.datasets import CIFAR10

    return [*CIFAR10.train_list, *CIFAR10.test_list, CIFAR10.meta["md5"]]


def _celeba(root: Path) -> Source:
    from torchvision.datasets import CelebA

    def parts() -> dict[str, Any]:
        _unpack(root / CelebA.base_folder / "img_align_celeba.zip")
        train = CelebA(root, "train", download=True)
        return {"train": train, **{split: CelebA(root, split) for split in ("valid", "test")}}

    files = [name for *_, name in CelebA.file_list]
    found = _fetch("celeba", files, root / CelebA.base_folder, parts)
    labels = np.concatenate([part.attr.numpy().astype(np.uint8) for part in found.values()])
    # The header ends in a space, which reads as one more name.
    names = tuple(name for name in found["train"].attr_names if name)
    files = [name for part in found.values() for name in part.filename]
    return _joined("celeba", found, labels, names, files)


def _celeba_content() -> Any:
    from torchvision.datasets import CelebA

    return CelebA.file_list


STANDARD = {
    "celeba": Standard(_celeba, _celeba_content, (64, 64), (40, 15, 148, 148)),
    "cifar10": Standard(_cifar10, _cifar10_content),
    "digits": Standard(_digits, None),
    "mnist": Standard(_mnist, _mnist_content, (32, 32)),
}


def _fetch(
    name: str, files: Sequence[str], folder: Path, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What ``make`` downloads or finds, or one line that says which file belongs where."""
    try:
        return make()
    except Exception as error:  # the network, the server and the archive fail in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{name} is not in {folder} and cannot be downloaded; put {', '.join(files)} there "
            f"({reason})"
        ) from None


def _unpack(archive: Path) -> None:
    """Unpack a zip archive of one folder of its own name beside it, whole or not at all."""
    from torchvision.datasets.utils import extract_archive

    folder = archive.with_suffix("")
    if folder.is_dir() or not archive.is_file():
        return
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".unpack-") as temporary:
        extract_archive(archive, temporary)
        (Path(temporary) / folder.name).rename(folder)


def _joined(
    name: str,
    parts: dict[str, Any],
    labels: np.ndarray,
    class_names: tuple[str, ...],
    files: Sequence[str] = (),
) -> Source:
    """The splits of a torchvision data set, one after another."""
    whole: ConcatDataset = ConcatDataset(list(parts.values()))
    bounds = accumulate((len(part) for part in parts.values()), initial=0)
    splits = {split: range(*pair) for split, pair in zip(parts, pairwise(bounds), strict=True)}
    names = files or [f"{name}[{i}]" for i in range(len(whole))]
    return Source(name, names, lambda i: whole[i][0], labels, class_names, splits)
