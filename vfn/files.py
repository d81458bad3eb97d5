"""Files that are there whole or not at all."""

import fcntl
import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

# An absolute path at the beginning of a text, or after run:, dataset:, an option's = or a comma:
# what is before it, and its last two parts. hf://owner/name is none.
_ABSOLUTE = re.compile(
    r"(^|[=,'\"]\s*|(?<=[A-Za-z]):(?!//[^/]))(?:/+[^/:,]+)*?/+([^/:,]+(?:/+[^/:,]+)?)/*(?=$|[:,])"
)
DEEPEST = 64  # levels of JSON
SILENT = 24 * 3600.0  # seconds after which a process of another machine is taken to write no more


@contextmanager
def open_atomic(path: str | Path, durable: bool = True) -> Iterator[BinaryIO]:
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
    path = given_path(path)
    make_directory(path.parent)
    if durable:
        remove_leftovers(path.parent, path.name)
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_directory(path.parent)


def write_atomic(path: str | Path, content: bytes | str, durable: bool = True) -> None:
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


def given_path(given: object) -> Path:
    """The path that somebody has given, whose ~ is somebody's home directory.

    Args:
        given: text or a path.

    Returns:
        the path.

    Raises:
        ValueError: for anything else, an empty name, which Python takes for the current directory,
            and a shell gives for a variable that is not set; or if there is nobody of that name.

    >>> given_path("~/data") == Path.home() / "data"
    True
    >>> given_path("")
    Traceback (most recent call last):
    ValueError: expected a path, got ''; the current directory is .
    """
    if isinstance(given, Path) or (given and isinstance(given, str)):
        try:
            return Path(given).expanduser()
        except RuntimeError as error:
            raise ValueError(
                f"'{shortened(str(given))}' is no path ({printable(str(error))}); a name that "
                "begins with ~ is ./~..."
            ) from None
    where = "the current directory is ." if given == "" else "give a text or a pathlib.Path"
    raise ValueError(f"expected a path, got {shown(given)}; {where}")


def temporary_of(path: Path, end: str = "tmp") -> Path:
    """A neighbour of a file that this process alone writes, and that tells who that is.

    Args:
        path: the file.
        end: of the neighbour's name.

    Returns:
        its path.

    >>> temporary_of(Path("a/b")).name == f".b.{platform.node()}.{os.getpid()}.tmp"
    True
    """
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{end}")


def remove_leftovers(directory: Path, name: str | None = None) -> None:
    """Remove the temporary files of processes that were killed while they wrote there.

    Args:
        directory: it may be missing.
        name: of the file that they were to become; any if None.
    """
    start = "." if name is None else f".{name}."
    for path in directory.glob(".*.tmp"):
        if path.name.startswith(start) and path.is_file() and _is_left(path):
            path.unlink(missing_ok=True)


def _is_left(temporary: Path) -> bool:
    """Whether nobody writes a temporary file: a process here is dead, or one elsewhere silent."""
    writer, _, pid = temporary.name.removesuffix(".tmp").rpartition(".")
    if pid.isdecimal() and writer.endswith(f".{platform.node()}"):
        return not is_alive(int(pid))
    try:
        return time.time() - temporary.stat().st_mtime > SILENT
    except FileNotFoundError:
        return False


def is_alive(pid: int) -> bool:
    """Whether a process of this machine lives.

    Args:
        pid: its number.

    Returns:
        whether it does; of anybody's.

    >>> is_alive(os.getpid()), is_alive(10**30)
    (True, False)
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it lives, and is somebody else's
    return True


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


def check_place(path: Path) -> None:
    """Try whether a file can be written, before the work that it is to hold; nothing stays.

    Under torchrun the first process tries, which writes.

    Args:
        path: the file; it and its directories need not be there.

    Raises:
        ValueError: if there is a directory at ``path``, or a file on the way to it.
        OSError: if it cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"expected a file at {path}, but there is a directory; name another place")
    if int(os.environ.get("RANK", 0)):
        return
    missing = [each for each in path.parents if not os.path.lexists(each)]
    try:
        make_directory(path.parent)
        probe = temporary_of(path)
        probe.touch()
        probe.unlink()
    finally:
        for each in missing:
            with suppress(OSError):  # it was not made, or somebody else's files are in it
                each.rmdir()


def check_space(place: Path, size: float, what: str, advice: str) -> None:
    """Refuse to begin what a disk has no room for.

    Args:
        place: where it will be written; the next directory above that is there counts.
        size: bytes.
        what: takes so much, for the message.
        advice: what else to do than to make room.

    Raises:
        ValueError: if less is free; a file system that does not know is trusted.

    >>> check_space(Path("."), 1e24, "a million videos", "draw fewer")
    Traceback (most recent call last):
    ValueError: a million videos take about 1e+15 GB, and where . is ... GB are free; ...
    """
    there = next(each for each in (place.absolute(), *place.absolute().parents) if each.is_dir())
    disk = shutil.disk_usage(there)
    if disk.total and disk.free < size:
        raise ValueError(
            f"{what} take about {size / 1e9:.3g} GB, and where {place} is {disk.free / 1e9:.3g} GB "
            f"are free; make room, or {advice}"
        )


