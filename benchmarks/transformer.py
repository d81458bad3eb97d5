"""How fast is the transformer, beside diffusers' DiTTransformer2DModel of the same shape?

Both are timed in turn within one run, in seconds of this process on its cores, so that what else a
machine does counts less. ``compiled`` is torch.compile's of either.

python -m benchmarks.transformer
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import click
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from benchmarks.common import interleaved, write_table
from vfn.nn import Transformer

CLASSES = 10


class Case(NamedTuple):
    """A shape of network and batch."""

    batch: int
    size: int
    patch: int
    width: int
    depth: int
    heads: int

    def __str__(self) -> str:
        return (
            f"[{self.batch}, 3, {self.size}, {self.size}], patch {self.patch}, width {self.width}, "
            f"{self.depth} blocks, {self.heads} heads"
        )


CASES = [Case(16, 32, 2, 256, 6, 4), Case(16, 32, 4, 384, 4, 6), Case(64, 8, 2, 128, 4, 4)]


Network = Callable[..., Tensor]  # of z, t and y


def networks(case: Case, compiled: bool) -> dict[str, Network]:
    """Ours and theirs as functions of z, t and y."""
    ours = Transformer(3, 3, case.patch, case.width, case.depth, case.heads, num_classes=CLASSES)
    theirs = DiTTransformer2DModel(
        num_attention_heads=case.heads,
        attention_head_dim=case.width // case.heads,
        in_channels=3,
        num_layers=case.depth,
        sample_size=case.size,
        patch_size=case.patch,
        num_embeds_ada_norm=CLASSES + 1,
    )
    if compiled:
        ours.compile()
        theirs.compile()
    return {
        "vfn": ours,
        "diffusers": lambda z, t, y: theirs(z, timestep=1000 * t, class_labels=y).sample,
    }


@click.command()
@click.option("--rounds", default=11)
@click.option("--threads", default=1)
@click.option("--compiled/--eager", default=True, help="also torch.compile's")
def main(rounds: int, threads: int, compiled: bool) -> None:
    torch.set_num_threads(threads)
    rows = []
    for case in CASES:
        z = torch.randn(case.batch, 3, case.size, case.size)
        t, y = torch.rand(case.batch), torch.randint(1, CLASSES + 1, (case.batch,))
        for mode in ("eager", "compiled")[: 1 + compiled]:
            nets = networks(case, mode == "compiled")

            def both(net: Network, *inputs: Tensor) -> None:
                net(*inputs).square().mean().backward()

            def forward(net: Network, *inputs: Tensor) -> None:
                with torch.no_grad():
                    net(*inputs)

            for what, run in (("forward", forward), ("forward and backward", both)):
                parts = {name: partial(run, net, z, t, y) for name, net in nets.items()}
                found = interleaved(parts, rounds, time.process_time)
                for name, value in found.items():
                    ratio = value / found["vfn"]
                    rows.append(
                        [str(case), mode, what, name, f"{1000 * value:.0f}", f"{ratio:.2f}"]
                    )
    head = ["shape", "mode", "what", "network", "ms of the process", "time / vfn"]
    write_table("transformer_cpu", "The transformer and diffusers' of its shape", head, rows)


if __name__ == "__main__":
    main()
