"""The training objective, shared by training and by the held-out loss."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
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

LOGSNR_BINS = 8
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
# Loss of each picture of a batch, [B].
Objective = Callable[[Network, Batch, DiffusionConfig], Tensor]


def schedule_of(diffusion: DiffusionConfig) -> LogSNRSchedule:
    """The log-SNR schedule that a configuration names."""
    return logsnr_schedule(diffusion.logsnr_schedule, diffusion.logsnr_min, diffusion.logsnr_max)


def logsnr_edges(diffusion: DiffusionConfig) -> Tensor:
    """Edges of `LOGSNR_BINS` equal bins of the schedule's logsnr, float64, rising."""
    # Not the very end: legacy's logsnr is infinite at t=0.
    ends = torch.tensor([1.0, 1e-4], dtype=torch.float64)
    lowest, highest = schedule_of(diffusion).logsnr(ends).tolist()
    return torch.linspace(lowest, highest, LOGSNR_BINS + 1, dtype=torch.float64)


def binned(loss: Tensor, t: Tensor, diffusion: DiffusionConfig) -> Tensor:
    """Sum of the finite losses and their number in each bin of `logsnr_edges`, [2, LOGSNR_BINS]."""
    inner = logsnr_edges(diffusion)[1:-1].to(t.device)
    bins = torch.bucketize(schedule_of(diffusion).logsnr(t), inner)
    member = F.one_hot(bins, LOGSNR_BINS).to(loss.dtype)
    finite = loss.isfinite()
    return torch.stack([torch.where(finite, loss, 0), finite.to(loss.dtype)]) @ member


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
    target = Prediction(batch.x0, batch.noise, v_from_x0_eps(batch.x0, batch.noise, logsnr))
    return weighted_error(network, z, batch, target, diffusion)


def weighted_error(
    network: Network, z: Tensor, batch: Batch, target: Prediction, diffusion: DiffusionConfig
) -> Tensor:
    """Weighted square error of the network's prediction at z, [B]."""
    logsnr = schedule_of(diffusion).logsnr(batch.t)
    out = network(z, batch.t, batch.labels)
    return mse_loss(
        predict(z, out, logsnr, diffusion.model_out_type), target, diffusion.reweight_type, logsnr
    )


@torch.inference_mode()
def held_out_loss(
    network: Network,
    batches: Iterable[Batch],
    diffusion: DiffusionConfig,
    objective: Objective = batch_loss,
) -> Tensor:
    """Loss of each picture of some fixed batches, [N]."""
    return torch.cat([objective(network, batch, diffusion) for batch in batches])
