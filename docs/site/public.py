"""The public names of the package: which room shows them, and which module holds them."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import vfn

ROOT = Path(vfn.__file__).parent
PAGES = ROOT.parent
ROOMS = "ops nn configs data runs sampling evaluation train report interop"
FACES = ["vfn", *(f"vfn.{room}" for room in ROOMS.split())]
_EXAMPLE = re.compile(r"^\s*(?:>>>|\.\.\.) (.*)$", re.MULTILINE)
_BLOCK = re.compile(r"```(?:pycon|python)\n(.*?)```", re.DOTALL)


class Name(NamedTuple):
    """A public name: ``vfn.ops``, ``steps``, ``ddim_step``."""

    face: str
    module: str
    name: str

    @property
    def full(self) -> str:
        """As scripts import it."""
        return f"{self.face}.{self.name}"

    @property
    def value(self) -> Any:
        """What it stands for."""
        return getattr(importlib.import_module(self.face), self.name)

    @property
    def docs(self) -> list[str]:
        """Its docstring and those of what it defines."""
        value = self.value
        found = [inspect.getdoc(value) or ""]
        if inspect.isclass(value):
            own = [each for name, each in vars(value).items() if not name.startswith("_")]
            found += [inspect.getdoc(each) or "" for each in own]
        return found

    @property
    def example(self) -> str:
        """Code of its own examples."""
        return "\n".join(line for text in self.docs for line in _EXAMPLE.findall(text))


def faces() -> dict[str, dict[str, list[str]]]:
    """Names of each room by the module that holds them, as its stub or its face imports them.

    Returns:
        face -> module -> names; what the face itself defines is under the module "".

    >>> faces()["vfn.ops"]["halving"], faces()["vfn"]
    (['distill_target'], {'': ['__version__', 'load']})
    """
    found = {}
    for face in FACES:
        public = set(importlib.import_module(face).__all__)
        modules: dict[str, list[str]] = {}
        for module, name in _imported(face):
            if name in public:
                modules.setdefault(module, []).append(name)
                public.remove(name)
        if public:
            modules[""] = sorted(public)
        found[face] = modules
    return found


def _imported(face: str) -> Iterator[tuple[str, str]]:
    """Module and name of all that the text of a room imports from within it."""
    folder = ROOT.joinpath(*face.split(".")[1:])
    stub = folder / "__init__.pyi"
    text = (stub if stub.is_file() else folder / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.removeprefix(f"{face}.")
            if node.level or module != node.module:
                yield from ((module, each.asname or each.name) for each in node.names)


@dataclass(frozen=True)
class PublicNames:
    """All of them, to look up."""

    names: tuple[Name, ...]

    def __iter__(self) -> Iterator[Name]:
        return iter(self.names)

    @cached_property
    def by_full(self) -> dict[str, Name]:
        """By the name that scripts import."""
        return {name.full: name for name in self.names}

    @cached_property
    def by_bare(self) -> dict[str, list[Name]]:
        """By the last part, which may stand in several rooms."""
        found: dict[str, list[Name]] = {}
        for name in self.names:
            found.setdefault(name.name, []).append(name)
        return found

    def full(self, text: str, face: str | None = None, *, code: bool = False) -> str | None:
        """The full name that a text means.

        Args:
            text: ``ddim_step``, ``ops.ddim_step``, ``Trained.draws`` or longer.
            face: the room it is said in, which has the first say.
            code: whether it may be any code, so that plain words are none of ours.

        Returns:
            full name, of a member with its class; None if it is none.

        >>> public_names().full("ops.ddim_step"), public_names().full("Trained.draws")
        ('vfn.ops.ddim_step', 'vfn.sampling.Trained.draws')
        >>> public_names().full("sample", code=True)
        """
        for start in ("", "vfn."):
            if start + text in self.by_full:
                return start + text
        head, dot, member = text.rpartition(".")
        if dot and (owner := self.full(head, face)) in self.by_full:
            return f"{owner}.{member}" if hasattr(self.by_full[str(owner)].value, member) else None
        if code and not re.search(r"[a-z]_[a-z]|[a-z][A-Z]|^[A-Z][A-Z]", text):
            return None
        found = self.by_bare.get(text, [])
        own = [name for name in found if name.face == face]
        return (own or found or [None])[0] and (own or found)[0].full

    def shown_by(self, name: Name) -> list[Name]:
        """Names of the same room whose examples or signatures have this one."""
        word = re.compile(rf"\b{re.escape(name.name)}\b")
        return [
            other
            for other in self.names
            if other.face == name.face and other != name and word.search(_used(other))
        ]

    def pages_with(self, name: Name) -> list[str]:
        """Pages below docs/ whose examples have a name."""
        word = re.compile(rf"(?:{re.escape(name.face.rpartition('.')[2])}\.|[\s(\[,=]|^)"
                          rf"{re.escape(name.name)}\b", re.MULTILINE)  # fmt: skip
        return [page for page, code in examples().items() if word.search(code)]


@cache
def _used(name: Name) -> str:
    """What an entry with an example of its own uses, in that and in its signature."""
    if not name.example:
        return ""
    value = name.value
    called = inspect.isfunction(value) or inspect.isclass(value)
    return " ".join([name.example, *((called and written_signature(value)) or ())])


def written_signature(value: Any) -> tuple[str, str] | None:
    """Arguments and what is returned, with types as the source writes them.

    Args:
        value: a function, or a class: then of its making, or of the call of a protocol.

    Returns:
        both as text; None where the source has none.

    >>> from vfn.ops import Sample, interval_strength
    >>> written_signature(interval_strength)
    ('(w: float | Tensor, low: float, high: float)', 'Strength')
    >>> written_signature(Sample)
    ('(x0: Tensor, nfe: int)', '')
    """
    if inspect.isclass(value):
        own = vars(value)
        if "__call__" in own and getattr(value, "_is_protocol", False):
            return written_signature(own["__call__"])
        if "__init__" not in own or hasattr(value, "__dataclass_fields__"):
            return _fields(value)
        arguments = written_signature(own["__init__"])
        return arguments and (arguments[0], "")
    tree = _definition(getattr(value, "__wrapped__", value))
    if not isinstance(tree, ast.FunctionDef):
        return None
    first = tree.args.args[0].arg if tree.args.args else ""
    tree.args.args = tree.args.args[first in {"self", "cls"} :]
    return f"({ast.unparse(tree.args)})", ast.unparse(tree.returns) if tree.returns else ""


def _fields(value: type) -> tuple[str, str] | None:
    """Of a named tuple or a dataclass: its fields, those of what it inherits first."""
    lines = []
    for kind in reversed(value.__mro__):
        tree = _definition(kind) if kind.__module__.startswith("vfn") else None
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for node in body:
            if isinstance(node, ast.AnnAssign):
                told = isinstance(node.value, ast.Constant | ast.Tuple | ast.Name)
                usual = f" = {ast.unparse(node.value)}" if node.value and told else ""
                usual = usual or (" = ..." if node.value else "")
                lines.append(f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{usual}")
    return (f"({', '.join(lines)})", "") if lines else None


def _definition(value: Any) -> ast.stmt | None:
    """The source of a function or class, parsed."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    except (OSError, SyntaxError, TypeError):  # made by the standard library, or no source at all
        return None
    named = isinstance(tree, ast.FunctionDef | ast.ClassDef) and tree.name == value.__name__
    return tree if named else None


@cache
def examples() -> dict[str, str]:
    """Code of each page below docs/, by its name."""
    pages = {}
    for path in sorted((PAGES / "docs").rglob("*.md")):
        code = "\n".join(_BLOCK.findall(path.read_text(encoding="utf-8")))
        if code:
            pages[path.relative_to(PAGES).with_suffix("").as_posix()] = code
    return pages


@cache
def public_names() -> PublicNames:
    """Every public name of every room."""
    return PublicNames(
        tuple(
            Name(face, module, name)
            for face, modules in faces().items()
            for module, names in modules.items()
            for name in names
        )
    )
