"""The training objective, shared by training and by the held-out loss."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.configs import DiffusionConfig
from vfn.files import few
from vfn.model import schedule_of
from vfn.nn import Conditions, Network, fixed_velocity, live_velocity
from vfn.ops import (
    OBJECTIVES,
    BatchDraws,
    Learned,
    Paths,
    Prediction,
    VarType,
    discrete_time,
    draw_times,
    hybrid_loss,
    keyed_uniform,
    kl_loss,
    loss_weight,
    mse_loss,
    predict,
    q_sample,
    split_variance,
    step_logsnrs,
    v_from_x0_eps,
)
from vfn.streams import Stream
from vfn.tables import outside

LOGSNR_BINS = 8


class Batch(NamedTuple):
    """What a network is trained on at a time: x0 and noise [B, C, H, W], t [B], labels or None.

    guidance: weights [B] for a network that takes them as an input. weight: what losses are
    multiplied by where times are drawn more often than they are meant to count [B]. dropout: keys
    of the pictures' masks, int32 [B, 2], see `keyed_dropout`. r: times [B] up to t where a step may
    end, and u: uniform draws [B], for networks that take a second time. update: how many updates
    were before; None in evaluations. vector, image, augment: what a network takes beside labels,
    see `vfn.nn.Conditions`. step_noise: of a step taken in training, whose length is then u.
    """

    x0: Tensor
    labels: Tensor | None
    t: Tensor
    noise: Tensor
    guidance: Tensor | None = None
    weight: Tensor | None = None
    dropout: Tensor | None = None
    r: Tensor | None = None
    u: Tensor | None = None
    update: int | None = None
    vector: Tensor | None = None
    image: Tensor | None = None
    augment: Tensor | None = None
    step_noise: Tensor | None = None

    @property
    def conditions(self) -> tuple[Tensor | None, ...]:
        """The labels and then the guidance that a network is given beside z and t."""
        return (self.labels,) if self.guidance is None else (self.labels, self.guidance)

    @property
    def more(self) -> Conditions:
        """What a network is given beside that, by keywords."""
        return Conditions(self.vector, self.image, self.augment)

    def under(self, more: Conditions) -> "Batch":
        """The same batch under some conditions beside labels.

        Args:
            more: of its pictures.

        Returns:
            Batch.
        """
        return self._replace(vector=more.vector, image=more.image, augment=more.augment)

    def predicted_by(self, network: Network, z: Tensor) -> Tensor:
        """What a network says of z [B, C, H, W] at the times and under the conditions of the batch.

        Args:
            network: any.
            z: noisy data.

        Returns:
            [B, C_out, H, W].
        """
        return network(z, self.t, *self.conditions, **self.more.keywords())


def check_diffusion(diffusion: DiffusionConfig) -> None:
    """Refuse a schedule, weighting or time density that cannot be trained with.

    Those of the package can; those from outside are tried at a few times.

    Args:
        diffusion: of a run.

    Raises:
        ValueError: if one cannot be found or called, a schedule does not fall, weights are no
            numbers >= 0, or times not within [0, 1].

    >>> check_diffusion(DiffusionConfig(logsnr_schedule="flow", time_density="laplace"))
    """
    t = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    draws = BatchDraws(t, t[0], torch.arange(8), 8)
    part = f"schedule {diffusion.logsnr_schedule}"
    with outside(f"{part} cannot be called"):
        schedule = schedule_of(diffusion)
        logsnr = schedule.logsnr(t)
        _expect(part, "logsnr that falls in time", logsnr, logsnr.diff(), -math.inf, -1e-9)
        back = schedule.time(logsnr)
        _expect(part, "the inverse of its logsnr", back, back - t, -0.01, 0.01)
    part = f"weighting {diffusion.reweight_type}"
    with outside(f"{part} cannot be called"):
        weight = loss_weight(logsnr, diffusion.reweight_type, **diffusion.reweight_options)
        _expect(part, "weights of at least 0", weight, weight, 0, math.inf)
    part = f"time density {diffusion.time_density}"
    with outside(f"{part} cannot be called"):
        keep, options = diffusion.keep_expectation, diffusion.time_options
        times = draw_times(diffusion.time_density, draws, schedule, keep, **options)
        _expect(part, "times in 0..1", times.t, times.t, 0, 1)
        _expect(part, "densities above 0", times.density, 1 / times.density, 0, math.inf)


def _expect(
    part: str, wanted: str, given: Tensor, looked_at: Tensor, low: float, high: float
) -> None:
    """Refuse numbers that are not within bounds."""
    inside = (looked_at >= low) & (looked_at <= high) & looked_at.isfinite()
    if given.shape != (8,) or not inside.all():
        numbers = few((f"{number:.4g}" for number in given.flatten().tolist()), most=8)
        raise ValueError(f"expected {part} to give {wanted}, one for each, got {numbers}")


def keyed_time(seed: int, stream: Stream, keys: Tensor, diffusion: DiffusionConfig) -> Tensor:
    """Uniform times, continuous or discrete as in training, float64 [B]."""
    u = keyed_uniform(seed, stream, keys, dtype=torch.float64)
    return discrete_time(u, diffusion.train_timesteps) if diffusion.train_timesteps else u


def keyed_guidance(
    seed: int, stream: Stream, keys: Tensor, span: Sequence[float] | None
) -> Tensor | None:
    """Guidance weights, uniform between the ends of ``span`` [B]; None without one."""
    if span is None:
        return None
    low, high = span
    return low + (high - low) * keyed_uniform(seed, stream, keys)


# Loss of each picture of a batch [B], perhaps with figures for the log; the network is called by
# `Batch.predicted_by`.
Objective = Callable[[Network, Batch, DiffusionConfig], Tensor | Learned]


def logsnr_edges(diffusion: DiffusionConfig, device: torch.device | None = None) -> Tensor:
    """Edges of `LOGSNR_BINS` equal bins of the schedule's logsnr, float64, rising.

    Args:
        diffusion: has the schedule.
        device: where they are made: numbers of the host go there without waiting for it.

    Returns:
        [LOGSNR_BINS + 1].
    """
    # Not the very ends where they are infinite: that of legacy at t=0, of others at t=1.
    times = torch.tensor([1.0, 1 - 1e-4, 1e-4], dtype=torch.float64)
    last, near, highest = schedule_of(diffusion).logsnr(times).tolist()
    lowest = last if math.isfinite(last) else near
    return torch.linspace(lowest, highest, LOGSNR_BINS + 1, dtype=torch.float64, device=device)


def binned(loss: Tensor, t: Tensor, diffusion: DiffusionConfig) -> Tensor:
    """Sum of the finite losses and their number in each bin of `logsnr_edges`, [2, LOGSNR_BINS]."""
    inner = logsnr_edges(diffusion, t.device)[1:-1]
    bins = torch.bucketize(schedule_of(diffusion).logsnr(t), inner)
    member = F.one_hot(bins, LOGSNR_BINS).to(loss.dtype)
    finite = loss.isfinite()
    return torch.stack([torch.where(finite, loss, 0), finite.to(loss.dtype)]) @ member


def batch_loss(network: Network, batch: Batch, diffusion: DiffusionConfig) -> Tensor:
    """Loss of each picture in a batch.

    The weighted square error or, with ``loss_type`` kl, the estimate of the variational bound from
    one of its T terms, in bits per dimension. A learned variance is trained by the bound: beside
    the square error with ``bound_weight``, in which it does not reach the prediction.

    Args:
        network: called by `Batch.predicted_by`.
        batch: x0, noise, labels and times of B pictures, and guidance where the network takes it.
        diffusion: schedule, prediction type, loss and weighting.

    Returns:
        loss [B].
    """
    logsnr = schedule_of(diffusion).logsnr(batch.t)
    z = q_sample(batch.x0, logsnr, batch.noise)
    pred, frac = predicted(network, z, logsnr, batch, diffusion)
    if diffusion.loss_type == "kl":
        return _bound(z, pred.x0, frac, batch, diffusion)
    target = Prediction(batch.x0, batch.noise, v_from_x0_eps(batch.x0, batch.noise, logsnr))
    error = _weighted(pred, target, logsnr, diffusion)
    if frac is None:
        return error
    bound = _bound(z, pred.x0.detach(), frac, batch, diffusion)
    return hybrid_loss(error, bound, diffusion.bound_weight)


def objective_of(diffusion: DiffusionConfig) -> Objective:
    """What a network learns, as its configuration says.

    Args:
        diffusion: its ``objective`` is a word of `vfn.ops.OBJECTIVES` or ``package.module:Name``.

    Returns:
        `batch_loss`, or `path_loss` for any other word.

    >>> objective_of(DiffusionConfig()) is batch_loss
    True
    """
    return batch_loss if diffusion.objective == "diffusion" else path_loss


def path_loss(network: Network, batch: Batch, diffusion: DiffusionConfig) -> Learned:
    """Loss of each picture of a network that learns of the paths of training pairs.

    Args:
        network: called as ``network(z, t, *batch.conditions)``, with r where it takes it.
        batch: x0, noise, labels and times of B pictures.
        diffusion: schedule, prediction type, and the objective with its parameters.

    Returns:
        Learned.
    """
    logsnr = schedule_of(diffusion).logsnr(batch.t)
    z = q_sample(batch.x0, logsnr, batch.noise)
    return loss_on_paths(network, z, v_from_x0_eps(batch.x0, batch.noise, logsnr), batch, diffusion)


def loss_on_paths(
    network: Network,
    z: Tensor,
    dz: Tensor,
    batch: Batch,
    diffusion: DiffusionConfig,
    word: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Learned:
    """Loss of each picture of a network that learns of some paths through z.

    Args:
        network: as for `path_loss`.
        z: where the paths are at the batch's times, [B, C, H, W].
        dz: where they lead, dz/dphi.
        batch: of which z is made.
        diffusion: schedule, prediction type and objective.
        word: of the objective, if it is not that of ``diffusion``.
        options: its parameters, likewise.

    Returns:
        Learned.

    Raises:
        ValueError: if the objective cannot be found, or gives something else.
    """
    word = word or diffusion.objective
    entry, given = (
        OBJECTIVES.find(word),
        diffusion.objective_options if options is None else options,
    )
    learn = entry.load()
    schedule, out_type = schedule_of(diffusion), diffusion.model_out_type
    live = live_velocity(network, schedule, out_type, batch.conditions, batch.more)
    fixed = fixed_velocity(network, schedule, out_type, batch.conditions, batch.more)
    away, led = None, _under_conditions(batch)
    if led is not None:
        labels = None if batch.labels is None else torch.zeros_like(batch.labels)
        unasked = (labels, *batch.conditions[1:])
        away = fixed_velocity(network, schedule, out_type, unasked, batch.more.none())
    end = None if batch.r is None else schedule.logsnr(batch.r)
    paths = Paths(z, dz, schedule.logsnr(batch.t), end, batch.u, batch.guidance, away, led)
    values = entry.filled(f"objective {word}", learn, given)
    learned = learn(live, fixed, paths, batch.update, **values)
    if not isinstance(learned, Learned):
        raise ValueError(
            f"expected objective {word} to give a Learned(loss, figures), got "
            f"{type(learned).__name__}"
        )
    return learned


def _under_conditions(batch: Batch) -> Tensor | None:
    """Whether each picture has anything that guidance leads away from [B]; None if none can."""
    given = [each for each in (batch.labels, batch.vector, batch.image) if each is not None]
    if not given:
        return None
    return torch.stack([each.reshape(len(each), -1).any(1) for each in given]).any(0)


def weighted_error(
    network: Network, z: Tensor, batch: Batch, target: Prediction, diffusion: DiffusionConfig
) -> Tensor:
    """Weighted square error of the network's prediction at z, [B]."""
    logsnr = schedule_of(diffusion).logsnr(batch.t)
    pred, _ = predicted(network, z, logsnr, batch, diffusion)
    return _weighted(pred, target, logsnr, diffusion)


