"""Where sampled pictures go: written batch by batch, so that a killed job goes on with the rest."""

import csv
import errno
import io
import json
import math
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image, ImageSequence
from PIL.TiffImagePlugin import TiffImageFile
from safetensors import safe_open
from torch import Tensor

from vfn.data.arrays import npz_labels
from vfn.data.values import KINDS
from vfn.files import (
    open_atomic,
    remove_leftovers,
    short,
    write_atomic,
)
from vfn.pictures import save_images
from vfn.sampling.output_table import OUTPUTS

PARTS = ".parts"
_SAFE = {"uint8": "U8", "uint16": "U16", "float16": "F16", "float32": "F32"}
_METHODS = ("present", "write", "read", "finish", "clear")
_DESCRIPTION = 270  # the number of TIFF's tag ImageDescription
_DISK_BLOCK = 4096  # bytes that the smallest file takes


class Output(Protocol):
    """A folder that pictures are written to, in any order, by any number of processes.

    An entry of `OUTPUTS` makes one:

    >>> import tempfile
    >>> from vfn.sampling import OUTPUTS
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder: Output = OUTPUTS["png"].load()(Path(place), 2)
    ...     folder.write(torch.tensor([0, 1]), torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    ...     folder.present()
    {0, 1}
    """

    def present(self) -> set[int]:
        """Which pictures are there, whole."""

    def write(self, indices: Tensor, images: Tensor) -> None:
        """Add pictures [B, C, H, W] as they are stored; ``indices`` [B] are consecutive."""

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures [B, C, H, W]; only once all of them are there and finished."""

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
    labelled: bool = True  # whether labels.csv is ours
    suffix: ClassVar[str] = ".png"

    def _name(self, number: int) -> str:
        return f"{number:06d}{self.suffix}"

    @property
    def place(self) -> Path:
        """The folder of the pictures alone."""
        return self.folder / "images"

    def present(self) -> set[int]:
        """Which pictures are there; a file of no bytes is what a power cut may leave."""
        if not self.place.is_dir():
            return set()
        with os.scandir(self.place) as found:
            sizes = {file.name: file.stat().st_size for file in found if file.name[0] != "."}
        return {i for i in range(self.num) if (size := sizes.get(self._name(i))) and size > 0}

    def write(self, indices: Tensor, images: Tensor) -> None:
        """Add pictures."""
        names = [self._name(i).removesuffix(self.suffix) for i in indices.tolist()]
        save_images(self.place, images, names)

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        arrays = []
        for i in indices.tolist():
            path = self.place / self._name(i)
            with _understanding(path), Image.open(path, formats=("PNG",)) as picture:
                arrays.append(np.array(picture).reshape(picture.height, picture.width, -1))
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(f"{self.place} has been changed: its pictures differ in size")
        return torch.from_numpy(np.stack(arrays)).movedim(-1, 1)

    def finish(
        self, labels: Tensor, names: Sequence[str], tags: bool, class_names: Sequence[str] = ()
    ) -> None:
        """Write labels.csv."""
        del labels, class_names
        if names:
            text = io.StringIO()
            rows = [(self._name(i), name) for i, name in enumerate(names)]
            head = ("file", "tags" if tags else "label")
            csv.writer(text, lineterminator="\n").writerows([head, *rows])
            write_atomic(self.place / "labels.csv", text.getvalue())

    def clear(self) -> None:
        """Remove the pictures; files of other names are left alone."""
        for i in range(self.num):
            (self.place / self._name(i)).unlink(missing_ok=True)
        if self.labelled:
            (self.place / "labels.csv").unlink(missing_ok=True)


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
        size: tuple[int, ...],
        labels: np.ndarray | None,
        class_names: Sequence[str],
    ) -> None:
        """Write pictures of this size [H, W, C], one after the other, and labels to the file."""

    @abstractmethod
    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""

    @property
    def place(self) -> Path:
        """The folder of the parts."""
        return self.folder / PARTS

    def _files(self) -> list[tuple[int, Path]]:
        """Files of parts, by the number of their first picture."""
        paths = [path for path in self.place.glob("*.npy") if path.stem.isdecimal()]
        return sorted((int(path.stem), path) for path in paths)

    def _parts(self) -> list[tuple[int, np.ndarray]]:
        """Parts that are whole, by the number of their first picture; others are drawn again."""
        found = ((start, _whole(path)) for start, path in self._files())
        return [(start, part) for start, part in found if part is not None]

    def present(self) -> set[int]:
        """Which pictures are there."""
        if self.file.exists():
            return set(range(self.num))
        sizes = ((start, len(part)) for start, part in self._parts())
        return {i for start, size in sizes for i in range(start, start + size)}

    def write(self, indices: Tensor, images: Tensor) -> None:
        """Add pictures as a part."""
        buffer = io.BytesIO()
        np.save(buffer, images.movedim(1, -1).numpy())
        with _telling(self.place), open_atomic(self.place / f"{int(indices[0]):09d}.npy") as file:
            file.write(buffer.getbuffer())

    def finish(
        self, labels: Tensor, names: Sequence[str], tags: bool, class_names: Sequence[str] = ()
    ) -> None:
        """Make the file of its parts."""
        del tags
        if not self.file.exists():
            size = self._parts()[0][1].shape[1:]
            with _telling(self.place), open_atomic(self.file) as file:
                self._save(file, size, labels.numpy() if names else None, class_names)
        self._clear_parts()

    def _kind(self) -> np.dtype[Any]:
        """Of the numbers, as the parts have them."""
        return self._parts()[0][1].dtype

    def _pictures(self) -> Iterator[np.ndarray]:
        """All pictures in order, [B, H, W, C], part by part; parts of other batches may overlap."""
        done, size = 0, None
        for start, part in self._parts():
            size = size or part.shape[1:]
            if start > done or part.shape[1:] != size:
                raise ValueError(
                    f"{self.place} has been changed: its parts do not make {self.num} pictures of "
                    "one size; draw them anew with --fresh"
                )
            if done < start + len(part):
                yield np.array(part[done - start :])
                done = start + len(part)

    def _clear_parts(self) -> None:
        for _, path in self._files():
            path.unlink(missing_ok=True)
        if self.place.is_dir():
            remove_leftovers(self.place)
            with suppress(OSError):  # others' files are in it
                self.place.rmdir()

    def clear(self) -> None:
        """Remove the file and its parts."""
        self.file.unlink(missing_ok=True)
        self._clear_parts()


class NpzFile(_Packed):
    """``samples.npz``: ``arr_0`` [N, H, W, C], labels ``arr_1``, ``class_names``."""

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / "samples.npz"

    def _save(
        self,
        file: BinaryIO,
        size: tuple[int, ...],
        labels: np.ndarray | None,
        class_names: Sequence[str],
    ) -> None:
        layout = {"descr": self._kind().str, "fortran_order": False, "shape": (self.num, *size)}
        arrays = {} if labels is None else npz_labels(labels, class_names)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, layout)
                for array in self._pictures():
                    member.write(array.tobytes())
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        # numpy leaves a file open that is no archive.
        with _understanding(self.file), self.file.open("rb") as raw, np.load(raw) as found:
            return torch.from_numpy(found["arr_0"][indices.numpy()]).movedim(-1, 1)


class NpyFile(_Packed):
    """``samples.npy``: [N, H, W, C] alone, which can be mapped to memory."""

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / "samples.npy"

    def _save(
        self,
        file: BinaryIO,
        size: tuple[int, ...],
        labels: np.ndarray | None,
        class_names: Sequence[str],
    ) -> None:
        del labels, class_names
        layout = {"descr": self._kind().str, "fortran_order": False, "shape": (self.num, *size)}
        np.lib.format.write_array_header_1_0(file, layout)
        for array in self._pictures():
            file.write(array.tobytes())

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        with _understanding(self.file):
            found = np.lib.format.open_memmap(self.file, mode="r")
            return torch.from_numpy(np.array(found[indices.numpy()])).movedim(-1, 1)


@dataclass(frozen=True)
class TiffFolder(PngFolder):
    """A TIFF for each picture, a page for each channel unless it is RGB, and labels.csv."""

    suffix: ClassVar[str] = ".tiff"

    def write(self, indices: Tensor, images: Tensor) -> None:
        """Add pictures."""
        for number, image in zip(indices.tolist(), images.numpy(), strict=True):
            pages = [Image.fromarray(page) for page in _pages(image)]
            buffer = io.BytesIO()
            told = {_DESCRIPTION: "float16"} if image.dtype == np.float16 else {}
            pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=told)
            write_atomic(self.place / self._name(number), buffer.getvalue())

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        found = []
        for number in indices.tolist():
            path = self.place / self._name(number)
            with _understanding(path), Image.open(path, formats=("TIFF",)) as picture:
                assert isinstance(picture, TiffImageFile)
                halves = picture.tag_v2.get(_DESCRIPTION) == "float16"
                pages = [np.array(page) for page in ImageSequence.Iterator(picture)]
            stacked = np.stack(pages) if pages[0].ndim == 2 else np.moveaxis(pages[0], -1, 0)
            stacked = stacked.astype(np.float16) if halves else stacked
            found.append(torch.from_numpy(np.ascontiguousarray(stacked)))
        return torch.stack(found)


def _pages(image: np.ndarray) -> list[np.ndarray]:
    """A picture [C, H, W] as what Pillow writes: RGB of 8 bits, or channel by channel."""
    if image.dtype == np.uint8 and len(image) == 3:
        return [np.ascontiguousarray(np.moveaxis(image, 0, -1))]
    # Pillow has no halves; as float32 they keep their values, and the description tells.
    kept = image.astype(np.float32) if image.dtype == np.float16 else image
    return [np.ascontiguousarray(channel) for channel in kept]


class SafetensorsFile(_Packed):
    """``samples.safetensors``: ``images`` [N, C, H, W], and ``labels``."""

    @property
    def file(self) -> Path:
        """The file."""
        return self.folder / "samples.safetensors"

    def _save(
        self,
        file: BinaryIO,
        size: tuple[int, ...],
        labels: np.ndarray | None,
        class_names: Sequence[str],
    ) -> None:
        del class_names
        # The wider type comes first, as safetensors writes it: then all values are aligned.
        height, width, channels = size
        values = b"" if labels is None else labels.astype("<i8").tobytes()
        end = len(values) + self.num * math.prod(size) * self._kind().itemsize
        head: dict[str, Any] = {}
        if labels is not None:
            head["labels"] = _entry("I64", labels.shape, (0, len(values)))
        shape = (self.num, channels, height, width)
        head["images"] = _entry(_SAFE[self._kind().name], shape, (len(values), end))
        text = json.dumps(head, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text + values)
        for array in self._pictures():
            file.write(np.moveaxis(array, -1, 1).tobytes())

    def read(self, indices: Tensor) -> Tensor:
        """Some pictures."""
        with _understanding(self.file), safe_open(self.file, framework="pt") as found:
            pictures: Tensor = found.get_tensor("images")
            return pictures[indices]


def open_output(kind: str, folder: Path, num: int) -> Output:
    """The output of a format.

    Args:
        kind: a word of `OUTPUTS`, or ``package.module:Name`` of another `Output`, which is called
            with the folder and the number of pictures.
        folder: where the pictures go; it need not be there.
        num: pictures in all.

    Returns:
        Output.

    Raises:
        ValueError: if there is no such format, or it lacks a method.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     output = open_output("png", Path(folder), num=2)
    ...     output.write(torch.arange(2), torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    ...     output.present()
    {0, 1}
    """
    output: Output = OUTPUTS.find(kind).load()(folder, num)
    lacking = [name for name in _METHODS if not callable(getattr(output, name, None))]
    if lacking:
        raise ValueError(f"expected format {kind} to be an Output, but it has no {lacking[0]}")
    return output


def room_for(output: Output, missing: int, num: int, size: int) -> float:
    """Bytes that pictures still take on the disk, rather too few than too many.

    Args:
        output: where they go.
        missing: how many are not there yet.
        num: pictures in all.
        size: bytes of one.

    Returns:
        bytes; 0 where it is not known.
    """
    if isinstance(output, _Packed):  # the parts, and the file that is made of them
        return (missing + num) * size if missing or not output.file.exists() else 0
    return missing * max(_DISK_BLOCK, size / 2) if isinstance(output, PngFolder) else 0


def _whole(path: Path) -> np.ndarray | None:
    """The pictures of a part, mapped to memory; None if it is damaged, as a power cut leaves it."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # bytes of any kind can make the reader fail in any way
        return None
    return found if found.dtype.name in KINDS and found.ndim == 4 and found.size else None


@contextmanager
def _understanding(path: Path) -> Iterator[None]:
    """Say in one line that a file of ours cannot be read."""
    try:
        yield
    except Exception as error:  # readers of pictures and archives raise nearly anything
        raise ValueError(
            f"{path} is damaged ({short(str(error))}); draw the pictures anew with --fresh"
        ) from None


@contextmanager
def _telling(parts: Path) -> Iterator[None]:
    """Say of a full disk what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kept = f"; pictures drawn so far are kept in {parts}: make room, and give the same command"
        raise OSError(error.errno, f"{error.strerror or error}{kept}") from None


def _entry(kind: str, shape: Sequence[int], offsets: tuple[int, int]) -> dict[str, Any]:
    """A tensor in the head of a safetensors file."""
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}
