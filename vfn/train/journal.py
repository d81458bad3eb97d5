"""What a run tells while it runs: ``log.jsonl``, and a bar or plain lines on the terminal."""

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vfn.files import write_atomic


class Journal:
    """Appends to the log of a run and shows progress.

    Args:
        path: the log; lines after ``step`` are removed, since a resumed run writes them again.
        step: steps already done.
        steps: steps in all.
        board: directory for TensorBoard's logs, or None.

    Raises:
        ValueError: if TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path, step: int, steps: int, board: Path | None = None) -> None:
        self._board = _summary_writer(board, step) if board else None
        kept = [entry for entry in read_log(path) if entry["step"] <= step]
        self.seconds = max((entry.get("seconds", 0.0) for entry in kept), default=0.0)
        write_atomic(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = path.open("a", buffering=1)
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            initial=step, total=steps, unit="step", disable=not self._terminal, dynamic_ncols=True
        )

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line; show the numbers that people watch.

        ``seconds`` in an entry are those since the last one; the log has those of the whole run.
        """
        if "seconds" in entry:
            self.seconds += entry["seconds"]
            entry = {**entry, "seconds": self.seconds}
        if self._board:
            for name, value in entry.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, entry["step"])
        self._file.write(json.dumps(entry) + "\n")
        names = ("loss", "held_out_loss", "frechet_distance", "images_per_s")
        shown = {name: f"{entry[name]:.4g}" for name in names if name in entry}
        if self._terminal:
            self._bar.set_postfix(shown)
        else:
            self.say(f"step {entry['step']}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))

    def advance(self) -> None:
        self._bar.update()

    def say(self, line: str) -> None:
        """One line to the person, above the bar if there is one."""
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        if self._board:
            self._board.close()


def _summary_writer(board: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "tensorboard = true needs TensorBoard, which is not installed; "
            "install it with: pip install 'vfn[tensorboard]'"
        ) from None
    return SummaryWriter(str(board), purge_step=step + 1)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a log; a last line that was cut off by a kill is left out.

    Args:
        path: ``log.jsonl``; it may be missing.

    Returns:
        the entries in order.

    Raises:
        ValueError: if a line that was written whole is not JSON.
    """
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON: {error}") from None
    return entries
