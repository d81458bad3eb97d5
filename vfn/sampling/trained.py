"""A trained network, opened to be sampled from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from vfn.configs import Config, SampleConfig, Split
from vfn.configs import load as load_config
from vfn.configs.schema import SEED
from vfn.configs.settings import changed_section
from vfn.data import Dataset, load_dataset, pictures_of, settled
from vfn.data.given import derived_kind
from vfn.distributed import choose_device
from vfn.files import shown
from vfn.footprint import Footprint, evaluated_at_once
from vfn.memory import free_memory, size_text
from vfn.model import (
    DataShape,
    autocast,
    build_model,
    check_guidance,
    check_sampling,
    float32_products,
    known_shape,
    schedule_of,
)
from vfn.nn import (
    NETWORKS,
    Conditions,
    branches_of,
    check_labels,
    denoiser,
    guidance_range,
    takes_second_time,
)
from vfn.numbers import whole
from vfn.ops import Denoiser, Strength
from vfn.ops.solver_table import SOLVERS
from vfn.progress import say
from vfn.runs import (
    Checkpoint,
    DataMark,
    check_fits,
    digest,
    find_checkpoint,
    other_pictures,
    run_path,
)
from vfn.sampling.asked import PER_LABEL, Asked, ask, asked_by, of_each
from vfn.sampling.balance import shown_labels
from vfn.sampling.condition import (
    ConditionSource,
    check_condition,
    conditioned_text,
    open_condition,
)
from vfn.sampling.draws import Drawn, Draws
from vfn.sampling.weaker import check_spanning, check_weaker, find_weaker
from vfn.tables import object_name

# Settings of sampling have shorter names here and on the command line.
SHORT_NAMES = {"steps": "sample_timesteps", "batch": "sample_batch"}
UNLABELLED = 100  # pictures, where their number is not given
IN_MEMORY = "a network in memory"
NO_CONDITIONS = Conditions()


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with parameters, and what they were trained for.

    model: the network, in evaluation mode, on the device. params: what takes the place of its own
    parameters, with the strides of these. step: of the training. averaged: params are the average,
    not those of the last step. precision: fp32, or bf16 for the products of the network. origin:
    the run or file that it is from, if it is from one. data: what it remembers of the pictures that
    it was trained on.

    >>> digits = untrained("digits")
    >>> drawn = digits.sample(3, labels=["3", "7"], guidance=0.5, sampler="abm2", steps=2)
    >>> drawn.images.shape, drawn.labels, drawn.nfe
    (torch.Size([3, 1, 8, 8]), ['3', '7', '3'], 2)
    """

    model: nn.Module
    params: Mapping[str, Tensor]
    config: Config
    shape: DataShape
    device: torch.device
    step: int = 0
    averaged: bool = True
    precision: str = "fp32"
    origin: Path | None = None
    data: DataMark | None = None

    def __repr__(self) -> str:
        """What it is, in a line: its numbers are in `params`."""
        count = sum(value.numel() for value in self.params.values())
        what = f"{self.config.model.network}, {count:,} parameters, {self.step:,} steps"
        return f"Trained({what}, pictures {list(self.shape.size)}, {self.device}, {self.origin})"

    def __post_init__(self) -> None:
        """Give parameters the strides of the network's own.

        What arithmetic made may have others, and with them other kernels, which round differently.
        """
        own = dict(self.model.named_parameters())
        strange = {
            name: torch.empty_like(own[name], dtype=value.dtype, device=value.device).copy_(value)
            for name, value in self.params.items()
            if name in own and value.stride() != own[name].stride()
        }
        if strange:  # else they are the same tensors, which may follow a training
            object.__setattr__(self, "params", {**self.params, **strange})

    def denoiser(
        self,
        labels: Tensor | str | Sequence[str] | None = None,
        guidance: Strength = 0.0,
        guide_with: "str | int | Path | Trained | None" = None,
        guide_weight: Strength = 1.0,
        conditions: Conditions = NO_CONDITIONS,
        **options: Any,
    ) -> Denoiser:
        """The network as ``denoise(z, logsnr) -> x0``, for any function of `vfn.ops`.

        Args:
            labels: what is asked of each picture of a batch: names, or as the network takes them
                [B] or [B, K]; None is unconditional.
            guidance: w >= 0, or a function of logsnr.
            guide_with: a weaker network that it is led away from, see `weaker`; None for none.
            guide_weight: w >= 0 of that, or a function of logsnr.
            conditions: what the network takes beside labels, of each picture of a batch; see
                `condition`.
            options: ``clip``, ``rescale``, ``variance``, ``rule`` and ``zero_until`` of
                `vfn.nn.denoiser`.

        Returns:
            denoise, for z on the network's device.

        Raises:
            ValueError: for labels that the network does not know, guidance that it cannot give, or
                a weaker network that does not fit.

        >>> digits = untrained("digits")
        >>> denoise = digits.denoiser(labels=["3", "7"], guidance=0.5)
        >>> denoise(torch.randn(2, 1, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 1, 8, 8])
        """
        legend = self.shape.legend
        if labels is not None and not isinstance(labels, Tensor):
            labels = ask(legend, labels).labels
        if labels is not None:
            check_labels(labels, len(legend.names), legend.tags)
            self._check_guided(labels, guidance)
        if guide_with is not None:
            weak = self.weaker(guide_with)
            asked = labels if weak.shape.legend.names else None
            clip = options.get("clip", True)
            options["weak"] = weak.denoiser(asked, clip=clip, conditions=conditions)
            options["weak_guidance"] = guide_weight
        labels = None if labels is None else labels.to(self.device)
        here = conditions.each(lambda value: value.to(self.device))
        schedule = schedule_of(self.config.diffusion)
        out_type = self.config.diffusion.model_out_type
        return denoiser(
            self.model,
            self.params,
            schedule,
            out_type,
            labels,
            guidance,
            conditions=here,
            casting=self._casting,
            **options,
        )

    @contextmanager
    def _casting(self) -> Iterator[None]:
        """The precision of the network's products; what is being compiled sets none of a GPU's."""
        compiling = torch.compiler.is_compiling()
        products = nullcontext() if compiling else float32_products(self.config.train.tf32)
        with products, autocast(self.precision, self.device):
            yield

    def condition(self, given: ConditionSource, num: int | None = None) -> Conditions:
        """What somebody has, as the conditions that the network takes beside labels.

        Args:
            given: the path of numbers (``.npy`` or ``.csv``, [N, D]) or pictures (a folder,
                ``.npy``, ``.npz``, ``dataset:NAME[:split]``); numbers as a tensor; or a data set.
            num: how many rows are wanted, 1 at least; all if None.

        Returns:
            Conditions, of N pictures.

        Raises:
            ValueError: if they are not what the network takes.

        >>> from vfn.configs import load, override
        >>> fourfold = untrained(override(load("digits"), {"condition": "downscale:4"}))
        >>> fourfold.condition("dataset:digits:test", 3).image.shape
        torch.Size([3, 2, 8, 8])
        """
        found = open_condition(given, self.config, self.shape, num).conditions
        return found.each(lambda value: value[:num])

    def shown(self, images: Tensor) -> Tensor:
        """Pictures of the network's data as grids show them.

        Args:
            images: numbers as they are stored [B, C, H, W].

        Returns:
            uint8 [B, 1 or 3, H, W]; the channels of the setting ``shown_channels``.
        """
        return self.shape.values.shown(images, self.config.data.shown_channels)

    def check_labels_alone(self, what: str) -> None:
        """Refuse what has no place for conditions beside labels, or for other than 8-bit pictures.

        Args:
            what: wants labels alone, as the beginning of a message.

        Raises:
            ValueError: for such a network.
        """
        if text := self.conditioned:
            raise ValueError(f"{what} has no place for what this model takes beside labels: {text}")
        if not self.shape.values.plain:
            raise ValueError(
                f"{what} has no place for {self.shape.values.describe()}, which this model draws"
            )

    @property
    def conditioned(self) -> str:
        """What the network takes beside labels, in few words; empty for nothing."""
        return conditioned_text(self.config, self.shape)

    def weaker(self, guide_with: "str | int | Path | Trained") -> "Trained":
        """A weaker network that this one can be led away from (autoguidance).

        Args:
            guide_with: a run directory, a checkpoint or an exported file; the number of a step of
                this network's own run, whose checkpoint was kept; or a network that is loaded.

        Returns:
            Trained: its average, on this network's device and in its precision. What a text or
            path stands for is loaded once.

        Raises:
            ValueError: if there is none, or one of other pictures or labels, a distilled one, or
                this network itself.

        Source: Karras et al. 2024 (2406.02507), section 4.

        >>> digits, poor = untrained("digits"), untrained("digits")
        >>> digits.sample(2, steps=2, guide_with=poor, guide_weight=0.5).weak_nfe
        2
        """
        known = self._opened
        called: object = guide_with
        if isinstance(guide_with, Trained):
            found, called = guide_with, guide_with.origin or "the network"
        elif str(guide_with) in known:
            return known[str(guide_with)]
        else:
            found = self._opened_from(guide_with)
        check_weaker(found.shape, found.config, self.shape, self.config, called)
        here, there = (_place_of(each) for each in (self, found))
        if here != there:
            raise ValueError(
                f"expected {called} to guide with on {here}, where the network that it guides is, "
                f"got {there}; load it there"
            )
        if found.step == self.step and found.digest == self.digest:
            raise ValueError(
                f"{called} to guide with is the guided network itself, from which nothing leads "
                "away; name a weaker one, such as an earlier step"
            )
        if not isinstance(guide_with, Trained):
            known[str(guide_with)] = found
        return found

    @cached_property
    def _opened(self) -> dict[str, "Trained"]:
        """Weaker networks by the texts that they were asked for with."""
        return {}

    def _opened_from(self, guide_with: str | int | Path) -> "Trained":
        """The average of a checkpoint; in this network's own module where it is of the same."""
        path, checkpoint = find_weaker(guide_with, self.origin)
        alike = (checkpoint.config.model, checkpoint.shape) == (self.config.model, self.shape)
        names = {name: value.shape for name, value in self.params.items()}
        if alike and {name: value.shape for name, value in checkpoint.ema.items()} == names:
            model = self.model
        else:
            model = _network(checkpoint, None).to(self.device).eval()
        return _trained(model, checkpoint, self.device, True, self.precision, path)

    def _check_guided(self, labels: Tensor, guidance: Strength) -> None:
        """Refuse guidance that the training has not prepared, or towards no label."""
        if isinstance(guidance, int | float) and guidance <= 0:
            return  # of a tensor or a function the values are not looked at
        if guidance_range(self.model) is None:
            number = float(guidance) if isinstance(guidance, int | float) else 1.0
            check_guidance(SampleConfig(guidance=number), self.config, self.shape)
        if not self.shape.legend.tags and not labels.all():
            raise ValueError(
                f"expected labels in 1..{len(self.shape.legend.names)} with guidance, got 0 at "
                f"{int((labels == 0).nonzero()[0])}, which stands for no label; classes count "
                "from 1"
            )

    def draws(
        self,
        num: int | None = None,
        labels: Tensor | str | Sequence[str] | Asked | None = None,
        seed: int = 0,
        condition: ConditionSource | None = None,
        **settings: Any,
    ) -> Draws:
        """Pictures to be drawn later, for `vfn.sampling.write_samples` and `vfn.evaluation.judge`.

        Args:
            num: how many; ten for each label if None.
            labels: what is asked of the pictures in turn: names in a list or separated by commas,
                as the network takes them [L] or [L, K], or `Asked`; every class, or some sets of
                tags that training pictures have, if None.
            seed: of the noise, a whole number >= 0.
            condition: what the network takes beside labels, in turn; see `condition`. Pictures
                with labels that the network knows bring them along where ``labels`` is None.
            settings: fields of the section [sample], which are the run's where they are not given;
                ``steps`` and ``batch`` stand for ``sample_timesteps`` and ``sample_batch``, and
                ``guide_with`` is anything that `weaker` takes, or None. Picture i of a seed is the
                same whatever ``num`` and ``batch`` are; the batch is smaller where so many pictures
                at once would not fit into memory.

        Returns:
            Draws.

        Raises:
            ValueError: for settings that do not exist, do not fit the network or belong to another
                solver, labels that the network does not know or that guidance does not lead to, or
                a weaker network that does not fit.

        >>> digits = untrained("digits")
        >>> draws = digits.draws(labels=["7"], steps=8)
        >>> draws.num, draws.settings.sample_timesteps
        (10, 8)
        """
        chosen = self.settings(**settings)
        asked = self._asked(labels)
        num = None if num is None else whole(num, "num", 1)
        seed = whole(seed, "seed", 0, SEED)
        each = len(asked.labels) if asked.each else PER_LABEL * len(asked.labels)
        if condition is not None:
            found = open_condition(condition, self.config, self.shape, num)
            if labels is None and found.labels is not None:
                asked = of_each(found.labels, self.shape.legend)
            asked = asked._replace(conditions=found.conditions)
        check_condition(self.config, self.shape, asked.conditions)
        rows = max((len(value) for value in asked.conditions.keywords().values()), default=0)
        count = num or rows or (each if asked.names else UNLABELLED)
        check_labels(asked.labels, len(self.shape.legend.names), self.shape.legend.tags)
        if self.shape.legend.names:
            self._check_guided(asked.labels[:count], chosen.guidance)
        weak = self._weaker_for(chosen, settings.get("guide_with", chosen.guide_with))
        return Draws(self, self._fitting(chosen, count), asked, count, seed, weak)

    def _weaker_for(
        self, settings: SampleConfig, guide_with: "str | int | Path | Trained | None"
    ) -> "Trained | None":
        """What leads pictures of some settings away; None where nothing does."""
        if guide_with is None or not settings.guide_weight:
            return None
        weak = self.weaker(guide_with)
        guided, other = (takes_second_time(network.model) for network in (self, weak))
        check_spanning(settings.sampler, guided, other, weak.origin or "the network")
        return weak

    def _asked(self, labels: Tensor | str | Sequence[str] | Asked | None) -> Asked:
        """What is asked of pictures in turn."""
        if labels is None:
            return self._shown_labels
        if isinstance(labels, Tensor):
            return asked_by(labels, self.shape.legend)
        return labels if isinstance(labels, Asked) else ask(self.shape.legend, labels)

    @cached_property
    def _shown_labels(self) -> Asked:
        """What is drawn where nobody says what."""
        return shown_labels(self)

    def _fitting(self, settings: SampleConfig, count: int) -> SampleConfig:
        """The settings with a batch that fits into the memory that is free."""
        free = free_memory(self.device)
        if free is None:
            return settings
        wanted = min(settings.sample_batch, count)
        branches = branches_of(guidance_range(self.model), settings.guidance)
        fitting = max(1, evaluated_at_once(self._footprint, branches * wanted, free) // branches)
        if fitting >= wanted:
            return settings
        if wanted not in self._told:  # variants of settings are as many draws
            self._told.add(wanted)
            say(
                f"drawing {wanted} pictures at a time might take more memory than the "
                f"{size_text(free)} that are free: {fitting} at a time"
            )
        return replace(settings, sample_batch=fitting)

    @cached_property
    def _footprint(self) -> Footprint:
        """What drawing takes of memory."""
        return Footprint(self.config, self.shape, self.device)

    @cached_property
    def _told(self) -> set[int]:
        """Numbers of pictures at a time of which a line has said that they might not fit."""
        return set()

    def sample(
        self,
        num: int | None = None,
        labels: Tensor | str | Sequence[str] | Asked | None = None,
        seed: int = 0,
        condition: ConditionSource | None = None,
        **settings: Any,
    ) -> Drawn:
        """Draw pictures, with a bar while they are drawn.

        Args:
            num: how many; ten for each label if None.
            labels: what is asked of the pictures in turn: names in a list or separated by commas,
                as the network takes them [L] or [L, K], or `Asked`; every class, or some sets of
                tags that training pictures have, if None.
            seed: of the noise; picture i of a seed is the same whatever ``num`` and ``batch`` are.
            condition: what the network takes beside labels, in turn; see `condition`.
            settings: fields of the section [sample], such as ``guidance=0.5, sampler="abm2",
                steps=10, batch=100``; the run's where they are not given.

        Returns:
            Drawn.

        Raises:
            ValueError: for settings or labels that the network cannot follow.

        >>> digits = untrained("digits")
        >>> digits.sample(4, labels="7,3", steps=2).pil()[0].size
        (8, 8)
        """
        return self.draws(num, labels, seed, condition, **settings).all()

    def sample_batches(
        self,
        num: int | None = None,
        labels: Tensor | str | Sequence[str] | Asked | None = None,
        seed: int = 0,
        condition: ConditionSource | None = None,
        **settings: Any,
    ) -> Iterator[Drawn]:
        """Draw pictures a batch at a time, for more of them than the memory holds.

        Args:
            num: how many; ten for each label if None.
            labels: what is asked of the pictures in turn, as of `sample`.
            seed: of the noise.
            condition: what the network takes beside labels, in turn; see `condition`.
            settings: fields of the section [sample]; ``batch`` is how many are drawn at a time.

        Returns:
            iterator over Drawn.

        Raises:
            ValueError: at once, for settings or labels that the network cannot follow.

        >>> digits = untrained("digits")
        >>> [len(drawn.images) for drawn in digits.sample_batches(5, steps=2, batch=2)]
        [2, 2, 1]
        """
        return self.draws(num, labels, seed, condition, **settings).batches()

    def settings(self, **given: Any) -> SampleConfig:
        """The run's settings of sampling with some replaced, checked against the network.

        Args:
            given: fields of [sample], or their short names.

        Returns:
            SampleConfig.

        Raises:
            ValueError: for a field that does not exist, a value that does not fit, or a field that
                belongs to another solver.

        >>> digits = untrained("digits")
        >>> digits.settings(sampler="ddim", churn=0.1)
        Traceback (most recent call last):
        ValueError: solver ddim takes no churn, which belongs to heun; name that solver or ...
        """
        named = {SHORT_NAMES.get(name, name): value for name, value in given.items()}
        if len(named) < len(given):
            twice = next(short for short, long in SHORT_NAMES.items() if {short, long} <= {*given})
            raise ValueError(f"{twice} is {SHORT_NAMES[twice]}, and both are given; leave out one")
        base = self.config.sample
        if unknown := [name for name in named if name not in vars(base)]:
            raise ValueError(
                f"unknown setting of sampling {shown(unknown[0])}, expected among "
                f"{', '.join([*SHORT_NAMES, *vars(base)])}"
            )
        if "sampler" in named:
            SOLVERS.check(named["sampler"])
        _check_taken(named.get("sampler", base.sampler), named)
        try:
            chosen = changed_section(base, _with_weaker_named(base, named))
        except ValueError as error:
            raise ValueError(_as_called(str(error), given)) from None
        known = guidance_range(self.model)
        check_sampling(chosen, self.config, self.shape, known)
        return chosen

    def own_pictures(self, split: Split | None = None) -> Dataset:
        """The pictures that the network was trained on, or another split of that data set.

        Args:
            split: train, test, valid or all; what it was trained on if None.

        Returns:
            Dataset.

        Raises:
            ValueError: if they are not where the configuration says; it says what to do.

        >>> len(untrained("digits").own_pictures().images)
        1437
        """
        with pictures_of(str(self.origin or "the network")):
            return load_dataset(self.config.data, split)

    def with_data(
        self,
        dataset: str | None = None,
        data_dir: str | None = None,
        condition: str | None = None,
    ) -> Self:
        """The network with its pictures at another place, for evaluations that need them.

        Args:
            dataset: the folder or file where they are now; where they were if None.
            data_dir: the directory of downloads and prepared data; that of the run if None.
            condition: the folder or file where the pictures beside them are now; where they were if
                None.

        Returns:
            Trained.

        Raises:
            ValueError: if there is nothing, or it is not what the network was trained on.

        >>> untrained("digits").with_data(data_dir="/data").config.data.data_dir
        '/data'
        """
        data = self.config.data
        if condition is not None and (not self.shape.beside or derived_kind(condition)):
            raise ValueError(
                "expected the place of pictures beside those of the network, for one that was "
                f"trained with some, got condition {shown(condition)}; leave it out"
            )
        given = replace(
            data,
            dataset=dataset or data.dataset,
            data_dir=data_dir or data.data_dir,
            condition=condition or data.condition,
        )
        found = replace(self, config=replace(self.config, data=settled(given)))
        named = " beside ".join(filter(None, (condition, dataset)))
        if named and (faults := found.other_pictures()):
            raise ValueError(
                f"{named} is not what {self.origin or 'the network'} was trained on: other "
                f"{faults}; name the same pictures at their new place"
            )
        return found

    def other_pictures(self) -> str:
        """In what the pictures at their place differ from those that the network was trained on.

        Returns:
            words after "other", empty if they are the same.

        Raises:
            ValueError: if there are none.

        >>> untrained("digits").other_pictures()
        ''
        """
        return other_pictures(self.own_pictures(), self.shape, self.data)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the parameters."""
        return digest({name: value.detach().cpu() for name, value in self.params.items()})


def load(
    path: str | Path,
    device: str = "auto",
    *,
    ema: bool = True,
    precision: str = "fp32",
    compiled: bool = False,
    network: nn.Module | None = None,
) -> Trained:
    """Load a trained network.

    Args:
        path: a run directory (its newest intact checkpoint), a checkpoint or an exported file,
            perhaps after ``run:``; or ``hf://owner/name``, a network on the hub.
        device: auto, cpu or cuda, perhaps with an index as in ``cuda:1``.
        ema: take the averaged parameters, else those of the last step.
        precision: fp32, or bf16 for the products of the network.
        compiled: compile the network.
        network: the module, for one that cannot be built from its name, such as a class of a
            notebook; it has to be of the class that the checkpoint names.

    Returns:
        Trained.

    Raises:
        ValueError: if there is no intact checkpoint or no such device, or the checkpoint is one of
            another network.

    >>> load("no/run")
    Traceback (most recent call last):
    ValueError: checkpoint no/run does not exist; expected a run directory or a file
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"expected precision fp32 or bf16, got {shown(precision)}")
    where, path = choose_device(device), run_path(path)
    checkpoint = find_checkpoint(path)
    if not ema and not checkpoint.moments["exp_avg"]:
        raise ValueError(
            f"{path} is an exported model, which has the average alone; take that (without --raw, "
            "ema=False), or name its run"
        )
    stored = checkpoint.ema if ema else checkpoint.params
    if network is None and NETWORKS.find(checkpoint.config.model.network).sectioned:
        with torch.device("meta"):  # a network of other sizes would take memory that is not there
            sizes = dict(build_model(checkpoint.config, checkpoint.shape).named_parameters())
        check_fits(stored, sizes, f"checkpoint {path}")
    model = _network(checkpoint, network).to(where).eval()
    loaded = _trained(model, checkpoint, where, ema, precision, Path(path))
    if compiled:
        model.compile()
    return loaded


