"""Guidance: combine a conditional and an unconditional prediction."""

from torch import Tensor

from vfn.ops._coef import same_shape


def guide(cond: Tensor, uncond: Tensor, w: float) -> Tensor:
    """Classifier-free guidance: ``cond + w (cond - uncond)``.

    Args:
        cond: conditional prediction [B, ...].
        uncond: unconditional prediction, shape of ``cond``.
        w: strength; 0 is the conditional prediction, -1 the unconditional.

    Returns:
        guided prediction, shape of ``cond``.

    Raises:
        ValueError: if the shapes differ.

    Source: Ho & Salimans 2021 (2207.12598), eq. 6.

    >>> guide(torch.tensor([2.0]), torch.tensor([1.0]), w=0.5)
    tensor([2.5000])
    """
    same_shape(cond, uncond, "cond", "uncond")
    return cond + w * (cond - uncond)
