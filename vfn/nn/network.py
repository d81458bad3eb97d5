"""What a network is to everything else, and the table of those that are known by a word.

A network is an `nn.Module` built with ``in_channels``, ``out_channels``, ``num_classes``,
``multitags`` and options of its own, and called as ``net(z, t, y)``: z [B, C_in, H, W], t [B] in
[0, 1], float64 (a network casts it where it meets z), y None or labels, [B] (classes 1..K, 0 for
none) or [B, K] (0/1 tags, all zero for none).
One that takes guidance as an input is built with ``guidance_range`` too, keeps it as an attribute,
and is called as ``net(z, t, y, w)``. One with the attribute ``second_time`` set takes the keyword
``r`` [B], a time in [0, t] where a step ends, and gives the mean velocity up to it; without r it
is the velocity at t. Further conditions are keywords: one that is built with ``vector_dim`` is
called with ``vector`` [B, D], with ``image_channels`` with ``image`` [B, C', H, W], with
``augment_dim`` with ``augment`` [B, A]; it is built with those alone that its data have. What is
all zero stands for none. This module does not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from vfn.files import few, shown
from vfn.tables import Entry, Table

if TYPE_CHECKING:
    from torch import Tensor


class Network(Protocol):
    """Anything that predicts from noisy data: a module, a wrapped one, or a function."""

    def __call__(
        self, z: "Tensor", t: "Tensor", /, *conditions: "Tensor | None", **more: "Tensor"
    ) -> "Tensor":
        """Predict from z [B, C_in, H, W] at t [B], given conditions: [B, C_out, H, W]."""
        ...


@dataclass(frozen=True, kw_only=True)
class NetworkEntry(Entry):
    """A network.

    sectioned: its options are the fields of the section [model] themselves. faults: what is wrong
    with options of [model.options], a message for each; of a network from outside nobody knows.
    """

    sectioned: bool = False
    faults: Callable[[Mapping[str, Any]], list[str]] | None = None


WIDEST = 2**14  # far beyond what is of use, and below what nobody could hold
# Whole numbers among the options of the transformer, with their ranges.
_WHOLE = {
    "patch_size": (1, 1024),
    "width": (4, WIDEST),
    "depth": (1, 1024),
    "num_heads": (1, WIDEST),
    "bottleneck": (0, WIDEST),
}
TRANSFORMER_OPTIONS = (*_WHOLE, "mlp_ratio", "time_embedding", "checkpoint_activations")


def transformer_faults(options: Mapping[str, Any]) -> list[str]:
    """What is wrong with options of the transformer; nothing if it can be built.

    Args:
        options: by the names of its arguments; the others have their defaults.

    Returns:
        a message for each fault.

    >>> transformer_faults({"width": 96, "num_heads": 5})
    ['expected width to be a multiple of 4 x num_heads, got 96 and 5']
    """
    faults = []
    if unknown := [name for name in options if name not in TRANSFORMER_OPTIONS]:
        faults.append(f"it takes {', '.join(TRANSFORMER_OPTIONS)}, got {few(unknown)}")
    for name, (low, high) in _WHOLE.items():
        value = options.get(name, low)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            faults.append(
                f"expected {name} to be a whole number in {low}..{high}, got {shown(value)}"
            )
    ratio = options.get("mlp_ratio", 1.0)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 64:
        faults.append(f"expected mlp_ratio to be a number in 0..64 above 0, got {shown(ratio)}")
    saving = options.get("checkpoint_activations", False)
    if not isinstance(saving, bool):
        faults.append(f"expected checkpoint_activations to be true or false, got {shown(saving)}")
    if (time := options.get("time_embedding", "sinusoidal")) not in get_args(TimeEmbedding):
        faults.append(
            f"expected time_embedding to be one of {', '.join(get_args(TimeEmbedding))}, got "
            f"{shown(time)}"
        )
    width, heads = options.get("width", 384), options.get("num_heads", 6)
    if not faults and width % (4 * heads):
        faults.append(f"expected width to be a multiple of 4 x num_heads, got {width} and {heads}")
    return faults


NETWORKS: Table[NetworkEntry] = Table(
    "network",
    {
        "unet": NetworkEntry(
            text="residual blocks with adaptive group normalisation, and attention",
            target="vfn.nn.unet:UNet",
            sectioned=True,
        ),
        "transformer": NetworkEntry(
            text="attention over patches, with adaptive normalisation and rotary positions",
            target="vfn.nn.transformer:Transformer",
            faults=transformer_faults,
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
