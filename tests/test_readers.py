"""Whatever was damaged or edited is read, or refused in one line: some cases of each format.

`python -m tests.helpers.fuzz --cases 10000` tries more of them; so does VFN_FUZZ_CASES.
"""

import os
import warnings

import pytest

from tests.helpers import fuzz
from tests.helpers.fuzz_files import FORMATS
from tests.helpers.fuzz_options import commands

CASES = int(os.environ.get("VFN_FUZZ_CASES", "150"))
NAMES = [*FORMATS, *(f"vfn {' '.join(words)}" for words in commands())]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_and_edited_files_and_odd_options(tmp_path, name):
    subject = fuzz.subjects(tmp_path)[name]()
    with fuzz.bounded(fuzz.MEMORY):
        found = fuzz.run(subject, name, CASES)
    assert found.faults == []
    assert found.accepted + found.refused == CASES
    assert found.accepted  # not everything is refused before it is looked at
    assert found.refused or name in ("lock", "vfn report")


def outcome(error):
    """What the fuzzer says of a reader that raises something."""

    def read():
        if error is not None:
            raise error

    subject = fuzz.Subject(lambda rng: "", read)
    return fuzz.run(subject, "any", 2)


def test_what_counts_as_a_fault(monkeypatch):
    assert outcome(None).accepted == 2
    assert outcome(ValueError("expected a number")).refused == 2
    assert outcome(FileNotFoundError(2, "No such file")).refused == 2
    for error in (KeyError("a"), ValueError(""), ValueError("\x1b[31m"), ValueError("a" * 3000),
                  MemoryError(), RecursionError(), AssertionError("no")):  # fmt: skip
        assert [number for number, _ in outcome(error).faults] == [0, 1], error
    monkeypatch.setattr(fuzz, "SECONDS", -1.0)
    assert "took" in outcome(None).faults[0][1]


def test_warnings_and_large_memory_are_faults():
    def warn():
        warnings.warn("something", stacklevel=1)

    found = fuzz.run(fuzz.Subject(lambda rng: "", warn), "any", 1)
    assert "UserWarning" in found.faults[0][1]
    with fuzz.bounded(1 << 28):
        # More than any memory that tests before it have freed and the process has kept.
        found = fuzz.run(fuzz.Subject(lambda rng: "", lambda: bytearray(1 << 33)), "any", 1)
    assert "MemoryError" in found.faults[0][1]


def test_cases_are_the_same_again():
    seen = []

    def change(rng):
        seen.append(rng.random())
        return ""

    for first, cases in ((0, 3), (2, 1), (0, 1)):
        fuzz.run(fuzz.Subject(change, lambda: None), "any", cases, 7, first)
    assert seen[2] == seen[3]
    assert seen[0] == seen[4] != seen[1]
