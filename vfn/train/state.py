"""What training changes from step to step, and the step itself."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vfn.configs import Config, TrainConfig
from vfn.files import few
from vfn.model import DataShape, autocast, schedule_of
from vfn.nn import Network, keyed_dropout
from vfn.objective import Batch, Objective, batch_loss, binned, loss_of
from vfn.ops import (
    balanced_loss,
    ema_decay,
    ema_update_,
    power_ema_decay,
    sigma_rel_to_gamma,
)
from vfn.progress import say
from vfn.runs import Checkpoint, DataMark, check_fits
from vfn.runs.checkpoint import MOMENTS
from vfn.train.companions import Companion, Weigh
from vfn.train.optimizers import (
    clip_and_step,
    gradient_norm,
    moments_of,
    optimizer_of,
    restore_moments,
)

FIRST_LOSS_SCALE, SCALE_GROWTH_STEPS = 2.0**16, 2000
OF_THE_SCALE = {"loss_scale", "since_change"}  # counters that mean something in fp16 alone
UPDATES = "updates of "  # and a parameter's name, of those that were not part of all


class StepResult(NamedTuple):
    """Of one step, on the device.

    loss: mean over this process's pictures, without a learned weight. bins: their losses by logsnr,
    see `binned`. grad_norm: of all processes' gradient, before clipping. figures: what the
    objective has to say, means over this process's micro-batches; of those named in roots the means
    of their squares, whose roots are taken when all processes' are there.
    """

    loss: Tensor
    bins: Tensor
    grad_norm: Tensor
    figures: Mapping[str, Tensor] | None = None
    roots: tuple[str, ...] = ()


@dataclass
class TrainState:
    """Parameters, their average, the optimizer's moments and the number of steps done.

    ``params`` are the model's own tensors; ``ema`` is a second dictionary of the same names, which
    `torch.func.functional_call` puts in their place. ``counters`` are numbers on the device, see
    `count_step`. weight and auxiliary are learned beside the network, if any: a weight of noise
    levels, and a network like it. ``profiles`` are power-function averages by their ``sigma_rel``.
    ``objective`` names one that stands in place of the configuration's.
    """

    params: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    counters: dict[str, Tensor]
    step: int = 0
    weight: Companion | None = None
    auxiliary: Companion | None = None
    profiles: dict[float, dict[str, Tensor]] = field(default_factory=dict)
    objective: str = ""


def init_state(model: nn.Module, train: TrainConfig) -> TrainState:
    """Fresh state around a model's parameters."""
    params: dict[str, Tensor] = dict(model.named_parameters())
    optimizer = optimizer_of(model, train)
    device = next(iter(params.values())).device
    start = {"updates": 0.0, "skipped": 0.0, "in_row": 0.0, "loss_scale": 1.0, "since_change": 0.0}
    if train.precision == "fp16":
        start["loss_scale"] = FIRST_LOSS_SCALE
    return TrainState(
        params,
        {k: v.detach().clone() for k, v in params.items()},
        optimizer,
        {name: torch.tensor(value, device=device) for name, value in start.items()},
        profiles={
            length: {k: v.detach().clone() for k, v in params.items()}
            for length in train.ema_profiles or ()
        },
    )


