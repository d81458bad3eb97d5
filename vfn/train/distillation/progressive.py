"""Progressive distillation: halvings of the sampling steps, each of them a run of its own.

A student starts as its teacher, and learns to do in one DDIM step what the teacher does in two.
"""

import torch
from torch import Tensor, nn

from vfn.configs import Config, DiffusionConfig
from vfn.model import schedule_of
from vfn.nn import Network
from vfn.objective import Batch, Objective, weighted_error
from vfn.ops import Prediction, distill_target, eps_from_x0, q_sample, v_from_x0
from vfn.sampling import Trained
from vfn.train.distillation.methods import NO_LIMITS, Limits, Method, Weak, limits_of
from vfn.train.distillation.plan import halvings, stage_config
from vfn.train.distillation.teaching import taught_by


def distill_objective(
    teacher: nn.Module,
    guidance: float,
    in_steps: int,
    weak: Weak | None = None,
    limits: Limits = NO_LIMITS,
    clip: bool = True,
) -> Objective:
    """Error against what the teacher's two DDIM steps amount to.

    ``t = i/N``: the teacher goes from t over ``(i - 1/2)/N`` to ``(i - 1)/N``, and at the last of
    these, the data, its last x0 is the target.

    Args:
        teacher: a network without gradients.
        guidance: w that is distilled in, where batches have none of their own.
        in_steps: N, the student's steps; times of batches are ``1/N, ..., 1``.
        weak: a weaker network that the teacher is led away from, too.
        limits: of its guidance.
        clip: whether its x0 is held within [-1, 1], as in sampling of data with that range.

    Returns:
        objective: gives the loss [B] of the student's network on a batch.

    Source: Salimans & Ho 2022 (2202.00512), algorithm 2; Meng et al. 2023 (2210.03142), section 3.

    >>> from vfn.sampling import untrained
    >>> new = untrained("digits")
    >>> x0, noise = torch.zeros(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    >>> batch = Batch(x0, torch.tensor([1, 2]), torch.tensor([0.5, 1.0]), noise)
    >>> distill_objective(new.model, 0.0, in_steps=2)(new.model, batch, new.config.diffusion).shape
    torch.Size([2])
    """

    def loss(network: Network, batch: Batch, diffusion: DiffusionConfig) -> Tensor:
        schedule = schedule_of(diffusion)
        logsnr = schedule.logsnr(batch.t)
        z = q_sample(batch.x0, logsnr, batch.noise)
        with torch.inference_mode():
            i = torch.round(batch.t * in_steps)
            end = schedule.logsnr(((i - 1) / in_steps).clamp(min=0))
            target = distill_target(
                taught_by(teacher, batch, diffusion, guidance, weak, clip=clip, limits=limits),
                z,
                logsnr,
                schedule.logsnr((i - 0.5) / in_steps),
                torch.where(i > 1, end, torch.inf),
            )
        x0 = target.clone()  # a tensor that the student's backward pass may see
        wanted = Prediction(x0, eps_from_x0(z, x0, logsnr), v_from_x0(z, x0, logsnr))
        return weighted_error(network, z, batch, wanted, diffusion)

    return loss


def _stages(plan: Config) -> list[Config]:
    return [stage_config(plan, steps) for steps in halvings(plan.distill)]


def _objective(teacher: Trained, stage: Config, weak: Weak | None = None) -> Objective:
    distill = stage.distill
    guidance, limits = distill.teacher_guidance or 0.0, limits_of(distill)
    clip = teacher.shape.values.bounded
    return distill_objective(teacher.model, guidance, distill.student_steps, weak, limits, clip)


PROGRESSIVE = Method(_stages, _objective, takes_weak=True)
