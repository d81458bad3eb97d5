"""What a configuration describes, as live objects: data shape, network, schedule, sampler."""

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from vfn.configs import Config, DataConfig, DiffusionConfig, SampleConfig
from vfn.data import Dataset, Labels
from vfn.data.augment import PARAMETERS
from vfn.data.derived import known
from vfn.data.given import Vector, check_derived, derived_kind
from vfn.data.standard import DATASETS
from vfn.data.values import PLAIN, Values
from vfn.files import reason_of
from vfn.memory import moved
from vfn.nn import Conditions, check_guidance_input
from vfn.nn.network import NETWORKS
from vfn.ops import (
    GUIDANCE_RULES,
    DrawSamples,
    GuidanceRule,
    LogSNRSchedule,
    Strength,
    guidance_rule,
    interpolate_schedule,
    interval_strength,
    keyed_uniform,
    logsnr_schedule,
    sampler,
    sampling_grid,
    shift_schedule,
)
from vfn.ops.solver_table import SOLVERS
from vfn.streams import Stream
from vfn.tables import outside


class DataShape(NamedTuple):
    """What a network has to know of its data.

    channels, height, width: of a picture. legend: what the labels mean. vector: the numbers of each
    picture. beside: channels of the pictures that are a condition, where they are not made of the
    others. values: what the numbers of the pictures mean. beside_values: the same of those beside.
    """

    channels: int
    height: int
    width: int
    legend: Labels = Labels()
    vector: Vector = Vector()
    beside: int = 0
    values: Values = PLAIN
    beside_values: Values = PLAIN

    @property
    def size(self) -> tuple[int, int, int]:
        """[C, H, W] of a picture."""
        return self.channels, self.height, self.width


def shape_of(dataset: Dataset) -> DataShape:
    """The shape of a data set.

    Args:
        dataset: its pictures and legend count.

    Returns:
        DataShape.

    >>> from vfn.data import load_dataset
    >>> shape_of(load_dataset("digits")).size
    (1, 8, 8)
    """
    channels, height, width = dataset.images.shape[1:]
    beside = 0 if dataset.beside is None else dataset.beside.shape[1]
    return DataShape(
        channels, height, width, dataset.legend, dataset.vector, beside, dataset.values,
        dataset.beside_values,
    )  # fmt: skip


def known_shape(data: DataConfig) -> DataShape | None:
    """The shape that settings give their data, where a table knows it without a download.

    Args:
        data: which data set, and how its pictures are wanted.

    Returns:
        DataShape; None where it is known only once the pictures are read.

    >>> known_shape(DataConfig(dataset="celeba", image_size=(32,), conditional=False)).size
    (3, 32, 32)
    """
    entry = DATASETS.get(data.dataset)
    if entry is None or entry.channels is None or entry.size is None:
        return None
    cut = data.crop[2:] if data.crop is not None else entry.size
    size = data.image_size or entry.image_size or cut
    legend = entry.legend if data.conditional else Labels()
    return DataShape(data.channels or entry.channels, size[0], size[-1], legend)


def image_channels(config: Config, shape: DataShape) -> int:
    """Channels of the picture that stands beside z, with the one that tells where it counts.

    Args:
        config: its ``data.condition`` counts.
        shape: of the data.

    Returns:
        a number, 0 for none.

    Raises:
        ValueError: for a condition that such pictures do not give.

    >>> from vfn.configs import load, override
    >>> config = override(load("digits"), {"condition": "downscale:4"})
    >>> image_channels(config, DataShape(3, 8, 8))
    4
    """
    kind = derived_kind(config.data.condition)
    if kind is None:
        return shape.beside + 1 if shape.beside else 0
    check_derived(kind, *shape.size)
    return kind.entry.channels(shape.channels) + 1


def is_conditional(config: Config, shape: DataShape) -> bool:
    """Whether a network is told anything of a picture that guidance can lead away from."""
    return bool(shape.legend.names or shape.vector.dim or image_channels(config, shape))


