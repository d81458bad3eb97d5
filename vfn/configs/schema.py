"""The configuration of a run: frozen dataclasses that check themselves.

Every field is described once, by `option`; the command line, the TOML files and the error messages
all read that description. Every number has a range: what is out of it is refused before anything is
built.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from vfn.configs.fields import Section, option
from vfn.files import few, shown
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
Optimizer = Literal["adamw", "muon"]
Precision = Literal["fp32", "bf16", "fp16"]
Split = Literal["train", "valid", "test", "all"]
OnBad = Literal["refuse", "skip"]
# Far beyond what is of use, and below what nobody could wait for, hold or count.
SIDE, WIDTH, BATCH, COUNT = 2**15, 2**14, 10**6, 10**9
BETA = 0.99999  # of an average of so many steps that none is longer
SEED = 2**63 - 1  # what an integer of a tensor holds
LOGSNR = 700.0  # exp() of more is no float64
RATE, WEIGHT = 1e3, 1e6  # of the optimizer; of guidance and of terms of the loss
WIDE = 1e30  # what an array may hold
UNCLIPPED = 1e30  # a norm that no gradient has
SNAPSHOTS = 16  # of the averages of ema_profiles, over a run
LEVELS = 12  # of the UNet: 2^11 pixels become one
# What each machine of a job may have of its own: the pictures are compared, not where they are.
OF_A_MACHINE = ("data_dir", "num_workers")


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
SHARED = ("network", "options", "guidance_range", "second_time")


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
                       if f.name not in SHARED}  # fmt: skip
        span = {} if self.guidance_range is None else {"guidance_range": self.guidance_range}
        second = {"second_time": True} if self.second_time else {}
        return {**options, **span, **second}

    def seeing_time(self, word: TimeEmbedding) -> "ModelConfig":
        """The same network with an embedding of time, which others than the UNet have as an option.

        Args:
            word: ``sinusoidal`` or ``smooth``.

        Returns:
            ModelConfig.

        >>> ModelConfig(network="transformer").seeing_time("smooth").options
        {'time_embedding': 'smooth'}
        """
        if NETWORKS.find(self.network).sectioned:
            return dataclasses.replace(self, time_embedding=word)
        return dataclasses.replace(self, options={**self.options, "time_embedding": word})

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
            if f.name not in SHARED and getattr(self, f.name) != f.default
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
            beside = f"with objective {self.objective}"
            if self.train_timesteps:
                faults.append(f"expected train_timesteps 0 {beside}, got {self.train_timesteps}")
            if self.loss_type != "mse":
                faults.append(f"expected loss_type mse {beside}, got {self.loss_type}")
            if self.learned_variance:
                faults.append(f"expected no learned_variance {beside}; leave it out")
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
    optimizer: Optimizer = option("adamw", "adamw, or muon for matrices and convolutions")
    lr: float = option(2e-4, "learning rate", 0, RATE)
    lr_schedule: LrSchedule = option("constant", "after the warm-up: constant, or to zero")
    warmup: int = option(1000, "steps of linear warm-up", 0, COUNT)
    beta1: float = option(0.9, "AdamW beta1, and the momentum of Muon", 0, BETA)
    beta2: float = option(0.999, "AdamW beta2", 0, BETA)
    weight_decay: float = option(0.0, "decoupled weight decay", 0, RATE)
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


def _interval_fault(name: str, interval: tuple[float, ...] | None) -> str:
    """What is wrong with the levels at which guidance acts; empty if nothing is."""
    if interval is None or (len(interval) == 2 and interval[0] <= interval[1]):
        return ""
    return (
        f"expected {name} to be the lowest and the highest logsnr, such as -3,5, "
        f"got {few((f'{value:g}' for value in interval), joint=',')}"
    )


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
        faults = []
        if fault := _interval_fault("guidance_interval", self.guidance_interval):
            faults.append(fault)
        if self.var_type == "fixed_medium" and self.intp_frac is None:
            faults.append("expected intp_frac with var_type fixed_medium")
        if self.times is not None:
            if self.sampler in SOLVERS and SOLVERS[self.sampler].own_steps:  # others' may heed them
                faults.append(
                    f"expected a sampler that takes times, got {self.sampler}, which chooses its "
                    "steps itself; name another one, or other steps without times"
                )
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

    def unused(self, given: Collection[str]) -> list[str]:
        """A grid beside times, and a share for another variance."""
        faults = []
        if "grid" in given and self.times is not None:
            faults.append("expected grid or times, one in place of the other; leave out one")
        if "intp_frac" in given and self.var_type != "fixed_medium":
            faults.append(
                f"expected var_type fixed_medium with intp_frac, got {self.var_type}; name that, "
                "or leave out intp_frac"
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
    teacher_guidance_interval: tuple[float, ...] | None = option(
        None,
        "LOW,HIGH: the teacher is guided at these logsnr only; the teacher's own if unset, "
        "-700,700 is all of them",
        -WEIGHT,
        WEIGHT,
    )
    teacher_guidance_rescale: float | None = option(
        None,
        "phi: bring its guided contrast back to the plain one; the teacher's own if unset",
        0,
        1,
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
        """Steps that no row of halvings leads to, or an interval not of two ends in order."""
        if fault := _interval_fault("teacher_guidance_interval", self.teacher_guidance_interval):
            return [fault]
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
        led = OBJECTIVES.find(self.diffusion.objective).led
        if span is not None and distill.teacher_guidance:
            return [
                "expected teacher_guidance, one w, or guidance_range, many, got "
                f"{distill.teacher_guidance:g} and {','.join(f'{value:g}' for value in span)}"
            ]
        if span is not None and not (distill.asked or led):
            return [
                "expected guidance_range with teacher_steps: only a distillation teaches a network "
                "what to do with it"
            ]
        return []

    def _faults_of_the_objective(self) -> list[str]:
        """What a UNet lacks for what it is to learn."""
        model, word = self.model, self.diffusion.objective
        if not NETWORKS.find(model.network).sectioned or self.distill.asked:
            return []  # whoever builds it looks, or knows the teacher
        return OBJECTIVES.find(word).lacking(word, model.second_time, model.time_embedding)


SECTIONS: dict[str, type[Section]] = {
    name: hint for name, hint in get_type_hints(Config).items() if issubclass(hint, Section)
}
