"""What stands beside pictures as a condition: numbers of each, or a picture made of it.

Pictures are x0 [B, C, H, W] in [-1, 1] here. What a network is given is all zero where there is
nothing, so a vector ends with a 1, and the last channel of a picture is 1 where the others count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vfn.files import few, shown
from vfn.tables import Entry, Table

if TYPE_CHECKING:
    from torch import Tensor

LEAST, MOST = 0.25, 0.75  # of a side, that the hidden rectangle of a mask takes
LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as PIL turns colours grey


class Vector(NamedTuple):
    """Numbers that come with each picture: their names, and how they are standardised.

    names: D of them. mean, deviation: of the training pictures, D each.

    >>> Vector(("size",), (10.0,), (2.0,)).of(torch.tensor([[14.0]]))
    tensor([[2., 1.]])
    """

    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @property
    def dim(self) -> int:
        """Numbers that a network is given, which is one more than there are, or 0."""
        return len(self.names) + 1 if self.names else 0

    def of(self, values: "Tensor") -> "Tensor":
        """Standardised numbers, and a 1 that tells that there are some.

        Args:
            values: [B, D].

        Returns:
            float32 [B, D + 1].
        """
        import torch

        mean, deviation = (values.new_tensor(each) for each in (self.mean, self.deviation))
        return torch.nn.functional.pad((values - mean) / deviation, (0, 1), value=1.0).float()


def vector_of(values: "Tensor", names: tuple[str, ...] = ()) -> Vector:
    """Names and statistics of numbers.

    Args:
        values: [N, D], of the pictures that are trained on.
        names: D texts; their numbers if there are none.

    Returns:
        Vector; the deviation of numbers that are all the same is 1.

    Raises:
        ValueError: if a number is not finite, or names are not as many.

    >>> vector_of(torch.tensor([[1.0], [3.0]]), ("size",))
    Vector(names=('size',), mean=(2.0,), deviation=(1.0,))
    """
    check_numbers(values)
    called = names or tuple(str(k) for k in range(1, values.shape[1] + 1))
    if len(called) != values.shape[1]:
        raise ValueError(f"expected {values.shape[1]} names of numbers, got {len(called)}")
    exact = values.double()
    deviation = exact.std(0, correction=0)
    deviation[deviation == 0] = 1
    return Vector(called, tuple(exact.mean(0).tolist()), tuple(deviation.tolist()))


def check_numbers(values: "Tensor", name: str = "vectors") -> None:
    """Refuse numbers that are no floats [N, D], or not finite in float32; the first is named.

    Args:
        values: what is given.
        name: what it is called.

    Raises:
        ValueError: if they are not.

    >>> check_numbers(torch.tensor([[1.0], [float("nan")]]))
    Traceback (most recent call last):
    ValueError: expected vectors to be finite in float32, got nan at 1, 0
    """
    if not values.is_floating_point() or values.ndim != 2 or 0 in values.shape:
        kind = str(values.dtype).removeprefix("torch.")
        raise ValueError(f"expected {name} as floats [N, D], got {kind} {list(values.shape)}")
    if not (finite := values.float().isfinite()).all():
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"expected {name} to be finite in float32, got {values[row, column]} at {row}, {column}"
        )


@dataclass(frozen=True, kw_only=True)
class Derived(Entry):
    """A picture made of the one that is to be drawn.

    target: a function of x0 [B, C, H, W], four uniform numbers of each [B, 4], and the number
    behind the word, that gives [B, C' + 1, H, W]. given: a function that makes the same of what
    somebody has instead of the picture, with the height and width that are wanted; None where
    there is nothing of the kind. channels: C' for C. numbered: the word has a number.
    """

    channels: Callable[[int], int]
    numbered: bool = False
    given: str = ""


DERIVED: Table[Derived] = Table(
    "condition",
    {
        "downscale": Derived(
            text="downscale:K, the picture at a K-th of its height and width",
            target="vfn.data.derived:downscaled",
            given="vfn.data.derived:upscaled",
            channels=lambda channels: channels,
            numbered=True,
        ),
        "grey": Derived(
            text="the picture without its colours",
            target="vfn.data.derived:grey",
            given="vfn.data.derived:known",
            channels=lambda _: 1,
        ),
        "mask": Derived(
            text="the picture with a rectangle missing, a quarter to three quarters of each side",
            target="vfn.data.derived:masked",
            channels=lambda channels: channels,
        ),
    },
)


class Kind(NamedTuple):
    """A condition that is made of the pictures themselves: its entry, and its number."""

    word: str
    entry: Derived
    number: int


def derived_kind(condition: str | None) -> Kind | None:
    """What a setting names, if it is made of the pictures themselves.

    Args:
        condition: such as ``downscale:4``; or the path of other pictures, or None.

    Returns:
        Kind; None for a path or None.

    Raises:
        ValueError: if the number is missing, or is none.

    >>> derived_kind("downscale:4").number, derived_kind("other.npy")
    (4, None)
    """
    word, colon, text = (condition or "").partition(":")
    if word not in DERIVED:
        return None
    entry, number = DERIVED[word], 0
    if entry.numbered:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else 0
        if number < 2:
            raise ValueError(
                f"expected condition {word} with a number from 2 on, such as {word}:4, got "
                f"{shown(condition)}"
            )
    elif colon:
        raise ValueError(f"expected condition {word} without a number, got {shown(condition)}")
    return Kind(word, entry, number)


def alike_conditions(ours: str | None, theirs: str | None) -> bool:
    """Whether two settings make the same of the pictures, or both nothing: files may have moved.

    Args:
        ours: such as ``downscale:4``; or the path of other pictures, or None.
        theirs: the like.

    Returns:
        whether they are alike.

    Raises:
        ValueError: see `derived_kind`.

    >>> alike_conditions("here.npy", "there.npy"), alike_conditions("downscale:4", "downscale:2")
    (True, False)
    """
    return derived_kind(ours) == derived_kind(theirs)


def check_derived(kind: Kind, channels: int, height: int, width: int) -> None:
    """Refuse a condition that pictures of some size do not give.

    Args:
        kind: of the condition.
        channels: of the pictures.
        height: of them.
        width: of them.

    Raises:
        ValueError: if the number does not divide the sides, or grey pictures are to be made grey.

    >>> check_derived(derived_kind("downscale:4"), 1, 8, 10)
    Traceback (most recent call last):
    ValueError: expected condition downscale:4 to divide height and width, got 8 x 10
    """
    if kind.number and (height % kind.number or width % kind.number):
        raise ValueError(
            f"expected condition {kind.word}:{kind.number} to divide height and width, got "
            f"{height} x {width}"
        )
    if kind.word == "grey" and channels == 1:
        raise ValueError("expected colours for condition grey, got pictures of one channel")


def listed(names: tuple[str, ...]) -> str:
    """The first names of numbers, for a message."""
    return few(names, 5)
