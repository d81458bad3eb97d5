"""What `vfn sample` does once its options are parsed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vfn import __version__
from vfn.configs import SampleConfig
from vfn.data import to_uint8
from vfn.distributed import World, join_world, largest, leave_world
from vfn.model import check_sampling
from vfn.pictures import grid, save_animation, save_png, sheet, titled_frames
from vfn.progress import Progress, Say
from vfn.runs.checkpoint import digest
from vfn.sampling.asked import Asked, asked_labels
from vfn.sampling.output import RECORD, Output, check_record, open_output, prepare
from vfn.sampling.trained import Trained, open_trained

STEPS = "sample_timesteps"
MOVIE = "denoising.webp"
PER_LABEL = 10
GRID_COLUMNS, GRID_ROWS = 20, 10  # most columns of labels, and most rows, of a grid
PLAIN_COLUMNS = 10  # without labels
COMPARED_ROWS = 4
FRAMES, FRAME_MS, HOLD_MS = 32, 60, 1500
GUIDANCE_MS = 700
ANIMATED = 50


class Variant(NamedTuple):
    """One of the settings that are compared, and where it goes."""

    settings: SampleConfig
    folder: Path
    output: Output


class Job(NamedTuple):
    """What all variants have in common."""

    trained: Trained
    asked: Asked
    num: int
    seed: int
    world: World
    say: Say

    @property
    def named(self) -> bool:
        return bool(self.asked.names)

    def record(self, settings: SampleConfig, kind: str, ema: bool) -> dict[str, Any]:
        """All that the pictures depend on; the batch is not among it."""
        checkpoint = self.trained.checkpoint
        values = {
            "seed": self.seed,
            "num": self.num,
            "labels": self.asked.names,
            "format": kind,
            "step": checkpoint.step,
            "parameters": "ema" if ema else "raw",
            "sha256": digest(checkpoint.ema if ema else checkpoint.params),
            "precision": self.trained.precision,
            "version": __version__,
            **asdict(settings),
        }
        del values["sample_batch"]
        return json.loads(json.dumps(values))

    def draw(self, settings: SampleConfig, indices: Tensor, **watchers: Any) -> Tensor:
        labels = self.asked.of(indices)
        return self.trained.generate(settings, labels, indices, self.seed, **watchers)


def sample_to_directory(
    checkpoint: Path,
    out: Path,
    num: int | None,
    labels: str | None,
    tags: Sequence[str],
    seed: int,
    kind: str,
    grid_image: bool,
    animate: bool,
    device: str,
    ema: bool,
    precision: str,
    compiled: bool,
    fresh: bool,
    compared: dict[str, Sequence[Any]],
    overrides: dict[str, Any],
    say: Say,
) -> None:
    """Sample, and write pictures, grid and animation; one folder for each of several settings.

    What is in ``out`` already is not drawn again. Under torchrun each process draws its share.

    Args:
        checkpoint: a run directory or checkpoint file.
        out: directory of the pictures.
        num: how many; `PER_LABEL` for each label if None.
        labels: see `asked_labels`.
        tags: likewise.
        seed: of the noise.
        kind: png, npz or safetensors.
        grid_image: write grid.png.
        animate: write denoising.webp, or guidance.webp of several strengths.
        device: see `choose_device`.
        ema: averaged or raw parameters.
        precision: fp32 or bf16.
        compiled: compile the network.
        fresh: draw anew what is there.
        compared: values of ``sampler``, ``sample_timesteps`` and ``guidance``, each perhaps empty.
        overrides: other settings of sampling.
        say: takes lines for the user.

    Raises:
        ValueError: for settings, labels or checkpoints that do not fit, or pictures of other
            settings in ``out``.
        OSError: if ``out`` cannot be written.
    """
    world = join_world(device)
    try:
        trained = open_trained(checkpoint, device, say, ema, precision, compiled)
        asked = asked_labels(trained.checkpoint.shape, labels, tags)
        count = num or PER_LABEL * (len(asked.labels) if asked.names else PLAIN_COLUMNS)
        quiet = world.rank > 0
        job = Job(trained, asked, count, seed, world, (lambda _: None) if quiet else say)
        base = trained.checkpoint.config.sample
        chosen = _combinations(compared)
        settings = [replace(base, **overrides, **values) for values in chosen]
        variants = _variants(settings, out, kind, count)
        for variant in variants:
            check_sampling(
                variant.settings,
                trained.checkpoint.config.diffusion,
                trained.checkpoint.shape,
                trained.model.guidance_range,
            )
            if not fresh:
                record = job.record(variant.settings, kind, ema)
                check_record(variant.output, variant.folder, record)
        _together(world)  # all have looked before the first of them writes
        if not quiet:
            for variant in variants:
                _begin(variant, job.record(variant.settings, kind, ema), fresh)
        _together(world)
        for variant in variants:
            _fill(job, variant)
        _together(world)
        if not quiet:
            _finish(job, variants, out, grid_image, animate)
    finally:
        leave_world(world)


def _together(world: World) -> None:
    """Wait for all processes."""
    largest(0, world)


def _combinations(compared: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values that are given.

    >>> _combinations({"sampler": (), "guidance": [0.0, 1.0, 0.0]})
    [{'guidance': 0.0}, {'guidance': 1.0}]
    """
    given = {name: dict.fromkeys(values) for name, values in compared.items() if values}
    return [dict(zip(given, values, strict=True)) for values in product(*given.values())]


