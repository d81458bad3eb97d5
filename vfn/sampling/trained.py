"""A trained network, opened to be sampled from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vfn.configs import Config, SampleConfig
from vfn.distributed import choose_device
from vfn.model import DataShape, build_model, check_sampling, schedule_of
from vfn.nn import check_labels, denoiser, guidance_range
from vfn.ops import Denoiser, Strength
from vfn.ops.solver_table import SOLVERS
from vfn.runs import Checkpoint, check_fits, digest, find_checkpoint
from vfn.sampling.asked import Asked, ask
from vfn.sampling.draws import Drawn, Draws
from vfn.tables import object_name

# Settings of sampling have shorter names here and on the command line.
SHORT_NAMES = {"steps": "sample_timesteps", "batch": "sample_batch"}
PER_LABEL = 10  # pictures, where their number is not given
UNLABELLED = 100


@dataclass(frozen=True)
class Trained:
    """A network with parameters, and what they were trained for.

    model: the network, in evaluation mode; params: what takes the place of its own parameters, on
    the device. step: of the training. averaged: params are the average, not those of the last
    step. precision: fp32, or bf16 for the products of the network. origin: where it was loaded
    from, if it was.
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

    def denoiser(
        self,
        labels: Tensor | str | Sequence[str] | None = None,
        guidance: Strength = 0.0,
        **options: Any,
    ) -> Denoiser:
        """The network as ``denoise(z, logsnr) -> x0``, for any function of `vfn.ops`.

        Args:
            labels: what is asked of each picture of a batch: names, or as the network takes them
                [B] or [B, K]; None is unconditional.
            guidance: w >= 0, or a function of logsnr.
            options: ``clip``, ``rescale`` and ``variance`` of `vfn.nn.denoiser`.

        Returns:
            denoise, for z on the network's device.

        Raises:
            ValueError: for labels that the network does not know, or guidance that it cannot give.
        """
        legend = self.shape.legend
        if labels is not None and not isinstance(labels, Tensor):
            labels = ask(legend, labels).labels
        if labels is not None:
            check_labels(labels, len(legend.names), legend.tags)
            labels = labels.to(self.device)
        schedule = schedule_of(self.config.diffusion)
        out_type = self.config.diffusion.model_out_type
        return denoiser(self.model, self.params, schedule, out_type, labels, guidance, **options)

    def draws(
        self,
        num: int | None = None,
        labels: str | Sequence[str] | Asked | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Draws:
        """Pictures to be drawn later, as `vfn.sampling.write_samples` and `vfn.evaluation.judge` take them.

        Args:
            num: how many; ten for each label if None.
            labels: what is asked of the pictures in turn: names in a list or separated by commas,
                or `Asked`; every label if None.
            seed: of the noise.
            settings: fields of the section [sample], which are the run's where they are not given;
                ``steps`` and ``batch`` stand for ``sample_timesteps`` and ``sample_batch``.

        Returns:
            Draws.

        Raises:
            ValueError: for settings that do not exist, do not fit the network or belong to another
                solver, or labels that the network does not know.
        """
        chosen = self.settings(**settings)
        asked = labels if isinstance(labels, Asked) else ask(self.shape.legend, labels)
        if num is not None and num < 1:
            raise ValueError(f"expected num to be at least 1, got {num}")
        count = num or (PER_LABEL * len(asked.labels) if asked.names else UNLABELLED)
        check_labels(asked.labels, len(self.shape.legend.names), self.shape.legend.tags)
        return Draws(self, chosen, asked, count, seed)

    def sample(
        self,
        num: int | None = None,
        labels: str | Sequence[str] | Asked | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Drawn:
        """Draw pictures.

        Args:
            num: how many; ten for each label if None.
            labels: names that are asked in turn, see `draws`; every label if None.
            seed: of the noise; picture i of a seed is the same whatever ``num`` and ``batch`` are.
            settings: such as ``guidance=0.5, sampler="abm2", steps=10``, see `draws`.

        Returns:
            Drawn.

        Raises:
            ValueError: see `draws`.
        """
        return self.draws(num, labels, seed, **settings).all()

    def sample_batches(
        self,
        num: int | None = None,
        labels: str | Sequence[str] | Asked | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Iterator[Drawn]:
        """Draw pictures a batch at a time, for more of them than the memory holds.

        Args:
            num: how many, see `sample`, as are the others.
            labels: names that are asked in turn.
            seed: of the noise.
            settings: such as ``batch=100``.

        Returns:
            iterator over Drawn.

        Raises:
            ValueError: at once, see `draws`.
        """
        return self.draws(num, labels, seed, **settings).batches()

    def settings(self, **given: Any) -> SampleConfig:
        """The run's settings of sampling with some replaced, checked against the network.

        Args:
            given: fields of [sample], or their short names.

        Returns:
            SampleConfig.

        Raises:
            ValueError: for a field that does not exist, or a value that does not fit.
        """
        named = {SHORT_NAMES.get(name, name): value for name, value in given.items()}
        base = self.config.sample
        if unknown := [name for name in named if not hasattr(base, name)]:
            raise ValueError(
                f"unknown setting of sampling {unknown[0]!r}, expected among "
                f"{', '.join([*SHORT_NAMES, *vars(base)])}"
            )
        chosen = replace(base, **named)
        _check_taken(chosen.sampler, named)
        known = guidance_range(self.model)
        check_sampling(chosen, self.config.diffusion, self.shape, known)
        return chosen

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
        path: a run directory (its newest intact checkpoint), a checkpoint or an exported file.
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
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"expected precision fp32 or bf16, got {precision!r}")
    where = choose_device(device)
    checkpoint = find_checkpoint(Path(path))
    stored = checkpoint.ema if ema else checkpoint.params
    model = _network(checkpoint, network).to(where).eval()
    check_fits(stored, dict(model.named_parameters()), f"checkpoint {path}")
    params = {
        name: torch.empty_like(param).copy_(stored[name]).detach()
        for name, param in model.named_parameters()
    }
    if compiled:
        model.compile()
    return Trained(
        model, params, checkpoint.config, checkpoint.shape, where, checkpoint.step, ema, precision,
        Path(path),
    )  # fmt: skip


def _network(checkpoint: Checkpoint, given: nn.Module | None) -> nn.Module:
    if given is None:
        return build_model(checkpoint.config, checkpoint.shape)
    known, here = checkpoint.config.model.network, object_name(given)
    if known != here:
        raise ValueError(f"the checkpoint is one of network {known}, got one of {here}")
    return given


def _check_taken(solver: str, given: Mapping[str, Any]) -> None:
    """Refuse settings of another solver than the one that is used."""
    taken = SOLVERS.find(solver).options
    for name in given:
        owners = [word for word, entry in SOLVERS.items() if name in entry.options]
        if owners and name not in taken:
            raise ValueError(
                f"solver {solver} takes no {name}, which belongs to {', '.join(owners)}; "
                "leave it out"
            )
