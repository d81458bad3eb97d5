"""Where sampled pictures go: written batch by batch, so that a killed job goes on with the rest."""

import csv
import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from vfn.data.arrays import npz_labels
from vfn.files import make_directory, open_atomic, remove_leftovers, write_atomic, write_json
from vfn.pictures import save_images
from vfn.sampling.output_table import OUTPUTS

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

    def finish(
        self, labels: Tensor, names: Sequence[str], tags: bool, class_names: Sequence[str] = ()
    ) -> None:
        """All pictures are there: write what belongs to all.

        ``names`` say what each picture shows, empty without labels; ``class_names`` are those of
        all classes or tags that the network knows.
        """

    def clear(self) -> None:
        """Remove the pictures."""


@dataclass(frozen=True)
class PngFolder:
    """A PNG for each picture, and labels.csv, in ``images/``."""

    folder: Path
    num: int

    @property
    def place(self) -> Path:
        """The folder of the pictures alone."""
        return self.folder / "images"

    def present(self) -> set[int]:
        """Which pictures are there; a file of no bytes is what a power cut may leave."""
        found = (path for path in self.place.glob("*.png") if path.stat().st_size)
        return {int(path.stem) for path in found if path.stem.isdecimal()}

    def write(self, indices: Tensor, images: Tensor) -> None:
        """Add pictures."""
        save_images(self.place, images, [f"{i:06d}" for i in indices.tolist()])

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        arrays = []
        for i in indices.tolist():
            with Image.open(self.place / f"{i:06d}.png") as picture:
                arrays.append(np.array(picture).reshape(picture.height, picture.width, -1))
        return torch.from_numpy(np.stack(arrays)).movedim(-1, 1)

    def finish(
        self, labels: Tensor, names: Sequence[str], tags: bool, class_names: Sequence[str] = ()
    ) -> None:
        """Write labels.csv."""
        del labels, class_names
        if names:
            text = io.StringIO()
            rows = [(f"{i:06d}.png", name) for i, name in enumerate(names)]
            head = ("file", "tags" if tags else "label")
            csv.writer(text, lineterminator="\n").writerows([head, *rows])
            write_atomic(self.place / "labels.csv", text.getvalue())

    def clear(self) -> None:
        """Remove the pictures."""
        for path in (*self.place.glob("*.png"), self.place / "labels.csv"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Packed(ABC):
    """One file of all pictures, made in the end of the parts in a hidden folder."""

    folder: Path
    num: int

    @property
    @abstractmethod
    def file(self) -> Path:
        """The file."""

    @abstractmethod
    def _save(
        self,
        file: BinaryIO,
        images: np.ndarray,
        labels: np.ndarray | None,
        class_names: Sequence[str],
    ) -> None:
        """Write pictures [N, H, W, C] and labels [N] or [N, K] to the file."""

    @abstractmethod
    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""

    @property
    def place(self) -> Path:
        """The folder of the parts."""
        return self.folder / PARTS

    def _parts(self) -> list[tuple[int, Path]]:
        return sorted((int(path.stem), path) for path in self.place.glob("*.npy"))

    def present(self) -> set[int]:
        """Which pictures are there."""
        if self.file.exists():
            return set(range(self.num))
        sizes = ((start, len(np.load(path, mmap_mode="r"))) for start, path in self._parts())
        return {i for start, size in sizes for i in range(start, start + size)}

    def write(self, indices: Tensor, images: Tensor) -> None:
        """Add pictures as a part."""
        with open_atomic(self.place / f"{int(indices[0]):09d}.npy") as file:
            np.save(file, images.movedim(1, -1).numpy())

    def finish(
        self, labels: Tensor, names: Sequence[str], tags: bool, class_names: Sequence[str] = ()
    ) -> None:
        """Make the file of its parts."""
        del tags
        if not self.file.exists():
            images = self._merge(self.place / "merged")
            with open_atomic(self.file) as file:
                self._save(file, images, labels.numpy() if names else None, class_names)
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
        """Remove the file and its parts."""
        self.file.unlink(missing_ok=True)
        shutil.rmtree(self.place, ignore_errors=True)


class NpzFile(_Packed):
    """``samples.npz``: ``arr_0`` uint8 [N, H, W, C], labels ``arr_1``, ``class_names``."""

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / "samples.npz"

    def _save(
        self,
        file: BinaryIO,
        images: np.ndarray,
        labels: np.ndarray | None,
        class_names: Sequence[str],
    ) -> None:
        arrays: dict[str, Any] = {} if labels is None else npz_labels(labels, class_names)
        np.savez(file, arr_0=images, **arrays)

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        with np.load(self.file) as found:
            return torch.from_numpy(found["arr_0"][indices.numpy()]).movedim(-1, 1)


class SafetensorsFile(_Packed):
    """``samples.safetensors``: ``images`` uint8 [N, C, H, W], and ``labels``."""

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / "samples.safetensors"

    def _save(
        self,
        file: BinaryIO,
        images: np.ndarray,
        labels: np.ndarray | None,
        class_names: Sequence[str],
    ) -> None:
        del class_names
        tensors = {"images": np.ascontiguousarray(np.moveaxis(images, -1, 1))}
        file.write(save(tensors | ({} if labels is None else {"labels": labels})))

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        with safe_open(self.file, framework="pt") as found:
            pictures: Tensor = found.get_tensor("images")
            return pictures[indices]


def open_output(kind: str, folder: Path, num: int) -> Output:
    """The output of a format.

    Args:
        kind: png, npz, safetensors, or ``package.module:Name`` of another `Output`, which is called
            with the folder and the number of pictures.
        folder: where the pictures go; it need not be there.
        num: pictures in all.

    Returns:
        Output.

    Raises:
        ValueError: if there is no such format.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     output = open_output("png", Path(folder), num=2)
    ...     output.write(torch.arange(2), torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    ...     output.present()
    {0, 1}
    """
    output: Output = OUTPUTS.find(kind).load()(folder, num)
    return output


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
        found = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise ValueError(f"{path} cannot be read; {advice}") from None
    for name in sorted(record.keys() | found.keys()):
        if found.get(name) != record.get(name):
            raise ValueError(
                f"{folder} holds pictures of other settings: {name} {_short(found.get(name))}, "
                f"now {_short(record.get(name))}; {advice}"
            )


def begin_folder(folder: Path, record: dict[str, Any]) -> None:
    """Make a folder of pictures, note their settings, and clear away what a killed process left.

    Args:
        folder: where the pictures go.
        record: all that the pictures depend on, as JSON can hold it.

    Raises:
        ValueError: if there is a file in the way.
        OSError: if it cannot be made.
    """
    make_directory(folder)
    remove_leftovers(folder)
    for place in (folder / "images", folder / PARTS):
        remove_leftovers(place)
    if not (folder / RECORD).exists():
        write_json(folder / RECORD, record)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
