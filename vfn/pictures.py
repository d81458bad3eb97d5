"""Tensors as pictures: labelled grids, titled sheets, animations, files."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor, uint8

from vfn.files import write_atomic
from vfn.lettering import Lettering

_BACKGROUND = "#f4f4f4"
_INK = "#333333"
_GAP = 2  # between tiles
_PAD = 8  # around text and between the blocks of a sheet
_TILE = 48  # small pictures are enlarged to at least this many pixels
_LABEL_SIZES = range(16, 9, -1)  # the largest that fits the tiles
_TITLE_SIZE = 18
_WEBP_SIDE = 16383  # most pixels of a side


class _Layout(NamedTuple):
    """Margins left and top of the tiles, size of a tile, size of the cell it is centred in."""

    left: int
    top: int
    tile: tuple[int, int]
    cell: tuple[int, int]

    def cell_origin(self, row: int, column: int) -> tuple[int, int]:
        return (
            self.left + _GAP + column * (self.cell[0] + _GAP),
            self.top + _GAP + row * (self.cell[1] + _GAP),
        )

    def tile_origin(self, row: int, column: int) -> tuple[int, int]:
        x, y = self.cell_origin(row, column)
        return x + (self.cell[0] - self.tile[0]) // 2, y + (self.cell[1] - self.tile[1]) // 2


def grid(
    images: Tensor,
    columns: int,
    scale: int | None = None,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Pictures as tiles, row after row, with thin gaps and labels in the margins.

    Args:
        images: uint8 [N, C, H, W], C 1 (grey) or 3 (RGB).
        columns: tiles in a row; what the last row lacks stays blank.
        scale: every pixel becomes a square this wide; if None, small pictures are enlarged to tiles
            of 48 pixels or a little more, and others are left as they are.
        row_labels: a text for each row, or none.
        column_labels: a text for each column, or none.

    Returns:
        picture of mode ``L`` or ``RGB``; the tiles end ``2`` pixels from its right and lower edge.

    Raises:
        ValueError: for pictures of another type or shape, or a number of labels that does not fit.

    >>> grid(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), columns=3).size
    (152, 102)
    """
    arrays = _to_arrays(images)
    _check_positive("columns", columns)
    rows = math.ceil(len(arrays) / columns)
    _check_labels("row_labels", row_labels, rows)
    _check_labels("column_labels", column_labels, columns)
    height, width = arrays.shape[1:3]
    factor = max(1, math.ceil(_TILE / max(height, width))) if scale is None else scale
    _check_positive("scale", factor)
    tile = (width * factor, height * factor)
    font = _fitting_font(column_labels, tile[0], row_labels)
    layout = _layout(tile, font, row_labels, column_labels)
    canvas = _canvas("L" if arrays.shape[3] == 1 else "RGB", layout.cell_origin(rows, columns))
    for i, array in enumerate(arrays):
        picture = _to_picture(array).resize(tile, Image.Resampling.NEAREST)
        canvas.paste(picture, layout.tile_origin(*divmod(i, columns)))
    _draw_labels(canvas, layout, font, row_labels, column_labels)
    return canvas


def sheet(blocks: Sequence[tuple[str, Image.Image]], columns: int = 1) -> Image.Image:
    """Pictures with a title above each, stacked or side by side.

    Args:
        blocks: (title, picture) pairs, at least one.
        columns: blocks in a row; 1 stacks them, ``len(blocks)`` puts them side by side.

    Returns:
        picture of mode ``L`` if all blocks are, else ``RGB``.

    Raises:
        ValueError: without blocks, or for fewer columns than one.

    >>> a = grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), columns=2)
    >>> sheet([("w = 0", a), ("w = 0.5", a)], columns=2).mode
    'L'
    """
    if not blocks:
        raise ValueError("expected at least one block, got none; give (title, picture) pairs")
    _check_positive("columns", columns)
    font = Lettering(_TITLE_SIZE, [title for title, _ in blocks])
    head = font.line + _PAD
    sizes = [(max(p.width, _widest([t], font)), head + p.height) for t, p in blocks]
    widths = [max(w for w, _ in sizes[c::columns]) for c in range(min(columns, len(blocks)))]
    heights = [max(h for _, h in sizes[i : i + columns]) for i in range(0, len(blocks), columns)]
    lefts, tops = _starts(widths), _starts(heights)
    mode = "L" if all(p.mode == "L" for _, p in blocks) else "RGB"
    canvas = _canvas(mode, (lefts[-1], tops[-1]))
    draw = ImageDraw.Draw(canvas)
    for i, (title, picture) in enumerate(blocks):
        x, y = lefts[i % columns], tops[i // columns]
        font.draw(draw, (x + _GAP, y), title, "la", _INK)
        canvas.paste(picture, (x, y + head))
    return canvas


def titled_frames(blocks: Sequence[tuple[str, Image.Image]]) -> list[Image.Image]:
    """Each block as a sheet of its own, all of one size, for `save_animation`.

    Args:
        blocks: (title, picture) pairs, at least one.

    Returns:
        as many pictures.

    >>> a = grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), columns=1)
    >>> len({frame.size for frame in titled_frames([("w = 0", a), ("w = 0.123456", a)])})
    1
    """
    sheets = [sheet([block]) for block in blocks]
    size = (max(s.width for s in sheets), max(s.height for s in sheets))
    frames = []
    for single in sheets:
        frames.append(_canvas(single.mode, size))
        frames[-1].paste(single, (0, 0))
    return frames


def save_png(path: str | Path, image: Image.Image) -> None:
    """Write a picture as PNG, atomically; equal pictures give equal bytes.

    Args:
        path: the file; its directory is made if missing.
        image: any mode that PNG knows.
    """
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue(), durable=False)


