"""Pictures from a trained network: image i of a seed depends on nothing but (seed, i)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from vfn.configs import DiffusionConfig, SampleConfig
from vfn.data import to_uint8
from vfn.nn import check_guidance_input, check_labels, denoiser, guidance_range
from vfn.ops import (
    SOLVERS,
    DrawSamples,
    Strength,
    interval_strength,
    keyed_normal,
    sampler,
    sampling_grid,
)
from vfn.train.objective import schedule_of
from vfn.train.state import DataShape
from vfn.train.streams import Stream

Watcher = Callable[[int, Tensor, Tensor], None]


def preview_labels(num_classes: int, per_class: int) -> Tensor:
    """Every class in turn, ``per_class`` times; zeros for an unconditional network.

    >>> preview_labels(3, 2).tolist()
    [1, 2, 3, 1, 2, 3]
    """
    if not num_classes:
        return torch.zeros(10 * per_class, dtype=torch.long)
    return torch.arange(1, num_classes + 1).repeat(per_class)


def sampler_of(settings: SampleConfig) -> DrawSamples:
    """The sampler that the settings name."""
    options = SOLVERS.find(settings.sampler).options
    return sampler(settings.sampler, **{name: getattr(settings, name) for name in options})


def strength_of(settings: SampleConfig) -> Strength:
    """Guidance as the settings ask for it: a number, or a function of logsnr."""
    if not settings.guidance or settings.guidance_interval is None:
        return settings.guidance
    low, high = settings.guidance_interval
    return interval_strength(settings.guidance, low, high)


def check_guidance(
    settings: SampleConfig, shape: DataShape, known: Sequence[float] | None = None
) -> None:
    """Refuse guidance that a network cannot give.

    Args:
        settings: what is asked for.
        shape: what the network knows of its data.
        known: lowest and highest w of a network that takes it as an input.

    Raises:
        ValueError: if guidance is asked of an unconditional network, or of one that takes it as an
            input out of its range.
    """
    if settings.guidance and not shape.class_names:
        raise ValueError(
            f"guidance {settings.guidance} needs a class-conditional model, and this one is "
            "unconditional; use --guidance 0"
        )
    if known is not None:
        check_guidance_input(strength_of(settings), known, settings.guidance_rescale)


def check_sampling(
    settings: SampleConfig,
    diffusion: DiffusionConfig,
    shape: DataShape,
    known: Sequence[float] | None = None,
) -> None:
    """Refuse settings of sampling that a network cannot follow.

    Raises:
        ValueError: for guidance as in `check_guidance`, or a variance that was not learned.
    """
    check_guidance(settings, shape, known)
    if settings.uses_variance and not diffusion.learned_variance:
        raise ValueError(
            "var_type learned needs a model trained with learned_variance, and this one was not; "
            "use fixed_small or fixed_large"
        )


@torch.inference_mode()
def generate(
    model: nn.Module,
    params: Mapping[str, Tensor],
    diffusion: DiffusionConfig,
    settings: SampleConfig,
    shape: DataShape,
    labels: Tensor,
    indices: Tensor,
    seed: int,
    device: torch.device,
    watch: Watcher | None = None,
    progress: Callable[[int], None] | None = None,
    count: Callable[[int], None] | None = None,
) -> Tensor:
    """Sample pictures.

    Args:
        model: the network, in evaluation mode.
        params: its parameters, usually the EMA.
        diffusion: schedule and prediction type of its training.
        settings: sampler, steps, guidance, batch.
        shape: shape of the pictures.
        labels: class of each picture [N], 0 for unconditional, or its 0/1 tags [N, K].
        indices: number of each picture within the seed [N]; it alone chooses the noise.
        seed: seed of the noise.
        device: where to compute.
        watch: called as ``watch(i, z, x0)`` before each step of each batch.
        progress: called with the number of pictures that are done.
        count: called with the number of evaluations of the network, for each batch.

    Returns:
        uint8 [N, C, H, W] on the CPU.

    Raises:
        ValueError: as `check_sampling`, or if a label is none of the network's.
    """
    check_labels(labels, len(shape.class_names), shape.multitags)
    check_sampling(settings, diffusion, shape, guidance_range(model))
    schedule = schedule_of(diffusion)
    grid = sampling_grid(settings.grid, schedule, settings.sample_timesteps, device)
    draw = sampler_of(settings)
    size = (shape.channels, shape.height, shape.width)
    done, images = 0, []
    for index, label in zip(
        indices.split(settings.sample_batch), labels.split(settings.sample_batch), strict=True
    ):
        keys = index.to(device)

        def noise(i: int, keys: Tensor = keys) -> Tensor:
            return keyed_normal(seed, Stream.SAMPLE + 1 + i, keys, size)

        denoise = denoiser(
            model,
            params,
            schedule,
            diffusion.model_out_type,
            label.to(device) if shape.class_names else None,
            strength_of(settings),
            rescale=settings.guidance_rescale,
            variance=settings.uses_variance,
        )
        start = keyed_normal(seed, Stream.SAMPLE, keys, size)
        drawn = draw(denoise, start, grid, noise=noise, callback=watch)
        images.append(to_uint8(drawn.x0))
        if count is not None:
            count(drawn.nfe)
        done += len(index)
        if progress is not None:
            progress(done)
    return torch.cat(images).cpu()
