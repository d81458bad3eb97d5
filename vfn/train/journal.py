"""What every run tells: lines of ``log.jsonl``, and a bar or plain lines to the person."""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from vfn.files import json_text, write_atomic
from vfn.progress import Progress, say
from vfn.runs import log_lines
from vfn.train.observers import Observer, Outcome, RunInfo

SHOWN = ("loss", "held_out_loss", "frechet_distance", "images_per_s")  # what people watch


class Journal(Observer):
    """Appends to the log of a run and shows how far it is.

    Lines of the log after the step at which a run goes on are removed: they are written again.
    """

    _file: TextIO
    _progress: Progress

    def begun(self, run: RunInfo, /) -> None:
        """Open the log, and the bar."""
        path = run.files.log
        kept = [line for entry, line in log_lines(path) if entry["step"] <= run.step]
        write_atomic(path, "".join(kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")
        # Where there is no terminal, each line of the log is shown instead, after a first one.
        self._progress = Progress(run.config.train.steps, "step", done=run.step, lines=False)

    def stepped(self, step: int, /) -> None:
        """Move the bar."""
        self._progress.show(step)

    def logged(self, step: int, values: Mapping[str, Any], /) -> None:
        """Append a line; show the numbers that people watch."""
        self._file.write(json_text(values) + "\n")
        shown = {name: f"{values[name]:.4g}" for name in SHOWN if name in values}
        if sys.stderr.isatty():
            self._progress.note(shown)
        else:
            say(f"step {step}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))

    def ended(self, _outcome: Outcome | None, /) -> None:
        """Close the bar and the log."""
        self._progress.close()
        self._file.close()
