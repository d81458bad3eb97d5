"""Snapshots of a run's power-function averages, and averages of other lengths made of them.

A snapshot is one safetensors file in the folder ``ema`` of the run: the averages of all profiles
after a step, with the configuration, the data's shape and a SHA-256 in its metadata, as a
checkpoint has them. The values are in float32: weights of a reconstruction are large and of both
signs, so that the rounding of float16 would be larger than what it is to find.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vfn.configs import Config, loads
from vfn.files import few, shown
from vfn.model import DataShape
from vfn.numbers import number, whole
from vfn.ops import combine, posthoc_ema_fit, posthoc_ema_weights, sigma_rel_to_gamma
from vfn.progress import Progress
from vfn.runs.checkpoint import (
    Checkpoint,
    check_fits,
    check_one_run,
    groups_of,
    parse_profiles,
    parse_shape,
    profile_groups,
    read_whole,
    write_packed,
)
from vfn.runs.directory import RunFiles, run_path

FORMAT = "vfn-ema-1"
# Most that a profile may differ from what the snapshots can make of it, as a share of its size.
FARTHEST_FIT = 0.1
LONGEST = 12**-0.5  # that any average is, not reached
_TRIED = tuple(round(0.005 * k, 3) for k in range(1, 58))  # to name the lengths that are spanned


class Snapshot(NamedTuple):
    """Averages of parameters after some step, by their ``sigma_rel``."""

    step: int
    config: Config
    shape: DataShape
    profiles: Mapping[float, dict[str, Tensor]]


def save_snapshot(run: RunFiles, snapshot: Snapshot) -> Path:
    """Write a snapshot of a run.

    Args:
        run: its directory.
        snapshot: averages after a step.

    Returns:
        the file's path.

    Raises:
        OSError: if it cannot be written.

    >>> from vfn.sampling import untrained
    >>> new = untrained("digits")
    >>> averages = {0.05: new.params, 0.1: new.params}
    >>> save_snapshot(RunFiles("run"), Snapshot(50, new.config, new.shape, averages)).name
    'step-00000050.safetensors'
    """
    path = run.snapshot(snapshot.step)
    step, config, shape, profiles = snapshot
    tensors = {
        f"{group}.{name}": value
        for group, values in profile_groups(profiles).items()
        for name, value in values.items()
    }
    told = Checkpoint(step, config, shape, {}, {}, {}, {}, profiles=profiles)
    write_packed(path, FORMAT, tensors, told)
    return path


def load_snapshot(path: str | Path) -> Snapshot:
    """Read and verify a snapshot.

    Args:
        path: of one file.

    Returns:
        Snapshot, tensors on the CPU.

    Raises:
        ValueError: if the file is missing, damaged, or no snapshot.

    >>> from vfn.sampling import untrained
    >>> new = untrained("digits")
    >>> path = save_snapshot(RunFiles("run"), Snapshot(9, new.config, new.shape, {0.1: new.params}))
    >>> list(load_snapshot(path).profiles)
    [0.1]
    """
    return read_whole(path, (FORMAT,), _parse, "snapshot")


def _parse(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Snapshot:
    groups = groups_of(tensors)
    profiles = parse_profiles(metadata.get("profiles"), groups)
    if not profiles or any(not value.is_floating_point() for value in tensors.values()):
        raise ValueError("expected averages of floating-point tensors")
    first = next(iter(profiles.values()))
    for other in profiles.values():
        check_fits(other, first, "one part", "another")
    shape = parse_shape(metadata["shape"])
    return Snapshot(int(metadata["step"]), loads(metadata["config"]), shape, profiles)


def drop_snapshots_after(run: RunFiles, step: int) -> None:
    """Remove snapshots that a run which goes on after ``step`` steps will write again."""
    for later, path in run.snapshot_steps().items():
        if later > step:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class StoredAverages:
    """What the snapshots of a run hold up to a step, of which other averages are made.

    run: its files. step: after which averages are wanted. steps: of the snapshots, rising.
    lengths: ``sigma_rel`` of the averages in each that are used. last: the last snapshot.
    """

    run: RunFiles
    step: int
    steps: Sequence[int]
    lengths: Sequence[float]
    last: Snapshot

    def check(self, sigma_rel: float) -> None:
        """Refuse a length that the snapshots do not span: its profile would be another one.

        Args:
            sigma_rel: the length.

        Raises:
            ValueError: it says which lengths they span.
        """
        sigma_rel = number(sigma_rel, "sigma_rel")
        if 0 < sigma_rel < LONGEST and self._spans(sigma_rel):
            return
        spanned = [length for length in _TRIED if self._spans(length)]
        span = f"{spanned[0]:g}..{spanned[-1]:g}" if spanned else "none at this step"
        raise ValueError(
            f"expected sigma_rel that the {len(self.steps)} snapshots of {self.run.path} up to "
            f"step {self.step} span, {span}, got {sigma_rel:g}; more of them span more, by a "
            "smaller --ema-snapshot-every in training"
        )

    def average(self, sigma_rel: float) -> Checkpoint:
        """The average of a length, by least squares.

        Args:
            sigma_rel: the length, a share of the training up to the step.

        Returns:
            Checkpoint, whose average and parameters are the result in float32, without moments.

        Raises:
            ValueError: if the snapshots do not span it, or one is damaged or of another network.
        """
        self.check(sigma_rel)
        sigma_rel = float(sigma_rel)
        weights = posthoc_ema_weights(*self._wanted(sigma_rel)).view(len(self.steps), -1)
        first = self.last.profiles[self.lengths[0]]
        # In float64, to which all others are added.
        summed = {name: torch.zeros_like(v, dtype=torch.float64) for name, v in first.items()}
        with Progress(len(self.steps), "snapshot", f"sigma_rel {sigma_rel:g}") as progress:
            for step, row in zip(self.steps, weights, strict=True):
                path = self.run.snapshot(step)
                found = load_snapshot(path)
                own = next(iter(found.profiles.values()))
                check_fits(own, first, f"snapshot {path}", "the last one")
                averages = [found.profiles[length] for length in chosen(found, self.lengths)]
                summed = combine([summed, *averages], torch.cat([torch.ones_like(row[:1]), row]))
                progress.advance()
        average = {name: value.float() for name, value in summed.items()}
        return Checkpoint(self.step, self.last.config, self.last.shape, average, average, {}, {})

    def _spans(self, sigma_rel: float) -> bool:
        return posthoc_ema_fit(*self._wanted(sigma_rel)) <= FARTHEST_FIT

    def _wanted(self, sigma_rel: float) -> tuple[list[float], list[float], float, float]:
        """Steps and exponents of what is stored, and of what is wanted."""
        pairs = [
            (step, sigma_rel_to_gamma(length)) for step in self.steps for length in self.lengths
        ]
        steps, gammas = zip(*pairs, strict=True)
        return list(steps), list(gammas), self.step, sigma_rel_to_gamma(sigma_rel)


def stored_averages(
    run: str | Path, step: int | None = None, profiles: Sequence[float] | None = None
) -> StoredAverages:
    """The averages that a run has kept, of which `StoredAverages.average` makes others.

    Args:
        run: a run directory that was trained with ``ema_profiles``, perhaps after ``run:``.
        step: after which averages are wanted; that of the last snapshot if None.
        profiles: ``sigma_rel`` of those that are used; all in the snapshots if None.

    Returns:
        StoredAverages.

    Raises:
        ValueError: if there are no snapshots, the last one is damaged, or the step lies before or
            after them.

    >>> from vfn.sampling import untrained
    >>> new = untrained("digits")
    >>> for step in (50, 100):
    ...     averages = {0.05: new.params, 0.1: new.params}
    ...     _ = save_snapshot(RunFiles("run"), Snapshot(step, new.config, new.shape, averages))
    >>> found = stored_averages("run")
    >>> found.steps, found.lengths
    ([50, 100], [0.05, 0.1])
    """
    profiles = None if profiles is None else _lengths(profiles)
    files = RunFiles(run_path(run))
    known = sorted(files.snapshot_steps())
    if not known:
        check_one_run(files)
        raise ValueError(
            f"{files.path} has no snapshots of averages in {files.snapshots.name}/; train with "
            "--ema-profiles 0.05,0.10 to have them"
        )
    wanted = known[-1] if step is None else whole(step, "step", 0)
    if not known[0] <= wanted <= known[-1]:
        raise ValueError(
            f"expected a step in {known[0]}..{known[-1]}, from the first snapshot of {files.path} "
            f"to the last, got {wanted}"
        )
    steps = [at for at in known if at <= wanted]
    last = load_snapshot(files.snapshot(steps[-1]))
    return StoredAverages(files, wanted, steps, chosen(last, profiles), last)


def _lengths(given: Sequence[float]) -> list[float]:
    """Lengths of profiles as Python's own numbers."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"expected profiles as a list of numbers, got {shown(given)}")
    return [number(length, "each of profiles") for length in given]


