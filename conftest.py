"""Names that every docstring example may use, and a place for data that tests prepare."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _example_names(doctest_namespace):
    doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True, scope="session")
def _data_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFN_DATA", str(tmp_path_factory.mktemp("data")))
        yield
