"""From pictures as they lie about to rows of one array; what cannot be used is named."""

import io
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps

from vfn.configs import DataConfig
from vfn.data.labels import MOST_NAMES
from vfn.files import few, printable, shortened
from vfn.numbers import number_of
from vfn.progress import say

if TYPE_CHECKING:
    from vfn.data.values import Values

# Modes with 8 bits a channel; others (16 bits, floating point) would lose what they hold.
_GREY = {"1", "L", "LA"}
_COLOUR = {"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"}
_ANIMATED = ("PNG", "WEBP")  # of a JPEG, cameras hide others behind the picture, such as its depth
# Layouts of more than 8 bits a channel in a file; the mode hides them, as Pillow cuts to 8.
_DEEP = re.compile(r";(1[0-6]|32)[A-Z]")
_BLOCK = 32  # pictures on their way for each thread
_NAMED = 3  # bad pictures that a message names
_LONGEST = 300  # letters of a bad picture and of what is wrong with it
# What a viewer heeds and a row of a picture does not, and what to do about it.
_TRANSPARENT = "transparent in places, where what is stored beneath is seen; lay it on a ground"
_MOVING = "of several frames, of which the first is taken; save them as pictures of their own"
_PROFILED = "in other colours than sRGB, whose profile is passed over; convert it to sRGB"


class Source(NamedTuple):
    """Pictures that are not read yet.

    origin: a name for messages. names: one for each of N pictures. read: a picture by its number;
    raises if it is damaged or missing. labels: int64 [N], 1..K, or uint8 [N, K], or None.
    class_names: K names, or none if labels have only numbers. splits: numbers of the pictures of
    each split, disjoint, in the order in which they are kept. vectors: float32 [N, D], or None.
    vector_names: D names, or none. numbers: of what numpy calls this ``read`` gives arrays [C, H,
    W]; without it, pictures of 8 bits. values: what these numbers mean, unless settings say so.

    >>> def shade(i):
    ...     return Image.new("L", (8, 8), 20 * i)
    >>> names = [f"shade {i}" for i in range(10)]
    >>> shades = Source("shades", names, shade, None, (), {"train": range(8), "test": (8, 9)})
    >>> shades.read(2).getpixel((0, 0))
    40
    """

    origin: str
    names: Sequence[str]
    read: Callable[[int], Image.Image | np.ndarray]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[int]]
    vectors: np.ndarray | None = None
    vector_names: tuple[str, ...] = ()
    numbers: str = ""
    values: "Values | None" = None


class Bad(NamedTuple):
    """A picture that cannot be used, and why."""

    name: str
    reason: str


class Rows(NamedTuple):
    """What `read_rows` has found: shape of a row, labels and splits of what was kept, the rest."""

    shape: tuple[int, ...]
    labels: np.ndarray | None
    splits: dict[str, int]
    bad: list[Bad]
    vectors: np.ndarray | None = None