def is_utf8(text: str) -> bool:
    r"""Whether a text can be written down: names of files may hold bytes that are none.

    Args:
        text: any text.

    Returns:
        whether it has no half characters.

    >>> is_utf8("é"), is_utf8("\udce9")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def shortened(text: str, most: int = 80) -> str:
    """Text of somebody else as a part of a message: printable, and cut where it is long.

    Args:
        text: any text.
        most: letters that are kept.

    Returns:
        one line of a few more letters at most.

    >>> shortened("a" * 10, most=4)
    'aaaa...'
    """
    line = printable(text[: most + 1])
    return line if len(line) <= most else f"{line[:most]}..."


def reason_of(error: BaseException) -> str:
    r"""What an exception of somebody else's code says, in one line that does not grow.

    Args:
        error: any.

    Returns:
        its kind and its first 300 letters.

    >>> reason_of(KeyError("a\nb"))
    "KeyError: 'a\\nb'"
    """
    return shortened(" ".join(f"{type(error).__name__}: {error}".split()), 300)


def file_name(text: str, most: int = 160, end: bool = False) -> str:
    """A text as a file's name, or a part of one; one that is too long is cut.

    Args:
        text: of any length.
        most: bytes that it may have; file systems allow 255, and temporary files need some of them.
        end: keep its end, and not its beginning.

    Returns:
        the text, or so much of it and eight letters of its SHA-256, by which it differs from others
        that are alike up to there.

    >>> file_name("a" * 20, most=20), file_name("a" * 21, most=20)
    ('aaaaaaaaaaaaaaaaaaaa', 'aaaaaaaaaaa-7df8e299')
    """
    whole = os.fsencode(text)
    if len(whole) <= most:
        return text
    room = most - 9
    kept = (whole[-room:] if end else whole[:room]).decode(errors="ignore")
    return f"{kept}-{short_digest(text)}"


def short_digest(text: str) -> str:
    """Eight letters by which a text differs from others.

    Args:
        text: any.

    Returns:
        the first of its SHA-256.

    >>> short_digest("a")
    'ca978112'
    """
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def told_apart(texts: Sequence[str], wholes: Sequence[str]) -> list[str]:
    """Texts that differ wherever what they stand for does.

    Args:
        texts: perhaps shortened.
        wholes: what each stands for.

    Returns:
        the texts; a hash follows those that others have as well, for something else.

    >>> told_apart(["a", "b", "a"], ["x/a", "b", "y/a"])
    ['a-5356176b', 'b', 'a-8187477f']
    """
    pairs = list(zip(texts, wholes, strict=True))
    sharing = Counter(text for text, _ in set(pairs))
    return [
        text if sharing[text] == 1 else f"{text}-{short_digest(whole)}" for text, whole in pairs
    ]


def without_places(text: str) -> str:
    """A text for others, in which absolute paths of this machine have their last two parts alone.

    Args:
        text: a path, perhaps after ``run:``, ``dataset:`` or ``--option=``, or before ``:split``.

    Returns:
        the text; anything else as it is.

    >>> without_places("dataset:/home/me/data/cats:test"), without_places("--out=/home/me/runs/a/")
    ('dataset:data/cats:test', '--out=runs/a')
    >>> without_places("runs/a"), without_places("hf://owner/name")
    ('runs/a', 'hf://owner/name')
    """
    return _ABSOLUTE.sub(r"\1\2", text)


def few(texts: Iterable[str], most: int = 10, longest: int = 80, joint: str = ", ") -> str:
    """The first of some texts, for a message that does not grow with their number.

    Args:
        texts: of anybody; each is shown as `shortened` shows it.
        most: how many are named.
        longest: letters that are kept of each.
        joint: what stands between them.

    Returns:
        one line.

    >>> few(["cat", "dog", "fox"], most=2)
    'cat, dog and 1 more'
    """
    all_texts = list(texts)
    more = f" and {len(all_texts) - most} more" if len(all_texts) > most else ""
    return joint.join(shortened(text, longest) for text in all_texts[:most]) + more


def shown(value: Any, most: int = 80) -> str:
    """A value as Python writes it, as part of a message: one line that does not grow with it.

    Args:
        value: any value.
        most: letters that are kept.

    Returns:
        its beginning; a text stands in quotes.

    >>> shown("a name"), shown(["a" * 100], most=10)
    ("'a name'", "['aaaaaaaa...")
    """
    return shortened(repr(value), most)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock, and hold it; a process that dies gives it back.

    Args:
        path: a file for this purpose alone; it is made if missing, and stays.

    Raises:
        OSError: if the file cannot be written, or the file system knows no locks.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems cannot
            raise OSError(f"{path} cannot be locked ({error}); name another --data-dir") from None
        yield  # closing the file gives the lock back


def sync_directory(path: Path) -> None:
    """Force the entries of a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        _check_depth(value)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {short(str(error))}") from None
    return value


def _check_depth(value: Any) -> None:
    """Refuse what is nested so deeply that whoever goes through it by recursion would fail."""
    waiting = [(value, 0)]
    while waiting:
        inner, depth = waiting.pop()
        if depth > DEEPEST:
            raise RecursionError
        if isinstance(inner, dict | list):
            parts = inner.values() if isinstance(inner, dict) else inner
            waiting += [(part, depth + 1) for part in parts]


def short(value: Any, most: int = 60) -> str:
    """A value from a file as part of a message: one line that does not grow with the value.

    Args:
        value: any value; a text as it is, anything else as Python writes it.
        most: letters that are kept.

    Returns:
        its beginning.

    >>> short(["a" * 100], most=10)
    "['aaaaaaaa..."
    """
    return shortened(value if isinstance(value, str) else repr(value), most)


def _number(text: str) -> int | float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {short(text, 20)} is not finite")
    return int(text) if text.lstrip("-").isdigit() else value


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