def save_animation(
    path: str | Path, frames: Sequence[Image.Image], frame_ms: int, hold_ms: int
) -> None:
    """Write an endless lossless WebP animation, atomically.

    Args:
        path: the file; its directory is made if missing.
        frames: pictures of one size, at least one. Equal neighbours become one longer frame.
        frame_ms: how long a frame is shown, milliseconds.
        hold_ms: how long the last frame is shown, milliseconds.

    Raises:
        ValueError: without frames, for frames of several sizes or larger than WebP knows, or for a
            time below 1.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ValueError(
            f"expected frames of one size, got {sorted(sizes) or 'no frames'}; "
            "draw every frame with the same grid"
        )
    _check_positive("frame_ms", frame_ms)
    _check_positive("hold_ms", hold_ms)
    check_animation(frames[0].size)
    buffer = BytesIO()
    frames[0].save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[frame_ms] * (len(frames) - 1) + [hold_ms],
        loop=0,
        lossless=True,
    )
    write_atomic(path, buffer.getvalue())


def check_animation(size: tuple[int, int]) -> None:
    """Refuse frames that are larger than WebP knows.

    Args:
        size: width and height of a frame, pixels.

    Raises:
        ValueError: if one of them is above 16383.

    >>> check_animation((20518, 60))
    Traceback (most recent call last):
    ValueError: an animation of 20518 x 60 pixels exceeds WebP's 16383; leave it out (--no-animate)
    """
    if max(size) > _WEBP_SIDE:
        raise ValueError(
            f"an animation of {size[0]} x {size[1]} pixels exceeds WebP's {_WEBP_SIDE}; "
            "leave it out (--no-animate)"
        )


def save_images(directory: Path, images: Tensor, names: Sequence[str]) -> None:
    """Write each picture as a PNG of its own, at its own size.

    Args:
        directory: made if missing.
        images: uint8 [N, C, H, W], C 1 or 3.
        names: N different file names without ``.png``.

    Raises:
        ValueError: for pictures of another type or shape, or names that are not N different ones.
    """
    arrays = _to_arrays(images)
    if len(set(names)) != len(arrays) or len(names) != len(arrays):
        raise ValueError(
            f"expected {len(arrays)} different names, got {len(names)} of which {len(set(names))} "
            "differ; number them"
        )
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"expected a plain file name, got {name!r}; leave out the slashes")
    for array, name in zip(arrays, names, strict=True):
        save_png(directory / f"{name}.png", _to_picture(array))


def _to_arrays(images: Tensor) -> np.ndarray:
    """Check [N, C, H, W] and return [N, H, W, C]."""
    shaped = images.ndim == 4 and images.shape[1] in (1, 3) and len(images) > 0
    if images.dtype != uint8 or not shaped:
        raise ValueError(
            "expected one or more uint8 pictures [N, C, H, W] with C 1 or 3, got "
            f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}; "
            "convert them with vfn.data.to_uint8"
        )
    return images.permute(0, 2, 3, 1).cpu().numpy()


def _to_picture(array: np.ndarray) -> Image.Image:
    """[H, W, C] as a picture."""
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"expected {name} to be at least 1, got {value}; give a whole number")


def _check_labels(name: str, labels: Sequence[str], count: int) -> None:
    if labels and len(labels) != count:
        raise ValueError(f"expected {count} {name}, got {len(labels)}; give one each or none")


def _canvas(mode: str, size: tuple[int, int]) -> Image.Image:
    return Image.new(mode, size, _BACKGROUND)


def _starts(lengths: list[int]) -> list[int]:
    """Where each length starts if they follow one another with padding, and where all end."""
    return np.cumsum([_PAD] + [length + _PAD for length in lengths]).tolist()


def _widest(texts: Sequence[str], font: Lettering) -> int:
    return max((font.width(text) for text in texts), default=0)


def _fitting_font(labels: Sequence[str], width: int, others: Sequence[str]) -> Lettering:
    """The largest label font in which all labels fit the width, or the smallest; of others, too."""
    fonts = [Lettering(size, [*labels, *others]) for size in _LABEL_SIZES]
    return next((font for font in fonts if _widest(labels, font) <= width), fonts[-1])


def _layout(
    tile: tuple[int, int],
    font: Lettering,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> _Layout:
    """Cells are as large as the tiles, or larger where a label needs it to be legible."""
    line = font.line
    return _Layout(
        left=_widest(row_labels, font) + 2 * _PAD if row_labels else 0,
        top=line + _PAD if column_labels else 0,
        tile=tile,
        cell=(
            max(tile[0], _widest(column_labels, font)),
            max(tile[1], line if row_labels else 0),
        ),
    )


def _draw_labels(
    canvas: Image.Image,
    layout: _Layout,
    font: Lettering,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> None:
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(row_labels):
        y = layout.cell_origin(row, 0)[1] + layout.cell[1] / 2
        font.draw(draw, (layout.left - _PAD, y), text, "rm", _INK)
    for column, text in enumerate(column_labels):
        x = layout.cell_origin(0, column)[0] + layout.cell[0] / 2
        font.draw(draw, (x, layout.top / 2 + 1), text, "mm", _INK)
