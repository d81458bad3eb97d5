"""The training objective, shared by training and by the held-out loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from vfn.configs import DiffusionConfig
from vfn.ops import (
    LogSNRSchedule,
    Prediction,
    logsnr_schedule,
    mse_loss,
    predict,
    q_sample,
    v_from_x0_eps,
)
from vfn.train.batch import Batch

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def schedule_of(diffusion: DiffusionConfig) -> LogSNRSchedule:
    """The log-SNR schedule that a configuration names."""
    return logsnr_schedule(diffusion.logsnr_schedule, diffusion.logsnr_min, diffusion.logsnr_max)


def batch_loss(network: Network, batch: Batch, diffusion: DiffusionConfig) -> Tensor:
    """Loss of each picture in a batch.

    Args:
        network: called as ``network(z, t, labels)``.
        batch: see `vfn.train.batch.make_batch`.
        diffusion: schedule, prediction type and weighting.

    Returns:
        loss [B].
    """
    logsnr = schedule_of(diffusion).logsnr(batch.t)
    z = q_sample(batch.x0, logsnr, batch.noise)
    out = network(z, batch.t, batch.labels)
    target = Prediction(batch.x0, batch.noise, v_from_x0_eps(batch.x0, batch.noise, logsnr))
    return mse_loss(
        predict(z, out, logsnr, diffusion.model_out_type), target, diffusion.reweight_type, logsnr
    )


@torch.inference_mode()
def held_out_loss(network: Network, batches: list[Batch], diffusion: DiffusionConfig) -> Tensor:
    """Loss of each picture of some fixed batches, [N]."""
    return torch.cat([batch_loss(network, batch, diffusion) for batch in batches])
