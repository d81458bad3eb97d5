"""The table of foreign formats, and their importers by word. This module does not import torch."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vfn.tables import FORM, Table, load_object, outside

What = Literal["config", "checkpoint", "params", "with_dataset", "left_out"]
LACKS: dict[What, str] = {
    "config": "has no importer of configurations",
    "checkpoint": "has no importer of checkpoints",
    "params": "has no importer of parameters",
    "with_dataset": "takes no --dataset",
    "left_out": "leaves nothing out",
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A foreign format, and what can be done with it, each as ``package.module:Name`` or None.

    text: one line for help. config: ``(source) -> Config``. checkpoint: ``(file, source, out) ->
    Path`` makes the run directory ``out`` and gives its checkpoint. params: ``(foreign, model) ->
    parameters`` by the model's names. with_dataset: ``(source, name) -> source`` names one of
    ``datasets``. left_out: ``(source) -> lines`` on options that need no place. ``source`` is a
    configuration in that format, a file or its content; None where the checkpoint brings its own
    (``configured`` is False; None: where none is named). ``datasets``: those it knows, any if there
    are none.

    >>> Format(text="parameters alone", params="mine.formats:params").checkpoint is None
    True
    """

    text: str
    config: str | None = None
    checkpoint: str | None = None
    params: str | None = None
    with_dataset: str | None = None
    left_out: str | None = None
    datasets: tuple[str, ...] = ()
    configured: bool | None = True


FORMATS: Table[Format] = Table(
    "format",
    {
        "reference": Format(
            text="the PyTorch reference implementation: JSON, and what its torch.save wrote",
            config="vfn.interop.reference_config:import_config",
            checkpoint="vfn.interop.reference_run:import_checkpoint",
            params="vfn.interop.reference_parameters:params_from_reference",
            with_dataset="vfn.interop.reference_settings:with_dataset",
            left_out="vfn.interop.reference_config:left_out",
            datasets=("mnist", "cifar10", "celeba"),
        ),
        "diffusers": Format(
            text="a folder of diffusers with a UNet2DModel and a scheduler of betas",
            checkpoint="vfn.interop.diffusers_import:import_diffusers",
            params="vfn.interop.diffusers_network:params_from_diffusers",
            with_dataset="vfn.interop.diffusers_import:with_dataset",
            configured=False,
        ),
        "adm": Format(
            text="ADM, improved-diffusion and consistency_models: a .pt file; --config names a "
            "published network or a .json file of flags",
            checkpoint="vfn.interop.adm:import_adm",
            params="vfn.interop.adm:params_from_adm",
            with_dataset="vfn.interop.adm:with_dataset",
            configured=None,
        ),
        "flax": Format(
            text="the paper's JAX code: .msgpack of flax, or .npz of arrays; --config is a preset "
            "or .toml file of ours",
            checkpoint="vfn.interop.flax_file:import_flax",
            params="vfn.interop.flax:params_from_flax",
            with_dataset="vfn.interop.flax_file:with_dataset",
        ),
    },
    lambda name: Format(text=name, checkpoint=name),
)


def offering(what: What) -> list[str]:
    """The words of the formats that offer something.

    Args:
        what: a field of `Format`.

    Returns:
        words in the table's order.

    >>> offering("checkpoint"), offering("params")
    (['reference', 'diffusers', 'adm', 'flax'], ['reference', 'diffusers', 'adm', 'flax'])
    """
    return [word for word, entry in FORMATS.items() if getattr(entry, what)]


def importer(word: str, what: What) -> Callable[..., Any]:
    """What a format offers, imported now; one from outside fails in one line.

    Args:
        word: of `FORMATS`, or for a checkpoint ``package.module:Name`` of a function
            ``(file, source, out) -> Path``.
        what: a field of `Format`, which says what the function takes and gives.

    Returns:
        the function.

    Raises:
        ValueError: if there is no such format, or it does not offer that.

    >>> importer("reference", "config")({}).data.dataset
    'cifar10'
    >>> importer("flax", "config")
    Traceback (most recent call last):
    ValueError: format flax has no importer of configurations, expected one of reference
    """
    target = getattr(FORMATS.find(word), what)
    if target is None:
        added = f", or {FORM}" if what == "checkpoint" else ""
        raise ValueError(
            f"format {word} {LACKS[what]}, expected one of {', '.join(offering(what))}{added}"
        )
    found = load_object(target)
    if not callable(found):
        raise ValueError(f"expected {target} to be a function, got {type(found).__name__}")
    if word in FORMATS:
        return found
    _check_takes(found, target)
    return outside(f"format {word} fails")(found)


def _check_takes(found: Callable[..., Any], target: str) -> None:
    """Refuse a function that cannot be called as one of a checkpoint is."""
    try:
        signature = inspect.signature(found)
    except ValueError:  # of a function that does not tell
        return
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        raise ValueError(
            f"expected {target} to be called with file, source and out, but: {error}"
        ) from None
