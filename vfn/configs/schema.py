"""The configuration of a run: frozen dataclasses that check themselves.

Every field is described once, by `option`; the command line, the TOML files and the error messages
all read that description. Every number has a range: what is out of it is refused before anything is
built.
"""

import dataclasses
import itertools
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vfn.files import few, shortened, shown
from vfn.nn.network import NETWORKS, TimeEmbedding, unet_faults
from vfn.ops.densities import TIME_DENSITIES
from vfn.ops.guidance_rules import GUIDANCE_RULES
from vfn.ops.objective_table import OBJECTIVES
from vfn.ops.schedule_table import SCHEDULES
from vfn.ops.solver_table import SOLVERS
from vfn.ops.weightings import WEIGHTINGS
from vfn.ops.words import FARTHEST, Grid, LossType, OutType, VarType
from vfn.tables import Table

LrSchedule = Literal["constant", "cosine", "linear"]
Precision = Literal["fp32", "bf16", "fp16"]
Split = Literal["train", "valid", "test", "all"]
OnBad = Literal["refuse", "skip"]
S = TypeVar("S", bound="Section")
# Far beyond what is of use, and below what nobody could wait for, hold or count.
SIDE, WIDTH, BATCH, COUNT = 2**15, 2**14, 10**6, 10**9
BETA = 0.99999  # of an average of so many steps that none is longer
SEED = 2**63 - 1  # what an integer of a tensor holds
LOGSNR = 700.0  # exp() of more is no float64
RATE, WEIGHT = 1e3, 1e6  # of the optimizer; of guidance and of terms of the loss
WIDE = 1e30  # what an array may hold
UNCLIPPED = 1e30  # a norm that no gradient has
FAR = 100.0  # an upper end from here on is one that nobody comes to by himself
SNAPSHOTS = 16  # of the averages of ema_profiles, over a run
LEVELS = 12  # of the UNet: 2^11 pixels become one


def option(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    table: Table[Any] | None = None,
) -> Any:
    """A field with its help text, its inclusive range, and the table that its words are from."""
    metadata = {"help": text, "low": low, "high": high, "table": table}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of the configuration; construction raises one ValueError naming all faults."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        faults = []
        for f in dataclasses.fields(self):
            value = _coerce(getattr(self, f.name), hints[f.name])
            object.__setattr__(self, f.name, value)
            faults += _faults(f.name, value, hints[f.name], f.metadata)
        faults += [] if faults else self.conflicts()
        if faults:
            raise ValueError(_told(faults))

    def conflicts(self) -> list[str]:
        """What is wrong with the fields in combination."""
        return []


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """The section [data]: which pictures, and how they are prepared."""

    dataset: str = option("digits", "data set, or the path of a folder, .npy, .npz or .tar file")
    split: Split = option("train", "pictures to train on")
    conditional: bool = option(True, "train on the labels, where the data set has any")
    image_size: tuple[int, ...] | None = option(
        None,
        "resize and cut to height, width (one number: square); the data set's own if unset",
        1,
        SIDE,
    )
    crop: tuple[int, ...] | None = option(
        None,
        "cut out top, left, height, width before resizing; the data set's own if unset",
        0,
        SIDE,
    )
    channels: int | None = option(
        None, "1 turns pictures grey, 3 to RGB; as they are if unset", 1, 3
    )
    flip: bool = option(False, "mirror half of the pictures, at random")
    augment: float = option(
        0.0,
        "probability of each kind of geometric change in training, whose parameters the network is "
        "told",
        0,
        1,
    )
    condition: str | None = option(
        None,
        "what stands beside the noisy picture: downscale:K, grey or mask of itself, or the path of "
        "other pictures, one for each",
    )
    value_range: tuple[float, ...] | None = option(
        None,
        "LOW,HIGH of the numbers of an array, which become -1 and 1; if unset those of whole "
        "numbers, of others what is found",
        -WIDE,
        WIDE,
    )
    standardise: bool = option(
        False, "scale numbers of an array by mean and deviation of each channel, as of latents"
    )
    shown_channels: tuple[int, ...] | None = option(
        None, "one or three channels that grids show; the first ones if unset", 0, WIDTH
    )
    test_share: float = option(0.1, "share of a folder or array that is the test split", 0, 0.9)
    on_bad: OnBad = option("refuse", "what to do about pictures that cannot be used")
    data_dir: str | None = option(
        None, "where downloads and prepared data are; $VFN_DATA or ~/.cache/vfn if unset"
    )
    num_workers: int | None = option(None, "threads that prepare data; all cores if unset", 1, 1024)

    @property
    def scaled(self) -> bool:
        """Whether settings say what the numbers of an array mean."""
        return self.value_range is not None or self.standardise

    def conflicts(self) -> list[str]:
        """Sizes, crops and channels that no picture can have."""
        faults = []
        if self.image_size is not None and len(self.image_size) > 2:
            faults.append(
                f"expected image_size to be height, width, got {shown(list(self.image_size))}"
            )
        if self.crop is not None and (len(self.crop) != 4 or 0 in self.crop[2:]):
            faults.append(
                f"expected crop to be top, left, height, width, got {shown(list(self.crop))}"
            )
        span = self.value_range
        if span is not None and (len(span) != 2 or span[0] >= span[1]):
            faults.append(
                "expected value_range to be the lowest and the highest number, such as 0,4095, got "
                f"{few((f'{value:g}' for value in span), joint=',')}"
            )
        if span is not None and self.standardise:
            faults.append("expected value_range or standardise, got both")
        if self.shown_channels is not None and len(self.shown_channels) not in (1, 3):
            faults.append(f"expected one or three shown_channels, got {len(self.shown_channels)}")
        if self.channels not in (None, 1, 3):
            faults.append(f"expected channels to be 1 or 3, got {self.channels}")
        return faults


