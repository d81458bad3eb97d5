"""Consistency distillation: one run, whose student learns where the teacher's paths end.

At first a student learns what its teacher says, where it has an embedding of time of its own; then
it is told where the teacher's paths lead, dz/dphi = v, at the points of each batch.
"""

from dataclasses import replace

import torch
from torch import nn

from vfn.configs import Config, DiffusionConfig
from vfn.model import schedule_of
from vfn.nn import Network, live_velocity
from vfn.objective import Batch, Objective, loss_on_paths, path_loss
from vfn.ops import OBJECTIVES, Learned, consistency_loss, q_sample, v_from_x0
from vfn.sampling import Trained
from vfn.train.distillation.methods import NO_LIMITS, Limits, Method, Weak, limits_of
from vfn.train.distillation.plan import student_sample
from vfn.train.distillation.teaching import taught_by


def path_objective(
    teacher: nn.Module,
    guidance: float,
    regress_updates: int = 0,
    weak: Weak | None = None,
    limits: Limits = NO_LIMITS,
) -> Objective:
    """What a student learns of the paths of a teacher's flow.

    Pairs of noise levels (ect) lie on the lines of the data where nothing guides the teacher, as
    published: the student has begun as it, and it is asked only if there are first updates.

    Args:
        teacher: a network without gradients.
        guidance: w that is distilled in, where batches have none of their own.
        regress_updates: first updates, in which the student learns the teacher's v itself.
        weak: a weaker network that the teacher is led away from, too.
        limits: of its guidance.

    Returns:
        objective: gives the loss [B] of the student's network on a batch.

    Source: Lu & Song 2024 (2410.11081), algorithm 1; Geng et al. 2024 (2406.14548).

    >>> from vfn.configs import load, override
    >>> from vfn.sampling import untrained
    >>> new = untrained(load("digits_ect"))
    >>> x0, noise = torch.zeros(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    >>> step = {"r": torch.zeros(2), "update": 0}
    >>> batch = Batch(x0, torch.tensor([1, 2]), torch.tensor([0.5, 1.0]), noise, **step)
    >>> path_objective(new.model, 0.0)(new.model, batch, new.config.diffusion).loss.shape
    torch.Size([2])
    """
    led = guidance > 0 or weak is not None or regress_updates > 0

    def loss(network: Network, batch: Batch, diffusion: DiffusionConfig) -> Learned:
        if diffusion.objective == "ect" and not led and batch.guidance is None:
            return path_loss(network, batch, diffusion)
        schedule, out_type = schedule_of(diffusion), diffusion.model_out_type
        logsnr = schedule.logsnr(batch.t)
        z = q_sample(batch.x0, logsnr, batch.noise)
        with torch.no_grad():
            x0 = taught_by(teacher, batch, diffusion, guidance, weak, limits=limits)(z, logsnr)
            dz = v_from_x0(z, x0, logsnr)
        if batch.update is None or batch.update >= regress_updates:
            later = None if batch.update is None else batch.update - regress_updates
            return loss_on_paths(network, z, dz, batch._replace(update=later), diffusion)
        v = live_velocity(network, schedule, out_type, batch.conditions, batch.more)(z, logsnr)
        return Learned(consistency_loss(v, dz, torch.zeros_like(dz)), {})

    return loss


def _stages(plan: Config) -> list[Config]:
    steps, times = plan.distill.student_steps, plan.sample.times
    sampler = OBJECTIVES.find(plan.diffusion.objective).sampler or plan.sample.sampler
    fitting = times if times is not None and len(times) == steps else None
    return [replace(plan, sample=student_sample(plan, steps, sampler, fitting))]


def _objective(teacher: Trained, stage: Config, weak: Weak | None = None) -> Objective:
    distill = stage.distill
    guidance, first = distill.teacher_guidance or 0.0, distill.method_options["regress_updates"]
    return path_objective(teacher.model, guidance, first, weak, limits_of(distill))


FEW_STEPS = Method(_stages, _objective, takes_weak=True)
