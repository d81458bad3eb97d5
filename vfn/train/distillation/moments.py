"""Moment matching: one run, whose student draws in a few steps what its teacher draws in many.

Beside the student a second network learns what data to expect of the student's own states, and
is held near the teacher.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from vfn.configs import Config, DiffusionConfig
from vfn.model import schedule_of
from vfn.nn import Network
from vfn.objective import Batch, predicted
from vfn.ops import (
    Learned,
    ancestral_step,
    auxiliary_loss,
    loss_weight,
    moment_loss,
    q_sample,
)
from vfn.sampling import Trained
from vfn.train.distillation.methods import (
    NO_LIMITS,
    Limits,
    Method,
    Weak,
    WithAuxiliary,
    limits_of,
)
from vfn.train.distillation.plan import student_sample
from vfn.train.distillation.teaching import taught_by


def moment_objective(
    teacher: nn.Module,
    guidance: float,
    steps: int,
    weak: Weak | None = None,
    limits: Limits = NO_LIMITS,
) -> WithAuxiliary:
    """What a student and its auxiliary network learn of a batch, at once.

    The student goes from ``t = min(s + u/k, 1)`` to s, the time of the batch, by an ancestral step.
    Both networks are updated after it; the published algorithm takes turns, which asks every
    network twice as often.

    Args:
        teacher: a network without gradients.
        guidance: w that is distilled in, where batches have none of their own.
        steps: k, of the student's sampling.
        weak: a weaker network that the teacher is led away from, too.
        limits: of its guidance.

    Returns:
        objective: gives the losses of both networks on a batch that has ``u`` and ``step_noise``.

    Source: Salimans et al. 2024 (2406.04103), algorithm 2.

    >>> from vfn.sampling import untrained
    >>> new = untrained("digits")
    >>> x0, noise = torch.zeros(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    >>> step = {"u": torch.rand(2), "step_noise": torch.randn(2, 1, 8, 8)}
    >>> batch = Batch(x0, torch.tensor([1, 2]), torch.tensor([0.25, 0.5]), noise, **step)
    >>> learn = moment_objective(new.model, 0.0, steps=2)
    >>> learn(new.model, batch, new.config.diffusion, new.model).auxiliary.shape
    torch.Size([2])
    """

    def loss(
        network: Network, batch: Batch, diffusion: DiffusionConfig, auxiliary: Network
    ) -> Learned:
        schedule = schedule_of(diffusion)
        assert batch.u is not None
        assert batch.step_noise is not None

        def said(by: Network, z: Tensor, t: Tensor) -> Tensor:
            logsnr = schedule.logsnr(t)
            return predicted(by, z, logsnr, batch._replace(t=t), diffusion)[0].x0

        s, t = batch.t, (batch.t + batch.u / steps).clamp(max=1)
        logsnr_s, logsnr_t = schedule.logsnr(s), schedule.logsnr(t)
        z_t = q_sample(batch.x0, logsnr_t, batch.noise)
        x0 = said(network, z_t, t)
        fixed = x0.detach()
        z_s = ancestral_step(z_t, fixed, logsnr_t, logsnr_s, batch.step_noise)
        with torch.no_grad():
            say = taught_by(teacher, batch, diffusion, guidance, weak, limits=limits)
            wanted = say(z_s, logsnr_s)
        found = said(auxiliary, z_s, s)
        weight = loss_weight(logsnr_s, diffusion.reweight_type, **diffusion.reweight_options)
        weight = weight.to(x0.dtype)
        theirs = weight * auxiliary_loss(found, fixed, wanted)
        figures = {
            "moment_error": (found - wanted).detach().square().mean(),
            "auxiliary_loss": theirs.detach().mean(),
        }
        return Learned(weight * moment_loss(x0, fixed, found.detach(), wanted), figures, theirs)

    return loss


def _stages(plan: Config) -> list[Config]:
    return [replace(plan, sample=student_sample(plan, plan.distill.student_steps, "ancestral"))]


def _objective(teacher: Trained, stage: Config, weak: Weak | None = None) -> WithAuxiliary:
    distill = stage.distill
    guidance = distill.teacher_guidance or 0.0
    return moment_objective(
        teacher.model, guidance, distill.student_steps, weak, limits_of(distill)
    )


MOMENT_MATCHING = Method(_stages, _objective, takes_weak=True, auxiliary=True)
