"""What does sampling cost beyond its network, and beside other loops around the same network?

DDIM in this library, plain and guided, in the loop of diffusers' DDIMPipeline (its DDIMScheduler
around our network), and in the reference implementation's `p_sample` if ``--reference`` gives a
checkout of it; all in turn within one run. The overhead is timed on its own: the same run with a
network that costs nothing.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, write_table
from vfn.configs import Config, SampleConfig
from vfn.data import Labels
from vfn.model import DataShape
from vfn.nn import UNet
from vfn.ops import keyed_normal, logsnr_schedule
from vfn.sampling import Draws, Trained, of_each
from vfn.streams import Stream

CLASSES, CHANNELS = 10, 3


def free(net: nn.Module) -> nn.Module:
    """The network with all its parameters, and no work: it answers with its first input."""
    answers: dict[torch.Size, Tensor] = {}
    idle = copy.deepcopy(net)
    idle.forward = lambda z, _t, _y: answers.setdefault(z.shape, z.clone())
    return idle


def ours(net: nn.Module, labels: Tensor, size: int, steps: int, w: float) -> Callable[[], object]:
    """A batch as `vfn sample` draws it, noise and rounding included."""
    shape = DataShape(CHANNELS, size, size, Labels(tuple("0123456789")))
    settings = SampleConfig(
        sampler="ddim", sample_timesteps=steps, sample_batch=len(labels), guidance=w
    )
    params = dict(net.named_parameters())
    trained = Trained(net, params, Config(), shape, torch.device("cpu"))
    draws = Draws(trained, settings, of_each(labels, shape.legend), len(labels))
    return lambda: draws.batch(torch.arange(len(labels)))


def network_alone(net: nn.Module, z: Tensor, labels: Tensor, steps: int) -> Callable[[], None]:
    t = torch.full((len(z),), 0.5)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                net(z, t, labels)

    return run


def diffusers_loop(net: nn.Module, z: Tensor, labels: Tensor, steps: int) -> Callable[[], Tensor]:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=True
    )

    def run() -> Tensor:
        scheduler.set_timesteps(steps)
        image = torch.randn_like(z)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                out = net(image, (t / 1000).to(z.device).expand(len(z)), labels)
                image = scheduler.step(out, t, image).prev_sample
            return (image / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)

    return run


def reference_loop(
    net: nn.Module, checkout: str, z: Tensor, labels: Tensor, steps: int, w: float
) -> Callable[[], object]:
    sys.path.insert(0, checkout)
    from v_diffusion.diffusion import GaussianDiffusion

    process = GaussianDiffusion(
        logsnr_schedule("cosine").logsnr, steps, "v", "fixed_small", "constant", "mse", w_guide=w
    )
    return lambda: process.p_sample(
        lambda z, t, y: net(z, t.float(), y), tuple(z.shape), label=labels, seed=0, use_ddim=True
    )


@click.command()
@click.option("--reference", "checkout", default="", help="Checkout of the reference.")
@click.option("--hid", default=64, help="Base width.")
@click.option("--batch", default=64)
@click.option("--size", default=32)
@click.option("--steps", default=50, help="Of the runs that tell the overhead.")
@click.option("--peer-steps", default=5, help="Of the runs beside other loops.")
@click.option("--rounds", default=3)
def main(
    checkout: str, hid: int, batch: int, size: int, steps: int, peer_steps: int, rounds: int
) -> None:
    torch.manual_seed(0)
    net = UNet(CHANNELS, CHANNELS, hid, (1, 2, 2), 2, (False, True, True), num_classes=CLASSES)
    net.eval().requires_grad_(False)
    labels = torch.arange(batch) % CLASSES + 1
    z = keyed_normal(0, Stream.SAMPLE, torch.arange(batch), (CHANNELS, size, size))
    alone: dict[str, Callable[[], object]] = {
        "network alone": network_alone(net, z, labels, steps),
        "everything but the network": ours(free(net), labels, size, steps, 0.0),
        "vfn": ours(net, labels, size, steps, 0.0),
    }
    beside: dict[str, Callable[[], object]] = {
        "vfn": ours(net, labels, size, peer_steps, 0.0),
        "vfn, guided": ours(net, labels, size, peer_steps, 1.0),
        "loop of diffusers": diffusers_loop(net, z, labels, peer_steps),
    }
    if checkout:
        for name, w in (("reference", 0.0), ("reference, guided", 1.0)):
            root = str(Path(checkout).resolve())
            beside[name] = reference_loop(net, root, z, labels, peer_steps, w)
    rows = []
    for parts, count in ((alone, steps), (beside, peer_steps)):
        seconds = interleaved(parts, rounds)
        rows += [
            [name, f"{count}", f"{1e3 * s / count:.1f}", f"{s / seconds['vfn']:.4f}"]
            for name, s in seconds.items()
        ]
    title = f"DDIM, [{batch}, {CHANNELS}, {size}, {size}], hid {hid}"
    write_table("sampling", title, ["what", "steps", "ms / step", "time / vfn"], rows, NOTE)


NOTE = """\
All loops call the same network with the same weights. "everything but the network" is the run of
vfn around a network that costs nothing: parameters put in place, keyed noise, schedule,
conversions, steps, rounding.
Guided runs call the network with a doubled batch."""


if __name__ == "__main__":
    main()
