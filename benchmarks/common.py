"""What every benchmark shares: interleaved timing and a table that names its circumstances."""

import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
# Measured beside ours, as they are imported.
OTHERS = ("diffusers", "azula", "k_diffusion", "torch_fidelity", "pytorch_fid", "scipy",
          "denoising_diffusion_pytorch")  # fmt: skip


def interleaved(
    parts: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each part, timed in turn so that drift of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for part in parts.values():
        part()
    for _ in range(rounds):
        for name, part in parts.items():
            start = clock()
            part()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def vectors() -> str:
    """Whether the processor has what doubles the speed of many of torch's kernels."""
    info = Path("/proc/cpuinfo")
    known = info.read_text(encoding="utf-8") if info.exists() else ""
    return "with AVX-512" if "avx512f" in known else "without AVX-512"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card() -> str:
    """The GPU that CUDA works on, and the libraries beneath torch."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return (
        f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} "
        f"multiprocessors, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    )


def beside() -> str:
    """Versions of this library and of others that were imported, as the end of a line."""
    found = []
    for name in ("vfn", *OTHERS):
        try:
            found += [f" · {name} {version(name)}"] if name in sys.modules else []
        except PackageNotFoundError:  # a checkout, such as this one
            continue
    return "".join(found)


def command() -> str:
    """What made a table, without where the machine has its files."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *words])


def write_table(
    name: str,
    title: str,
    head: list[str],
    rows: list[list[str]],
    note: str = "",
    device: str = "cpu",
    folder: Path = RESULTS,
    show: bool = True,
) -> None:
    """Print a Markdown table, and a note below it, and store it in ``folder``."""
    where = f"{card()} · " if device == "cuda" else ""
    lines = [
        f"# {title}",
        "",
        f"{date.today()} · {where}{processor()} {vectors()}, {torch.get_num_threads()} threads · "
        f"torch {torch.__version__} · Python {platform.python_version()}{beside()}",
        "",
        f"`{command()}`",
        "",
        markdown(head, rows),
        *(["", note] if note else []),
    ]
    text = "\n".join(lines) + "\n"
    if show:
        print(text)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.md").write_text(text)
