"""Files that are there whole or not at all."""

import json
import math
import os
import platform
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
    if durable:
        _remove_half_written(path)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
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


def _remove_half_written(path: Path) -> None:
    """Remove what processes of this machine that are dead began to write in a file's place."""
    start, end = f".{path.name}.{platform.node()}.", ".tmp"
    with os.scandir(path.parent) as entries:
        found = [e.name for e in entries if e.name.startswith(start) and e.name.endswith(end)]
    for name in found:
        pid = name[len(start) : -len(end)]
        if pid.isdecimal() and not _is_alive(int(pid)):
            path.with_name(name).unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


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


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON of the standard, which has no NaN and no infinities: they become null.

    Args:
        value: of dictionaries, lists, texts and numbers.
        indent: blanks a level; all in one line if None.

    Returns:
        the text.

    >>> json_text({"loss": float("nan"), "steps": [1, float("inf")]})
    '{"loss": null, "steps": [1, null]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; what is not finite becomes null."""
    write_atomic(path, json_text(value, indent=2) + "\n")
