"""Letters of drawn text: each in a font that has it, and a line where none has."""

import numpy as np
import pytest
import torch

from tests.helpers.fonts import add_font, without_other_fonts
from vfn.pictures import grid, sheet

TILE = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    without_other_fonts(monkeypatch)


def label(text):
    """The pixels above the tiles of a grid with this label."""
    return np.asarray(grid(TILE, 1, column_labels=[text]).crop((0, 0, 52, 20)))


@pytest.mark.parametrize("letters", ["äéßñøłő", "БЖЯж", "αΩ", "–—×µ€"])
def test_letters_of_europe_are_drawn(letters, capsys):
    """Each its own way, where letters that a font lacks are one box."""
    shown = [label(letter).tobytes() for letter in letters]
    assert len({*shown}) == len(letters)
    assert capsys.readouterr().err == ""


def test_accents_that_stand_alone_are_put_on_their_letters():
    assert np.array_equal(label("a\u0308"), label("ä"))


def test_a_label_stands_in_one_line():
    assert np.array_equal(label("a\nb"), label("a b"))


def test_letters_that_no_font_has_are_told_once(capsys):
    grid(TILE, 1, None, ["市"], ["城"])
    sheet([("城市", grid(TILE, 1))])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "no font has the letters '城市'" in told[0]


def test_other_letters_come_from_a_font_of_the_system(tmp_path, capsys):
    add_font(tmp_path / "other.ttf", "Of Squares", "日")
    add_font(tmp_path / "more.ttf", "More Squares", "城市")
    assert (label("城") < 60).sum() >= 12**2  # the squares of that font
    wide = np.asarray(grid(TILE, 1, column_labels=["a 城市 b"]))
    assert (wide[:20] < 60).sum() > 2 * 12**2
    assert capsys.readouterr().err == ""