def conditions_of(
    dataset: Dataset, rows: Tensor, x0: Tensor, condition: str | None, uniform: Tensor | None
) -> Conditions:
    """What a network is given of pictures beside their labels.

    Args:
        dataset: their numbers, and the pictures beside them.
        rows: which of them, int64 [B].
        x0: the pictures themselves [B, C, H, W] in [-1, 1], on the device.
        condition: see ``data.condition``.
        uniform: where a mask is, [B, 4]; None where nothing is made of the pictures themselves.

    Returns:
        Conditions, on the device of ``x0``.

    >>> grey = Dataset(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    >>> x0 = torch.zeros(2, 1, 8, 8)
    >>> conditions_of(grey, torch.arange(2), x0, "downscale:4", torch.rand(2, 4)).image.shape
    torch.Size([2, 2, 8, 8])
    """
    vector = image = None
    if dataset.vectors is not None:
        vector = moved(dataset.vector.of(dataset.vectors[rows]), x0.device)
    if dataset.beside is not None:
        image = known(dataset.beside_values.to_unit(moved(dataset.beside[rows], x0.device)))
    elif (kind := derived_kind(condition)) is not None:
        assert uniform is not None
        image = kind.entry.load()(x0, uniform, kind.number)
    return Conditions(vector, image)


def fixed_conditions(
    dataset: Dataset, rows: Tensor, x0: Tensor, condition: str | None
) -> Conditions:
    """`conditions_of` of pictures that are not trained on, the same at every call.

    Args:
        dataset: their numbers, and the pictures beside them.
        rows: which of them, int64 [B].
        x0: the pictures themselves [B, C, H, W] in [-1, 1], on the device.
        condition: see ``data.condition``.

    Returns:
        Conditions, on the device of ``x0``.
    """
    uniform = keyed_uniform(0, Stream.HELD_OUT_CONDITION, rows.to(x0.device), (4,))
    return conditions_of(dataset, rows, x0, condition, uniform)


def output_channels(config: Config, shape: DataShape) -> int:
    """Channels that a network has to give: the data's for each prediction, and for a variance."""
    outputs = 2 if config.diffusion.model_out_type == "both" else 1
    return (outputs + config.diffusion.learned_variance) * shape.channels


def build_model(config: Config, shape: DataShape) -> nn.Module:
    """The network that a configuration describes, for data of some shape.

    Args:
        config: its ``model.network`` is a word of `NETWORKS` or ``package.module:Name``.
        shape: of the data.

    Returns:
        the network with random parameters, from torch's generator.

    Raises:
        ValueError: if there is no such network, or it does not take its options.

    >>> from vfn.configs import load
    >>> net = build_model(load("digits"), DataShape(1, 8, 8, Labels(tuple("0123456789"))))
    >>> sum(p.numel() for p in net.parameters())
    756417
    """
    name = config.model.network
    conditioned = {
        "vector_dim": shape.vector.dim,
        "image_channels": image_channels(config, shape),
        "augment_dim": PARAMETERS if config.data.augment else 0,
    }
    options = {
        "in_channels": shape.channels,
        "out_channels": output_channels(config, shape),
        "num_classes": len(shape.legend.names),
        "multitags": shape.legend.tags,
        **{name: size for name, size in conditioned.items() if size},
        **config.model.network_options(),
    }
    build = _class_of(name)
    try:
        inspect.signature(build).bind(**options)
    except TypeError as error:
        taken = ", ".join(inspect.signature(build).parameters)
        raise ValueError(f"network {name}: {error}; it takes {taken}") from None
    try:
        network = build(**options)
    except _OF_ITS_CODE as error:  # others may be of memory, or of a device without values
        raise ValueError(f"network {name} cannot be built: {reason_of(error)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"expected network {name} to be an nn.Module, got {type(network).__name__}"
        )
    return network


_OF_ITS_CODE = (TypeError, AttributeError, LookupError, ZeroDivisionError, AssertionError)


def _class_of(name: str) -> Callable[..., Any]:
    """What builds a network.

    Returns:
        the class.

    Raises:
        ValueError: if there is none.
    """
    # On "meta", where a network may be built, constants of its module would stay without values.
    with torch.device("cpu"):
        build = NETWORKS.find(name).load()
    if not callable(build):
        raise ValueError(f"expected network {name} to be a class, got {type(build).__name__}")
    return cast(Callable[..., Any], build)


def schedule_of(diffusion: DiffusionConfig) -> LogSNRSchedule:
    """The log-SNR schedule that a configuration describes: by its name, mixed, then shifted."""
    name, low, high = diffusion.logsnr_schedule, diffusion.logsnr_min, diffusion.logsnr_max
    schedule = logsnr_schedule(name, low, high, **diffusion.schedule_options)
    if diffusion.interpolation is not None:
        schedule = interpolate_schedule(schedule, *diffusion.interpolation)
    return schedule if diffusion.shift == 1 else shift_schedule(schedule, diffusion.shift, base=1)