def _variants(settings: Sequence[SampleConfig], out: Path, kind: str, num: int) -> list[Variant]:
    """A folder for each of the settings; its name tells in what they differ."""
    varied = _varied(settings)
    folders = [out / "-".join(_folder_part(name, one) for name in varied) for one in settings]
    return [
        Variant(one, folder, open_output(kind, folder, num))
        for one, folder in zip(settings, folders, strict=True)
    ]


def _varied(settings: Sequence[SampleConfig]) -> list[str]:
    """In which fields the settings differ."""
    tables = [asdict(one) for one in settings]
    return [name for name in tables[0] if any(t[name] != tables[0][name] for t in tables)]


def _folder_part(name: str, settings: SampleConfig) -> str:
    short = {STEPS: f"steps{settings.sample_timesteps}", "guidance": f"w{settings.guidance:g}"}
    return short.get(name, settings.sampler)


def _begin(variant: Variant, record: dict[str, Any], fresh: bool) -> None:
    """Make the folder ready; ``fresh`` empties it first."""
    if fresh:
        variant.output.clear()
        for name in (RECORD, MOVIE):
            (variant.folder / name).unlink(missing_ok=True)
    prepare(variant.folder, record)


def _fill(job: Job, variant: Variant) -> None:
    """Draw this process's share of the batches that are not there.

    A batch that is there in part is drawn again whole, so that the same command gives the same
    bytes whether it was killed or not.
    """
    present = variant.output.present()
    _together(job.world)  # all have looked before the first of them writes
    batches = torch.arange(job.num).split(variant.settings.sample_batch)
    missing = [batch for batch in batches if not present.issuperset(batch.tolist())]
    total, done, evaluations = sum(map(len, missing)), 0, [0]
    with Progress(total, job.say, shown=job.world.rank == 0) as progress:
        for batch in missing[job.world.rank :: job.world.size]:
            pictures = job.draw(variant.settings, batch, count=evaluations.append)
            variant.output.write(batch, pictures)
            done += len(batch)
            progress.show(min(total, done * job.world.size))
    if total:
        job.say(_cost(total, variant.settings, max(evaluations)))
    if total < job.num:
        job.say(f"{variant.folder}: {job.num - total} of {job.num} pictures were there already")


def _cost(num: int, settings: SampleConfig, nfe: int) -> str:
    """What drawing took, in evaluations of the network.

    >>> _cost(8, SampleConfig(guidance=1.0), 64)
    '8 pictures drawn with ddim, NFE 64 of doubled batches for guidance'
    """
    most = "up to " if settings.sampler == "adaptive" else ""
    doubled = " of doubled batches for guidance" if settings.guidance else ""
    return f"{num} pictures drawn with {settings.sampler}, NFE {most}{nfe}{doubled}"