def _weighted(
    pred: Prediction, target: Prediction, logsnr: Tensor, diffusion: DiffusionConfig
) -> Tensor:
    """The square error with the weighting that a configuration names, [B]."""
    return mse_loss(pred, target, diffusion.reweight_type, logsnr, **diffusion.reweight_options)


def predicted(
    network: Network, z: Tensor, logsnr: Tensor, batch: Batch, diffusion: DiffusionConfig
) -> tuple[Prediction, Tensor | None]:
    """What a network says of z, in all forms, and the fraction of a learned variance.

    Args:
        network: called by `Batch.predicted_by`.
        z: noisy data [B, C, H, W].
        logsnr: of the batch's times [B].
        batch: its times and conditions.
        diffusion: prediction type.

    Returns:
        prediction, and the fraction in the shape of ``z``, None without one.
    """
    out_type = diffusion.model_out_type
    out, frac = split_variance(z, batch.predicted_by(network, z), out_type)
    return predict(z, out, logsnr, out_type), frac


def _bound(
    z: Tensor, x0: Tensor, frac: Tensor | None, batch: Batch, diffusion: DiffusionConfig
) -> Tensor:
    """T times a term of the variational bound without its prior, bits per dimension [B]."""
    steps = diffusion.train_timesteps
    levels = step_logsnrs(schedule_of(diffusion), batch.t, steps)
    var_type: VarType = "fixed_small" if frac is None else "learned"
    return steps * kl_loss(z, batch.x0, x0, *levels, var_type, frac)


