"""A run directory is held by one process: others are refused, and dead ones not in the way."""

import errno
import json
import os
import platform
import subprocess
import sys
import time

import pytest

from vfn.runs import RunFiles, lock, locked

HELD = """
import sys
from pathlib import Path
from vfn.runs import RunFiles, locked
with locked(RunFiles(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(**other):
    return {"host": platform.node(), "pid": os.getpid(), "start": "0", **other}


def write_lock(run, content, age=0.0):
    run.path.mkdir(exist_ok=True)
    run.lock.write_text(content if isinstance(content, str) else json.dumps(content))
    now = run.lock.stat().st_mtime
    os.utime(run.lock, (now - age, now - age))


def test_nothing_is_left_of_it(tmp_path):
    run = RunFiles(tmp_path / "a" / "b")
    with locked(run):
        assert json.loads(run.lock.read_text())["pid"] == os.getpid()
    assert not (tmp_path / "a").exists()
    with locked(run):
        run.config.write_text("")
    assert [path.name for path in run.path.iterdir()] == ["config.toml"]


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    run = RunFiles(tmp_path)
    with locked(run):
        assert json.loads(run.lock.read_text())["pid"] == os.getpid()
        with pytest.raises(ValueError, match="in use by process"), locked(run):
            pass
    write_lock(run, holder(pid=2**22 - 1))  # dead
    with locked(run):
        assert json.loads(run.lock.read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_second_is_refused_until_the_first_is_killed(tmp_path):
    """By the kill nothing of the first can clean up."""
    run = RunFiles(tmp_path)
    command = [sys.executable, "-c", HELD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"in use by process {first.pid};"), locked(run):
            pass
        assert run.lock.is_file()
        first.kill()
        first.wait()
    with locked(run):
        assert json.loads(run.lock.read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "age", "message"),
    [
        (holder(), 0, None),  # the number of a dead process, used again
        (holder(pid=2**22 + 1), 0, None),
        (holder(pid=10**30), 0, None),
        (holder(host="elsewhere"), 0, "of elsewhere"),
        (holder(host="elsewhere"), 1000, None),
        (holder(pid=-1), 0, "another process"),
        ("{}", 0, "another process"),
        ("[[" * 10_000, 0, "another process"),
        ("", 1000, None),
        ("null", 1000, None),
    ],
)
def test_which_locks_count(tmp_path, content, age, message):
    run = RunFiles(tmp_path)
    write_lock(run, content, age)
    if message is None:
        with locked(run):
            pass
        return
    with pytest.raises(ValueError, match=message) as caught, locked(run):
        pass
    assert "\n" not in str(caught.value)
    with locked(run, taken_over=True):
        pass


def test_a_lock_is_touched_while_it_is_held(tmp_path, monkeypatch):
    """Or another machine would take it for one of nobody's."""
    monkeypatch.setattr(lock, "TOUCH", 0.01)
    run = RunFiles(tmp_path)
    with locked(run):
        os.utime(run.lock, (0, 0))
        end = time.monotonic() + 10
        while run.lock.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert run.lock.stat().st_mtime > 0


def test_a_lock_that_somebody_has_taken_over_is_theirs(tmp_path):
    run = RunFiles(tmp_path)
    with locked(run):
        write_lock(run, holder(host="elsewhere"))
    assert json.loads(run.lock.read_text())["host"] == "elsewhere"


def test_a_stale_lock_that_somebody_else_replaces_first_is_theirs(tmp_path, monkeypatch):
    """Between the look at it and its removal."""
    run = RunFiles(tmp_path)
    write_lock(run, holder(pid=2**22 + 1))
    stale = lock._is_stale

    def meanwhile(known, age):
        if known["host"] == "elsewhere":
            return stale(known, age)
        write_lock(run, holder(host="elsewhere"))
        return True

    monkeypatch.setattr(lock, "_is_stale", meanwhile)
    with pytest.raises(ValueError, match="in use by process .* of elsewhere"), locked(run):
        pass
    assert json.loads(run.lock.read_text())["host"] == "elsewhere"
