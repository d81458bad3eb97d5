"""What a launcher says: read, or refused in one line."""

import pytest
from click.testing import CliRunner

from vfn.cli import app, line_of
from vfn.launch import Launch, join_seconds, launch

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "VFN_JOIN_SECONDS",
         "TORCHELASTIC_RESTART_COUNT", "LOCAL_WORLD_SIZE")  # fmt: skip
WHOLE = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "host",
         "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "2",
         "LOCAL_WORLD_SIZE": "2"}  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def set_all(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


def test_one_process_alone(environment):
    assert launch() == Launch()
    environment({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "", "MASTER_PORT": "x"})
    assert launch() == Launch()


def test_a_process_of_several(environment):
    environment(WHOLE)
    assert launch() == Launch(3, 4, 1, 2, "host", 29500, 2)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("WORLD_SIZE", ["0", "-2", "two", "1.5", "1e3", "\u0663", "9" * 5000, "1\n2"]),
        ("RANK", ["4", "5", "-1", "x", "0x1", ""]),
        ("LOCAL_RANK", ["4", "-1", "x"]),
        ("LOCAL_WORLD_SIZE", ["0", "5", "x"]),
        ("MASTER_ADDR", [""]),
        ("MASTER_PORT", ["", "0", "65536", "-1", "http"]),
        ("TORCHELASTIC_RESTART_COUNT", ["-1", "x"]),
    ],
)
def test_what_cannot_be_is_refused_at_once(environment, name, values):
    for value in values:
        environment(WHOLE | {name: value})
        with pytest.raises(ValueError, match=f"expected {name} .*, got .* in the env") as refused:
            launch()
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 300


def test_a_number_without_the_number_of_all(environment):
    environment({"RANK": "1"})
    with pytest.raises(ValueError, match="expected RANK to be .* below WORLD_SIZE, 1, got 1"):
        launch()


def test_patience(environment):
    assert join_seconds() == 600
    environment({"VFN_JOIN_SECONDS": "5"})
    assert join_seconds() == 5
    for value in ("0", "-1", "soon"):
        environment({"VFN_JOIN_SECONDS": value})
        with pytest.raises(ValueError, match="expected VFN_JOIN_SECONDS to be a whole number of"):
            join_seconds()


@pytest.mark.parametrize(
    "words",
    [["info", "digits"], ["train", "--out", "x", "--dry-run"], ["eval", "--compare", "x.json"],
     ["eval", "reference", "--real", "x", "--out", "x.npz"], ["data", "info"], ["report", "x"]],
)  # fmt: skip
def test_commands_refuse_it_before_any_work(environment, words):
    """But help is always there."""
    environment(WHOLE | {"RANK": "5"})
    told = CliRunner().invoke(app, words)
    assert line_of(told.exception).startswith("vfn: expected RANK to be a whole number of at")
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
