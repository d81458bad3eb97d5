"""What benchmarks of training by CPU seconds share: costs of a step, runs, the judge, cells."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from vfn import evaluation
from vfn.configs import Config, override
from vfn.data import Dataset, load_dataset
from vfn.files import write_json
from vfn.train import train

NUM, ROUNDS, PROBED = 1000, 3, (10, 20)


def cost_of_a_step(config: Config, data: Dataset | None = None) -> float:
    """CPU seconds, as training takes them; of the configuration's data where none are given."""
    marks: dict[int, float] = {}

    def watch(entry: Mapping[str, Any]) -> None:
        marks.setdefault(entry["step"], time.process_time())

    with tempfile.TemporaryDirectory() as out:
        probe = override(config, {"steps": PROBED[1]})
        train(probe, out, callbacks=[watch], dataset=data, device="cpu")
    return (marks[PROBED[1]] - marks[PROBED[0]]) / (PROBED[1] - PROBED[0])


def shortened(config: Config, steps: int) -> Config:
    """For so many steps, of which a quarter at most goes to warming up."""
    return override(config, {"steps": steps, "warmup": min(config.train.warmup, steps // 4)})


def train_whole(config: Config, out: str | Path, **options: Any) -> float:
    """Train to the last step; the CPU seconds that it took."""
    begun = time.process_time()
    if train(config, out, device="cpu", **options).signum:
        raise SystemExit(f"{config.data.dataset}: stopped before its last step")
    return time.process_time() - begun


def costs(asked: Mapping[str, Callable[[], float]], path: Path) -> dict[str, float]:
    """Median CPU seconds a step of each workload, measured in turn, once for all calls.

    What is asked for later is measured beside one that is known, in whose seconds it counts: the
    machine may be faster or slower by then.
    """
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [key for key in asked if key not in known]
    if not missing:
        return known
    beside = [key for key in asked if key in known][:1]
    torch.set_num_threads(1)
    measured: dict[str, list[float]] = {key: [] for key in [*beside, *missing]}
    for _ in range(ROUNDS):
        for key, values in measured.items():
            values.append(asked[key]())
    now = {key: median(values) for key, values in measured.items()}
    slower = now[beside[0]] / known[beside[0]] if beside else 1.0
    known |= {key: now[key] / slower for key in missing}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, known)
    return known


def run_all(module: str, todo: Sequence[Sequence[str]], jobs: int) -> None:
    """Each list of words in a process of its own, so many at a time."""
    waiting, failed = list(todo), 0
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            words = [sys.executable, "-m", module, *waiting.pop(0)]
            quiet = {**os.environ, "TQDM_DISABLE": "1"}  # bars of several at a time
            running.append(subprocess.Popen(words, env=quiet))
        time.sleep(0.2)
        ended = [process for process in running if process.poll() is not None]
        failed += sum(process.returncode != 0 for process in ended)
        running = [process for process in running if process not in ended]
    if failed:
        raise SystemExit(f"{failed} of {len(todo)} runs failed; call again for these alone")


def kept(out: Path, name: str, *presets: str) -> Path:
    """Where finished runs are, of presets as they are now."""
    digest = hashlib.sha256()
    for preset in presets:
        settings = tomllib.loads((files("vfn.configs") / f"{preset}.toml").read_text())
        digest.update(json.dumps(settings, sort_keys=True).encode())
    return out / f"{name}-{digest.hexdigest()[:8]}"


def file_of(name: str, seed: str, folder: Path) -> Path:
    """Where the figures of a run are."""
    return folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}-{seed}.json"


def judged(drawn: Any, data: str, of_training: str) -> dict[str, float]:
    """Figures of pictures: some metrics against training pictures, others against held-out ones."""
    found: dict[str, float] = {}
    for real, metrics in (("train", of_training), ("test", "fd,pr")):
        one = evaluation.judge(f"dataset:{data}:{real}", drawn, metrics, device="cpu")
        found |= {figure.key: figure.value for figure in one.figures}
    return found


def perfect(data: str, num: int = NUM, of_training: str = "") -> dict[str, float]:
    """What a perfect sampler would get.

    The distance of draws of the Gaussian fitted to the held-out pictures, precision and recall of
    as many training pictures, and agreement and memorised share of the held-out ones.
    """
    real = load_dataset(data, "train")
    order = torch.randperm(len(real.images), generator=torch.Generator().manual_seed(0))
    some = real.rows(order[:num])
    found: dict[str, float | None] = {}
    for side, metrics in (("test", "fd,pr"), ("train", of_training)):
        if not metrics:
            continue
        one = evaluation.judge(f"dataset:{data}:{side}", some, metrics, device="cpu")
        for figure in one.figures:
            of_reference = figure.key not in ("precision", "recall")
            found[figure.key] = figure.reference if of_reference else figure.value
    return {key: value for key, value in found.items() if value is not None}


def real_pictures(data: str, num: int = NUM) -> dict[str, float]:
    """What training pictures get against the held-out ones, as many of each class."""
    pictures = load_dataset(data, "train")
    assert pictures.labels is not None
    classes = len(pictures.legend.names)
    order = torch.randperm(len(pictures.images), generator=torch.Generator().manual_seed(0))
    each = [order[pictures.labels[order] == c + 1][: num // classes] for c in range(classes)]
    some = pictures.rows(torch.cat(each))
    found = evaluation.judge(f"dataset:{data}:test", some, "fd,pr", device="cpu")
    return {figure.key: figure.value for figure in found.figures}


def cell(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation over the seeds."""
    spread = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{spread}"


def pictures(images: torch.Tensor, classes: torch.Tensor, data: str) -> Dataset:
    """Drawn pictures with what was asked of each, to be judged like a data set."""
    return Dataset(images, classes, load_dataset(data, "test").legend)
