"""What a run will need on its way, looked at before its first step."""

from collections.abc import Sequence

from vfn.configs import Config, dumps
from vfn.data import Dataset
from vfn.evaluation import METRICS
from vfn.evaluation.held_out import ON_THE_WAY
from vfn.files import check_space, is_utf8, shortened
from vfn.footprint import FLOAT32, kept_copies
from vfn.model import DataShape, check_sampling, is_conditional
from vfn.ops import OBJECTIVES
from vfn.runs import RunFiles
from vfn.train.distillation.methods import networks_of
from vfn.train.trackers import find_trackers


def check_text(config: Config) -> None:
    """Refuse a configuration that cannot be written down, before anything is read.

    Raises:
        ValueError: for a path or name that is no UTF-8, or a tracker that cannot be had.
    """
    for line in dumps(config).splitlines():
        if not is_utf8(line):
            raise ValueError(f"expected settings that are UTF-8, got {shortened(line)}; rename it")
    find_trackers(config.train.trackers or ())


def check_ahead(config: Config, dataset: Dataset, shape: DataShape) -> None:
    """Refuse what the first loss, preview or evaluation would fail by.

    Args:
        config: of the run.
        dataset: what it is trained on.
        shape: of its data.

    Raises:
        ValueError: for paths that are led away from what nobody says, a bound of other numbers than
            grey levels, channels or names of labels that no grid can show, settings of sampling
            that the network cannot follow, or too few pictures to evaluate.
    """
    _check_led_paths(config, shape)
    _check_bound(config, shape)
    _check_shown(config, shape)
    check_sampling(config.sample, config, shape, config.model.guidance_range)
    for name in shape.legend.names:
        if not is_utf8(name):
            raise ValueError(
                f"the data set has the label '{shortened(name)}', which is no UTF-8; rename it"
            )
    fewest = max(METRICS[word].fewest for word in ON_THE_WAY)
    if config.train.eval_every and len(dataset.images) < fewest:
        raise ValueError(
            f"evaluations on the way need at least {fewest} pictures, and the data set has "
            f"{len(dataset.images)}; use --eval-every 0"
        )


def _check_led_paths(config: Config, shape: DataShape) -> None:
    """Refuse paths led by guidance that would not be learned with and without a condition."""
    diffusion, span = config.diffusion, config.model.guidance_range
    if not OBJECTIVES.find(diffusion.objective).led or config.distill.asked:
        return
    if span is None and not diffusion.objective_options.get("guidance"):
        return
    setting = "--objective-option guidance" if span is None else "guidance_range"
    if not is_conditional(config, shape):
        missing = "labels, or other conditions, to lead away from, and there are none"
    elif diffusion.p_uncond in (0, 1):
        missing = f"p_uncond above 0 and below 1, got {diffusion.p_uncond:g}"
    else:
        return
    raise ValueError(f"guided paths of {diffusion.objective} need {missing}; leave out {setting}")


def _check_bound(config: Config, shape: DataShape) -> None:
    """Refuse the variational bound, which ends in one of 256 grey levels, of other numbers."""
    diffusion = config.diffusion
    if not diffusion.uses_bound or shape.values.plain:
        return
    kl = diffusion.loss_type == "kl"
    setting, other = ("loss_type kl", "mse") if kl else ("learned_variance true", "false")
    raise ValueError(
        f"expected 8-bit pictures, whose 256 levels the bound is of, with {setting}, got "
        f"{shape.values.describe()}; use {other}"
    )


def _check_shown(config: Config, shape: DataShape) -> None:
    """Refuse channels that there are not: no grid of the run could be drawn, now or later."""
    wrong = [number for number in config.data.shown_channels or () if number >= shape.channels]
    if wrong:
        raise ValueError(
            f"expected shown_channels in 0..{shape.channels - 1}, of the {shape.channels} that the "
            f"data have, got {wrong[0]}; use --shown-channels 0"
        )


def check_room(runs: Sequence[tuple[RunFiles, Config]], parameters: int) -> None:
    """Refuse runs whose checkpoints, and snapshots of averages, the disk has no room for.

    Args:
        runs: where they write, and their configurations.
        parameters: numbers in each network.

    Raises:
        ValueError: if less is free than they will take beside what is there.
    """
    missing, checkpoints, snapshots = 0, 0, 0
    for files, config in runs:
        settings = config.train
        written = -(-settings.steps // settings.checkpoint_every)
        # An old one is removed when the new one is there.
        number = min(written, settings.max_checkpoints + 1) + bool(settings.eval_every)
        number += len([step for step in settings.keep_at or () if step <= settings.steps])
        copies = number * sum(kept_copies(config, networks_of(config).trained).values())
        if every := settings.snapshot_every:
            snapshots += settings.steps // every
            copies += settings.steps // every * len(settings.ema_profiles or ())
        checkpoints += number
        folders = (files.checkpoints, files.snapshots)
        there = [path.stat().st_size for each in folders for path in each.glob("*.safetensors")]
        missing += max(0, copies * FLOAT32 * parameters - sum(there))
    also = f" and {snapshots} snapshots of averages" if snapshots else ""
    fewer = ", or take fewer snapshots with --ema-snapshot-every" if snapshots else ""
    check_space(
        runs[0][0].path,
        missing,
        f"{checkpoints} checkpoints{also} of {parameters:,} parameters",
        f"keep fewer with --max-checkpoints{fewer}",
    )