def chosen(snapshot: Snapshot, lengths: Sequence[float] | None) -> Sequence[float]:
    """The lengths that are used of a snapshot, all of which have to be there.

    Returns:
        the lengths; all of the snapshot's if None are named.

    Raises:
        ValueError: for one that it lacks.
    """
    known = list(snapshot.profiles)
    missing = [length for length in lengths or () if length not in known]
    if missing:
        raise ValueError(
            f"expected ema_profiles {few(map(str, lengths or ()))} in every snapshot, and that of "
            f"step {snapshot.step} has {few(map(str, known))}"
        )
    return known if lengths is None else lengths


def reconstruct(
    run: str | Path,
    sigma_rel: float,
    step: int | None = None,
    profiles: Sequence[float] | None = None,
) -> Checkpoint:
    """The power-function average of any length, made of a run's snapshots by least squares.

    Args:
        run: a run directory that was trained with ``ema_profiles``.
        sigma_rel: the length, a share of the training up to ``step``.
        step: after which the average is wanted; that of the last snapshot if None.
        profiles: ``sigma_rel`` of those that are used; all in the snapshots if None.

    Returns:
        Checkpoint, whose average and parameters are the result in float32, without moments.

    Raises:
        ValueError: if there are no snapshots, they do not span such an average, or one is damaged.

    Source: Karras et al. 2023 (2312.02696), section 3.2 and algorithm 3.

    >>> from vfn.sampling import untrained
    >>> new = untrained("digits")
    >>> for step in (50, 75, 100):
    ...     averages = {0.05: new.params, 0.1: new.params}
    ...     _ = save_snapshot(RunFiles("run"), Snapshot(step, new.config, new.shape, averages))
    >>> reconstruct("run", 0.08).step
    100
    """
    return stored_averages(run, step, profiles).average(sigma_rel)
