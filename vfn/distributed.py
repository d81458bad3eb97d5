"""The processes of a job: who we are among them, their devices, and what all of them agree on."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous


class World(NamedTuple):
    """This process's number, the number of processes, its device, and how they agree on numbers.

    ``control`` is a group over the CPU: asking the others does not wait for the GPU.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None


ALONE = World(0, 1, torch.device("cpu"))
_outer: list[World] = []  # of the job that this process works on
_stores: list[dist.Store] = []  # the one that torchrun offers, and those of all jobs so far


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


@contextmanager
def processes(device: str = "auto") -> Iterator[World]:
    """The processes that torchrun started, or this one alone without it, for the time of a job.

    Jobs may follow one another, and a job within another one shares its processes.

    Args:
        device: auto, cpu or cuda, perhaps with an index as in ``cuda:1``.

    Yields:
        World.

    Raises:
        ValueError: if there is no such device.

    >>> with processes("cpu") as world:
    ...     world.size
    1
    """
    chosen = choose_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(0, 1, chosen)
        return
    if _outer:
        yield _outer[-1]._replace(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    rank = int(os.environ["RANK"])
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_fresh_store(), rank=rank, world_size=size)
    try:
        control = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        _outer.append(World(rank, size, chosen, control))
        yield _outer[-1]
    finally:
        _outer.clear()
        dist.destroy_process_group()


def _fresh_store() -> dist.Store:
    """Where the processes meet: of each job its own, as addresses of the last one are stale."""
    if not _stores:
        _stores.append(next(rendezvous("env://"))[0])
    _stores.append(dist.PrefixStore(f"job {len(_stores)}", _stores[0]))
    return _stores[-1]


@contextmanager
def together(world: World) -> Iterator[None]:
    """What one process refuses all refuse, so that no one waits for it.

    Args:
        world: the processes, all of which come here.

    Raises:
        ValueError: its own, or on those that have none where another process refused.
        OSError: its own.

    >>> with together(ALONE):
    ...     pass
    """
    try:
        yield
    except (ValueError, OSError):
        largest(1, world)
        raise
    if largest(0, world):
        raise ValueError("another process of this job refused what was asked; its message says why")


def wait_for_all(world: World) -> None:
    """Wait until every process is here."""
    largest(0, world)


def largest(value: int, world: World) -> int:
    """The largest of all processes' values, so that they decide alike."""
    if world.size == 1:
        return value
    shared = torch.tensor(value)
    dist.all_reduce(shared, dist.ReduceOp.MAX, group=world.control)
    return int(shared)


def check_alike(job: Mapping[str, Any], world: World) -> None:
    """Refuse to begin a job that is another one on some process.

    Args:
        job: what is to be done, as JSON can hold it; all processes have to call this.
        world: the processes.

    Raises:
        ValueError: on every process, with the name of the first part that differs.

    >>> check_alike({"seed": 0}, ALONE)
    """
    if world.size == 1:
        return
    hashes = {
        name: hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()[:7]
        for name, value in {"names": [*job], **job}.items()
    }
    for name, value in hashes.items():
        number = int.from_bytes(value, "big")
        if largest(number, world) != -largest(-number, world):
            raise ValueError(
                f"the processes of this job were started with different arguments: {name} differs; "
                "start all of them with the same command"
            )


def total(value: Tensor, world: World) -> Tensor:
    """The sum of all processes' values."""
    if world.size > 1:
        dist.all_reduce(value)
    return value


def share(count: int, world: World) -> Tensor:
    """Which of ``count`` items this process works on: as many as every other, at least one.

    Where they do not divide, the last item is done more than once.

    Args:
        count: items in all, at least one.
        world: the processes.

    Returns:
        int64 in 0..count-1, as many on every process.

    >>> share(5, World(1, 2, torch.device("cpu"))).tolist()
    [3, 4, 4]
    """
    each = -(-count // world.size)
    return (torch.arange(each) + world.rank * each).clamp(max=count - 1)


def gather(part: Tensor, count: int, world: World) -> Tensor:
    """All items from every process's share of them, on every process.

    Args:
        part: what became of the items of `share`, on the CPU, the same shape everywhere.
        count: items in all.
        world: the processes.

    Returns:
        [count, ...], in the order of the items.
    """
    if world.size == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(world.size)]
    dist.all_gather(parts, part.contiguous(), group=world.control)
    return torch.cat(parts)[:count]