def _trained(
    model: nn.Module,
    checkpoint: Checkpoint,
    device: torch.device,
    ema: bool,
    precision: str,
    path: Path,
) -> Trained:
    """A network with the parameters of a checkpoint."""
    stored = checkpoint.ema if ema else checkpoint.params
    check_fits(stored, dict(model.named_parameters()), f"checkpoint {path}")
    params = {
        name: torch.empty_like(param).copy_(stored[name]).detach()
        for name, param in model.named_parameters()
    }
    return Trained(
        model, params, checkpoint.config, checkpoint.shape, device, checkpoint.step, ema, precision,
        path, checkpoint.data,
    )  # fmt: skip


def untrained(
    config: Config | str | Path, shape: DataShape | None = None, device: str = "cpu"
) -> Trained:
    """A network with random parameters, as if it had been loaded: for tests and examples.

    Args:
        config: what it is like, or the name of a preset, or the path of a .toml file.
        shape: of its data; that of the configuration's data set if None.
        device: auto, cpu or cuda.

    Returns:
        Trained, after 0 steps.

    Raises:
        ValueError: if the network cannot be built, the shape is not known, or there is no such
            device.

    >>> untrained("digits").sample(2, steps=2).images.dtype
    torch.uint8
    """
    settings = config if isinstance(config, Config) else load_config(config)
    where = choose_device(device)
    shape = shape or known_shape(settings.data)
    if shape is None:
        raise ValueError(
            f"expected the shape of data set {settings.data.dataset}, which is known only once it "
            "is read; give a DataShape"
        )
    model = build_model(settings, shape).to(where).eval()
    params = {name: param.detach() for name, param in model.named_parameters()}
    return Trained(model, params, settings, shape, where)


