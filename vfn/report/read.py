"""What a run directory holds, as small values; a malformed file is named in one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vfn import configs
from vfn.configs import Config
from vfn.evaluation import METRICS, Evaluation, Figure, FigureKind, is_number
from vfn.files import read_json, short
from vfn.report.search import Samples, Sweep, find_results
from vfn.runs import RunFiles, loss_curve, read_log, read_stages, run_path
from vfn.train.distillation.stages import stage_figures

Curve = dict[int, float]


class Stage(NamedTuple):
    """What a stage of a distillation came to: updates, losses, seconds and figures by key."""

    student_steps: int
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RunContents:
    """What there is of a run; what it does not have yet is empty.

    train_loss, held_out_loss: by step. on_the_way: evaluations during the training. stages: of a
    distillation, None for other runs. samples, sweeps, evaluations: wherever they were written.
    commands: how to get all of it again.
    """

    files: RunFiles
    config: Config
    config_text: str
    train_loss: Curve = field(default_factory=dict)
    held_out_loss: Curve = field(default_factory=dict)
    on_the_way: list[Evaluation] = field(default_factory=list)
    stages: list[Stage] | None = None
    samples: list[Samples] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def read_run(run: str | Path, add: Sequence[str | Path] = ()) -> RunContents:
    """Read a run directory and what belongs to it elsewhere, pictures and checkpoints aside.

    Args:
        run: a run directory, that is one with a ``config.toml``.
        add: folders of `vfn sample` and files of ``vfn eval --json`` that are shown as well.

    Returns:
        RunContents.

    Raises:
        ValueError: if it is no run directory, a file in it is malformed, or what is to be added is
            something else; the file is named.

    >>> read_run("runs/none")
    Traceback (most recent call last):
    ValueError: expected a run directory with a config.toml, got runs/none; ...
    """
    files = RunFiles(run_path(run))
    if not files.config.is_file():
        raise ValueError(
            f"expected a run directory with a {files.config.name}, got {run}; "
            "give the directory that a training wrote"
        )
    config_text = configs.read(str(files.config))
    log = read_log(files.log)
    config = configs.loads(config_text, str(files.config))
    stages = _read_stages(files, config)  # of another run, it is at least to be whole
    found = find_results(files, add)
    return RunContents(
        files=files,
        config=config,
        config_text=config_text,
        train_loss=loss_curve(log, "loss"),
        held_out_loss=loss_curve(log, "held_out_loss"),
        on_the_way=_on_the_way(log),
        stages=stages if config.distill.asked else None,
        samples=found.samples,
        sweeps=found.sweeps,
        evaluations=found.evaluations,
        commands=_read_commands(files.commands, found.evaluations),
    )


def figure_kinds() -> dict[str, FigureKind]:
    """What figures are called and which way they are better, by the keys they are logged under.

    Returns:
        kinds by their keys, in the order of the metrics; losses, which have curves of their own,
        are not among them.

    >>> figure_kinds()["recall"].title
    'Recall'
    """
    compared = [metric for metric in METRICS.values() if metric.part == "figures"]
    return {kind.key: kind for metric in compared for kind in metric.figures}


def _on_the_way(log: list[dict[str, Any]]) -> list[Evaluation]:
    """Evaluations on the way, with the training time of the last entry that has one."""
    found, seconds, kinds = [], None, figure_kinds()
    for entry in log:
        seconds = entry.get("seconds", seconds)
        figures = [
            Figure(key, kind.title, entry[key], better=kind.better)
            for key, kind in kinds.items()
            if is_number(entry.get(key))
        ]
        if figures:
            found.append(Evaluation(figures, {"step": entry["step"], "train_seconds": seconds}))
    return found


def _read_stages(files: RunFiles, config: Config) -> list[Stage] | None:
    """The stages as they are told, or where that file is lost as their logs have them."""
    if files.stages.is_file():
        rows = read_stages(files.stages)
    elif config.distill.asked and files.stage_runs():
        rows = stage_figures(config, files.path)
    else:
        return None
    return [Stage(row.pop("student_steps"), row) for row in rows]


def _read_commands(path: Path, evaluations: list[Evaluation]) -> list[str]:
    """The commands that are listed, else those of the evaluations."""
    if not path.is_file():
        return list(dict.fromkeys(e.command for e in evaluations if e.command))
    commands = read_json(path)
    if not isinstance(commands, list) or not all(isinstance(c, str) for c in commands):
        raise ValueError(
            f"{path}: expected a list of commands, got {short(commands)}; remove the file"
        )
    return commands
