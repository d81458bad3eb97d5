"""Data sets by name or path, and the pictures that an evaluation compares."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_args

import numpy as np

from vfn.configs import DataConfig, Split
from vfn.data import arrays
from vfn.data.arrays import array_source
from vfn.data.cache import DATA_VARIABLE, Prepared, cache_path, in_memory, prepare_cache
from vfn.data.dataset import Dataset
from vfn.data.folder import file_state, folder_source, folder_state, picture_files
from vfn.data.given import DERIVED, derived_kind
from vfn.data.resize import resize_and_crop, resized
from vfn.data.source import Source
from vfn.data.standard import DATASETS, Standard
from vfn.data.tar import tar_files, tar_source
from vfn.files import few, given_path, printable, shortened, shown
from vfn.tables import is_object_name, outside

ARCHIVES = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar"}
# Of the rules by which own files become rows: what was prepared by earlier ones is prepared anew.
_RULES = 4


class MissingData(ValueError):
    """A data set that is not where its name says.

    Args:
        name: as it was given.
        place: the path that it would be.
    """

    what, option = "pictures", "--dataset"

    def __init__(self, name: str, place: Path) -> None:
        self.fault = f"there is no folder, .npy or .npz file at {printable(str(place))}"
        super().__init__(self._message(name))

    def _message(self, name: str) -> str:
        path = Path(name)
        named = path.name == name and path.suffix.lower() not in arrays.SUFFIXES
        return (
            f"{f'unknown data set {shown(name)}' if named else self.fault}, expected "
            f"{DATASETS.expected()}, or the path of a folder, .npy, .npz or .tar file"
        )


class MissingCondition(MissingData):
    """Pictures that are a condition of others, and are not where their path says."""

    what, option = "conditions", "--condition"

    def _message(self, name: str) -> str:
        return (
            f"expected condition {shown(name)} to be {DERIVED.words()}, or the path of a folder, "
            ".npy or .npz file of as many pictures; there is none"
        )


@contextmanager
def pictures_of(owner: str) -> Iterator[None]:
    """Say of a data set that is missing whose it was, and what names its new place.

    Args:
        owner: a run, for the message.

    Raises:
        ValueError: in place of `MissingData`.

    >>> with pictures_of("runs/a"):
    ...     load_dataset("/nowhere/cats")
    Traceback (most recent call last):
    ValueError: there is no folder, .npy or .npz file at /nowhere/cats, where the
    pictures of runs/a were; if they have moved, name their new place with --dataset
    """
    try:
        yield
    except MissingData as error:
        raise ValueError(
            f"{error.fault}, where the {error.what} of {owner} were; if they have moved, name "
            f"their new place with {error.option}"
        ) from None


class _Origin(NamedTuple):
    """A data set that settings name.

    title: what it is called. content: what identifies its files, None if it is read into memory.
    source: reads it. settings: those given, with the data set's own size and crop filled in.
    folder: that of its pictures, where each has a name of its own.
    """

    title: str
    content: Callable[[], Any] | None
    source: Callable[[], Source]
    settings: DataConfig
    folder: Path | None = None

    def path(self) -> Path | None:
        """Where it is prepared; None if it is read into memory."""
        if self.content is None:
            return None
        return cache_path(data_home(self.settings), self.title, self.content(), self.settings)


def datasets() -> list[str]:
    """Names of the data sets.

    Returns:
        names, in the order of the table.

    >>> datasets()
    ['digits', 'mnist5k', 'glyphs', 'patches', 'mnist', 'cifar10', 'celeba']
    """
    return list(DATASETS)


def data_home(settings: DataConfig) -> Path:
    """The directory of downloads and prepared data: the setting, ``$VFN_DATA``, or a cache.

    Args:
        settings: ``data_dir`` of them counts.

    Returns:
        the directory, which need not exist.

    >>> data_home(DataConfig(data_dir="/data"))
    PosixPath('/data')
    """
    return given_path(settings.data_dir or os.environ.get(DATA_VARIABLE) or "~/.cache/vfn")


def data_name(name: str) -> str:
    """What a data set is called wherever one is compared with another, or found again.

    Args:
        name: a word of the table, ``package.module:Name``, or the path of a folder or array file.

    Returns:
        the word or name as it is; the path absolute, without links.

    >>> data_name("digits"), data_name("mine.data:Cats")
    ('digits', 'mine.data:Cats')
    >>> data_name("d/") == data_name("./d") == str(Path("d").resolve())
    True
    """
    if name in DATASETS:
        return name
    path = _resolved(name)
    return name if is_object_name(name) and not path.exists() else str(path)


def settled(settings: DataConfig) -> DataConfig:
    """Settings that mean the same from any directory: `data_name`, and other paths absolute.

    Args:
        settings: which data set, and where all are.

    Returns:
        DataConfig.

    >>> settled(DataConfig(dataset="digits", data_dir="/data/here/../there")).data_dir
    '/data/there'
    """
    home, condition = settings.data_dir, settings.condition
    if home is not None:
        home = os.path.abspath(given_path(home))  # noqa: PTH100  # links stay
    if condition is not None and derived_kind(condition) is None:
        condition = str(_resolved(condition))
    return replace(
        settings, dataset=data_name(settings.dataset), condition=condition, data_dir=home
    )


def _settings_of(data: DataConfig | str) -> DataConfig:
    """Settings, of a name or path alone those that data sets have by default."""
    if isinstance(data, str):
        return DataConfig(dataset=data)
    if not isinstance(data, DataConfig):
        raise ValueError(
            f"expected a data set as a vfn.configs.DataConfig, name or path, got {shown(data)}; "
            "pictures in memory go by as_dataset"
        )
    return data


def prepare(settings: DataConfig | str, fresh: bool = False) -> Prepared:
    """Download and prepare a data set, unless that has been done.

    Args:
        settings: which data set, and how its pictures are wanted; or just its name or path.
        fresh: prepare it anew.

    Returns:
        Prepared: all splits.

    Raises:
        ValueError: for an unknown data set, one that cannot be downloaded, or bad pictures.
        OSError: if the data directory cannot be written.

    >>> prepare("digits").splits
    {'train': 1437, 'test': 360}
    """
    settings = _settings_of(settings)
    origin = _find(settings)
    if origin.content is None:  # read once: another reading may come in another order
        origin = origin._replace(source=cache(origin.source))
    prepared = _prepared(origin, fresh)
    if settings.condition is None or derived_kind(settings.condition) is not None:
        return prepared
    beside = _beside(settings, origin, prepared, fresh)
    return prepared._replace(beside=beside.images, beside_values=beside.values)


def _prepared(origin: _Origin, fresh: bool) -> Prepared:
    path = origin.path()
    if path is None:
        return in_memory(origin.source(), origin.settings)
    return prepare_cache(path, origin.title, origin.source, origin.settings, fresh)


def _beside(settings: DataConfig, origin: _Origin, prepared: Prepared, fresh: bool) -> Prepared:
    """Pictures that are a condition of others, one for each and in the same rows."""
    own = replace(
        origin.settings, dataset=str(settings.condition), condition=None, channels=None,
        on_bad="refuse", value_range=None, standardise=False,
    )  # fmt: skip
    found = _find_files(own, labelled=False)
    if found is None:
        raise MissingCondition(own.dataset, _resolved(own.dataset))
    content, rows = found.content, found.source
    order = _partners(found.folder, origin.folder) if found.folder and origin.folder else []

    def source() -> Source:
        made, like = rows(), origin.source()
        if len(made.names) != len(like.names) or prepared.bad:
            kept = f", {len(prepared.bad)} of which are left out" if prepared.bad else ""
            raise ValueError(
                f"expected condition {shown(settings.condition)} to have a picture for each of "
                f"the {len(like.names)}{kept}, got {len(made.names)}"
            )
        made = made._replace(splits=like.splits, labels=None, class_names=())
        return _in_order(made, order) if order else made

    def told() -> list[Any]:
        own = origin.content() if origin.content else _rows_told(origin.source())
        return [content and content(), own, *order]

    if prepared.bad:  # some prepared by other settings may lie there, which leave out none
        source()
    beside = _prepared(found._replace(content=told, source=source), fresh)
    if beside.images.shape[2:] != prepared.images.shape[2:]:
        raise ValueError(
            f"expected condition {shown(settings.condition)} to have pictures of the size of the "
            f"others, {_size_text(prepared)}, got {_size_text(beside)}; use --image-size"
        )
    return beside


def _rows_told(source: Source) -> list[Any]:
    """What tells which picture of a source comes in which row, as JSON can hold it."""
    splits = {split: np.array(numbers, np.int64) for split, numbers in source.splits.items()}
    hashes = [[split, sha256(numbers.tobytes()).hexdigest()] for split, numbers in splits.items()]
    return [len(source.names), *hashes]


def _partners(beside: Path, own: Path) -> list[int]:
    """Which picture of a folder stands beside each of another one, by their names.

    Returns:
        numbers in the order of the others; none where they come in the same order.

    Raises:
        ValueError: if a picture has no partner, or several.
    """
    places = own, beside
    files = [[PurePosixPath(name) for name in picture_files(place)] for place in places]
    whole: Callable[[PurePosixPath], str] = lambda name: str(name.with_suffix(""))  # noqa: E731
    for key in (str, whole, lambda name: name.stem):
        ours, theirs = ([key(name) for name in some] for some in files)
        place = {name: number for number, name in enumerate(theirs)}
        if len(place) == len(theirs) == len(ours) and place.keys() == {*ours}:
            order = [place[name] for name in ours]
            return [] if order == sorted(order) else order
    names = [{whole(name) for name in some} for some in files]
    if names[0] == names[1]:  # some come with several suffixes
        names = [{str(name) for name in some} for some in files]
    alone = zip(places, (names[0] - names[1], names[1] - names[0]), strict=True)
    told = [f"{few(sorted(some), 3)} in {printable(str(place))}" for place, some in alone if some]
    raise ValueError(
        "expected pictures and those beside them to have the same names, each once, got without a "
        f"partner {' and '.join(told)}; rename them, or name array files, which go by their order"
    )


def _in_order(source: Source, order: Sequence[int]) -> Source:
    """The pictures of a source in another order."""
    names = [source.names[number] for number in order]
    return source._replace(names=names, read=lambda number: source.read(order[number]))


def _size_text(prepared: Prepared) -> str:
    return " x ".join(map(str, prepared.images.shape[2:]))


def find_prepared(settings: DataConfig | str) -> Prepared | None:
    """What `prepare` would give if that needs no work, else None.

    Args:
        settings: which data set, and how its pictures are wanted; or just its name or path.

    Returns:
        Prepared: all splits; None if they would have to be downloaded or prepared.

    Raises:
        ValueError: for an unknown data set.

    >>> find_prepared("digits").splits
    {'train': 1437, 'test': 360}
    """
    path = _find(_settings_of(settings)).path()
    # Of those beside nobody knows without a look at them.
    return prepare(settings) if path is None or path.is_dir() else None


def load_dataset(data: DataConfig | str, split: Split | None = None) -> Dataset:
    """A split of a data set, prepared first if need be.

    Args:
        data: settings, or just the data set's name or path.
        split: ``train``, ``test`` (never trained on unless settings say so), ``valid`` where there
            is one, or ``all``; the settings' own if None.

    Returns:
        Dataset; its pictures are memory-mapped where they come from files.

    Raises:
        ValueError: for an unknown data set or split, one that cannot be downloaded, or bad
            pictures.

    >>> load_dataset("digits", "test").images.shape
    torch.Size([360, 1, 8, 8])
    """
    settings = _settings_of(data)
    return prepare(settings).dataset(split or settings.split, settings.conditional)


def load_held_out(settings: DataConfig | str) -> Dataset | None:
    """The test split, or None if there is none or the settings train on it.

    Args:
        settings: which data set, and the split that is trained on; or just its name or path.

    Returns:
        Dataset, or None.

    Raises:
        ValueError: for an unknown data set, one that cannot be downloaded, or bad pictures.

    >>> load_held_out(DataConfig(dataset="digits", split="all"))
    >>> len(load_held_out("digits").images)
    360
    """
    settings = _settings_of(settings)
    prepared = prepare(settings)
    if settings.split in ("test", "all") or not prepared.splits.get("test"):
        return None
    return prepared.dataset("test", settings.conditional)


def read_pictures(
    spec: str,
    settings: DataConfig | None = None,
    size: tuple[int, int] | None = None,
    labelled: bool = True,
) -> Dataset:
    """Pictures from ``dataset:NAME[:split]``, a folder, or an array file.

    Args:
        spec: NAME is a data set's name or path; a folder or array file alone is read as it is, all
            of it, into memory.
        settings: how the data set of that NAME is prepared; where all data are.
        size: height and width that all pictures are brought to by `resize_and_crop`.
        labelled: without, the labels and their names do not matter.

    Returns:
        Dataset; pictures that `vfn.sampling.write_samples` wrote without a label have 0.

    Raises:
        ValueError: if there is nothing there, or it cannot be read.

    >>> read_pictures("dataset:digits:test").images.shape
    torch.Size([360, 1, 8, 8])
    """
    if spec.startswith("dataset:"):
        known = load_dataset(spec_settings(spec, settings or DataConfig()))
        return known._replace(images=resized(known.images, size))
    own = DataConfig(dataset=spec, test_share=0.0, image_size=size)
    found = _find_files(own, labelled, partly=True)
    if found is None:
        raise ValueError(
            f"expected pictures at {shown(spec)}: an existing folder, an .npy or .npz file, "
            "dataset:NAME[:train|test|all], or run:DIR"
        )
    everything = in_memory(found.source(), own, fit=resize_and_crop)
    return everything.dataset("all")


def read_alike(path: str, like: DataConfig, size: tuple[int, int]) -> Dataset:
    """Pictures of a folder or array file, cropped and brought to a size as a data set's are.

    Args:
        path: of the folder or file; all of it is read into memory.
        like: settings of that data set.
        size: height and width of its pictures.

    Returns:
        Dataset.

    Raises:
        ValueError: if there is nothing there, it cannot be read, or does not hold the crop.

    >>> read_alike("nowhere", DataConfig(dataset="digits"), (8, 8))
    Traceback (most recent call last):
    ValueError: expected pictures at 'nowhere': an existing folder, an .npy or .npz file
    """
    known = DATASETS.get(like.dataset)
    own = DataConfig(
        dataset=path, test_share=0.0, image_size=size, channels=like.channels,
        crop=like.crop or (known.crop if known is not None else None),
    )  # fmt: skip
    found = _find_files(own, partly=True)
    if found is None:
        raise ValueError(
            f"expected pictures at {shown(path)}: an existing folder, an .npy or .npz file"
        )
    return in_memory(found.source(), own).dataset("all")


def spec_settings(spec: str, like: DataConfig) -> DataConfig:
    """Settings of ``dataset:NAME[:split]``: those of ``like`` if it is the data set of that NAME.

    Args:
        spec: NAME is a name of the table, a path, or ``package.module:Name``; train is the split
            where none is named.
        like: settings of a run.

    Returns:
        DataConfig.

    Raises:
        ValueError: for an unknown split.

    >>> spec_settings("dataset:mnist:test", DataConfig(data_dir="/data")).split
    'test'
    >>> spec_settings("dataset:mine.data:Cats", DataConfig()).dataset
    'mine.data:Cats'
    """
    whole = spec.removeprefix("dataset:")
    name, _, split = whole.rpartition(":")
    known = split in get_args(Split) or name in DATASETS or Path(name).exists()
    if not name or (is_object_name(whole) and not known):
        name, split = whole, "train"
    own = same_data(like.dataset, name)
    base = like if own else DataConfig(dataset=name, data_dir=like.data_dir)
    return replace(base, split=split, conditional=True)  # type: ignore[arg-type]


def same_data(one: str, other: str) -> bool:
    """Whether two names stand for one data set, however its path is written.

    Args:
        one: a name of the table, a path, or ``package.module:Name``.
        other: the same.

    Returns:
        whether they do.

    >>> same_data("pictures/", "./pictures"), same_data("digits", "mnist")
    (True, False)
    """
    return data_name(one) == data_name(other)


def _find(settings: DataConfig) -> _Origin:
    name = settings.dataset
    found = None if name in DATASETS else _find_files(settings)
    if found is not None:
        return found
    if name not in DATASETS and not is_object_name(name):
        if (place := _resolved(name)).is_file() and place.suffix.lower() in ARCHIVES:
            raise ValueError(
                f"expected a folder, .npy, .npz or .tar file, got {shown(place.name)}; unpack an "
                "archive, and name what was in it"
            )
        raise MissingData(name, place)
    known = DATASETS.find(name)
    size = settings.image_size or known.image_size
    resolved = replace(settings, image_size=size, crop=settings.crop or known.crop)
    return _Origin(name, known.content, lambda: _source_of(known, settings), resolved)


def _source_of(known: Standard, settings: DataConfig) -> Source:
    """The pictures of a data set that is named; one from outside can fail in any way."""
    home = data_home(settings)
    if not is_object_name(settings.dataset):
        return known.source(home)
    with outside(f"data set {shortened(settings.dataset)} cannot be opened"):
        return known.source(home)


def _find_files(
    settings: DataConfig, labelled: bool = True, partly: bool = False
) -> _Origin | None:
    """The folder or array file that settings name."""
    path = _resolved(settings.dataset)
    if files := tar_files(path):
        return _Origin(
            path.name,
            lambda: [_RULES, [[str(file), file_state(file)] for file in files]],
            lambda: tar_source(files, settings.test_share, labelled),
            settings,
        )
    if path.is_dir():
        return _Origin(
            path.name,
            lambda: [_RULES, str(path), folder_state(path)],
            lambda: folder_source(path, settings.test_share, labelled, partly),
            settings,
            path,
        )
    if path.suffix.lower() in arrays.SUFFIXES and path.is_file():
        return _Origin(
            path.name,
            lambda: [_RULES, str(path), file_state(path)],
            lambda: array_source(path, settings.test_share, labelled, settings.scaled, partly),
            settings,
        )
    return None


def _resolved(name: str) -> Path:
    """The path that a name is, absolute and without links."""
    path = given_path(name)
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"'{shortened(name)}' is no path ({printable(str(error))})") from None