def cover(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture scaled (bilinear, antialiased) until it covers a height and width, its centre."""
    return ImageOps.fit(picture, size[::-1], Image.Resampling.BILINEAR)


Fit = Callable[[Image.Image, tuple[int, int]], Image.Image]


def read_rows(
    source: Source,
    settings: DataConfig,
    take: Callable[[np.ndarray], object],
    advance: Callable[[], object] = lambda: None,
    fit: Fit = cover,
) -> Rows:
    """Read all pictures of a source, in the order of its splits.

    Args:
        source: the pictures.
        settings: size, crop, channels, and what to do about bad pictures.
        take: gets [C, H, W] of each good picture; all have one shape.
        advance: called for each picture, good or bad.
        fit: brings a picture to ``image_size``.

    Returns:
        Rows.

    Raises:
        ValueError: if there are bad pictures and they are not to be skipped, or more than half are
            bad.
    """
    first: tuple[str, tuple[int, ...]] | None = None  # the picture that all others are to be like
    unheeded: Counter[str] = Counter()  # what rows do not have of their pictures
    bad: list[Bad] = []
    kept: list[int] = []
    counts: dict[str, int] = {}
    unlike = False
    for split, numbers in source.splits.items():
        before = len(kept)
        for number, row in _rows(source, numbers, settings, fit, unheeded):
            advance()
            name = source.names[number]
            if isinstance(row, np.ndarray):
                first = first or (name, row.shape)
                if row.shape != first[1]:
                    unlike = True
                    row = f"{_kind(row.shape)}, not {_kind(first[1])} like {shortened(first[0])}"
            if isinstance(row, str):
                bad.append(Bad(name, row))
            else:
                take(row)
                kept.append(number)
        counts[split] = len(kept) - before
    if bad and (settings.on_bad == "refuse" or len(bad) > len(kept)):
        # Numbers are neither resized nor recoloured.
        raise ValueError(_refusal(source, bad, len(kept), unlike and not source.numbers))
    assert first is not None  # no source is empty
    for what, count in sorted(unheeded.items()):
        say(f"{count} of {len(kept)} pictures in {printable(source.origin)}: {what}")
    labels = None if source.labels is None else source.labels[kept]
    if bad and source.labels is not None and labels is not None:
        trained = next(filter(None, counts.values()), 0)
        _say_untrained(source, _shown(source.labels) - _shown(labels[:trained]))
    vectors = None if source.vectors is None else source.vectors[kept]
    return Rows(first[1], labels, counts, bad, vectors)


def to_row(picture: Image.Image, settings: DataConfig, fit: Fit = cover) -> np.ndarray:
    """A picture as settings want it: turned, grey or RGB, cropped, resized and cut to size.

    Args:
        picture: 8 bits a channel; transparency is dropped.
        settings: ``channels``, ``crop`` and ``image_size``. The picture is scaled (bilinear, with
            antialiasing) until it covers the size, and what sticks out is cut off on both sides.
        fit: does so.

    Returns:
        uint8 [C, H, W].

    Raises:
        ValueError: for more than 8 bits a channel, or a picture smaller than the crop.

    >>> to_row(Image.new("RGB", (30, 20)), DataConfig(image_size=(8,), channels=1)).shape
    (1, 8, 8)
    """
    mode = _mode(picture, settings.channels)
    picture = ImageOps.exif_transpose(picture)
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    picture = picture.convert(mode)
    if settings.crop:
        top, left, height, width = settings.crop
        if left + width > picture.width or top + height > picture.height:
            raise ValueError(f"{picture.height} x {picture.width} does not hold the crop")
        picture = picture.crop((left, top, left + width, top + height))
    if settings.image_size:
        picture = fit(picture, (settings.image_size[0], settings.image_size[-1]))
    row = np.asarray(picture)
    return row[None] if row.ndim == 2 else row.transpose(2, 0, 1)


def array_row(array: np.ndarray, settings: DataConfig) -> np.ndarray | str:
    """Numbers of a picture as settings want them.

    Args:
        array: [C, H, W].
        settings: ``crop`` and ``value_range``; numbers are not resized.

    Returns:
        [C, H, W] of the same type; or what is wrong with them.

    Raises:
        ValueError: for another size or channels than there are.
    """
    if settings.crop:
        top, left, height, width = settings.crop
        if left + width > array.shape[2] or top + height > array.shape[1]:
            raise ValueError(f"{array.shape[1]} x {array.shape[2]} does not hold the crop")
        array = array[:, top : top + height, left : left + width]
    size = settings.image_size
    if size is not None and array.shape[1:] != (size[0], size[-1]):
        raise ValueError(f"{array.shape[1]} x {array.shape[2]} numbers, which are not resized")
    if settings.channels not in (None, array.shape[0]):
        raise ValueError(f"{array.shape[0]} channels, which are not made {settings.channels}")
    return faults_of(array, settings.value_range) or np.ascontiguousarray(array)


def faults_of(row: np.ndarray, value_range: Sequence[float] | None) -> str:
    """What is wrong with the numbers of a picture [C, H, W]; nothing if all can be used.

    Args:
        row: stored numbers.
        value_range: lowest and highest that are allowed; None for any.

    Returns:
        a few words that name the first.

    >>> faults_of(np.array([[[0.0, np.nan]]], dtype=np.float32), None)
    'nan at channel 0, row 0, column 1'
    """
    wrong = ~np.isfinite(row)
    if value_range is not None:
        wrong |= (row < value_range[0]) | (row > value_range[1])
    if not wrong.any():
        return ""
    where = np.argwhere(wrong)[0].tolist()
    number = float(row[tuple(where)])
    place = "at channel {}, row {}, column {}".format(*where)
    if not math.isfinite(number):
        return f"{number} {place}"
    assert value_range is not None
    return f"{number:g} {place} is not within {value_range[0]:g}..{value_range[1]:g}"


def to_picture(array: np.ndarray) -> Image.Image:
    """[H, W, C] or [H, W] as a picture."""
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def nth_array(images: np.ndarray, number: int) -> np.ndarray:
    """One of [N, H, W, C] as numbers [C, H, W]."""
    return np.moveaxis(images[number], -1, 0)


def nth_picture(images: np.ndarray, number: int) -> Image.Image:
    """One of [N, H, W, C] as a picture."""
    return to_picture(images[number])


def checked_labels(
    labels: np.ndarray, count: int, class_names: Sequence[str], what: str, first: int = 1
) -> np.ndarray:
    """Labels that somebody else made, as `Source` wants them.

    Args:
        labels: integers or booleans of any width.
        count: pictures.
        class_names: K of them, or none.
        what: what they are called in the message.
        first: the number of the first class, 1, or 0, beside which -1 stands for no label.

    Returns:
        int64 [N], 1..K, 0 for none, or uint8 [N, K].

    Raises:
        ValueError: for another shape, or values that are no labels, or too many.

    >>> checked_labels(np.array([2, 1], dtype=np.uint8), 2, ("cat", "dog"), "labels")
    array([2, 1])
    """
    whole = labels.dtype.kind in "biu" and labels.ndim in (1, 2) and len(labels) == count
    numbers = labels.dtype.kind in "biu" and labels.size
    low, high = (int(labels.min()), int(labels.max())) if numbers else (0, 0)
    names = len(class_names)
    if whole and labels.ndim == 2 and low >= 0 and high <= 1 and names in (0, labels.shape[1]):
        if 0 < labels.shape[1] <= MOST_NAMES:
            return labels.astype(np.uint8)
    elif (
        whole and labels.ndim == 1 and low >= (first or -1) and high < first + (names or MOST_NAMES)
    ):
        return labels.astype(np.int64) + (1 - first)
    told = f", {names} class_names" if names else ""
    classes = "classes 1..K" if first else f"classes 0..{names - 1 if names else 'K-1'}"
    most = "" if names else f" with K at most {MOST_NAMES}"
    why = "; with class_names, or with a 0 among them, classes count from 0, and -1 is none"
    why = why if low == -1 or not first else ""
    raise ValueError(
        f"expected {what} to be {classes} [{count}] or 0/1 tags [{count}, K]{most}, "
        f"got {shortened(str(labels.dtype))} {list(labels.shape)} with {low}..{high}{told}{why}"
    )


def checked_vectors(
    vectors: np.ndarray, names: Sequence[str], count: int, where: str
) -> np.ndarray:
    """Numbers of each picture that somebody else made, as `Source` wants them.

    Args:
        vectors: [N, D], of any kind of numbers; float32 has to hold them.
        names: D texts, or none.
        count: pictures N.
        where: what has them, for the message.

    Returns:
        float32 [N, D].

    Raises:
        ValueError: for another shape, other than numbers, or such as are not finite.

    >>> checked_vectors(np.array([[1], [3]]), ("size",), 2, "a.npz").dtype
    dtype('float32')
    """
    if vectors.dtype.kind not in "fiu" or vectors.ndim != 2 or not vectors.size:
        raise ValueError(
            f"expected vectors in {where} as numbers [N, D], got "
            f"{shortened(str(vectors.dtype))} {list(vectors.shape)}"
        )
    if len(vectors) != count:
        raise ValueError(f"expected vectors of {count} pictures in {where}, got {len(vectors)}")
    if names and len(names) != vectors.shape[1]:
        raise ValueError(f"expected {vectors.shape[1]} vector_names in {where}, got {len(names)}")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = vectors.astype(np.float32)
    if not (finite := np.isfinite(kept)).all():
        row, column = np.argwhere(~finite)[0].tolist()
        raise ValueError(
            f"expected finite vectors that float32 holds in {where}, got {vectors[row, column]} at "
            f"{row}, {column}"
        )
    return kept


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rows(
    source: Source,
    numbers: Sequence[int],
    settings: DataConfig,
    fit: Fit,
    unheeded: Counter[str],
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Each number with its row, or with what is wrong; read by all cores, given in order."""

    def row(number: int) -> np.ndarray | str:
        # A damaged file can make a decoder raise nearly anything.
        try:
            found = source.read(number)
            if isinstance(found, np.ndarray):
                return _unlike(found, source.numbers) or array_row(found, settings)
            with found as picture:
                made = to_row(picture, settings, fit)
                unheeded.update(_unheeded(picture))
                return made
        except Image.DecompressionBombError:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            return f"has more than {most // 10**6} million pixels; scale it down"
        except (Exception, SystemExit) as error:
            return " ".join(str(error).split()) or type(error).__name__

    workers = settings.num_workers or available_cores()
    block = _BLOCK * workers
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(numbers), block):
            some = numbers[start : start + block]
            yield from zip(some, pool.map(row, some), strict=True)


