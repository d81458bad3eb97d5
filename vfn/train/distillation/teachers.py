"""What a distillation learns from: two networks at most, which are kept beside its students.

``teachers.json`` tells them from others, as a checkpoint's mark does the pictures.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from vfn.configs import Config
from vfn.files import read_json, short, write_json
from vfn.runs import Checkpoint, RunFiles, digest, export_model, load_checkpoint, run_path
from vfn.runs.checkpoint import average_alone
from vfn.sampling import Trained
from vfn.sampling.weaker import check_weaker, find_weaker
from vfn.train.session import as_checkpoint


class Teachers(NamedTuple):
    """What the first student learns from: a network, and a weaker one that it is led away from."""

    strong: Checkpoint
    weak: Checkpoint | None = None


def keep_teachers(teachers: Teachers, files: RunFiles) -> None:
    """Write what a distillation learns from, and what tells it from others.

    Args:
        teachers: of the first stage.
        files: of the distillation.

    Raises:
        OSError: if it cannot be written.
    """
    pairs = ((teachers.strong, files.teacher), (teachers.weak, files.weak))
    kept = [(checkpoint, path) for checkpoint, path in pairs if checkpoint is not None]
    write_json(files.teachers, {path.name: _digest(checkpoint) for checkpoint, path in kept})
    for checkpoint, path in kept:
        export_model(checkpoint, path)


def _kept(path: Path, files: RunFiles) -> Checkpoint | None:
    """What a distillation that is resumed has kept of a network that it learns from.

    Once a student has a checkpoint nothing can take its place: it would go on to something else.

    Returns:
        the network; None where it is not there and no student has learned from it.

    Raises:
        ValueError: if it cannot be read, is lost, or is not what students have learned from.
    """
    begun = any(run.checkpoint_files() for run in files.stage_runs())
    remedy = f"restore it, or write it from what taught them: vfn export TEACHER --out {path}"
    if not path.is_file():
        if begun:
            raise ValueError(f"{path} is missing, from which students have learned; {remedy}")
        return None
    found = load_checkpoint(path, remedy)
    if begun and _digests(files).get(path.name) not in (None, _digest(found)):
        raise ValueError(f"{path} is another network than students have learned from; {remedy}")
    return found


def _digests(files: RunFiles) -> dict[str, str]:
    """What tells the networks of a distillation from others, by the names of their files.

    Returns:
        digests; none where the distillation was begun by a version that did not note them.

    Raises:
        ValueError: if the file is not what a distillation writes.
    """
    if not files.teachers.is_file():
        return {}
    value = read_json(files.teachers)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(
            f"{files.teachers}: expected a digest of each network, got {short(value)}; restore it"
        )
    return value


def _digest(checkpoint: Checkpoint) -> str:
    """What tells the average of a network, which is all that is kept of it, from others."""
    return digest({name: v.detach().cpu().contiguous() for name, v in checkpoint.ema.items()})


def find_teacher(
    teacher: str | Path | Trained | Checkpoint | None, out: str | Path, resume: bool
) -> Checkpoint:
    """The teacher: that of the distillation in ``out`` where it is resumed, else the named one.

    Args:
        teacher: a run, checkpoint or opened model, or None.
        out: the directory of the distillation.
        resume: whether what is in ``out`` counts.

    Returns:
        Checkpoint, of its average alone.

    Raises:
        ValueError: if there is none, ``out`` has another one, or has lost the one that students
            have learned from.

    >>> find_teacher(None, "runs/fast", resume=True)
    Traceback (most recent call last):
    ValueError: there is no distillation in runs/fast; name a --teacher to start one
    """
    files = RunFiles(out)
    own = _kept(files.teacher, files) if resume else None
    if own is None:
        if teacher is None:
            raise ValueError(f"there is no distillation in {out}; name a --teacher to start one")
        return average_alone(as_checkpoint(teacher))
    if teacher is not None:
        named = as_checkpoint(teacher).ema
        if named.keys() != own.ema.keys() or not all(
            torch.equal(value, named[name]) for name, value in own.ema.items()
        ):
            called = teacher if isinstance(teacher, str | Path) else "the one that is given"
            raise ValueError(f"{called} is not the teacher of {out}; leave out --teacher to go on")
    return own


def find_weak(
    plan: Config,
    teacher: str | Path | Trained | Checkpoint | None,
    found: Checkpoint,
    files: RunFiles,
    resume: bool,
) -> Checkpoint | None:
    """The weaker network: that of the distillation where it is resumed, else what the plan names.

    Returns:
        its checkpoint, of its average alone; None where nothing guides the teacher.

    Raises:
        ValueError: if there is none of that name, it does not fit the teacher, or the one that
            students have learned from is lost.
    """
    asked = plan.distill.teacher_guide_with
    if asked is None:
        return None
    if resume and (kept := _kept(files.weak, files)) is not None:
        return kept
    origin = teacher.origin if isinstance(teacher, Trained) else None
    if isinstance(teacher, str | Path):
        origin = run_path(teacher)
    _, weak = find_weaker(asked, origin)
    check_weaker(weak.shape, weak.config, found.shape, found.config, asked)
    return average_alone(weak)
