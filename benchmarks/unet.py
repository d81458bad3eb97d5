"""How fast is the UNet on a CPU, beside the reference's, diffusers' and its own bare products?

All networks of one shape are timed in turn within one run. The bound is the convolutions, matrix
products and attention of our network alone, on tensors of the same shapes and memory formats.
The reference implementation takes part if ``--reference`` gives a checkout of it; its network then
has the same weights, and the outputs are compared first.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import interleaved, write_table
from vfn.interop import params_from_reference
from vfn.interop.diffusers_network import config_for_diffusers, params_to_diffusers
from vfn.nn import UNet
from vfn.ops import ema_update_
from vfn.train.optimizers import clip_and_step

CLASSES = 10


class Case(NamedTuple):
    """A shape of network and batch: three levels, attention at all but the first."""

    hid: int
    blocks: int
    batch: int
    rounds: int
    size: int = 32
    published: bool = False  # no attention after resampling, as in other networks of this kind

    def __str__(self) -> str:
        shape = f"[{self.batch}, 3, {self.size}, {self.size}]"
        return f"hid {self.hid}, {self.blocks} blocks, {shape}{', published' * self.published}"


CASES = [Case(64, 3, 16, 15), Case(256, 3, 2, 15)]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]
Cast = Callable[[], AbstractContextManager[Any]]  # to the precision of the products
UNSCALED = torch.amp.GradScaler(enabled=False)  # passes everything on


class Record(TorchFunctionMode):
    """Keeps the products that a network computes, as calls that can be made again."""

    PRODUCTS = (F.conv2d, F.linear, F.scaled_dot_product_attention)

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.PRODUCTS:
            named = {name: fresh(value) for name, value in kwargs.items()}
            self.calls.append((as_now(func), [fresh(value) for value in args], named))
        return func(*args, **kwargs)


def as_now(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function outside of autocast where it is now, as attention is in half precision."""
    return func if torch.is_autocast_enabled("cpu") else torch.autocast("cpu", enabled=False)(func)


def fresh(value: Any) -> Any:
    """Other numbers in the place of a tensor's."""
    if not isinstance(value, Tensor):
        return value
    return torch.randn_like(value).requires_grad_(value.is_floating_point())


def ours(case: Case) -> UNet:
    attention = (False, True, True)
    net = UNet(
        3,
        3,
        case.hid,
        (1, 1, 1),
        case.blocks,
        attention,
        num_classes=CLASSES,
        attend_after_resampling=not case.published,
    )
    with torch.no_grad():  # layers that start at zero would hide a wrong map of names
        for weight in net.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return net


def reference(case: Case, checkout: str, net: UNet) -> nn.Module:
    """The reference's network; its weights go into ours."""
    sys.path.insert(0, checkout)
    from v_diffusion.models.unet import UNet as ReferenceUNet

    attention = [False, True, True]
    theirs = ReferenceUNet(3, case.hid, 3, [1, 1, 1], case.blocks, attention, num_classes=CLASSES)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    net.load_state_dict(params_from_reference(theirs.state_dict(), net))
    return theirs


class Diffusers(nn.Module):
    """diffusers' network of the same function, with the weights of ours."""

    def __init__(self, case: Case, net: UNet) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.net = UNet2DModel(**config_for_diffusers(net, (case.size, case.size)))
        self.net.load_state_dict(params_to_diffusers(dict(net.named_parameters()), net))

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.net(z, 1000 * t, y).sample


def forward(net: Network, inputs: tuple[Tensor, ...], cast: Cast) -> Callable[[], object]:
    def run() -> Tensor:
        with torch.inference_mode(), cast():
            return net(*inputs)

    return run


def backward(net: nn.Module, inputs: tuple[Tensor, ...], cast: Cast) -> Callable[[], None]:
    def run() -> None:
        with cast():
            loss = net(*inputs).square().mean()
        loss.backward()

    return run


def without_gradients(net: nn.Module, run: Callable[[], None]) -> Callable[[], object]:
    def cleared() -> None:
        run()
        net.zero_grad()

    return cleared


