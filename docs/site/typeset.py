"""Inline code that is a formula is typeset, and that is a public name becomes a link."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from docs.site.formulas import NotAFormula, mathml
from docs.site.public import public_names


class Typeset(SphinxPostTransform):
    """Looks at all inline code of a page."""

    default_priority = 8  # before links are resolved
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Replace what is a formula or a name; leave out blank lines that end a block of code."""
        for block in self.document.findall(nodes.literal_block):
            if block.astext().endswith("\n"):
                block.children = [nodes.Text(block.astext().rstrip("\n"))]
                block.rawsource = block.astext()
        for code in list(self.document.findall(nodes.literal)):
            if isinstance(code.parent, nodes.reference | nodes.title):
                continue
            other = self._formula(code) or self._link(code)
            if other is not None:
                code.replace_self(other)

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
