"""The plan of an evaluation: all that it does, checked whole before any of it is done."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vfn import __version__
from vfn.configs import DataConfig
from vfn.configs.schema import SEED
from vfn.data import Dataset, Labels, data_home, load_held_out, same_data, spec_settings
from vfn.data.cache_info import parse_values
from vfn.data.resize import RESIZE
from vfn.data.values import PLAIN, Values
from vfn.distributed import World
from vfn.evaluation.extractors import (
    Extractor,
    check_extractor,
    check_given,
    open_extractor,
    outlook_of,
)
from vfn.evaluation.features import Statistics, check_identity, checked_outputs
from vfn.evaluation.held_out import some_of
from vfn.evaluation.metrics import METRICS, USUAL, Metric, Need
from vfn.evaluation.needs import (
    Content,
    Planned,
    Size,
    check_bootstrap,
    check_model,
    check_needs,
    comparable,
    count_of_side,
    find_metrics,
    find_usual,
    needed,
    shape_of_side,
    width_of_side,
)
from vfn.evaluation.opening import (
    Given,
    Opened,
    data_of_samples,
    labels_text,
    open_held_out,
    open_network,
    open_side,
    relabelled,
)
from vfn.evaluation.shards import SHARDS
from vfn.evaluation.sides import Subject
from vfn.files import check_space, is_utf8, printable, reason_of, shown
from vfn.nn import guidance_range
from vfn.numbers import whole
from vfn.progress import say
from vfn.runs import RunFiles, seconds_until
from vfn.runs.directory import RUN
from vfn.sampling import Draws, Trained, as_pictures, class_shares
from vfn.sampling import usual_labels as usual_labels

_LOGITS = 1008  # of Inception, the widest
_REAL_PICTURES: frozenset[Need] = frozenset({"real features", "labels"})
_EXTRACTED: frozenset[Need] = frozenset(
    {"gaussian", "real features", "fake features", "held-out features", "logits"}
)


@dataclass(frozen=True)
class Plan:
    """All that an evaluation does, before it does it; `plan_evaluation` makes and checks one.

    metrics: by their words. real, fake: the sides. held_out: real pictures never trained on.
    extractor: of the features. data: where data are, and how the run's are prepared. seed: of
    everything random. bootstrap: resampled sets. size: what all pictures are brought to. subject:
    the network, for metrics of itself. settings: what the figures depend on, as JSON can hold it.
    values: what the numbers of pictures mean that are still to be drawn.
    """

    metrics: dict[str, Metric]
    real: Opened
    fake: Opened
    held_out: Dataset | None
    extractor: Extractor
    data: DataConfig
    seed: int
    bootstrap: int
    size: Size | None
    subject: Subject | None
    settings: dict[str, Any]
    values: Values = PLAIN


def _words(metrics: str | Sequence[str]) -> list[str]:
    """Words of metrics, from a text or several."""
    words = metrics.split(",") if isinstance(metrics, str) else metrics
    if not isinstance(words, Iterable):
        words = [words]
    if strange := [word for word in words if not isinstance(word, str)]:
        raise ValueError(
            f"expected metrics as words, got {shown(strange[0])}; a function of one's own is named "
            "package.module:Name"
        )
    return [word.strip() for word in words]


def plan_evaluation(
    real: Given,
    fake: Given,
    metrics: str | Sequence[str],
    world: World,
    *,
    held_out: Given | None = None,
    features: str | Extractor = "pixels",
    weights: Path | None = None,
    num: int = 1000,
    seed: int = 0,
    bootstrap: int = 0,
    image_size: int | Sequence[int] | None = None,
    device: str = "auto",
    data_dir: str | None = None,
) -> Plan:
    """Open both sides, and refuse whatever cannot be done, the cheapest first.

    Weights are read, or downloaded, when nothing else is left to be refused; no picture is drawn.

    Args:
        real: as `vfn.evaluation.judge` has them, like all that follow.
        fake: the pictures to judge.
        metrics: their words; ``usual`` stands for the usual ones that lack nothing, and a line
            says what is left out.
        world: the processes; all of them have to call this.
        held_out: real pictures never trained on.
        features: what pictures are compared by.
        weights: file of the features' network.
        num: pictures that are asked of a network, where it is given without.
        seed: of everything random.
        bootstrap: resampled sets.
        image_size: height and width, or one number, that all pictures are brought to.
        device: where runs are loaded.
        data_dir: where the data are.

    Returns:
        Plan.

    Raises:
        ValueError: for anything that the work would fail by.
    """
    check_given(features)
    words = _words(metrics)
    usual = USUAL in words
    asked = [word for word in words if word != USUAL]
    chosen = find_metrics(asked) if asked or not usual else {}
    num, bootstrap = whole(num, "num", 1), check_bootstrap(bootstrap)
    seed = whole(seed, "seed", 0, SEED)
    size = checked_size(image_size)
    if weights is not None and isinstance(features, Extractor):
        raise ValueError(f"expected weights with the name of features, got {features.name}")
    drawing, other = open_network(fake, device), open_network(real, device)
    check_model(chosen, drawing is not None)
    data = data_of(drawing if drawing is not None else other, (fake, real), data_dir)
    if isinstance(features, str):
        check_extractor(features, weights, data.data_dir)
    needs = needed([*chosen.values(), *(METRICS.values() if usual else ())])
    labelled = "labels" in needs
    pixels = (features if isinstance(features, str) else features.name) == "pixels"

    def opened(given: Given, network: Trained | Draws | None, lean: bool) -> Opened:
        if network is None:
            return open_side(given, data, lean, size, labelled)
        return _drawn_by(network, num, seed, data_dir, like, real)

    lean, like = not pixels and not needs & _REAL_PICTURES, None
    reals = opened(real, other, lean)
    like = reals.content if isinstance(reals.content, Dataset) else None
    fakes = opened(fake, drawing, False)
    unseen = _unseen(real, held_out, data, size, needs)
    values = _values_of(reals.content, fakes.content)
    reals = reals._replace(content=comparable(reals.content, values, "real"))
    fakes = fakes._replace(content=comparable(fakes.content, values, "fake"))
    if unseen is not None:
        compared = comparable(unseen, values, "held-out")
        unseen = compared if isinstance(compared, Dataset) else None
    outlook = outlook_of(features, shape_of_side(reals.content, size))
    # The conditions that a spec gives are those of the run, unless their files are others by now.
    told = isinstance(real, str) and like is not None and like.beside is not None
    own = _own_held_out(drawing, data_dir) if "model" in needs or told else None
    planned = Planned(reals.content, fakes.content, unseen, outlook, size, own, values)
    if usual:
        found, left_out = find_usual(planned)
        chosen = find_metrics(_in_order(words, found))
        for line in left_out:
            say(line)
    check_needs(chosen, planned, bootstrap)
    needs = needed(chosen.values())
    _check_held_out(held_out, needs)
    settings = _told(reals, fakes, seed, bootstrap, size)  # a damaged log is refused
    if isinstance(features, str):
        features = open_extractor(features, weights, world.device, data.data_dir)
    features = _fitting(features, planned, (reals, fakes), needs, values)
    check_needs(chosen, planned._replace(extractor=features))
    sides = [side for side in planned[:3] if isinstance(side, Dataset | Draws)]
    check_room(features, sum(count_of_side(side) or 0 for side in sides), data)
    settings |= {**features.provenance, "version": __version__, "torch": torch.__version__}
    subject = None
    if "model" in needs and isinstance(fakes.content, Draws) and isinstance(own, Dataset):
        subject = _subject(fakes.content, own)
    return Plan(
        chosen, reals, fakes, unseen, features, data, seed, bootstrap, size, subject, settings,
        values,
    )  # fmt: skip


def _values_of(real: Content, fake: Content) -> Values:
    """What the numbers of both sides mean: as a network, statistics or the real pictures say."""
    drawn = [side.trained.shape.values for side in (real, fake) if isinstance(side, Draws)]
    if drawn:
        _check_units(drawn[0], drawn[-1])
        return drawn[0]
    for side in (real, fake):
        if isinstance(side, Statistics) and "values" in side.provenance:
            return parse_values(side.provenance["values"])
    return real.values if isinstance(real, Dataset) else PLAIN


def _check_units(real: Values, fake: Values) -> None:
    """Refuse networks whose numbers cannot be compared as those of the first are."""
    if fake != real and (real.bounded or fake.dtype != real.dtype):
        raise ValueError(
            f"expected networks of numbers of one type and range, got {real.describe()} on the "
            f"real side and {fake.describe()} on the fake; give what one of them draws as pictures"
        )


def legend_of(content: Content) -> Labels | None:
    """What the labels of pictures mean; None for statistics."""
    if isinstance(content, Draws):
        return content.trained.shape.legend
    return content.legend if isinstance(content, Dataset) else None


def checked_size(image_size: int | Sequence[int] | None) -> Size | None:
    """Height and width that pictures are brought to.

    Args:
        image_size: both, or one number for a square.

    Returns:
        both; None for None.

    Raises:
        ValueError: for anything else.

    >>> checked_size(64), checked_size((32, 48))
    ((64, 64), (32, 48))
    """
    if image_size is None:
        return None
    several = isinstance(image_size, Sequence) or getattr(image_size, "ndim", 0) == 1
    sides: list[Any] = list(image_size) if several else [image_size]  # type: ignore[arg-type]
    try:
        numbers = [whole(side, "image_size", 1, 2**15) for side in sides]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or isinstance(image_size, str):
        raise ValueError(
            f"expected image_size to be height,width, or one number for a square, within 1..{2**15}"
            f", got {shown(image_size)}"
        )
    return numbers[0], numbers[-1]


def data_of(
    network: Trained | Draws | None, sides: Sequence[Given], data_dir: str | None
) -> DataConfig:
    """How data are prepared, and where they are.

    Args:
        network: whose data's settings count.
        sides: without a network, the run's that drew one of these.
        data_dir: where the data are; as the run says if None.

    Returns:
        DataConfig.

    >>> data_of(None, (), "/data").data_dir
    '/data'
    """
    trained = network.trained if isinstance(network, Draws) else network
    if trained is not None:
        data = trained.config.data
    else:
        data = next(filter(None, map(data_of_samples, sides)), DataConfig())
    return replace(data, data_dir=data_dir or data.data_dir)


def _drawn_by(
    network: Trained | Draws,
    num: int,
    seed: int,
    data_dir: str | None,
    like: Dataset | None,
    real: Given,
) -> Opened:
    """The pictures that a network is to draw, under the conditions of real ones if it has some."""
    if isinstance(network, Trained) and network.conditioned:
        network = paired_draws(network, like, num, seed)
    elif isinstance(network, Trained):
        labels = usual_labels(network, num, seed, data_dir, split=own_split(real, network))
        network = network.draws(num, labels, seed)
    origin = network.trained.origin
    return Opened(f"{RUN}{origin}" if origin else "a network in memory", network)


def own_split(real: Given, trained: Trained) -> str | None:
    """The split of a network's own data that the real side of an evaluation is.

    Args:
        real: the real side.
        trained: the network that draws the other.

    Returns:
        its name; None for any other pictures.

    >>> from vfn.sampling import untrained
    >>> digits = untrained("digits")
    >>> own_split("dataset:digits:test", digits), own_split("dataset:mnist:test", digits)
    ('test', None)
    """
    if not isinstance(real, str) or not real.startswith("dataset:"):
        return None
    asked = spec_settings(real, trained.config.data)
    return asked.split if same_data(asked.dataset, trained.config.data.dataset) else None


def paired_draws(
    trained: Trained, like: Dataset | None, num: int, seed: int = 0, **settings: Any
) -> Draws:
    """Pictures under the conditions of real ones, evenly spread over them.

    Args:
        trained: a network that takes more than labels.
        like: the real pictures.
        num: how many; at most as many as there are.
        seed: of the noise.
        settings: of sampling.

    Returns:
        Draws.

    Raises:
        ValueError: if there are no pictures, they lack what the network takes, or ``num`` is no
            whole number of at least 1.

    >>> from vfn.configs import load, override
    >>> from vfn.data import load_dataset
    >>> from vfn.sampling import untrained
    >>> config = override(load("digits"), {"condition": "downscale:2"})
    >>> paired_draws(untrained(config), load_dataset(config.data, "test"), 20).num
    20
    """
    num = whole(num, "num", 1)
    if like is None:
        raise ValueError(
            f"this model takes {trained.conditioned}, which an evaluation takes of the real side: "
            "give pictures there, such as dataset:NAME:test"
        )
    rows = some_of(torch.arange(len(like.images)), num)
    asked = as_pictures(trained, like.rows(rows))._replace(paired=True)
    return trained.draws(len(rows), asked, seed, **settings)


def own_draws(
    trained: Trained, num: int, seed: int = 0, data_dir: str | None = None, **settings: Any
) -> Draws:
    """Pictures to be judged against those that a network was trained on.

    Args:
        trained: the network.
        num: how many.
        seed: of the noise.
        data_dir: where its data are; as its run says if None.
        settings: of sampling.

    Returns:
        Draws: of classes in turn, or under the conditions of those pictures where it takes more.

    Raises:
        ValueError: if its data are not there, or settings do not fit.

    >>> from vfn.configs import load, override
    >>> from vfn.sampling import untrained
    >>> own_draws(untrained(override(load("digits"), {"condition": "downscale:2"})), 20).num
    20
    """
    if trained.conditioned:
        like = trained.with_data(data_dir=data_dir).own_pictures()
        return paired_draws(trained, like, num, seed, **settings)
    return trained.draws(num, usual_labels(trained, num, seed, data_dir), seed, **settings)


def own_data(trained: Trained) -> str:
    """The pictures that a network was trained on, as a side of an evaluation.

    Args:
        trained: the network.

    Returns:
        ``dataset:NAME:split``.

    >>> from vfn.sampling import untrained
    >>> own_data(untrained("digits"))
    'dataset:digits:train'
    """
    return f"dataset:{trained.config.data.dataset}:{trained.config.data.split}"


def _in_order(words: Sequence[str], usual: Iterable[str]) -> list[str]:
    """Words with the usual ones in the place of theirs."""
    each = [list(usual) if word == USUAL else [word] for word in words]
    return [word for some in each for word in some]


def _unseen(
    real: Given,
    held_out: Given | None,
    data: DataConfig,
    size: Size | None,
    needs: frozenset[Need],
) -> Dataset | None:
    """The held-out pictures that are given, or those of the data set where metrics need some."""
    wanted = needs & {"held-out pictures", "held-out features"}
    return open_held_out(real, held_out, data, size) if wanted or held_out is not None else None


def _check_held_out(held_out: Given | None, needs: frozenset[Need]) -> None:
    """Refuse held-out pictures that nobody would look at."""
    if held_out is not None and not needs & {"held-out pictures", "held-out features"}:
        raise ValueError(
            "held-out pictures go with metrics that need them, such as memorisation; leave out "
            "--held-out"
        )


def _own_held_out(network: Trained | Draws | None, data_dir: str | None) -> Dataset | str | None:
    """Held-out pictures of a network's own data, or why there are none."""
    if network is None:
        return None
    trained = network.trained if isinstance(network, Draws) else network
    trained = trained.with_data(data_dir=data_dir)
    try:
        if faults := trained.other_pictures():
            say(
                f"{trained.config.data.dataset} is not what {trained.origin or 'the network'} was "
                f"trained on any more (other {faults}): what is held out now may have been trained "
                "on"
            )
        found = load_held_out(trained.config.data)
        if found is not None and trained.conditioned:
            trained.condition(found, 1)  # refuses what lacks it
    except (ValueError, OSError) as error:
        return f"its data cannot be read: {' '.join(str(error).split())}"
    return found or "it was trained on all pictures"


