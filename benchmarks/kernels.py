"""What each operation of some work has to compute and to move, and how long its kernels take.

Operations are those that torch dispatches, of the backward pass too. Each is named in the
profiler's record while it runs, so that the time of its kernels, whatever they are called, is told
by itself.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

LABEL = "op "


class Work(NamedTuple):
    """Of all calls of an operation: their number, what they compute and move, and their time."""

    calls: int = 0
    operations: float = 0.0  # additions and multiplications of products
    bytes: float = 0.0  # that have to be read and written, if nothing stays in a cache
    seconds: float = 0.0  # of the device

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work._make(a + b for a, b in zip(self, other, strict=True))

    def least(self, products: float, copy: float) -> float:
        """Seconds that it takes at least on a card of some operations/s and bytes/s."""
        return max(self.operations / products, self.bytes / copy)


def total(works: Iterable[Work]) -> Work:
    return sum(works, Work())


def _size(value: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return sum(math.prod(each.shape) * each.element_size() for each in tensors)


def moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Bytes that an operation reads and writes; none where it gives a view."""
    if func.is_view:
        return 0
    schema = func._schema
    given = {each.name: value for each, value in zip(schema.arguments, args, strict=False)} | kwargs
    read = _size(given)
    written = sum(
        _size(given[each.name])
        for each in schema.arguments
        if each.alias_info is not None and each.alias_info.is_write and each.name in given
    )
    results = out if isinstance(out, tuple | list) and len(schema.returns) > 1 else [out]
    fresh = zip(schema.returns, results, strict=True) if schema.returns else ()
    return read + written + sum(_size(value) for each, value in fresh if each.alias_info is None)


class Counted(TorchDispatchMode):
    """Counts what operations compute and move, and names each in the profiler's record."""

    def __init__(self) -> None:
        super().__init__()
        self.works: dict[str, Work] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func._schema.name.partition("::")[2], kwargs or {}
        with record_function(LABEL + name):
            out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        operations = formula(*args, **kwargs, out_val=out) if formula else 0
        work = Work(1, operations, moved(func, args, kwargs, out))
        self.works[name] = self.works.get(name, Work()) + work
        return out


def profiled(work: Callable[[], object], device: str) -> dict[str, Work]:
    """Each operation of some work, done once before.

    Args:
        work: what is done.
        device: cpu or cuda, whose time is wanted.

    Returns:
        by name, the longest first.
    """
    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as profiler, Counted() as counted:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    seconds = {
        event.key.removeprefix(LABEL): 1e-6
        * (event.device_time_total if device == "cuda" else event.cpu_time_total)
        for event in profiler.key_averages()
        if event.key.startswith(LABEL) and event.device_type == DeviceType.CPU
    }
    timed = {name: work._replace(seconds=seconds[name]) for name, work in counted.works.items()}
    return dict(sorted(timed.items(), key=lambda item: -item[1].seconds))
