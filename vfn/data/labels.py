"""Labels: what they are called, how people write them, and which pictures get which.

The table of data sets has them, so this module does not import torch before it is needed.
"""

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vfn.files import few, is_utf8, shortened, shown

if TYPE_CHECKING:
    from torch import Tensor

TAG_SEPARATOR = "+"
AS_DATA = "as-data"  # in place of names: as often as the training pictures, or as-data:SPLIT
MOST_NAMES = 100_000  # classes or tags; more would be a mistake in the labels


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
            asked: names in a list, each as it is, an empty one for no label, as `texts` gives it;
                or one text of them, separated by commas, such as
                ``"3,7"``, or for tags ``"Smiling+Blond_Hair,Male"``. In a text a name stands in
                double quotes if it has a comma or quotes of its own, which are doubled, as in CSV:
                ``'"salt, pepper",cat'``. The text ``"all"`` is every class, or every tag alone,
                once; a class of that name is ``'"all"'``.

        Returns:
            classes [N] or rows of tags [N, K], int64, in the order given.

        Raises:
            ValueError: for a name that is not among ours, a list without any, or what is no text.

        >>> Labels(("a", "b", "c"), tags=True).parse("c+a,b")
        tensor([[1, 0, 1],
                [0, 1, 0]])
        >>> Labels(("cat", "salt, pepper")).parse('"salt, pepper",cat').tolist()
        [2, 1]
        """
        import torch

        parts = _texts(asked)
        in_list = not isinstance(parts, str)
        if parts == "all":
            parts = list(self.names)
        if isinstance(parts, str):
            split = split_names(parts)
            # A single name with commas needs no quotes where nothing else can be meant.
            whole = parts in self.names and not set(split) <= set(self.names)
            parts = [parts] if whole else split
        if not parts:
            raise ValueError(f"expected names among {self.listed()}, got an empty list")
        numbers = _numbers(self.names)
        if self.tags:
            count = len(self.names)
            return torch.tensor([_tag_row(part, numbers, count) for part in parts])
        return torch.tensor(
            [0 if in_list and not part else _number(part, numbers) + 1 for part in parts]
        )

    def listed(self) -> str:
        """The first names, as `parse` takes them, for a message.

        Returns:
            one line that does not grow with their number.

        >>> Labels(("cat", "salt, pepper")).listed()
        'cat, "salt, pepper"'
        """
        return _listed(self.names)

    def texts(self, labels: "Tensor") -> list[str]:
        """Names of classes, or tags joined by ``+``; as a list `parse` reads them back.

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


def split_names(text: str) -> list[str]:
    """Names of one text, separated by commas; those with commas or quotes stand in double quotes.

    Args:
        text: as a person writes it.

    Returns:
        the names, without blanks at their ends.

    Raises:
        ValueError: if a quote is not closed.

    >>> split_names('cat, "salt, pepper",')
    ['cat', 'salt, pepper', '']
    """
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(
            f"expected names separated by commas, and in double quotes those with commas, such as "
            f'"salt, pepper",cat, got {shortened(text)} ({error})'
        ) from None
    return [name.strip() for row in rows for name in row] or [""]


def joined_names(names: Iterable[str]) -> str:
    """The text that `split_names` takes apart again.

    Args:
        names: as `check_names` lets them pass.

    Returns:
        one text, with quotes where they are needed.

    >>> joined_names(["cat", "salt, pepper"]), joined_names(["all"])
    ('cat,"salt, pepper"', '"all"')
    """
    return ",".join(map(_quoted, names))


def asks_as_data(asked: str | None) -> bool:
    """Whether a text asks for labels as pictures have them, in place of names.

    Args:
        asked: as a person writes it; None for nothing.

    Returns:
        whether it does.

    >>> asks_as_data("as-data"), asks_as_data("as-data:test"), asks_as_data("cat,dog")
    (True, True, False)
    """
    return asked is not None and asked.partition(":")[0] == AS_DATA


def split_of(asked: str | None) -> str | None:
    """The split whose labels a text asks for.

    Args:
        asked: ``as-data`` or ``as-data:SPLIT``.

    Returns:
        its name; None for the one that was trained on.

    >>> split_of("as-data:test"), split_of("as-data")
    ('test', None)
    """
    return (asked or "").partition(":")[2] or None