def _unheeded(picture: Image.Image) -> list[str]:
    """What a row does not have of a picture."""
    found = []
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        found += [_TRANSPARENT] if alpha.getextrema() != (255, 255) else []
    if picture.format in _ANIMATED and getattr(picture, "is_animated", False):
        found.append(_MOVING)
    if (profile := picture.info.get("icc_profile")) and not _is_srgb(profile):
        found.append(_PROFILED)
    return found


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    """Whether a profile is of the colours that pictures without one have, as far as it says."""
    try:
        told = ImageCms.getProfileDescription(io.BytesIO(profile))
    except (ImageCms.PyCMSError, ImportError):  # Pillow may be built without the library for it
        return False
    return "srgb" in told.lower()


def _unlike(array: np.ndarray, numbers: str) -> str:
    """How an array is none of those that a source promises; nothing if it is one."""
    if array.ndim == 3 and array.dtype.name == numbers:
        return ""
    wanted = f"{numbers} [C, H, W]" if numbers else "a picture of PIL's"
    return f"{array.dtype} {list(array.shape)}, expected {wanted}"


def _mode(picture: Image.Image, channels: int | None) -> str:
    for layout in _layouts(picture):
        if picture.mode not in _GREY | _COLOUR or _DEEP.search(layout):
            raise ValueError(f"mode {layout}, expected 8 bits a channel")
    grey = picture.mode in _GREY if channels is None else channels == 1
    return "L" if grey else "RGB"


