"""The global batch of a step, as a function of (seed, step, position) alone."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor, nn

from vfn.configs import Config, DiffusionConfig
from vfn.data import Dataset
from vfn.data.augment import DRAWS, changed, draw_change
from vfn.data.given import derived_kind
from vfn.memory import moved
from vfn.model import conditions_of, schedule_of
from vfn.nn import NETWORKS, takes_second_time
from vfn.objective import Batch, keyed_guidance
from vfn.ops import (
    OBJECTIVES,
    TIME_DENSITIES,
    BatchDraws,
    WeightedTime,
    discrete_time,
    draw_times,
    epoch_permutation,
    keyed_bernoulli,
    keyed_normal,
    keyed_uniform,
)
from vfn.streams import Stream
from vfn.train.distillation.methods import METHODS

AHEAD = 1  # batches that are made while another is used


# Two epochs at most meet in one batch of ordinary size; larger batches only recompute.
_order = lru_cache(maxsize=4)(epoch_permutation)


def image_indices(seed: int, draws: Tensor, count: int) -> Tensor:
    """Which picture each draw of the run shows: epoch after epoch, each in an order of its own.

    Args:
        seed: the run's seed.
        draws: running numbers of pictures since the start of the run, int64 [B].
        count: pictures in the data set.

    Returns:
        int64 [B] in 0..count-1.

    >>> sorted(image_indices(0, torch.arange(10, 15), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    epochs, offsets = draws // count, draws % count
    index = torch.empty_like(draws)
    for epoch in epochs.unique().tolist():
        here = epochs == epoch
        index[here] = _order(seed, epoch, count, Stream.ORDER)[offsets[here]]
    return index


def make_batch(
    dataset: Dataset,
    config: Config,
    draws: Tensor,
    device: torch.device,
    guidance_range: Sequence[float] | None = None,
    second_time: bool = False,
    takes_step: bool = False,
) -> Batch:
    """Pictures, dropped conditions, times, noise and guidance for some draws of the run.

    Args:
        dataset: pictures and labels.
        config: of the run: its seed and batch size, how times are drawn, the probability of
            dropping a label, and whether half of the pictures are mirrored.
        draws: ``step * batch_size + position``, int64 [B].
        device: where the batch is wanted.
        guidance_range: see `keyed_guidance`.
        second_time: whether one is drawn, see `draws_two_times`; both then have the same density,
            and t is the later.
        takes_step: whether the objective takes a step of a sampler, of random length and noise.

    Returns:
        Batch; the data set's labels are not changed.
    """
    seed, diffusion = config.train.seed, config.diffusion
    index = image_indices(seed, draws, len(dataset.images))
    x0 = dataset.values.to_unit(moved(dataset.images[index], device))
    keys = moved(draws, device)
    flipped = None
    if config.data.flip:
        flipped = keyed_bernoulli(seed, Stream.FLIP, keys, 0.5).view(-1, 1, 1, 1)
        x0 = torch.where(flipped, x0.flip(-1), x0)
    change = None
    if config.data.augment:
        uniform = keyed_uniform(seed, Stream.AUGMENT, keys, (DRAWS,), torch.float64)
        change = draw_change(uniform, config.data.augment)
        x0 = changed(x0, change)
    times = training_times(config, keys)
    noise = keyed_normal(seed, Stream.NOISE, keys, tuple(x0.shape[1:]))
    dropped = keyed_bernoulli(seed, Stream.LABEL_DROP, keys, diffusion.p_uncond)

    def dropping(value: Tensor) -> Tensor:
        return value.masked_fill(dropped.view(-1, *[1] * (value.ndim - 1)), 0)

    labels = None
    if dataset.labels is not None:
        labels = dropping(moved(dataset.labels[index], device))
    made = derived_kind(config.data.condition) is not None
    places = keyed_uniform(seed, Stream.CONDITION, keys, (4,)) if made else None
    more = conditions_of(dataset, index, x0, config.data.condition, places)
    if dataset.beside is not None and more.image is not None:  # as the picture is
        image = more.image
        image = image if flipped is None else torch.where(flipped, image.flip(-1), image)
        more = more._replace(image=image if change is None else changed(image, change))
    more = more.each(dropping)._replace(augment=None if change is None else change.told)
    guidance = keyed_guidance(seed, Stream.GUIDANCE, keys, guidance_range)
    dropout = dropout_keys(seed, keys) if uses_dropout(config) else None
    t, density = times
    r, u = None, None
    if second_time and not takes_step:  # which knows where it ends by itself
        other = training_times(config, keys, Stream.SECOND_TIME)
        t, r = torch.maximum(t, other.t), torch.minimum(t, other.t)
        density = density * other.density
        u = keyed_uniform(seed, Stream.SAME_TIME, keys)
    weight = 1 / density if keeps_expectation(diffusion) else None
    step_noise = None
    if takes_step:
        u = keyed_uniform(seed, Stream.STEP_LENGTH, keys, dtype=torch.float64)
        step_noise = keyed_normal(seed, Stream.STEP_NOISE, keys, tuple(x0.shape[1:]))
    update = int(draws[0]) // config.train.batch_size
    batch = Batch(x0, labels, t, noise, guidance, weight, dropout, r, u, update)
    return batch._replace(step_noise=step_noise).under(more)


def draws_two_times(model: nn.Module, config: Config, own: bool) -> bool:
    """Whether batches have a second time: the network takes one, and what it learns may ask for it.

    Others are learned at times as they are configured: the later of two is late.

    Args:
        model: the network.
        config: of the run.
        own: whether its objective is a function that a caller gave.

    Returns:
        whether there is one.

    >>> from vfn.configs import load
    >>> from vfn.sampling import untrained
    >>> model = untrained("digits_meanflow").model
    >>> [draws_two_times(model, load(n), own=False) for n in ("digits_meanflow", "digits_ect")]
    [True, False]
    """
    distill, entry = config.distill, OBJECTIVES.find(config.diffusion.objective)
    outside = own or (distill.asked and METHODS.find(distill.method).parameters is None)
    return takes_second_time(model) and (outside or entry.two_times)


def keeps_expectation(diffusion: DiffusionConfig) -> bool:
    """Whether the loss is divided by the density of its times."""
    kept = diffusion.keep_expectation
    return TIME_DENSITIES.find(diffusion.time_density).kept if kept is None else kept


def uses_dropout(config: Config) -> bool:
    """Whether the network may have dropout; of one that is not of [model] nobody knows."""
    return config.model.dropout > 0 or not NETWORKS.find(config.model.network).sectioned


def dropout_keys(seed: int, draws: Tensor) -> Tensor:
    """Keys of the masks of dropout for some draws of the run.

    Args:
        seed: the run's seed.
        draws: ``step * batch_size + position``, int64 [B].

    Returns:
        int32 [B, 2], for `vfn.nn.keyed_dropout`.

    >>> dropout_keys(0, torch.arange(3)).shape
    torch.Size([3, 2])
    """
    uniform = keyed_uniform(seed, Stream.DROPOUT, draws, (2,), torch.float64)
    return (uniform * 2**32 - 2**31).floor().int()


def training_times(config: Config, draws: Tensor, stream: Stream = Stream.TIME) -> WeightedTime:
    """Times of some draws of the run, from the density that the configuration names.

    Args:
        config: of the run.
        draws: ``step * batch_size + position``, int64 [B], on the device.
        stream: of the uniform draws behind them. Those of `Stream.TIME` alone are spread over the
            batch, where the density does so.

    Returns:
        t [B], float64, discrete where the training is; and the density, 1 where it is not undone.

    Raises:
        ValueError: for a density from outside that gives something else.
    """
    diffusion, seed = config.diffusion, config.train.seed
    # Spread in the same order, a second time would be as late as the first: no step would be long.
    size = config.train.batch_size if stream is Stream.TIME else 1

    def uniform(keys: Tensor) -> Tensor:
        return keyed_uniform(seed, stream, keys, dtype=torch.float64)

    position = draws % size
    # What a batch has in common is the draw of its first picture.
    drawn = BatchDraws(uniform(draws), uniform(draws - position), position, size)
    schedule, keep = schedule_of(diffusion), keeps_expectation(diffusion)
    options = diffusion.time_options
    times = draw_times(diffusion.time_density, drawn, schedule, keep, **options)
    if not diffusion.train_timesteps:
        return times
    return times._replace(t=discrete_time(times.t, diffusion.train_timesteps))


def _one_thread() -> None:
    """Have the thread that makes batches compute by itself.

    A second pool of threads, spinning for work on the cores of the network's, would cost a third of
    the speed on a CPU.
    """
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread takes the number up when it first asks, and keeps it


def prefetch(make: Callable[[int], Batch], numbers: range) -> Generator[Batch]:
    """Each batch in turn, the next one made by another thread while this one is used.

    Args:
        make: a pure function of the batch's number; an exception in it comes out here.
        numbers: which batches.

    Yields:
        the batches; closing the iterator waits for the one that is being made.

    >>> [batch.tolist() for batch in prefetch(lambda i: torch.tensor(i), range(3))]
    [0, 1, 2]
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1, "prefetch", initializer=_one_thread) as pool:
        pool.submit(int).result()  # its thread has begun
        torch.set_num_threads(threads)  # the number is that of all threads to come, too
        coming: deque[Future[Batch]] = deque()
        for number in numbers:
            coming.append(pool.submit(make, number))
            if len(coming) > AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