def training_step(
    name: str,
    net: nn.Module,
    run: Callable[[], None],
    scaler: torch.amp.GradScaler = UNSCALED,
) -> Callable[[], object]:
    """Gradients, clipping, AdamW and the average of the parameters, as each project has them."""
    params = dict(net.named_parameters())
    optimizer = torch.optim.AdamW(params.values(), lr=1e-6, fused=name == "vfn" or None)
    if name == "vfn":
        average = {k: p.detach().clone() for k, p in params.items()}

        def update() -> None:
            ema_update_(average, params, 0.9999)
    elif name == "reference":
        from v_diffusion.utils import EMA

        update = EMA(net, decay=0.9999).update
    else:
        from diffusers.training_utils import EMAModel

        ema = EMAModel(params.values(), decay=0.9999)

        def update() -> None:
            ema.step(params.values())

    def step() -> None:
        run()
        if name == "vfn":
            clip_and_step(optimizer, params.values(), 1.0)
        else:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(params.values(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        update()

    return step


def products(net: UNet, inputs: tuple[Tensor, ...], cast: Cast) -> dict[str, Callable[[], None]]:
    """The bound: forward alone, and with the gradients of all inputs of each product."""
    with Record() as record, cast(), torch.no_grad():
        net(*inputs)

    def run_forward() -> None:
        with torch.inference_mode(), cast():
            for func, args, named in record.calls:
                func(*args, **named)

    def run_backward() -> None:
        for func, args, named in record.calls:
            with cast():
                out = func(*args, **named)
            wanted = [a for a in (*args, *named.values()) if isinstance(a, Tensor)]
            torch.autograd.grad(out, wanted, out)

    return {"forward": run_forward, "forward and backward": run_backward}


def peak_memory(run: Callable[[], object]) -> float:
    """MiB above what is held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def rows_of(case: Case, dtype: str, compiled: bool, checkout: str) -> Iterator[list[str]]:
    torch.manual_seed(0)
    net = ours(case)
    others: dict[str, nn.Module] = {}
    if checkout and not case.published:
        others["reference"] = reference(case, checkout, net)
    if case.published:
        others["diffusers"] = Diffusers(case, net)
    nets: dict[str, nn.Module] = {"vfn": net, **others}
    z = torch.randn(case.batch, 3, case.size, case.size)
    t = torch.rand(case.batch)
    y = torch.randint(1, CLASSES + 1, (case.batch,))
    inputs = (z, t, y)
    if dtype == "float32":
        with torch.no_grad():
            for other in others.values():
                torch.testing.assert_close(net(*inputs), other(*inputs), rtol=0, atol=1e-4)

    def cast() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else nullcontext()

    parts, bound = {}, products(net, inputs, cast)
    for name, each in nets.items():
        called: nn.Module = torch.compile(each) if compiled else each  # type: ignore[assignment]
        parts[f"forward, {name}"] = forward(called, inputs, cast)
        gradients = backward(called, inputs, cast)
        parts[f"forward and backward, {name}"] = without_gradients(each, gradients)
        parts[f"training step, {name}"] = training_step(name, each, gradients)
    for name, run in bound.items():
        parts[f"{name}, bound"] = run
    seconds = interleaved(parts, case.rounds)
    for kind in (*bound, "training step"):
        least = seconds.get(f"{kind}, bound")
        own = seconds[f"{kind}, vfn"]
        for name in nets:
            time = seconds[f"{kind}, {name}"]
            yield [
                str(case),
                f"{dtype}, {'compiled' if compiled else 'eager'}",
                kind,
                name,
                f"{1e3 * time:.0f}",
                f"{time / own:.2f}",
                f"{time / least:.2f}" if least else "",
                f"{case.batch / time:.1f}",
                f"{peak_memory(parts[f'{kind}, {name}']):.0f}",
            ]


@click.command()
@click.option("--reference", "checkout", default="", help="Checkout of the reference.")
@click.option("--dtype", "dtypes", multiple=True, default=["float32", "bf16"])
@click.option("--eager-only", is_flag=True, help="Leave out torch.compile (first shape).")
def main(checkout: str, dtypes: tuple[str, ...], eager_only: bool) -> None:
    rows = [
        row
        for shape in CASES
        for case in (shape, shape._replace(published=True))
        for dtype in dtypes
        for compiled in ([False] if eager_only or case != CASES[0] else [False, True])
        for row in rows_of(case, dtype, compiled, str(Path(checkout)) if checkout else "")
    ]
    head = ["shape", "mode", "what", "network", "ms", "time / vfn", "time / bound"]
    head += ["images/s", "peak MiB"]
    write_table("unet_cpu", "The UNet and others of its shape", head, rows, NOTE)


NOTE = """\
bound: convolutions, matrix products and attention of our network alone, eager, same mode.
time / vfn above 1: slower than ours. reference, diffusers: the same weights, outputs equal to 1e-4.
published: no attention after resampling, which UNet2DModel of diffusers cannot have, nor the
reference be without.
training step: forward and backward, gradient clipping, AdamW, average of the parameters; ours has
AdamW fused, with the clipping in it, others torch's default, as their scripts have. Inside ours is
channels_last, others are as they are made."""


if __name__ == "__main__":
    main()
