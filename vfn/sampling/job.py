"""A job that writes pictures: it goes on where it was killed, in one process or in many."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image

from vfn.configs import SampleConfig
from vfn.distributed import (
    World,
    check_alike,
    gather,
    largest,
    processes,
    smallest,
    together,
    wait_for_all,
)
from vfn.files import (
    check_place,
    check_space,
    few,
    given_path,
    is_utf8,
    read_json,
    shortened,
    write_json,
)
from vfn.nn import branches_of, guidance_range
from vfn.ops.solver_table import SOLVERS
from vfn.pictures import check_animation, save_animation, save_png, sheet, titled_frames
from vfn.progress import say
from vfn.sampling.asked import Asked
from vfn.sampling.draws import DrawingBar, Draws, say_fault
from vfn.sampling.output import Output, open_output, room_for
from vfn.sampling.provenance import (
    RECORD,
    begin_folder,
    check_own,
    check_record,
    clear_recorded,
    read_record,
)
from vfn.sampling.sheets import (
    COMPARED_ROWS,
    Film,
    Panel,
    animated_panel,
    comparison,
    denoising_frames,
    folder_names,
    panel,
    varied,
)
from vfn.sampling.trained import Trained

GRID, SWEEP = "grid.png", "sweep.png"
DENOISING, GUIDANCE = "denoising.webp", "guidance.webp"
COMPARED = "sweep.json"  # which folders the sheet shows
COMPARISON = (SWEEP, GUIDANCE, COMPARED)  # what lies beside several folders
FRAME_MS, HOLD_MS = 60, 1500
GUIDANCE_MS = 700
ANIMATED = (["guidance"], ["guide_weight"])  # what differs, where an animation goes over it


class Written(NamedTuple):
    """Pictures that were written.

    folder: where. shown: what to look at, the grid or the folder. num: how many are there. nfe:
    evaluations of the network for a picture, the most of all batches; 0 if none was drawn. present:
    how many were there already.
    """

    folder: Path
    shown: Path
    num: int
    nfe: int
    present: int


def variants(
    trained: Trained,
    compared: Mapping[str, Sequence[Any]],
    num: int | None = None,
    labels: str | Sequence[str] | Asked | None = None,
    seed: int = 0,
    **settings: Any,
) -> list[Draws]:
    """The same pictures with every combination of some settings, for `write_samples`.

    Args:
        trained: the network.
        compared: values of settings by their names, such as ``guidance`` and ``steps``; where there
            are none, the setting is the run's. A value that is given twice counts once.
        num: how many pictures each; ten for each label if None.
        labels: names that are asked in turn; as of `Trained.draws` if None.
        seed: of the noise.
        settings: what all have in common.

    Returns:
        one Draws for each combination, the last setting the fastest.

    Raises:
        ValueError: for settings or labels that the network cannot follow.

    >>> from vfn.sampling import untrained
    >>> trained = untrained("digits")
    >>> several = variants(trained, {"sampler": ["ddim", "heun"], "steps": [4, 8]}, num=2)
    >>> [(draws.settings.sampler, draws.settings.sample_timesteps) for draws in several]
    [('ddim', 4), ('ddim', 8), ('heun', 4), ('heun', 8)]
    """
    given = {name: dict.fromkeys(values) for name, values in compared.items() if len(values)}
    chosen = [dict(zip(given, values, strict=True)) for values in product(*given.values())]
    several = [trained.draws(num, labels, seed, **{**settings, **values}) for values in chosen]
    if labels is not None:
        _say_unasked(several[0])
    return several


def _say_unasked(draws: Draws) -> None:
    """One line about labels that were named and get no picture."""
    asked, num = draws.asked, draws.num
    if not asked.each and num < len(asked.names):
        left_out = few(asked.names[num:])
        say(f"of {len(asked.names)} labels the first {num} get a picture each; not {left_out}")


def write_samples(
    draws: Draws | Sequence[Draws],
    out: str | Path,
    kind: str = "png",
    grid: bool = True,
    animate: bool = True,
    fresh: bool = False,
) -> list[Written]:
    """Draw pictures and write them; one folder for each of several draws.

    What is in ``out`` already is not drawn again. Under torchrun each process draws its share, and
    every one of them has to call this.

    Args:
        draws: what is asked; several are of one network, number, labels and seed, and differ in
            their settings.
        out: directory of the pictures.
        kind: a word of `OUTPUTS`, such as png or npz.
        grid: write grid.png, and of several draws sweep.png and sweep.json, which names those that
            it shows, beside their folders.
        animate: write denoising.webp; of several strengths of guidance guidance.webp instead.
        fresh: draw anew what is there; only files that a record of ours names are removed, and the
            grids and animations of these.

    Returns:
        Written for each of the draws, the same on every process.

    Raises:
        ValueError: for draws that cannot be compared, pictures of other settings or files of
            somebody else in ``out``, an animation larger than WebP knows, or, under torchrun,
            processes that were asked for something else.
        OSError: if ``out`` cannot be written.

    >>> import tempfile
    >>> from vfn.sampling import untrained
    >>> trained = untrained("digits")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     written = write_samples(trained.draws(2, steps=2), Path(out))
    ...     sorted(path.name for path in Path(out).iterdir())
    ['denoising.webp', 'grid.png', 'images', 'settings.json']
    >>> written[0].num, written[0].nfe
    (2, 2)
    """
    several = [draws] if isinstance(draws, Draws) else list(draws)
    with processes(str(several[0].trained.device) if several else "cpu") as world:
        with together(world):
            plan = SamplingPlan(several, given_path(out), kind, grid, animate, fresh)
            plan.check()
        check_alike(plan.job(), world)
        return _carried_out(plan.agreed(world), world)


@dataclass(frozen=True)
class SamplingPlan:
    """All that a job of sampling writes, before it draws; `write_samples` says what its parts are.

    >>> from vfn.sampling import untrained
    >>> SamplingPlan([untrained("digits").draws(2)], Path("samples"), "gif").check()
    Traceback (most recent call last):
    ValueError: unknown format 'gif', expected one of png, npz, ...
    """

    several: Sequence[Draws]
    out: Path
    kind: str = "png"
    grid: bool = True
    animate: bool = True
    fresh: bool = False

    @cached_property
    def folders(self) -> "list[_Folder]":
        """A folder for each of the draws; its name tells in what they differ."""
        return _folders(self.several, self.out, self.kind)

    @property
    def films(self) -> bool:
        """Whether the pictures are filmed on their way out of the noise."""
        return self.animate and len(self.folders) == 1 and not (self.out / DENOISING).exists()

    def check(self) -> None:
        """Refuse what would fail once pictures are drawn; nothing is written.

        Raises:
            ValueError: for draws that cannot be compared, names that no file can hold, pictures of
                other settings or files of somebody else in ``out``, an animation larger than WebP
                knows, or a disk without room.
            OSError: if ``out`` cannot be written.
        """
        _check_names(self.folders[0].draws)
        _check_kind(self.kind, self.folders[0].draws)
        if self.animate:
            _check_animation(self.folders, self.grid)
        for folder in self.folders:
            if not self.fresh:
                check_record(folder.output, folder.path, folder.record)
        check_places([folder.path for folder in self.folders], self.out)
        check_place(self.folders[0].path / RECORD)
        _check_room(self.folders, self.out)

    def job(self) -> dict[str, Any]:
        """All that is asked, by the names that people know; processes have to agree on it."""
        parts: dict[str, Any] = {"out": [str(folder.path.resolve()) for folder in self.folders]}
        for folder in self.folders:
            for name, value in folder.record.items():
                parts.setdefault(name, []).append(value)
        how = {"grid": self.grid, "animate": self.animate, "fresh": self.fresh}
        return parts | how

    def agreed(self, world: World) -> "SamplingPlan":
        """The plan with batches that fit on every process, which then share out the same ones.

        Args:
            world: the processes; all of them have to call this, with plans of the same job.

        Returns:
            SamplingPlan.
        """
        several = []
        for draws in self.several:
            batch = smallest(draws.settings.sample_batch, world)
            several.append(replace(draws, settings=replace(draws.settings, sample_batch=batch)))
        return replace(self, several=several)


def _carried_out(plan: SamplingPlan, world: World) -> list[Written]:
    """Draw and write what a checked plan says."""
    wait_for_all(world)  # all have looked before the first of them writes
    if world.rank == 0:
        _begin(plan)
    wait_for_all(world)
    film = Film(plan.several[0]) if plan.films else None
    written = [_fill(folder, world, plan.grid, film) for folder in plan.folders]
    wait_for_all(world)
    if world.rank == 0:
        _finish(plan.folders, written, plan.grid)
        if film is not None:
            frames = film.frames() or denoising_frames(plan.several[0])
            save_animation(plan.out / DENOISING, frames, FRAME_MS, HOLD_MS)
        elif plan.grid and len(plan.folders) > 1:
            _compare(plan.folders, plan.out, plan.animate)
    wait_for_all(world)  # whoever comes back finds all files
    return written


@dataclass(frozen=True)
class _Folder:
    """One of the draws, and where it goes."""

    draws: Draws
    path: Path
    kind: str

    @cached_property
    def output(self) -> Output:
        return open_output(self.kind, self.path, self.draws.num)

    @cached_property
    def record(self) -> dict[str, Any]:
        record = self.draws.record()
        first = {name: record.pop(name) for name in ("seed", "num", "labels")}
        origin, legend = self.draws.trained.origin, self.draws.trained.shape.legend
        noted: dict[str, Any] = {"run": str(origin.resolve())} if origin else {}
        if legend.names:
            noted |= {"classes": [*legend.names], "tags": legend.tags}
        if split := self.draws.asked.split:
            noted["labels_from"] = split
        return {**first, "format": self.kind, **record, **noted}


def _folders(several: Sequence[Draws], out: Path, kind: str) -> list[_Folder]:
    """A folder for each of the draws; its name tells in what they differ."""
    if not several:
        raise ValueError("expected at least one Draws to write, got none")
    first, settings = several[0], [draws.settings for draws in several]
    for draws in several[1:]:
        alike = (draws.num, draws.seed, draws.asked.names) == (
            first.num,
            first.seed,
            first.asked.names,
        )
        if draws.trained is not first.trained or not alike:
            raise ValueError(
                "expected draws of one network, number, labels and seed, which differ in their "
                "settings; write others to another directory"
            )
    paths = [out / name for name in folder_names(settings, varied(settings))]
    if len(set(paths)) < len(paths):
        raise ValueError("expected draws whose settings differ, got some that are the same")
    return [_Folder(draws, path, kind) for draws, path in zip(several, paths, strict=True)]


def _check_names(draws: Draws) -> None:
    """Refuse names of labels that no table or grid of theirs can hold."""
    legend = draws.trained.shape.legend
    for name in legend.names:
        if not is_utf8(name):
            raise ValueError(
                f"the network has the label '{shortened(name)}', which is no UTF-8; name its "
                "labels anew in the data set, and train again"
            )


def _check_kind(kind: str, draws: Draws) -> None:
    """Refuse a format that does not hold the numbers of the data."""
    shape = draws.trained.shape
    if kind == "png" and not (shape.values.dtype == "uint8" and shape.channels in (1, 3)):
        raise ValueError(
            "expected format npz, npy, tiff or safetensors for "
            f"{shape.values.dtype} of {shape.channels} channels, got png, which holds 8 bits of "
            "one or three; use --format"
        )


def _check_room(folders: Sequence[_Folder], out: Path) -> None:
    """Refuse pictures that the disk has no room for."""
    count, size = 0, 0.0
    for folder in folders:
        draws, output = folder.draws, folder.output
        missing = draws.num - len(output.present())
        count += missing
        shape = draws.trained.shape
        each = math.prod(shape.size) * np.dtype(shape.values.dtype).itemsize
        size += room_for(output, missing, draws.num, each)
    check_space(out, size, f"{count} pictures", "name another --out, or fewer with --num")


def _check_animation(folders: Sequence[_Folder], grid: bool) -> None:
    """Refuse an animation that is too large before any picture is drawn."""
    first = folders[0].draws
    if len(folders) == 1:
        check_animation(_blank(animated_panel(first), first).size)
    elif grid and varied([folder.draws.settings for folder in folders]) in ANIMATED:
        shown = _blank(panel(first, COMPARED_ROWS), first)
        check_animation(titled_frames([("w", shown)])[0].size)


def _blank(shown: Panel, draws: Draws) -> Image:
    """A grid of pictures that are all black."""
    shape = draws.trained.shape
    kind = getattr(torch, shape.values.dtype)
    return shown.draw(torch.zeros((), dtype=kind).expand(len(shown.indices), *shape.size))


def check_places(folders: Sequence[Path], out: Path) -> None:
    """Refuse to write over files of somebody else.

    Args:
        folders: of the draws.
        out: ``--out``, where what compares several of them goes.

    Raises:
        ValueError: for such a file, or a record that cannot be read.
    """
    for folder in folders:
        check_own(folder)
    if len(folders) < 2 or any((folder / RECORD).exists() for folder in folders):
        return
    if any((path / RECORD).is_file() for path in out.glob("*/")):
        return
    for name in COMPARISON:
        if (out / name).exists():
            raise ValueError(
                f"{out / name} is there, and no pictures of vfn sample beside it; use another --out"
            )


def _begin(plan: SamplingPlan) -> None:
    """Make the folders ready; ``fresh`` removes what their records name, and what shows it."""
    for folder in plan.folders:
        if plan.fresh and (found := read_record(folder.path)):
            clear_recorded(folder.path, found)
            _remove(folder.path, GRID, DENOISING, RECORD)
            if len(plan.folders) > 1:
                _remove(plan.out, *COMPARISON)
        begin_folder(folder.path, folder.record)


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _fill(folder: _Folder, world: World, grid: bool, film: Film | None = None) -> Written:
    """Draw this process's share of the batches that are not there; ``film`` keeps the first."""
    # A batch that is there in part is drawn again whole, so that the same command gives the same
    # bytes whether it was killed or not.
    draws, output = folder.draws, folder.output
    present = output.present()
    wait_for_all(world)  # all have looked before the first of them writes
    batches = torch.arange(draws.num).split(draws.settings.sample_batch)
    missing = [batch for batch in batches if not present.issuperset(batch.tolist())]
    total, faults, nfe = sum(map(len, missing)), 0, 0
    with DrawingBar(draws, missing, world.size) as bar:
        for batch in missing[world.rank :: world.size]:
            drawn = bar.drawn(batch, film.watch(batch) if film else None)
            output.write(batch, drawn.images)
            if film:
                film.keep(batch, drawn.images)
            faults += drawn.not_finite
            nfe = max(nfe, drawn.nfe)
    nfe = largest(nfe, world)
    say_fault(int(gather(torch.tensor([faults]), world.size, world).sum()), total)
    if total:
        branches = branches_of(guidance_range(draws.trained.model), draws.settings.guidance)
        say(_cost(total, draws.settings, nfe, branches, draws.weak is not None))
    there = draws.num - total
    if there:
        say(f"{folder.path}: {there} of {draws.num} pictures were there already")
    shown = folder.path / GRID if grid else folder.path
    return Written(folder.path, shown, draws.num, nfe, there)