def count_step(
    counters: Mapping[str, Tensor], finite: Tensor, scaling: bool = False
) -> dict[str, Tensor]:
    """The counters after one more step, without waiting for the device.

    updates: steps that changed the parameters; skipped: steps left out because the gradient was
    not finite; in_row: how many of these came last. With ``scaling`` (fp16) the loss scale halves
    after a step left out and doubles after 2000 good ones, counted in since_change; while it is
    above 1 it may be what is too large, and such a step does not count as one in a row.

    Args:
        counters: numbers, each of shape [].
        finite: whether this step's gradient was, bool [].
        scaling: whether the loss is scaled.

    Returns:
        new counters.

    Source: Micikevicius et al. 2018 (1710.03740), section 3.2.

    >>> before = {k: torch.zeros(()) for k in ("updates", "skipped", "in_row", "since_change")}
    >>> after = count_step(before | {"loss_scale": torch.tensor(8.0)}, torch.tensor(False), True)
    >>> after["skipped"], after["loss_scale"]
    (tensor(1.), tensor(4.))
    """
    good, bad = finite.float(), 1 - finite.float()
    scale, since = counters["loss_scale"], counters["since_change"]
    counted = bad
    if scaling:
        counted, since = bad * (scale <= 1), since + 1
        grow = good * (since >= SCALE_GROWTH_STEPS)
        scale = scale * torch.where(finite, 1 + grow, 0.5)
        since = since * good * (1 - grow)
    return {
        "updates": counters["updates"] + good,
        "skipped": counters["skipped"] + bad,
        "in_row": counters["in_row"] * bad + counted,
        "loss_scale": scale,
        "since_change": since,
    }


def learning_rate(step: int, train: TrainConfig) -> float:
    """Linear warm-up, then constant, or a half cosine or line that ends at zero.

    Args:
        step: steps already done.
        train: rate, schedule, warm-up and steps.

    Returns:
        the rate of the next step.

    >>> from vfn.configs import TrainConfig
    >>> learning_rate(0, TrainConfig(lr=1.0, warmup=4))
    0.25
    """
    warm = min(1.0, (step + 1) / train.warmup) if train.warmup else 1.0
    if train.lr_schedule == "constant":
        return train.lr * warm
    done = min(1.0, step / train.steps)
    left = 1 - done if train.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return train.lr * warm * left


def train_step(
    state: TrainState,
    network: Network,
    micro_batches: Iterable[Batch],
    config: Config,
    objective: Objective = batch_loss,
    weigh: Weigh | None = None,
    auxiliary: Network | None = None,
) -> StepResult:
    """One optimizer step over this process's micro-batches, in place.

    A gradient that is not finite, of the network or of what is trained beside it, changes neither
    parameters nor moments; it is counted.

    Args:
        state: changed: gradients are consumed, parameters, moments, EMA and step move on.
        network: the model, or its DistributedDataParallel wrapper, which averages the gradients
            over processes.
        micro_batches: ``accumulate`` equally large parts of this process's share of the global
            batch; each is used before the next is asked for.
        config: diffusion and optimizer settings.
        objective: loss of each picture of a micro-batch.
        weigh: the module of ``state.weight``, or its DistributedDataParallel wrapper.
        auxiliary: that of ``state.auxiliary`` likewise, which the objective calls.

    Returns:
        StepResult(loss, bins, grad_norm), on the device.

    Raises:
        ValueError: if the objective gives no loss of an auxiliary network that there is, or figures
            for some micro-batches alone.
    """
    settings, scaling = config.train, config.train.precision == "fp16"
    scale = state.counters["loss_scale"] if scaling else 1.0
    losses, bins, figures = [], [], []
    for i, batch in enumerate(micro_batches):
        more = i < settings.micro_batches - 1
        held = _held(network, more), _held(weigh, more), _held(auxiliary, more)
        with held[0], held[1], held[2], keyed_dropout(batch.dropout):
            with autocast(settings.precision, batch.x0.device):
                learned = loss_of(objective, network, batch, config.diffusion)
            each, told, theirs, roots = learned
            if not each.requires_grad:
                raise ValueError(
                    "expected the objective to give a loss with gradients by the network's "
                    "parameters, got one without"
                )
            loss = trained = _counted(each, batch.weight).mean() / settings.micro_batches
            if weigh is not None:
                u = weigh(schedule_of(config.diffusion).logsnr(batch.t)).to(each.dtype)
                balanced = _counted(balanced_loss(each, u), batch.weight)
                trained = balanced.mean() / settings.micro_batches
            if theirs is not None:
                trained = trained + _counted(theirs, batch.weight).mean() / settings.micro_batches
            elif auxiliary is not None:
                raise ValueError(
                    "expected the objective to give the loss of the auxiliary network as well: "
                    "Learned(loss, figures, auxiliary)"
                )
            (trained * scale if scaling else trained).backward()
        losses.append(loss.detach())
        bins.append(binned(each.detach(), batch.t, config.diffusion))
        figures.append(_apart(told, roots))
    _check_figures(figures)
    lr = learning_rate(state.step, settings)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    good = None  # the two networks move together, or neither does
    if state.auxiliary is not None:
        good = gradient_norm(state.auxiliary.params.values(), scale).isfinite()
    params = state.params.values()
    norm = clip_and_step(state.optimizer, params, settings.grad_norm, scale, good)
    good = norm.isfinite() if good is None else norm.isfinite() & good
    for companion in (state.weight, state.auxiliary):
        if companion is not None:
            companion.step(lr, good, scale)
    state.counters = count_step(state.counters, good, scaling)
    state.step += 1
    ema_update_(state.ema, state.params, ema_decay(state.step, settings.ema_decay))
    for length, average in state.profiles.items():
        decay = power_ema_decay(state.step, sigma_rel_to_gamma(length))
        ema_update_(average, state.params, decay)
    means = {name: torch.stack([told[name] for told in figures]).mean() for name in figures[0]}
    return StepResult(torch.stack(losses).sum(), torch.stack(bins).sum(0), norm, means, roots)


