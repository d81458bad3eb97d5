"""Memory: what a device has left, how numbers get there, what is said where it was not enough.

This module does not import torch.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vfn.launch import launch

if TYPE_CHECKING:
    import torch

# Files of a control group by its version: the limit, what is used, and that part of it which is
# given back when it is wanted (pages of files).
_V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_SIGNS = ("allocate memory", "out of memory", "not enough memory", "alloc_failed")
_ASKED = re.compile(r"ried to allocate ([\d.]+) ?(bytes|[KMGT]iB)")
# Of mallopt in glibc's malloc.h: how much is kept at the end of the heap, and from which size on
# something is mapped by itself, with their values here; the last size is more than it ever allows.
_KEPT = {-1: 2**31 - 1, -3: 2**30}
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def free_memory(device: "torch.device | str" = "cpu", root: Path = Path("/")) -> int | None:
    """Bytes that a device can still give to this process.

    Of a CPU that is what the system calls available, or less where a control group (a container, a
    job of SLURM) has a limit, an equal share for each process of a job on this machine; of a GPU
    what is free on it and in torch's own store.

    Args:
        device: cpu, or a GPU.
        root: where the files of the system are.

    Returns:
        bytes, at least 0; None where the system does not tell.

    Raises:
        ValueError: if the variables of the environment of processes contradict each other.

    >>> free = free_memory()
    >>> free is None or free > 0
    True
    """
    if str(device).startswith("cuda"):
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [*_system(root), *_groups(root)]
    return max(0, min(known)) // launch().local_size if known else None


def moved(value: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Numbers of the host on a device, for which a GPU is not waited: they go by pinned memory.

    Args:
        value: of the host, or there already.
        device: where it is wanted.

    Returns:
        the same numbers.

    >>> moved(torch.ones(2), torch.device("meta")).device
    device(type='meta')
    """
    import torch

    # A GPU that nobody has woken yet, or that is none, is not waited for.
    if device.type == "cuda" and value.device.type == "cpu" and torch.cuda.is_initialized():
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, in place of giving it back to the system.

    Large tensors are mapped anew each time otherwise, and the system clears all their pages: a
    tenth of a training step on the CPU. It holds for the whole process, which then stays as large
    as it was at its largest. What a user has set by variables ``MALLOC_`` or ``GLIBC_TUNABLES``
    stays.

    Returns:
        whether it does; only glibc, that of most Linux systems, can be asked.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # a name that other C libraries lack
        return all(library.mallopt(name, value) == 1 for name, value in _KEPT.items())
    except (OSError, AttributeError, TypeError):
        return False


def _system(root: Path) -> Iterator[int]:
    found = re.search(r"^MemAvailable: *(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if found:
        yield 1024 * int(found[1])


def _groups(root: Path) -> Iterator[int]:
    """What is left to each control group that this process is in."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        place = PurePosixPath(path)
        for group in (place, *place.parents):
            yield from _left(mount / str(group).lstrip("/"), _V1 if controllers else _V2)


def _left(group: Path, names: tuple[str, str, tuple[str, str]]) -> Iterator[int]:
    """What is left to one group; nothing where it has no limit, or is not to be seen from here."""
    limit, used = (_text(group / name).strip() for name in names[:2])
    if limit.isdecimal() and used.isdecimal():
        parts = (line.split() for line in _text(group / "memory.stat").splitlines())
        given_back = sum(int(part[1]) for part in parts if len(part) == 2 and part[0] in names[2])
        yield int(limit) - int(used) + given_back


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def size_text(size: float) -> str:
    """A number of bytes for people.

    Args:
        size: in bytes.

    Returns:
        text of two or three digits.

    >>> size_text(22.13e9), size_text(4.2e6), size_text(1e15)
    ('22.1 GB', '4.2 MB', '1,000,000 GB')
    """
    number, unit = (size / 1e9, "GB") if size >= 1e9 else (size / 1e6, "MB")
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of the CPU or of a GPU.

    Args:
        error: of torch, numpy or Python.

    Returns:
        whether it does.

    >>> is_shortage(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."))
    True
    >>> is_shortage(RuntimeError("shapes do not match"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def shortage(error: BaseException, doing: str = "", remedy: str = "") -> str:
    """What is said of an error that is a shortage of memory.

    Args:
        error: the error.
        doing: what was being done.
        remedy: what helps.

    Returns:
        one line.

    >>> error = RuntimeError("can't allocate memory: you tried to allocate 8000000000 bytes.")
    >>> shortage(error, "drawing 250 pictures at a time", "use --batch 125")
    'out of memory while drawing 250 pictures at a time (8.0 GB more were wanted); use --batch 125'
    """
    asked = _ASKED.search(str(error))
    more = asked and f" ({size_text(float(asked[1]) * _UNITS[asked[2]])} more were wanted)"
    what = f" while {doing}" if doing else ""
    return (
        f"out of memory{what}{more or ''}; {remedy or 'work on fewer or smaller things at a time'}"
    )


@contextmanager
def in_memory(doing: str, remedy: str) -> Iterator[None]:
    """Say in one line that memory was not enough for something.

    Args:
        doing: what is done within the context.
        remedy: what helps.

    Raises:
        ValueError: in place of torch's error, or Python's, that memory was not enough.
        Exception: any other as it is.

    >>> with in_memory("drawing 250 pictures at a time", "use --batch 125"):
    ...     raise MemoryError
    Traceback (most recent call last):
    ValueError: out of memory while drawing 250 pictures at a time; use --batch 125
    """
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        raise ValueError(shortage(error, doing, remedy)) from error
