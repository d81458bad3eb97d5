"""Data sets prepared once: a directory with all pictures as one memory-mapped array.

``images.bin`` holds them [N, C, H, W], split after split; ``labels.npy`` the labels;
``vectors.npy`` numbers of each picture; ``info.json`` shape, names, splits and the SHA-256 of each
split's pictures. The directory's name has a hash of the content and of all settings that change a
pixel or a row. It is written beside its place and renamed, so it is there whole or not at all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn.configs import DataConfig, Split
from vfn.data.cache_info import Info, read_info, read_labels, read_vectors
from vfn.data.dataset import Dataset
from vfn.data.digest import data_digest, images_digest, remember_digest
from vfn.data.given import Vector, vector_of
from vfn.data.labels import Labels
from vfn.data.mapped import map_pictures
from vfn.data.source import Bad, Fit, Rows, Source, bad_line, cover, read_rows
from vfn.data.values import PLAIN, Values, checked_values, measured
from vfn.files import (
    check_space,
    few,
    locked,
    make_directory,
    printable,
    shortened,
    sync_directory,
)
from vfn.progress import Progress, say

DATA_VARIABLE = "VFN_DATA"
FORMAT = 1
IMAGES, LABELS, VECTORS, INFO = "images.bin", "labels.npy", "vectors.npy", "info.json"
# Settings that change a pixel or a row; the others only say what is done with the rows.
_KEYED = ("image_size", "crop", "channels", "test_share", "on_bad")


class Prepared(NamedTuple):
    """A data set ready for use.

    images: uint8 [N, C, H, W], split after split; memory-mapped if there is a ``path``. splits:
    pictures of each. bad: pictures that were left out. known: SHA-256 of each split's pictures.
    vectors: float32 [N, D], or None. beside: pictures that are a condition, in the same rows.
    """

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    splits: dict[str, int]
    bad: list[Bad]
    path: Path | None
    known: Mapping[str, str] = {}
    vectors: Tensor | None = None
    vector_names: tuple[str, ...] = ()
    beside: Tensor | None = None
    values: Values = PLAIN
    beside_values: Values = PLAIN

    def dataset(self, split: Split, conditional: bool = True) -> Dataset:
        """The rows of a split, sharing memory.

        Args:
            split: one of ``splits``, or ``all``.
            conditional: with the labels, where there are any.

        Returns:
            Dataset.

        Raises:
            ValueError: if there is no such split, or it has no pictures.
        """
        ends = dict(zip(self.splits, accumulate(self.splits.values()), strict=True))
        bounds = {k: (end - self.splits[k], end) for k, end in ends.items()}
        bounds["all"] = (0, len(self.images))
        if split not in bounds:
            raise ValueError(f"unknown split {split!r}, expected one of {few(bounds)}")
        start, end = bounds[split]
        if start == end:
            raise ValueError(f"split {split} has no pictures; change --test-share or add pictures")
        images = self.images[start:end]
        if split in self.known:
            remember_digest(images, self.known[split])
        beside = None if self.beside is None else self.beside[start:end]
        more: Any = {
            "beside": beside, "values": self.values, "beside_values": self.beside_values
        }  # fmt: skip
        if not conditional:
            return Dataset(images, **more)
        labels, vectors = (
            None if each is None else each[start:end] for each in (self.labels, self.vectors)
        )
        return Dataset(images, labels, self.legend, vectors, self.vector, **more)

    def summary(self) -> str:
        """Lines of text for a terminal."""
        splits = few(f"{count} {split}" for split, count in self.splits.items())
        kind = "" if self.values.plain else f" {self.values.describe()}"
        lines = [f"pictures  {splits}; {' x '.join(map(str, self.images.shape[1:]))}{kind}"]
        if self.labels is not None:
            names, tags = self.legend
            counts = (
                self.labels.sum(0) if tags else self.labels.bincount(minlength=len(names) + 1)[1:]
            )
            named = [f"{n} ({c})" for n, c in zip(names, counts.tolist(), strict=True)]
            lines.append(f"labels    {self.legend.describe()}: {few(named)}")
        if self.vectors is not None:
            numbers = zip(self.vector.names, self.vectors.T, strict=True)
            told = (f"{name} ({v.min():.4g} to {v.max():.4g})" for name, v in numbers)
            lines.append(f"numbers   {self.vectors.shape[1]}: {few(told)}")
        if self.bad:
            named = [bad_line(bad) for bad in self.bad]
            lines.append(f"left out  {len(named)}: {few(named, longest=300)}")
        if self.path:
            size = self.images.numel() * self.images.itemsize / 1e6
            lines.append(f"prepared  {printable(str(self.path))}, {size:.1f} MB")
        return "\n".join(lines)

    @property
    def digest(self) -> str:
        """SHA-256 of all pictures, labels and names, the `data_digest` of the split ``all``."""
        return data_digest(self.dataset("all"))

    @property
    def vector(self) -> Vector:
        """Names of the numbers of each picture, and the statistics of the first split."""
        if self.vectors is None:
            return Vector()
        trained = next(filter(None, self.splits.values()), len(self.vectors))
        return vector_of(self.vectors[:trained], self.vector_names)

    @property
    def legend(self) -> Labels:
        """What the labels mean; those without names are called by their numbers."""
        if self.labels is None:
            return Labels()
        tags = self.labels.ndim == 2
        count = self.labels.shape[1] if tags else int(self.labels.max())
        return Labels(self.class_names or tuple(str(k) for k in range(1, count + 1)), tags)


def in_memory(source: Source, settings: DataConfig, fit: Fit = cover) -> Prepared:
    """Read a source into memory.

    Args:
        source: the pictures.
        settings: size, crop, channels, and what to do about bad pictures.
        fit: brings a picture to the size.

    Returns:
        Prepared, without a path.

    Raises:
        ValueError: if there are bad pictures and they are not to be skipped, or more than half are
            bad.
    """
    _check_scaling(source, settings)
    rows: list[np.ndarray] = []
    found = read_rows(source, settings, rows.append, fit=fit)
    images = torch.from_numpy(np.stack(rows))
    return Prepared(
        images, _tensor(found.labels), source.class_names, found.splits, found.bad, None, {},
        _tensor(found.vectors), source.vector_names, None,
        _values(source, settings, images, found.splits),
    )  # fmt: skip


def cache_path(home: Path, title: str, content: Any, settings: DataConfig) -> Path:
    """Where a data set is, or will be, prepared.

    Args:
        home: the data directory.
        title: of the data set.
        content: what identifies its files, as JSON can hold it.
        settings: resolved: the data set's own size and crop are filled in.

    Returns:
        a directory below ``home``.
    """
    text = json.dumps([FORMAT, title, content, _keyed(settings)], sort_keys=True)
    return home / "prepared" / title / hashlib.sha256(text.encode()).hexdigest()[:16]


def prepare_cache(
    path: Path,
    title: str,
    read: Callable[[], Source],
    settings: DataConfig,
    fresh: bool,
) -> Prepared:
    """The data set at ``path``, written first if it is not there.

    One process writes while the others, of the same run or not, wait.

    Args:
        path: its directory, of `cache_path`.
        title: of the data set.
        read: gives the source; may download.
        settings: resolved: the data set's own size and crop are filled in.
        fresh: write it anew.

    Returns:
        Prepared.

    Raises:
        ValueError: if there are bad pictures and they are not to be skipped, more than half are
            bad, or what is there is damaged.
        OSError: if it cannot be written.
    """
    if fresh or not path.is_dir():
        _make_home(path.parent)
        with locked(path.parent / ".lock"):
            if fresh or not path.is_dir():
                source = read()
                _check_scaling(source, settings)
                say(f"preparing {printable(title)}: {len(source.names)} pictures")
                _write(path, title, source, settings)
                say(f"prepared {printable(title)} in {printable(str(path))}")
    return open_cache(path)


def _make_home(path: Path) -> None:
    """Make the directory of a data set in that of all data, or say how to name another."""
    try:
        make_directory(path)
    except OSError as error:
        raise OSError(
            f"the data directory cannot be written: {printable(str(path))} ({error.strerror}); "
            f"name another with --data-dir or {DATA_VARIABLE}"
        ) from None


def open_cache(path: Path) -> Prepared:
    """A prepared data set, its pictures memory-mapped.

    Args:
        path: its directory.

    Returns:
        Prepared.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return _opened(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the prepared data in {printable(str(path))} is damaged "
            f"({shortened(str(error), 200)}); remove that directory"
        ) from None