def _apart(figures: Mapping[str, Tensor], roots: Sequence[str]) -> dict[str, Tensor]:
    """Figures of a micro-batch as numbers whose mean can be taken, of roots the squares."""
    # They stay until the next line of the log, and what they were computed from shall not.
    apart = {name: value.detach() for name, value in figures.items()}
    numbers = {n: v if v.is_floating_point() else v.float() for n, v in apart.items()}
    return {name: v.square() if name in roots else v for name, v in numbers.items()}


def _check_figures(figures: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuse figures of an objective that not every micro-batch has: their mean would be none."""
    if odd := {name for told in figures for name in told.keys() ^ figures[0].keys()}:
        raise ValueError(
            "expected the objective to give the same figures for every micro-batch, got "
            f"{min(odd)} for some alone; give it for all"
        )


def _held(module: object, more: bool) -> AbstractContextManager[None]:
    """Keep gradients to this process while there are more micro-batches to come."""
    if isinstance(module, DistributedDataParallel) and more:
        held: AbstractContextManager[None] = module.no_sync()
        return held
    return nullcontext()


def _counted(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Losses as they count: a time that is drawn more often than it is meant to counts less."""
    return losses if weight is None else losses * weight.to(losses.dtype)


def checkpoint_of(
    state: TrainState, config: Config, shape: DataShape, data: DataMark | None = None
) -> Checkpoint:
    """What is saved of a state; tensors are those of the state, the moments zeros before any step.

    Args:
        state: it is not changed.
        config: the resolved configuration of the run.
        shape: of the data.
        data: what the run remembers of its pictures.

    Returns:
        Checkpoint.
    """
    each = {name: moments_of(state.optimizer, param) for name, param in state.params.items()}
    moments = {kind: {name: found[kind] for name, found in each.items()} for kind in MOMENTS}
    weight, auxiliary = (
        {} if part is None else part.saved() for part in (state.weight, state.auxiliary)
    )
    counters = state.counters | _own_updates(state)
    return Checkpoint(
        state.step, config, shape, state.params, state.ema, moments, counters, data, weight,
        state.profiles, auxiliary, state.objective,
    )  # fmt: skip


def _own_updates(state: TrainState) -> dict[str, Tensor]:
    """Updates of each parameter that was not part of all: a network may leave some out at times."""
    usual = state.counters["updates"]
    own = {
        name: state.optimizer.state[param].get("step", torch.zeros_like(usual))
        for name, param in state.params.items()
    }
    others = (torch.stack([*own.values()]) != usual).tolist()
    pairs = zip(own.items(), others, strict=True)
    return {f"{UPDATES}{name}": updates for (name, updates), differs in pairs if differs}


@torch.no_grad()
def restore(state: TrainState, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint into a state, keeping devices and memory formats.

    Args:
        state: of a model of the same architecture; changed in place.
        checkpoint: one that fits, as `newest_checkpoint` gives it for the parameters of the state.

    Raises:
        ValueError: if the checkpoint is one of another learned weight, or lacks a profile: it
            averages from the first step on.
    """
    if missing := [length for length in state.profiles if length not in checkpoint.profiles]:
        known = few(map(str, checkpoint.profiles)) or "none"
        raise ValueError(
            f"the run that goes on has ema_profiles {known}, got {few(map(str, missing))} as well, "
            "which average from the first step on; leave those out, or choose another --out"
        )
    for length, average in state.profiles.items():
        for name, value in average.items():
            value.copy_(checkpoint.profiles[length][name])
    for name, param in state.params.items():
        param.copy_(checkpoint.params[name])
        state.ema[name].copy_(checkpoint.ema[name])
        moments = {kind: checkpoint.moments[kind][name] for kind in MOMENTS}
        updates = checkpoint.counters.get(f"{UPDATES}{name}", checkpoint.counters["updates"])
        restore_moments(state.optimizer, param, moments, updates)
    scaled = checkpoint.config.train.precision == "fp16"
    for name in state.counters.keys() - (set() if scaled else OF_THE_SCALE):
        state.counters[name].copy_(checkpoint.counters.get(name, state.counters[name]))
    if state.weight is not None and checkpoint.weight:  # a run may begin to learn one
        state.weight.restore(checkpoint.weight)
    if state.auxiliary is not None:
        state.auxiliary.restore(checkpoint.auxiliary)
    state.step = checkpoint.step


@torch.no_grad()
def start_from(state: TrainState, checkpoint: Checkpoint) -> None:
    """Begin with another run's averaged parameters, and nothing else of it.

    Args:
        state: fresh, of a model of the same architecture; changed in place.
        checkpoint: of the other run.

    Raises:
        ValueError: if names or shapes differ; the first ones are listed.
    """
    check_fits(checkpoint.ema, state.params)
    for name, param in state.params.items():
        param.copy_(checkpoint.ema[name])
        state.ema[name].copy_(checkpoint.ema[name])


@torch.no_grad()
def start_partly_from(state: TrainState, checkpoint: Checkpoint) -> None:
    """Begin with those of another run's averaged parameters that fit, and tell the others.

    Args:
        state: fresh; parameters of the same name and shape are changed in place, with their
            average, and the others stay as they were built.
        checkpoint: of the other run.

    Raises:
        ValueError: if none fits.
    """
    found, params = checkpoint.ema, state.params
    taken = [name for name in params if name in found and found[name].shape == params[name].shape]
    if not taken:
        raise ValueError(
            f"none of the {len(params)} parameters of this network has the name and shape of one "
            f"of the {len(found)} to start from; leave --init-from out, or give a more similar run"
        )
    for name in taken:
        params[name].copy_(found[name])
        state.ema[name].copy_(found[name])
    left = [name for name in params if name not in set(taken)]
    unused = [name for name in found if name not in params]
    say(
        f"{len(taken)} of {len(params)} parameters are those of step {checkpoint.step}"
        + (f"; as built stay {few(_shapes(left, params, found), 3)}" if left else "")
    )
    if unused:
        say(f"not taken, for want of a place: {few(unused, 3)}")


def _shapes(
    names: Iterable[str], params: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> list[str]:
    """Names with their shapes, and those of the same names elsewhere."""
    return [
        f"{name} {tuple(params[name].shape)}"
        + (f", there {tuple(found[name].shape)}" if name in found else "")
        for name in names
    ]
