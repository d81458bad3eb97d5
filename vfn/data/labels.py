"""Labels: what they are called, how people write them, and which pictures get which.

The table of data sets has them, so this module does not import torch before it is needed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

TAG_SEPARATOR = "+"


class Labels(NamedTuple):
    """What the labels of pictures mean: one class each, any number of tags, or nothing.

    names: of the K classes or tags; none for pictures without labels. tags: whether a picture has
    any number of them, as 0/1 rows [N, K], instead of one class, 1..K, as [N]. 0, or a row of
    zeros, is "unconditional".

    >>> digits = Labels(("three", "seven"))
    >>> digits.parse("seven,three"), digits.texts(torch.tensor([2]))
    (tensor([2, 1]), ['seven'])
    """

    names: tuple[str, ...] = ()
    tags: bool = False

    def parse(self, asked: str | Sequence[str]) -> "Tensor":
        """Labels by their names, as a network takes them.

        Args:
            asked: names in a list, or separated by commas, such as ``"3,7"``, or for tags
                ``"Smiling+Blond_Hair,Male"``; the text ``"all"`` is every class, or every tag
                alone, once.

        Returns:
            classes [N] or rows of tags [N, K], int64, in the order given.

        Raises:
            ValueError: for a name that is not among ours, or a list without any.

        >>> Labels(("a", "b", "c"), tags=True).parse("c+a,b")
        tensor([[1, 0, 1],
                [0, 1, 0]])
        """
        import torch

        parts = list(self.names) if asked == "all" else asked
        if isinstance(parts, str):
            parts = [part.strip() for part in parts.split(",")]
        if not parts:
            raise ValueError(f"expected names among {', '.join(self.names)}, got an empty list")
        if self.tags:
            return torch.tensor([tag_row(part, self.names) for part in parts])
        return torch.tensor([_number(part, self.names) + 1 for part in parts])

    def texts(self, labels: "Tensor") -> list[str]:
        """The texts that `parse` reads back: names of classes, or tags joined by ``+``.

        Args:
            labels: classes [N] in 0..K, or tags [N, K].

        Returns:
            one text for each picture, empty for one without a class or tag.

        >>> Labels(("a", "b", "c"), tags=True).texts(torch.tensor([[1, 0, 1]]))
        ['a+c']
        """
        if not self.tags:
            return [self.names[label - 1] if label else "" for label in labels.tolist()]
        return [
            TAG_SEPARATOR.join(name for name, has in zip(self.names, row, strict=True) if has)
            for row in labels.tolist()
        ]

    def describe(self) -> str:
        """Number and kind of the labels.

        Returns:
            a few words for people.

        >>> Labels(("a", "b")).describe(), Labels().describe()
        ('2 classes', 'no labels')
        """
        if not self.names:
            return "no labels"
        return f"{len(self.names)} {'tags' if self.tags else 'classes'}"


def in_turn(labels: "Tensor", indices: "Tensor") -> "Tensor":
    """The labels of pictures that get some labels in turn, by the pictures' numbers.

    Args:
        labels: what is asked for, [L] or [L, K].
        indices: numbers of pictures [N].

    Returns:
        [N] or [N, K].

    >>> in_turn(torch.tensor([3, 7]), torch.arange(5)).tolist()
    [3, 7, 3, 7, 3]
    """
    return labels[indices % len(labels)]


def tag_row(text: str, names: Sequence[str]) -> list[int]:
    """Tags joined by ``+`` as a row of zeros and ones; an empty text is no tag.

    Args:
        text: some of the names.
        names: K tags.

    Returns:
        K numbers.

    Raises:
        ValueError: for a tag that is not among the names.

    >>> tag_row("b", ("a", "b"))
    [0, 1]
    """
    parts = [name.strip() for name in text.split(TAG_SEPARATOR)] if text.strip() else []
    numbers = {_number(name, names) for name in parts}
    return [int(k in numbers) for k in range(len(names))]


def _number(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(
            f"unknown label {name!r}, expected names among {', '.join(names)}, "
            "separated by commas, or all"
        )
    return names.index(name)
