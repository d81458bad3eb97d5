"""Tables of named things, and names of what is outside the package."""

import sys

import pytest

from vfn.tables import Entry, Table, load_object, object_name

SHAPES = Table(
    "shape",
    {"tau": Entry(text="a turn", target="math:tau"), "path": Entry(text="", target="os:path.sep")},
    lambda name: Entry(text=name, target=name),
)


def test_an_entry_is_loaded_when_asked():
    assert SHAPES.find("tau").load() == pytest.approx(6.2831853)
    assert SHAPES.find("path").load() == "/"
    assert list(SHAPES) == ["tau", "path"]
    assert "tau" in SHAPES
    assert "math:pi" not in SHAPES


def test_an_outside_name_stands_for_an_entry():
    assert SHAPES.find("math:pi").load() == pytest.approx(3.14159265)


@pytest.mark.parametrize("word", ["pi", "math.pi", "math:", ":pi", "a b:c", "math:pi:x", ""])
def test_what_is_no_word_is_refused(word):
    with pytest.raises(ValueError, match="unknown shape .* expected one of tau, path, or package"):
        SHAPES.find(word)


@pytest.mark.parametrize("word", [None, 3, print, ["tau"], b"tau"])
def test_what_is_no_text_is_refused_likewise(word):
    with pytest.raises(ValueError, match="unknown shape .* expected one of tau, path, or package"):
        SHAPES.find(word)


def test_a_closed_table_takes_no_outside_name():
    closed = Table("colour", {"red": Entry(text="", target="a:b")})
    with pytest.raises(ValueError, match="unknown colour 'math:pi', expected one of red$"):
        closed.find("math:pi")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:Thing", "nowhere.at_all:Thing cannot be imported .ModuleNotFoundError"),
        ("math:nothing", "math:nothing: there is no nothing in math"),
        ("math", "expected package.module:Name, got 'math'"),
    ],
)
def test_a_name_that_cannot_be_found_is_one_line(name, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_object(name)
    assert "\n" not in str(raised.value)


def test_modules_are_found_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "of_the_user.py").write_text("class Net:\n    pass\n")
    (tmp_path / "broken_of_the_user.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = list(sys.path)
    assert object_name(load_object("of_the_user:Net")) == "of_the_user:Net"
    assert object_name(load_object("of_the_user:Net")()) == "of_the_user:Net"
    with pytest.raises(ValueError, match="cannot be imported .ZeroDivisionError"):
        load_object("broken_of_the_user:Net")
    assert sys.path == before
