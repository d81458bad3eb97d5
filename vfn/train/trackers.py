"""Where else the log of a run goes: a table of trackers, each an observer.

A tracker is made by a factory ``(run: RunFiles, step: int) -> Observer``, called on the first
process when a run begins, or goes on after ``step`` steps. This module does not import torch.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec

from vfn.runs import RunFiles
from vfn.tables import Entry, Table, how_to_install, outside
from vfn.train.observers import Observer

TrackerFactory = Callable[[RunFiles, int], Observer]


@dataclass(frozen=True, kw_only=True)
class Tracker(Entry):
    """A tracker; ``extra``: the package that it needs, and the extra of ours that brings it."""

    extra: str = ""


TRACKERS: Table[Tracker] = Table(
    "tracker",
    {
        "tensorboard": Tracker(
            text="curves for TensorBoard, in the run's directory",
            target="vfn.train.tracking:tensorboard",
            extra="tensorboard",
        ),
        "csv": Tracker(
            text="a line of log.csv for each number, in the run's directory",
            target="vfn.train.tracking:table",
        ),
        "wandb": Tracker(text="Weights & Biases", target="vfn.train.tracking:wandb", extra="wandb"),
        "mlflow": Tracker(text="MLflow", target="vfn.train.tracking:mlflow", extra="mlflow"),
    },
    lambda name: Tracker(text=name, target=name),
)


def find_trackers(words: Sequence[str]) -> dict[str, TrackerFactory]:
    """The factories of some trackers, imported; nothing is made yet.

    Args:
        words: of `TRACKERS`, or ``package.module:Name``.

    Returns:
        factories by their words.

    Raises:
        ValueError: for an unknown tracker, or one whose package is not installed.

    >>> find_trackers(["board"])
    Traceback (most recent call last):
    ValueError: unknown tracker 'board', expected one of tensorboard, csv, ...:Name
    """
    found = {word: TRACKERS.find(word) for word in words}
    for word, entry in found.items():
        if entry.extra and find_spec(entry.extra) is None:
            raise ValueError(
                f"tracker {word} needs {entry.extra}, which is not installed; "
                f"install it with: {how_to_install(entry.extra)}"
            )
    loaded = {word: entry.load() for word, entry in found.items()}
    for word, factory in loaded.items():
        if not callable(factory):
            raise ValueError(
                f"expected tracker {word} to be a function of a run and its step, got "
                f"{type(factory).__name__}"
            )
    return loaded


def make_trackers(words: Sequence[str], run: RunFiles, step: int) -> list[Observer]:
    """Trackers of a run, made by their factories; all of them, or those that are made are ended.

    Args:
        words: of `TRACKERS`, or ``package.module:Name``.
        run: the run's files.
        step: steps already done.

    Returns:
        observers.

    Raises:
        ValueError: for an unknown tracker, one whose package is not installed, or a factory that
            gives anything else.
    """
    made = []
    with ExitStack() as ending:
        for word, factory in find_trackers(words).items():
            with outside(f"tracker {word} cannot be made"):
                tracker = factory(run, step)
            if not isinstance(tracker, Observer):
                raise ValueError(
                    f"expected tracker {word} to give an Observer, got {type(tracker).__name__}"
                )
            ending.callback(tracker.ended, None)
            made.append(tracker)
        ending.pop_all()
    return made
