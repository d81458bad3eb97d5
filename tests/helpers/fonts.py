"""A font that is made for a test, as the system might have one."""

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from vfn import lettering


def without_other_fonts(monkeypatch):
    """The system has no fonts but matplotlib's, and nothing was looked for yet."""
    own = [entry for entry in fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr(lettering, "_others", {})


def add_font(path, family, letters):
    """Write a font in which each letter is a full square, and list it."""
    pen = TTGlyphPen(None)
    for step, corner in enumerate([(0, -200), (0, 800), (1000, 800), (1000, -200)]):
        pen.lineTo(corner) if step else pen.moveTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    font.save(path)
    fontManager.addfont(str(path))
