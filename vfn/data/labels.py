"""Labels as people write them: class names, or tags joined by ``+``."""

from collections.abc import Sequence

from torch import Tensor

TAG_SEPARATOR = "+"


def parse_labels(
    text: str, class_names: Sequence[str], multitags: bool = False
) -> list[int] | list[list[int]]:
    """Labels separated by commas, as a network takes them.

    Args:
        text: class names such as ``"3,7"``, or for tags ``"Smiling+Blond_Hair,Male"``; ``"all"`` is
            every class, or every tag alone, once.
        class_names: the data set's names.
        multitags: names are tags, of which a picture may have several.

    Returns:
        classes 1..K, or rows of K zeros and ones, in the order given.

    Raises:
        ValueError: for a name that the data set does not have.

    >>> parse_labels("b,a", ("a", "b"))
    [2, 1]
    >>> parse_labels("c+a,b", ("a", "b", "c"), multitags=True)
    [[1, 0, 1], [0, 1, 0]]
    """
    parts = list(class_names) if text == "all" else [part.strip() for part in text.split(",")]
    if multitags:
        return [tag_row(part, class_names) for part in parts]
    return [_number(part, class_names) + 1 for part in parts]


def tag_row(text: str, class_names: Sequence[str]) -> list[int]:
    """Tags joined by ``+`` as a row of zeros and ones; an empty text is no tag.

    >>> tag_row("b", ("a", "b"))
    [0, 1]
    """
    names = [name.strip() for name in text.split(TAG_SEPARATOR)] if text.strip() else []
    numbers = {_number(name, class_names) for name in names}
    return [int(k in numbers) for k in range(len(class_names))]


def label_names(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """The texts that `parse_labels` reads back: class names, or tags joined by ``+``.

    Args:
        labels: classes [N], or tags [N, K].
        class_names: K names.

    Returns:
        one text for each label.

    >>> label_names(torch.tensor([2, 1]), ("a", "b"))
    ['b', 'a']
    >>> label_names(torch.tensor([[1, 0, 1]]), ("a", "b", "c"))
    ['a+c']
    """
    if labels.ndim == 1:
        return [class_names[label - 1] for label in labels.tolist()]
    return [
        TAG_SEPARATOR.join(name for name, has in zip(class_names, row, strict=True) if has)
        for row in labels.tolist()
    ]


def _number(name: str, class_names: Sequence[str]) -> int:
    if name not in class_names:
        raise ValueError(
            f"unknown label {name!r}, expected names among {', '.join(class_names)}, "
            "separated by commas, or all"
        )
    return class_names.index(name)
