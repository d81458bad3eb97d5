"""Judge pictures against real ones: one plan, checked whole, then the work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vfn import __version__
from vfn.configs import DataConfig
from vfn.data import Dataset, Labels, data_home, load_held_out
from vfn.distributed import World, processes
from vfn.evaluation.evaluating import computed, extracted
from vfn.evaluation.extractors import EXTRACTORS, Extractor, open_extractor
from vfn.evaluation.features import Statistics
from vfn.evaluation.metrics import Metric, Need
from vfn.evaluation.needs import (
    Content,
    Planned,
    check_model,
    check_needs,
    count_of_side,
    find_metrics,
    needed,
)
from vfn.evaluation.opening import (
    RUN,
    Given,
    Opened,
    check_legend,
    open_held_out,
    open_network,
    open_side,
    relabelled,
    usual_labels,
)
from vfn.evaluation.record import Evaluation
from vfn.evaluation.shards import SHARDS, resumable
from vfn.evaluation.sides import Sides, Subject
from vfn.nn import guidance_range
from vfn.progress import say
from vfn.runs import RunFiles, seconds_until
from vfn.sampling import Draws, Trained, ask

_MANY = 100  # labels that a record lists
_REAL_PICTURES: frozenset[Need] = frozenset({"real features", "labels"})


@dataclass(frozen=True)
class Plan:
    """All that an evaluation does, before it does it.

    metrics: by their words. real, fake: the sides. held_out: real pictures never trained on.
    extractor: of the features. data: where data are, and how the run's are prepared. seed: of
    everything random. bootstrap: resampled sets.
    """

    metrics: dict[str, Metric]
    real: Opened
    fake: Opened
    held_out: Dataset | None
    extractor: Extractor
    data: DataConfig
    seed: int
    bootstrap: int

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ValueError: for pictures of different shapes, what a metric lacks, or classes that the
                real pictures do not have.
        """
        planned = Planned(self.real.content, self.fake.content, self.held_out, self.extractor)
        check_needs(self.metrics, planned, self.bootstrap)
        real, fake = (legend_of(side.content) for side in (self.real, self.fake))
        if real is None or fake is None or "labels" not in needed(self.metrics.values()):
            return  # nobody asks for their names
        check_legend(fake, real)
        if self.held_out is not None:
            check_legend(self.held_out.legend, real)


def judge(
    real: Given,
    fake: Given,
    metrics: str | Sequence[str] = ("fd", "pr"),
    *,
    held_out: Given | None = None,
    features: str | Extractor = "pixels",
    num: int = 1000,
    seed: int = 0,
    bootstrap: int = 0,
    device: str = "auto",
    data_dir: str | None = None,
) -> Evaluation | None:
    """Judge pictures against real ones.

    Everything that the metrics need is checked before a picture is drawn. Under torchrun all
    processes share the drawing and the features. An extraction that was killed goes on.

    Args:
        real: ``dataset:NAME[:split]``, a folder, an .npz of pictures or statistics, or ``run:DIR``;
            a uint8 tensor [N, C, H, W], a data set or statistics; a loaded network, which draws
            ``num`` pictures as its run says, or `vfn.sampling.Draws`: exactly those.
        fake: the pictures to judge, given like the real ones.
        metrics: words of `METRICS`, or ``package.module:Name`` of a function of
            `vfn.evaluation.Judged`.
        held_out: real pictures never trained on; what the data set of ``real`` holds out if None.
        features: a word of `EXTRACTORS`, ``package.module:Name``, or an `Extractor`.
        num: pictures that are asked of a network, where it is given without.
        seed: of the noise, the real halves and the bootstrap.
        bootstrap: resampled sets for 95 % intervals; 0 for none.
        device: auto, cpu or cuda, where features are computed and runs are loaded.
        data_dir: where the data are; as the run says, ``$VFN_DATA`` or a cache if None.

    Returns:
        Evaluation; None on all processes but the first.

    Raises:
        ValueError: for pictures, metrics, weights or checkpoints that do not fit.

    >>> found = judge("dataset:digits", "dataset:digits:test", ["fd"], device="cpu")
    >>> found.figures[0].key, round(found.figures[0].value, 2)
    ('frechet_distance', 0.1)
    """
    chosen = find_metrics(metrics)
    if isinstance(features, str):
        EXTRACTORS.check(features)
    with processes(device) as world:
        drawing, other = open_network(fake, device), open_network(real, device)
        check_model(chosen, drawing is not None)
        data = _data_of(drawing if drawing is not None else other, data_dir)
        if isinstance(features, str):
            features = open_extractor(features, None, world.device, data.data_dir)
        lean = features.name != "pixels" and not needed(chosen.values()) & _REAL_PICTURES

        def opened(given: Given, network: Trained | Draws | None, lean: bool) -> Opened:
            if network is None:
                return open_side(given, data, features, lean)
            return _drawn_by(network, num, seed, data_dir)

        reals = opened(real, other, lean)
        pictures = not isinstance(reals.content, Statistics)
        unseen = open_held_out(real, held_out, data) if pictures else None
        fakes = opened(fake, drawing, False)
        plan = Plan(chosen, reals, fakes, unseen, features, data, seed, bootstrap)
        plan.check()
        return carried_out(plan, world)


