"""Optimizers: AdamW, and Muon for matrices; clipping, steps left out, what a checkpoint holds."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vfn.configs import TrainConfig
from vfn.nn.conditioning import Conditioned
from vfn.ops import orthogonalize
from vfn.runs.checkpoint import MOMENTS

NARROW = 16  # what has fewer rows or columns is no matrix to Muon: pixels come in and go out so
AS_ADAM = 0.2  # about the root mean square of an update of Adam, in learning rates


class Muon(torch.optim.AdamW):
    """Muon for matrices, with momentum beta1, and fused AdamW for all other parameters.

    ``m <- beta1 m + (1 - beta1) g``, ``u = orthogonalize((1 - beta1) g + beta1 m)``, ``p <- p - lr
    0.2 sqrt(max(M, N)) u``: an update is as large as Adam's, so that one learning rate serves both.
    The weight of a convolution is the matrix of its outputs by all that goes into one. Like the
    fused AdamW it takes ``grad_scale`` and ``found_inf``, and never waits for the device, which
    torch's own Muon does not, nor does that take convolutions.

    Args:
        params: all parameters.
        matrices: those of them with two dimensions or more that Muon updates.
        lr: learning rate.
        betas: of AdamW.
        weight_decay: of both, decoupled.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the factor is of Liu et
    al. 2025 (2502.16982), section 2.2.

    >>> layer = nn.Linear(32, 32)
    >>> optimizer = Muon(layer.parameters(), [layer.weight], lr=0.1)
    >>> layer(torch.eye(32)).square().sum().backward()
    >>> optimizer.step()
    >>> sorted(optimizer.state[layer.weight]), sorted(optimizer.state[layer.bias])
    (['exp_avg', 'step'], ['exp_avg', 'exp_avg_sq', 'step'])
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        matrices: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        self.matrices = list(matrices)

    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient; those of matrices are dropped."""
        assert closure is None
        (group,) = self.param_groups
        good = 1 - getattr(self, "found_inf", torch.zeros((), device=group["params"][0].device))
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for param in self.matrices:
            if param.grad is not None:
                key = (*param.flatten(1).shape, param.dtype, param.device)
                alike.setdefault(key, []).append(param)
        for params in alike.values():  # matrices of one shape at once
            self._update(params, group, good)
        return super().step()

    @torch.no_grad()
    def _update(self, params: list[Tensor], group: Mapping[str, Any], good: Tensor) -> None:
        """Update matrices of one shape; ``good`` is 1, or 0 where nothing is to change."""
        beta, lr = group["betas"][0], group["lr"]
        towards = []
        for param in params:
            assert param.grad is not None
            slots = self.state[param]
            if not slots:
                slots.update(step=good.new_zeros(()), exp_avg=torch.zeros_like(param))
            momentum = slots["exp_avg"]
            gradient = torch.where(good > 0, param.grad / getattr(self, "grad_scale", 1.0), 0.0)
            momentum.lerp_(gradient, (1 - beta) * good)
            slots["step"] += good
            towards.append(gradient.lerp(momentum, beta).flatten(1))
            param.grad = None
        updates = orthogonalize(torch.stack(towards)) * good
        length = lr * AS_ADAM * math.sqrt(max(updates.shape[1:]))
        for param, update in zip(params, updates, strict=True):
            if group["weight_decay"]:
                param.mul_(1 - lr * group["weight_decay"] * good)
            param.sub_(update.reshape(param.shape), alpha=length)


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are matrices to Muon.

    Those of two dimensions or more with at least 16 outputs and 16 inputs, channels counted, but
    for embeddings of classes, whose rows are as important as pictures of their class are frequent.

    Args:
        model: any network.

    Returns:
        its parameters, in their order.

    >>> [tuple(p.shape) for p in matrices_of(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Linear(16, 32)))]
    [(32, 16)]
    """
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    for part in model.modules():
        if isinstance(part, Conditioned) and part.label_embed is not None:
            tables.add(id(part.label_embed.weight))
    return [
        param
        for param in model.parameters()
        if param.ndim >= 2 and min(param.shape[:2]) >= NARROW and id(param) not in tables
    ]


