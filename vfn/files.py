"""Files that are there whole or not at all."""

import json
import math
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


def read_json(path: Path) -> Any:
    """The value of a JSON file that may be damaged or edited.

    Args:
        path: the file.

    Returns:
        texts, finite numbers that a float can hold, truth values, None, lists and dictionaries.

    Raises:
        ValueError: if it cannot be read or is anything else; one line that names the file.
    """
    try:
        value = json.loads(
            path.read_bytes(), parse_constant=_number, parse_float=_number, parse_int=_number
        )
        json.dumps(value, ensure_ascii=False).encode()  # no half characters
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {short(str(error))}") from None
    return value


def short(value: Any, most: int = 60) -> str:
    """A value from a file as part of a message: one line that does not grow with the value.

    Args:
        value: any value.
        most: characters.

    Returns:
        its beginning.

    >>> short("a" * 100, most=10)
    'aaaaaaa...'
    """
    text = printable(value if isinstance(value, str) else repr(value))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _number(text: str) -> int | float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {short(text, 20)} is not finite")
    return int(text) if text.lstrip("-").isdigit() else value