@torch.inference_mode()
def held_out_loss(
    network: Network,
    batches: Iterable[Batch],
    diffusion: DiffusionConfig,
    objective: Objective = batch_loss,
) -> Tensor:
    """Loss of each picture of some fixed batches, [N]."""
    return torch.cat([loss_of(objective, network, batch, diffusion).loss for batch in batches])


def loss_of(
    objective: Callable[..., Tensor | Learned],
    network: Network,
    batch: Batch,
    diffusion: DiffusionConfig,
) -> Learned:
    """What an objective gives for a batch, with figures or without.

    Args:
        objective: loss of each picture [B], or a Learned of it.
        network: that it is of.
        batch: B pictures.
        diffusion: schedule, prediction type, loss and weighting.

    Returns:
        Learned.

    Raises:
        ValueError: for a loss of another shape, or figures that are no tensors by their names.

    >>> batch = Batch(torch.zeros(2, 1, 8, 8), None, torch.zeros(2), torch.zeros(2, 1, 8, 8))
    >>> loss_of(lambda *_: torch.zeros(()), torch.nn.Identity(), batch, DiffusionConfig())
    Traceback (most recent call last):
    ValueError: expected the objective to give a loss of each of 2 pictures, [2], got []
    """
    found = objective(network, batch, diffusion)
    learned = found if isinstance(found, Learned) else Learned(found, {})
    count, loss = len(batch.x0), learned.loss
    if not isinstance(loss, Tensor) or loss.shape != (count,):
        got = [*loss.shape] if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"expected the objective to give a loss of each of {count} pictures, [{count}], "
            f"got {got}"
        )
    if not isinstance(learned.figures, Mapping):
        raise ValueError(
            "expected figures of the objective by their names, {name: tensor}, got "
            f"{type(learned.figures).__name__}"
        )
    for name, value in learned.figures.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"expected figure {name} of the objective as a tensor, got {type(value).__name__}"
            )
    return learned
