"""A folder of pictures: classes are its subfolders, stand in ``labels.csv``, or there are none."""

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vfn.data.dataset import own_splits
from vfn.data.labels import TAG_SEPARATOR, tag_row
from vfn.data.source import Source

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
TABLE = "labels.csv"


def folder_source(path: Path, test_share: float) -> Source:
    """The pictures of a folder and of the folders in it; hidden ones are left out.

    Args:
        path: holds pictures, or a folder for each class, or pictures and ``labels.csv`` with the
            columns ``file`` and ``label`` (one class), or ``file`` and ``tags`` (joined by ``+``).
        test_share: share of the test split.

    Returns:
        Source.

    Raises:
        ValueError: if there are no pictures, or ``labels.csv`` is not such a table.
    """
    found = picture_files(path)
    table = path / TABLE
    kind: str | None
    if table.is_file():
        kind, texts = read_table(table)
        names = sorted({*found, *texts})  # a row without its picture is a bad picture
    else:
        kind = "label" if any("/" in name for name in found) else None
        names, texts = found, {name: name.partition("/")[0] for name in found if "/" in name}
    if not names:
        raise ValueError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    labels, class_names = _labels(names, texts, kind)

    def read(number: int) -> Image.Image:
        if kind and names[number] not in texts:
            raise ValueError(
                f"no label in {TABLE}" if table.is_file() else "lies beside the folders of classes"
            )
        return Image.open(path / names[number])

    return Source(str(path), names, read, labels, class_names, own_splits(len(names), test_share))


def folder_state(path: Path) -> list[list[Any]]:
    """Name, size and time of change of every file that `folder_source` would read."""
    names = [*picture_files(path), *([TABLE] if (path / TABLE).is_file() else [])]
    return [[name, *file_state(path / name)] for name in names]


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def picture_files(path: Path) -> list[str]:
    """Pictures in a folder and in the folders below, as sorted relative paths."""
    found = []
    for root, folders, files in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(root).relative_to(path)
        found += [
            (below / name).as_posix()
            for name in files
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def read_table(path: Path) -> tuple[str, dict[str, str]]:
    """``labels.csv``: the name of its second column, ``label`` or ``tags``, and a text by file.

    Args:
        path: the file.

    Returns:
        ``label`` or ``tags``, and the text of each file that has one.

    Raises:
        ValueError: if it is not such a table, or names a file twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head, *rows = [row for row in csv.reader(file) if row] or [[""]]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table ({error})") from None
    kind = head[1] if len(head) == 2 else ""
    if head[0] != "file" or kind not in ("label", "tags") or any(len(row) != 2 for row in rows):
        raise ValueError(
            f"expected {path} to have the columns file,label or file,tags, and no others, "
            f"got {','.join(head)}"
        )
    texts = {name: text for name, text in rows if text or kind == "tags"}
    for name, times in Counter(name for name, _ in rows).most_common(1):
        if times > 1:
            raise ValueError(f"{path} names {name} {times} times; leave one line")
    return kind, texts


def _labels(
    names: list[str], texts: dict[str, str], kind: str | None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels of all files and the names of classes or tags; zeros where there is no text."""
    if kind is None:
        return None, ()
    if kind == "label":
        classes = tuple(sorted(set(texts.values())))
        number = {name: k for k, name in enumerate(classes, 1)}
        return np.array([number.get(texts.get(name, ""), 0) for name in names]), classes
    split = {text: [part.strip() for part in text.split(TAG_SEPARATOR)] for text in texts.values()}
    tags = tuple(sorted({part for parts in split.values() for part in parts} - {""}))
    rows = {text: tag_row(text, tags) for text in ["", *split]}
    return np.array([rows[texts.get(name, "")] for name in names], dtype=np.uint8), tags