# Fields of [model] for any network; the others are the UNet's.
_SHARED = ("network", "options", "guidance_range", "second_time")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The section [model]: which network, and its sizes."""

    network: str = option("unet", "network", table=NETWORKS)
    options: dict[str, Any] = option({}, "what another network than the unet is built with")
    guidance_range: tuple[float, ...] | None = option(
        None, "LOW,HIGH: guidance w that the network takes as an input; none if unset", 0, WEIGHT
    )
    hid_channels: int = option(128, "base width of the UNet, a multiple of 4", 4, WIDTH)
    ch_multipliers: tuple[int, ...] = option((1, 2, 2), "width of each level, as multiples", 1, 256)
    num_res_blocks: int = option(2, "residual blocks a level", 1, 64)
    apply_attn: tuple[bool, ...] = option((False, True, True), "attention, for each level")
    embedding_dim: int | None = option(
        None, "conditioning width; 4 x hid-channels if unset", 1, 4 * WIDTH
    )
    num_heads: int | None = option(None, "attention heads", 1, WIDTH)
    head_dim: int | None = option(None, "width of an attention head", 1, WIDTH)
    dropout: float = option(0.0, "dropout in the residual blocks", 0, 0.99)
    resample_with_res: bool = option(True, "resample in residual blocks; false: plain convolutions")
    attend_after_resampling: bool = option(
        True, "attention in those blocks too, where their level has it"
    )
    time_embedding: TimeEmbedding = option(
        "sinusoidal", "sinusoids of 1000 t, or smooth: of 10 t, for consistency models"
    )
    second_time: bool = option(False, "also take the time where a step ends, as mean flows do")
    group_channels: int = option(
        1, "channels of each group of a normalisation, at least; at most 32 groups", 1, WIDTH
    )
    patch_size: int = option(
        1, "pixels a side that the first level of the UNet sees as one, in more channels", 1, 64
    )
    input_gain: bool = option(
        False, "the UNet's last layer gives a gain of each value of z too: smooth parts come sooner"
    )
    checkpoint_activations: bool = option(
        False, "compute activations again instead of keeping them"
    )

    def network_options(self) -> dict[str, Any]:
        """What the network is built with, beside what its data determine."""
        options = self.options
        if NETWORKS.find(self.network).sectioned:
            options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)
                       if f.name not in _SHARED}  # fmt: skip
        span = {} if self.guidance_range is None else {"guidance_range": self.guidance_range}
        second = {"second_time": True} if self.second_time else {}
        return {**options, **span, **second}

    def conflicts(self) -> list[str]:
        """A range not of two ends in order, options of another network, sizes of no UNet."""
        faults, span = [], self.guidance_range
        if span is not None and (len(span) != 2 or span[0] >= span[1]):
            faults.append(
                "expected guidance_range to be the lowest and the highest w, such as 0,4, "
                f"got {few((f'{value:g}' for value in span), joint=',')}"
            )
        if NETWORKS.find(self.network).sectioned:
            if self.options:
                faults.append(
                    f"expected no [model.options] for network {self.network}, whose options are "
                    f"the fields of [model], got {few(self.options)}"
                )
            if len(self.ch_multipliers) > LEVELS:
                faults.append(
                    f"expected at most {LEVELS} levels in ch_multipliers, got "
                    f"{len(self.ch_multipliers)}"
                )
            return faults + unet_faults(
                self.hid_channels, self.ch_multipliers, self.num_res_blocks, self.apply_attn
            )
        known = NETWORKS.find(self.network).faults
        if known is not None:
            faults += [f"network {self.network}: {fault}" for fault in known(self.options)]
        return faults + [
            f"{f.name} belongs to the unet; options of network {self.network} stand in "
            "[model.options]"
            for f in dataclasses.fields(self)
            if f.name not in _SHARED and getattr(self, f.name) != f.default
        ]


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Section):
    """The section [diffusion]: noise levels, prediction and loss."""

    logsnr_schedule: str = option("cosine", "log-SNR schedule", table=SCHEDULES)
    logsnr_min: float | None = option(None, "logsnr at t=1; -20 if unset", -LOGSNR, LOGSNR)
    logsnr_max: float | None = option(None, "logsnr at t=0; 20 if unset", -LOGSNR, LOGSNR)
    schedule_options: dict[str, Any] = option({}, "parameters of the schedule")
    shift: float = option(
        1.0, "k: logsnr - 2 log k, more noise for pictures k times larger", 1e-3, 1e3
    )
    interpolation: tuple[int, ...] | None = option(
        None,
        "LOW,HIGH,SIDE: for pictures of SIDE pixels, the noise of LOW pixels at t=1, of HIGH at "
        "t=0; as the schedule has it if unset",
        1,
        SIDE,
    )
    model_out_type: OutType = option("v", "what the network predicts")
    objective: str = option("diffusion", "what the network learns", table=OBJECTIVES)
    objective_options: dict[str, Any] = option({}, "parameters of the objective")
    loss_type: LossType = option("mse", "weighted square error, or the bound (kl)")
    reweight_type: str = option(
        "truncated_snr", "weighting of the loss over noise levels", table=WEIGHTINGS
    )
    reweight_options: dict[str, Any] = option({}, "parameters of the weighting")
    learned_weight: bool = option(
        False, "also learn how much each noise level weighs: exp(-u) loss + u"
    )
    time_density: str = option(
        "uniform", "how the times of a batch are drawn", table=TIME_DENSITIES
    )
    time_options: dict[str, Any] = option({}, "parameters of the time density")
    keep_expectation: bool | None = option(
        None,
        "divide the loss by the time density, so that its mean is that of uniform times; if unset "
        "with importance, weighted and those from outside",
    )
    learned_variance: bool = option(False, "also learn the variance of ancestral steps")
    bound_weight: float = option(0.001, "weight of the bound beside mse that trains it", 0, WEIGHT)
    train_timesteps: int = option(0, "discrete training times; 0 is continuous", 0, COUNT)
    p_uncond: float = option(0.1, "probability of dropping the label in training", 0, 1)

    @property
    def uses_bound(self) -> bool:
        """Whether the loss has terms of the variational bound, which is one of discrete steps."""
        return self.loss_type == "kl" or self.learned_variance

    def conflicts(self) -> list[str]:
        """A bound without discrete steps, and limits of logsnr that do not fit."""
        faults = []
        for name, value in (("loss_type", "kl"), ("learned_variance", True)):
            if getattr(self, name) == value and not self.train_timesteps:
                faults.append(
                    f"expected train_timesteps above 0, such as 1000, with {name} "
                    f"{str(value).lower()}: the bound is one of discrete steps"
                )
        if self.objective != "diffusion":
            if self.uses_bound or self.train_timesteps:
                faults.append(
                    f"expected loss_type mse, no learned_variance and train_timesteps 0 with "
                    f"objective {self.objective}"
                )
            if self.model_out_type == "both":
                faults.append(f"expected model_out_type v with objective {self.objective}")
        faults += self._faults_of_the_schedule()
        chosen = (
            (self.logsnr_schedule, SCHEDULES, self.schedule_options),
            (self.objective, OBJECTIVES, self.objective_options),
            (self.reweight_type, WEIGHTINGS, self.reweight_options),
            (self.time_density, TIME_DENSITIES, self.time_options),
        )
        return faults + [fault for each in chosen for fault in _option_faults(*each)]

    def _faults_of_the_schedule(self) -> list[str]:
        """Limits in the wrong order or where none are taken, and sides that no picture has."""
        faults = []
        low = -20.0 if self.logsnr_min is None else self.logsnr_min
        high = 20.0 if self.logsnr_max is None else self.logsnr_max
        if not SCHEDULES.find(self.logsnr_schedule).limited:
            if self.logsnr_min is not None or self.logsnr_max is not None:
                faults.append(
                    f"expected no logsnr_min or logsnr_max with the {self.logsnr_schedule} schedule"
                )
        elif low >= high:
            faults.append(f"expected logsnr_min < logsnr_max, got {low} and {high}")
        elif max(-low, high) > FARTHEST:
            faults.append(
                f"expected logsnr_min and logsnr_max within ±{FARTHEST:g}, got {low} and {high}"
            )
        sides = self.interpolation
        if sides is not None and (len(sides) != 3 or list(sides) != sorted(sides)):
            faults.append(
                "expected interpolation to be LOW,HIGH,SIDE, sides of pictures that do not fall, "
                f"such as 32,256,512, got {','.join(map(str, sides[:4]))}"
            )
        return faults


def _option_faults(word: str, table: Table[Any], options: Mapping[str, Any]) -> list[str]:
    """Options that the thing behind a word does not take, or not with these values."""
    entry = table.find(word)
    taken = entry.taken(options)
    unknown = [] if taken is None else [name for name in options if name not in taken]
    if not unknown:
        return [f"{table.kind} {word}: {fault}" for fault in entry.faults(options)]
    return [
        f"{table.kind} {word} takes {', '.join(taken or ()) or 'no options'}, got {few(unknown)}"
    ]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """The section [train]: the optimizer, and what is kept and shown on the way."""

    steps: int = option(100_000, "optimizer steps", 1, COUNT)
    batch_size: int = option(128, "images a step, over all processes", 1, BATCH)
    accumulate: int | None = option(
        None, "micro-batches a step on each process; as few as fit into memory if unset", 1, BATCH
    )
    precision: Precision = option("fp32", "fp32, or autocast to bf16 or fp16")
    tf32: bool = option(False, "float32 products with 10-bit mantissas on GPUs")
    compile: bool = option(False, "torch.compile the network")
    lr: float = option(2e-4, "learning rate", 0, RATE)
    lr_schedule: LrSchedule = option("constant", "after the warm-up: constant, or to zero")
    warmup: int = option(1000, "steps of linear warm-up", 0, COUNT)
    beta1: float = option(0.9, "AdamW beta1", 0, BETA)
    beta2: float = option(0.999, "AdamW beta2", 0, BETA)
    weight_decay: float = option(0.0, "AdamW weight decay", 0, RATE)
    grad_norm: float = option(1.0, "clip gradients to this global norm", 1e-6, UNCLIPPED)
    ema_decay: float = option(0.9999, "limit of the EMA decay", 0, 1)
    seed: int = option(0, "seed of everything random", 0, SEED)
    ema_profiles: tuple[float, ...] | None = option(
        None,
        "sigma_rel of averages that are kept along the run, such as 0.05,0.10, of which vfn ema "
        "makes others",
        0.005,
        0.28,
    )
    ema_snapshot_every: int | None = option(
        None, "steps between snapshots of those; a 16th of the run if unset", 1, COUNT
    )
    log_every: int = option(50, "steps between log lines", 1, COUNT)
    checkpoint_every: int = option(1000, "steps between checkpoints", 1, COUNT)
    max_checkpoints: int = option(3, "checkpoints that are kept", 1, COUNT)
    keep_at: tuple[int, ...] | None = option(
        None, "steps whose checkpoints are kept for ever, beside the newest", 1, COUNT
    )
    preview_every: int = option(
        1000, "steps between sample grids and held-out losses; 0 is none", 0, COUNT
    )
    eval_every: int = option(0, "steps between evaluations, the best is kept; 0 is none", 0, COUNT)
    eval_num: int = option(1000, "pictures on either side of an evaluation", 10, 10**7)
    max_bad_steps: int = option(
        10, "stop after so many steps in a row that are not finite", 1, COUNT
    )
    trackers: tuple[str, ...] | None = option(None, "where else the log goes")

    @property
    def micro_batches(self) -> int:
        """Micro-batches a step on each process; one where nobody has chosen."""
        return self.accumulate or 1

    @property
    def snapshot_every(self) -> int | None:
        """Steps between snapshots of the averages of ema_profiles; None without any."""
        if self.ema_profiles is None:
            return None
        return self.ema_snapshot_every or -(-self.steps // SNAPSHOTS)

    def conflicts(self) -> list[str]:
        """The same profile twice, or snapshots of none."""
        profiles = self.ema_profiles
        if profiles is None:
            every = self.ema_snapshot_every
            return (
                []
                if every is None
                else [f"expected ema_profiles beside ema_snapshot_every {every}"]
            )
        if len(set(profiles)) < len(profiles):
            return [f"expected ema_profiles that differ, got {few(map(str, profiles))}"]
        return []


def step_of(text: str) -> int | None:
    """The number of a step that a text is; None if it is anything else.

    Args:
        text: as a person gives it.

    Returns:
        a number, or None.

    >>> step_of("800"), step_of("runs/800")
    (800, None)
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Section):
    """The section [sample]: solver, steps and guidance."""

    sampler: str = option("abm2", "solver", table=SOLVERS)
    sample_timesteps: int = option(
        16, "sampling steps; adaptive: the first is 1/N of the way", 1, 10**6
    )
    times: tuple[float, ...] | None = option(
        None, "times that the steps begin at, falling, such as 1,0.7, in place of a grid", 0, 1
    )
    grid: Grid = option("time", "where the steps are: uniform in time or logsnr, or EDM's")
    guidance: float = option(0.0, "classifier-free guidance w; 0 is plain conditional", 0, WEIGHT)
    guidance_interval: tuple[float, ...] | None = option(
        None, "LOW,HIGH: guide at these logsnr only; at all if unset", -WEIGHT, WEIGHT
    )
    guidance_rescale: float = option(0.0, "phi: bring guided contrast back to the plain one", 0, 1)
    guidance_rule: str = option(
        "plain", "how a prediction is led away from another", table=GUIDANCE_RULES
    )
    guidance_options: dict[str, Any] = option({}, "parameters of the guidance rule")
    zero_init: int = option(0, "first steps in which nothing moves, as of CFG-Zero*", 0, 10**6)
    guide_with: str | None = option(
        None,
        "weaker network to be led away from, too: a run, a file, or the number of a kept step of "
        "the run itself",
    )
    guide_weight: float = option(1.0, "w of guide_with; 0 leaves it out", 0, WEIGHT)
    eta: float = option(0.0, "share of new noise in a DDIM step", 0, 1)
    var_type: VarType = option("fixed_small", "variance of an ancestral step")
    intp_frac: float | None = option(None, "interpolation for fixed_medium", 0, 1)
    churn: float = option(0.0, "growth of the noise before a step of heun", 0, 0.41)
    tolerance: float = option(0.003, "error of a step of the adaptive sampler", 1e-6, RATE)
    sample_batch: int = option(250, "images sampled at a time", 1, BATCH)

    @property
    def uses_variance(self) -> bool:
        """Whether a step takes a variance from the network."""
        return self.var_type == "learned" and "var_type" in SOLVERS.find(self.sampler).options

    @property
    def guide_step(self) -> int | None:
        """The step of the run itself that guides; None where something else does, or nothing."""
        return step_of(self.guide_with) if self.guide_with and self.guide_weight else None

    def conflicts(self) -> list[str]:
        """An interval not of two ends in order, a missing share, settings of another solver."""
        faults, interval = [], self.guidance_interval
        if interval is not None and (len(interval) != 2 or interval[0] > interval[1]):
            faults.append(
                "expected guidance_interval to be the lowest and the highest logsnr, such as -3,5, "
                f"got {few((f'{value:g}' for value in interval), joint=',')}"
            )
        if self.var_type == "fixed_medium" and self.intp_frac is None:
            faults.append("expected intp_frac with var_type fixed_medium")
        if self.times is not None:
            if len(self.times) != self.sample_timesteps:
                faults.append(
                    f"expected a time for each of the {self.sample_timesteps} steps in times, got "
                    f"{len(self.times)}; use --steps {len(self.times)}"
                )
            if 0 in self.times or any(a <= b for a, b in itertools.pairwise(self.times)):
                faults.append(
                    "expected times that fall, above 0, such as 1,0.7, got "
                    f"{few((f'{time:g}' for time in self.times), joint=',')}"
                )
        if self.zero_init >= self.sample_timesteps:
            faults.append(
                f"expected zero_init below the {self.sample_timesteps} steps of sampling, got "
                f"{self.zero_init}"
            )
        if self.guide_with is None and self.guide_weight != 1:
            faults.append(f"expected guide_with beside guide_weight {self.guide_weight:g}")
        faults += _option_faults(self.guidance_rule, GUIDANCE_RULES, self.guidance_options)
        taken = SOLVERS.find(self.sampler).options
        for name in ("eta", "churn"):  # the others wait for the solver that takes them
            if getattr(self, name) and name not in taken:
                owners = [word for word, entry in SOLVERS.items() if name in entry.options]
                faults.append(
                    f"expected {name} 0 with sampler {self.sampler}, got {getattr(self, name)}; "
                    f"it belongs to {', '.join(owners)}"
                )
        return faults

    def solver_options(self) -> dict[str, Any]:
        """The settings that the solver takes."""
        return {name: getattr(self, name) for name in SOLVERS.find(self.sampler).options}


