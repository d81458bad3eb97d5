"""A folder of pictures: classes are its subfolders, stand in ``labels.csv``, or there are none."""

import csv
import os
import posixpath
import stat
import unicodedata
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from vfn.data.dataset import own_splits
from vfn.data.labels import TAG_SEPARATOR, check_names, tag_row
from vfn.data.source import Bad, Source, say_left_out
from vfn.files import few, printable, shortened

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# Of pictures that are not read, which somebody might miss.
OTHER_SUFFIXES = {".gif", ".tif", ".tiff", ".jfif", ".jpe", ".jp2", ".heic", ".heif", ".avif",
                  ".ico", ".tga", ".ppm", ".pgm", ".psd", ".svg", ".eps", ".dng"}  # fmt: skip
# By content, whatever the name says: for some others Pillow starts other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
TABLE = "labels.csv"
# In each directory of a run, whose sample grids are no pictures.
RUN_SIGNS = ("config.toml", "checkpoints")
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def folder_source(
    path: Path, test_share: float, labelled: bool = True, partly: bool = False
) -> Source:
    """The pictures of a folder and of the folders in it; hidden ones are left out.

    Args:
        path: holds pictures, or a folder for each class, or pictures and ``labels.csv`` with the
            columns ``file`` and ``label`` (one class), or ``file`` and ``tags`` (joined by ``+``).
        test_share: share of the test split.
        labelled: without, neither ``labels.csv`` nor names of folders matter.
        partly: whether pictures with an empty label in ``labels.csv`` are good; theirs is 0.

    Returns:
        Source.

    Raises:
        ValueError: if there are no pictures, ``labels.csv`` is not such a table, a class or tag
            cannot be called by its name, or there are folders of splits in place of classes.
    """
    found = picture_files(path)
    reason = f"none of {', '.join(sorted(SUFFIXES))}"
    say_left_out(str(path), [Bad(name, reason) for name in _files(path, OTHER_SUFFIXES)])
    kind: str | None
    texts: dict[str, str] = {}
    reasons: dict[str, str] = {}
    if not labelled:
        kind, names = None, found
    elif has_table(path):
        kind, texts = read_table(path / TABLE)
        if kind == "label":
            kept = found if partly else ()
            texts = {name: text for name, text in texts.items() if text or name in kept}
        names = sorted({*found, *texts})  # a row without its picture is a bad picture
        reasons = dict.fromkeys(set(names) - set(texts), f"no label in {TABLE}")
        reasons |= {name: _reason_unfound(path, name) for name in texts.keys() - set(found)}
    else:
        _check_classes(path, found)
        kind = "label" if any("/" in name for name in found) else None
        names, texts = found, {name: name.partition("/")[0] for name in found if "/" in name}
        beside = set(names) - set(texts) if kind else set()
        reasons = dict.fromkeys(beside, "lies beside the folders of classes")
    if not names:
        raise ValueError(
            f"{printable(str(path))} holds no pictures ({', '.join(sorted(SUFFIXES))})"
        )
    labels, class_names = _labels(names, texts, kind)
    if kind == "tags" and not class_names:
        raise ValueError(
            f"{printable(str(path / TABLE))} names no tag at all; give pictures some, or remove it "
            "for pictures without labels"
        )
    if class_names:
        where = TABLE if has_table(path) else "the names of the folders"
        check_names(class_names, kind == "tags", f"{printable(str(path))}, by {where},")
    splits = own_splits(len(names), test_share, labels)
    return Source(
        str(path), names, partial(_read, path, names, reasons), labels, class_names, splits
    )


def _check_classes(path: Path, names: Sequence[str]) -> None:
    """Refuse a tree of splits, which would become classes, with the classes inside of them."""
    tops = sorted({name.partition("/")[0] for name in names if "/" in name})
    if {top.lower() for top in tops} <= SPLIT_NAMES and any(name.count("/") > 1 for name in names):
        raise ValueError(
            f"expected a folder for each class in {printable(str(path))}, got folders of splits "
            f"with folders of their own: {few(tops)}; name one of them, such as "
            f"{printable(str(path / tops[0]))}"
        )


def _read(path: Path, names: Sequence[str], reasons: Mapping[str, str], number: int) -> Image.Image:
    name = names[number]
    if name in reasons:
        raise ValueError(reasons[name])
    if not stat.S_ISREG((path / name).stat().st_mode):  # a pipe would block for ever
        raise ValueError("is no regular file")
    return Image.open(path / name, formats=FORMATS)


def _reason_unfound(path: Path, name: str) -> str:
    """Why a file that ``labels.csv`` names is none of the folder's pictures."""
    if name.startswith(("/", "../")) or name == "..":
        return f"{TABLE} names a file outside the folder"
    if any(part.startswith(".") for part in name.split("/")):
        return f"{TABLE} names a hidden file"
    if Path(name).suffix.lower() not in SUFFIXES:
        return f"{TABLE} names a file that is none of {', '.join(sorted(SUFFIXES))}"
    if not os.path.exists(path / name):  # noqa: PTH110
        return f"{TABLE} names it: No such file"
    return f"{TABLE} names it by another path than the one where it is found"


