"""A network as the function of (z, logsnr) that the samplers in `vfn.ops` want."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vfn.nn.conditions import NO_CONDITIONS, Conditions, check_labels
from vfn.nn.network import Network
from vfn.ops import (
    Denoiser,
    GuidanceRule,
    LogSNRSchedule,
    OutType,
    Remembered,
    Strength,
    VarianceSplit,
    check_zero_snr,
    guided_x0,
    predict,
    split_variance,
    x0_from_mean_velocity,
    zero_init,
)
from vfn.ops.guidance import PLAIN
from vfn.ops.integration import asked, denoiser_of, remembers, spans
from vfn.ops.schedules import level_at


def with_params(model: nn.Module, params: Mapping[str, Tensor] | None) -> Network:
    """The network as a function of its inputs, with ``params`` in place of its own.

    Threads may call it at the same time: they wait for one another, as it is the module itself
    that has other parameters for the time of a call.

    Args:
        model: any module; it is as before after each call.
        params: all of its parameters by name: raw, EMA, or a teacher's; buffers may be among them.
            None is the module as it is.

    Returns:
        ``network(z, t, labels)``, which takes what the module takes.

    Raises:
        ValueError: for a parameter that is missing, or a name that the module does not have: it
            would run with weights of its own there.

    >>> double = with_params(nn.Linear(1, 1, bias=False), {"weight": torch.full((1, 1), 2.0)})
    >>> double(torch.ones(1))
    tensor([2.])
    """
    if params is None:
        return model
    named = dict(params)
    _check_names(model, named)

    def network(*inputs: Any, **more: Any) -> Any:
        with _alone(model):
            return functional_call(model, named, inputs, more)

    return network


# Held while a module has other parameters than its own; a thread may hold one several times.
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def _alone(model: nn.Module) -> AbstractContextManager[Any]:
    """Keep other threads from a module; what is compiled or exported cannot hold a lock."""
    if torch.compiler.is_compiling():
        return nullcontext()
    lock: AbstractContextManager[Any] = _LOCKS.setdefault(model, threading.RLock())
    return lock


def _check_names(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Refuse parameters that are not those of a module; nothing is read of the tensors."""
    names: dict[int, list[str]] = {}  # of each parameter: those that are tied have several
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    buffers = (name for name, _ in model.named_buffers(remove_duplicate=False))
    known = {name for several in names.values() for name in several} | set(buffers)
    missing = [several[0] for several in names.values() if given.keys().isdisjoint(several)]
    unknown = [name for name in given if name not in known]
    if missing or unknown:
        raise ValueError(
            f"expected all parameters of {type(model).__name__} by their names, got {len(given)} "
            f"with {_listed(missing)} missing and {_listed(unknown)} unknown; None stands for the "
            "module's own"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "none") + more


