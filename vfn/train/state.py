"""What training changes from step to step, and the step itself."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vfn.configs import Config, TrainConfig
from vfn.nn import UNet
from vfn.ops import ema_decay, ema_update_
from vfn.train.batch import Batch
from vfn.train.objective import batch_loss


class DataShape(NamedTuple):
    """What a network has to know of its data set."""

    channels: int
    height: int
    width: int
    class_names: tuple[str, ...]
    multitags: bool = False


class StepResult(NamedTuple):
    """Mean loss over this process's pictures and norm of the gradient before clipping."""

    loss: Tensor
    grad_norm: Tensor


@dataclass
class TrainState:
    """Parameters, their average, the optimizer's moments and the number of steps done.

    ``params`` are the model's own tensors; ``ema`` is a second dictionary of the same names, which
    `torch.func.functional_call` puts in their place.
    """

    params: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    step: int = 0


def build_model(config: Config, shape: DataShape) -> UNet:
    """The network that a configuration describes, for data of some shape.

    >>> from vfn.configs import load
    >>> net = build_model(load("digits"), DataShape(1, 8, 8, tuple("0123456789")))
    >>> sum(p.numel() for p in net.parameters())
    1169665
    """
    model = config.model
    outputs = 2 if config.diffusion.model_out_type == "both" else 1
    return UNet(
        shape.channels,
        outputs * shape.channels,
        hid_channels=model.hid_channels,
        ch_multipliers=model.ch_multipliers,
        num_res_blocks=model.num_res_blocks,
        apply_attn=model.apply_attn,
        embedding_dim=model.embedding_dim,
        dropout=model.dropout,
        num_heads=model.num_heads,
        head_dim=model.head_dim,
        num_classes=len(shape.class_names),
        multitags=shape.multitags,
        resample_with_res=model.resample_with_res,
        checkpoint_activations=model.checkpoint_activations,
    )


def init_state(model: nn.Module, train: TrainConfig) -> TrainState:
    """Fresh state around a model's parameters."""
    params: dict[str, Tensor] = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        params.values(),
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
        fused=True,
    )
    return TrainState(params, {k: v.detach().clone() for k, v in params.items()}, optimizer)


def learning_rate(step: int, train: TrainConfig) -> float:
    """Linear warm-up, then constant or a half cosine that reaches zero after the last step.

    >>> from vfn.configs import TrainConfig
    >>> learning_rate(0, TrainConfig(lr=1.0, warmup=4))
    0.25
    """
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    if train.lr_schedule == "constant":
        return train.lr * warm
    return train.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / train.steps)))


def clip_and_step(
    optimizer: torch.optim.AdamW, params: Iterable[Tensor], max_norm: float
) -> Tensor:
    """Clip the gradients by their common norm, update the parameters, and drop the gradients.

    The fused optimizer divides by the clipping factor on its way, which saves a pass over all
    gradients, and leaves parameters and moments as they are where the norm is not finite, without
    waiting for the device.

    Args:
        optimizer: a fused one, over ``params``; changed in place.
        params: with gradients.
        max_norm: the norm that gradients are scaled down to.

    Returns:
        norm of the gradient before clipping, on the device.
    """
    norm = nn.utils.get_total_norm(p.grad for p in params if p.grad is not None)
    scaling = {
        "grad_scale": ((norm + 1e-6) / max_norm).clamp(min=1),
        "found_inf": (~norm.isfinite()).float(),
    }
    for name, value in scaling.items():  # attributes through which torch.amp tells it the same
        setattr(optimizer, name, value)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def train_step(
    state: TrainState,
    network: Callable[..., Tensor],
    micro_batches: Iterable[Batch],
    config: Config,
) -> StepResult:
    """One optimizer step over this process's micro-batches, in place.

    Args:
        state: changed: gradients are consumed, parameters, moments, EMA and step move on.
        network: the model, or its DistributedDataParallel wrapper, which averages the gradients
            over processes.
        micro_batches: the ``accumulate`` equally large parts of this process's share of the global
            batch; each is used before the next is asked for.
        config: diffusion and optimizer settings.

    Returns:
        StepResult(loss, grad_norm), on the device.
    """
    parts, losses = config.train.accumulate, []
    for i, batch in enumerate(micro_batches):
        more = i < parts - 1
        wait = isinstance(network, DistributedDataParallel) and more
        with network.no_sync() if wait else nullcontext():  # type: ignore[attr-defined]
            loss = batch_loss(network, batch, config.diffusion).mean() / parts
            loss.backward()
        losses.append(loss.detach())
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, config.train)
    grad_norm = clip_and_step(state.optimizer, state.params.values(), config.train.grad_norm)
    state.step += 1
    ema_update_(state.ema, state.params, ema_decay(state.step, config.train.ema_decay))
    return StepResult(torch.stack(losses).sum(), grad_norm)
