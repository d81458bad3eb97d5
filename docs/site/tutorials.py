"""Tutorials: percent scripts, run cell by cell, and made pages with what they print and draw.

``python -m docs.site.tutorials`` runs all of them in full in a temporary directory, one after the
other, and writes their pages and pictures; names choose some. The tests run them in a short form.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[1] / "tutorials"
NAMES = ("mixture", "digits", "own_pictures", "guidance", "judging")
_HEAD = re.compile(r"^# %%(.*)$", re.MULTILINE)


class Cell(NamedTuple):
    """Text, or code that may be the one with the parameters."""

    text: str
    is_code: bool
    is_parameters: bool = False


class Output(NamedTuple):
    """What a cell printed, and the pictures it drew, as PNG files."""

    text: str = ""
    pictures: Sequence[bytes] = ()


def cells(script: str) -> list[Cell]:
    r"""The cells of a percent script.

    Args:
        script: its text.

    Returns:
        cells in order.

    >>> cells("# %% [markdown]\n# # Title\n\n# %%\nx = 1\n")
    [Cell(text='# Title', is_code=False, is_parameters=False), Cell(text='x = 1', ...)]
    """
    _, *parts = _HEAD.split(script)
    found = []
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in head:
            lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()]
            found.append(Cell("\n".join(lines), is_code=False))
        else:
            found.append(Cell(body.strip("\n"), is_code=True, is_parameters="parameters" in head))
    return found


def run(script: Path, parameters: Mapping[str, Any] | None = None) -> list[Output]:
    """Run a tutorial in the current directory.

    Args:
        script: a percent script.
        parameters: values that replace those of the cell with the parameters.

    Returns:
        what each cell gave.

    Raises:
        ValueError: if the script has no such parameter.
    """
    import matplotlib.pyplot as plt

    given, outputs = dict(parameters or {}), []
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells(script.read_text(encoding="utf-8")):
        printed = io.StringIO()
        if cell.is_code:
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.text, str(script), "exec"), namespace)
        if cell.is_parameters:
            if unknown := given.keys() - namespace.keys():
                raise ValueError(f"expected parameters of {script.name}, got {sorted(unknown)}")
            namespace |= given
        outputs.append(Output(printed.getvalue(), [_png(n) for n in plt.get_fignums()]))
        plt.close("all")
    return outputs


def _png(number: int) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    plt.figure(number).savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def page(name: str, script: str, outputs: Sequence[Output]) -> tuple[str, dict[str, bytes]]:
    """The page of a tutorial, and its pictures by their file names.

    Args:
        name: of the tutorial.
        script: its text.
        outputs: of its cells.

    Returns:
        Markdown, and PNG files.
    """
    parts, pictures = [], {}
    for cell, output in zip(cells(script), outputs, strict=True):
        parts.append(f"```python\n{cell.text}\n```" if cell.is_code else cell.text)
        if output.text:
            parts.append(f"```text\n{output.text.rstrip()}\n```")
        for picture in output.pictures:
            file = f"{name}-{len(pictures) + 1}.png"
            pictures[file] = picture
            parts.append(f"![What this draws]({file})")
    parts.append(
        f"---\n\nThis page is [{name}.py]({name}.py), run cell by cell by "
        f"`python -m docs.site.tutorials {name}`."
    )
    return "\n\n".join(parts) + "\n", pictures


def main(names: Sequence[str]) -> None:
    """Run tutorials in full and write their pages."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        os.environ["VFN_DATA"] = f"{place}/data"
        for name in names or NAMES:
            script = FOLDER / f"{name}.py"
            text, pictures = page(name, script.read_text(encoding="utf-8"), run(script))
            for old in FOLDER.glob(f"{name}-*.png"):
                old.unlink()
            for file, content in pictures.items():
                (FOLDER / file).write_bytes(content)
            (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
