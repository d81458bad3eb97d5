"""A step of training in each mode, eager and compiled, of this library's networks and of others."""

import importlib
import os
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.card import (
    NO_TIME,
    PRESET,
    Bench,
    in_mode,
    mib,
    precision_of,
    products_of,
    reason,
    synchronised,
    tried,
)
from benchmarks.unet import training_step
from vfn.configs import Config, override
from vfn.interop import params_from_reference
from vfn.interop.diffusers_network import config_for_diffusers, params_to_diffusers
from vfn.model import autocast, build_model
from vfn.nn import UNet
from vfn.objective import Batch, batch_loss
from vfn.train.state import init_state, train_step

CHECKOUT = os.environ.get("VFN_REFERENCE", "")
OURS, OTHER = "vfn", "vfn, no attention after resampling"
SAME_FUNCTION = {OTHER: OTHER, "diffusers": OTHER}  # else OURS
GRAPHS = "reduce-overhead"  # torch.compile's word for CUDA graphs
WITH_GRAPHS = "compiled, CUDA graphs"
DIFFER = 1e-4  # at most, relative to the largest output, float32
HEAD = ["network", "mode", "kind", "ms a step", "images/s", "time / vfn", "peak MiB of a step",
        "first step, s"]  # fmt: skip
NOTE = f"""\
A step is the preset's, of a batch that is on the device: both passes of the loss with dropout,
gradient clipping, AdamW and the average of the parameters, each as its project has them; the loss
is ours for all. {OTHER}: the preset with
attend_after_resampling = false, the function that UNet2DModel of diffusers can be; the reference
is the function of the preset itself. Outputs were equal to {DIFFER:g} before the clock ran.
time / vfn: against ours of the same function, mode and kind; above 1 is slower than ours. Peak:
beside parameters, moments and averages; of CUDA graphs it is not told, for a replay takes nothing:
what lies between both passes was taken once, when they were captured. tf32: float32 with 10-bit
mantissas in products; bf16, fp16: autocast, the latter with a scaled loss, which torch's GradScaler
scales for others. compiled: torch.compile; CUDA graphs: its mode {GRAPHS}, which a caller of
train_step can give it. Steps are timed in turn, but compiled ones each by itself, after it was
compiled: between them a card may have changed its clock. first step: with what is compiled or
chosen in it."""


class Network(NamedTuple):
    """A network, how it is called, and its configuration."""

    module: nn.Module
    call: Callable[..., Tensor]
    config: Config


