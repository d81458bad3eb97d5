"""Signals that ask a run to stop, as something all of its processes agree on."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vfn.distributed import World, largest

# SIGUSR1 is what SLURM sends ahead of the time limit with --signal=B:USR1@60 or --signal=USR1@60.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Seconds in which a signal may come again without being meant: Ctrl-C reaches all processes of a
# terminal, and torchrun, which is one of them, hands it on.
AGAIN = 2.0


class Stopped(Exception):
    """Raised where work is given up because a signal came."""


class Stop:
    """The first signal that this process got, if any."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.received = 0

    def agreed(self) -> int:
        """The largest signal number of all processes, 0 if none got one; all must ask together."""
        return largest(self.received, self.world)

    def check(self) -> None:
        """Give up what is being done if a signal came; all processes must ask together.

        Raises:
            Stopped: on all of them.
        """
        if self.agreed():
            raise Stopped


@contextmanager
def stop_signals(world: World) -> Iterator[Stop]:
    """Collect the signals instead of dying of them; one that comes again later is obeyed at once.

    Outside the main thread, where Python lets nobody handle signals, they are left alone.

    Yields:
        Stop, which is asked about them.
    """
    stop = Stop(world)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    came: dict[int, float] = {}

    def note(signum: int, _frame: object) -> None:
        stop.received = signum
        now = time.monotonic()
        if now - came.setdefault(signum, now) > AGAIN:
            signal.signal(signum, previous[signum])
            signal.raise_signal(signum)

    # Asked for before one can come; of a handler that is not Python's nothing is known.
    previous: dict[int, Any] = {s: signal.getsignal(s) or signal.SIG_DFL for s in STOP_SIGNALS}
    for each in STOP_SIGNALS:
        signal.signal(each, note)
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
