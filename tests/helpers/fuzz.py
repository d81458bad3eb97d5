"""A fuzzer of everything that is read: true files are damaged and edited, and read again.

A reader may take a file or refuse it in one line, within two seconds of computing and a gibibyte of
memory beyond what the process has. Whatever else happens is a fault. Case number i of a seed is
always the same:

    python -m tests.helpers.fuzz --cases 10000            # every format, every command's options
    python -m tests.helpers.fuzz log checkpoint --cases 10000
    python -m tests.helpers.fuzz log --first 4711 --cases 1 --seed 0   # one case again
"""

import argparse
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

SECONDS, MEMORY = 2.0, 2**30
LONGEST = 2000  # letters of a refusal, beside what the person has written

Change = Callable[[bytes, Random], bytes]


class Subject(NamedTuple):
    """Something that is fuzzed.

    change: makes the files, or arguments, of a case; gives what they are called in a fault. read:
    reads them.
    """

    change: Callable[[Random], str]
    read: Callable[[], object]


def put(path: Path, content: bytes) -> None:
    """Write a new file: what is mapped to memory of the one before must not be cut."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def of_file(path: Path, content: bytes, change: Change, read: Callable[[], object]) -> Subject:
    """A subject of one file."""

    def changed(rng: Random) -> str:
        put(path, change(content, rng))
        return path.name

    put(path, content)
    read()  # what is damaged below was good
    return Subject(changed, read)


@dataclass
class Found:
    """What came of some cases; ``faults`` are numbers of cases with what happened."""

    accepted: int = 0
    refused: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    slowest: float = 0.0
    memory: int = 0


@contextmanager
def bounded(memory: int) -> Iterator[None]:
    """Memory beyond so much more than there is now is refused by the system, where it can."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fault_of(error: BaseException, written: int) -> str:
    """What is wrong with an error of a reader; nothing if it is a refusal in one line."""
    if not isinstance(error, ValueError | OSError):
        where = "".join(traceback.format_exception(error)[-4:])
        return f"{type(error).__name__}: {str(error)[:200]}\n{where}"
    line = " ".join(str(error).split())
    if not line:
        return f"{type(error).__name__} says nothing"
    if not line.isprintable():
        return f"not printable: {line[:300]!r}"
    if len(line) > LONGEST + written:
        return f"a refusal of {len(line)} letters: {line[:300]}"
    return ""


def run(subject: Subject, name: str, cases: int, seed: int = 0, first: int = 0) -> Found:
    """Try some cases."""
    found = Found()
    for number in range(first, first + cases):
        written = subject.change(Random(f"{name} {seed} {number}"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        fault = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                subject.read()
            found.accepted += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            fault = fault_of(error, 3 * len(written))
            found.refused += not fault
        seconds = time.process_time() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        found.slowest, found.memory = max(found.slowest, seconds), max(found.memory, grown)
        if not fault and seconds > SECONDS:
            fault = f"took {seconds:.1f} s"
        if not fault and grown > MEMORY:
            fault = f"took {grown / 2**30:.1f} GiB"
        if fault:
            found.faults.append((number, f"{written}\n{fault}"))
    return found


def subjects(folder: Path) -> dict[str, Callable[[], Subject]]:
    """Everything that is fuzzed, by name; each is made in a folder of its own."""
    from tests.helpers.fuzz_files import FORMATS
    from tests.helpers.fuzz_options import commands, of_command

    made = {name: _within(make, folder / name) for name, make in FORMATS.items()}
    options = {
        f"vfn {' '.join(words)}": lambda words=words: of_command(words, folder / "-".join(words))
        for words in commands()
    }
    return made | options


def _within(make: Callable[[Path], Subject], folder: Path) -> Callable[[], Subject]:
    def made() -> Subject:
        folder.mkdir()
        return make(folder)

    return made


def main() -> None:
    """Fuzz what is named, or everything; the exit code is 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="formats, or commands such as 'vfn train'")
    parser.add_argument("--cases", type=int, default=1000, help="of each  [1000]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    given = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        known = subjects(Path(folder))
        if unknown := set(given.names) - set(known):
            parser.error(f"expected among {', '.join(known)}, got {', '.join(unknown)}")
        for name in given.names or known:
            subject = known[name]()
            with bounded(MEMORY):
                found = run(subject, name, given.cases, given.seed, given.first)
            for number, fault in found.faults[:5]:
                print(f"-- {name} {number}: {fault[:3000]}")
            faults += len(found.faults)
            print(
                f"{name}: {found.accepted} accepted, {found.refused} refused, "
                f"{len(found.faults)} faults; slowest {found.slowest:.2f} s, memory "
                f"{found.memory >> 20} MiB",
                flush=True,
            )
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
