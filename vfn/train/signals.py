"""Signals that ask a run to stop, as something all of its processes agree on."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vfn.distributed import World, largest

# SIGUSR1 is what SLURM sends ahead of the time limit with --signal=B:USR1@60 or --signal=USR1@60.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


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
    """Collect the signals instead of dying of them; a second one is obeyed at once.

    Outside the main thread, where Python lets nobody handle signals, they are left alone.

    Yields:
        Stop, which is asked about them.
    """
    stop = Stop(world)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(signum: int, _frame: object) -> None:
        stop.received = signum
        signal.signal(signum, previous[signum])

    # Asked for before one can come; of a handler that is not Python's nothing is known.
    previous: dict[int, Any] = {s: signal.getsignal(s) or signal.SIG_DFL for s in STOP_SIGNALS}
    for each in STOP_SIGNALS:
        signal.signal(each, note)
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
