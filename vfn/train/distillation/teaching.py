"""What a teacher says of a batch, as every method of distillation asks it."""

from torch import nn

from vfn.configs import DiffusionConfig
from vfn.model import schedule_of, strength_within
from vfn.nn import denoiser
from vfn.objective import Batch
from vfn.ops import Denoiser
from vfn.train.distillation.methods import NO_LIMITS, Limits, Weak


def taught_by(
    teacher: nn.Module,
    batch: Batch,
    diffusion: DiffusionConfig,
    guidance: float,
    weak: Weak | None = None,
    clip: bool = False,
    limits: Limits = NO_LIMITS,
) -> Denoiser:
    """The teacher as a denoiser, guided, under the conditions of a batch.

    Args:
        teacher: a network without gradients.
        batch: its labels, other conditions, and guidance of its own, which goes first.
        diffusion: schedule and prediction type.
        guidance: w, where the batch has none.
        weak: a weaker network that the teacher is led away from, too.
        clip: whether its x0, and that of the weaker one, is held within [-1, 1], as in sampling.
        limits: of both kinds of guidance.

    Returns:
        ``denoise(z, logsnr) -> x0``.
    """
    w = guidance if batch.guidance is None else batch.guidance
    return denoiser(
        teacher,
        None,
        schedule_of(diffusion),
        diffusion.model_out_type,
        batch.labels,
        strength_within(w, limits.interval),
        clip=clip,
        rescale=limits.rescale,
        weak=None if weak is None else weak.denoiser(batch.labels, batch.more, clip),
        weak_guidance=0.0 if weak is None else strength_within(weak.guidance, limits.interval),
        conditions=batch.more,
    )
