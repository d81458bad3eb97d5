"""Sets of pictures as people keep them: folders, npz files, data sets, runs."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vfn.data import load_dataset

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Pictures(NamedTuple):
    """uint8 [N, C, H, W], labels int64 [N] (1..K) or None, and the classes' names if known."""

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]


def read_pictures(spec: str) -> Pictures:
    """Pictures from ``dataset:NAME[:split]``, a folder, or an npz file.

    Args:
        spec: a folder holds pictures of one size and perhaps ``labels.csv`` (columns file, label);
            an npz file holds ``arr_0`` uint8 [N, H, W, C] and perhaps ``arr_1`` labels 1..K.

    Returns:
        Pictures.

    Raises:
        ValueError: if there is nothing there, or it cannot be read.

    >>> read_pictures("dataset:digits:test").images.shape
    torch.Size([360, 1, 8, 8])
    """
    if spec.startswith("dataset:"):
        name, _, split = spec.removeprefix("dataset:").partition(":")
        return Pictures(*load_dataset(name, split or "train"))  # type: ignore[arg-type]
    path = Path(spec)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path)
    raise ValueError(
        f"expected pictures at {spec!r}: an existing folder, an .npz file, "
        "dataset:NAME[:train|test|all], or run:DIR"
    )


def _read_folder(path: Path) -> Pictures:
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    arrays = [_read_picture(file) for file in files]
    odd = next((f for f, a in zip(files, arrays, strict=True) if a.shape != arrays[0].shape), None)
    if odd is not None:
        raise ValueError(f"expected pictures of one size and mode in {path}, {odd.name} differs")
    names: tuple[str, ...] = ()
    labels = None
    if (path / "labels.csv").is_file():
        with (path / "labels.csv").open(newline="") as file:
            by_file = {row["file"]: row["label"] for row in csv.DictReader(file)}
        missing = [f.name for f in files if f.name not in by_file]
        if missing:
            raise ValueError(f"{path / 'labels.csv'} has no label for {missing[0]}")
        names = tuple(sorted(set(by_file.values())))
        labels = torch.tensor([names.index(by_file[f.name]) + 1 for f in files])
    return Pictures(torch.from_numpy(np.stack(arrays)).movedim(-1, 1), labels, names)


def _read_picture(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            mode = "L" if picture.mode in ("L", "1", "I;16") else "RGB"
            array = np.asarray(picture.convert(mode))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a picture ({error})") from None
    return array[..., None] if array.ndim == 2 else array


def _read_npz(path: Path) -> Pictures:
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["arr_0"]
            labels = torch.from_numpy(file["arr_1"].astype(np.int64)) if "arr_1" in file else None
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} is not an npz file of pictures (arr_0 uint8 [N, H, W, C]): {error}"
        ) from None
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            f"expected arr_0 in {path} to be uint8 [N, H, W, C], got {images.dtype} {images.shape}"
        )
    return Pictures(torch.from_numpy(images).movedim(-1, 1), labels, ())
