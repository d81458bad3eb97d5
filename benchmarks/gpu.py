"""How fast is a GPU with this library, and what bounds it?

Steps of training of the preset cifar10_cond in each precision, eager and compiled, beside
diffusers' UNet2DModel of the same function and, with VFN_REFERENCE naming a checkout of it, the
reference implementation's network with the same weights; memory; latency of sampling; and where the
time of a step goes. Parts follow one another until the minutes are spent: a row that is left out or
fails says so, each table is written as soon as its part is done, and a part that fails keeps no
other from being made.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import gpu_step, kernels
from benchmarks.card import (
    NO_TIME,
    PRESET,
    SMALL,
    Bench,
    Scale,
    in_mode,
    limits,
    mib,
    precision_of,
    products_of,
    reason,
    tried,
)
from benchmarks.common import RESULTS
from benchmarks.gpu_step import OURS, Network, step_of
from benchmarks.sampling import diffusers_loop
from vfn.configs import override
from vfn.footprint import Footprint
from vfn.model import build_model
from vfn.ops.solver_table import SOLVERS
from vfn.sampling import Trained
from vfn.train.state import init_state, train_step

PARTS = ("step", "kernels", "memory", "sampling", "compiled")
SHOWN = 14  # operations of a mode; the others are summed
Nets = dict[str, Network | str]


# Where the time of a step goes

KERNEL_HEAD = ["mode", "operation", "calls", "ms", "share", "TFLOP/s", "GB/s", "least ms",
               "least / ms"]  # fmt: skip
KERNEL_NOTE = """\
ms: of all kernels of an operation, as torch dispatches it, in one eager step. TFLOP/s counts its
products; GB/s what it reads and writes, each tensor once, of which caches can serve a part. least:
the larger of products at the rate of a large matrix product in this mode, and of bytes at the rate
of a copy, both as measured in gpu_limits. wall clock: a step without a profiler, and the share of
it that kernels take."""


def profile(bench: Bench, nets: Nets) -> None:
    """Operations of an eager step, and how far each is from what the card can do."""
    batch, network, rows = bench.batch(bench.scale.batch), nets[OURS], []
    assert isinstance(network, Network)
    for mode in bench.scale.modes[:2]:
        empty = [""] * (len(KERNEL_HEAD) - 2)
        if bench.left < 20:
            rows.append([mode, NO_TIME, *empty])
            continue
        try:
            part = step_of(OURS, network, mode, batch)
            wall = bench.seconds({"": part})[""]
            rows += kernel_rows(kernels.profiled(part, bench.device), mode, wall, bench)
        except Exception as error:
            rows.append([mode, reason(error), *empty])
    title = f"Operations of a training step, preset {PRESET}, {bench.scale.batch} pictures"
    bench.table("kernels", title, KERNEL_HEAD, rows, KERNEL_NOTE)


def figure(value: float, form: str) -> str:
    """For a cell, which stays empty where nothing was measured."""
    return format(value, form) if math.isfinite(value) else ""


def kernel_rows(
    works: dict[str, kernels.Work], mode: str, wall: float, bench: Bench
) -> list[list[str]]:
    names, rates = list(works), (bench.products.get(mode, math.nan), bench.copy)
    groups = {name: [name] for name in names[:SHOWN]}
    groups |= {f"{len(names[SHOWN:])} others": names[SHOWN:], "all": names}
    whole = sum(work.seconds for work in works.values())
    if not whole:
        raise RuntimeError("the profiler recorded no kernels")

    def row(title: str, members: list[str]) -> list[str]:
        work = kernels.total(works[name] for name in members)
        least = sum(works[name].least(*rates) for name in members)
        each = 1 / work.seconds if work.seconds else math.nan
        rates_of = (
            figure(work.operations * each / 1e12, ".3g"),
            figure(work.bytes * each / 1e9, ".0f"),
            figure(1e3 * least, ".2f"),
            figure(least * each, ".2f"),
        )
        share = f"{100 * work.seconds / whole:.1f} %"
        return [mode, title, f"{work.calls}", f"{1e3 * work.seconds:.2f}", share, *rates_of]

    rows = [row(title, members) for title, members in groups.items() if members]
    wall_row = [mode, "wall clock", "", f"{1e3 * wall:.2f}", f"{100 * whole / wall:.1f} %"]
    return [*rows, [*wall_row, "", "", "", ""]]


# Memory

MEMORY_NOTE = """\
estimated: by vfn.footprint.Footprint before anything is made, as training plans its micro-batches
by. measured: the most that torch holds in three steps, with parameters, moments and average."""


def memory(bench: Bench) -> None:
    """Of training in all, estimated before and measured."""
    modes, most = bench.scale.modes, bench.scale.batch
    cases = [(modes[0], most, False), (modes[0], most // 2, False), (modes[0], most, True)]
    cases += [("fp32", most, False), ("fp32", most, True)]
    rows = []
    for mode, count, saving in cases:
        words = [mode, "computed again" if saving else "kept", str(count)]
        if bench.left < 10:
            rows.append([*words, NO_TIME, "", ""])
            continue
        try:
            rows.append([*words, *memory_cells(bench, mode, count, saving)])
        except Exception as error:
            rows.append([*words, reason(error), "", ""])
        bench.clear()
    head = ["mode", "activations", "pictures at once", "estimated MiB", "measured MiB", "ratio"]
    bench.table("memory", f"Memory of training, preset {PRESET}", head, rows, MEMORY_NOTE)


def memory_cells(bench: Bench, mode: str, count: int, saving: bool) -> list[str]:
    config = bench.config(precision=mode, checkpoint_activations=saving, batch_size=count)
    device, data = torch.device(bench.device), bench.pictures(count)
    need = Footprint(config, bench.shape, device).step(count)
    estimated = None if need is None else need / 2**20

    def steps() -> None:
        with device:
            model = build_model(config, bench.shape)
        state = init_state(model, config.train)
        for number in range(3):
            train_step(state, model.train(), [bench.batch(count, data, number)], config)

    with in_mode("fp32", bench.device):
        measured = bench.peak(steps)
    ratio = f"{estimated / measured:.2f}" if estimated and measured else ""
    return [mib(estimated), mib(measured), ratio]


# Sampling

SAMPLING_NOTE = """\
vfn: a batch as vfn sample draws it: keyed noise, schedule, steps, rounding and the way to the host.
guided: with the doubled batch of classifier-free guidance. network alone: as many evaluations.
loop of diffusers: its DDIMScheduler around our network."""
ALONE = "network alone"


def sampling(bench: Bench, nets: Nets) -> None:
    """Latency of a batch of pictures, by solver and by number, until they are on the host."""
    network = nets[OURS]
    assert isinstance(network, Network)
    net, config = network.module.eval(), network.config
    params = {name: value.detach() for name, value in net.named_parameters()}
    trained = Trained(net, params, config, bench.shape, torch.device(bench.device))
    steps = bench.scale.evaluations
    head = ["solver", "mode", "pictures", "evaluations", "ms a batch", "ms an evaluation",
            "pictures/s"]  # fmt: skip
    title = f"Latency of sampling by solver, preset {PRESET}, {steps} steps, guidance 0"
    bench.table("solvers", title, head, solver_rows(bench, trained))
    head = ["what", "mode", "pictures", "ms a batch", "pictures/s", "time / network alone"]
    title = f"Latency of DDIM by batch, preset {PRESET}, {steps} steps"
    bench.table("sampling", title, head, latency_rows(bench, trained), SAMPLING_NOTE)


def in_its_mode(trained: Trained, mode: str) -> Trained:
    """Draws so: its own settings come before those around it."""
    config = override(trained.config, {"tf32": mode == "tf32"})
    return replace(trained, precision=precision_of(mode), config=config)


def drawing(trained: Trained, count: int, **asked: Any) -> Callable[[], Any]:
    """Draws a batch."""
    draws = trained.draws(count, batch=count, **{"guidance": 0.0, **asked})
    return lambda: draws.batch(torch.arange(count))


def solver_rows(bench: Bench, trained: Trained) -> list[list[str]]:
    rows, mode = [], bench.scale.modes[0]
    trained = in_its_mode(trained, mode)
    for name in bench.scale.solvers:
        for count in bench.scale.drawn[::2]:
            words = [name, mode, str(count)]
            if bench.left < 10:
                rows.append([*words, NO_TIME, "", "", ""])
                continue
            # What has learnt nothing is rough: at the usual tolerance it takes many steps.
            own = SOLVERS[name].own_steps
            asked = {"tolerance": 0.1} if own else {"steps": bench.scale.evaluations}
            try:
                run = drawing(trained, count, sampler=name, **asked)
                with in_mode(products_of(mode), bench.device):
                    nfe = run().nfe
                    seconds = bench.seconds({name: run}, 1)[name]
            except Exception as error:
                rows.append([*words, reason(error), "", "", ""])
                continue
            figures = [1e3 * seconds, 1e3 * seconds / nfe, count / seconds]
            rows.append([*words, str(nfe), *(f"{figure:.1f}" for figure in figures)])
    return rows


def latency_rows(bench: Bench, trained: Trained) -> list[list[str]]:
    """Of the first mode every number of pictures; of others, which are slower, few."""
    rows, counts = [], bench.scale.drawn
    for mode in bench.scale.modes[:3]:
        for count in counts if mode == bench.scale.modes[0] else counts[:3:2]:
            if bench.left < 10:
                rows.append(["all", mode, str(count), NO_TIME, "", ""])
                continue
            try:
                rows += loop_rows(bench, trained, mode, count)
            except Exception as error:
                rows.append(["all", mode, str(count), reason(error), "", ""])
    return rows


def loop_rows(bench: Bench, trained: Trained, mode: str, count: int) -> list[list[str]]:
    with in_mode(mode, bench.device):
        ready, faults = tried(loops(trained, mode, count, bench))
        seconds = bench.seconds(ready, 1)
    alone = seconds.get(ALONE, math.nan)
    rows = {
        what: [f"{1e3 * s:.1f}", f"{count / s:.1f}", figure(s / alone, ".2f")]
        for what, s in seconds.items()
    }
    rows |= {what: [why, "", ""] for what, why in faults.items()}
    return [[what, mode, str(count), *row] for what, row in rows.items()]


def loops(
    trained: Trained, mode: str, count: int, bench: Bench
) -> dict[str, Callable[[], Callable[[], object]]]:
    """What makes, and does once, the library's loop, guided too, the network alone, and others."""
    steps, net = bench.scale.evaluations, trained.model
    each = in_its_mode(trained, mode)
    asked = {"sampler": "ddim", "steps": steps}
    labels = torch.arange(count, device=bench.device) % 10 + 1
    z = torch.randn(count, *bench.shape.size, device=bench.device)
    t = torch.full((count,), 0.5, device=bench.device)

    def alone() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                out = net(z, t, labels)
            out.cpu()  # as pictures go there

    def diffusers() -> Callable[[], object]:
        loop = diffusers_loop(net, z, labels, steps)
        return lambda: loop().cpu()

    def done_once(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
        run = make()
        run()
        return run

    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "vfn": partial(drawing, each, count, **asked),
        "vfn, guided": partial(drawing, each, count, **asked, guidance=1.0),
        ALONE: lambda: alone,
    }
    if find_spec("diffusers"):
        makers["loop of diffusers"] = diffusers
    return {name: partial(done_once, make) for name, make in makers.items()}


