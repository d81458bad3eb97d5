"""A trained network, opened to be sampled from, and the labels that a user asks of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.configs import SampleConfig
from vfn.data import label_names, parse_labels
from vfn.data.labels import TAG_SEPARATOR
from vfn.generate import generate
from vfn.nn import UNet
from vfn.progress import Say
from vfn.train.checkpoint import Checkpoint, check_fits, find_checkpoint
from vfn.train.state import DataShape, autocast, build_model
from vfn.train.world import choose_device


class Trained(NamedTuple):
    """A network ready to sample from, with the checkpoint's average or raw parameters."""

    checkpoint: Checkpoint
    model: UNet
    params: dict[str, Tensor]
    device: torch.device
    precision: str = "fp32"

    def generate(
        self, settings: SampleConfig, labels: Tensor, indices: Tensor, seed: int, **watchers: Any
    ) -> Tensor:
        with autocast(self.precision, self.device):
            return generate(
                self.model,
                self.params,
                self.checkpoint.config.diffusion,
                settings,
                self.checkpoint.shape,
                labels,
                indices,
                seed,
                self.device,
                **watchers,
            )


def open_trained(
    path: Path,
    device: str,
    say: Say,
    ema: bool = True,
    precision: str = "fp32",
    compiled: bool = False,
) -> Trained:
    """Load the network of a run directory or checkpoint file.

    Args:
        path: a run directory (its newest intact checkpoint) or one file.
        device: see `choose_device`.
        say: hears of damaged files that are passed over.
        ema: take the averaged parameters, else those of the last step.
        precision: fp32, or bf16 for the products of the network.
        compiled: compile the network.

    Returns:
        Trained.

    Raises:
        ValueError: if there is no intact checkpoint, or no such device.
    """
    where = choose_device(device)
    checkpoint = find_checkpoint(path, say)
    stored = checkpoint.ema if ema else checkpoint.params
    model = build_model(checkpoint.config, checkpoint.shape).to(where).eval()
    check_fits(stored, dict(model.named_parameters()))
    params = {
        name: torch.empty_like(param).copy_(stored[name]).detach()
        for name, param in model.named_parameters()
    }
    if compiled:
        model.compile()
    return Trained(checkpoint, model, params, where, precision)


class Asked(NamedTuple):
    """Labels [L] or [L, K] that pictures get in turn, and what to write beside them.

    ``rows`` and ``columns`` are the two lists of tags whose combinations the labels are, if so.
    """

    labels: Tensor
    names: list[str]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()

    def of(self, indices: Tensor) -> Tensor:
        """The labels of some pictures."""
        return self.labels[indices % len(self.labels)]

    def name(self, index: int) -> str:
        return self.names[index % len(self.names)]


def asked_labels(shape: DataShape, names: str | None = None, tags: Sequence[str] = ()) -> Asked:
    """The labels that names stand for; every one by default.

    Args:
        shape: what the network knows.
        names: see `parse_labels`.
        tags: the same for a network of tags; of two lists every combination, the first the slower.

    Returns:
        Asked; for an unconditional network one label 0 without a name.

    Raises:
        ValueError: for names that the network does not know, or labels for a network without any.

    >>> asked_labels(DataShape(1, 8, 8, ("a", "b", "c"), True), tags=["a,b", "c"]).names
    ['a+c', 'b+c']
    """
    known = shape.class_names
    option = "--tags" if tags else "--labels"
    if (names is not None or tags) and not known:
        raise ValueError(f"this model is unconditional and takes no {option}; leave them out")
    if not known:
        return Asked(torch.zeros(1, dtype=torch.long), [])
    if tags and not shape.multitags:
        raise ValueError(
            f"this model has classes, not tags; use --labels, among {', '.join(known)}"
        )
    if (tags and names is not None) or len(tags) > 2:
        raise ValueError("expected --labels, or --tags once or twice; leave out the others")
    if len(tags) == 2:
        return _combined(tags[0], tags[1], known)
    rows = torch.tensor(parse_labels(tags[0] if tags else names or "all", known, shape.multitags))
    return Asked(rows, label_names(rows, known))


def _combined(first: str, second: str, known: Sequence[str]) -> Asked:
    """Every combination of two lists of tags."""
    rows, columns = (
        label_names(torch.tensor(parse_labels(text, known, True)), known)
        for text in (first, second)
    )
    text = ",".join(f"{a}{TAG_SEPARATOR}{b}" for a in rows for b in columns)
    labels = torch.tensor(parse_labels(text, known, True))
    return Asked(labels, label_names(labels, known), rows, columns)
