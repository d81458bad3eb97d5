"""Tables of what the package knows by a word, and of what others add as ``package.module:Name``.

Words, help texts, checks and messages are read off a table. An entry names its implementation as
text, so that none of them has to import it.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from vfn.files import reason_of, shown

FORM = "package.module:Name"


class Described(Protocol):
    """What every entry of a table has: one line that says what it is."""

    @property
    def text(self) -> str:
        """One line for help and documents."""
        ...


E = TypeVar("E", bound=Described)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What stands behind a word.

    text: one line for help and documents. target: the implementation as ``package.module:Name``.
    """

    text: str
    target: str

    def load(self) -> Any:
        """The implementation, imported now by `load_object`."""
        return load_object(self.target)


class Table(Mapping[str, E], Generic[E]):
    """Entries by their words, in order.

    Args:
        kind: what an entry is, for messages: "solver", "metric".
        entries: by their words.
        outside: makes the entry of a ``package.module:Name``; None where nothing can be added.

    >>> colours = Table("colour", {"red": Entry(text="like blood", target="colours:Red")})
    >>> colours.find("red").text, colours.words()
    ('like blood', 'red')
    >>> colours.find("blue")
    Traceback (most recent call last):
    ValueError: unknown colour 'blue', expected one of red
    """

    def __init__(
        self, kind: str, entries: Mapping[str, E], outside: Callable[[str], E] | None = None
    ) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._outside = outside

    def __getitem__(self, word: str) -> E:
        return self._entries[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_open(self) -> bool:
        """Whether ``package.module:Name`` may stand for a word."""
        return self._outside is not None

    def words(self) -> str:
        """The words for a message or help text."""
        return ", ".join(self._entries)

    def expected(self) -> str:
        """What may be given, for a message or help text."""
        return f"one of {self.words()}" + (f", or {FORM}" if self.is_open else "")

    def check(self, word: Any) -> None:
        """Refuse what is no word of the table and has not the form of an outside name.

        Args:
            word: what was given, a text or anything else.

        Raises:
            ValueError: it names the words.
        """
        known = isinstance(word, str) and (
            word in self._entries or (self.is_open and is_object_name(word))
        )
        if not known:
            raise ValueError(f"unknown {self.kind} {shown(word)}, expected {self.expected()}")

    def find(self, word: str) -> E:
        """The entry of a word or of an outside name, which is not imported yet.

        Args:
            word: a word of the table or, where it is open, ``package.module:Name``.

        Returns:
            the entry.

        Raises:
            ValueError: for anything else; it names the words.
        """
        self.check(word)
        if word in self._entries or self._outside is None:
            return self._entries[word]
        return self._outside(word)


def how_to_install(extra: str) -> str:
    """What brings packages that are needed for a part only, for messages.

    Args:
        extra: one of ours.

    Returns:
        a few words.

    >>> how_to_install("eval")
    "pip install '.[eval]' in the clone of vfn"
    """
    return f"pip install '.[{extra}]' in the clone of vfn"


def is_object_name(text: str) -> bool:
    """Whether a text has the form ``package.module:Name``.

    Args:
        text: any text.

    Returns:
        whether it has; nothing is imported.

    >>> is_object_name("mine.nets:Small"), is_object_name("mine.nets")
    (True, False)
    """
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def object_name(value: object) -> str:
    """The ``package.module:Name`` of a class or function, or of an object's class.

    Args:
        value: any object.

    Returns:
        the name.

    >>> object_name(Entry)
    'vfn.tables:Entry'
    """
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def load_object(name: str) -> Any:
    """What ``package.module:Name`` stands for, found as an import would, here too.

    "Here" is the current directory, which Python searches for scripts alone.

    Args:
        name: a module and a name in it.

    Returns:
        the object.

    Raises:
        ValueError: if the text has another form, the module cannot be imported, or lacks the name.

    >>> load_object("math:tau")
    6.283185307179586
    """
    if not is_object_name(name):
        raise ValueError(f"expected {FORM}, got {shown(name)}")
    module, _, path = name.partition(":")
    try:
        found = _import(module)
    except (Exception, SystemExit) as error:  # a module of the user's can fail in any way
        raise ValueError(
            f"{name} cannot be imported ({reason_of(error)}); expected {FORM} of a module that "
            "Python finds from here"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{name}: there is no {part} in {module}")
        found = getattr(found, part)
    return found


@contextmanager
def outside(fails: str) -> Iterator[None]:
    """Let what others have written fail in one line, in whatever way it does.

    Args:
        fails: what the line begins with, as "solver package.module:Name fails".

    Raises:
        ValueError: in place of any other exception than these two.
        OSError: as it came.

    >>> with outside("solver mine:Name fails"):
    ...     None + 1
    Traceback (most recent call last):
    ValueError: solver mine:Name fails: TypeError: unsupported operand type(s) for +: 'NoneType'...
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{fails}: {reason_of(error)}") from error


def _import(module: str) -> Any:
    """Import a module; Python does not search the current directory for an installed command."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        return importlib.import_module(module)
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(here)