def sampler_of(settings: SampleConfig) -> DrawSamples:
    """The sampler that the settings name, with those of its options that it takes."""
    return sampler(settings.sampler, **settings.solver_options())


def grid_of(settings: SampleConfig, schedule: LogSNRSchedule) -> Tensor:
    """The noise levels of the steps: at the times that the settings name, else on their grid.

    Args:
        settings: of sampling.
        schedule: of the network.

    Returns:
        logsnrs [N+1], float64, increasing, on the host, where a solver may look at them.

    Raises:
        ValueError: if the schedule has infinite limits that the grid cannot reach.

    >>> schedule = schedule_of(DiffusionConfig(logsnr_schedule="sigmoid"))
    >>> grid_of(SampleConfig(sample_timesteps=2, times=(1.0, 0.75)), schedule)
    tensor([-20., -10.,  20.], dtype=torch.float64)
    """
    if settings.times is not None:
        return schedule.logsnr(torch.tensor([*settings.times, 0.0], dtype=torch.float64))
    return sampling_grid(settings.grid, schedule, settings.sample_timesteps)


def strength_of(settings: SampleConfig) -> Strength:
    """Guidance as the settings ask for it: a number, or a function of logsnr."""
    return strength_within(settings.guidance, settings.guidance_interval)


def weak_strength_of(settings: SampleConfig) -> Strength:
    """The strength of what a weaker network says, likewise."""
    return strength_within(settings.guide_weight, settings.guidance_interval)


def strength_within(w: float | Tensor, interval: Sequence[float] | None) -> Strength:
    """A strength that acts at some levels only; 0 stays a number, of which nothing is asked.

    Args:
        w: the strength, one for all or [B].
        interval: lowest and highest logsnr; None for all.

    Returns:
        a number or [B] where it is the same everywhere, else a function of logsnr.

    >>> strength_within(2.0, (-1.0, 1.0))(torch.tensor([0.0, 3.0]))
    tensor([2., 0.])
    >>> strength_within(2.0, None), strength_within(0.0, (-1.0, 1.0))
    (2.0, 0.0)
    """
    if interval is None or (not isinstance(w, Tensor) and not w):
        return w
    low, high = interval
    return interval_strength(w, low, high)


def rule_of(settings: SampleConfig) -> GuidanceRule:
    """The guidance rule that the settings name, with its parameters."""
    return guidance_rule(settings.guidance_rule, **settings.guidance_options)


def check_guidance(
    settings: SampleConfig,
    config: Config,
    shape: DataShape,
    known: Sequence[float] | None = None,
    remedy: str = "use --guidance 0",
) -> None:
    """Refuse guidance that a network cannot give.

    Args:
        settings: what is asked for.
        config: what the network was trained with.
        shape: what the network knows of its data.
        known: lowest and highest w of a network that takes it as an input.
        remedy: what to do where a network has no guidance, in the words of the command.

    Raises:
        ValueError: if guidance is asked of a network that is unconditional, never saw a picture
            without its label or one with it, or has one weight distilled into it; or of one that
            takes guidance as an input out of its range.
    """
    if settings.guidance and not is_conditional(config, shape):
        raise ValueError(
            f"guidance {settings.guidance} needs a class-conditional model, and this one is "
            f"unconditional; {remedy}"
        )
    if known is not None:
        strength, phi = strength_of(settings), settings.guidance_rescale
        check_guidance_input(strength, known, phi, rule_of(settings))
    elif settings.guidance:
        _check_two_branches(settings.guidance, config, remedy)


def _check_two_branches(guidance: float, config: Config, remedy: str) -> None:
    """Refuse guidance where one of its two branches was never trained."""
    if config.distill.asked:
        raise ValueError(
            f"guidance {guidance:g} was asked of a distilled model, which has its guidance in it; "
            f"{remedy}, or distill with --guidance-range for many weights"
        )
    p = config.diffusion.p_uncond
    if p in (0, 1):
        never = "without" if p == 0 else "with"
        raise ValueError(
            f"guidance {guidance:g} needs a model trained with and without labels, and with "
            f"p_uncond {p:g} this one never saw a picture {never} one; {remedy}, or train with "
            "--p-uncond 0.1"
        )


