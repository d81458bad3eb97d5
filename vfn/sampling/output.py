"""Where sampled pictures go: written batch by batch, so that a killed job goes on with the rest."""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from vfn.files import make_directory, open_atomic, remove_leftovers, write_atomic, write_json
from vfn.pictures import save_images

RECORD = "settings.json"
PARTS = ".parts"


class Output(Protocol):
    """A folder that pictures are written to, in any order, by any number of processes."""

    def present(self) -> set[int]:
        """Which pictures are there, whole."""

    def write(self, indices: Tensor, images: Tensor) -> None:
        """Add uint8 pictures [B, C, H, W]; ``indices`` [B] are consecutive."""

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures, uint8 [B, C, H, W]; only once all of them are there and finished."""

    def finish(self, labels: Tensor, names: Sequence[str], tags: bool) -> None:
        """All pictures are there: write what belongs to all, ``names`` is empty without labels."""

    def clear(self) -> None:
        """Remove the pictures."""


class Singles(NamedTuple):
    """A PNG for each picture, and labels.csv, in ``images/``."""

    folder: Path

    @property
    def place(self) -> Path:
        return self.folder / "images"

    def present(self) -> set[int]:
        # A file of no bytes is what a power cut may leave.
        found = (path for path in self.place.glob("*.png") if path.stat().st_size)
        return {int(path.stem) for path in found if path.stem.isdecimal()}

    def write(self, indices: Tensor, images: Tensor) -> None:
        save_images(self.place, images, [f"{i:06d}" for i in indices.tolist()])

    def read(self, indices: Tensor) -> Tensor:
        arrays = []
        for i in indices.tolist():
            with Image.open(self.place / f"{i:06d}.png") as picture:
                arrays.append(np.array(picture).reshape(picture.height, picture.width, -1))
        return torch.from_numpy(np.stack(arrays)).movedim(-1, 1)

    def finish(self, labels: Tensor, names: Sequence[str], tags: bool) -> None:
        del labels
        if names:
            text = io.StringIO()
            rows = [(f"{i:06d}.png", name) for i, name in enumerate(names)]
            head = ("file", "tags" if tags else "label")
            csv.writer(text, lineterminator="\n").writerows([head, *rows])
            write_atomic(self.place / "labels.csv", text.getvalue())

    def clear(self) -> None:
        for path in (*self.place.glob("*.png"), self.place / "labels.csv"):
            path.unlink(missing_ok=True)


class Packed(NamedTuple):
    """One file of all pictures, made in the end of the parts in a hidden folder."""

    folder: Path
    kind: str
    num: int

    @property
    def place(self) -> Path:
        return self.folder / PARTS

    @property
    def file(self) -> Path:
        return self.folder / f"samples.{self.kind}"

    def _parts(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem), path) for path in self.place.glob("*.npy"))

    def present(self) -> set[int]:
        if self.file.exists():
            return set(range(self.num))
        sizes = ((start, len(np.load(path, mmap_mode="r"))) for start, path in self._parts())
        return {i for start, size in sizes for i in range(start, start + size)}

    def write(self, indices: Tensor, images: Tensor) -> None:
        with open_atomic(self.place / f"{int(indices[0]):09d}.npy") as file:
            np.save(file, images.movedim(1, -1).numpy())

    def read(self, indices: Tensor) -> Tensor:
        if self.kind == "npz":
            with np.load(self.file) as found:
                return torch.from_numpy(found["arr_0"][indices.numpy()]).movedim(-1, 1)
        with safe_open(self.file, framework="pt") as found:
            return found.get_tensor("images")[indices]

    def finish(self, labels: Tensor, names: Sequence[str], tags: bool) -> None:
        del tags
        if not self.file.exists():
            merged = self.place / "merged"
            images = self._merge(merged)
            with open_atomic(self.file) as file:
                if self.kind == "npz":
                    arrays: dict[str, Any] = {"arr_1": labels.numpy()} if names else {}
                    np.savez(file, arr_0=images, **arrays)
                else:
                    tensors = {"images": np.ascontiguousarray(np.moveaxis(images, -1, 1))}
                    file.write(save(tensors | ({"labels": labels.numpy()} if names else {})))
        shutil.rmtree(self.place, ignore_errors=True)

    def _merge(self, path: Path) -> np.ndarray:
        """All parts in one array, which stays on the disk so that it may exceed the memory."""
        shape = (self.num, *np.load(self._parts()[0][1], mmap_mode="r").shape[1:])
        images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        for start, part in self._parts():
            array = np.load(part, mmap_mode="r")
            images[start : start + len(array)] = array
        return images

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)
        shutil.rmtree(self.place, ignore_errors=True)


def open_output(kind: str, folder: Path, num: int) -> Output:
    """The output of a format: png, npz or safetensors."""
    return Singles(folder) if kind == "png" else Packed(folder, kind, num)


def check_record(output: Output, folder: Path, record: dict[str, Any]) -> None:
    """Refuse to add to pictures that were drawn otherwise.

    Args:
        output: where pictures go.
        folder: the same as a path.
        record: all that the pictures depend on, as JSON can hold it.

    Raises:
        ValueError: if there are pictures of other settings; the first that differs is named.
    """
    path = folder / RECORD
    advice = "use another --out, or --fresh to draw them anew"
    if not path.exists():
        if output.present():
            raise ValueError(f"{folder} holds pictures of unknown settings; {advice}")
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} cannot be read; {advice}") from None
    for name in sorted(record.keys() | found.keys()):
        if found.get(name) != record.get(name):
            raise ValueError(
                f"{folder} holds pictures of other settings: {name} {_short(found.get(name))}, "
                f"now {_short(record.get(name))}; {advice}"
            )


def prepare(folder: Path, record: dict[str, Any]) -> None:
    """Make the folder, note the settings, and clear away what a killed process left."""
    make_directory(folder)
    remove_leftovers(folder)
    for place in (folder / "images", folder / PARTS):
        remove_leftovers(place)
    if not (folder / RECORD).exists():
        write_json(folder / RECORD, record)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
