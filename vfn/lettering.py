"""Text that is drawn into pictures and charts, each letter in a font that has it."""

import math
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ImageDraw, ImageFont

from vfn.progress import say

FAMILY = "DejaVu Sans"  # Latin, Greek, Cyrillic and more, in a file that comes with matplotlib
_FILE = "fonts/ttf/DejaVuSans.ttf"


class Face(NamedTuple):
    """A font file, and the name of its family."""

    file: str
    family: str


_others: dict[str, Face | None] = {}  # where letters were found that FAMILY lacks, if anywhere


class Lettering:
    """How text of one size is measured and drawn.

    Args:
        size: pixels of an em.
        texts: all that is to be drawn; letters that no font has are told in one line, once.

    >>> lettering = Lettering(16, ["wider", "w"])
    >>> lettering.width("wider") > lettering.width("w")
    True
    """

    def __init__(self, size: int, texts: Iterable[str]) -> None:
        self._size = size
        self._faces = _faces(one_line("".join(texts)))
        self._ascent, self._descent = _font(_own_file(), size).getmetrics()

    @property
    def line(self) -> int:
        """Height of a line, in pixels."""
        return self._ascent + self._descent

    def width(self, text: str) -> int:
        """How wide a text is drawn, in pixels.

        Args:
            text: one of the texts.

        Returns:
            a whole number.
        """
        return math.ceil(sum(font.getlength(piece) for font, piece in self._pieces(text)))

    def draw(
        self, canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str,
        ink: str,
    ) -> None:  # fmt: skip
        """Draw a line of text.

        Args:
            canvas: to draw on.
            place: x and y of the anchor.
            text: one of the texts; it is drawn in one line.
            anchor: l, m or r for left, middle or right, then a or m for top or middle.
            ink: colour.
        """
        x, y = place
        x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * self.width(text)
        y += {"a": self._ascent, "m": (self._ascent - self._descent) / 2}[anchor[1]]
        for font, piece in self._pieces(text):
            canvas.text((round(x), round(y)), piece, fill=ink, font=font, anchor="ls")
            x += font.getlength(piece)

    def _pieces(self, text: str) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        """Parts of a text, each with a font that has its letters."""
        for face, letters in groupby(one_line(text), self._faces.get):
            yield _font(face.file if face else _own_file(), self._size), "".join(letters)


def one_line(text: str) -> str:
    r"""A text as it is drawn.

    Args:
        text: any text, such as the name of a folder.

    Returns:
        the text with accents on their letters (Unicode's form C) and a space for a line break.

    >>> one_line("a\nb"), len(one_line("a\u0308"))
    ('a b', 1)
    """
    composed = unicodedata.normalize("NFC", text)
    return "".join(" " if letter.isspace() else letter for letter in composed)


def families(texts: Iterable[str]) -> list[str]:
    """Families of fonts that have all letters together, as matplotlib takes them.

    Args:
        texts: all that is to be drawn; letters that no font has are told in one line, once.

    Returns:
        names, the first one first.

    >>> families(["schön"])
    ['DejaVu Sans']
    """
    faces = _faces("".join(texts)).values()
    return list(dict.fromkeys([FAMILY, *(face.family for face in faces if face)]))


def _faces(text: str) -> dict[str, Face | None]:
    """Where the letters are that `FAMILY` lacks; those that no font has are told."""
    lacking = [letter for letter in dict.fromkeys(text) if not _own_has(letter)]
    unknown = [letter for letter in lacking if letter not in _others]
    if unknown:
        _others.update(_look_for(unknown))
        none = "".join(letter for letter in unknown if _others[letter] is None)
        if none:
            say(
                f"no font has the letters {none!r}, in place of which a box is drawn; "
                "install one that has them, such as one of Noto"
            )
    return {letter: _others[letter] for letter in lacking}


def _look_for(letters: list[str]) -> dict[str, Face | None]:
    """Fonts of the system by letter, as few of them as may be; None where none has it."""
    has = {face: _held(face.file, letters) for face in _upright()}
    found: dict[str, Face | None] = dict.fromkeys(letters)
    while has:
        best = max(has, key=lambda face: len(has[face]))
        found |= dict.fromkeys(has.pop(best), best)
        rest = {letter for letter in letters if found[letter] is None}
        has = {face: held & rest for face, held in has.items() if held & rest}
    return found


def _upright() -> list[Face]:
    """Upright fonts of the usual weight, as matplotlib lists them."""
    from matplotlib.font_manager import fontManager

    usual: dict[str, set[Any]] = {
        "style": {"normal"},
        "weight": {400, "normal", "regular"},
        "stretch": {"normal"},
    }
    return [
        Face(entry.fname, entry.name)
        for entry in fontManager.ttflist
        if all(getattr(entry, name) in values for name, values in usual.items())
        and "lastresort" not in entry.fname.lower()  # which has a box for every letter
    ]


def _held(file: str, letters: Iterable[str]) -> set[str]:
    """Which of some letters a font file has."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):  # it was removed since it was listed, or is damaged
        return set()
    return {letter for letter in letters if font.get_char_index(ord(letter))}


@cache
def _own_has(letter: str) -> bool:
    return bool(_held(_own_file(), letter))


@cache
def _own_file() -> str:
    from matplotlib import get_data_path

    return str(Path(get_data_path(), _FILE))


@cache
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
