"""What a person sees of a job: lines and bars on standard error, and tables of text.

Under torchrun only the first process shows anything, and nobody has to ask which that is.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tqdm import tqdm

from vfn.launch import launch

LINE_SECONDS = 10.0  # between the lines that stand for a bar where there is no terminal
_silences = 0


@contextmanager
def silence() -> Iterator[None]:
    """Show nothing while the context is open.

    >>> with silence():
    ...     say("nobody hears this")
    """
    global _silences
    _silences += 1
    try:
        yield
    finally:
        _silences -= 1


def is_shown() -> bool:
    """Whether this process shows anything: the first one, unless it is silenced."""
    return not _silences and launch().rank == 0


def say(line: str) -> None:
    """One line to the person, above the bars if there are any."""
    if is_shown():
        tqdm.write(line, file=sys.stderr)


def as_typed(*words: str | Path) -> str:
    """A command of ours as it works in the shell that started this process.

    Where `vfn` is not on its path, as after ``make demo``, that is the program that runs now.

    Args:
        words: the command and its arguments.

    Returns:
        a command line.

    >>> as_typed("report", "my runs/a")
    "vfn report 'my runs/a'"
    """
    return shlex.join([*_program(Path(sys.argv[0])), *map(str, words)])


def _program(started: Path) -> list[str]:
    """What stands before our words, by the file that Python was started with."""
    if started.stem == "vfn" and started.is_file():
        return ["vfn"] if _is_found("vfn", started) else [_from_here(started)]
    ours = started.name == "__main__.py" and started.parent.name == "vfn"
    if not ours and started.name != "cli.py":
        return ["vfn"]
    found = _is_found("python", Path(sys.executable))
    python = "python" if found else _from_here(Path(sys.executable))
    return [python, "-m", "vfn"] if ours else [python, _from_here(started)]


def _is_found(name: str, path: Path) -> bool:
    """Whether the shell finds this very file by a name."""
    found = shutil.which(name)
    return found is not None and Path(found).absolute() == path.absolute()


def _from_here(path: Path) -> str:
    """A path below the current directory as a relative one."""
    whole = path.absolute()
    return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole)


class Progress:
    """Items done, items a second, time left: a bar on a terminal, elsewhere a line now and then.

    Args:
        total: items in all.
        unit: what an item is.
        title: what is being done, or nothing.
        done: items that were done before.
        lines: go on with lines where there is no terminal; the first, which tells how long all
            will take, is shown in any case.
        brief: the bar goes when it is closed, as one within another.

    >>> with silence(), Progress(10, "picture") as progress:
    ...     progress.show(4)
    """

    def __init__(
        self,
        total: int,
        unit: str,
        title: str = "",
        done: int = 0,
        lines: bool = True,
        brief: bool = False,
    ) -> None:
        shown, terminal = is_shown(), sys.stderr.isatty()
        self._lines = shown and not terminal
        self._go_on = lines
        self._bar = tqdm(
            desc=title or None,
            initial=done,
            total=total,
            unit=unit,
            leave=not brief,
            disable=not (shown and terminal),
            dynamic_ncols=True,
        )
        self._total, self._unit, self._title = total, unit, title
        self._first = self._done = done
        self._start = time.monotonic()
        self._next_line = self._start + LINE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: int = 1) -> None:
        """Tell that ``count`` more items are done."""
        self.show(self._done + count)

    def show(self, done: int) -> None:
        """Tell that ``done`` items are done so far."""
        self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._lines and now >= self._next_line:
            self._next_line = now + LINE_SECONDS
            self._lines = self._go_on
            say(self._line(now - self._start))

    def note(self, values: Mapping[str, str]) -> None:
        """Show some values beside the bar."""
        self._bar.set_postfix(values)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._first) / seconds
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        title = f"{self._title}: " if self._title else ""
        return (
            f"{title}{self._done} of {self._total} {self._unit}s, {rate:.3g} {self._unit}s/s, "
            f"{left} left"
        )


def text_table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Rows of cells as lines of text, two blanks between columns.

    Args:
        rows: cells, as many in each row; the first row is the head.
        left: numbers of the columns that are set to the left; the others are set to the right.

    Returns:
        lines without blanks at their ends.

    >>> print(text_table([["part", "size"], ["a", "10"]]))
    part  size
    a       10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