@dataclass(frozen=True, kw_only=True)
class DistillConfig(Section):
    """The section [distill]: teacher, students and their steps."""

    method: str = option("progressive", "how students are taught")
    method_options: dict[str, Any] = option({}, "parameters of the method")
    teacher_steps: int = option(0, "DDIM steps of the teacher; 0 is plain training", 0, 2**20)
    student_steps: int = option(1, "sampling steps of the last student", 1, 2**20)
    teacher_guidance: float | None = option(
        None, "guidance w distilled into the students; the teacher's own if unset", 0, WEIGHT
    )
    teacher_guide_with: str | None = option(
        None,
        "weaker network that the teacher is led away from: a run, a file or a step of its run; "
        "the teacher's own if unset",
    )
    teacher_guide_weight: float | None = option(
        None, "w of that; the teacher's own if unset, 0 for none", 0, WEIGHT
    )
    first_steps: int | None = option(
        None,
        "optimizer steps of the first halving, which learns guidance; as others if unset",
        1,
        COUNT,
    )
    last_steps: int | None = option(
        None,
        "optimizer steps of the halvings to 2 and 1 steps; as for the others if unset",
        1,
        COUNT,
    )

    @property
    def asked(self) -> bool:
        """Whether a distillation is described at all."""
        return bool(self.teacher_steps) or self.method != DistillConfig.method

    def conflicts(self) -> list[str]:
        """Steps that no row of halvings leads to."""
        ratio, rest = divmod(self.teacher_steps, self.student_steps)
        if self.teacher_steps and (rest or ratio < 2 or ratio & (ratio - 1)):
            return [
                "expected teacher_steps to be 2, 4, 8, ... times student_steps, "
                f"got {self.teacher_steps} and {self.student_steps}"
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Everything that determines a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def conflicts(self) -> list[str]:
        """A step that guides and is not kept; guidance that is one w and many, or not learned."""
        step, kept = self.sample.guide_step, self.train.keep_at or ()
        if step is not None and step not in kept:
            steps = few(map(str, kept)) or "none"
            return [f"expected step {step} of guide_with among those of keep_at, got {steps}"]
        if faults := self._faults_of_the_objective():
            return faults
        span, distill = self.model.guidance_range, self.distill
        if span is not None and distill.teacher_guidance:
            return [
                "expected teacher_guidance, one w, or guidance_range, many, got "
                f"{distill.teacher_guidance:g} and {','.join(f'{value:g}' for value in span)}"
            ]
        if span is not None and not (distill.asked or self.diffusion.objective == "mean_flow"):
            return [
                "expected guidance_range with teacher_steps: only a distillation teaches a network "
                "what to do with it"
            ]
        return []

    def _faults_of_the_objective(self) -> list[str]:
        """What a UNet lacks for what it is to learn."""
        model, word = self.model, self.diffusion.objective
        entry, faults = OBJECTIVES.find(word), []
        if not NETWORKS.find(model.network).sectioned or self.distill.asked:
            return []  # whoever builds it looks, or knows the teacher
        if entry.second_time and not model.second_time:
            faults.append(f"expected second_time true with objective {word}")
        if entry.smooth and model.time_embedding != "smooth":
            faults.append(
                f"expected time_embedding smooth with objective {word}, which differentiates the "
                f"network in time, got {model.time_embedding}"
            )
        return faults


SECTIONS: dict[str, type[Section]] = {
    name: hint for name, hint in get_type_hints(Config).items() if issubclass(hint, Section)
}


def flat_fields(*sections: str) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Field and type hint of every setting in the named sections, by the setting's name.

    Args:
        sections: names of sections.

    Returns:
        the fields in order.

    >>> "guidance" in flat_fields("sample"), "lr" in flat_fields("sample")
    (True, False)
    """
    return {
        f.name: (f, get_type_hints(SECTIONS[section])[f.name])
        for section in sections
        for f in dataclasses.fields(SECTIONS[section])
    }


# What is an option of the thing behind a word, and goes where another one takes its place.
OPTIONS = {
    "network": ("options", *(set(ModelConfig.__dataclass_fields__) - set(_SHARED))),
    "logsnr_schedule": ("schedule_options",),
    "objective": ("objective_options",),
    "reweight_type": ("reweight_options",),
    "time_density": ("time_options",),
    "guidance_rule": ("guidance_options",),
    "method": ("method_options",),
    "sample_timesteps": ("times",),
}


def _defaults(cls: type[Section], names: Sequence[str]) -> dict[str, Any]:
    """The defaults of some fields."""
    usual = cls()
    return {name: getattr(usual, name) for name in names}


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A configuration with some settings replaced, named without their section.

    Args:
        config: the configuration; it is not changed.
        values: new values by name; tables such as ``options`` are merged key by key. With another
            network, weighting or time density the options of the one before are dropped.

    Returns:
        Config.

    Raises:
        ValueError: for unknown names and wrong values, all of them at once.
    """
    known = list(flat_fields(*SECTIONS))
    faults = [
        f"unknown setting {shortened(k, 40)}, expected {_closest(k, known)}"
        for k in values
        if k not in known
    ]
    changed: dict[str, Any] = {}
    for section, cls in SECTIONS.items():
        old = getattr(config, section)
        mine = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        try:
            changed[section] = changed_section(old, mine)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(_told(faults))
    return Config(**changed)


def changed_section(section: S, values: Mapping[str, Any]) -> S:
    """A section with some fields replaced, as `override` does it for all of them.

    Args:
        section: it is not changed.
        values: new values by the names of its fields.

    Returns:
        a section of the same kind.

    Raises:
        ValueError: for wrong values, all of them at once.

    >>> apg = SampleConfig(guidance_rule="apg", guidance_options={"norm": 2.0})
    >>> changed_section(apg, {"guidance_options": {"momentum": -0.5}}).guidance_options
    {'norm': 2.0, 'momentum': -0.5}
    >>> changed_section(apg, {"guidance_rule": "plain"}).guidance_options
    {}
    """
    for word, options in OPTIONS.items():
        if word in values and values[word] != getattr(section, word):
            section = dataclasses.replace(section, **_defaults(type(section), options))
    merged = {
        k: {**getattr(section, k), **v} if isinstance(v, dict) else v for k, v in values.items()
    }
    return dataclasses.replace(section, **merged)


def from_tables(tables: dict[str, Any], origin: str) -> Config:
    """A configuration from nested tables.

    Args:
        tables: fields by section; the words of earlier versions are understood.
        origin: named in errors.

    Returns:
        Config.

    Raises:
        ValueError: for unknown sections and keys and wrong values, all of them at once.
    """
    tables = renewed(tables)
    faults: list[str] = []
    built: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in SECTIONS:
            faults.append(
                f"unknown section [{shortened(name, 40)}], expected {', '.join(SECTIONS)}"
            )
        elif not isinstance(table, dict):
            faults.append(f"expected [{name}] to be a table, got {shown(table)}")
        else:
            known = [f.name for f in dataclasses.fields(SECTIONS[name])]
            unknown = [key for key in table if key not in known]
            faults += [
                f"unknown key {shortened(key, 40)} in [{name}], expected {_closest(key, known)}"
                for key in unknown
            ]
            try:
                built[name] = SECTIONS[name](**{k: table[k] for k in table if k in known})
            except ValueError as error:
                faults.append(str(error))
    if faults:
        raise ValueError(f"{origin}: {_told(faults)}")
    try:
        return Config(**built)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None


def renewed(tables: dict[str, Any]) -> dict[str, Any]:
    """Tables of earlier versions in today's words.

    Args:
        tables: fields by section, as TOML gives them; they are not changed.

    Returns:
        the same in new tables; as given if a section is no table.

    >>> renewed({"train": {"tensorboard": True}})
    {'train': {'trackers': ['tensorboard']}}
    """
    if not all(isinstance(table, dict) for table in tables.values()):
        return tables  # whoever builds it says what is wrong
    today = {name: dict(table) for name, table in tables.items()}
    span = today.get("distill", {}).pop("guidance_range", None)
    if span is not None:
        today.setdefault("model", {}).setdefault("guidance_range", span)
    if today.get("train", {}).pop("tensorboard", False) is True:
        today["train"].setdefault("trackers", ["tensorboard"])
    return today


def to_tables(config: Config) -> dict[str, dict[str, Any]]:
    """Nested tables without the unset values, as TOML can hold them."""
    return {
        section: {
            key: _plain(value) for key, value in table.items() if value is not None and value != {}
        }
        for section, table in dataclasses.asdict(config).items()
    }


def flat_values(config: Config) -> dict[str, Any]:
    """All settings by their names, without their sections, the unset ones too."""
    sections = dataclasses.asdict(config).values()
    return {name: value for section in sections for name, value in section.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _closest(key: str, known: list[str]) -> str:
    import difflib

    return " or ".join(difflib.get_close_matches(key, known, n=2)) or "one of " + ", ".join(known)


def plain_hint(hint: Any) -> tuple[Any, bool]:
    """The hint without its None, and whether it had one."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None)), True
    return hint, False


def _coerce(value: Any, hint: Any) -> Any:
    """Lists become tuples and whole numbers floats where the field wants them."""
    hint, _ = plain_hint(hint)
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(item, get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value if _huge(value) else float(value)
    return value


def _huge(value: Any) -> bool:
    """Whether an integer is one that no tensor can hold."""
    return isinstance(value, int) and value.bit_length() > 63


def _told(faults: Sequence[str]) -> str:
    """All faults, or of very many the first."""
    return shortened(few(faults, 20, 1500, "; "), 1500)


def _is_a(value: Any, hint: Any) -> bool:
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _faults(name: str, value: Any, hint: Any, metadata: Any) -> list[str]:
    hint, optional = plain_hint(hint)
    if value is None and optional:
        return []
    if any(map(_huge, value if isinstance(value, tuple) else (value,))):
        return [f"expected {name} to be a number of at most 63 bits, got a larger one"]
    if get_origin(hint) is dict:
        return _dict_faults(name, value)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return []
        return [f"expected {name} to be one of {', '.join(get_args(hint))}, got {shown(value)}"]
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if not isinstance(value, tuple) or not value or not all(_is_a(v, item) for v in value):
            return [f"expected {name} to be a list of {item.__name__}, got {shown(value)}"]
        numbers = value if item in (int, float) else ()
        return [fault for number in numbers for fault in _range(name, number, metadata)][:1]
    if table := metadata.get("table"):
        return _word_faults(name, value, table)
    if not _is_a(value, hint):
        return [f"expected {name} to be {hint.__name__}, got {shown(value)}"]
    if value == "":
        return [f"expected {name} to be a text, got an empty one"]
    return _range(name, value, metadata) if hint in (int, float) else []


def _word_faults(name: str, word: Any, table: Table[Any]) -> list[str]:
    try:
        table.check(word if isinstance(word, str) else "")
    except ValueError:
        return [f"expected {name} to be {table.expected()}, got {shown(word)}"]
    return []


def _dict_faults(name: str, value: Any) -> list[str]:
    """What is wrong with a table of plain values, such as options of a network."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return [f"expected {name} to be a table of names and values, got {shown(value)}"]
    plain = (bool, int, float, str)
    lists = {key: v if isinstance(v, tuple) else (v,) for key, v in value.items()}
    return [
        f"expected {name}.{shortened(key, 40)} to be numbers, texts, true or false, "
        f"got {shown(item)}"
        for key, items in lists.items()
        for item in items
        if not isinstance(item, plain) or _huge(item)
    ]


def _range(name: str, value: float, metadata: Any) -> list[str]:
    low, high = metadata["low"], metadata["high"]
    if low <= value <= high:  # which no nan is
        return []
    bounds = f"at least {low}" if value < low and high >= FAR else f"in {low}..{high}"
    return [f"expected {name} {bounds}, got {value}"]