class Foreign(nn.Module):
    """A network of others, called as ours: the output has the dtype of z under autocast too."""

    def __init__(self, net: nn.Module, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        # As ours are: half precision would have to change the layout for each product.
        self.net, self.told = net.to(memory_format=torch.channels_last), forward

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.told(self.net, z, t, y).to(z.dtype)


def diffusers(ours: UNet, bench: Bench) -> nn.Module:
    """UNet2DModel with the weights of a network of ours."""
    from diffusers import UNet2DModel

    net = UNet2DModel(**config_for_diffusers(ours, bench.shape.size[1:]))
    net.load_state_dict(params_to_diffusers(dict(ours.named_parameters()), ours))
    return Foreign(net, lambda net, z, t, y: net(z, 1000 * t.float(), y).sample)


def reference(ours: UNet, bench: Bench) -> nn.Module:
    """The reference implementation's network; its weights go into ours."""
    if "v_diffusion" not in sys.modules:
        sys.path.insert(0, CHECKOUT)
        package = types.ModuleType("v_diffusion")  # whose own start needs more than torch
        package.__path__ = [str(Path(CHECKOUT) / "v_diffusion")]
        sys.modules["v_diffusion"] = package
    model = bench.config().model
    net: nn.Module = importlib.import_module("v_diffusion.models.unet").UNet(
        in_channels=3, hid_channels=model.hid_channels, out_channels=3,
        ch_multipliers=list(model.ch_multipliers), num_res_blocks=model.num_res_blocks,
        apply_attn=list(model.apply_attn), drop_rate=model.dropout, num_classes=10,
    )  # fmt: skip
    stir(net)
    ours.load_state_dict(params_from_reference(net.state_dict(), ours))
    return Foreign(net, lambda net, z, t, y: net(z, t, y.clone()))  # it changes labels in place


@torch.no_grad()
def stir(net: nn.Module) -> None:
    """None of its layers is zero then, which would hide a wrong map of names."""
    for weight in net.parameters():
        weight.add_(0.02 * torch.randn_like(weight))


def our_unet(config: Config, bench: Bench) -> UNet:
    with torch.device(bench.device):
        net = build_model(config, bench.shape)
    assert isinstance(net, UNet)
    stir(net)
    return net


@torch.no_grad()
def check_equal(ours: nn.Module, theirs: nn.Module, bench: Bench) -> None:
    """Refuse a network that is not the same function."""
    z, t = torch.randn(2, *bench.shape.size), torch.tensor([0.3, 0.7])
    given = [value.to(bench.device) for value in (z, t, torch.tensor([0, 7]))]
    with in_mode("fp32", bench.device):
        mine, other = (net.eval()(*given) for net in (ours, theirs))
    gap = ((mine - other).abs().max() / mine.abs().max()).item()
    if not gap <= DIFFER:
        raise ValueError(f"outputs differ by {gap:.1e}")


def networks(bench: Bench) -> dict[str, Network | str]:
    """Ours, and others beside ours of the same function; or why one is not there."""
    torch.manual_seed(0)
    configs = {OURS: bench.config(), OTHER: bench.config(attend_after_resampling=False)}
    ours = {name: our_unet(each, bench) for name, each in configs.items()}
    found: dict[str, Network | str] = {
        name: Network(net, net, configs[name]) for name, net in ours.items()
    }
    for name, make in {
        "diffusers": diffusers,
        **({"reference": reference} if CHECKOUT else {}),
    }.items():
        like = SAME_FUNCTION.get(name, OURS)
        try:
            with torch.device(bench.device):
                theirs = make(ours[like], bench)
            check_equal(ours[like], theirs, bench)
            found[name] = Network(theirs, theirs, configs[like])
        except Exception as error:
            found[name] = reason(error)
    return found


def step_of(name: str, network: Network, mode: str, batch: Batch) -> Callable[[], object]:
    """A whole step: both passes of the preset's loss, clipping, AdamW and the average."""
    network.module.train()
    precision, device = precision_of(mode), batch.x0.device.type
    if name in (OURS, OTHER):
        config = override(network.config, {"precision": precision})
        state = init_state(network.module, config.train)

        def ours() -> None:
            with in_mode(products_of(mode), device):
                train_step(state, network.call, [batch], config)

        return ours

    scaler = torch.amp.GradScaler(device, enabled=mode == "fp16")

    def passes() -> None:
        with in_mode(products_of(mode), device):
            with autocast(precision, batch.x0.device):
                loss = batch_loss(network.call, batch, network.config.diffusion).mean()
            scaler.scale(loss).backward()

    inner = network.module.net if isinstance(network.module, Foreign) else network.module
    return training_step(name, inner, passes, scaler)


def first_call(part: Callable[[], object], bench: Bench) -> float:
    """Seconds of the first time."""
    start = time.perf_counter()
    synchronised(part, bench.device)()
    return time.perf_counter() - start


def without_figures(name: str, mode: str, kind: str, why: str) -> list[str]:
    return [name, mode, kind, why, *[""] * (len(HEAD) - 4)]


class Timed(NamedTuple):
    """A step that was prepared: how, how long the first took, and its peak."""

    step: Callable[[], object]
    first: float
    peak: float | None


def prepared(name: str, network: Network, mode: str, batch: Batch, bench: Bench) -> Timed:
    part = step_of(name, network, mode, batch)
    first = first_call(part, bench)
    part()  # the first has made the optimizer's moments
    return Timed(part, first, bench.peak(part))


def cells(
    name: str, mode: str, kind: str, timed: Timed, seconds: float, own: float | None, bench: Bench
) -> list[str]:
    ratio = f"{seconds / own:.2f}" if own else ""
    rate = f"{bench.scale.batch / seconds:.0f}"
    ms, first = f"{1e3 * seconds:.1f}", f"{timed.first:.1f}"
    return [name, mode, kind, ms, rate, ratio, mib(timed.peak), first]


def eager(bench: Bench, nets: dict[str, Network | str]) -> None:
    """Each network in each mode, in turn; and what making the batch costs beside it."""
    batch, rows = bench.batch(bench.scale.batch), []
    title = f"Training step, preset {PRESET}, {bench.scale.batch} pictures"
    for mode in bench.scale.modes:
        if bench.left < 20:
            rows.append(without_figures("all", mode, "eager", NO_TIME))
            continue
        try:
            rows += eager_rows(bench, nets, mode, batch)
        except Exception as error:
            rows.append(without_figures("all", mode, "eager", reason(error)))
        bench.table("step", title, HEAD, rows, NOTE, show=False)
    data = bench.pictures(bench.scale.batch)
    seconds = bench.seconds({"": lambda: bench.batch(bench.scale.batch, data)})[""]
    figures = [f"{1e3 * seconds:.1f}", f"{bench.scale.batch / seconds:.0f}"]
    rows.append(["its batch, made beside it", "", "", *figures, "", "", ""])
    bench.table("step", title, HEAD, rows, NOTE)


def eager_rows(
    bench: Bench, nets: dict[str, Network | str], mode: str, batch: Batch
) -> list[list[str]]:
    ready, faults = tried({
        name: partial(prepared, name, network, mode, batch, bench)
        for name, network in nets.items()
        if isinstance(network, Network)
    })  # fmt: skip
    faults |= {name: why for name, why in nets.items() if isinstance(why, str)}
    seconds = bench.seconds({name: timed.step for name, timed in ready.items()})
    return [
        *(
            cells(name, mode, "eager", timed, seconds[name],
                  seconds.get(SAME_FUNCTION.get(name, OURS)), bench)
            for name, timed in ready.items()
        ),
        *(without_figures(name, mode, "eager", why) for name, why in faults.items()),
    ]  # fmt: skip


def compiled(bench: Bench, nets: dict[str, Network | str]) -> None:
    """The same compiled, the most wanted first, as many as there is time for."""
    batch, rows = bench.batch(bench.scale.batch), []
    title = f"Compiled training step, preset {PRESET}, {bench.scale.batch} pictures"
    asked = [(name, mode, "compiled") for mode in bench.scale.modes for name in nets]
    asked.insert(1, (OURS, bench.scale.modes[0], WITH_GRAPHS))
    own: dict[tuple[str, ...], float] = {}
    longest = bench.scale.compiling
    for name, mode, kind in asked:
        network, started = nets[name], time.perf_counter()
        if isinstance(network, str) or bench.left < longest:
            why = network if isinstance(network, str) else NO_TIME
            rows.append(without_figures(name, mode, kind, why))
            continue
        try:
            timed, seconds = compiled_step(bench, name, network, mode, kind, batch)
            own[name, mode, kind] = seconds
            like = own.get((SAME_FUNCTION.get(name, OURS), mode, kind))
            rows.append(cells(name, mode, kind, timed, seconds, like, bench))
        except Exception as error:
            rows.append(without_figures(name, mode, kind, reason(error)))
        longest = max(longest, 1.1 * (time.perf_counter() - started))
        bench.table("compiled", title, HEAD, rows, NOTE, show=False)
        bench.clear()
    bench.table("compiled", title, HEAD, rows, NOTE)


def compiled_step(
    bench: Bench, name: str, network: Network, mode: str, kind: str, batch: Batch
) -> tuple[Timed, float]:
    options: dict[str, Any] = {"backend": bench.scale.backend}
    if kind == WITH_GRAPHS and bench.scale.backend == "inductor":
        options["mode"] = GRAPHS
    call = torch.compile(network.module, **options)
    timed = prepared(name, network._replace(call=call), mode, batch, bench)
    if kind == WITH_GRAPHS:  # a replay takes no memory, see NOTE
        timed = timed._replace(peak=None)
    return timed, bench.seconds({name: timed.step})[name]
