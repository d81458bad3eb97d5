"""The processes of a job: who we are among them, their devices, and what all of them agree on."""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from vfn.files import few, short, shown
from vfn.launch import JOIN_VARIABLE, Launch, join_seconds, launch
from vfn.memory import keep_freed_memory

T = TypeVar("T")


class World(NamedTuple):
    """This process's number, the number of processes, its device, and how they agree on numbers.

    ``control`` is a group over the CPU: asking the others does not wait for the GPU.
    """

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup | None = None


ALONE = World(0, 1, torch.device("cpu"))
# Others wait while the first process works alone: it reads a large data set, computes bits of one,
# averages networks, sends files away. Whoever dies is noticed at once, by a closed connection.
PATIENCE = timedelta(days=1)
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
    device = None
    with suppress(RuntimeError):  # of a word that stands for none
        device = torch.device(name)
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"expected device auto, cpu or cuda, got {shown(name)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} asked for, but this PyTorch sees no CUDA GPU; use cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", launch().local_rank)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ValueError(
            f"device {device} asked for, but this machine has {torch.cuda.device_count()} of them, "
            "which count from 0; start no more processes a machine than it has GPUs, or use cpu"
        )
    return device


@contextmanager
def processes(device: str = "auto") -> Iterator[World]:
    """The processes that torchrun started, or this one alone without it, for the time of a job.

    Jobs may follow one another, and a job within another one shares its processes. At the beginning
    of each they wait for one another, ``$VFN_JOIN_SECONDS`` (ten minutes) at most.

    Args:
        device: auto, cpu or cuda, perhaps with an index as in ``cuda:1``.

    Yields:
        World.

    Raises:
        ValueError: if there is no such device, or the variables of the environment that tell which
            process this is are incomplete or contradict each other.
        TimeoutError: if a process does not come.

    >>> with processes("cpu") as world:
    ...     world.size
    1
    """
    here = launch()
    chosen = choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    if here.size == 1:
        # What is on "cuda" without an index, such as tensors of somebody else's network, is there.
        with torch.cuda.device(chosen) if chosen.type == "cuda" else nullcontext():
            yield World(0, 1, chosen)
        return
    if _outer:
        yield _outer[-1]._replace(device=chosen)
        return
    store = _met(here)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=here.rank, world_size=here.size, timeout=PATIENCE
    )
    try:
        control = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        _outer.append(World(here.rank, here.size, chosen, control))
        yield _outer[-1]
    finally:
        _outer.clear()
        dist.destroy_process_group()


def _met(here: Launch) -> dist.Store:
    """Where the processes of a job meet, once all of them are there."""
    seconds = join_seconds()
    try:
        end = time.monotonic() + seconds
        if not _stores:
            _reach(here, end)
        wait = timedelta(seconds=max(1.0, end - time.monotonic()))
        store = _fresh_store(wait)
        store.set(f"here {here.rank}", "")
        store.wait([f"here {rank}" for rank in range(here.size)], wait)
    except (OSError, RuntimeError) as error:  # of sockets, or of the store
        raise TimeoutError(
            f"not all of the {here.size} processes of this job met within {seconds} s (this is "
            f"number {here.rank}; {short(str(error))}); start all of them, with one MASTER_ADDR "
            f"and MASTER_PORT, and set {JOIN_VARIABLE} where they need longer"
        ) from None
    return store


