"""What is trained beside the network and is no part of it: a weight of noise levels, or a network.

A companion is neither averaged nor exported; checkpoints hold it, so that a run goes on exactly.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vfn.configs import TrainConfig
from vfn.nn import Uncertainty
from vfn.runs import check_fits
from vfn.runs.checkpoint import MOMENTS
from vfn.train.optimizers import clip_and_step, moments_of, optimizer_of, restore_moments

Weigh = Callable[[Tensor], Tensor]  # logsnr [B] -> uncertainty [B]


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
            for kind, value in moments_of(self.optimizer, param).items():
                tensors[f"{kind}.{name}"] = value
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
            moments = {kind: saved[f"{kind}.{name}"] for kind in MOMENTS}
            restore_moments(self.optimizer, param, moments, saved["updates"])


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
    return Companion("auxiliary network", module, optimizer_of(module, train), train.grad_norm)