def optimizer_of(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """The optimizer of a network.

    Args:
        model: whose parameters it updates.
        train: its settings.

    Returns:
        a fused AdamW, or one with Muon for matrices.

    >>> optimizer_of(nn.Linear(1, 1), TrainConfig(lr=0.5)).defaults["lr"]
    0.5
    """
    params, betas = model.parameters(), (train.beta1, train.beta2)
    if train.optimizer == "muon":
        return Muon(params, matrices_of(model), train.lr, betas, train.weight_decay)
    return torch.optim.AdamW(
        params, lr=train.lr, betas=betas, weight_decay=train.weight_decay, fused=True
    )


def moments_of(optimizer: torch.optim.AdamW, param: Tensor) -> dict[str, Tensor]:
    """What a checkpoint holds of a parameter's updates: zeros of what there is not, or not yet.

    Args:
        optimizer: one of `optimizer_of`.
        param: one of its parameters.

    Returns:
        tensors by `MOMENTS`.
    """
    slots = optimizer.state[param]
    return {kind: slots[kind] if kind in slots else torch.zeros_like(param) for kind in MOMENTS}


def restore_moments(
    optimizer: torch.optim.AdamW, param: Tensor, moments: Mapping[str, Tensor], updates: Tensor
) -> None:
    """Copy what a checkpoint holds.

    Args:
        optimizer: one like that of the checkpoint; changed in place.
        param: one of its parameters.
        moments: see `moments_of`.
        updates: steps that have changed the parameters, [].
    """
    second = not isinstance(optimizer, Muon) or all(param is not m for m in optimizer.matrices)
    slots = optimizer.state[param]
    slots["step"] = updates.to(param.device, copy=True)
    for kind in MOMENTS if second else MOMENTS[:1]:
        slots[kind] = torch.zeros_like(param).copy_(moments[kind])


def gradient_norm(params: Iterable[Tensor], loss_scale: Tensor | float = 1.0) -> Tensor:
    """Common norm of the gradients.

    Args:
        params: with gradients, some of them.
        loss_scale: what the loss was multiplied by.

    Returns:
        a number on the device, shape [].

    >>> weight = torch.ones(2, requires_grad=True)
    >>> (3 * weight).sum().backward()
    >>> gradient_norm([weight], 3.0)
    tensor(1.4142)
    """
    gradients = [p.grad for p in params if p.grad is not None]
    return nn.utils.get_total_norm(gradients) / loss_scale


def clip_and_step(
    optimizer: torch.optim.AdamW,
    params: Iterable[Tensor],
    max_norm: float,
    loss_scale: Tensor | float = 1.0,
    allowed: Tensor | None = None,
) -> Tensor:
    """Clip the gradients by their common norm, update the parameters, and drop the gradients.

    The fused optimizer divides by the clipping factor on its way, which saves a pass over all
    gradients, and leaves parameters and moments as they are where the norm is not finite, without
    waiting for the device.

    Args:
        optimizer: a fused one, over ``params``; changed in place.
        params: with gradients.
        max_norm: the norm that gradients are scaled down to; inf leaves them as they are.
        loss_scale: what the loss was multiplied by.
        allowed: whether to update at all, bool []; None for yes.

    Returns:
        norm of the gradient before clipping, on the device.
    """
    norm = gradient_norm(params, loss_scale)
    good = norm.isfinite() if allowed is None else norm.isfinite() & allowed
    scaling = {
        "grad_scale": loss_scale * ((norm + 1e-6) / max_norm).clamp(min=1),
        "found_inf": (~good).float(),
    }
    for name, value in scaling.items():  # attributes through which torch.amp tells it the same
        setattr(optimizer, name, value)
    optimizer.step()
    optimizer.zero_grad()
    return norm
