"""What a person sees: lines where there is no terminal, a bar where there is one, and tables."""

import sys

import pytest

from vfn.progress import Progress, as_typed, say, silence, text_table


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vfn.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then(clock, capsys):
    with Progress(1000, "picture") as progress:
        for seconds, done in ((3, 30), (12, 120), (15, 150), (40, 400)):
            clock[0] = 100 + seconds
            progress.show(done)
    assert capsys.readouterr().err.splitlines() == [
        "120 of 1000 pictures, 10 pictures/s, 01:28 left",
        "400 of 1000 pictures, 10 pictures/s, 01:00 left",
    ]


def test_a_title_and_what_was_done_before(clock, capsys):
    """What was done before counts as done, and not for the rate."""
    with Progress(1000, "step", "training", done=500) as progress:
        clock[0] = 120
        progress.advance(100)
        progress.advance()
    assert capsys.readouterr().err.splitlines() == [
        "training: 600 of 1000 steps, 5 steps/s, 01:20 left"
    ]


def test_lines_after_the_first_can_be_left_to_somebody_else(clock, capsys):
    """The first says how long it will take, which nobody knows before."""
    with Progress(10, "step", lines=False) as progress:
        for seconds, done in ((120, 1), (200, 5), (300, 9)):
            clock[0] = seconds
            progress.show(done)
    assert capsys.readouterr().err == "1 of 10 steps, 0.05 steps/s, 03:00 left\n"


def test_nothing_done_yet(clock, capsys):
    with Progress(10, "picture") as progress:
        clock[0] = 200
        progress.show(0)
    assert capsys.readouterr().err == "0 of 10 pictures, 0 pictures/s, ? left\n"


def test_a_bar_on_a_terminal(clock, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(10, "picture", "drawing") as progress:
        clock[0] = 200
        progress.note({"loss": "0.5"})
        progress.show(10)
        say("a line")
    err = capsys.readouterr().err
    assert "10/10" in err
    assert "drawing" in err
    assert "loss=0.5" in err
    assert err.count("a line\n") == 1
    assert " of " not in err


@pytest.mark.parametrize("terminal", [False, True])
def test_other_processes_say_nothing(clock, monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with Progress(10, "picture") as progress:
        clock[0] = 200
        progress.show(10)
        say("nobody hears this")
    assert capsys.readouterr() == ("", "")


def test_the_first_process_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_silence(clock, capsys):
    with silence():
        with silence():
            say("nobody hears this")
        say("nor this")
        with Progress(10, "picture") as progress:
            clock[0] = 200
            progress.show(10)
    say("this")
    assert capsys.readouterr() == ("", "this\n")


def test_silence_ends_with_an_error(capsys):
    with pytest.raises(ZeroDivisionError), silence():
        _ = 1 / 0
    say("this")
    assert capsys.readouterr().err == "this\n"


def test_tables_of_text():
    rows = [["part", "size", "note"], ["a", "10", ""], ["longer", "9", "x"]]
    assert text_table(rows).splitlines() == [
        "part    size  note",
        "a         10",
        "longer     9     x",
    ]
    assert text_table(rows, left=(0, 2)).splitlines()[2] == "longer     9  x"
    with pytest.raises(ValueError, match="argument"):
        text_table([["a", "b"], ["c"]])


@pytest.mark.parametrize(
    ("started", "on_path", "line"),
    [
        ("env/vfn", "nowhere", "env/vfn report 'a run'"),
        ("env/vfn", "other", "env/vfn report 'a run'"),
        ("env/vfn", "env", "vfn report 'a run'"),
        ("vfn/__main__.py", "env", "py/python -m vfn report 'a run'"),
        ("vfn/__main__.py", "py", "python -m vfn report 'a run'"),
        ("clone/cli.py", "py", "python clone/cli.py report 'a run'"),
        ("a/notebook/kernel.py", "nowhere", "vfn report 'a run'"),
        ("", "nowhere", "vfn report 'a run'"),
    ],
)
def test_a_command_is_shown_as_it_works_here(tmp_path, monkeypatch, started, on_path, line):
    monkeypatch.chdir(tmp_path)
    for name in {started or "x", "env/vfn", "other/vfn", "py/python"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "py/python"))
    monkeypatch.setenv("PATH", str(tmp_path / on_path))
    assert as_typed("report", "a run") == line
