"""A folder of pictures, and a data directory of its own."""

import pytest

from tests.helpers.formats import noise, save_pictures
from vfn.configs import DataConfig

COUNT = 60


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of pictures, and a data directory of its own."""
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "home"))
    folder = tmp_path / "pictures"
    save_pictures(folder, {f"{i:03}.png": noise(4, 4, 3, seed=i) for i in range(COUNT)})
    return folder


def data(folder, **values):
    return DataConfig(dataset=str(folder), **values)
