"""Pieces of HTML: every function returns markup, and nothing where there is nothing to show."""

import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from vfn.files import without_places

MISSING = "–"
ARROWS = {"lower": "↓", "higher": "↑"}


class Section(NamedTuple):
    """A heading that can be linked, and what stands below it."""

    title: str
    content: str

    @property
    def key(self) -> str:
        """Its place in the page's address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def markup(self) -> str:
        """Both."""
        title = escape(self.title)
        link = f'<a class="here" href="#{self.key}" aria-label="Link to {title}">#</a>'
        return (
            f'<section id="{self.key}" aria-label="{title}">\n<h2>{title} {link}</h2>\n'
            f"{self.content}\n</section>"
        )


def section(title: str, *parts: str) -> Section:
    """A heading and what stands below it."""
    return Section(title, "\n".join(part for part in parts if part))


def picture(path: Path, alt: str, caption: str) -> str:
    """A picture file, if it is there."""
    if not path.is_file():
        return ""
    style = "tiles moving" if path.suffix == ".webp" else "tiles"
    return embedded(path.read_bytes(), path.suffix[1:], alt, caption, style)


def chart(content: bytes, alt: str, caption: str) -> str:
    """A chart of ours, which is a PNG; on small screens it is scrolled, so that it can be read."""
    wide = int.from_bytes(content[16:20], "big")  # where every PNG has it
    return embedded(content, "png", alt, caption, "plot", wide)


def embedded(
    content: bytes, kind: str, alt: str, caption: str, style: str, wide: int | None = None
) -> str:
    """A figure with the bytes of the picture in it, which can be enlarged."""
    return (
        f'<figure class="{style}"{_variable("wide", wide)}><div class="frame">'
        f'<button type="button" class="zoom" title="Enlarge"><img alt="{escape(alt)}" '
        f'src="data:image/{kind};base64,{b64encode(content).decode()}"></button></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _variable(name: str, value: int | None) -> str:
    """A number that the style sheet can ask for."""
    return "" if value is None else f' style="--{name}: {value}"'


def details(title: str, content: str) -> str:
    """Something that is folded away under a title."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>" if content else ""


def code(text: str) -> str:
    """Text as it was typed."""
    return f"<pre><code>{escape(text)}</code></pre>" if text else ""


def paragraph(text: str) -> str:
    """A sentence or two."""
    return f"<p>{escape(text)}</p>" if text else ""


class Cell(NamedTuple):
    """What stands in a cell, and the number by which it is sorted, if it is."""

    content: str
    value: float | None = None
    sorts: bool = False  # a head that sorts what it heads
    better: str = ""  # which end of it comes first: lower, higher
    moves: bool = False  # with those that have a value, though it has none


def _cell(cell: "Cell | str", tag: str, scope: str = "") -> str:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    attributes = {
        "scope": scope,
        "data-value": "" if cell.value is None else repr(float(cell.value)),
        "data-moves": "1" if cell.moves and cell.value is None else "",
        "data-better": cell.better if cell.sorts else "",
    }
    told = "".join(f' {name}="{escape(text)}"' for name, text in attributes.items() if text)
    content = cell.content
    if cell.sorts:  # the notes below a head are no part of its button
        text, small, rest = content.partition("<small>")
        content = f'<button type="button" class="sort">{text}</button>{small}{rest}'
    return f"<{tag}{told}>{content}</{tag}>"


def table(
    heads: Sequence[Cell | str],
    rows: Sequence[Sequence[Cell | str]],
    style: str = "",
    label: str = "Table",
) -> str:
    """A table whose cells are markup; the first of each row is its head.

    Args:
        heads: markup; the first is that of the rows' heads.
        rows: markup of the cells, as many as heads.
        style: class of the table.
        label: what it is, for those who hear it.

    Returns:
        markup; nothing without rows.

    >>> table(["a", "b"], [["x", "1"]]).count("<th")
    4
    """
    if not rows:
        return ""
    head = "".join(_cell(title, "th", "col") for title in heads)
    body = "\n".join(
        f"<tr>{_cell(first, 'th', 'row')}{''.join(_cell(cell, 'td') for cell in rest)}</tr>"
        for first, *rest in rows
    )
    kind = f' class="{style}"' if style else ""
    name = escape(label)
    return f"""<div class="wide" role="region" aria-label="{name}" tabindex="0">\
<table{kind} aria-label="{name}"{_variable("columns", len(heads) - 1)}>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>"""


def for_others(value: Any) -> str:
    """A value as `plain` writes it, in which paths of this machine have their last two parts alone.

    Args:
        value: of a file.

    Returns:
        text.

    >>> for_others(["/home/me/runs/a", "run:/home/me/runs/b"]), for_others("dataset:digits")
    ('runs/a, run:runs/b', 'dataset:digits')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(for_others, value))
    return without_places(plain(value))


def plain(value: Any) -> str:
    """A value as people read it.

    Args:
        value: of a file.

    Returns:
        text: four digits of a number, a dash for None.

    >>> [plain(v) for v in (None, 0.0391834, 12345, True, [1, 2])]
    ['–', '0.03918', '12345', 'true', '1, 2']
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