def _place_of(trained: Trained) -> torch.device:
    """Where a network is, with the number of its device."""
    return next((value.device for value in trained.params.values()), trained.device)


def _network(checkpoint: Checkpoint, given: nn.Module | None) -> nn.Module:
    if given is None:
        with torch.random.fork_rng([]):  # its first parameters, which give way, are drawn
            return build_model(checkpoint.config, checkpoint.shape)
    known, here = checkpoint.config.model.network, object_name(given)
    if here not in (known, NETWORKS.find(known).target):
        raise ValueError(f"the checkpoint is one of network {known}, got one of {here}")
    return given


def _as_called(message: str, given: Mapping[str, Any]) -> str:
    """A message with the short names of settings that were given by these."""
    for short, name in SHORT_NAMES.items():
        message = message.replace(name, short) if short in given else message
    return message


def _with_weaker_named(base: SampleConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose ``guide_with`` is a text, as a configuration has it."""
    named = dict(given)
    if "guide_weight" in named and named.get("guide_with", base.guide_with) is None:
        raise ValueError(
            f"guide_weight {named['guide_weight']} goes with guide_with, the weaker network; name "
            "one, or leave it out"
        )
    if "guide_with" in named:
        weak = named["guide_with"]
        if isinstance(weak, Trained):
            weak = weak.origin or IN_MEMORY
        named["guide_with"] = None if weak is None else str(weak)
        if weak is None:
            named["guide_weight"] = SampleConfig().guide_weight
    return named


def _check_taken(solver: str, given: Mapping[str, Any]) -> None:
    """Refuse settings of another solver than the one that is used."""
    taken = SOLVERS.find(solver).options
    for name in given:
        owners = [word for word, entry in SOLVERS.items() if name in entry.options]
        if owners and name not in taken:
            raise ValueError(
                f"solver {solver} takes no {name}, which belongs to {', '.join(owners)}; "
                "name that solver or leave it out"
            )
