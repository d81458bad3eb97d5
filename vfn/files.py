"""Files that are there whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def open_atomic(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A temporary neighbour to write to, renamed into place at the end.

    Args:
        path: the file; its directory is made if missing.
        durable: force it to the disk, so that it survives a power cut; slow for many small files.

    Yields:
        the temporary file, open for writing bytes.

    Raises:
        ValueError: if something else stands in the place of its directory.
        OSError: if it cannot be written; what was at ``path`` is then still there.
    """
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if not durable:
        return
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_atomic(path: Path, content: bytes | str, durable: bool = True) -> None:
    """Write a whole file.

    Args:
        path: the file; its directory is made if missing.
        content: bytes, or text to be encoded as UTF-8.
        durable: force it to the disk, so that it survives a power cut; slow for many small files.

    Raises:
        ValueError: if something else stands in the place of its directory.
        OSError: if it cannot be written; what was at ``path`` is then still there.
    """
    with open_atomic(path, durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote there."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory and its parents.

    Args:
        path: the directory; it may be there already.

    Raises:
        ValueError: if there is something else at ``path`` or on the way to it.
        OSError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"expected a directory at {path}, but there is a file; name another place"
        ) from None


def printable(text: str) -> str:
    r"""Text from a file as part of a message: control characters and line breaks stand escaped.

    Args:
        text: any text.

    Returns:
        one line.

    >>> printable("a name"), printable("two\nlines")
    ('a name', 'two\\nlines')
    """
    return text if text.isprintable() else repr(text)[1:-1]


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")