def carried_out(plan: Plan, world: World) -> Evaluation | None:
    """Draw, extract and compute what a plan says.

    Args:
        plan: checked.
        world: the processes; all of them have to call this.

    Returns:
        Evaluation; None on all processes but the first.
    """
    real, fake = (_present(side.content, world) for side in (plan.real, plan.fake))
    held_out = plan.held_out
    named = "labels" in needed(plan.metrics.values())
    if named and isinstance(real, Dataset) and isinstance(fake, Dataset):
        fake = relabelled(fake, real.legend)
        held_out = relabelled(held_out, real.legend) if held_out else None
    sides = Sides(real, fake, held_out)
    folder = data_home(plan.data) / SHARDS
    with resumable(plan.extractor, folder, world.device) as kept:
        judged = extracted(sides, plan.metrics, kept, world)
    if world.rank:
        return None
    judged = judged._replace(seed=plan.seed, bootstrap=plan.bootstrap, subject=_subject(plan))
    parts: dict[str, list[Any]] = {"figures": [], "loss_by_logsnr": [], "bits_per_dim": []}
    for word, metric in plan.metrics.items():
        if "model" in metric.needs and judged.subject is None:
            continue  # a line has said so
        parts[metric.part] += computed(word, metric, judged)
    return Evaluation(
        parts["figures"], settings_of(plan), parts["loss_by_logsnr"], parts["bits_per_dim"]
    )


def settings_of(plan: Plan) -> dict[str, Any]:
    """What the figures depend on, as JSON can hold it."""
    settings: dict[str, Any] = {"real": plan.real.text, "fake": plan.fake.text, "seed": plan.seed}
    settings["num"] = count_of_side(plan.fake.content)
    if isinstance(plan.real.content, Draws):
        settings["real_sha256"] = plan.real.content.trained.digest
    if isinstance(plan.fake.content, Draws):
        settings |= _drawing(plan.fake.content, plan)
    settings |= {"real_num": count_of_side(plan.real.content), "bootstrap": plan.bootstrap}
    return settings | {
        **plan.extractor.provenance,
        "version": __version__,
        "torch": torch.__version__,
    }


def _drawing(draws: Draws, plan: Plan) -> dict[str, Any]:
    """What the pictures of a network depend on."""
    trained = draws.trained
    origin = trained.origin
    return {
        **({} if draws.seed == plan.seed else {"sample_seed": draws.seed}),
        "labels": _labels_text(draws, plan),
        "step": trained.step,
        "train_seconds": origin and seconds_until(RunFiles(origin).log, trained.step),
        "ema_sha256" if trained.averaged else "sha256": trained.digest,
        "precision": trained.precision,
        **draws.told(),
    }


def _labels_text(draws: Draws, plan: Plan) -> str:
    """What was asked of a network, in few words."""
    legend, labels = draws.trained.shape.legend, draws.asked.labels
    if not legend.tags and torch.equal(labels, ask(legend).labels):
        return "in turn"
    if legend.names and len(labels) == draws.num:
        where = plan.data.data_dir
        usual = usual_labels(draws.trained, draws.num, draws.seed, where, as_data=True)
        if torch.equal(labels, usual.labels):
            return "as in the data"
    names = draws.asked.names
    return ",".join(names) if len(names) <= _MANY else f"{len(names)} of them, in turn"


def legend_of(content: Content) -> Labels | None:
    """What the labels of pictures mean; None for statistics."""
    if isinstance(content, Draws):
        return content.trained.shape.legend
    return content.legend if isinstance(content, Dataset) else None


def _data_of(network: Trained | Draws | None, data_dir: str | None) -> DataConfig:
    """How the data of a network are prepared, and where they are."""
    trained = network.trained if isinstance(network, Draws) else network
    data = trained.config.data if trained is not None else DataConfig()
    return replace(data, data_dir=data_dir or data.data_dir)


def _drawn_by(network: Trained | Draws, num: int, seed: int, data_dir: str | None) -> Opened:
    """The pictures that a network is to draw."""
    if isinstance(network, Trained):
        network = network.draws(num, usual_labels(network, num, seed, data_dir), seed)
    origin = network.trained.origin
    return Opened(f"{RUN}{origin}" if origin else "a network in memory", network)


def _present(content: Content, world: World) -> Dataset | Statistics:
    """A side whose pictures are there."""
    if not isinstance(content, Draws):
        return content
    drawn, legend = content.by_all(world), content.trained.shape.legend
    if drawn.not_finite:
        raise ValueError(
            f"expected finite pictures to judge, but {drawn.not_finite} of {content.num} that the "
            "network drew are not; use another checkpoint, or less guidance"
        )
    return Dataset(drawn.images, drawn.classes if legend.names else None, legend)


def _subject(plan: Plan) -> Subject | None:
    """The network, for metrics that are of itself; None without held-out pictures of its data."""
    draws = plan.fake.content
    if not isinstance(draws, Draws) or "model" not in needed(plan.metrics.values()):
        return None
    trained = draws.trained
    pictures = load_held_out(_data_of(trained, plan.data.data_dir))
    if not pictures:
        say("no held-out loss: the run was trained on all pictures")
        return None
    given = draws.settings.guidance if guidance_range(trained.model) else None
    return Subject(trained, pictures, draws.num, given)