def denoiser(
    model: nn.Module,
    params: Mapping[str, Tensor] | None,
    schedule: LogSNRSchedule,
    out_type: OutType,
    labels: Tensor | None = None,
    guidance: Strength = 0.0,
    clip: bool = True,
    rescale: float = 0.0,
    variance: bool = False,
    gradient: bool = False,
    weak: Denoiser | None = None,
    weak_guidance: Strength = 1.0,
    rule: GuidanceRule = PLAIN,
    zero_until: float | None = None,
    conditions: Conditions = NO_CONDITIONS,
    casting: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Denoiser:
    """Close over parameters, labels, clipping and guidance.

    With ``guidance`` w the result is ``cond + w (cond - uncond)``, both branches in one doubled
    batch and each clipped before `guided_x0` combines them; with ``weak`` it is also led away from
    what that says, by ``weak_guidance (cond - weak)``. A network that takes guidance as an input
    gets w instead, and is evaluated once.

    Args:
        model: a `UNet`, or any module called as ``model(z, t, y)`` and with its conditions.
        params: all of its parameters by name: raw, EMA, or a teacher's; None for its own.
        schedule: the schedule the network was trained with; it gives the network's t.
        out_type: what the network predicts.
        labels: [B] or [B, K] as the network takes them: classes count from 1, and 0 is none; None
            is unconditional. Values are looked at where they are on the CPU, and only there.
        guidance: w >= 0, [B] of them, or a function of logsnr such as `interval_strength`; needs
            labels if it is not 0. Of a network that takes it, within its range.
        clip: clamp x0 to [-1, 1].
        rescale: phi in [0, 1], brings the guided x0 towards the contrast of the conditional one.
        variance: also return the fraction of a learned variance, of the conditional branch.
        gradient: whether gradients reach the parameters. Otherwise they are taken as constants, so
            that sampling keeps nothing of the steps behind it; gradients by z are there either way.
        weak: a denoiser of a weaker network of the same data (autoguidance), of any prediction,
            schedule and size: x0 is what both have in common.
        weak_guidance: w >= 0 of it, [B], or a function of logsnr; 0 leaves it out.
        rule: how two predictions are combined, as `guidance_rule` makes it.
        zero_until: highest logsnr at which the flow stands still, see `zero_init`; None is none.
        conditions: what the network takes beside labels, of B pictures. Guidance leads away from
            none of it, too, of the same augmentation.
        casting: the context of each call of the network, such as one of `torch.autocast`.

    Returns:
        ``denoise(z, logsnr) -> x0``; with ``variance`` x0 and the fraction along the channels, as
        `learned_ancestral_solver` wants it. A `Remembering` one where the rule or ``weak``
        remembers; a `vfn.ops.Spanning` one of a network that takes a second time, where ``weak`` is
        one as well, if there is any.

    Raises:
        ValueError: if guidance is negative, or asked for without labels, or not what the network
            takes, the parameters are not the network's, it does not know the labels, or the
            schedule ends at zero signal and the network predicts eps.

    Source: Ho & Salimans 2021 (2207.12598), eq. 6; Karras et al. 2024 (2406.02507), eq. 2.

    >>> from vfn.nn import UNet
    >>> from vfn.ops import logsnr_schedule
    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    >>> denoise = denoiser(net, dict(net.named_parameters()), logsnr_schedule("cosine"), "v")
    >>> denoise(torch.randn(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """
    check_zero_snr(level_at(schedule, 1.0).item(), out_type)
    number = _number(guidance, "guidance")
    if _number(weak_guidance, "weak_guidance") == 0:
        weak = None
    known = guidance_range(model)
    if known is not None:
        check_guidance_input(guidance, known, rescale, rule)
    doubled = branches_of(known, number) == 2
    if doubled and labels is None and conditions.vector is None and conditions.image is None:
        raise ValueError(
            f"expected labels for guidance {'of some log-SNRs' if number is None else number}, "
            "got None; give labels, or leave guidance at 0"
        )
    if labels is not None:
        _check_known(model, labels)
    if doubled:
        labels = None if labels is None else torch.cat([labels, torch.zeros_like(labels)])
        conditions = conditions.then(conditions.none())
    more = conditions.keywords()

    if not gradient:
        own = dict(model.named_parameters()) if params is None else params
        params = {name: value.detach() for name, value in own.items()}
    network = with_params(model, params)
    strengths = [guidance] * doubled + [weak_guidance] * (weak is not None)

    def predicted(z: Tensor, logsnr: Tensor, end: Tensor | None) -> VarianceSplit:
        given: list[Any] = [_unconditional(model, z) if labels is None else labels]
        if known is not None:
            given.append(guidance if number is None else z.new_full((z.shape[0],), number))
        ends = {} if end is None else {"r": schedule.time(end)}
        with casting():
            said = network(z, schedule.time(logsnr), *given, **more, **ends)
        out, frac = split_variance(z, said, out_type)
        pred = predict(z, out, logsnr, out_type)
        x0 = pred.x0 if end is None else x0_from_mean_velocity(z, pred.v, logsnr, end)
        return VarianceSplit(x0.clamp(-1, 1) if clip else x0, frac)

    def branches(
        z: Tensor, logsnr: Tensor, end: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """What this network says with and without conditions, and the fraction of the first."""
        if doubled:
            ends = None if end is None else torch.cat([end, end])
            both = predicted(torch.cat([z, z]), torch.cat([logsnr, logsnr]), ends)
            count = z.shape[0]  # a plain number of it would be fixed by torch.export
            x0s = [both.out[:count], both.out[count:]]
            frac = None if both.frac is None else both.frac[:count]
        else:
            x0, frac = predicted(z, logsnr, end)
            x0s = [x0]
        return x0s, frac

    def say(z: Tensor, logsnr: Tensor, end: Tensor | None, memory: Any) -> Remembered:
        logsnr = _each(logsnr, z)
        end = None if end is None else _each(end, z)
        of_rule, of_weak = memory or (None, None)
        x0s, frac = branches(z, logsnr, end)
        if weak is not None:
            other, of_weak = asked(weak, z, logsnr, end, of_weak)
            x0s.append(other)
        x0 = x0s[0]
        if strengths:
            x0, of_rule = guided_x0(z, x0s, logsnr, strengths, rule, rescale, of_rule)
        if zero_until is not None:
            x0 = zero_init(lambda *_: x0, zero_until)(z, logsnr)
        if not variance:
            return Remembered(x0, (of_rule, of_weak))
        if frac is None:
            raise ValueError("expected a network with learned variance, and this one has none")
        return Remembered(torch.cat([x0, frac], dim=1), (of_rule, of_weak))

    recalls = (rule.remembers and bool(strengths)) or (weak is not None and remembers(weak))
    whole = takes_second_time(model) and (weak is None or spans(weak))
    return denoiser_of(say, recalls, whole)


def _each(logsnr: Tensor | float, z: Tensor) -> Tensor:
    """A logsnr for each picture [B], float64, of one for all or with axes of length 1 behind."""
    value = torch.as_tensor(logsnr, dtype=torch.float64, device=z.device)
    return value.reshape(-1).expand(z.shape[0])


def _number(strength: Strength, name: str) -> float | None:
    """A strength that is one number, which must not be negative; None where it varies."""
    if callable(strength) or isinstance(strength, Tensor):
        return None
    if strength < 0:
        raise ValueError(f"expected {name} >= 0, got {strength}")
    return float(strength)  # one of numpy gives truth values that count nothing


def _check_known(model: nn.Module, labels: Tensor) -> None:
    """Refuse labels on the host that a network does not know."""
    if labels.device.type != "cpu":
        return  # looking would wait for the device
    count = getattr(model, "num_classes", None)
    if count == 0:
        raise ValueError("expected no labels for an unconditional network, got some; pass None")
    if count is not None:
        check_labels(labels, count, bool(getattr(model, "multitags", False)))


def guidance_range(model: nn.Module) -> Sequence[float] | None:
    """Lowest and highest guidance weight of a network that takes it as an input.

    Args:
        model: any network.

    Returns:
        two numbers; None of a network without it.

    >>> from vfn.nn import UNet
    >>> guidance_range(UNet(1, 1, 32, (1,), 1, (False,), guidance_range=(0.0, 4.0)))
    (0.0, 4.0)
    """
    return getattr(model, "guidance_range", None)


def branches_of(known: Sequence[float] | None, guidance: float | None) -> int:
    """How many predictions of a network guidance takes for a picture, in one batch.

    Args:
        known: `guidance_range` of the network.
        guidance: the weight; None where it varies.

    Returns:
        2, with the label and without one; 1 without guidance, or where it is an input.

    >>> branches_of(None, 0.5), branches_of(None, 0.0), branches_of((0.0, 4.0), 0.5)
    (2, 1, 1)
    """
    return 2 if known is None and guidance != 0 else 1


def takes_second_time(model: nn.Module) -> bool:
    """Whether a network takes a second time as an input, the keyword r, as mean flows do.

    Args:
        model: any network.

    Returns:
        what its ``second_time`` says, if it has one.

    >>> takes_second_time(nn.Linear(1, 1))
    False
    """
    return bool(getattr(model, "second_time", False))


def no_conditions(model: nn.Module, z: Tensor) -> Conditions:
    """What stands for none of each condition that a network says it takes.

    Args:
        model: its attributes ``vector_dim``, ``image_channels`` and ``augment_dim`` tell.
        z: noisy data [B, C, H, W].

    Returns:
        Conditions, all zero; None for what it does not take.

    >>> no_conditions(nn.Identity(), torch.zeros(1, 1, 8, 8)).keywords()
    {}
    """
    names = ("vector_dim", "image_channels", "augment_dim")
    vector, image, augment = (getattr(model, name, 0) for name in names)
    count, _, height, width = z.shape
    return Conditions(
        z.new_zeros(count, vector) if vector else None,
        z.new_zeros(count, image, height, width) if image else None,
        z.new_zeros(count, augment) if augment else None,
    )


def check_guidance_input(
    guidance: Strength, known: Sequence[float], rescale: float = 0.0, rule: GuidanceRule = PLAIN
) -> None:
    """Refuse guidance that a network which takes it as an input was not distilled for.

    The values of a tensor are not looked at: that would wait for the device.

    Args:
        guidance: w, one for all or [B].
        known: lowest and highest w of the network.
        rescale: phi in [0, 1], brings the guided x0 towards the contrast of the conditional one.
        rule: how two predictions would be combined.

    Raises:
        ValueError: if it is out of range, depends on logsnr, is rescaled or follows a rule.

    >>> check_guidance_input(5.0, (0.0, 4.0))
    Traceback (most recent call last):
    ValueError: expected guidance in 0..4, the weights this network was distilled for, got 5
    """
    if callable(guidance) or rescale or rule is not PLAIN:
        raise ValueError(
            "expected neither guidance_interval nor guidance_rescale nor guidance_rule: this "
            "network takes guidance as an input and has no second branch; leave them out"
        )
    low, high = known
    if not isinstance(guidance, Tensor) and not low <= guidance <= high:
        raise ValueError(
            f"expected guidance in {low:g}..{high:g}, the weights this network was distilled for, "
            f"got {guidance:g}"
        )


def _unconditional(model: nn.Module, z: Tensor) -> Tensor | None:
    """The label that stands for 'none' in the training of a network that says it is conditional."""
    count = getattr(model, "num_classes", 0)
    if not count:
        return None
    shape = (len(z), count) if getattr(model, "multitags", False) else (len(z),)
    return torch.zeros(shape, dtype=torch.long, device=z.device)
