"""What `vfn eval reference` and `vfn eval --compare` do once their options are parsed."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vfn import __version__
from vfn.configs import DataConfig
from vfn.data import data_home, read_pictures
from vfn.distributed import join_world, leave_world
from vfn.evaluation.extractors import open_extractor
from vfn.evaluation.features import describe, save_statistics
from vfn.evaluation.plots import Point, draw_figures, is_number
from vfn.evaluation.shards import SHARDS, resumable
from vfn.files import make_directory, write_atomic


def store_reference(
    real: str,
    out: Path,
    features: str,
    weights: Path | None,
    keep: bool,
    device: str,
    data_dir: str | None,
) -> str:
    """Write the statistics of real pictures; a line that says what they are of.

    Raises:
        ValueError: for pictures or weights that do not fit.
        OSError: if ``out`` cannot be written.
    """
    if out.suffix != ".npz":
        raise ValueError(f"expected --out to end in .npz, got {out}")
    make_directory(out.parent)  # before hours of work
    world = join_world(device)
    try:
        extractor = open_extractor(features, weights, world.device)
        data = DataConfig(data_dir=data_dir)
        images = read_pictures(real, data).images
        if len(images) < 2:
            raise ValueError(f"a covariance needs at least 2 pictures, got {len(images)}")
        bar = tqdm(unit="image", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        with bar, resumable(extractor, data_home(data) / SHARDS, world.device) as kept:
            found = describe(
                images, kept, world, keep=keep, progress=lambda done: bar.update(done - bar.n)
            )
            provenance = {
                **found.provenance,
                "real": real,
                "shape": list(images.shape),
                "version": __version__,
                "torch": torch.__version__,
            }
            if not world.rank:
                save_statistics(out, found._replace(provenance=provenance))
        parts = "mean, covariance and features" if keep else "mean and covariance"
        return f"{out}: {parts} of {len(images)} pictures"
    finally:
        leave_world(world)


def compare(paths: list[Path], against: str, plot: Path | None) -> str:
    """A table of several evaluations, one a row, and a plot of every metric.

    Args:
        paths: JSON files of `vfn eval --json`.
        against: the setting that orders them, such as guidance, sample_timesteps, step or
            train_seconds.
        plot: picture file, or None.

    Returns:
        lines of text.

    Raises:
        ValueError: if a file holds no evaluation, or lacks the setting.
    """
    rows = sorted(
        ((path, _read(path, against)) for path in paths), key=lambda row: row[1].settings[against]
    )
    names = list(dict.fromkeys(name for _, point in rows for name in point.figures))
    head = [against, *names, "file"]
    cells = [
        [
            f"{settings[against]:g}",
            *(f"{figures[n]:.4f}" if n in figures else "" for n in names),
            str(path),
        ]
        for path, (settings, figures) in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    if plot:
        if plot.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"expected --plot to end in .png, .svg or .pdf, got {plot}")
        points = [point for _, point in rows]
        write_atomic(plot, draw_figures(points, against, plot.suffix[1:]))
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in (head, *cells)
    )


def _read(path: Path, against: str) -> Point:
    """An evaluation that has the setting."""
    try:
        record: Any = json.loads(path.read_bytes())
        settings = record["settings"]
        figures = {m["name"]: float(m["value"]) for m in record["metrics"]}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} holds no evaluation; expected a file of vfn eval --json"
        ) from None
    value = settings.get(against) if isinstance(settings, dict) else None
    if not is_number(value):
        raise ValueError(
            f"{path} has no number {against!r} among its settings; choose another --against"
        )
    return Point(settings, figures)
