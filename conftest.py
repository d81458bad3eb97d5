"""Names that every docstring example may use, and places for what examples and tests write."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _example_names(doctest_namespace):
    doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True)
def _examples_write_elsewhere(request):
    """Examples write runs and pictures into the current directory."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture(autouse=True, scope="session")
def _data_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFN_DATA", str(tmp_path_factory.mktemp("data")))
        yield
