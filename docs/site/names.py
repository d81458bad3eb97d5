"""The reference: ``{public} vfn.ops`` with names of modules shows all their public names.

The build warns, and so fails, of a public name that no page shows, that two pages show, that says
nothing of itself, or for which there is no example.
"""

import ast
import builtins
import inspect
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from docs.site.public import ROOT, Name, public_names, written_signature
from vfn.tables import Table

_LOG = logging.getLogger(__name__)
# Known beside ours in docstrings.
_OUTSIDE = {"functools.partial"}


class Public(SphinxDirective):
    """Public names of some modules of a room, in the order of its face."""

    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Entries of all of them.

        Returns:
            nodes of the entries, those of a module after one another.
        """
        face = self.arguments[0]
        shown = [
            name
            for module in " ".join(self.content).split() or [""]
            for name in self._of(face, module)
        ]
        lines = [line for name in shown for line in _entry(name)]
        text = ["```{eval-rst}", f".. py:currentmodule:: {face}", "", *lines, "```"]
        node = nodes.container()
        self.state.nested_parse(StringList(text, source=face), self.content_offset, node)
        return node.children

    def _of(self, face: str, module: str) -> list[Name]:
        found = [n for n in public_names() if n.face == face and n.module == module]
        if not found:
            _LOG.warning(
                "%s has no public name from %r", face, module, location=self.get_location()
            )
        return found


def _entry(name: Name) -> list[str]:
    """Lines of one entry, reStructuredText."""
    value = name.value
    if inspect.isfunction(value):
        head, body = f".. autofunction:: {name.full}", []
    elif inspect.isclass(value):
        head, body = f".. autoclass:: {name.full}", [":members:"]
    else:
        head, body = f".. py:data:: {name.name}", ["", *_value(name.name, value)]
    body += ["", *_examples(name)]
    return [head, *(f"   {line}" for line in body), ""]


def _value(name: str, value: Any) -> list[str]:
    """What a table, a type or a constant is."""
    if isinstance(value, Table):
        words = [f"* - ``{word}``\n  - {entry.text}" for word, entry in value.items()]
        rows = [line for row in words for line in row.splitlines()]
        more = f" and whatever is named ``{'package.module:Name'}``" if value.is_open else ""
        head = f"Table of {value.kind}s; ``{name}[word]`` is an entry{more}."
        return [head, "", ".. list-table::", "   :widths: auto", "", *(f"   {r}" for r in rows)]
    if typing.get_origin(value) is typing.Literal:
        words = [f'``"{word}"``' for word in typing.get_args(value)]
        return [f"Type, one of {', '.join(words)}."]
    if isinstance(value, types.UnionType) or typing.get_origin(value):
        return [f"Type: ``{_plain(value)}``."]
    return [f"``{value!r}``" if isinstance(value, str | int | float) else _kind_of(value)]


def _plain(kind: Any) -> str:
    """A type as the source writes it."""
    text = str(kind)
    for module in ("collections.abc.", "torch.", "typing."):
        text = text.replace(module, "")
    return text


def _kind_of(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"Mapping of {', '.join(f'``{key}``' for key in value)}."
    return f"A `{kind}`."


def _examples(name: Name) -> list[str]:
    """Where its examples are, if it has none of its own."""
    if name.example or name.name.startswith("__"):
        return []
    names, pages = public_names().shown_by(name)[:3], public_names().pages_with(name)[:3]
    told = inspect.isfunction(name.value) or inspect.isclass(name.value)
    if not names and not pages and told:  # tables, types and constants are shown themselves
        _LOG.warning("%s has no example, here or on a page below docs/", name.full)
    links = [f":py:obj:`~{other.full}`" for other in names]
    links += [f":doc:`/{page}`" for page in pages]
    return [f"Examples: {', '.join(links)}."] if links else []


def known(
    _role: str,
    rawtext: str,
    text: str,
    lineno: int,
    inliner: Inliner,
    _options: Any = None,
    _content: Sequence[str] = (),
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Role of plain backquotes: a link to a public name, or code.

    Returns:
        the node, and a complaint if the text looks like a name that there is not.
    """
    env: BuildEnvironment = inliner.document.settings.env
    face = env.ref_context.get("py:module")
    full = public_names().full(text.removesuffix("()"), face)
    if full is None:
        complaints = []
        if text.replace(".", "").isidentifier() and not _exists(text):
            complaints = [inliner.reporter.warning(f"unknown name {text}", line=lineno)]
        return [nodes.literal(rawtext, text)], complaints
    literal = nodes.literal(rawtext, text, classes=["xref", "py", "py-obj"])
    place = {"refdomain": "py", "reftype": "obj", "reftarget": full, "refdoc": env.docname}
    return [addnodes.pending_xref(rawtext, literal, refexplicit=True, **place)], []


def _exists(text: str) -> bool:
    """Whether the package defines such a name, public or not, or it is known beside ours."""
    last = text.rpartition(".")[2]
    return text in _OUTSIDE or last in _defined() or hasattr(builtins, text)


@cache
def _defined() -> frozenset[str]:
    """Every module, class, function, method and constant of the package."""
    found = set()
    for path in ROOT.rglob("*.py"):
        found |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            if isinstance(node, ast.Assign):
                found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return frozenset(found)


def as_written(
    _app: Sphinx, _what: str, _name: str, value: Any, _options: Any, _args: Any, _returns: Any
) -> tuple[str, str] | None:
    """The signature with its types as the source has them, `Denoiser` and not what it stands for.

    Returns:
        arguments and returns; None where the source has no signature of its own.
    """
    return written_signature(value)


def quiet_fields(
    _app: Sphinx, _what: str, _name: str, value: Any, skip: bool, _options: Any
) -> bool | None:
    """Fields of named tuples stand in the signature already.

    Returns:
        True for those, else nothing.
    """
    return True if (inspect.getdoc(value) or "").startswith("Alias for field") else skip or None


def check(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names without an entry or without a word."""
    shown = env.domains.python_domain.objects
    for name in public_names():
        if name.full not in shown:
            _LOG.warning(
                "%s is on no page of the reference; add its module %r to one of docs/api",
                name.full,
                name.module,
            )
        value = name.value
        if (inspect.isfunction(value) or inspect.isclass(value)) and not inspect.getdoc(value):
            _LOG.warning("%s has no docstring", name.full)


def unresolved(
    _app: Sphinx, _env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Node
) -> nodes.Node | None:
    """Types in signatures may be private or another package's: they are text, if they exist.

    Returns:
        the text; None, so a warning, for whatever is no type in a signature.
    """
    inside = node.parent
    while inside is not None and not isinstance(inside, addnodes.desc_signature):
        inside = inside.parent
    return content if inside is not None else None


def setup(app: Sphinx) -> None:
    """Register all of it."""
    app.add_directive("public", Public)
    app.add_role("known", known)
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", quiet_fields)
    app.connect("env-check-consistency", check)
    app.connect("missing-reference", unresolved)
