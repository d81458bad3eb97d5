"""The velocity that a network predicts, as a function of (z, logsnr): with gradients or without.

Forward differentiation goes through the bare module and keeps nothing for a backward pass. The pass
whose gradients are wanted goes through the module as it is wrapped, whose hooks bring together the
gradients of all processes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vfn.nn.conditions import NO_CONDITIONS, Conditions
from vfn.nn.layers import full_precision
from vfn.nn.network import Network
from vfn.ops import LogSNRSchedule, OutType, Velocity, predict


def bare(network: Network) -> Network:
    """A network without what wraps it for several processes or compiles it.

    Args:
        network: a module, wrapped or not, or a function.

    Returns:
        the module, or the function.

    >>> from torch import nn
    >>> module = nn.Linear(1, 1)
    >>> bare(torch.compile(module)) is module
    True
    """
    inner: Any = network
    while isinstance(inner, DistributedDataParallel) or hasattr(inner, "_orig_mod"):
        inner = inner.module if isinstance(inner, DistributedDataParallel) else inner._orig_mod
    found: Network = inner
    return found


def live_velocity(
    network: Network,
    schedule: LogSNRSchedule,
    out_type: OutType,
    conditions: Sequence[Tensor | None] = (),
    more: Conditions = NO_CONDITIONS,
) -> Velocity:
    """The velocity of a network, with gradients.

    Args:
        network: called as ``network(z, t, *conditions)``, with the keyword r where a step ends.
        schedule: it gives the network's times.
        out_type: what the network predicts.
        conditions: labels and guidance [B].
        more: what it takes beside them, by keywords.

    Returns:
        ``v(z, logsnr)``, or ``v(z, logsnr, logsnr_s)`` of one that takes a second time.

    >>> from vfn.nn import UNet
    >>> from vfn.ops import logsnr_schedule
    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    >>> v = live_velocity(net, logsnr_schedule("cosine"), "v")
    >>> v(torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.float64)).requires_grad
    True
    """

    def velocity(z: Tensor, logsnr: Tensor, end: Tensor | None = None) -> Tensor:
        ends = {} if end is None else {"r": schedule.time(end)}
        out = network(z, schedule.time(logsnr), *conditions, **more.keywords(), **ends)
        return predict(z, out, logsnr, out_type).v

    return velocity


def fixed_velocity(
    network: Network,
    schedule: LogSNRSchedule,
    out_type: OutType,
    conditions: Sequence[Tensor | None] = (),
    more: Conditions = NO_CONDITIONS,
) -> Velocity:
    """The same of the bare network, without gradients, in full precision under autocast too.

    Args:
        network: as for `live_velocity`, like the others.
        schedule: it gives the network's times.
        out_type: what the network predicts.
        conditions: labels and guidance [B].
        more: what it takes beside them, by keywords.

    Returns:
        as of `live_velocity`; `vfn.ops.along_path` can differentiate it forward.

    >>> from vfn.nn import UNet
    >>> from vfn.ops import along_path, logsnr_schedule
    >>> net = UNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1)
    >>> v = fixed_velocity(net, logsnr_schedule("cosine"), "v")
    >>> z = torch.randn(2, 1, 8, 8)
    >>> along_path(v, z, torch.zeros(2, dtype=torch.float64), z).rate.requires_grad
    False
    """
    velocity = live_velocity(bare(network), schedule, out_type, conditions, more)

    def fixed(z: Tensor, logsnr: Tensor, end: Tensor | None = None) -> Tensor:
        with torch.no_grad(), full_precision(z.device):
            return velocity(z, logsnr, end)

    return fixed
