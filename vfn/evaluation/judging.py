"""Judge pictures against real ones: one plan, checked whole, then the work."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfn.data import Dataset, data_home
from vfn.data.resize import resized
from vfn.distributed import World, check_alike, from_first, processes, together
from vfn.evaluation.evaluating import computed, extracted, reason_of
from vfn.evaluation.extractors import Extractor
from vfn.evaluation.features import Kept, Statistics
from vfn.evaluation.needs import Content, needed
from vfn.evaluation.opening import Given, relabelled
from vfn.evaluation.planning import Plan, plan_evaluation
from vfn.evaluation.record import Evaluation, not_finite
from vfn.evaluation.shards import SHARDS, resumable
from vfn.evaluation.sides import Judged, Sides
from vfn.files import few, given_path
from vfn.memory import in_memory
from vfn.model import float32_products
from vfn.progress import say


@dataclass
class Judge:
    """`judge` of several sides against the same real pictures: what these cost is paid once.

    The extractor is opened for the first side, and features of real and held-out pictures that come
    again are kept. Fields are as `judge` has them.

    >>> judged = Judge("dataset:digits:test", ["fd"], device="cpu")
    >>> splits = [judged(f"dataset:digits:{split}") for split in ("train", "test")]
    >>> [round(found.figures[0].value, 2) for found in splits]
    [0.1, 0.0]
    """

    real: Given
    metrics: str | Sequence[str] = ("fd", "pr")
    held_out: Given | None = None
    features: str | Extractor = "pixels"
    weights: str | Path | None = None
    num: int = 1000
    bootstrap: int = 0
    image_size: int | Sequence[int] | None = None
    device: str = "auto"
    data_dir: str | None = None
    _extractor: Extractor | None = field(default=None, init=False)
    _kept: Kept = field(default_factory=Kept, init=False)

    @in_memory("judging", "judge fewer pictures (--num), or by fewer metrics")
    def __call__(self, fake: Given, seed: int = 0) -> Evaluation:
        """Judge a side.

        Args:
            fake: as `judge` has it.
            seed: likewise.

        Returns:
            Evaluation, on all processes.

        Raises:
            ValueError: for pictures, metrics, weights or checkpoints that do not fit.
        """
        with processes(self.device) as world:
            return carried_out(self.plan(fake, seed, world), world, self._kept)

    def plan(self, fake: Given, seed: int, world: World) -> Plan:
        """What is to be done for a side, checked; no picture is drawn, and nothing written.

        Args:
            fake: as `judge` has it.
            seed: likewise.
            world: the processes; all of them have to call this.

        Returns:
            Plan, the same on all of them.

        Raises:
            ValueError: for anything that the work would fail by.
        """
        first = self._extractor is None
        weights = given_path(self.weights) if first and self.weights is not None else None
        with together(world):
            plan = plan_evaluation(
                self.real, fake, self.metrics, world, held_out=self.held_out,
                features=self._extractor or self.features, weights=weights, num=self.num,
                seed=seed, bootstrap=self.bootstrap, image_size=self.image_size,
                device=self.device, data_dir=self.data_dir,
            )  # fmt: skip
        check_alike({"metrics": list(plan.metrics), **plan.settings}, world)
        self._extractor = plan.extractor
        return plan


def judge(
    real: Given,
    fake: Given,
    metrics: str | Sequence[str] = ("fd", "pr"),
    *,
    held_out: Given | None = None,
    features: str | Extractor = "pixels",
    weights: str | Path | None = None,
    num: int = 1000,
    seed: int = 0,
    bootstrap: int = 0,
    image_size: int | Sequence[int] | None = None,
    device: str = "auto",
    data_dir: str | None = None,
) -> Evaluation:
    """Judge pictures against real ones.

    Everything that the metrics need is checked before weights are read and before a picture is
    drawn. Under torchrun all processes share the drawing and the features. An extraction that was
    killed goes on.

    Args:
        real: ``dataset:NAME[:split]``, a folder (that of `vfn sample` too), an .npz of pictures or
            statistics, or a run, with or without ``run:``; a uint8 tensor [N, C, H, W], an array of
            that order or [N, H, W, C], a data set, what `Trained.sample` gives, or statistics; a
            loaded network, which draws ``num`` pictures as its run says, or
            `vfn.sampling.Draws`: exactly those.
        fake: the pictures to judge, given like the real ones.
        metrics: words of `METRICS`, or ``package.module:Name`` of a function of
            `vfn.evaluation.Judged`; ``usual`` stands for the usual ones that lack nothing, and a
            line says what is left out.
        held_out: real pictures never trained on; what the data set of ``real`` holds out if None.
        features: a word of `EXTRACTORS`, ``package.module:Name``, or an `Extractor`.
        weights: file of the features' network, as of `open_extractor`.
        num: pictures that are asked of a network, where it is given without.
        seed: of the noise, the order of the extrapolation and the bootstrap; of no reference.
        bootstrap: resampled sets for 95 % intervals; 0 for none.
        image_size: height and width, or one number, that pictures of other sizes are brought to,
            as torch-fidelity does.
        device: auto, cpu or cuda, where features are computed and runs are loaded.
        data_dir: where the data are; as the run says, ``$VFN_DATA`` or a cache if None.

    Returns:
        Evaluation, on all processes.

    Raises:
        ValueError: for pictures, metrics, weights or checkpoints that do not fit.

    >>> found = judge("dataset:digits", "dataset:digits:test", ["fd"], device="cpu")
    >>> found.figures[0].key, round(found.figures[0].value, 2)
    ('frechet_distance', 0.1)
    """
    alone = Judge(
        real, metrics, held_out, features, weights, num, bootstrap, image_size, device, data_dir
    )
    return alone(fake, seed)


def seen_by(plan: Plan, world: World, kept: Kept | None = None) -> Judged | None:
    """Draw and extract what a plan says.

    Args:
        plan: checked.
        world: the processes; all of them have to call this.
        kept: of its real and held-out sides, where they come again.

    Returns:
        Judged, what its metrics see; None on all processes but the first.

    Raises:
        ValueError: for pictures or features that are not finite.
    """
    real, fake = (_present(side.content, plan, world) for side in (plan.real, plan.fake))
    held_out = plan.held_out
    if held_out is not None:
        held_out = held_out._replace(images=resized(held_out.images, plan.size))
    named = "labels" in needed(plan.metrics.values())
    if named and isinstance(real, Dataset) and isinstance(fake, Dataset):
        fake = relabelled(fake, real.legend)
        held_out = relabelled(held_out, real.legend) if held_out else None
    sides = Sides(real, fake, held_out)
    folder = data_home(plan.data) / SHARDS
    with resumable(plan.extractor, folder, world.device) as extractor:
        judged = extracted(sides, plan.metrics, extractor, world, kept)
    if world.rank:
        return None
    return judged._replace(seed=plan.seed, bootstrap=plan.bootstrap, subject=plan.subject)


def carried_out(plan: Plan, world: World, kept: Kept | None = None) -> Evaluation:
    """Draw, extract and compute what a plan says.

    Args:
        plan: checked.
        world: the processes; all of them have to call this.
        kept: of its real and held-out sides, where they come again.

    Returns:
        Evaluation, on all processes.

    Raises:
        ValueError: for pictures or features that are not finite, or if no figure is.
    """
    judged = seen_by(plan, world, kept)
    return from_first(lambda: _evaluation(plan, judged), world)


def _evaluation(plan: Plan, judged: Judged | None) -> Evaluation:
    """The figures of what was seen, on the first process."""
    assert judged is not None
    faults: list[str] = []
    parts: dict[str, list[Any]] = {"figures": [], "loss_by_logsnr": [], "bits_per_dim": []}
    tf32 = plan.subject is not None and plan.subject.trained.config.train.tf32
    for word, metric in plan.metrics.items():
        with float32_products(tf32):
            each = computed(word, metric, judged)
        for found in each:
            if fault := not_finite([found]):
                faults.append(fault)
            else:
                parts[metric.part].append(found)
    keys = [figure.key for figure in parts["figures"]]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(
            f"expected metrics to have figures of different names, got {few(twice)} twice"
        )
    if faults:
        _tell_of(faults, judged, any(parts.values()))
    return Evaluation(
        parts["figures"], plan.settings, parts["loss_by_logsnr"], parts["bits_per_dim"]
    )


def _tell_of(faults: list[str], judged: Judged, others: bool) -> None:
    """Say which figures are left out, since files hold numbers only; refuse if none is left."""
    message = f"expected finite figures, got {few(faults)}: {reason_of(judged)}"
    if not others:
        raise ValueError(message)
    say(f"{message}; {'it is' if len(faults) == 1 else 'they are'} left out")


def _present(content: Content, plan: Plan, world: World) -> Dataset | Statistics:
    """A side whose pictures are there, all of one size and in the same units."""
    if isinstance(content, Statistics):
        return content
    if isinstance(content, Dataset):
        return content._replace(images=resized(content.images, plan.size))
    drawn, legend = content.by_all(world, strict=True), content.trained.shape.legend
    images = resized(plan.values.compared(drawn.images), plan.size)
    return Dataset(images, drawn.classes if legend.names else None, legend)
