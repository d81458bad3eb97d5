"""What the parts of `benchmarks.gpu` share: sizes, the time that is left, timing, and tables."""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from benchmarks.common import interleaved, write_table
from vfn.configs import Config, load, override
from vfn.data import Labels, as_dataset
from vfn.data.dataset import Dataset
from vfn.model import DataShape, autocast, float32_products
from vfn.objective import Batch
from vfn.ops.solver_table import SOLVERS
from vfn.train.batches import make_batch

PRESET = "cifar10_cond"
NO_TIME = "left out: no time"
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
T = TypeVar("T")


class Scale(NamedTuple):
    """How large everything is: as published, or so small that a CPU can try it out."""

    device: str = "cuda"
    settings: tuple[tuple[str, Any], ...] = ()  # of the preset, changed
    size: int = 32
    batch: int = 128
    modes: tuple[str, ...] = ("bf16", "tf32", "fp32", "fp16")  # the first is compiled first
    steps: int = 5  # in a row, before the clock is looked at
    rounds: int = 3
    product: int = 8192  # side of the matrices of the limits
    copied: int = 2**30  # bytes
    solvers: tuple[str, ...] = tuple(SOLVERS)
    drawn: tuple[int, ...] = (1, 8, 64, 512)  # pictures at a time
    evaluations: int = 10  # steps of a sampler
    backend: str = "inductor"
    compiling: float = 75.0  # seconds that one network takes, until a slower one is seen


SMALL = Scale(
    device="cpu",
    settings=(("hid_channels", 32), ("num_res_blocks", 1), ("ch_multipliers", (1, 1)),
              ("apply_attn", (False, True))),
    size=8, batch=2, modes=("bf16", "fp32"), steps=1, rounds=1, product=64, copied=2**12,
    solvers=("heun",), drawn=(1, 2), evaluations=2, backend="eager", compiling=1.0,
)  # fmt: skip


class Bench:
    """Sizes, the time that is left, and where tables go."""

    def __init__(self, scale: Scale, minutes: float, folder: Path) -> None:
        self.scale, self.folder, self.device = scale, folder, scale.device
        self.end = time.perf_counter() + 60 * minutes
        self.shape = DataShape(3, scale.size, scale.size, Labels(tuple("0123456789")))
        self.products: dict[str, float] = {}  # operations/s by mode
        self.copy = float("nan")  # bytes/s

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    def config(self, **changed: Any) -> Config:
        """The preset; accumulate is given, so that nothing looks for the memory that is free."""
        settings = {"accumulate": 1, **dict(self.scale.settings), **changed}
        return override(load(PRESET), settings)

    def pictures(self, count: int) -> Dataset:
        """A data set of noise."""
        images = torch.randint(0, 256, (count, *self.shape.size), dtype=torch.uint8)
        return as_dataset(images, torch.arange(count) % 10 + 1, self.shape.legend.names)

    def batch(self, count: int, data: Dataset | None = None, number: int = 0) -> Batch:
        """As training makes it, on the device."""
        draws = torch.arange(count) + number * count
        config = self.config(batch_size=count)
        return make_batch(data or self.pictures(count), config, draws, torch.device(self.device))

    def table(
        self, name: str, title: str, head: list[str], rows: list[list[str]], note: str = "",
        show: bool = True,
    ) -> None:  # fmt: skip
        prefix = "gpu" if self.device == "cuda" else "gpu_on_cpu"
        name = f"{prefix}_{name}"
        write_table(name, title, head, rows, note, self.device, self.folder, show)

    def seconds(
        self, parts: dict[str, Callable[[], object]], steps: int | None = None
    ) -> dict[str, float]:
        """Of one call of each part: medians of some in a row, in turn, waited for at their end."""
        count = self.scale.steps if steps is None else steps

        def in_a_row(part: Callable[[], object]) -> Callable[[], object]:
            def run() -> None:
                for _ in range(count):
                    part()

            return synchronised(run, self.device)

        rows = {name: in_a_row(part) for name, part in parts.items()}
        found = interleaved(rows, self.scale.rounds)
        return {name: value / count for name, value in found.items()}

    def peak(self, run: Callable[[], object]) -> float | None:
        """MiB that something takes at most beside what is held before; None on a CPU."""
        if self.device != "cuda":
            run()
            return None
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def clear(self) -> None:
        """Give back what is no longer used, what was compiled too."""
        torch._dynamo.reset()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def synchronised(run: Callable[[], object], device: str) -> Callable[[], object]:
    if device == "cpu":
        return run

    def waited() -> None:
        run()
        torch.cuda.synchronize()

    return waited


@contextmanager
def in_mode(mode: str, device: str) -> Iterator[None]:
    """Autocast for bf16 and fp16; products of float32 with 10-bit mantissas for tf32 alone."""
    with float32_products(mode == "tf32"), autocast(precision_of(mode), torch.device(device)):
        yield


def precision_of(mode: str) -> str:
    """The word of configurations."""
    return "fp32" if mode == "tf32" else mode


def products_of(mode: str) -> str:
    """The mode around what casts to half precision by itself."""
    return "tf32" if mode == "tf32" else "fp32"


def reason(error: Exception) -> str:
    """Why there is no figure, for a cell; the whole of it goes to the terminal."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    print(text, file=sys.stderr)
    return f"failed: {text[:90]}".replace("|", "/")


def tried(makers: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """What each makes, and why others fail: where all are timed in turn, one would end the rest."""
    made, faults = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:
            faults[name] = reason(error)
    return made, faults


def mib(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def limits(bench: Bench) -> None:
    """Rates of memory and of products, on random numbers, which take more power than zeros."""
    scale = bench.scale
    source = torch.randn(scale.copied // 4, device=bench.device)
    target = torch.empty_like(source)
    bench.copy = 2 * scale.copied / bench.seconds({"": lambda: target.copy_(source)})[""]
    what = f"copy of {scale.copied / 2**20:.4g} MiB, read and written"
    rows = [[what, f"{bench.copy / 1e9:.4g} GB/s"]]
    for mode in scale.modes:
        dtype = HALVES.get(mode, torch.float32)  # of the matrices: casts are no part of a product
        side = scale.product, scale.product
        a, b = (torch.randn(side, device=bench.device).to(dtype) for _ in range(2))
        with in_mode(mode, bench.device):
            seconds = bench.seconds({"": partial(torch.matmul, a, b)})[""]
        bench.products[mode] = 2 * scale.product**3 / seconds
        what = f"product of {scale.product} x {scale.product} matrices, {mode}"
        rows.append([what, f"{bench.products[mode] / 1e12:.4g} TFLOP/s"])
    bench.table("limits", "Limits of the card, as measured", ["what", "rate"], rows)
