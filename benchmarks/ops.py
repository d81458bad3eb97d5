"""How far are the functions on tensors from the bound that memory sets, and from diffusers?

The bound of an operation is the least time in which as many bytes as it must read and write were
moved: by one ``Tensor.copy_``, or by whatever of the rows was fastest. Of the same bytes, because
speed depends on how much the caches hold. All parts are timed in turn within one run.
"""

import ctypes
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from benchmarks.common import interleaved, write_table
from vfn import ops

SHAPES = {(128, 3, 32, 32): 400, (512, 3, 64, 64): 60}  # rounds
CALLS, ROUNDS = 50, 60  # of the measurement of the overhead
AIMS = {"compiled": 1.3, "overhead": 30.0}
NOTE = f"""\
bound: one `Tensor.copy_` that moves the bytes which must be read and written, or the fastest row
that moves as many: a copy writes memory that the cache has forgotten. eager, compiled, diffusers:
multiples of it. malloc keeps freed memory: new pages cost more than the arithmetic, for every
library. Aims: compiled <= {AIMS["compiled"]}, eager at least as fast as
diffusers, whose `add_noise` stands beside q_sample, `get_velocity` beside v_from_x0_eps, `step`
from x0, eta 0 and 1, beside ddim_step and ancestral_step. The row of x + y holds nothing of this
library: what it exceeds the aim by is the call of a compiled function itself, 20 µs in a loop and
40 to 70 with cold caches, which a caller that compiles more than one operation pays once. Last
rows: microseconds for data [128, 1], aim {AIMS["overhead"]:.0f}."""


def keep_memory() -> None:
    """Let malloc keep freed memory, as on GPUs: new pages cost more than the arithmetic."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def operations(
    shape: tuple[int, ...],
) -> dict[str, tuple[int, Callable[..., object], tuple[Any, ...]]]:
    """Each operation with the tensors of data that it must read or write, and its arguments."""
    z, out, noise, other = (torch.randn(shape) for _ in range(4))
    t = torch.linspace(-10, 9, shape[0])
    s = t + 1
    return {
        "x + y of torch": (3, torch.add, (z, out)),
        "q_sample": (3, ops.q_sample, (z, t, noise)),
        "x0_from_v": (3, ops.x0_from_v, (z, out, t)),
        "v_from_x0_eps": (3, ops.v_from_x0_eps, (z, noise, t)),
        "predict, v": (4, lambda z, out, t: ops.predict(z, out, t, "v"), (z, out, t)),
        "mse_loss, constant": (2, mean_square, (z, other)),
        "ddim_step": (3, ops.ddim_step, (z, out, t, s)),
        "ancestral_step": (4, ops.ancestral_step, (z, out, t, s, noise)),
    }


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    return ops.mse_loss(ops.Prediction(a, a, a), ops.Prediction(b, b, b), "constant")


def diffusers_operations(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    z, out, noise = (torch.randn(shape) for _ in range(3))
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(1000)
    steps = torch.randint(1, 1000, shape[:1])
    return {
        "q_sample": lambda: scheduler.add_noise(z, noise, steps),
        "v_from_x0_eps": lambda: scheduler.get_velocity(z, noise, steps),
        "ddim_step": lambda: scheduler.step(out, 500, z),
        "ancestral_step": lambda: scheduler.step(out, 500, z, 1.0, variance_noise=noise),
    }


def copy(numbers: int) -> Callable[[], object]:
    source, target = torch.randn(numbers), torch.empty(numbers)
    return lambda: target.copy_(source)


def bound(function: Callable[..., object], args: tuple[Any, ...]) -> Callable[[], object]:
    return lambda: function(*args)


def parts_of(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """Everything that is timed at one shape, compiled functions compiled."""
    parts = {}
    for name, (_, function, args) in operations(shape).items():
        parts[f"eager {name}"] = bound(function, args)
        compiled = torch.compile(function, fullgraph=True, dynamic=False)
        parts[f"compiled {name}"] = bound(compiled, args)
    others = diffusers_operations(shape)
    return parts | {f"diffusers {name}": part for name, part in others.items()}


def bandwidth_rows(shape: tuple[int, ...], rounds: int) -> list[list[str]]:
    moved = {tensors for tensors, *_ in operations(shape).values()}
    parts = {f"copy {tensors}": copy(math.prod(shape) * tensors // 2) for tensors in moved}
    seconds = interleaved(parts | parts_of(shape), rounds)
    label, rows, kinds = f"{list(shape)}", [], ("eager", "compiled", "diffusers")
    bounds = {tensors: seconds[f"copy {tensors}"] for tensors in moved}
    for name, (tensors, *_) in operations(shape).items():
        found = (seconds[key] for kind in kinds if (key := f"{kind} {name}") in seconds)
        bounds[tensors] = min(bounds[tensors], *found)
    for name, (tensors, *_) in operations(shape).items():
        times = {kind: seconds.get(f"{kind} {name}") for kind in kinds}
        least = bounds[tensors]
        missed = ["compiled"] * (seconds[f"compiled {name}"] > AIMS["compiled"] * least)
        if times["diffusers"] and seconds[f"eager {name}"] > times["diffusers"]:
            missed.append("eager")
        multiples = [f"{t / least:.2f}" if t else "" for t in times.values()]
        verdict = f"**missed: {', '.join(missed)}**" if missed else "met"
        rows.append([label, name, f"{1e6 * least:.0f}", *multiples, verdict])
    return rows


def overhead_rows(shape: tuple[int, ...]) -> list[list[str]]:
    """Microseconds of a call whose data cost nothing."""

    def repeated(part: Callable[[], object]) -> Callable[[], object]:
        return lambda: [part() for _ in range(CALLS)]

    parts = {name: repeated(part) for name, part in parts_of(shape).items()}
    micros = {n: 1e6 * s / CALLS for n, s in interleaved(parts, ROUNDS).items()}
    rows = []
    for name in operations(shape):
        kinds = ("eager", "compiled", "diffusers")
        times = [micros.get(f"{kind} {name}") for kind in kinds]
        verdict = "met" if micros[f"eager {name}"] <= AIMS["overhead"] else "**missed: eager**"
        rows.append(
            [str(list(shape)), name, "µs:", *(f"{t:.1f}" if t else "" for t in times), verdict]
        )
    return rows


def main() -> None:
    torch.manual_seed(0)
    keep_memory()
    with torch.no_grad():
        rows = [row for shape, rounds in SHAPES.items() for row in bandwidth_rows(shape, rounds)]
        rows += overhead_rows((128, 1))
    head = ["data, float32", "operation", "bound µs", "eager", "compiled", "diffusers", "aims"]
    write_table("ops", "Functions on tensors, as multiples of the memory bound", head, rows, NOTE)


if __name__ == "__main__":
    main()
