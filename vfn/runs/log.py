"""The log of a run: one JSON object a line."""

import json
from pathlib import Path
from typing import Any


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


def seconds_until(path: Path, step: int) -> float | None:
    """How long a training took up to a step; None where its log does not say so.

    Args:
        path: ``log.jsonl``; it may be missing.
        step: the last one that counts.

    Returns:
        seconds.

    Raises:
        ValueError: if the log is damaged.
    """
    passed = [e["seconds"] for e in read_log(path) if "seconds" in e and e["step"] <= step]
    return max(passed, default=None)
