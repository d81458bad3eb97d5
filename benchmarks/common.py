"""What every benchmark shares: interleaved timing and a table that names its circumstances."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


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
        f"{date.today()} · {where}{processor()}, {torch.get_num_threads()} threads · torch "
        f"{torch.__version__} · Python {platform.python_version()}",
        "",
        markdown(head, rows),
        *(["", note] if note else []),
    ]
    text = "\n".join(lines) + "\n"
    if show:
        print(text)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.md").write_text(text)