def has_table(path: Path) -> bool:
    """Whether a folder has a table of labels.

    Args:
        path: the folder.

    Returns:
        whether ``labels.csv`` is in it.

    Raises:
        ValueError: if something of that name is no regular file.
    """
    table = path / TABLE
    if os.path.lexists(table) and not table.is_file():
        raise ValueError(f"expected {printable(str(table))} to be a regular file with a table")
    return table.is_file()


def folder_state(path: Path) -> list[list[Any]]:
    """Name, size and time of change of every file that `folder_source` would read."""
    names = [*picture_files(path), *([TABLE] if has_table(path) else [])]
    return [[name, *file_state(path / name)] for name in names]


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change; of a link to nothing -1 and 0."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def picture_files(path: Path) -> list[str]:
    """Pictures in a folder and below, each folder once, however many links lead to it.

    A folder is found where it stands rather than through a link; of several links through the first
    one by name.

    Args:
        path: the folder.

    Returns:
        relative paths, sorted; what only has the name of a picture is among them.

    Raises:
        ValueError: if a folder cannot be read, or is a run.
    """
    return _files(path, SUFFIXES)


def _files(path: Path, suffixes: Collection[str]) -> list[str]:
    """Files of some suffixes, as `picture_files` finds those of pictures."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting, links = [path], deque[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(
                f"folder {printable(str(folder))} cannot be read ({error.strerror})"
            ) from None
        names = {entry.name for entry in entries}
        if folder != path and names.issuperset(RUN_SIGNS):
            raise ValueError(
                f"expected pictures in {printable(str(path))}, and {printable(str(folder))} is a "
                "run, whose sample grids would become some; move it elsewhere"
            )
        for entry in entries:
            place = folder / entry.name
            if entry.name.startswith("."):
                continue
            link = entry.is_symlink()
            if place.is_dir() if link else entry.is_dir():
                (links if link else waiting).append(place)
            elif place.suffix.lower() in suffixes:
                found.append(place.relative_to(path).as_posix())
    return sorted(found)


def read_table(path: Path) -> tuple[str, dict[str, str]]:
    r"""``labels.csv``: the name of its second column, ``label`` or ``tags``, and a text by file.

    Args:
        path: the file.

    Returns:
        ``label`` or ``tags``, and the text, without blanks at its ends and perhaps empty, of each
        file;
        ``./a.png``, ``.\a.png`` and ``a.png`` with the whole path of its folder are ``a.png``.

    Raises:
        ValueError: if it is not such a table, or names a file twice.
    """
    where = printable(str(path))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head, *rows = [row for row in csv.reader(file) if row] or [[""]]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{where} cannot be read as a table ({shortened(str(error), 200)})"
        ) from None
    kind = head[1] if len(head) == 2 else ""
    if head[0] != "file" or kind not in ("label", "tags") or any(len(row) != 2 for row in rows):
        raise ValueError(
            f"expected {where} to have the columns file,label or file,tags, and no others, "
            f"got {shortened(','.join(head), 200)}"
        )
    rows = [[_inside(path.parent, name), text.strip()] for name, text in rows]
    for name, times in Counter(name for name, _ in rows).most_common(1):
        if times > 1:
            raise ValueError(f"{where} names {shortened(name)} {times} times; leave one line")
    for name, text in rows:
        if kind == "tags" and text and "" in map(str.strip, text.split(TAG_SEPARATOR)):
            raise ValueError(
                f"expected tags joined by {TAG_SEPARATOR} for {shortened(name)} in {where}, got "
                f"'{shortened(text)}'; a tag has no {TAG_SEPARATOR} in its name"
            )
    return kind, {name: text for name, text in rows}  # noqa: C416  # lists of two


def _inside(folder: Path, name: str) -> str:
    """The name of a file in a folder as it is found there: of a Windows path, or a whole one."""
    if "\\" in name and not os.path.lexists(folder / name):  # there may be one of that name
        name = name.replace("\\", "/")
    whole = PurePosixPath(posixpath.normpath(name))
    name = str(whole.relative_to(folder) if whole.is_relative_to(folder) else whole)
    spellings = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((each for each in spellings if os.path.lexists(folder / each)), name)


def _labels(
    names: list[str], texts: dict[str, str], kind: str | None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels of all files and the names of classes or tags; zeros where there is no text."""
    if kind is None:
        return None, ()
    if kind == "label":
        classes = tuple(sorted(set(texts.values()) - {""}))
        number = {name: k for k, name in enumerate(classes, 1)}
        return np.array([number.get(texts.get(name, ""), 0) for name in names]), classes
    split = {text: [part.strip() for part in text.split(TAG_SEPARATOR)] for text in texts.values()}
    tags = tuple(sorted({part for parts in split.values() for part in parts} - {""}))
    rows = {text: tag_row(text, tags) for text in ["", *split]}
    return np.array([rows[texts.get(name, "")] for name in names], dtype=np.uint8), tags
