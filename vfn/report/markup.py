"""Pieces of HTML: every function returns markup, and nothing where there is nothing to show."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

MISSING = "–"
ARROWS = {"lower": "↓", "higher": "↑"}


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it."""
    content = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def picture(path: Path, alt: str, caption: str) -> str:
    """A picture file, if it is there."""
    if not path.is_file():
        return ""
    return embedded(path.read_bytes(), path.suffix[1:], alt, caption, "tiles")


def embedded(content: bytes, kind: str, alt: str, caption: str, style: str) -> str:
    """A figure with the bytes of the picture in it."""
    return (
        f'<figure class="{style}"><img alt="{escape(alt)}" '
        f'src="data:image/{kind};base64,{b64encode(content).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def details(title: str, content: str) -> str:
    """Something that is folded away under a title."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>" if content else ""


def code(text: str) -> str:
    """Text as it was typed."""
    return f"<pre><code>{escape(text)}</code></pre>" if text else ""


def paragraph(text: str) -> str:
    """A sentence or two."""
    return f"<p>{escape(text)}</p>" if text else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """A table whose cells are markup; the first of each row is its head.

    Args:
        heads: texts; the first is that of the rows' heads.
        rows: markup of the cells, as many as heads.
        style: class of the table.

    Returns:
        markup; nothing without rows.

    >>> table(["a", "b"], [["x", "1"]]).count("<th")
    4
    """
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in heads)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    kind = f' class="{style}"' if style else ""
    return f"""<div class="wide"><table{kind} style="--columns: {len(heads) - 1}">
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>"""


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
