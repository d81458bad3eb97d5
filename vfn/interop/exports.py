"""The table of what runs are exported to, without torch.

An export is a function ``(run, out, **options) -> line``: of a run directory, checkpoint or
exported file, to a file or folder, with a line on what was written. A new one is one file and one
entry here.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vfn.tables import Entry, Table, outside


@dataclass(frozen=True, kw_only=True)
class Export(Entry):
    """A format of export.

    suffix: what its files end in, empty for a folder. options: of the command, that it takes.
    """

    suffix: str = ""
    options: tuple[str, ...] = ()


EXPORTS: Table[Export] = Table(
    "export format",
    {
        "safetensors": Export(
            text="averaged parameters and configuration in one file, for vfn",
            target="vfn.interop.plain_export:export_safetensors",
            suffix=".safetensors",
        ),
        "diffusers": Export(
            text="a folder for diffusers",
            target="vfn.interop.diffusers_export:export_diffusers",
            options=("licence", "push"),
        ),
        "hub": Export(
            text="a folder for the Hugging Face Hub, with a card; --push uploads it",
            target="vfn.interop.hub_export:export_hub",
            options=("licence", "push"),
        ),
        "onnx": Export(
            text="ONNX: the network, or with --steps or --sampler a whole sampler",
            target="vfn.interop.graph_export:export_onnx",
            suffix=".onnx",
            options=("sampler", "sample_timesteps"),
        ),
        "pt2": Export(
            text="torch.export: likewise, for torch alone",
            target="vfn.interop.graph_export:export_pt2",
            suffix=".pt2",
            options=("sampler", "sample_timesteps"),
        ),
    },
    lambda name: Export(text=name, target=name),
)


def exporter(word: str, options: Iterable[str] = ()) -> Callable[..., str]:
    """The function of an export format, imported now.

    Args:
        word: of `EXPORTS`, or ``package.module:Name`` of a function ``(run, out) -> line``.
        options: names of those that it is to be called with.

    Returns:
        the function.

    Raises:
        ValueError: if there is none, or it cannot be called so.

    >>> exporter("math:tau")
    Traceback (most recent call last):
    ValueError: expected math:tau to be a function of a run and a place, got float
    """
    found: Any = EXPORTS.find(word).load()
    if not callable(found):
        raise ValueError(
            f"expected {word} to be a function of a run and a place, got {type(found).__name__}"
        )
    try:
        signature = inspect.signature(found)
    except ValueError:  # of a function that does not tell
        return found
    given: dict[str, Any] = dict.fromkeys(options)
    try:
        signature.bind(None, None, **given)
    except TypeError as error:
        raise ValueError(
            f"expected {word} to be called with run, out{''.join(f', {n}' for n in given)}, but: "
            f"{error}"
        ) from None
    return found if word in EXPORTS else outside(f"export format {word} fails")(found)
