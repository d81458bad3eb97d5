"""Names that every docstring example may use."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _example_names(doctest_namespace):
    doctest_namespace["torch"] = torch
