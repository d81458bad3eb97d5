"""The processes of a run: who we are among them, and what all of them agree on."""

import os
from typing import NamedTuple

import torch
import torch.distributed as dist


class World(NamedTuple):
    """This process's number, the number of processes, and its device."""

    rank: int
    size: int
    device: torch.device


def choose_device(name: str) -> torch.device:
    """The device a user asked for; ``auto`` is the GPU where there is one.

    Args:
        name: auto, cpu or cuda, perhaps with an index as in ``cuda:1``.

    Returns:
        torch.device; under torchrun each process gets the GPU of its local rank.

    Raises:
        ValueError: if there is no such device.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"expected device auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} asked for, but this PyTorch sees no CUDA GPU; use cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return device


def join_world(device: str) -> World:
    """Join the processes that torchrun started, or be alone without it.

    Args:
        device: see `choose_device`.

    Returns:
        World.
    """
    chosen = choose_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return World(0, 1, chosen)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return World(dist.get_rank(), size, chosen)


def leave_world(world: World) -> None:
    if world.size > 1:
        dist.destroy_process_group()


def largest(value: int, world: World) -> int:
    """The largest of all processes' values, so that they decide alike."""
    if world.size == 1:
        return value
    shared = torch.tensor(value, device=world.device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def average(value: torch.Tensor, world: World) -> torch.Tensor:
    """The mean of all processes' values."""
    if world.size > 1:
        dist.all_reduce(value)
    return value / world.size
