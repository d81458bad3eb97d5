"""Progress of a job over many pictures: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

Say = Callable[[str], None]
LINE_SECONDS = 10.0


class Progress:
    """Shows pictures done, pictures per second and the time left.

    Args:
        total: pictures in all.
        say: takes a line, where standard error is no terminal.
        shown: whether to show anything; False for all processes but the first.
    """

    def __init__(self, total: int, say: Say, shown: bool = True) -> None:
        self._say = say
        self._plain = shown and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total, unit="image", disable=self._plain or not shown, dynamic_ncols=True
        )
        self._total, self._start = total, time.monotonic()
        self._next_line = self._start + LINE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, done: int) -> None:
        """Tell that ``done`` pictures are done so far."""
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if not self._plain or now < self._next_line:
            return
        self._next_line = now + LINE_SECONDS
        rate = done / (now - self._start)
        left = tqdm.format_interval((self._total - done) / rate)
        self._say(f"{done} of {self._total} pictures, {rate:.3g} images/s, {left} left")