def _cost(num: int, settings: SampleConfig, nfe: int, branches: int = 1, weak: bool = False) -> str:
    """What drawing took, in evaluations of the network.

    Args:
        num: pictures drawn.
        settings: how they were drawn.
        nfe: evaluations of the network for each picture.
        branches: of guidance, which double the batches where they are two.
        weak: whether a weaker network is evaluated as often.

    Returns:
        a line for people.

    >>> _cost(8, SampleConfig(guidance=1.0), 64, branches=2)
    '8 pictures drawn with abm2, NFE 64 of doubled batches for guidance'
    """
    most = "up to " if SOLVERS.find(settings.sampler).own_steps else ""
    doubled = " of doubled batches for guidance" if branches == 2 else ""
    more = f", and {most}{nfe} of the weaker network" if weak else ""
    return f"{num} pictures drawn with {settings.sampler}, NFE {most}{nfe}{doubled}{more}"


def _finish(folders: Sequence[_Folder], written: Sequence[Written], grid: bool) -> None:
    """Write what belongs to all pictures of each folder."""
    for folder, one in zip(folders, written, strict=True):
        draws = folder.draws
        every = torch.arange(draws.num)
        legend = draws.trained.shape.legend
        labels, texts = draws.asked.of(every), draws.asked.texts(every)
        folder.output.finish(labels, texts, legend.tags, legend.names)
        if grid:
            shown = panel(draws)
            save_png(one.shown, shown.draw(folder.output.read(shown.indices)))
        say(f"{draws.num} pictures at guidance {_strengths(draws)}: {one.shown}")