def _opened(path: Path) -> Prepared:
    """What is in a directory of prepared data, whole or not."""
    info = read_info(path / INFO)
    images = map_pictures(path / IMAGES, info.shape, getattr(torch, info.values.dtype))
    labels = read_labels(path / LABELS, info) if info.labels else None
    vectors = read_vectors(path / VECTORS, info) if info.vectors else None
    return Prepared(
        images,
        _tensor(labels),
        info.class_names,
        info.splits,
        [Bad(*pair) for pair in info.bad],
        path,
        info.sha256,
        _tensor(vectors),
        info.vector_names,
        None,
        info.values,
    )


def _write(path: Path, title: str, source: Source, settings: DataConfig) -> None:
    for orphan in path.parent.glob(".*.tmp"):  # of a process that died: we hold the lock
        shutil.rmtree(orphan)
    temporary, old = (path.with_name(f".{path.name}.{kind}.tmp") for kind in ("new", "old"))
    temporary.mkdir()
    try:
        found = _write_images(temporary / IMAGES, title, source, settings)
        if found.labels is not None:
            np.save(temporary / LABELS, found.labels)
        if found.vectors is not None:
            np.save(temporary / VECTORS, found.vectors)
        shape = [sum(found.splits.values()), *found.shape]
        kind = getattr(torch, source.numbers or "uint8")
        images = map_pictures(temporary / IMAGES, shape, kind)
        values = _values(source, settings, images, found.splits)
        info = Info(
            shape,
            found.labels is not None,
            source.class_names,
            found.splits,
            found.bad,
            _digests(images, found.splits),
            0 if found.vectors is None else found.vectors.shape[1],
            source.vector_names,
            values,
        )
        more = {"format": FORMAT, "origin": source.origin, "settings": _keyed(settings)}
        told = {"values": None if values.plain else values._asdict()}
        (temporary / INFO).write_text(
            json.dumps(info._asdict() | more | told, indent=1), encoding="utf-8"
        )
        _check_written(temporary, title)
        for file in temporary.iterdir():
            _sync(file)
        sync_directory(temporary)
        if path.is_dir():
            path.rename(old)  # a run that has it mapped keeps its pictures
        temporary.rename(path)
        sync_directory(path.parent)
    finally:
        for directory in (temporary, old):
            shutil.rmtree(directory, ignore_errors=True)


