"""What a network is to everything else, and the table of those that are known by a word.

A network is an `nn.Module` built with ``in_channels``, ``out_channels``, ``num_classes``,
``multitags`` and options of its own, and called as ``net(z, t, y)``: z [B, C_in, H, W], t [B] in
[0, 1], float64 (a network casts it where it meets z), y None or labels, [B] (classes 1..K, 0 for
none) or [B, K] (0/1 tags, all zero for none).
One that takes guidance as an input is built with ``guidance_range`` too, keeps it as an attribute,
and is called as ``net(z, t, y, w)``. One with the attribute ``second_time`` set takes the keyword
``r`` [B], a time in [0, t] where a step ends, and gives the mean velocity up to it; without r it
is the velocity at t. This module does not import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from vfn.tables import Entry, Table

if TYPE_CHECKING:
    from torch import Tensor


class Network(Protocol):
    """Anything that predicts from noisy data: a module, a wrapped one, or a function."""

    def __call__(
        self, z: "Tensor", t: "Tensor", /, *conditions: "Tensor | None", **more: "Tensor"
    ) -> "Tensor":
        """Predict from z [B, C_in, H, W] at t [B], given labels and guidance: [B, C_out, H, W]."""
        ...


@dataclass(frozen=True, kw_only=True)
class NetworkEntry(Entry):
    """A network; ``sectioned``: its options are the fields of the section [model] themselves."""

    sectioned: bool = False


NETWORKS: Table[NetworkEntry] = Table(
    "network",
    {
        "unet": NetworkEntry(
            text="residual blocks with adaptive group normalisation, and attention",
            target="vfn.nn.unet:UNet",
            sectioned=True,
        ),
    },
    lambda name: NetworkEntry(text=name, target=name),
)

GROUPS = 32  # of group normalisation in the UNet, at most
NARROWEST = 4  # widths are multiples of it: so that the embedding of time has frequencies

# How the UNet sees time: by sinusoids of 1000 t, or of 10 t, whose derivative in t stays small.
TimeEmbedding = Literal["sinusoidal", "smooth"]


def unet_faults(
    hid_channels: int,
    ch_multipliers: Sequence[int],
    num_res_blocks: int,
    apply_attn: Sequence[bool],
) -> list[str]:
    """What is wrong with sizes of the UNet in combination; nothing if it can be built.

    Args:
        hid_channels: base width.
        ch_multipliers: width of each level as a multiple of it.
        num_res_blocks: residual blocks a level.
        apply_attn: whether each level has attention.

    Returns:
        a message for each fault.

    >>> unet_faults(50, (1, 2), 2, (False, True))
    ['expected hid_channels to be a multiple of 4, got 50']
    """
    faults = []
    if not ch_multipliers or num_res_blocks < 1:
        faults.append(
            "expected at least one level and one residual block a level, got "
            f"{len(ch_multipliers)} and {num_res_blocks}"
        )
    if hid_channels < NARROWEST or hid_channels % NARROWEST:
        faults.append(f"expected hid_channels to be a multiple of {NARROWEST}, got {hid_channels}")
    if len(apply_attn) != len(ch_multipliers):
        faults.append(
            "expected apply_attn to have one value for each of the "
            f"{len(ch_multipliers)} levels of ch_multipliers, got {len(apply_attn)}"
        )
    return faults
