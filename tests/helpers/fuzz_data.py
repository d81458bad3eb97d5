"""Files of data sets and of what stands beside them, damaged and edited."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from tests.helpers import mutations
from tests.helpers.fuzz import Subject, put
from tests.helpers.small import small_config
from vfn.configs import DataConfig
from vfn.data import prepare, read_pictures
from vfn.data.cache import open_cache
from vfn.data.given import Vector
from vfn.model import DataShape
from vfn.progress import silence
from vfn.sampling.condition import open_condition


def cache(folder: Path) -> Subject:
    images = np.arange(12 * 4 * 4, dtype=np.uint8).reshape(12, 4, 4)
    np.savez(folder / "own.npz", arr_0=images, arr_1=np.arange(12) % 2, class_names=["a", "b"])
    settings = DataConfig(dataset=str(folder / "own.npz"), data_dir=str(folder))
    with silence():
        path = prepare(settings).path
    assert path is not None
    contents = {file.name: file.read_bytes() for file in path.iterdir()}
    labels = np.load(path / "labels.npy")

    def change(rng: Random) -> str:
        for name, content in contents.items():
            put(path / name, content)
        name = rng.choice(["info.json", "info.json", "labels.npy", "images.bin"])
        changed = {
            "info.json": lambda: mutations.json_file(contents[name], rng),
            "labels.npy": lambda: mutations.npy(labels, rng),
            "images.bin": lambda: mutations.damaged(contents[name], rng),
        }[name]()
        put(path / name, changed)
        return name

    def read() -> None:
        found = open_cache(path)
        found.summary()
        for split in (*found.splits, "all"):
            if found.splits.get(split, 1):
                part = found.dataset(split)
                part.images.float().mean()
                part.legend.texts(part.labels if part.labels is not None else torch.zeros(1))
        assert len(found.digest) == 64

    read()
    return Subject(change, read)


def pictures(folder: Path) -> Subject:
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4, 1)
    arrays = {"arr_0": images, "arr_1": np.arange(5) % 2, "class_names": np.array(["a", "b"])}
    path = folder / "own.npz"
    other = path.with_suffix(".npy")

    def change(rng: Random) -> str:
        put(path, mutations.npz_file(arrays, rng))
        put(other, mutations.npy(images, rng))
        return path.name

    def read() -> None:
        fault = None
        for each in (path, other):
            try:
                read_pictures(str(each))
            except ValueError as error:
                fault = error
        if fault is not None:
            raise fault

    return Subject(change, read)


def numbers(folder: Path) -> Subject:
    """Floats of two channels with numbers of each picture, as a file and prepared."""
    images = np.linspace(-1, 3, 12 * 4 * 4 * 2, dtype=np.float32).reshape(12, 4, 4, 2)
    vectors = np.linspace(0, 1, 24, dtype=np.float32).reshape(12, 2)
    arrays = {"arr_0": images, "vectors": vectors, "vector_names": np.array(["a", "b"])}
    np.savez(folder / "own.npz", **arrays)
    settings = DataConfig(dataset=str(folder / "own.npz"), data_dir=str(folder))
    with silence():
        path = prepare(settings).path
    assert path is not None
    contents = {file.name: file.read_bytes() for file in path.iterdir()}
    chosen = ["own.npz"]

    def change(rng: Random) -> str:
        for name, content in contents.items():
            put(path / name, content)
        name = chosen[0] = rng.choice(["info.json", "vectors.npy", "images.bin", "own.npz"])
        changed = {
            "info.json": lambda: mutations.json_file(contents[name], rng),
            "vectors.npy": lambda: mutations.npy(vectors, rng),
            "images.bin": lambda: mutations.damaged(contents[name], rng),
            "own.npz": lambda: mutations.npz_file(arrays, rng),
        }[name]()
        put(folder / name if name == "own.npz" else path / name, changed)
        return name

    def read() -> None:
        if chosen[0] == "own.npz":
            read_pictures(str(folder / "own.npz"))
            return
        found = open_cache(path)
        found.summary()
        part = found.dataset("all")
        part.values.shown(part.values.from_unit(part.values.to_unit(part.images[:2])))

    read()
    return Subject(change, read)


def tar(folder: Path) -> Subject:
    rows, buffer = np.arange(16, dtype=np.uint8).reshape(4, 4), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(3):
            picture = io.BytesIO()
            Image.fromarray(rows + i).save(picture, "PNG")
            told = json.dumps({"label": "ab"[i % 2]}).encode()
            for name, content in ((f"{i}.png", picture.getvalue()), (f"{i}.json", told)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    path = folder / "own.tar"

    def change(rng: Random) -> str:
        put(path, mutations.damaged(buffer.getvalue(), rng))
        return path.name

    return Subject(change, lambda: read_pictures(str(path)))


def condition(folder: Path) -> Subject:
    """Numbers in a table, and pictures with a mask, that a network is asked to follow."""
    vector = Vector(("a", "b"), (0.0, 0.0), (1.0, 1.0))
    config = replace(small_config(), data=DataConfig(condition="mask"))
    shapes = {"own.csv": DataShape(1, 4, 4, vector=vector), "own.npz": DataShape(1, 4, 4)}
    of = {"own.csv": small_config(), "own.npz": config}
    images = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4)
    arrays = {"arr_0": images, "mask": (images > 9).astype(np.uint8)}
    chosen = ["own.csv"]

    def change(rng: Random) -> str:
        name = chosen[0] = rng.choice([*shapes])
        changed = {
            "own.csv": lambda: mutations.csv_file(b"1,2\n0.5,-3e2\n4,5\n", rng),
            "own.npz": lambda: mutations.npz_file(arrays, rng),
        }[name]()
        put(folder / name, changed)
        return name

    def read() -> None:
        name = chosen[0]
        open_condition(folder / name, of[name], shapes[name])

    return Subject(change, read)


def labels(folder: Path) -> Subject:
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        Image.new("L", (4, 4)).save(folder / name)
    texts = {"label": ["a", "b", "a", "b"], "tags": ["", "a+b", "a", "b"]}
    tables = [
        "".join(f"{name},{text}\n" for name, text in [("file", kind), *zip(names, of, strict=True)])
        for kind, of in texts.items()
    ]
    path = folder / "labels.csv"

    def change(rng: Random) -> str:
        put(path, mutations.csv_file(rng.choice(tables).encode(), rng))
        return path.name

    return Subject(change, lambda: read_pictures(str(folder)))


def picture(folder: Path) -> Subject:
    files = {}
    rows = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    for suffix in ("png", "jpg", "webp", "bmp"):
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        Image.fromarray(rows).save(buffer, kind)
        files[suffix] = buffer.getvalue()

    def change(rng: Random) -> str:
        for path in folder.iterdir():
            path.unlink()
        suffix = rng.choice([*files])
        put(folder / f"a.{suffix}", mutations.damaged(files[suffix], rng))
        return f"a.{suffix}"

    return Subject(change, lambda: read_pictures(str(folder)))
