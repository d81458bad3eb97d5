"""What the numbers of an array mean, and how a network sees them: x = (value - offset) / scale."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn.files import shown
from vfn.memory import moved

# Kinds of numbers that arrays may hold, by numpy's names.
KINDS = ("uint8", "uint16", "float16", "float32")
_BLOCK = 256  # pictures that are looked at together


def to_unit(images: Tensor) -> Tensor:
    """Scale uint8 0..255 to float32 [-1, 1]: ``x / 127.5 - 1``.

    Args:
        images: uint8, of any shape.

    Returns:
        float32, shape of ``images``.

    >>> to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Scale [-1, 1] to uint8, rounding to the nearest and clipping what lies outside.

    Args:
        images: floating-point, of any shape.

    Returns:
        uint8, shape of ``images``.

    >>> to_uint8(torch.tensor([-2.0, 0.0, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class Values(NamedTuple):
    """How stored numbers become x0, channel by channel, and how drawn ones are stored again.

    dtype: of the stored numbers. offset, scale: one for each channel, or one for all. bounded: x0
    is within [-1, 1], as of a known range; else numbers are standardised by mean and deviation.

    >>> depth = Values("uint16", (1000.0,), (1000.0,))
    >>> depth.to_unit(torch.tensor([[[[0, 2000]]]], dtype=torch.uint16))
    tensor([[[[-1.,  1.]]]])
    """

    dtype: str = "uint8"
    offset: tuple[float, ...] = (127.5,)
    scale: tuple[float, ...] = (127.5,)
    bounded: bool = True

    def describe(self) -> str:
        """Kind and range of the numbers, in few words.

        Returns:
            text for people.

        >>> ranged("float32", -1, 3).describe()
        'float32, -1 to 3'
        """
        if not self.bounded:
            return f"{self.dtype}, standardised"
        low, high = self.offset[0] - self.scale[0], self.offset[0] + self.scale[0]
        return f"{self.dtype}, {low:g} to {high:g}"

    @property
    def plain(self) -> bool:
        """Whether these are the grey levels 0..255."""
        return self == Values()

    def to_unit(self, images: Tensor) -> Tensor:
        """What a network sees.

        Args:
            images: stored numbers [B, C, H, W].

        Returns:
            float32 [B, C, H, W].
        """
        if self.plain:
            return to_unit(images)
        offset, scale = self._columns(images.device)
        return ((images.double() - offset) / scale).float()

    def from_unit(self, x0: Tensor) -> Tensor:
        """Numbers as they are stored: whole ones are rounded, and a range is kept to.

        Args:
            x0: [B, C, H, W].

        Returns:
            [B, C, H, W] of ``dtype``.
        """
        if self.plain:
            return to_uint8(x0)
        offset, scale = self._columns(x0.device)
        kind: torch.dtype = getattr(torch, self.dtype)
        values = (x0.double() * scale + offset).clamp(*self._limits(x0.device))
        return (values if kind.is_floating_point else values.round()).to(kind)

    def shown(self, images: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """Pictures that people can look at.

        Args:
            images: stored numbers [B, C, H, W].
            channels: one or three of them; if None the first three, or the first of fewer.

        Returns:
            uint8 [B, 1 or 3, H, W]; standardised numbers are shown from -3 to 3 deviations.

        Raises:
            ValueError: for a channel that there is not.
        """
        count = images.shape[1]
        chosen = list(channels or range(3 if count >= 3 else 1))
        if any(not 0 <= number < count for number in chosen):
            raise ValueError(f"expected channels to be shown in 0..{count - 1}, got {chosen}")
        if self.plain and chosen == list(range(count)):
            return images
        x0 = self.to_unit(images)[:, chosen]
        return to_uint8(x0 if self.bounded else x0 / 3)

    def check(self, images: Tensor, name: str) -> None:
        """Refuse numbers that are not within the range, or not finite; the first is named.

        Args:
            images: stored numbers [N, C, H, W].
            name: what they are called.

        Raises:
            ValueError: if there are any.

        >>> ranged("float32", 0, 1).check(torch.tensor([[[[0.5]]], [[[2.0]]]]), "depths")
        Traceback (most recent call last):
        ValueError: expected depths within 0..1, got 2 in picture 1
        """
        low, high = self._limits(images.device)
        if self.dtype.startswith("uint") and (low.max(), high.min()) == (
            0,
            np.iinfo(self.dtype).max,
        ):
            return  # there are no others
        slack = 1e-6 * (high - low)  # of rounding
        first = 0
        for block in _blocks(images):
            wrong = ~block.isfinite() | (block < low - slack) | (block > high + slack)
            if wrong.any():
                row, channel, *place = wrong.nonzero()[0].tolist()
                number = block[row, channel, *place].item()
                raise ValueError(
                    f"expected {name} {self._within(channel)}, got {number:g} in picture "
                    f"{first + row}"
                )
            first += len(block)

    def compared(self, images: Tensor) -> Tensor:
        """Numbers as metrics compare them.

        Args:
            images: stored numbers [N, C, H, W].

        Returns:
            8-bit pictures as they are; others float32, 0..1 where they are bounded.
        """
        return images if self.plain else (self.to_unit(images) + 1) / 2

    def _within(self, channel: int) -> str:
        """What the numbers of a channel have to be, for a message."""
        if not self.bounded:
            return "finite"
        offset, scale = (each[channel % len(each)] for each in (self.offset, self.scale))
        return f"within {offset - scale:g}..{offset + scale:g}"

    def _limits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Lowest and highest that stored numbers are, [C or 1, 1, 1], float64."""
        kind: torch.dtype = getattr(torch, self.dtype)
        whole = not kind.is_floating_point
        ends = torch.iinfo(kind) if whole else torch.finfo(kind)
        offset, scale = self._columns(device)
        low, high = offset - scale, offset + scale
        if not self.bounded:
            return torch.full_like(low, ends.min), torch.full_like(high, ends.max)
        # As the type rounds them: halves have no 0.3, but one above it, which stands for it.
        low, high = (low.ceil(), high.floor()) if whole else (low.to(kind), high.to(kind))
        return low.double().clamp(min=ends.min), high.double().clamp(max=ends.max)

    def _columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Offset and scale [C or 1, 1, 1], float64."""
        offset, scale = (
            moved(torch.tensor(each, dtype=torch.float64), device).view(-1, 1, 1)
            for each in (self.offset, self.scale)
        )
        return offset, scale


PLAIN = Values()


def ranged(dtype: str, low: float, high: float) -> Values:
    """Numbers of a known range, which becomes [-1, 1].

    Args:
        dtype: of the stored numbers.
        low: what becomes -1.
        high: what becomes 1.

    Returns:
        Values.

    >>> ranged("uint8", 0, 255) == PLAIN
    True
    """
    return Values(dtype, ((low + high) / 2,), ((high - low) / 2,))


def check_kind(dtype: str, name: str = "numbers") -> None:
    """Refuse kinds of numbers that are neither prepared nor drawn.

    Args:
        dtype: numpy's name of it.
        name: what the numbers are called.

    Raises:
        ValueError: for any but `KINDS`.

    >>> check_kind("float64", "depths")
    Traceback (most recent call last):
    ValueError: expected depths of uint8, uint16, float16, float32, got 'float64'; convert them ...
    """
    if dtype not in KINDS:
        raise ValueError(
            f"expected {name} of {', '.join(KINDS)}, got {shown(dtype)}; convert them with .float()"
        )


def checked_values(values: Values, channels: int, name: str) -> Values:
    """What numbers mean, as checkpoints can keep it.

    Args:
        values: of a caller's.
        channels: C of the pictures.
        name: what the numbers are called.

    Returns:
        Values, offset and scale as floats.

    Raises:
        ValueError: for other kinds of numbers than `KINDS`, offsets that are not finite, scales
            that are not above 0, or neither one of them nor C.

    >>> checked_values(Values("float32", (0,), (2,)), 3, "depths").scale
    (2.0,)
    >>> checked_values(Values("float32", (0.0, 1.0), (1.0,)), 3, "depths")
    Traceback (most recent call last):
    ValueError: expected 1 or 3 offsets of depths, one for each channel, got 2
    """
    check_kind(values.dtype, name)
    offset, scale = (_floats(each, name) for each in (values.offset, values.scale))
    for numbers, what in ((offset, "offsets"), (scale, "scales")):
        if len(numbers) not in (1, channels):
            few = "1" if channels == 1 else f"1 or {channels}"
            raise ValueError(
                f"expected {few} {what} of {name}, one for each channel, got {len(numbers)}"
            )
    fit = [math.isfinite(number) for number in offset]
    fit += [math.isfinite(number) and number > 0 for number in scale]
    if not all(fit):
        raise ValueError(
            f"expected finite offsets of {name} and finite scales above 0, got "
            f"{shown(offset)} and {shown(scale)}"
        )
    return Values(values.dtype, offset, scale, bool(values.bounded))


def _floats(numbers: Sequence[float], name: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, numbers))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"expected offset and scale of {name} as numbers, one for each channel or one for "
            f"all, got {shown(numbers)}"
        ) from None


def measured(
    images: Tensor,
    dtype: str,
    value_range: Sequence[float] | None = None,
    standardise: bool = False,
    trained: int | None = None,
) -> Values:
    """How the numbers of some pictures are scaled.

    Args:
        images: stored numbers [N, C, H, W], perhaps in a file.
        dtype: their name.
        value_range: lowest and highest; if None those of whole numbers, and of floats what is
            found.
        standardise: by mean and deviation of each channel instead.
        trained: first so many are those that are trained on, whose statistics count; all if None.

    Returns:
        Values.

    Raises:
        ValueError: for other kinds of numbers than `KINDS`.

    >>> floats = torch.tensor([[[[0.5, 2.5]]]])
    >>> measured(floats, "float32")
    Values(dtype='float32', offset=(1.5,), scale=(1.0,), bounded=True)
    >>> measured(floats, "float32", standardise=True).scale
    (1.0,)
    """
    check_kind(dtype)
    if value_range is not None:
        return ranged(dtype, *value_range)
    if standardise:
        return _standardised(images, dtype, trained)
    if dtype.startswith("uint"):
        return ranged(dtype, 0, np.iinfo(dtype).max)
    lows, highs = zip(*((float(b.min()), float(b.max())) for b in _blocks(images)), strict=True)
    low, high = min(lows), max(highs)
    return ranged(dtype, low, high if high > low else low + 1)


def _standardised(images: Tensor, dtype: str, trained: int | None) -> Values:
    count, total, squares = 0, 0.0 * torch.zeros(1), 0.0 * torch.zeros(1)
    for block in _blocks(images, trained):
        flat = block.movedim(1, 0).flatten(1)
        count += flat.shape[1]
        total, squares = total + flat.sum(1), squares + flat.square().sum(1)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation[deviation == 0] = 1
    return Values(dtype, tuple(mean.tolist()), tuple(deviation.tolist()), bounded=False)


def _blocks(images: Tensor, count: int | None = None) -> Iterator[Tensor]:
    """Pictures as float64, a few at a time."""
    for rows in torch.arange(len(images) if count is None else count).split(_BLOCK):
        yield images[rows].double()
