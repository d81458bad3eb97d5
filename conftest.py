"""A name that every docstring example may use, and places for what examples and tests write."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _example_names(request, doctest_namespace):
    """Pages say what they import: they are copied from."""
    if request.node.path.suffix == ".py":
        doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True)
def _examples_write_elsewhere(request):
    """Examples write runs and pictures into the current directory."""
    if isinstance(request.node, pytest.DoctestItem):
        place = request.getfixturevalue("tmp_path")
        (place / "tests").symlink_to(Path(__file__).parent / "tests")  # some read golden numbers
        request.getfixturevalue("monkeypatch").chdir(place)


@pytest.fixture(autouse=True, scope="session")
def _data_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFN_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # processes import test helpers too
        yield
