"""What a network is told of pictures: labels that it knows, and what it is given beside them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Conditions(NamedTuple):
    """What a network is given beside labels; None stands for what it does not take.

    vector: numbers of each picture [B, D]. image: channels that stand beside z [B, C', H, W].
    augment: parameters of augmentation [B, A]. What is all zero stands for none, so the last
    number of a vector and the last channel of an image are 1 where there is something.
    """

    vector: Tensor | None = None
    image: Tensor | None = None
    augment: Tensor | None = None

    def keywords(self) -> dict[str, Tensor]:
        """Those that there are, by the names that a network is called with.

        Returns:
            tensors by name.

        >>> list(Conditions(image=torch.zeros(1, 2, 4, 4)).keywords())
        ['image']
        """
        return {name: value for name, value in self._asdict().items() if value is not None}

    def each(self, change: Callable[[Tensor], Tensor]) -> "Conditions":
        """The same conditions, each of those that there are changed.

        Args:
            change: a function of a tensor.

        Returns:
            Conditions.

        >>> Conditions(vector=torch.ones(3, 2)).each(lambda x: x[:1]).vector
        tensor([[1., 1.]])
        """
        return Conditions(*(None if value is None else change(value) for value in self))

    def none(self) -> "Conditions":
        """What guidance leads away from: no numbers and no picture, augmented in the same way.

        Returns:
            Conditions.

        >>> Conditions(torch.ones(1, 2), augment=torch.ones(1, 1)).none()
        Conditions(vector=tensor([[0., 0.]]), image=None, augment=tensor([[1.]]))
        """
        return self.each(torch.zeros_like)._replace(augment=self.augment)

    def then(self, others: "Conditions") -> "Conditions":
        """Those of a batch, and after them those of another one.

        Args:
            others: of the same network.

        Returns:
            Conditions.

        >>> Conditions(torch.ones(1, 2)).then(Conditions(torch.zeros(1, 2))).vector
        tensor([[1., 1.],
                [0., 0.]])
        """
        pairs = zip(self, others, strict=True)
        return Conditions(*(b if a is None or b is None else torch.cat([a, b]) for a, b in pairs))


NO_CONDITIONS = Conditions()


def check_labels(labels: Tensor, num_classes: int, multitags: bool = False) -> None:
    """Refuse labels that a network does not know.

    It reads the values, so it belongs before the steps, on labels that are still on the host: the
    network itself looks at shapes alone.

    Args:
        labels: classes [N] in 0..K, 0 = unconditional; or 0/1 tags [N, K].
        num_classes: K.
        multitags: labels are tags.

    Raises:
        ValueError: for another shape, or values out of range; the first one is named.

    >>> import torch
    >>> check_labels(torch.tensor([0, 3, 11]), num_classes=10)
    Traceback (most recent call last):
    ValueError: expected labels in 0..10, 0 for unconditional, got 11 at 2
    """
    expected = f"[N, {num_classes}]" if multitags else "[N]"
    if labels.ndim != 1 + multitags or (multitags and labels.shape[1] != num_classes):
        raise ValueError(f"expected labels of shape {expected}, got {tuple(labels.shape)}")
    allowed = (
        (labels == 0) | (labels == 1)
        if multitags
        else (labels >= 0) & (labels <= num_classes) & (labels % 1 == 0)
    )
    if not allowed.all():
        where = (~allowed).nonzero()[0].tolist()
        valid = (
            "0 and 1 as tags" if multitags else f"labels in 0..{num_classes}, 0 for unconditional"
        )
        raise ValueError(
            f"expected {valid}, got {labels[tuple(where)].item()} at {', '.join(map(str, where))}"
        )
