"""Pictures in tar files, as WebDataset lays them out: what has one name belongs together."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vfn.data.dataset import own_splits
from vfn.data.folder import FORMATS, SUFFIXES
from vfn.data.labels import check_names
from vfn.data.source import Bad, Source, say_left_out
from vfn.files import few, printable, shortened

SUFFIX = ".tar"


class _Member(NamedTuple):
    """A file in a tar file: where its bytes are, if it is a file of its own."""

    archive: Path
    offset: int
    size: int
    regular: bool

    def content(self) -> bytes:
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            found = file.read(self.size)
        if len(found) < self.size:
            raise ValueError(f"{self.archive.name} is cut short")
        return found

    def picture(self) -> Image.Image:
        # Of a stranger's bytes no other reader sees any: that of EPS starts Ghostscript.
        return Image.open(io.BytesIO(self.content()), formats=FORMATS)


def tar_files(path: Path) -> list[Path]:
    """The tar files that a path stands for.

    Args:
        path: a ``.tar`` file, or a folder of them.

    Returns:
        files in the order of their names; none for any other path, or a folder with pictures or
        folders of its own.
    """
    if path.suffix.lower() == SUFFIX and path.is_file():
        return [path]
    entries = [e for e in path.iterdir() if e.name[0] != "."] if path.is_dir() else []
    if any(entry.is_dir() or entry.suffix.lower() in SUFFIXES for entry in entries):
        return []
    return sorted(entry for entry in entries if entry.suffix.lower() == SUFFIX)


def tar_source(files: Sequence[Path], test_share: float, labelled: bool = True) -> Source:
    """The pictures of tar files, read as they are asked for.

    Args:
        files: in order; members ``key.png`` (jpg, jpeg, webp, bmp) are pictures, and ``key.cls``, a
            whole number from 0 on or a text, or ``label`` in ``key.json``, their classes. A line
            names pictures that are none of these.
        test_share: share of the test split.
        labelled: without, nothing but the pictures matters.

    Returns:
        Source.

    Raises:
        ValueError: if a file is no tar file, there are no pictures, or only some have classes.
    """
    groups: dict[str, dict[str, _Member]] = {}
    left_out: list[Bad] = []
    for number, file in enumerate(files):
        members = _members(file)
        left_out += _left_out(members)
        for name, member in members:
            key, dot, kind = _split(name)
            if member.regular:
                groups.setdefault(f"{number}/{key}", {})[f"{dot}{kind}".lower()] = member
    pictures: dict[str, _Member] = {}
    classes: dict[str, str] = {}
    for key, parts in groups.items():
        found = [member for kind, member in parts.items() if kind in SUFFIXES]
        if found:
            pictures[key] = found[0]
            if labelled and (text := _class(key, parts)) is not None:
                classes[key] = text
    where = few(printable(str(file)) for file in files)
    say_left_out(where, left_out)
    if not pictures:
        raise ValueError(f"expected pictures ({', '.join(sorted(SUFFIXES))}) in {where}, got none")
    keys = list(pictures)
    if classes and len(classes) < len(keys):
        lacking = next(key for key in keys if key not in classes)
        raise ValueError(f"{shortened(_shown(files, lacking))} has no class, and others have one")
    labels, names = _numbered([classes[key] for key in keys]) if classes else (None, ())
    check_names(names, False, f"classes in {where}")
    return Source(
        where,
        [_shown(files, key) for key in keys],
        lambda number: pictures[keys[number]].picture(),
        labels,
        names,
        own_splits(len(keys), test_share, labels),
    )


def _members(file: Path) -> list[tuple[str, _Member]]:
    """Names of what is in a tar file but for folders, and where it is."""
    try:
        with tarfile.open(file, "r:") as archive:  # compressed ones have no places to read from
            return [
                (entry.name, _Member(file, entry.offset_data, entry.size, entry.isfile()))
                for entry in archive
                if not entry.isdir()
            ]
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise ValueError(f"{printable(str(file))} is no uncompressed tar file ({reason})") from None


def _left_out(members: Sequence[tuple[str, _Member]]) -> list[Bad]:
    """Members with the name of a picture that are not taken, and why; hidden ones do not count."""
    found: list[Bad] = []
    coming = Counter(name for name, member in members if member.regular)
    taken: dict[str, str] = {}  # the picture of each key
    for name, member in members:
        key, dot, kind = _split(name)
        suffix = Path(name).suffix.lower()
        if suffix not in SUFFIXES or name.rpartition("/")[2].startswith("."):
            continue
        coming[name] -= member.regular
        if not member.regular:
            found.append(Bad(name, "a link, or no regular file"))
        elif f"{dot}{kind}".lower() not in SUFFIXES:
            found.append(Bad(name, f"by its first dot of kind .{shortened(kind)}"))
        elif coming[name]:
            found.append(Bad(name, "the name comes again"))
        elif taken.setdefault(key, name) != name:
            found.append(Bad(name, f"beside {shortened(taken[key])}"))
    return found


def _split(name: str) -> tuple[str, str, str]:
    """Key and kind of a member: the first dot of its file name parts them."""
    folder, slash, last = name.rpartition("/")
    key, dot, kind = last.partition(".")
    return f"{folder}{slash}{key}", dot, kind


def _class(key: str, parts: dict[str, _Member]) -> str | None:
    """The class of a picture, as a text."""
    if ".cls" in parts:
        return parts[".cls"].content().decode("utf-8", "replace").strip()
    if ".json" in parts:
        try:
            told = json.loads(parts[".json"].content())
        except (ValueError, RecursionError):
            raise ValueError(f"{shortened(key)}.json is no JSON") from None
        if isinstance(told, dict) and isinstance(told.get("label"), str | int):
            return str(told["label"])
    return None


def _numbered(texts: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes counted from 1, and their names: numbers from 0 on, or texts in their order."""
    if all(text.isascii() and text.isdecimal() and len(text) < 6 for text in texts):
        numbers = np.array([int(text) for text in texts], dtype=np.int64)
        return numbers + 1, tuple(str(k) for k in range(int(numbers.max()) + 1))
    names = sorted(set(texts))
    place = {name: k for k, name in enumerate(names, 1)}
    return np.array([place[text] for text in texts], dtype=np.int64), tuple(names)


def _shown(files: Sequence[Path], key: str) -> str:
    """A picture for messages: its tar file, and its key there."""
    number, _, name = key.partition("/")
    return f"{files[int(number)].name}[{name}]"