def _strengths(draws: Draws) -> str:
    """How strong the guidance is, and by what weaker network."""
    settings, weak = draws.settings, draws.weak
    if weak is None:
        return f"{settings.guidance:.7g}"
    where = "" if settings.guide_step is not None else f" of {shortened(str(settings.guide_with))}"
    by = f"away from step {weak.step:,}{where} at {settings.guide_weight:.7g}"
    return f"{settings.guidance:.7g} and {by}"


def _compare(folders: Sequence[_Folder], out: Path, animate: bool) -> None:
    """Write what compares the folders, in place of what compared others."""
    names = [folder.path.name for folder in folders]
    if compared_folders(out) != names:
        _remove(out, *COMPARISON)
        write_json(out / COMPARED, {"folders": names})
    several = [folder.draws for folder in folders]
    blocks = comparison(several, [folder.output.read for folder in folders])
    save_png(out / SWEEP, sheet(blocks))
    say(f"comparison: {out / SWEEP}")
    if animate and varied([draws.settings for draws in several]) in ANIMATED:
        save_animation(out / GUIDANCE, titled_frames(blocks), GUIDANCE_MS, GUIDANCE_MS)


def compared_folders(out: Path) -> list[str] | None:
    """Which folders the sheet of a comparison shows.

    Args:
        out: where they are, and the sheet.

    Returns:
        their names; None where nothing says so, as beside sheets of earlier versions.
    """
    try:
        names = read_json(out / COMPARED)["folders"]
    except (ValueError, TypeError, KeyError):  # none, or one that somebody has edited
        return None
    return names if isinstance(names, list) else None