def _subject(draws: Draws, held_out: Dataset) -> Subject:
    """The network, for metrics that are of itself."""
    trained = draws.trained
    given = draws.settings.guidance if guidance_range(trained.model) else None
    return Subject(trained, held_out, draws.num, given)


def tried(extractor: Extractor, images: torch.Tensor) -> Extractor:
    """An extractor with what shows when it runs on some pictures.

    Args:
        extractor: any.
        images: uint8 [B, C, H, W].

    Returns:
        Extractor with ``width`` and ``logits``.

    Raises:
        ValueError: if it gives no features [B, D], or fails.
    """
    try:
        with torch.no_grad():
            out = extractor.run(images)
    except Exception as error:  # a function of the user's can fail in any way
        raise ValueError(
            f"features {extractor.name} fail for pictures {list(images.shape)}: {reason_of(error)}"
        ) from error
    out = checked_outputs(out, len(images), extractor.name)
    return extractor._replace(width=out.features.shape[1], logits=out.logits is not None)


def _fitting(
    extractor: Extractor,
    planned: Planned,
    sides: Sequence[Opened],
    needs: frozenset[Need],
    values: Values,
) -> Extractor:
    """The extractor, tried on two pictures; stored statistics have to be of the same features.

    Returns:
        Extractor, with what the trial shows.

    Raises:
        ValueError: if anything does not fit.
    """
    ours = extractor.provenance | values_settings(values)
    for side in sides:
        if isinstance(side.content, Statistics):
            check_identity(side.content.provenance, ours, side.text)
    if needs & _EXTRACTED and (images := _two_pictures(planned, values)) is not None:
        extractor = tried(extractor, images)
    widths = [width_of_side(side.content) or extractor.width for side in sides]
    if None not in widths and len({*widths}) > 1:
        raise ValueError(
            f"the real side has {widths[0]} features and the fake {widths[1]}; compute both with "
            "the same extractor, of pictures of one size"
        )
    return extractor


