"""Checks that the ops over sets of features share."""

from torch import Tensor

from vfn.ops._coef import check_tensor


def check_features(features: Tensor, least: int, name: str) -> None:
    """Refuse what is no tensor of features, or of too few.

    Raises:
        ValueError: for another shape.
    """
    check_tensor(features, name)
    if features.ndim != 2 or features.shape[0] < least:
        raise ValueError(
            f"expected {name} of shape [N, D] with N >= {least}, got {tuple(features.shape)}"
        )


def check_same_width(a: Tensor, b: Tensor) -> None:
    """Refuse features of different widths.

    Raises:
        ValueError: it names both.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"expected features of one width, got {a.shape[1]} and {b.shape[1]} columns"
        )
