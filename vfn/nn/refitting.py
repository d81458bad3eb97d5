"""A smooth embedding of time that says what another network's says, by least squares.

Shapes: N times, F features of time, E embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vfn.nn.conditioning import Conditioned

TIMES = 4096  # at which the embeddings are compared, evenly in 0..1
# Relative to features of unit size: weights stay small, so that the derivative in time does.
RIDGES = (1e-3, 1e-4)


@torch.no_grad()
def refit_time_embedding(student: Conditioned, teacher: Conditioned) -> None:
    """Make a network's embedding of time say what that of another one does, as far as it can.

    The first layer is fitted to the other's hidden values, then the second to its embedding. What
    the other one says of single times beyond what is smooth is lost.

    Args:
        student: a network like the teacher but for how it sees time; its two layers are changed.
        teacher: any.

    >>> from vfn.nn import UNet
    >>> one, other = (UNet(1, 1, 32, (1,), 1, time_embedding="smooth") for _ in range(2))
    >>> refit_time_embedding(one, other)
    >>> t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    >>> error = (one.embed(t, None) - other.embed(t, None)).square().mean()
    >>> error < 0.01 * other.embed(t, None).var()
    tensor(True)
    """
    first, _, second = student.time_embed
    lead, _, last = teacher.time_embed
    assert isinstance(first, nn.Linear)
    weight = first.weight
    t = (torch.arange(TIMES, dtype=torch.float64, device=weight.device) + 0.5) / TIMES
    features = student.time_features(t).double()
    hidden = lead(teacher.time_features(t).to(weight.dtype))
    _fit(first, features, hidden, RIDGES[0])
    own = F.silu(first(features.to(hidden.dtype))).double()
    _fit(second, own, last(F.silu(hidden)), RIDGES[1])


def _fit(layer: nn.Module, given: Tensor, wanted: Tensor, ridge: float) -> None:
    """Set a linear layer so that it takes [N, F] to [N, E], in the mean square."""
    assert isinstance(layer, nn.Linear)
    ones = given.new_ones(len(given), 1)
    rows = torch.cat([given, ones], 1)
    gram = rows.T @ rows / len(rows) + ridge * torch.eye(rows.shape[1]).to(rows)
    found = torch.linalg.solve(gram, rows.T @ wanted.double() / len(rows))
    layer.weight.copy_(found[:-1].T)
    layer.bias.copy_(found[-1])