def _two_pictures(planned: Planned, values: Values) -> torch.Tensor | None:
    """Two pictures as an extractor will see them; None where no side has any."""
    for side in (planned.real, planned.fake):
        shape = shape_of_side(side, planned.size)
        if isinstance(side, Dataset) and shape == tuple(side.images.shape[1:]):
            return side.images[torch.arange(2) % len(side.images)]
        if shape is not None and not isinstance(side, Statistics):
            return torch.zeros(2, *shape, dtype=torch.uint8 if values.plain else torch.float32)
    return None


def check_room(extractor: Extractor, count: int, data: DataConfig) -> int:
    """Refuse features that find no room on the disk while they are computed.

    Args:
        extractor: of a known width; only those with weights are kept while they run.
        count: pictures.
        data: where data are.

    Returns:
        bytes of the features.

    Raises:
        ValueError: if less is free.
    """
    size = 4 * count * ((extractor.width or 0) + (_LOGITS if extractor.logits else 0))
    if "weights_sha256" in extractor.provenance:
        what = f"features of {count} pictures"
        check_space(data_home(data) / SHARDS, size, what, "name another --data-dir")
    return size


def resize_settings(size: Size | None) -> dict[str, Any]:
    """What a record says of the size that pictures were brought to."""
    return {} if size is None else {"image_size": list(size), "image_resize": RESIZE}