def _reach(here: Launch, end: float) -> None:
    """Wait for the place where processes meet; the library below would write pages meanwhile."""
    while True:
        try:
            if here.rank == 0:  # which makes it, unless torchrun has
                socket.getaddrinfo(here.address, here.port)
            else:
                socket.create_connection((here.address, here.port), timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _fresh_store(wait: timedelta) -> dist.Store:
    """Of each job its own: addresses of the last one are stale."""
    if not _stores:
        _stores.append(next(rendezvous("env://", timeout=wait))[0])
    _stores.append(dist.PrefixStore(f"job {len(_stores)}", _stores[0]))
    return _stores[-1]


@contextmanager
def talking() -> Iterator[None]:
    """Say in one line that another process is gone, of which its own message says why.

    Raises:
        ConnectionError: in place of what the library below says.
        RuntimeError: any other that came.

    >>> with talking():
    ...     raise RuntimeError("shapes")
    Traceback (most recent call last):
    RuntimeError: shapes
    """
    try:
        yield
    except RuntimeError as error:
        # Of gloo's errors torch makes plain ones, which name gloo's source.
        if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
            raise
        raise ConnectionError(
            f"another process of this job has gone or does not answer ({short(str(error))}); its "
            "own message says why"
        ) from None


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
    except Exception:
        largest(1, world)
        raise
    if largest(0, world):
        raise ValueError("another process of this job refused what was asked; its message says why")


def by_first(work: Callable[[], T]) -> T:
    """What the first process does alone, while the others wait.

    Args:
        work: what is to be done; all processes have to come here.

    Returns:
        what came of it, on all of them.

    Raises:
        ValueError: its own, or on the others that the first process refused.
        OSError: its own.

    >>> by_first(lambda: 3)
    3
    """
    with processes("cpu") as world:
        return from_first(work, world)


def from_first(work: Callable[[], T], world: World) -> T:
    """As `by_first`, among processes that are together already.

    Args:
        work: what the first one is to do.
        world: the processes, all of which come here.

    Returns:
        what came of it, on all of them.

    Raises:
        ValueError: its own, or on the others that the first process refused.
        OSError: its own.

    >>> from_first(lambda: 3, ALONE)
    3
    """
    made: list[Any] = [None]
    with together(world):
        if world.rank == 0:
            made = [work()]
    if world.size > 1:
        with talking():
            dist.broadcast_object_list(made, src=0, group=world.control)
    return cast(T, made[0])


def wait_for_all(world: World) -> None:
    """Wait until every process is here."""
    largest(0, world)


def largest(value: int, world: World) -> int:
    """The largest of all processes' values, so that they decide alike."""
    if world.size == 1:
        return value
    return int(_largest(torch.tensor(value), world))


def smallest(value: int, world: World) -> int:
    """The smallest of all processes' values, so that they decide alike."""
    return -largest(-value, world)


def _largest(values: Tensor, world: World) -> Tensor:
    with talking():
        dist.all_reduce(values, dist.ReduceOp.MAX, group=world.control)
    return values


def check_alike(job: Mapping[str, Any], world: World) -> None:
    """Refuse to begin a job that is another one on some process.

    Args:
        job: what is to be done, as JSON can hold it; all processes have to call this.
        world: the processes.

    Raises:
        ValueError: on every process, with the names of the parts that differ.

    >>> check_alike({"seed": 0}, ALONE)
    """
    if world.size == 1:
        return
    differing = _differing({"names": [*job]}, world) or _differing(job, world)
    if differing:
        raise ValueError(
            "the processes of this job were started with different arguments: "
            f"{few(differing, 3)} differs; start all of them with the same command"
        )


def differs(value: Any, world: World) -> bool:
    """Whether something is not the same on all processes, which all have to ask together.

    Args:
        value: as JSON can hold it.
        world: the processes.

    Returns:
        whether it differs.

    >>> differs(["loss"], ALONE)
    False
    """
    return world.size > 1 and bool(_differing({"value": value}, world))


def _differing(job: Mapping[str, Any], world: World) -> list[str]:
    """Names of the values, as many on every process, that are not the same on all of them."""
    texts = (json.dumps(value, sort_keys=True, default=str) for value in job.values())
    hashes = (hashlib.sha256(text.encode()).digest()[:7] for text in texts)
    numbers = torch.tensor([int.from_bytes(part, "big") for part in hashes])
    high, low = _largest(torch.stack([numbers, -numbers]), world)
    return [name for name, differs in zip(job, (high != -low).tolist(), strict=True) if differs]


def total(value: Tensor, world: World) -> Tensor:
    """The sum of all processes' values, on the device that they talk by."""
    value = value.to(world.device)
    if world.size > 1:
        with talking():
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
    with talking():
        dist.all_gather(parts, part.contiguous(), group=world.control)
    return torch.cat(parts)[:count]
