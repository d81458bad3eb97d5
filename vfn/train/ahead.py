"""What a run will need on its way, looked at before its first step."""

from collections.abc import Sequence

from vfn.configs import Config, dumps
from vfn.data import Dataset
from vfn.evaluation import METRICS
from vfn.evaluation.held_out import ON_THE_WAY
from vfn.files import check_space, shortened
from vfn.model import DataShape, check_sampling
from vfn.runs import RunFiles
from vfn.train.distillation.methods import trains_auxiliary
from vfn.train.trackers import find_trackers

COPIES = 4  # of the parameters in a checkpoint: themselves, their average, two moments
AUXILIARY = 3  # likewise of a second network, which has no average
FLOAT32 = 4


def check_text(config: Config) -> None:
    """Refuse a configuration that cannot be written down, before anything is read.

    Raises:
        ValueError: for a path or name that is no UTF-8, or a tracker that cannot be had.
    """
    for line in dumps(config).splitlines():
        try:
            line.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"expected settings that are UTF-8, got {shortened(line)}; rename it"
            ) from None
    find_trackers(config.train.trackers or ())


def check_ahead(config: Config, dataset: Dataset, shape: DataShape) -> None:
    """Refuse what the first preview or evaluation would fail by.

    Args:
        config: of the run.
        dataset: what it is trained on.
        shape: of its data.

    Raises:
        ValueError: for settings of sampling that the network cannot follow, names of labels that no
            grid can show, or too few pictures to evaluate.
    """
    check_sampling(config.sample, config, shape, config.model.guidance_range)
    for name in shape.legend.names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the data set has the label '{shortened(name)}', which is no UTF-8; rename it"
            ) from None
    fewest = max(METRICS[word].fewest for word in ON_THE_WAY)
    if config.train.eval_every and len(dataset.images) < fewest:
        raise ValueError(
            f"evaluations on the way need at least {fewest} pictures, and the data set has "
            f"{len(dataset.images)}; use --eval-every 0"
        )


def check_room(runs: Sequence[tuple[RunFiles, Config]], parameters: int) -> None:
    """Refuse runs whose checkpoints the disk has no room for.

    Args:
        runs: where they write, and their configurations.
        parameters: numbers in each network.

    Raises:
        ValueError: if less is free than they will take beside what is there.
    """
    missing, count = 0, 0
    for files, config in runs:
        copies = COPIES + AUXILIARY * trains_auxiliary(config)
        each = copies * FLOAT32 * parameters
        settings = config.train
        written = -(-settings.steps // settings.checkpoint_every)
        # An old one is removed when the new one is there.
        number = min(written, settings.max_checkpoints + 1) + bool(settings.eval_every)
        there = sum(path.stat().st_size for path in files.checkpoints.glob("*.safetensors"))
        count += number
        missing += max(0, number * each - there)
    check_space(
        runs[0][0].path,
        missing,
        f"{count} checkpoints of {parameters:,} parameters",
        "keep fewer with --max-checkpoints",
    )
