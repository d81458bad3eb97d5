"""How many bits a dimension of held-out pictures takes, each figure with its standard error."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vfn.configs import DiffusionConfig
from vfn.configs.schema import SEED
from vfn.data import Dataset
from vfn.evaluation.held_out import check_weight, some_of
from vfn.evaluation.metrics import KINDS
from vfn.evaluation.sides import Figure, Judged
from vfn.model import fixed_conditions, schedule_of
from vfn.numbers import whole
from vfn.ops import (
    Denoiser,
    VarType,
    continuous_vlb_bpd,
    dequantize,
    flow_loglik,
    keyed_normal,
    keyed_uniform,
    loglik_bpd,
    low_discrepancy_time,
    mean_and_error,
    uniform_logsnr_grid,
    vlb_bpd,
)
from vfn.progress import Progress
from vfn.sampling import Trained
from vfn.streams import Stream

STEPS, DRAWS, FLOW_STEPS, BATCH = 256, 64, 128, 120
# The bounds hold wherever the decoder takes over. Best it does where sigma/alpha is half a level:
# a network that does not know of the levels pays 0.7 bits for each unit of logsnr beyond.
DECODED = 2 * math.log(255)
NOTES = {
    "bits_bound_discrete": f"{STEPS} steps of {{var_type}}",
    "bits_bound_continuous": f"{DRAWS} noise levels a picture, VDM's categorical decoder",
    "bits_flow": f"{FLOW_STEPS} steps, one probe a picture, dequantized",
}


def bits_per_dim(
    trained: Trained,
    held_out: Dataset,
    *,
    num: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
) -> list[Figure]:
    """The variational bound, discrete and continuous, and the likelihood under the flow.

    Args:
        trained: the network, in evaluation mode.
        held_out: pictures that training has not seen, with the labels it is conditioned on.
        num: how many of them, evenly spread; all if None.
        seed: of all noise; picture i has the same in every batch.
        guidance: w, which has to be named for a network that takes it as an input; None is 0 of
            others.

    Returns:
        three figures with their standard errors.

    Raises:
        ValueError: without a weight of a network that takes one as an input, or one that it does
            not know; for numbers that are none, and other pictures than of 256 levels.

    >>> from vfn.configs import load, override
    >>> from vfn.data import load_dataset
    >>> from vfn.sampling import untrained
    >>> small = dict(hid_channels=8, ch_multipliers=(1,), apply_attn=(False,), num_res_blocks=1)
    >>> new = untrained(override(load("digits"), small))
    >>> [figure.key for figure in bits_per_dim(new, load_dataset("digits", "test"), num=1)]
    ['bits_bound_discrete', 'bits_bound_continuous', 'bits_flow']
    """
    seed = whole(seed, "seed", 0, SEED)
    check_weight(trained, guidance)
    for values in (trained.shape.values, held_out.values):
        if not values.plain:
            raise ValueError(
                "expected 8-bit pictures, whose 256 levels bits per dimension are of, got "
                f"{values.describe()}; judge such a network by its loss"
            )
    diffusion, device = trained.config.diffusion, trained.device
    count = len(held_out.images)
    count = count if num is None else min(whole(num, "num", 1), count)
    counted = []
    with Progress(count, "picture", "bits per dimension") as progress:
        for keys in some_of(torch.arange(len(held_out.images)), count).split(BATCH):
            labels = None if held_out.labels is None else held_out.labels[keys]
            x0 = held_out.values.to_unit(held_out.images[keys].to(device))
            more = fixed_conditions(held_out, keys, x0, trained.config.data.condition)
            denoise = partial(trained.denoiser, labels, guidance or 0.0, conditions=more)
            counted.append(_of_batch(denoise, diffusion, x0, keys.to(device), seed))
            progress.advance(len(keys))
    estimates = (mean_and_error(row) for row in torch.cat(counted, dim=1).double())
    return [
        Figure(
            key,
            KINDS[key].title,
            mean.item(),
            better=KINDS[key].better,
            note=note.format(var_type=_var_type(diffusion)),
            error=error.item() if error.isfinite() else None,  # of a single picture
        )
        for (key, note), (mean, error) in zip(NOTES.items(), estimates, strict=True)
    ]


def bits_figures(judged: Judged) -> list[Figure]:
    """`bits_per_dim` of the network that is judged."""
    subject = judged.subject
    assert subject is not None  # refused otherwise
    return bits_per_dim(
        subject.trained,
        subject.held_out,
        num=subject.num,
        seed=judged.seed,
        guidance=subject.guidance,
    )


def _var_type(diffusion: DiffusionConfig) -> VarType:
    return "learned" if diffusion.learned_variance else "fixed_large"


def _of_batch(
    denoise: Callable[..., Denoiser],
    diffusion: DiffusionConfig,
    x0: Tensor,
    keys: Tensor,
    seed: int,
) -> Tensor:
    """The figures of each picture [3, B]."""
    schedule, var_type = schedule_of(diffusion), _var_type(diffusion)
    # Not the very end: legacy's logsnr is infinite at t=0.
    low, high = schedule.logsnr(torch.tensor([1.0, 1e-4], dtype=torch.float64)).tolist()
    decoded = min(high, DECODED)
    shape = tuple(x0.shape[1:])

    def noise(k: int) -> Tensor:
        return keyed_normal(seed, Stream.BITS_NOISE + k, keys, shape)

    u = keyed_uniform(seed, Stream.BITS_TIME, keys, dtype=torch.float64)
    even = low_discrepancy_time(u, torch.arange(DRAWS, device=x0.device)[:, None], DRAWS)
    values = dequantize(x0, keyed_uniform(seed, Stream.BITS_LEVEL, keys, shape))
    signs = keyed_normal(seed, Stream.BITS_PROBE, keys, shape).sign()
    grid = uniform_logsnr_grid(low, high, FLOW_STEPS)  # on the host: it is looked at once
    with torch.no_grad():
        steps = denoise(clip=True, variance=diffusion.learned_variance)
        discrete = vlb_bpd(steps, x0, schedule, STEPS, noise, var_type)
        continuous = continuous_vlb_bpd(
            denoise(clip=True), x0, low, decoded, even, noise, decoder="categorical"
        )
        flow = flow_loglik(denoise(clip=False), values, grid, signs[None])
    return torch.stack(
        [discrete.total, continuous.total, loglik_bpd(flow.loglik[0], x0[0].numel())]
    )
