"""Pictures that are asked of a network: picture i of a seed depends on nothing but (seed, i)."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vfn import __version__
from vfn.configs import SampleConfig
from vfn.distributed import World, gather, largest, share
from vfn.memory import in_memory
from vfn.model import (
    grid_of,
    rule_of,
    sampler_of,
    schedule_of,
    strength_of,
    weak_strength_of,
)
from vfn.ops import keyed_normal
from vfn.ops.solver_table import SOLVERS
from vfn.progress import Progress, say
from vfn.runs import digest
from vfn.sampling.asked import Asked
from vfn.streams import Stream

if TYPE_CHECKING:
    from vfn.sampling.trained import Trained

# Called as watch(i, z, x0) with the state before step i of a batch and the prediction there.
Watch = Callable[[int, Tensor, Tensor], None]


class Drawn(NamedTuple):
    """Pictures that were drawn.

    images: [N, C, H, W] on the CPU, uint8 or of the kind of the data's numbers. labels: what was
    asked of each, as text; none for an unconditional network. classes: the same as the network
    takes it, [N] or [N, K]. nfe: number of evaluations of the network for a picture, the most of
    all batches. finite: which of them [N] were finite before they were rounded, all if None; others
    are black or white somewhere.
    weak_nfe: number of evaluations of the weaker network beside those, 0 without one.
    """

    images: Tensor
    labels: list[str]
    classes: Tensor
    nfe: int
    finite: Tensor | None = None
    weak_nfe: int = 0

    @property
    def not_finite(self) -> int:
        """How many of the pictures were not finite before they were rounded."""
        return 0 if self.finite is None else int((~self.finite).sum())

    @property
    def fault(self) -> str:
        """What is wrong with the pictures that are not finite.

        Returns:
            a line for people, empty if all are finite.

        >>> black = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> Drawn(black, [], torch.zeros(2), 4, torch.tensor([True, False])).fault[:33]
        '1 of 2 pictures are not finite: t'
        """
        return fault_of(self.not_finite, len(self.images))

    def pil(self) -> list[Image.Image]:
        """The pictures as PIL has them, grey or RGB; other numbers have no such form."""
        if self.images.dtype != torch.uint8 or self.images.shape[1] not in (1, 3):
            raise ValueError(
                "expected 8-bit pictures, grey or RGB, got "
                f"{str(self.images.dtype).removeprefix('torch.')} of {self.images.shape[1]} "
                "channels; use images"
            )
        arrays = self.images.movedim(1, -1).numpy()
        return [Image.fromarray(np.ascontiguousarray(a[..., 0] if a.shape[-1] == 1 else a))
                for a in arrays]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Draws:
    """``num`` pictures that are asked of a network, and drawn when they are wanted.

    trained: the network. settings: of sampling, checked against the network. asked: labels, in
    turn. num: how many pictures. seed: of the noise. weak: what ``guide_with`` of the settings
    stands for, see `Trained.weaker`; None where nothing guides.

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
    weak: "Trained | None" = None

    def __repr__(self) -> str:
        """How many, of what, and how."""
        how = f"{self.settings.sampler}, {self.settings.sample_timesteps} steps"
        return f"Draws({self.num} of {self.trained!r}, {how}, guidance {self.settings.guidance:g})"

    def batch(self, indices: Tensor, watch: Watch | None = None) -> Drawn:
        """Some of the pictures, in one batch.

        Args:
            indices: numbers of pictures [N]; they need not be below ``num``.
            watch: called as ``watch(i, z, x0)`` before each step.

        Returns:
            Drawn.

        Raises:
            ValueError: if a label is none of the network's, before the first step; or if memory is
                not enough.
        """
        trained, settings = self.trained, self.settings
        classes = self.asked.of(indices)
        keys, size = indices.to(trained.device), trained.shape.size

        def noise(i: int) -> Tensor:
            return keyed_normal(self.seed, Stream.SAMPLE + 1 + i, keys, size)

        doing = f"drawing {len(indices)} pictures at once"
        remedy = "draw fewer at a time with --batch, in training with --sample-batch"
        with in_memory(doing, remedy), torch.inference_mode():
            denoise = trained.denoiser(
                classes if trained.shape.legend.names else None,
                strength_of(settings),
                self.weak,
                weak_strength_of(settings),
                self.asked.conditions_of(indices),
                clip=trained.shape.values.bounded,
                rescale=settings.guidance_rescale,
                variance=settings.uses_variance,
                rule=rule_of(settings),
                zero_until=self._zero_until,
            )
            start = keyed_normal(self.seed, Stream.SAMPLE, keys, size)
            drawn = self._sampler(denoise, start, self._grid, noise=noise, callback=watch)
            images = trained.shape.values.from_unit(drawn.x0).cpu()
            finite = drawn.x0.flatten(1).isfinite().all(1).cpu()
        weak_nfe = 0 if self.weak is None else drawn.nfe
        return Drawn(images, self.asked.texts(indices), classes, drawn.nfe, finite, weak_nfe)

    def batches(self, indices: Tensor | None = None, watch: Watch | None = None) -> Iterator[Drawn]:
        """The pictures, ``settings.sample_batch`` at a time.

        Args:
            indices: which of them; all if None.
            watch: called as ``watch(i, z, x0)`` before each step of each batch.

        Yields:
            Drawn.
        """
        every = torch.arange(self.num) if indices is None else indices
        faults = 0
        for some in every.split(self.settings.sample_batch):
            part = self.batch(some, watch)
            faults += part.not_finite
            yield part
        say_fault(faults, len(every))

    def all(self, indices: Tensor | None = None, watch: Watch | None = None) -> Drawn:
        """The pictures together, with a bar while they are drawn.

        Args:
            indices: which of them; all if None.
            watch: called as ``watch(i, z, x0)`` before each step of each batch.

        Returns:
            Drawn.
        """
        drawn = self._together(torch.arange(self.num) if indices is None else indices, watch)
        say_fault(drawn.not_finite, len(drawn.images))
        return drawn

    def _together(
        self,
        indices: Tensor,
        watch: Watch | None = None,
        shares: int = 1,
        title: str = "",
        strict: bool = False,
        check: Callable[[], None] | None = None,
    ) -> Drawn:
        batches, parts = indices.split(self.settings.sample_batch), []
        with DrawingBar(self, batches * shares, shares, title, check) as bar:
            for batch in batches:
                parts.append(bar.drawn(batch, watch))
                if strict and parts[-1].not_finite:
                    break
        return joined(parts)

    def by_all(
        self,
        world: World,
        check: Callable[[], None] | None = None,
        title: str = "",
        strict: bool = False,
    ) -> Drawn:
        """The pictures, drawn by all processes together; every one of them has to call this.

        Args:
            world: the processes.
            check: called by all processes as often, so that it may ask the others: before each
                step, or each batch where the solver chooses its steps and the processes differ.
                What it raises ends the drawing.
            title: what they are drawn for, or nothing.
            strict: refuse pictures that are not finite, at the first batch with any.

        Returns:
            Drawn, the same on every process.

        Raises:
            ValueError: for pictures that are not finite, with ``strict``.
        """
        rows = share(self.num, world)
        mine = self._together(rows, None, world.size, title, strict, check)
        fine = torch.ones(len(mine.images)).bool() if mine.finite is None else mine.finite
        if strict:
            self._check_finite(rows[: len(fine)], fine, world)
        every = torch.arange(self.num)
        images = gather(mine.images, self.num, world)
        nfe = largest(mine.nfe, world)
        finite = gather(fine.byte(), self.num, world).bool()
        say_fault(int((~finite).sum()), self.num, title)
        weak_nfe = 0 if self.weak is None else nfe
        return Drawn(images, self.asked.texts(every), self.asked.of(every), nfe, finite, weak_nfe)

    def _check_finite(self, rows: Tensor, fine: Tensor, world: World) -> None:
        """Refuse pictures of any process that are not finite; some are drawn by several."""
        found = torch.zeros(self.num, dtype=torch.uint8)
        found[rows] = 2 - fine.byte()
        found = gather(found[None], world.size, world).amax(0)
        if faults := int((found == 2).sum()):
            raise ValueError(
                f"expected finite pictures to judge, but {faults} of {int((found > 0).sum())} "
                "that the network drew are not; use another checkpoint, or less guidance"
            )

    def record(self) -> dict[str, Any]:
        """All that the pictures depend on, as JSON can hold it."""
        values = {
            "seed": self.seed,
            "num": self.num,
            "labels": self.asked.names,
            "step": self.trained.step,
            "parameters": "ema" if self.trained.averaged else "raw",
            "sha256": self.trained.digest,
            "precision": self.trained.precision,
            "version": __version__,
            **self.told(),
        }
        record: dict[str, Any] = json.loads(json.dumps(values))
        return record

    def told(self) -> dict[str, Any]:
        """The settings as records name them; by digests what guided, and is asked beside labels.

        The batch, on which no picture depends, is left out, a grid that times take the place of,
        and settings of guidance that are not in use, as in records of earlier versions.

        Returns:
            values by name.
        """
        values, weak = asdict(self.settings), self.weak
        unused = [
            "sample_batch",
            *(("grid",) if values["times"] else ()),
            *(("guide_with", "guide_weight") if weak is None else ()),
            *(("guidance_rule", "guidance_options") if values["guidance_rule"] == "plain" else ()),
            *(name for name in ("guidance_options", "zero_init", "times") if not values[name]),
        ]
        told = {name: value for name, value in values.items() if name not in unused}
        if weak is not None:
            told |= {"guide_step": weak.step, "guide_sha256": weak.digest}
        given = self.asked.conditions.keywords()
        return told | ({"condition_sha256": digest(given)} if given else {})

    @cached_property
    def _zero_until(self) -> float | None:
        """A level between the last of the first steps, in which nothing moves, and the next one."""
        first = self.settings.zero_init
        return float(self._grid[first - 1 : first + 1].mean()) if first else None

    @cached_property
    def _grid(self) -> Tensor:
        return grid_of(self.settings, schedule_of(self.trained.config.diffusion))

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
    images, labels, classes, nfe, _, weak_nfe = zip(*parts, strict=True)
    finite = [torch.ones(len(p.images)).bool() if p.finite is None else p.finite for p in parts]
    texts = [text for some in labels for text in some]
    together, numbers = torch.cat(images), torch.cat(classes)
    return Drawn(together, texts, numbers, max(nfe), torch.cat(finite), max(weak_nfe))