def _finish(
    job: Job, variants: Sequence[Variant], out: Path, grid_image: bool, animate: bool
) -> None:
    """Write what belongs to all pictures of each variant, and what compares them."""
    every = torch.arange(job.num)
    names = [job.asked.name(i) for i in range(job.num)] if job.named else []
    for settings, folder, output in variants:
        output.finish(job.asked.of(every), names, job.asked.labels.ndim == 2)
        shown = folder
        if grid_image:
            shown, table = folder / "grid.png", _table(job, GRID_ROWS)
            save_png(shown, table.draw(output.read(table.indices)))
        job.say(f"{job.num} pictures at guidance {settings.guidance:g}: {shown}")
    if len(variants) > 1:
        if grid_image:
            _compare(job, variants, out, animate)
    elif animate and not (out / MOVIE).exists():
        _animate(job, variants[0].settings, out / MOVIE)


class _Table(NamedTuple):
    """Which pictures a grid shows, and the texts beside it."""

    indices: Tensor
    columns: int
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()

    def draw(self, images: Tensor) -> Image.Image:
        return grid(
            images, self.columns, row_labels=self.row_labels, column_labels=self.column_labels
        )


def _table(job: Job, rows: int) -> _Table:
    """The combinations of tags, or some rows with a column for each label."""
    asked = job.asked
    if asked.columns:
        indices = torch.arange(min(job.num, len(asked.labels)))
        columns = min(len(indices), len(asked.columns))
        lines = -(-len(indices) // columns)
        return _Table(indices, columns, asked.rows[:lines], asked.columns[:columns])
    turn = len(asked.labels) if job.named else PLAIN_COLUMNS
    columns = min(job.num, turn, GRID_COLUMNS)
    every = torch.arange(min(job.num, rows * turn))
    return _Table(every[every % turn < columns], columns, (), asked.names[:columns])


def _compare(job: Job, variants: Sequence[Variant], out: Path, animate: bool) -> None:
    """Write sweep.png, and of several strengths alone guidance.webp."""
    blocks = _blocks(job, variants)
    save_png(out / "sweep.png", sheet(blocks))
    job.say(f"comparison: {out / 'sweep.png'}")
    if animate and _varied([variant.settings for variant in variants]) == ["guidance"]:
        save_animation(out / "guidance.webp", titled_frames(blocks), GUIDANCE_MS, GUIDANCE_MS)


def _blocks(job: Job, variants: Sequence[Variant]) -> list[tuple[str, Image.Image]]:
    """Titled grids: one a variant, or, of several numbers of steps, one with a row for each."""
    varied = _varied([variant.settings for variant in variants])
    if STEPS not in varied:
        table = _table(job, COMPARED_ROWS)
        return [
            (_title(settings, varied), table.draw(output.read(table.indices)))
            for settings, _, output in variants
        ]
    count = min(job.num, len(job.asked.labels) if job.named else PLAIN_COLUMNS, GRID_COLUMNS)
    first = torch.arange(count)
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(_title(variant.settings, varied), []).append(variant)
    blocks = []
    for title, group in groups.items():
        rows = [f"{variant.settings.sample_timesteps} steps" for variant in group]
        table = _Table(first, count, rows, job.asked.names[:count])
        blocks.append((title, table.draw(torch.cat([v.output.read(first) for v in group]))))
    return blocks


def _title(settings: SampleConfig, varied: Sequence[str]) -> str:
    """What tells a block from the others: solver and strength, as far as they differ."""
    parts = {"sampler": settings.sampler, "guidance": f"w = {settings.guidance:g}"}
    told = [text for name, text in parts.items() if name in varied]
    return ", ".join(told or parts.values())


def _animate(job: Job, settings: SampleConfig, path: Path) -> None:
    """Draw the first pictures again, keeping some of the states on the way."""
    table = _table(job, 1)
    table = _table(job, max(1, ANIMATED // table.columns))
    steps = settings.sample_timesteps
    wanted = {round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}
    states: list[Tensor] = []

    def watch(i: int, z: Tensor, _x0: Tensor) -> None:
        if i in wanted:
            states.append(to_uint8(z).cpu())

    whole = replace(settings, sample_batch=len(table.indices))
    final = job.draw(whole, table.indices, watch=watch)
    save_animation(path, [table.draw(state) for state in [*states, final]], FRAME_MS, HOLD_MS)
