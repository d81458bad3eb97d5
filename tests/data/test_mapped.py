"""Pictures that are mapped to memory are a tensor like any, and one line where they are cut."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.conftest import COUNT, data
from tests.helpers.formats import noise
from vfn.data import load_dataset, prepare
from vfn.data.folder import folder_source
from vfn.data.mapped import MappedPictures


def test_pictures_are_memory_mapped(pictures):
    found = prepare(data(pictures))
    assert str(found.path / "images.bin") in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert found.images.shape == (COUNT, 3, 4, 4)
    # A split shares the memory.
    train = found.dataset("train").images
    assert train.untyped_storage().data_ptr() == found.images.untyped_storage().data_ptr()


def test_writing_to_the_tensor_does_not_reach_the_file(pictures):
    prepare(data(pictures)).images.zero_()
    assert prepare(data(pictures)).images.count_nonzero() > 0


def _sum_of(found, settings):
    return int(found.images.long().sum()), int(prepare(settings).images.long().sum())


@pytest.mark.slow
def test_data_go_to_a_process_that_is_spawned(pictures, tmp_path):
    settings = data(pictures, data_dir=str(tmp_path / "home"))
    found = load_dataset(settings, "all")
    source = folder_source(pictures, 0.1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        both = pool.apply(_sum_of, (found, settings))
        names = pool.apply(_first_of, (source,))
        part = pool.apply(_third, (found.images[10:].permute(0, 2, 3, 1),))
    assert both == (int(found.images.long().sum()),) * 2
    assert torch.equal(part, found.images[12].permute(1, 2, 0))
    assert names == np.asarray(source.read(0)).tolist()


def _third(pictures):
    assert type(pictures) is MappedPictures
    return pictures[2].clone()


def _first_of(source):
    return np.asarray(source.read(0)).tolist()


def test_a_disk_without_fast_reads_of_rows_still_gives_them(pictures, monkeypatch):
    found = load_dataset(data(pictures), "all").images
    index = torch.tensor([5, -1, 5, 0])
    rows = found[index]
    assert type(rows) is torch.Tensor
    monkeypatch.delattr("os.pread")
    assert torch.equal(found[index], rows)
    assert torch.equal(torch.stack([found[i] for i in index.tolist()]), rows)


def test_mapped_pictures_are_a_tensor_like_any(pictures):
    found = load_dataset(data(pictures), "train").images
    plain = found.clone()
    assert type(plain) is torch.Tensor
    for use in (
        lambda x: x[torch.arange(len(x)).flip(0)], lambda x: x[[3, 1]], lambda x: x[2:9:3],
        lambda x: x[torch.tensor([0, 3]), 0], lambda x: x[:, 1:][torch.tensor([2, 2])],
        lambda x: x[torch.zeros(0, dtype=torch.long)], lambda x: x[x.flatten(1).sum(1) % 2 == 0],
        lambda x: x.permute(0, 2, 3, 1), lambda x: x.float() / 2, lambda x: torch.cat([x, x[:1]]),
        lambda x: torch.stack(list(x)), lambda x: x[3][torch.tensor([0, 2])], copy.deepcopy,
        lambda x: x[torch.tensor([[0, 1], [2, 3]])], lambda x: torch.from_numpy(x.numpy()),
        lambda x: pickle.loads(pickle.dumps(x)), lambda x: x.sum(),
    ):  # fmt: skip
        assert torch.equal(use(found), use(plain))
    with pytest.raises(IndexError):
        found[torch.tensor([len(found)])]
    found[0] = 7
    assert found[torch.tensor([0])].unique().tolist() == [7]


# Reads batches of prepared pictures until that fails.
READING = """
import sys, torch
from vfn.configs import DataConfig
from vfn.data import load_dataset
found = load_dataset(DataConfig(dataset=sys.argv[1]), "all").images
index = torch.arange(len(found))
found[index].float().sum()
print("reading", flush=True)
try:
    while True:
        found[index[torch.randperm(len(index))]].float().sum()
except ValueError as error:
    print(error, flush=True)
try:
    found[:2].float()
except ValueError as error:
    print("again:", error, flush=True)
"""


@pytest.mark.slow
def test_a_file_cut_short_while_it_is_read_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "home"))
    np.save(tmp_path / "a.npy", noise(500, 32, 32, 3))
    path = prepare(data(tmp_path / "a.npy")).path / "images.bin"
    for kept in (0, 5000):
        command = [sys.executable, "-c", READING, str(tmp_path / "a.npy")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "reading\n"
            whole = path.read_bytes()
            os.truncate(path, kept)
            first, again = process.communicate(timeout=60)[0].splitlines()
        assert process.returncode == 0
        assert (
            first == f"{path} was cut short while it was in use, from {len(whole)} to {kept} "
            "bytes; remove its directory, so that the data are prepared anew"
        )
        assert again == f"again: {first}"
        path.write_bytes(whole)
