"""What is free, from files as systems have them, and shortages told in one line."""

import sys

import pytest
import torch

from vfn.cli import main
from vfn.memory import free_memory, in_memory, is_shortage, keep_freed_memory, size_text

MEMINFO = "MemTotal:  8000000 kB\nMemFree:  100 kB\nMemAvailable:   {} kB\nSwapFree:  9 kB\n"
STAT = "anon 7\ninactive_file 300\nactive_file 20\ntotal_inactive_file 4000\ntotal_active_file 5\n"
UNLIMITED = 9223372036854771712  # as the first version of control groups writes it


# Pages that the system has to clear for tensors which follow each other, each of 40 MiB: up to 32
# glibc learns to keep them by itself.
PAGES = """
import resource, sys
import torch
from vfn.distributed import processes

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with processes("cpu"):
    faults()
    with open(sys.argv[1], "w") as file:
        print(faults(), file=file)
"""


def system(root, available=None, groups="", **limits):
    """Files below ``root``; limits are (limit, used) by the folder of a group."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    if available is not None:
        (root / "proc/meminfo").write_text(MEMINFO.format(available // 1024))
    for folder, (limit, used) in limits.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if not folder.startswith("memory"):
            names = ("memory.max", "memory.current")
        for name, value in zip(names, (limit, used), strict=True):
            (place / name).write_text(f"{value}\n")
        (place / "memory.stat").write_text(STAT)
    return free_memory("cpu", root)


def test_what_the_system_calls_available(tmp_path):
    assert system(tmp_path, 2**30) == 2**30


def test_nobody_tells(tmp_path):
    assert free_memory("cpu", tmp_path) is None
    assert system(tmp_path / "x", groups="0::/a\nrubbish\n4:memory:/b\n") is None


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/b": (10**6, 10**5)}, 10**6 - 10**5 + 320),
        ("0::/a/b\n", {"a/b": ("max", 10**5), "a": (10**5, 10**4)}, 10**5 - 10**4 + 320),
        ("0::/a/b\n", {"a/b": (10**6, 1), "a": (10**5, 10**4)}, 10**5 - 10**4 + 320),
        ("0::/hidden\n", {".": (10**5, 10**4)}, 10**5 - 10**4 + 320),  # of a container
        ("0::/\n", {".": (10**5, 3 * 10**5)}, 0),
        ("3:cpu:/c\n4:memory:/m\n", {"memory/m": (10**6, 10**5)}, 10**6 - 10**5 + 4005),
        ("4:memory,cpu:/m\n", {"memory/m": (UNLIMITED, 1), "memory": (10**6, 9)}, 10**6 - 9 + 4005),
        ("4:memory:/m\n", {"memory/m": (UNLIMITED, 1)}, 2**30),
        ("0::/a\n", {"a": ("max", 1)}, 2**30),
    ],
)
def test_control_groups_have_less(tmp_path, groups, limits, expected):
    """Of all groups that a process is in the tightest counts; pages of files are given back."""
    assert system(tmp_path, 2**30, groups, **limits) == expected


def test_processes_of_a_machine_share_its_memory(tmp_path, monkeypatch):
    """Of eight processes on two machines each has a quarter of its machine's."""
    told = {"RANK": 5, "LOCAL_RANK": 1, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4}
    for name, value in {**told, "MASTER_ADDR": "host", "MASTER_PORT": 29500}.items():
        monkeypatch.setenv(name, str(value))
    assert system(tmp_path, 2**30) == 2**28


def test_of_this_machine():
    free = free_memory()
    assert free is None or 10**6 < free < 10**14


def allocation_error():
    """What torch raises on the CPU; the size is one that no machine has."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    return raised.value


class OutOfMemoryError(Exception):
    """By its name, as that of GPUs is recognised where there is none."""


def test_shortages():
    assert is_shortage(allocation_error())
    assert is_shortage(MemoryError("Unable to allocate 3.55 PiB for an array"))
    assert is_shortage(OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))
    assert is_shortage(RuntimeError("CUDA error: out of memory"))
    assert is_shortage(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."))
    assert not is_shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_shortage(ValueError("out of memory"))  # a message that is told already


def test_a_shortage_is_told_with_what_was_wanted():
    wanted = "out of memory while drawing \\({} more were wanted\\); use less"
    cases = (
        (allocation_error(), "4,000,000 GB"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"), "21.5 GB"),
        (OutOfMemoryError("Tried to allocate 512.00 KiB"), "0.5 MB"),
    )
    for error, size in cases:
        with pytest.raises(ValueError, match=wanted.format(size)), in_memory("drawing", "use less"):
            raise error
    bare = "^out of memory while drawing; use less$"
    with pytest.raises(ValueError, match=bare), in_memory("drawing", "use less"):
        raise MemoryError


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("a"), KeyboardInterrupt()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as raised, in_memory("drawing", "use less"):
        raise error
    assert raised.value is error


def test_sizes():
    assert [size_text(s) for s in (0, 1e6, 999e6, 1e9, 99.9e9, 123.4e9)] == [
        "0.0 MB", "1.0 MB", "999 MB", "1.0 GB", "99.9 GB", "123 GB"
    ]  # fmt: skip


@pytest.mark.parametrize("error", [allocation_error, lambda: MemoryError("of numpy")])
def test_any_command_ends_in_one_line(monkeypatch, capsys, error):
    def fail(*_arguments):
        raise error()

    monkeypatch.setattr("vfn.info.summary_of", fail)
    monkeypatch.setattr(sys, "argv", ["vfn", "info", "digits"])
    monkeypatch.delenv("VFN_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main()
    line = capsys.readouterr().err
    assert line.startswith("vfn: out of memory")
    assert line.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
def test_a_job_on_the_cpu_keeps_what_it_frees(forks, tmp_path, monkeypatch):
    script = tmp_path / "pages.py"
    script.write_text(PAGES)
    found = {}
    for name, variables in {"kept": {}, "as the user says": {"MALLOC_TOP_PAD_": "0"}}.items():
        forks.run(tmp_path / "told", script=script, variables=[variables])
        found[name] = int((tmp_path / "told").read_text())
    assert found["kept"] < 100
    assert found["as the user says"] > 10 * 5 * 2**23 // 2**21  # also with huge pages
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert not keep_freed_memory()