def check_count(count: int) -> None:
    """Refuse more classes or tags than right labels have.

    Args:
        count: how many there would be.

    Raises:
        ValueError: for more than 100,000.

    >>> check_count(10**9)
    Traceback (most recent call last):
    ValueError: expected 100000 classes or tags at most, got 1000000000; classes are counted without
    gaps, so give names or ids as texts
    """
    if count > MOST_NAMES:
        raise ValueError(
            f"expected {MOST_NAMES} classes or tags at most, got {shown(count)}; classes are "
            "counted without gaps, so give names or ids as texts"
        )


def check_names(names: Sequence[str], tags: bool, origin: str) -> None:
    """Refuse names of classes or tags that nobody could ask for, or tell from another.

    Commas and quotes are allowed: people write such names in quotes.

    Args:
        names: of all classes or tags.
        tags: whether they are tags, which are joined by ``+``.
        origin: where they come from, for the message.

    Raises:
        ValueError: for an empty name, blanks at its ends, control characters, text that is no
            UTF-8, a tag with ``+``, a name twice, or more than 100,000.

    >>> check_names(["cat", " dog"], False, "labels.csv")
    Traceback (most recent call last):
    ValueError: labels.csv has the class ' dog', with a blank at an end; rename it
    """
    kind = "tag" if tags else "class"
    if len(names) > MOST_NAMES:
        raise ValueError(f"{origin} has {len(names)} names, expected {MOST_NAMES} at most")
    for name, times in Counter(map(one_spelling, names)).items():
        fault = f"{times} times" if times > 1 else _fault(name, tags)
        if fault:
            text = shortened(name).replace("'", "\\'")
            raise ValueError(f"{origin} has the {kind} '{text}', {fault}; rename it")


def _fault(name: str, tags: bool) -> str:
    """What is wrong with a name, or nothing."""
    if not is_utf8(name):
        return "which is no UTF-8"
    if not name.strip():
        return "which is empty"
    if name != name.strip():
        return "with a blank at an end"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
        return "with control characters"
    return f"with a {TAG_SEPARATOR}, which joins tags" if tags and TAG_SEPARATOR in name else ""


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
    return _tag_row(text, _numbers(names), len(names))


def _texts(asked: Any) -> str | list[str]:
    """What is asked, if it is a text or several."""
    if isinstance(asked, str):
        return asked
    parts = list(asked) if isinstance(asked, Iterable) else [asked]
    if strange := [part for part in parts if not isinstance(part, str)]:
        raise ValueError(
            f"expected labels as texts, such as '3' or '3,7', or as a tensor of their numbers, "
            f"which count from 1, got {shown(strange[0])}"
        )
    return parts


def one_spelling(text: str) -> str:
    r"""A text by composed letters: files of a Mac may have an ä of two, a and its dots.

    Args:
        text: any.

    Returns:
        the same for all spellings that Unicode takes for one text, its form NFC.

    >>> len("a\u0308"), len(one_spelling("a\u0308"))
    (2, 1)
    """
    return unicodedata.normalize("NFC", text)


def _numbers(names: Sequence[str]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for k, name in enumerate(names):
        numbers.setdefault(one_spelling(name), k)
    return numbers


def _tag_row(text: str, numbers: dict[str, int], count: int) -> list[int]:
    parts = [name.strip() for name in text.split(TAG_SEPARATOR)] if text.strip() else []
    row = [0] * count
    for name in parts:
        row[_number(name, numbers)] = 1
    return row


def _number(name: str, numbers: dict[str, int]) -> int:
    if one_spelling(name) not in numbers:
        raise ValueError(
            f"unknown label '{shortened(name)}', expected names among {_listed(numbers)}, "
            "separated by commas, or all"
        )
    return numbers[one_spelling(name)]


def _listed(names: Iterable[str]) -> str:
    return few(map(_quoted, names))


def _quoted(name: str) -> str:
    if name == "all" or any(letter in name for letter in ',"') or name != name.strip():
        doubled = name.replace('"', '""')
        return f'"{doubled}"'
    return name