def _layouts(picture: Image.Image) -> list[str]:
    """The mode of a picture, and those of its file as long as it is not decoded."""
    tiles = getattr(picture, "tile", [])
    found = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in tiles]
    return [picture.mode, *(part for parts in found for part in parts if isinstance(part, str))]


def _kind(shape: tuple[int, ...]) -> str:
    kind = {1: "grey", 3: "RGB"}.get(shape[0], f"of {shape[0]} channels")
    return f"{shape[1]} x {shape[2]} {kind}"


def bad_line(bad: Bad) -> str:
    """A picture that cannot be used, for a message."""
    return f"{shortened(bad.name)} ({shortened(bad.reason, 200)})"


def _shown(labels: np.ndarray) -> set[int]:
    """Numbers from 1 on of the classes or tags that some pictures have."""
    if labels.ndim == 2:
        return {k for k, column in enumerate(labels.T, 1) if column.any()}
    return set(labels.tolist()) - {0}


def _say_untrained(source: Source, numbers: set[int]) -> None:
    """One line about classes or tags of which no picture to train on is left."""
    names = source.class_names
    if numbers:
        named = few(names[k - 1] if names else str(k) for k in sorted(numbers))
        say(
            f"without the pictures that cannot be used, none to train on is left in "
            f"{printable(source.origin)} of: {named}; mend or add some"
        )


def say_left_out(origin: str, left_out: Sequence[Bad]) -> None:
    """One line about files that are no pictures of a source, though somebody might think so.

    Args:
        origin: where they lie.
        left_out: each with its reason.
    """
    if left_out:
        named = few(map(bad_line, left_out), _NAMED, _LONGEST)
        files = number_of(len(left_out), "file")
        say(f"left out of {printable(origin)}: {files}, {named}")


def _refusal(source: Source, bad: list[Bad], good: int, unlike: bool) -> str:
    named = few((bad_line(fault) for fault in bad), _NAMED, _LONGEST)
    ways = ["make them alike with --image-size and --channels"] if unlike else []
    ways += ["leave them out with --on-bad skip"] if good >= len(bad) else []
    others = f"; vfn train and vfn data also {', or '.join(ways)}" if ways else ""
    return (
        f"{len(bad)} of {len(bad) + good} pictures in {printable(source.origin)} cannot be "
        f"used: {named}; mend or remove them{others}"
    )
