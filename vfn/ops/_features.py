"""Checks that the ops over sets of features share."""

from torch import Tensor


def check_features(features: Tensor, least: int, name: str) -> None:
    if features.ndim != 2 or features.shape[0] < least:
        raise ValueError(
            f"expected {name} of shape [N, D] with N >= {least}, got {tuple(features.shape)}"
        )


def check_same_width(a: Tensor, b: Tensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"expected features of one width, got {a.shape[1]} and {b.shape[1]} columns"
        )
