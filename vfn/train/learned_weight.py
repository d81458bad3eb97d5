"""A weight of the noise levels that is learned beside the network, and is no part of it.

It weighs whatever loss an objective gives of each picture, by its time, so every objective
can be trained with it. It is neither averaged nor exported; checkpoints hold it, so that a run goes
on exactly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vfn.configs import TrainConfig
from vfn.nn import Uncertainty
from vfn.runs import check_fits
from vfn.runs.checkpoint import MOMENTS

Weigh = Callable[[Tensor], Tensor]  # logsnr [B] -> uncertainty [B]


@dataclass
class LearnedWeight:
    """The module that gives the uncertainty of a noise level, and its optimizer."""

    module: Uncertainty
    optimizer: torch.optim.AdamW

    @property
    def params(self) -> dict[str, Tensor]:
        """The module's own tensors by name."""
        return dict(self.module.named_parameters())

    def step(self, lr: float, finite: Tensor, loss_scale: Tensor | float = 1.0) -> None:
        """Update it, and drop its gradients; without waiting for the device.

        Args:
            lr: learning rate.
            finite: whether the network's gradient was, bool []; otherwise nothing changes.
            loss_scale: what the loss was multiplied by.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        scaling = {
            "grad_scale": torch.ones_like(self.module.bias) * loss_scale,
            "found_inf": (~finite).float(),
        }
        for name, value in scaling.items():  # as `clip_and_step` tells the fused optimizer
            setattr(self.optimizer, name, value)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def saved(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it: parameters, moments and the number of updates."""
        tensors = dict(self.params)
        for name, param in self.params.items():
            slots = self.optimizer.state[param]
            for kind in MOMENTS:
                tensors[f"{kind}.{name}"] = slots.get(kind, torch.zeros_like(param))
            tensors["updates"] = slots.get("step", param.new_zeros(()))
        return tensors

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Copy what a checkpoint holds.

        Args:
            saved: see `saved`; nothing at all of a run that had none so far, which begins it.

        Raises:
            ValueError: if it is that of another module.
        """
        if not saved:
            return
        check_fits(saved, self.saved(), "the checkpoint's learned weight", "this one")
        for name, param in self.params.items():
            param.copy_(saved[name])
            slots = self.optimizer.state[param]
            slots["step"] = saved["updates"].to(param.device, copy=True)
            for kind in MOMENTS:
                slots[kind] = torch.zeros_like(param).copy_(saved[f"{kind}.{name}"])


def init_learned_weight(train: TrainConfig, device: torch.device) -> LearnedWeight:
    """A fresh one, under which the loss is the plain one; it draws no random numbers.

    Args:
        train: of the run: betas of its optimizer, which has no weight decay.
        device: of the run.

    Returns:
        LearnedWeight.

    >>> state = init_learned_weight(TrainConfig(), torch.device("cpu"))
    >>> sorted(state.saved())[:4]
    ['bias', 'exp_avg.bias', 'exp_avg.weight', 'exp_avg_sq.bias']
    """
    module = Uncertainty().to(device)
    betas = (train.beta1, train.beta2)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=train.lr, betas=betas, weight_decay=0, fused=True
    )
    return LearnedWeight(module, optimizer)
