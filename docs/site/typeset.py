"""Inline code that is a formula is typeset, and that is a public name becomes a link."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from docs.site.formulas import NotAFormula, mathml
from docs.site.public import public_names

# Pages whose commands the tests run; those of others are parsed, see tests/test_pages.py.
RUN_PAGES = {"docs/extending"}
_RUN = "Run by the tests."
_PARSED = (
    "Words and options are checked by the tests; not run there, as it takes long or files of yours."
)


class Typeset(SphinxPostTransform):
    """Looks at all inline code of a page."""

    default_priority = 8  # before links are resolved
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Replace what is a formula or a name; leave out blank lines that end a block of code."""
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") == "sh":
                block.parent.insert(block.parent.index(block) + 1, self._told())
            if block.astext().endswith("\n"):
                block.children = [nodes.Text(block.astext().rstrip("\n"))]
                block.rawsource = block.astext()
        for code in list(self.document.findall(nodes.literal)):
            if isinstance(code.parent, nodes.reference | nodes.title):
                continue
            other = self._formula(code) or self._link(code)
            if other is not None:
                code.replace_self(other)

    def _told(self) -> nodes.paragraph:
        """What the tests make of a block of commands."""
        text = _RUN if self.env.docname in RUN_PAGES else _PARSED
        return nodes.paragraph("", text, classes=["checked"])

    def _formula(self, code: nodes.literal) -> nodes.Node | None:
        try:
            alone = len(code.parent.children) == 1 and isinstance(code.parent, nodes.paragraph)
            alone = alone and not isinstance(code.parent.parent, nodes.entry)
            return nodes.raw("", mathml(code.astext(), block=alone), format="html")
        except NotAFormula:
            return None

    def _link(self, code: nodes.literal) -> nodes.Node | None:
        full = public_names().full(code.astext().removesuffix("()"), code=True)
        target = self.env.domains.python_domain.objects.get(full or "")
        if target is None:
            return None
        return make_refnode(
            self.app.builder, self.env.docname, target.docname, target.node_id, code.deepcopy()
        )


def setup(app: Sphinx) -> None:
    """Register it."""
    app.add_post_transform(Typeset)