def _check_written(path: Path, title: str) -> None:
    """Refuse to publish what nobody could open, such as labels that do not fit their names."""
    try:
        _opened(path)
    except ValueError as error:
        raise ValueError(
            f"{printable(title)} cannot be prepared ({shortened(str(error), 200)}); mend the data"
        ) from None


def _write_images(path: Path, title: str, source: Source, settings: DataConfig) -> Rows:
    total = sum(len(numbers) for numbers in source.splits.values())
    with Progress(total, "picture", f"preparing {title}") as progress, path.open("wb") as file:

        def write(row: np.ndarray) -> None:
            if not file.tell():
                what = f"{total} prepared pictures"
                check_space(path.parent, total * row.nbytes, what, "name another --data-dir")
            file.write(row.tobytes())

        return read_rows(source, settings, write, progress.advance)


def _values(
    source: Source, settings: DataConfig, images: Tensor, splits: Mapping[str, int]
) -> Values:
    """What the numbers of a source mean; statistics are those of its first split."""
    if not source.numbers:
        return PLAIN
    if source.values is not None and not settings.scaled:
        name = f"numbers in {printable(source.origin)}"
        known = checked_values(source.values, images.shape[1], name)
        if known.dtype != source.numbers:
            raise ValueError(
                f"expected values of {name} for {source.numbers}, got {known.dtype}; make them "
                "alike"
            )
        known.check(images, name)
        return known
    trained = next(filter(None, splits.values()), None)
    span, standardise = settings.value_range, settings.standardise
    values = measured(images, source.numbers, span, standardise, trained)
    if values.plain and images.shape[1] not in (1, 3):
        raise ValueError(
            f"expected 1 or 3 channels of 8-bit pictures in {printable(source.origin)}, got "
            f"{images.shape[1]}; leave out the others, or say with --value-range or --standardise "
            "what other numbers mean"
        )
    return values


def _check_scaling(source: Source, settings: DataConfig) -> None:
    """Refuse a scale for pictures, whose 0 and 255 are -1 and 1."""
    if settings.scaled and not source.numbers:
        option = "--standardise" if settings.standardise else "--value-range"
        raise ValueError(
            f"expected {option} with numbers of an array, .npy or .npz, got pictures of 8 bits in "
            f"{printable(source.origin)}; leave it out"
        )


def _digests(images: Tensor, splits: Mapping[str, int]) -> dict[str, str]:
    """SHA-256 of the pictures of each split, and of all."""
    prepared = Prepared(images, None, (), dict(splits), [], None)
    named = [split for split, count in splits.items() if count] + ["all"]
    return {split: images_digest(prepared.dataset(split).images) for split in named}  # type: ignore[arg-type]


def _keyed(settings: DataConfig) -> dict[str, Any]:
    keyed = {name: getattr(settings, name) for name in _KEYED}
    for name in ("value_range", "standardise"):  # not told where unset, as by earlier versions
        if value := getattr(settings, name):
            keyed[name] = value
    if settings.image_size is not None:  # one number is a square
        keyed["image_size"] = [settings.image_size[0], settings.image_size[-1]]
    return keyed


def _sync(path: Path) -> None:
    """Force a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _tensor(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else torch.from_numpy(values)