@click.command(help=__doc__)
@click.option(
    "--minutes", default=6.5, show_default=True,
    help="After which no row is begun, nor before it a compiled one that would last longer.",
)  # fmt: skip
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Some of them.")
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), help="Where tables go.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", hidden=True)
@click.option("--short", is_flag=True, hidden=True)
def main(minutes: float, parts: str, out: Path, device: str, short: bool) -> None:
    chosen = parts.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        raise click.UsageError(f"expected --parts among {','.join(PARTS)}, got {unknown[0]}")
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("this PyTorch sees no CUDA GPU, which is what is measured here")
    scale = SMALL if short else Scale()
    bench = Bench(scale._replace(device=device), minutes, out)
    nets = cache(lambda: gpu_step.networks(bench))
    work: dict[str, Callable[[], None]] = {
        "limits": lambda: limits(bench),  # which the profile is compared with
        "step": lambda: gpu_step.eager(bench, nets()),
        "kernels": lambda: profile(bench, nets()),
        "memory": lambda: memory(bench),
        "sampling": lambda: sampling(bench, nets()),
        "compiled": lambda: gpu_step.compiled(bench, nets()),
    }

    def part(name: str) -> None:
        try:
            work[name]()
        finally:
            bench.clear()

    wanted = [name for name in work if name == "limits" or name in chosen]
    _, faults = tried({name: partial(part, name) for name in wanted})
    if faults:
        raise click.ClickException("; ".join(f"{name} {why}" for name, why in faults.items()))


if __name__ == "__main__":
    main()
