"""The site is read from a folder, without a network: no page may request anything from outside."""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)
_REQUEST = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|author))[^>]*\bhref=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)"
)


def requests(text: str) -> list[str]:
    """Addresses outside of the site that a page or style sheet would ask for.

    Args:
        text: HTML or CSS.

    Returns:
        the addresses; links that a reader has to follow are none.

    >>> requests('<a href="https://a.org">a</a> <script src="//b.org/x.js">')
    ['//b.org/x.js']
    """
    return [next(filter(None, found.groups())) for found in _REQUEST.finditer(text)]


def check(app: Sphinx, failed: Exception | None) -> None:
    """Warn of pages that would ask for something."""
    if failed or app.builder.format != "html":
        return
    for path in sorted(Path(app.outdir).rglob("*")):
        if path.suffix in {".html", ".css"}:
            for address in requests(path.read_text(encoding="utf-8")):
                _LOG.warning("%s asks for %s", path.relative_to(app.outdir), address)


def setup(app: Sphinx) -> None:
    """Register it."""
    app.connect("build-finished", check)
