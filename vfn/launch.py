"""What a launcher such as torchrun tells each process of a job, read and checked in one place.

This module does not import torch: whoever shows a line asks which process it is.
"""

import os
from typing import NamedTuple

from vfn.files import short

JOIN_VARIABLE, JOIN_SECONDS = "VFN_JOIN_SECONDS", 600
_MOST = 2**31  # of processes, and of seconds


class Launch(NamedTuple):
    """This process's number among those of a job, their number, and its number on this machine.

    restarts: how often torchrun has started the processes of this machine again. address, port:
    where several processes meet. local_size: number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarts: int = 0
    address: str = ""
    port: int = 0
    local_size: int = 1


def launch() -> Launch:
    """The place of this process, from the variables that torchrun sets; alone without them.

    Returns:
        Launch.

    Raises:
        ValueError: if a variable is no whole number, they contradict each other, or one is missing.

    >>> launch().size
    1
    """
    size = _number("WORLD_SIZE", 1, low=1)
    rank = _number("RANK", 0, high=size, bound="WORLD_SIZE")
    local_rank = _number("LOCAL_RANK", 0, high=size, bound="WORLD_SIZE")
    local_size = _number("LOCAL_WORLD_SIZE", 1, low=1, high=size + 1, bound="WORLD_SIZE + 1")
    restarts = _number("TORCHELASTIC_RESTART_COUNT", 0)
    if size == 1:
        return Launch(rank, size, local_rank, restarts)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ValueError(_refusal(f"{name} with WORLD_SIZE {size}", "none"))
    port = _number("MASTER_PORT", 0, low=1, high=2**16)
    return Launch(rank, size, local_rank, restarts, os.environ["MASTER_ADDR"], port, local_size)


def join_seconds() -> int:
    """How long processes of a job wait for each other at its beginning.

    Returns:
        ``$VFN_JOIN_SECONDS``, or ten minutes.

    Raises:
        ValueError: if the variable is no whole number of seconds.

    >>> join_seconds()
    600
    """
    return _number(JOIN_VARIABLE, JOIN_SECONDS, low=1)


def _number(name: str, default: int, low: int = 0, high: int = _MOST, bound: str = "") -> int:
    """A whole number from the environment, in low..high-1."""
    text = os.environ.get(name)
    if not text:
        return default
    number = int(text) if len(text) < 20 and text.isascii() and text.isdecimal() else -1
    if not low <= number < high:
        below = f"{bound}, {high}" if bound else f"{high}"
        wanted = f"{name} to be a whole number of at least {low} and below {below}"
        raise ValueError(_refusal(wanted, text))
    return number


def _refusal(expected: str, text: str) -> str:
    return (
        f"expected {expected}, got {short(text)} in the environment; start the processes with "
        "torchrun, or unset the variables for one process"
    )
