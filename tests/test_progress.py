"""Progress of sampling: lines where there is no terminal, a bar where there is one."""

import pytest

from vfn.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vfn.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then(clock):
    lines = []
    with Progress(1000, lines.append) as progress:
        for seconds, done in ((3, 30), (12, 120), (15, 150), (40, 400)):
            clock[0] = 100 + seconds
            progress.show(done)
    assert lines == [
        "120 of 1000 pictures, 10 images/s, 01:28 left",
        "400 of 1000 pictures, 10 images/s, 01:00 left",
    ]


def test_a_bar_on_a_terminal(clock, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    lines = []
    with Progress(10, lines.append) as progress:
        clock[0] = 200
        progress.show(10)
    assert lines == []
    assert "10/10" in capsys.readouterr().err


def test_other_processes_say_nothing(clock, capsys):
    lines = []
    with Progress(10, lines.append, shown=False) as progress:
        clock[0] = 200
        progress.show(10)
    assert lines == []
    assert capsys.readouterr().err == ""
