"""The table of foreign formats: its words, what stands behind them, and the fence around them."""

import subprocess
import sys
from dataclasses import fields

import pytest

import vfn.interop
from vfn.configs import Config
from vfn.data.standard import DATASETS
from vfn.interop import FORMATS, importer, offering
from vfn.interop.formats import LACKS

# An importer of somebody else's, and something that is none.
MODULE = """
from pathlib import Path

def adopt(file, source, out):
    out.mkdir()
    (out / "seen").write_text(f"{file.name} {source.name}")
    return out / "seen"

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module in the current directory."""
    (tmp_path / "mine_formats.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_formats", raising=False)
    return tmp_path


@pytest.mark.parametrize("word", FORMATS)
def test_whatever_a_format_offers_is_there(word):
    offered = [what for what in LACKS if word in offering(what)]
    assert offered
    for what in offered:
        assert callable(importer(word, what))
    assert FORMATS[word].text


def test_fields_are_what_can_be_asked_for():
    assert {field.name for field in fields(FORMATS["flax"])} == {
        "text", "datasets", "configured", *LACKS
    }  # fmt: skip


def test_the_command_offers_those_that_have_the_importer():
    assert offering("config") == ["reference"]
    assert offering("checkpoint") == ["reference", "diffusers", "adm", "flax"]
    assert offering("params") == ["reference", "diffusers", "adm", "flax"]
    assert isinstance(importer("reference", "config")({}), Config)


def test_data_sets_of_a_format_are_known():
    assert [
        name for entry in FORMATS.values() for name in entry.datasets if name not in DATASETS
    ] == []
    assert all(entry.with_dataset for entry in FORMATS.values() if entry.datasets)


def test_somebody_elses_checkpoints(mine):
    adopt = importer("mine_formats:adopt", "checkpoint")
    assert adopt(mine / "a.bin", mine / "b.yaml", mine / "run").read_text() == "a.bin b.yaml"


def test_an_importer_of_somebody_elses_that_fails(tmp_path):
    """`UNet` can be called with file, source and out, and cannot do with them what it should."""
    expected = "^format vfn.nn:UNet fails: TypeError: .*PosixPath[^\n]*$"
    with pytest.raises(ValueError, match=expected):
        importer("vfn.nn:UNet", "checkpoint")(tmp_path / "a", tmp_path / "b", tmp_path / "c")


@pytest.mark.parametrize(
    ("word", "what", "message"),
    [
        (
            "jax",
            "config",
            "unknown format 'jax', expected one of reference, diffusers, adm, flax, or ",
        ),
        (
            "flax",
            "config",
            "format flax has no importer of configurations, expected one of reference$",
        ),
        ("flax", "left_out", "format flax leaves nothing out, expected one of reference$"),
        (
            "mine_formats:adopt",
            "config",
            "adopt has no importer of configurations, expected one of r",
        ),
        ("mine_formats:adopt", "with_dataset", "adopt takes no --dataset"),
        ("mine_formats:number", "checkpoint", "number to be a function, got int"),
        ("mine_formats:other", "checkpoint", "there is no other in mine_formats"),
        ("no_such_module:adopt", "checkpoint", "cannot be imported"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_what_a_format_does_not_offer(word, what, message):
    with pytest.raises(ValueError, match=message) as caught:
        importer(word, what)
    assert "\n" not in str(caught.value)


def loaded(code, prefix):
    """Modules of a name that a fresh interpreter has loaded after ``code``."""
    report = f"import sys; print(*[m for m in sys.modules if (m + '.').startswith({prefix!r})])"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", ["import vfn, vfn.nn; vfn.nn.UNet", "import vfn.sampling as s; s.Trained"]
)
def test_nothing_else_loads_the_room(code):
    assert loaded(code, "vfn.interop.") == []


def test_the_table_needs_no_torch():
    code = "from vfn.interop.formats import FORMATS, offering; offering('config')"
    assert loaded(code, "torch.") == []
    assert loaded(f"{code}; import torch", "torch.") != []


@pytest.mark.parametrize("name", vfn.interop.__all__)
def test_public_names_are_there_and_documented(name):
    found = getattr(vfn.interop, name)
    assert name == "FORMATS" or found.__doc__
