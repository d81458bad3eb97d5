"""Who hears of a run while it goes on: the log, trackers, and what a caller adds.

This module does not import torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vfn.configs import Config
from vfn.files import shown
from vfn.runs import RunFiles
from vfn.tables import object_name

if TYPE_CHECKING:
    from vfn.model import DataShape


class RunInfo(NamedTuple):
    """A run that begins, or goes on after ``step`` steps."""

    files: RunFiles
    config: Config
    shape: "DataShape"
    step: int


class Outcome(NamedTuple):
    """Where a run stands: steps done, and the signal that stopped it (0 if it is finished)."""

    step: int
    signum: int


def exit_status(signum: int) -> int:
    """What a process says that a signal ended, as shells have it; 0 for none.

    Args:
        signum: of the signal; 0 for none.

    Returns:
        status.

    >>> exit_status(15), exit_status(0)
    (143, 0)
    """
    return 128 + signum if signum else 0


class Observer:
    """What a run tells, on its first process; a subclass has the methods that it wants to hear.

    An exception in one of them ends the run: the log is closed, and the last checkpoint stays.

    >>> class Losses(Observer):
    ...     def logged(self, step, values):
    ...         print(step, values["loss"])
    >>> Losses().logged(20, {"step": 20, "loss": 0.5})
    20 0.5
    """

    def begun(self, run: RunInfo, /) -> None:
        """The run is open, and its first step comes next."""

    def stepped(self, step: int, /) -> None:
        """A step is done; nothing of it has been waited for."""

    def logged(self, step: int, values: Mapping[str, Any], /) -> None:
        """A line of the log: losses and speed, or what a preview or an evaluation came to."""

    def previewed(self, step: int, path: Path, /) -> None:
        """A sample grid is at ``path``."""

    def evaluated(self, step: int, figures: Mapping[str, float], /) -> None:
        """Figures of an evaluation on the way, by their keys."""

    def saved(self, step: int, path: Path, /) -> None:
        """A checkpoint is at ``path``, the best one too."""

    def ended(self, outcome: Outcome | None, /) -> None:
        """The run is over: finished, stopped by a signal, or ended by an error (None)."""


# What a caller may add to a run: an observer, or a function of each line of the log.
Callback = Observer | Callable[[Mapping[str, Any]], object]


class _Listener(Observer):
    """A plain function that hears each line of the log."""

    def __init__(self, hear: Callable[[Mapping[str, Any]], object]) -> None:
        self._hear = hear

    def logged(self, _step: int, values: Mapping[str, Any], /) -> None:
        self._hear(values)


def as_observers(callbacks: Sequence[Callback] | None) -> list[Observer]:
    """Callbacks as observers.

    Args:
        callbacks: observers, or functions that are called with each line of the log; None for none.

    Returns:
        observers, in the same order.

    Raises:
        ValueError: for anything else, and for a class in place of an object.

    >>> (printing,) = as_observers([print])
    >>> printing.logged(20, {"loss": 0.5})
    {'loss': 0.5}
    """
    if isinstance(callbacks, Observer) or callable(callbacks):
        raise ValueError(f"expected callbacks in a list, got one: [{object_name(callbacks)}]")
    if not isinstance(callbacks, Iterable | None):
        raise ValueError(f"expected callbacks in a list, got {shown(callbacks)}")
    callbacks = list(callbacks or ())
    for callback in callbacks:
        if isinstance(callback, type) or not (isinstance(callback, Observer) or callable(callback)):
            raise ValueError(
                "expected callbacks to be Observers or functions of a line of the log, "
                f"got {object_name(callback)}"
            )
    return [each if isinstance(each, Observer) else _Listener(each) for each in callbacks]


class Audience(Observer):
    """Several observers as one: each hears everything, in order.

    `ended` reaches those that have begun, all of them even if some fail.

    Args:
        observers: in order.
        opened: those of them that hold something open already, which hear the end in any case.
    """

    def __init__(self, observers: Sequence[Observer], opened: Sequence[Observer] = ()) -> None:
        self._observers = observers
        self._to_end = [*opened]

    def begun(self, run: RunInfo, /) -> None:
        """Tell each, until one fails."""
        for each in self._observers:
            each.begun(run)
            if not any(each is other for other in self._to_end):
                self._to_end.append(each)

    def stepped(self, step: int, /) -> None:
        """Tell each."""
        for each in self._observers:
            each.stepped(step)

    def logged(self, step: int, values: Mapping[str, Any], /) -> None:
        """Tell each."""
        for each in self._observers:
            each.logged(step, values)

    def previewed(self, step: int, path: Path, /) -> None:
        """Tell each."""
        for each in self._observers:
            each.previewed(step, path)

    def evaluated(self, step: int, figures: Mapping[str, float], /) -> None:
        """Tell each."""
        for each in self._observers:
            each.evaluated(step, figures)

    def saved(self, step: int, path: Path, /) -> None:
        """Tell each."""
        for each in self._observers:
            each.saved(step, path)

    def ended(self, outcome: Outcome | None, /) -> None:
        """Tell each that has begun or was open, whether others fail or not."""
        with ExitStack() as stack:
            for each in reversed(self._to_end):
                stack.callback(each.ended, outcome)
