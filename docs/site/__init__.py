"""What the site adds to Sphinx: names by room and module, and formulas typeset."""

from typing import Any

from sphinx.application import Sphinx

from docs.site import names, offline, typeset


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    names.setup(app)
    typeset.setup(app)
    offline.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
