"""Pictures that are asked of a network: picture i of a seed depends on nothing but (seed, i)."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vfn import __version__
from vfn.configs import SampleConfig
from vfn.data import to_uint8
from vfn.distributed import World, gather, largest, share
from vfn.model import autocast, sampler_of, schedule_of, strength_of
from vfn.ops import keyed_normal, sampling_grid
from vfn.progress import Progress
from vfn.sampling.asked import Asked
from vfn.streams import Stream

if TYPE_CHECKING:
    from vfn.sampling.trained import Trained

# Called as watch(i, z, x0) with the state before step i of a batch and the prediction there.
Watch = Callable[[int, Tensor, Tensor], None]


class Drawn(NamedTuple):
    """Pictures that were drawn.

    images: uint8 [N, C, H, W] on the CPU. labels: what was asked of each, as text; none for an
    unconditional network. classes: the same as the network takes it, [N] or [N, K]. nfe: number of
    evaluations of the network for a picture, the most of all batches.
    """

    images: Tensor
    labels: list[str]
    classes: Tensor
    nfe: int

    def pil(self) -> list[Image.Image]:
        """The pictures as PIL has them, grey or RGB."""
        arrays = self.images.movedim(1, -1).numpy()
        return [Image.fromarray(np.ascontiguousarray(a[..., 0] if a.shape[-1] == 1 else a))
                for a in arrays]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Draws:
    """``num`` pictures that are asked of a network, and drawn when they are wanted.

    trained: the network. settings: of sampling, checked against the network. asked: labels, in
    turn. num: how many pictures. seed: of the noise.

    >>> from vfn.sampling import untrained
    >>> draws = untrained("digits").draws(5, steps=2, batch=3)
    >>> [len(drawn.images) for drawn in draws.batches()]
    [3, 2]
    >>> torch.equal(draws.batch(torch.tensor([4])).images[0], draws.all().images[4])
    True
    """

    trained: "Trained"
    settings: SampleConfig
    asked: Asked
    num: int
    seed: int = 0

    def batch(self, indices: Tensor, watch: Watch | None = None) -> Drawn:
        """Some of the pictures, in one batch.

        Args:
            indices: numbers of pictures [N]; they need not be below ``num``.
            watch: called as ``watch(i, z, x0)`` before each step.

        Returns:
            Drawn.

        Raises:
            ValueError: if a label is none of the network's; before the first step.
        """
        trained, settings = self.trained, self.settings
        classes = self.asked.of(indices)
        keys, size = indices.to(trained.device), trained.shape.size

        def noise(i: int) -> Tensor:
            return keyed_normal(self.seed, Stream.SAMPLE + 1 + i, keys, size)

        with torch.inference_mode(), autocast(trained.precision, trained.device):
            denoise = trained.denoiser(
                classes if trained.shape.legend.names else None,
                strength_of(settings),
                rescale=settings.guidance_rescale,
                variance=settings.uses_variance,
            )
            start = keyed_normal(self.seed, Stream.SAMPLE, keys, size)
            drawn = self._sampler(denoise, start, self._grid, noise=noise, callback=watch)
            images = to_uint8(drawn.x0).cpu()
        return Drawn(images, self.asked.texts(indices), classes, drawn.nfe)

    def batches(self, indices: Tensor | None = None, watch: Watch | None = None) -> Iterator[Drawn]:
        """The pictures, ``settings.sample_batch`` at a time.

        Args:
            indices: which of them; all if None.
            watch: called as ``watch(i, z, x0)`` before each step of each batch.

        Yields:
            Drawn.
        """
        every = torch.arange(self.num) if indices is None else indices
        for some in every.split(self.settings.sample_batch):
            yield self.batch(some, watch)

    def all(self, indices: Tensor | None = None, watch: Watch | None = None) -> Drawn:
        """The pictures together, with a bar while they are drawn.

        Args:
            indices: which of them; all if None.
            watch: called as ``watch(i, z, x0)`` before each step of each batch.

        Returns:
            Drawn.
        """
        parts: list[Drawn] = []
        total = self.num if indices is None else len(indices)
        with Progress(total, "picture") as progress:
            for part in self.batches(indices, watch):
                parts.append(part)
                progress.advance(len(part.images))
        return joined(parts)

    def by_all(self, world: World, watch: Watch | None = None) -> Drawn:
        """The pictures, drawn by all processes together; every one of them has to call this.

        Args:
            world: the processes.
            watch: called as ``watch(i, z, x0)`` before each step of each batch.

        Returns:
            Drawn, the same on every process.
        """
        mine = self.all(share(self.num, world), watch)
        every = torch.arange(self.num)
        images = gather(mine.images, self.num, world)
        nfe = largest(mine.nfe, world)
        return Drawn(images, self.asked.texts(every), self.asked.of(every), nfe)

    def record(self) -> dict[str, Any]:
        """All that the pictures depend on, as JSON can hold it; the batch is not among it."""
        values = {
            "seed": self.seed,
            "num": self.num,
            "labels": self.asked.names,
            "step": self.trained.step,
            "parameters": "ema" if self.trained.averaged else "raw",
            "sha256": self.trained.digest,
            "precision": self.trained.precision,
            "version": __version__,
            **asdict(self.settings),
        }
        del values["sample_batch"]
        record: dict[str, Any] = json.loads(json.dumps(values))
        return record

    @cached_property
    def _grid(self) -> Tensor:
        schedule = schedule_of(self.trained.config.diffusion)
        steps = self.settings.sample_timesteps
        return sampling_grid(self.settings.grid, schedule, steps, self.trained.device)

    @cached_property
    def _sampler(self) -> Any:
        return sampler_of(self.settings)


def joined(parts: list[Drawn]) -> Drawn:
    """Several batches as one.

    Args:
        parts: at least one.

    Returns:
        Drawn.

    >>> part = Drawn(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), ["7"], torch.tensor([8]), nfe=4)
    >>> joined([part, part]).labels
    ['7', '7']
    """
    images, labels, classes, nfe = zip(*parts, strict=True)
    return Drawn(
        torch.cat(images), [text for some in labels for text in some], torch.cat(classes), max(nfe)
    )
