"""Pictures in a file that is mapped to memory, and may be cut short by somebody else meanwhile.

To touch a mapped page that the file has no more ends the process with SIGBUS, which no program can
catch in time. So rows are read by ordinary calls, which fail as others do, and before anything else
is done with the pictures the size of the file is looked at.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from vfn.files import printable


class _File(NamedTuple):
    """An open file of pictures, its size, and where in it the tensor begins that has it."""

    path: Path
    descriptor: "_Descriptor"
    size: int

    def check(self) -> None:
        """Refuse to go on with a file that has been cut.

        Raises:
            ValueError: if it has.
        """
        found = os.fstat(self.descriptor.number).st_size
        if found < self.size:
            raise ValueError(
                f"{printable(str(self.path))} was cut short while it was in use, from "
                f"{self.size} to {found} bytes; remove its directory, so that the "
                "data are prepared anew"
            )


class _Descriptor:
    """A file held open as long as anything refers to it."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class MappedPictures(Tensor):
    """Numbers [N, C, H, W] in a file; like any tensor, but never killed by a file that was cut.

    Views of it are of the same kind; whatever is computed of it is an ordinary tensor. What is
    written to it stays in memory.
    """

    _file: _File

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look at the file before anything is done; read rows from it where rows are asked for."""
        del types
        mapped = next(_mapped((*args, *(kwargs or {}).values())))
        if getattr(func, "__name__", "") != "__get__":  # shape, dtype and the like touch no data
            mapped._file.check()
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.__getitem__ and isinstance(args[1], Tensor):
                rows = mapped._rows(args[1])
                if rows is not None:
                    return rows
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and _shares(found, mapped):
                return found if isinstance(found, cls) else cls._of(found, mapped._file)
        return found

    @classmethod
    def _of(cls, tensor: Tensor, file: _File) -> Self:
        made = tensor.as_subclass(cls)
        made._file = file
        return made

    def _rows(self, index: Tensor) -> Tensor | None:
        """Rows by their numbers, read from the file; None where that is another thing than rows."""
        if (
            index.dtype not in (torch.int64, torch.int32)
            or index.ndim != 1
            or self.ndim < 2
            or not self.is_contiguous()
            or self.is_inference()
            or self._version  # somebody wrote to it, in memory
            or not hasattr(os, "pread")
        ):
            return None
        numbers, count = index.tolist(), len(self)
        if not all(-count <= number < count for number in numbers):
            return None  # the usual error
        width = math.prod(self.shape[1:]) * self.itemsize
        rows = torch.empty((len(numbers), *self.shape[1:]), dtype=self.dtype)
        into, begin = rows.view(-1).numpy().view("u1"), self.storage_offset() * self.itemsize
        for i, number in enumerate(numbers):
            content = os.pread(self._file.descriptor.number, width, begin + number % count * width)
            if len(content) < width:
                self._file.check()
                raise ValueError(f"{printable(str(self._file.path))} cannot be read whole")
            into[i * width : (i + 1) * width] = np.frombuffer(content, np.uint8)
        return rows

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is pickled is an ordinary tensor."""
        return self.clone().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        """A copy in memory."""
        del memo
        return self.clone()


def _sent(pictures: MappedPictures) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """For another process, which maps the file itself; torch cannot share a mapped one."""
    with torch._C.DisableTorchFunctionSubclass():
        if pictures.is_inference() or pictures._version:  # written to, in memory
            return torch.from_numpy, (pictures.numpy().copy(),)
        place = tuple(pictures.shape), pictures.stride(), pictures.storage_offset()
        kind = pictures.dtype
    return _received, (pictures._file.path, pictures._file.size, kind, *place)


def _received(
    path: Path,
    size: int,
    kind: torch.dtype,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
) -> Tensor:
    return map_pictures(path, [size // kind.itemsize], kind).as_strided(shape, stride, offset)


ForkingPickler.register(MappedPictures, _sent)


def map_pictures(path: Path, shape: Sequence[int], kind: torch.dtype = torch.uint8) -> Tensor:
    """The pictures of a file.

    Args:
        path: numbers in rows, nothing else.
        shape: [N, C, H, W].
        kind: of the numbers.

    Returns:
        tensor of that shape; what is written to it never reaches the file.

    Raises:
        ValueError: if the file has another size.
        OSError: if it cannot be opened.
    """
    count = math.prod(shape)
    size = count * kind.itemsize
    descriptor = _Descriptor(path)
    found = os.fstat(descriptor.number).st_size
    if found != size:
        raise ValueError(f"{path.name} does not have {size} bytes, but {found}")
    flat = torch.from_file(str(path), shared=False, size=count, dtype=kind)
    return MappedPictures._of(flat.view(list(shape)), _File(path, descriptor, size))


def _mapped(values: Iterable[Any]) -> Iterator[MappedPictures]:
    """The mapped pictures among arguments, and in lists of them."""
    for value in values:
        if isinstance(value, MappedPictures):
            yield value
        elif isinstance(value, list | tuple):
            yield from _mapped(value)


def _shares(found: Tensor, mapped: Tensor) -> bool:
    if found.device.type != "cpu" or found.dtype != mapped.dtype:
        return False
    return found.untyped_storage().data_ptr() == mapped.untyped_storage().data_ptr()
