"""Where the samples, comparisons and evaluations of a run are: they say of which run they are.

They are looked for in the run's directory, beside it, and in the current directory. What lies in
the run's own directory belongs to it in any case.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from vfn.evaluation import Evaluation, read_evaluation
from vfn.files import given_path, read_json
from vfn.runs import RunFiles, digest, load_checkpoint, run_path
from vfn.sampling.job import DENOISING, GRID, SWEEP, compared_folders
from vfn.sampling.provenance import RECORD, read_record

_BELOW, _BESIDE = 4, 3  # levels of folders, in the run and elsewhere
_MOST = 5000  # entries that are looked at below one place
_LARGEST = 2**22  # bytes of an evaluation
# Folders of something else, or of much of it.
_PASSED = {"checkpoints", "images", "plots", "tensorboard", "node_modules", "site-packages"}


class Samples(NamedTuple):
    """A folder that `vfn sample` wrote, and its record; empty where it has none."""

    path: Path
    record: Mapping[str, Any]


class Sweep(NamedTuple):
    """A folder of several of them, with the sheet that compares them."""

    path: Path
    parts: Sequence[Samples]


class Results(NamedTuple):
    """What there is of a run beside its training, that in its own directory first."""

    samples: list[Samples]
    sweeps: list[Sweep]
    evaluations: list[Evaluation]


def find_results(files: RunFiles, add: Sequence[str | Path] = ()) -> Results:
    """Look for what belongs to a run.

    Args:
        files: of the run, or of a distillation, to which its students' results belong.
        add: folders and files that are shown whatever they say of themselves.

    Returns:
        Results, in an order that does not depend on the file system.

    Raises:
        ValueError: if an evaluation in the run's directory is malformed, or what is to be added is
            neither samples nor an evaluation.
    """
    search = _Search(files, [_added(given_path(path)) for path in add])
    folders, texts = search.places()
    sweeps = [sweep for folder in folders if (sweep := search.sweep(folder))]
    compared = {part.path for sweep in sweeps for part in sweep.parts}
    samples = [search.samples(folder) for folder in folders if folder not in compared]
    evaluations = [search.evaluation(path) for path in texts]
    return Results([*filter(None, samples)], sweeps, [*filter(None, evaluations)])


def _added(path: Path) -> Path:
    """A path that is to be shown; refused if there is nothing to show."""
    whole = path.resolve()
    if whole.is_dir():
        shown = any((whole / name).is_file() for name in (RECORD, SWEEP, GRID))
    else:
        shown = whole.suffix == ".json" and read_evaluation(path) is not None
    if not shown:
        raise ValueError(
            f"expected a folder of vfn sample or a file of vfn eval --json to add, got {path}"
        )
    return whole


@dataclass(frozen=True)
class _Search:
    """What belongs to a run: what lies in it, is to be added, or says that it is of this run."""

    files: RunFiles
    added: Sequence[Path]

    @cached_property
    def own(self) -> Path:
        return self.files.path.resolve()

    @cached_property
    def digests(self) -> set[str]:
        """Of the parameters in the run's checkpoints; for a run that was moved."""
        paths = [*self.files.checkpoint_files()[:1], self.files.best]
        found = set()
        for path in filter(Path.is_file, paths):
            try:
                checkpoint = load_checkpoint(path)
            except ValueError:  # whoever samples from it says so
                continue
            found |= {digest(checkpoint.ema), digest(checkpoint.params)}
        return found

    def places(self) -> tuple[list[Path], list[Path]]:
        """Folders, and files that may be evaluations."""
        folders: list[Path] = []
        texts: list[Path] = []
        roots = [(self.own, _BELOW), *((path, 2) for path in self.added if path.is_dir())]
        roots += [(self.own.parent, _BESIDE), (Path.cwd(), _BESIDE)]
        for root, levels in roots:
            some, more = _below(root, levels)
            folders += some
            texts += more
        texts += [path for path in self.added if path.is_file()]
        return list(dict.fromkeys(folders)), list(dict.fromkeys(texts))

    def is_in(self, path: Path) -> bool:
        """Whether a path is in the run's directory, or is to be shown all the same."""
        return any(each in (path, *path.parents) for each in (self.own, *self.added))

    def is_of(self, settings: Mapping[str, Any]) -> bool:
        """Whether something says that it is of this run."""
        named = settings.get("run") or _named_before(settings.get("fake"))
        if isinstance(named, str):
            try:
                path = Path(named).resolve()
                if self.own in (path, *path.parents):
                    return True
                if path.exists():
                    return False  # another one
            except (OSError, ValueError, RuntimeError):  # no name of a file, or links in a circle
                pass
        known = (settings.get(name) for name in ("ema_sha256", "sha256"))
        return any(isinstance(each, str) and each in self.digests for each in known)

    def samples(self, folder: Path) -> Samples | None:
        """The pictures of a folder, if they belong to the run."""
        if (folder / RECORD).is_file():
            try:
                record = read_record(folder) or {}
            except ValueError:  # somebody else's settings
                return None
            return Samples(folder, record) if self.is_in(folder) or self.is_of(record) else None
        alone = folder == self.files.sample.resolve() or folder in self.added
        shown = any((folder / name).is_file() for name in (GRID, DENOISING))
        return Samples(folder, {}) if alone and shown else None

    def sweep(self, folder: Path) -> Sweep | None:
        """What a folder compares, if it belongs to the run."""
        if not (folder / SWEEP).is_file():
            return None
        names = compared_folders(folder)
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        shown = [path for path in inside if names is None or path.name in names]
        parts = [found for path in shown if (found := self.samples(path))]
        return Sweep(folder, parts) if parts or self.is_in(folder) else None

    def evaluation(self, path: Path) -> Evaluation | None:
        """The evaluation in a file, if it is one and belongs to the run."""
        if path.parent == self.own and path.name.startswith("metrics"):
            return read_evaluation(path)  # which says what is wrong with it
        try:
            value = read_json(path)
            if not isinstance(value, dict) or not isinstance(value.get("metrics"), list):
                return None
            found = read_evaluation(path)
        except ValueError:  # somebody else's file
            return None
        return found if self.is_in(path) or self.is_of(found.settings) else None


def _named_before(fake: Any) -> str | None:
    """The run that evaluations of earlier versions name, as it was typed."""
    return str(run_path(fake)) if isinstance(fake, str) and fake.startswith("run:") else None


def _below(root: Path, levels: int) -> tuple[list[Path], list[Path]]:
    """Folders below a place and itself, and JSON files in them, level by level, each by name."""
    folders: list[Path] = []
    texts: list[Path] = []
    waiting, count = [root], 0
    while waiting and levels and count < _MOST:
        levels, here, waiting = levels - 1, waiting, []
        for folder in here:
            folders.append(folder)
            for entry in _entries(folder):
                count += 1
                if entry.name.startswith(".") or entry.name in _PASSED or count > _MOST:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(folder / entry.name)
                elif entry.name.endswith(".json") and _is_small(entry):
                    texts.append(folder / entry.name)
    return folders, texts


def _is_small(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() and entry.stat().st_size <= _LARGEST
    except OSError:  # a link to nothing
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing if it cannot be read, or is of packages."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return []
    return [] if any(entry.name == "pyvenv.cfg" for entry in entries) else entries
