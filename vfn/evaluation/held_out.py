"""Losses on pictures that training has not seen, with noise that stays the same.

The noise of a picture depends on the seed and its number alone: not on batches or processes.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from vfn.configs.schema import SEED
from vfn.data import Dataset
from vfn.distributed import ALONE, World, total
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.sides import Figure, Judged, Sides
from vfn.model import fixed_conditions, schedule_of
from vfn.nn import (
    Conditions,
    check_guidance_input,
    guidance_range,
    takes_second_time,
    with_params,
)
from vfn.numbers import number, whole
from vfn.objective import (
    Batch,
    Objective,
    batch_loss,
    held_out_loss,
    keyed_guidance,
    keyed_time,
    logsnr_edges,
)
from vfn.ops import OBJECTIVES, discrete_time, keyed_normal, keyed_uniform
from vfn.progress import silence
from vfn.sampling import Draws, Trained, as_pictures, ask, of_each
from vfn.streams import Stream

LOSS_BATCH = 256  # pictures at a time
MEAN_DRAWS, MEAN_PICTURES = 4, 512  # of the loss that training logs
ON_THE_WAY = ("fd", "pr")  # metrics that training computes


def some_of(values: Tensor, count: int) -> Tensor:
    """Some of the values, evenly spread from the first to the last.

    Number i of k is ``values[i N // k]``, so a sorted data set gives of every class its share.

    Args:
        values: [N, ...].
        count: how many; all if there are fewer.

    Returns:
        [min(count, N), ...], in order.

    >>> some_of(torch.arange(6), 3).tolist(), some_of(torch.arange(6), 4).tolist()
    ([0, 2, 4], [0, 1, 3, 4])
    """
    count = min(count, len(values))
    return values if count == len(values) else values[torch.arange(count) * len(values) // count]


def check_weight(trained: Trained, guidance: float | None) -> None:
    """Refuse to judge a network that takes guidance as an input without a weight that it knows.

    Args:
        trained: any network.
        guidance: w of it.

    Raises:
        ValueError: if it is no number, or the network takes it as an input, and it is None or out
            of its range.

    >>> from vfn.sampling import untrained
    >>> check_weight(untrained("digits"), None)
    """
    if guidance is not None:
        number(guidance, "guidance")
    span = guidance_range(trained.model)
    if span is None:
        return
    if guidance is None:
        low, high = span
        raise ValueError(
            f"expected guidance in {low:g}..{high:g}, an input of this network, got None; name one"
        )
    check_guidance_input(guidance, span)


def loss_by_logsnr(
    trained: Trained,
    held_out: Dataset,
    *,
    seed: int = 0,
    guidance: float | None = None,
    batch: int = LOSS_BATCH,
) -> list[dict[str, float]]:
    """Training loss on held-out pictures, for equal bins of the schedule's logsnr.

    Within a bin each picture gets one logsnr, drawn uniformly.

    Args:
        trained: the network, in evaluation mode.
        held_out: pictures that training has not seen.
        seed: of the noise and the draws.
        guidance: w of a network that takes it as an input, which has to be named; None of others.
        batch: pictures at a time, bounds the memory; the value is the same.

    Returns:
        for each bin ``low``, ``high``, ``loss`` and ``count``.

    Raises:
        ValueError: without a weight of a network that takes one, with one of a network that takes
            none, or for numbers that are none.

    >>> from vfn.data import load_dataset
    >>> from vfn.sampling import untrained
    >>> some = load_dataset("digits", "test").rows(torch.arange(20))
    >>> rows = loss_by_logsnr(untrained("digits"), some)
    >>> len(rows), sorted(rows[0])
    (8, ['count', 'high', 'loss', 'low'])
    """
    seed, batch = whole(seed, "seed", 0, SEED), whole(batch, "batch", 1)
    check_weight(trained, guidance)
    if guidance is not None and guidance_range(trained.model) is None:
        raise ValueError(
            f"guidance {guidance:g} was given for a network that does not take it as an input; "
            "leave it out"
        )
    diffusion = trained.config.diffusion
    network = with_params(trained.model, trained.params)
    rows = []
    for place, (low, high) in enumerate(pairwise(logsnr_edges(diffusion).tolist())):
        batches = _bin_batches(trained, held_out, (place, low, high), seed, guidance, batch)
        loss = held_out_loss(network, batches, diffusion).mean().item()
        rows.append({"low": low, "high": high, "loss": loss, "count": len(held_out.images)})
    return rows


def _bin_batches(
    trained: Trained,
    held_out: Dataset,
    place: tuple[int, float, float],
    seed: int,
    guidance: float | None,
    size: int,
) -> Iterator[Batch]:
    """All pictures with noise of a bin, which is given by its number and its ends."""
    (number, low, high), diffusion = place, trained.config.diffusion
    count = len(held_out.images)
    for rows in torch.arange(count).split(size):
        x0, labels, more = _pictures(trained, held_out, rows)
        keys = rows.to(x0.device) + number * count
        u = keyed_uniform(seed, Stream.HELD_OUT_TIME, keys, dtype=torch.float64)
        noise = keyed_normal(seed, Stream.HELD_OUT_NOISE, keys, tuple(x0.shape[1:]))
        given = None if guidance is None else x0.new_full((len(x0),), guidance)
        t = schedule_of(diffusion).time(low + u * (high - low))
        if diffusion.uses_bound:
            t = discrete_time(t, diffusion.train_timesteps)
        yield Batch(x0, labels, t, noise, given).under(more)


def loss_bins(judged: Judged) -> list[dict[str, float]]:
    """`loss_by_logsnr` of the network that is judged."""
    subject = judged.subject
    assert subject is not None  # refused otherwise
    return loss_by_logsnr(
        subject.trained, subject.held_out, seed=judged.seed, guidance=subject.guidance
    )


def mean_held_out_loss(
    trained: Trained,
    held_out: Dataset,
    *,
    objective: Objective = batch_loss,
    seed: int = 0,
    world: World = ALONE,
    batch: int = MEAN_PICTURES,
    takes_step: bool = False,
    two_times: bool | None = None,
) -> float:
    """Mean training loss on some held-out pictures, with times and noise that are always the same.

    A network that takes guidance as an input gets weights of its range, as training draws them.

    Args:
        trained: the network, in evaluation mode.
        held_out: pictures that training has not seen; at most 512 are taken.
        objective: the loss.
        seed: of the times and the noise.
        world: the processes; all of them have to call this, and each does its share.
        batch: pictures at a time, bounds the memory; the value is the same.
        takes_step: whether the objective takes a step of a sampler, of random length and noise.
        two_times: whether it asks a network that takes a second time for one; if None any does but
            those of the configuration that have no place for it.

    Returns:
        the loss, the same on every process.

    Raises:
        ValueError: for a seed or batch that is no whole number in its range.

    >>> from vfn.data import load_dataset
    >>> from vfn.sampling import untrained
    >>> some = load_dataset("digits", "test").rows(torch.arange(20))
    >>> 1 < mean_held_out_loss(untrained("digits"), some) < 3
    True
    """
    seed, batch = whole(seed, "seed", 0, SEED), whole(batch, "batch", 1)
    diffusion = trained.config.diffusion
    if two_times is None:
        two_times = objective is not batch_loss or OBJECTIVES.find(diffusion.objective).two_times
    second = two_times and takes_second_time(trained.model) and not takes_step
    chosen = some_of(torch.arange(len(held_out.images)), MEAN_PICTURES)
    numbers = torch.arange(len(chosen))[world.rank :: world.size]
    network = with_params(trained.model, trained.params)
    summed = torch.zeros((), dtype=torch.float64, device=trained.device)
    if len(numbers):  # else there are more processes than pictures
        batches = _mean_batches(
            trained, held_out, (chosen, numbers), seed, batch, second, takes_step
        )
        summed += held_out_loss(network, batches, diffusion, objective).sum()
    return total(summed, world).item() / (len(chosen) * MEAN_DRAWS)


def _mean_batches(
    trained: Trained,
    held_out: Dataset,
    place: tuple[Tensor, Tensor],
    seed: int,
    size: int,
    second: bool,
    takes_step: bool,
) -> Iterator[Batch]:
    """All draws of some pictures, given by the rows of all and the numbers of some among these."""
    (chosen, numbers), diffusion = place, trained.config.diffusion
    span = trained.config.model.guidance_range
    for draw in range(MEAN_DRAWS):
        for some in numbers.split(size):
            x0, labels, more = _pictures(trained, held_out, chosen[some])
            keys = some.to(x0.device) + draw * len(chosen)
            t = keyed_time(seed, Stream.HELD_OUT_TIME, keys, diffusion)
            noise = keyed_normal(seed, Stream.HELD_OUT_NOISE, keys, tuple(x0.shape[1:]))
            r = u = step_noise = None
            if second:
                other = keyed_time(seed, Stream.HELD_OUT_SECOND_TIME, keys, diffusion)
                t, r = torch.maximum(t, other), torch.minimum(t, other)
                u = keyed_uniform(seed, Stream.HELD_OUT_SAME_TIME, keys)
            if takes_step:
                u = keyed_uniform(seed, Stream.HELD_OUT_STEP_LENGTH, keys, dtype=torch.float64)
                shape = tuple(x0.shape[1:])
                step_noise = keyed_normal(seed, Stream.HELD_OUT_STEP_NOISE, keys, shape)
            guidance = keyed_guidance(seed, Stream.HELD_OUT_GUIDANCE, keys, span)
            whole = Batch(x0, labels, t, noise, guidance, r=r, u=u, step_noise=step_noise)
            yield whole.under(more)


def _pictures(
    trained: Trained, held_out: Dataset, rows: Tensor
) -> tuple[Tensor, Tensor | None, Conditions]:
    """Some pictures on the device, with their labels and what a network is given beside these."""
    x0 = held_out.values.to_unit(held_out.images[rows].to(trained.device))
    labels = None if held_out.labels is None else held_out.labels[rows].to(trained.device)
    return x0, labels, fixed_conditions(held_out, rows, x0, trained.config.data.condition)


def preview_figures(
    trained: Trained,
    dataset: Dataset,
    num: int,
    seed: int = 0,
    world: World = ALONE,
    check: Callable[[], None] | None = None,
    weak: Trained | None = None,
) -> list[Figure]:
    """What a training evaluates on the way: Fréchet distance, precision and recall of pixels.

    Args:
        trained: the network as it is, in evaluation mode.
        dataset: what it is trained on.
        num: pictures on either side. The network is asked for every class in turn, or for tags as
            these pictures have them.
        seed: of the noise.
        world: the processes; all of them have to call this.
        check: called as `Draws.by_all` says.
        weak: what the network is led away from, where its settings say so.

    Returns:
        the figures; on other processes than the first an empty list.

    Raises:
        ValueError: for a number or seed that is no whole number in its range.

    >>> from vfn.data import load_dataset
    >>> from vfn.sampling import untrained
    >>> found = preview_figures(untrained("digits"), load_dataset("digits"), num=20)
    >>> [figure.key for figure in found]
    ['frechet_distance', 'precision', 'recall']
    """
    num, seed = whole(num, "num", 1), whole(seed, "seed", 0, SEED)
    legend = trained.shape.legend
    asked = ask(legend)
    if legend.tags and dataset.labels is not None:
        asked = of_each(some_of(dataset.labels, num), legend)
    # Picture by picture, so that what is drawn has the conditions of what it is compared with.
    if trained.conditioned:
        rows = some_of(torch.arange(len(dataset.images)), num)
        asked = as_pictures(trained, dataset.rows(rows))
    draws = Draws(trained, trained.config.sample, asked, num, seed, weak)
    drawn = draws.by_all(world, check, f"evaluation at step {trained.step}")
    with silence():
        values = trained.shape.values
        fake = Dataset(values.compared(drawn.images), drawn.classes, legend)
        real = Dataset(values.compared(some_of(dataset.images, num)))
        return evaluate(Sides(real, fake), ON_THE_WAY, seed, world=world, references=False)
