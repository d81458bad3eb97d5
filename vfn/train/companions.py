"""What is trained beside the network and is no part of it: a weight of noise levels, or a network.

A companion is neither averaged nor exported; checkpoints hold it, so that a run goes on exactly.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vfn.configs import TrainConfig
from vfn.nn import Uncertainty
from vfn.runs import check_fits
from vfn.runs.checkpoint import MOMENTS

Weigh = Callable[[Tensor], Tensor]  # logsnr [B] -> uncertainty [B]


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


@dataclass
class Companion:
    """A module that is trained beside the network, and its optimizer.

    name: what messages call it. max_norm: that its gradients are scaled down to.
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.AdamW
    max_norm: float = float("inf")

    @property
    def params(self) -> dict[str, Tensor]:
        """The module's own tensors by name."""
        return dict(self.module.named_parameters())

    def step(
        self, lr: float, allowed: Tensor | None = None, loss_scale: Tensor | float = 1.0
    ) -> None:
        """Update it, and drop its gradients; without waiting for the device.

        Args:
            lr: learning rate.
            allowed: whether to update at all, bool []; None for yes.
            loss_scale: what the loss was multiplied by.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        params = self.params.values()
        clip_and_step(self.optimizer, params, self.max_norm, loss_scale, allowed)

    def saved(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it: parameters, moments and the number of updates."""
        tensors = dict(self.params)
        for name, param in self.params.items():
            slots = self.optimizer.state[param]
            for kind in MOMENTS:
                tensors[f"{kind}.{name}"] = slots.get(kind, torch.zeros_like(param))
        return tensors | {"updates": self._updates()}

    def _updates(self) -> Tensor:
        """Of the parameters that had most: some may never have a gradient."""
        none = next(iter(self.params.values())).new_zeros(())
        steps = [self.optimizer.state[p].get("step", none) for p in self.params.values()]
        return torch.stack(steps).max()

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Copy what a checkpoint holds.

        Args:
            saved: see `saved`.

        Raises:
            ValueError: if it is that of another module.
        """
        check_fits(saved, self.saved(), f"the checkpoint's {self.name}", "this one")
        for name, param in self.params.items():
            param.copy_(saved[name])
            slots = self.optimizer.state[param]
            slots["step"] = saved["updates"].to(param.device, copy=True)
            for kind in MOMENTS:
                slots[kind] = torch.zeros_like(param).copy_(saved[f"{kind}.{name}"])


def init_learned_weight(train: TrainConfig, device: torch.device) -> Companion:
    """A fresh weight of noise levels, under which the loss is the plain one.

    It weighs whatever loss an objective gives of each picture, by its time, so every objective can
    be trained with it. It draws no random numbers.

    Args:
        train: of the run: betas of its optimizer, which has no weight decay.
        device: of the run.

    Returns:
        Companion, whose module gives the uncertainty of a logsnr.

    >>> state = init_learned_weight(TrainConfig(), torch.device("cpu"))
    >>> sorted(state.saved())[:4]
    ['bias', 'exp_avg.bias', 'exp_avg.weight', 'exp_avg_sq.bias']
    """
    module = Uncertainty().to(device)
    betas = (train.beta1, train.beta2)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=train.lr, betas=betas, weight_decay=0, fused=True
    )
    return Companion("learned weight", module, optimizer)


def init_auxiliary(model: nn.Module, train: TrainConfig) -> Companion:
    """A second network of the same kind, with the same parameters.

    It stays in evaluation mode: masks of dropout would be the same in both, picture by picture.

    Args:
        model: the network; it is copied.
        train: of the run: the optimizer is as the network's.

    Returns:
        Companion.

    >>> model = nn.Linear(2, 2)
    >>> second = init_auxiliary(model, TrainConfig())
    >>> bool((second.params["weight"] == model.weight).all()), second.module is model
    (True, False)
    """
    module = copy.deepcopy(model).eval()
    return Companion("auxiliary network", module, adamw(module, train), train.grad_norm)


def adamw(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """The optimizer of a network.

    Args:
        model: whose parameters it updates.
        train: its settings.

    Returns:
        a fused one.

    >>> adamw(nn.Linear(1, 1), TrainConfig(lr=0.5)).defaults["lr"]
    0.5
    """
    return torch.optim.AdamW(
        model.parameters(),
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
        fused=True,
    )
