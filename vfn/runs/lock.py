"""One process at a time works on a run directory: a lock that says who does, and outlives no one.

The lock is a file that names its holder and is touched while it is held. It is stale where its
holder is a process of this machine that is dead, or one of another machine that has not touched it
for `STALE` seconds.
"""

import errno
import json
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vfn.files import is_alive, make_directory, temporary_of
from vfn.runs.directory import RunFiles

TOUCH, STALE = 20.0, 180.0  # seconds
# What file systems without hard links say.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}


@contextmanager
def locked(run: RunFiles, taken_over: bool = False) -> Iterator[None]:
    """Hold a run directory; nobody else does at the same time.

    Args:
        run: its directory is made if missing, and removed again if nothing came to be in it.
        taken_over: whoever held it is known to be gone.

    Raises:
        ValueError: if another process works on it.
        OSError: if the directory cannot be written.

    >>> with locked(RunFiles("run")):
    ...     with locked(RunFiles("run")):
    ...         pass
    Traceback (most recent call last):
    ValueError: run is in use by process ...; wait for it, choose another --out, or, if ...
    """
    made = _make_directories(run.path)
    try:
        _take(run.lock, taken_over)
        done = threading.Event()
        thread = threading.Thread(target=_keep_fresh, args=(run.lock, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if _read(run.lock) == _holder():
                run.lock.unlink(missing_ok=True)
    finally:
        for path in reversed(made):
            with suppress(OSError):  # there is something in it
                path.rmdir()


def _make_directories(path: Path) -> list[Path]:
    """Make a directory and its parents; those that were missing."""
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    make_directory(path)
    return missing[::-1]


def _holder() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "start": _start_of(os.getpid())}


def _start_of(pid: int) -> str:
    """When a process of this machine began: numbers are used again; empty where nobody knows."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def _take(lock: Path, taken_over: bool) -> None:
    mine = temporary_of(lock)
    mine.write_text(json.dumps(_holder()), encoding="utf-8")
    try:
        for _ in range(3):
            try:
                _give(mine, lock)
                return
            except FileExistsError:
                _remove_stale(lock, mine.stat().st_mtime, taken_over)
        raise ValueError(f"{lock.parent} is being taken by several processes; try again")
    finally:
        mine.unlink(missing_ok=True)


def _give(own: Path, lock: Path) -> None:
    """Give the lock the content of a file; FileExistsError where it is there."""
    try:
        os.link(own, lock)  # whole from the first moment on
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Such as on exFAT. In between it is empty, as one whose holder cannot be read.
        with lock.open("x", encoding="utf-8") as file:
            file.write(own.read_text(encoding="utf-8"))


def _remove_stale(lock: Path, now: float, taken_over: bool) -> None:
    """Remove a lock whose holder is gone; ``now`` is a time of the same file system."""
    holder = _read(lock)
    try:
        age = now - lock.stat().st_mtime
    except FileNotFoundError:
        return
    if not taken_over and not _is_stale(holder, age):
        who = "another process" if holder is None else f"process {holder['pid']}"
        host = (
            "" if holder is None or holder["host"] == platform.node() else f" of {holder['host']}"
        )
        raise ValueError(
            f"{lock.parent} is in use by {who}{host}; wait for it, choose another --out, or, if "
            f"it is gone for sure, delete {lock}"
        )
    aside = temporary_of(lock, "old")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != holder:  # somebody was quicker, and this is theirs
        with suppress(FileExistsError):
            _give(aside, lock)
    aside.unlink(missing_ok=True)


def _is_stale(holder: dict[str, Any] | None, age: float) -> bool:
    if holder is None or holder["host"] != platform.node():
        return age > STALE
    return not is_alive(holder["pid"]) or _start_of(holder["pid"]) != holder["start"]


def _read(lock: Path) -> dict[str, Any] | None:
    """The holder of a lock, None where the file is missing or says nothing of that kind."""
    try:
        value = json.loads(lock.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"host": str, "pid": int, "start": str}
    known = isinstance(value, dict) and all(type(value.get(k)) is kinds[k] for k in kinds)
    return value if known and value["pid"] > 0 else None


def _keep_fresh(lock: Path, done: threading.Event) -> None:
    while not done.wait(TOUCH):
        with suppress(OSError):
            os.utime(lock)
