"""Moment matching: a generator whose steps keep the conditional means that its teacher knows.

Between t and s a generator's x~ of z_t takes the data's place: z_s ~ q(z_s | z_t, x~). It draws as
the teacher's flow does if ``E[x~ | z_s]`` is the teacher's prediction at z_s. An auxiliary network
learns that mean, and the generator is moved by what the two differ by.
"""

from torch import Tensor

from vfn.ops._coef import same_shape
from vfn.ops.losses import mean_square


def moment_loss(x0: Tensor, fixed: Tensor, auxiliary: Tensor, teacher: Tensor) -> Tensor:
    """The loss of a generator by the means that it should have: ``mean |x~ - (x~_ - d)|^2``.

    ``d = E_student[x0|z_s] - E_teacher[x0|z_s]`` and ``x~_`` is x~ without gradient: the value is
    the mean square of d, the gradient ``2 d / D``.

    Args:
        x0: x~, the generator's prediction at z_t [B, ...], with gradients.
        fixed: the same without.
        auxiliary: what the auxiliary network says at z_s, without gradients, shape of ``x0``.
        teacher: what the teacher says there, likewise.

    Returns:
        loss [B].

    Raises:
        ValueError: if the shapes differ.

    Source: Salimans et al. 2024 (2406.04103), algorithm 2.

    >>> import torch
    >>> x0 = torch.zeros(1, 2, requires_grad=True)
    >>> loss = moment_loss(x0, x0.detach(), torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
    >>> loss.sum().backward()
    >>> loss.item(), x0.grad
    (2.0, tensor([[0., 2.]]))
    """
    for name, value in (("fixed", fixed), ("auxiliary", auxiliary), ("teacher", teacher)):
        same_shape(x0, value, "x0", name)
    return mean_square(x0 - fixed, teacher - auxiliary)


def auxiliary_loss(auxiliary: Tensor, x0: Tensor, teacher: Tensor) -> Tensor:
    """The loss of the auxiliary network: ``mean |g - x~|^2 + mean |g - teacher|^2``.

    The first part leads it to ``E[x~ | z_s]``, the second holds it near the teacher: it ends half
    way between, so that the generator's gradient has its direction and half of its size.

    Args:
        auxiliary: g, what it says at z_s [B, ...], with gradients.
        x0: x~, the generator's prediction that z_s was drawn with, without, shape of ``auxiliary``.
        teacher: what the teacher says at z_s, likewise.

    Returns:
        loss [B].

    Raises:
        ValueError: if the shapes differ.

    Source: Salimans et al. 2024 (2406.04103), algorithm 2.

    >>> import torch
    >>> auxiliary_loss(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
    tensor([1.])
    """
    same_shape(auxiliary, x0, "auxiliary", "x0")
    same_shape(auxiliary, teacher, "auxiliary", "teacher")
    return mean_square(auxiliary, x0) + mean_square(auxiliary, teacher)