def values_settings(values: Values) -> dict[str, Any]:
    """What a file of statistics says of the numbers that they are of; nothing of 8-bit pictures."""
    return {} if values.plain else {"values": values._asdict()}


def _told(
    real: Opened,
    fake: Opened,
    seed: int,
    bootstrap: int,
    size: Size | None,
) -> dict[str, Any]:
    """What the figures depend on, without the features, as JSON can hold it."""
    for side in (real, fake):
        if not is_utf8(side.text):
            raise ValueError(
                f"expected a path that is UTF-8, got {printable(side.text)}; rename it"
            )
    settings: dict[str, Any] = {"real": real.text, "fake": fake.text, "seed": seed}
    settings["num"] = count_of_side(fake.content)
    if isinstance(real.content, Draws):
        settings["real_sha256"] = real.content.trained.digest
    if isinstance(fake.content, Draws):
        settings |= _drawing(fake.content)
    settings |= {**fake.told, "real_num": count_of_side(real.content), "bootstrap": bootstrap}
    return settings | resize_settings(size) | _balance(real.content, fake.content)


def _drawing(draws: Draws) -> dict[str, Any]:
    """What the pictures of a network depend on."""
    trained = draws.trained
    origin, legend = trained.origin, trained.shape.legend
    return {
        "sample_seed": draws.seed,
        **({"run": str(origin.resolve())} if origin else {}),
        **({"labels": labels_text(draws.asked, legend)} if legend.names else {}),
        "step": trained.step,
        "train_seconds": origin and seconds_until(RunFiles(origin).log, trained.step),
        "ema_sha256" if trained.averaged else "sha256": trained.digest,
        "precision": trained.precision,
        **draws.told(),
    }


def _balance(real: Content, fake: Content) -> dict[str, Any]:
    """The shares of the rarest and the most frequent class on either side, where both have some."""
    if isinstance(real, Dataset) and isinstance(fake, Dataset):
        fake = relabelled(fake, real.legend)  # those of which none is there count, too
    shares = {
        "fake_classes": _shares(fake),
        "real_classes": _shares(real),
    }
    return {} if None in shares.values() else {k: [*v] for k, v in shares.items() if v}


def _shares(side: Content) -> tuple[float, float] | None:
    if isinstance(side, Draws):
        return class_shares(side.asked.of(torch.arange(side.num)), side.trained.shape.legend)
    if not isinstance(side, Dataset) or side.labels is None:
        return None
    return class_shares(side.labels, side.legend)