def fault_of(count: int, total: int) -> str:
    """What is to be said of pictures that were not finite; nothing if there are none.

    Args:
        count: how many of them.
        total: pictures in all.

    Returns:
        a line for people, or an empty text.

    >>> fault_of(0, 9)
    ''
    """
    if not count:
        return ""
    return (
        f"{count} of {total} pictures are not finite: the network gave no numbers (damaged or "
        "diverged parameters, or guidance too strong), and these pictures are black or white there"
    )


def say_fault(count: int, total: int, title: str = "") -> None:
    """Say `fault_of`, if there is anything to say, and what the pictures were drawn for."""
    if count:
        say(f"{title}: {fault_of(count, total)}" if title else fault_of(count, total))


class DrawingBar:
    """A bar over the network's evaluations while batches of pictures are drawn.

    Where a solver chooses the number of its evaluations itself, it counts pictures.

    Args:
        draws: what is drawn.
        batches: numbers of pictures, for each batch of all processes.
        shares: how many processes draw as many as this one.
        title: what they are drawn for; without it they are all that is done, and the bar stays.
        check: called as `Draws.by_all` says.

    >>> from vfn.sampling import untrained
    >>> draws = untrained("digits").draws(5, steps=2)
    >>> batch = torch.arange(5)
    >>> with DrawingBar(draws, [batch]) as bar:
    ...     len(bar.drawn(batch).images)
    5
    """

    def __init__(
        self,
        draws: Draws,
        batches: Sequence[Tensor],
        shares: int = 1,
        title: str = "",
        check: Callable[[], None] | None = None,
    ) -> None:
        self._draws, self._shares, self._done = draws, shares, 0
        self._whole, self._each = evaluations(draws.settings)
        in_step = self._whole > 0 or shares == 1
        self._check_step = check if in_step else None
        self._check_batch = None if in_step else check
        self._total = len(batches) * self._whole or sum(map(len, batches))
        unit = "evaluation" if self._whole else "picture"
        self._progress = Progress(self._total, unit, title, brief=bool(title))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()

    def drawn(self, indices: Tensor, watch: Watch | None = None) -> Drawn:
        """One more batch.

        Args:
            indices: numbers of its pictures.
            watch: called as ``watch(i, z, x0)`` before each step.

        Returns:
            Drawn.
        """

        def moving(i: int, z: Tensor, x0: Tensor) -> None:
            if self._check_step is not None:
                self._check_step()
            if self._whole:
                self._show(self._done + i * self._each)
            if watch is not None:
                watch(i, z, x0)

        if self._check_batch is not None:
            self._check_batch()
        part = self._draws.batch(indices, moving)
        self._done += self._whole or len(indices)
        self._show(self._done)
        return part

    def _show(self, done: int) -> None:
        self._progress.show(min(self._total, done * self._shares))


def evaluations(settings: SampleConfig) -> tuple[int, int]:
    """How many evaluations of the network a solver needs.

    Args:
        settings: of sampling.

    Returns:
        those of all steps, and those of one in the midst of them; zeros where the solver chooses
        them itself.

    >>> evaluations(SampleConfig(sampler="heun", sample_timesteps=9))
    (16, 2)
    >>> evaluations(SampleConfig(sampler="adaptive"))
    (0, 0)
    """
    if SOLVERS.find(settings.sampler).own_steps:
        return 0, 0
    if settings.uses_variance:  # one for each step of a posterior
        return settings.sample_timesteps, 1
    state, draw = torch.zeros(1, 1, dtype=torch.float64), sampler_of(settings)
    fewest = min(settings.sample_timesteps, 4)  # more steps only repeat those in the midst
    some, more = (
        draw(lambda z, _: z, state, torch.linspace(-9, 9, n + 1), noise=lambda _: state).nfe
        for n in (fewest, fewest + 1)
    )
    return some + (settings.sample_timesteps - fewest) * (more - some), more - some