def check_sampling(
    settings: SampleConfig,
    config: Config,
    shape: DataShape,
    known: Sequence[float] | None = None,
) -> None:
    """Refuse settings of sampling that a network cannot follow.

    Args:
        settings: what is asked for.
        config: what the network was trained with.
        shape: what the network knows of its data.
        known: lowest and highest w of a network that takes guidance as an input.

    Raises:
        ValueError: for guidance as in `check_guidance`, a rule that does not exist, takes other
            parameters or remembers what the solver cannot tell it, a variance that was not
            learned, a grid that the schedule has no ends for, or a solver that cannot be imported
            or fails.
    """
    if rule_of(settings).remembers and SOLVERS.find(settings.sampler).forgetful:
        raise ValueError(
            f"guidance rule {settings.guidance_rule} remembers the steps before, and sampler "
            f"{settings.sampler} takes steps back; use another sampler, or momentum 0"
        )
    check_guidance(settings, config, shape, known)
    sampling_grid(settings.grid, schedule_of(config.diffusion), 2)
    _try_rule(settings)
    _try_solver(settings)
    if settings.uses_variance and not config.diffusion.learned_variance:
        raise ValueError(
            "var_type learned needs a model trained with learned_variance, and this one was not; "
            "use fixed_small or fixed_large"
        )


def _try_rule(settings: SampleConfig) -> None:
    """Try a rule of the user's on two branches that are all zero."""
    name = settings.guidance_rule
    if name in GUIDANCE_RULES:
        return
    w = settings.guidance or settings.guide_weight  # a weaker network is led away from by it, too
    z, logsnr = torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.float64)
    with outside(f"guidance rule {name} fails"):
        found = rule_of(settings).combine(z, z, z, logsnr, w, None).x0
    if not isinstance(found, Tensor) or found.shape != z.shape:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"expected guidance rule {name} to give {list(z.shape)}, got {got}")


def _try_solver(settings: SampleConfig) -> None:
    """Refuse a solver that cannot be had, and try one of the user's on data that are all zero."""
    with outside(f"solver {settings.sampler} fails"):
        draw = sampler_of(settings)
        if settings.sampler in SOLVERS:
            return
        z, levels = torch.zeros(1, 1, 2, 2), torch.linspace(-9.0, 9.0, 4)
        found = draw(lambda z, _: 0 * z, z, levels, noise=lambda _: z)
        shape = tuple(found.x0.shape)
    if shape != tuple(z.shape):
        raise ValueError(
            f"expected solver {settings.sampler} to give {tuple(z.shape)}, got {shape}"
        )


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Half precision for the products of the network, where ``precision`` is bf16 or fp16."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


# What sets everything as each block of `float32_products` has found it, of all threads in turn.
_FOUND: dict[object, ExitStack] = {}
_TURN = threading.Lock()


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Products of float32 on GPUs with all their digits, or with ``tf32`` with 10-bit mantissas.

    Those of matrices, convolutions and recurrent layers; PyTorch's own default is all digits for
    the first alone. What a caller has set, in either of PyTorch's two ways, is so again afterwards.

    PyTorch has one such setting for the whole process. Where threads are in such blocks at the same
    time, that of the latest holds for all of them; after the last of them the caller's is back.

    Args:
        tf32: as a run is configured.

    >>> with float32_products(tf32=True):
    ...     torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    ('tf32', 'tf32')
    """
    me = object()
    with _TURN:
        _FOUND[me] = _kept_products()
        _set_products(tf32)
    try:
        yield
    finally:
        with _TURN:
            later = [*_FOUND][[*_FOUND].index(me) + 1 :]
            found = _FOUND.pop(me)
            if later:  # of other threads: the next of them leaves in this one's place
                _FOUND[later[0]] = found
            else:
                found.close()


_BACKENDS: Any = torch.backends  # whose types do not tell all of their parts


def _products() -> list[Any]:
    """What has an ``fp32_precision`` of products on CUDA."""
    return [_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn]


def _set_products(tf32: bool) -> None:
    # The older way sets both, so that whoever reads either of them is not refused.
    _BACKENDS.cuda.matmul.allow_tf32 = _BACKENDS.cudnn.allow_tf32 = tf32
    if not tf32:  # which the older way leaves to what is set for all backends
        for part in _products():
            part.fp32_precision = "ieee"


def _kept_products() -> ExitStack:
    """What sets everything as it is now, once it is closed."""
    stack = ExitStack()
    for part in [*_products(), _BACKENDS.mkldnn.matmul]:  # the last is set with the matrices
        stack.callback(setattr, part, "fp32_precision", part.fp32_precision)
    # Who has set precision in the newer way may not read the older one.
    with suppress(RuntimeError):
        stack.callback(setattr, _BACKENDS.cudnn, "allow_tf32", _BACKENDS.cudnn.allow_tf32)
    with suppress(RuntimeError):
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    return stack
