"""Statistics of real pictures in a file, as one side of evaluations to come."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from vfn import __version__
from vfn.data import Dataset, data_home
from vfn.data.resize import resized
from vfn.data.values import Values
from vfn.distributed import check_alike, processes, together
from vfn.evaluation.extractors import Extractor, check_extractor, check_given, open_extractor
from vfn.evaluation.features import compute_statistics, save_statistics
from vfn.evaluation.needs import comparable
from vfn.evaluation.opening import Pictures, open_pictures
from vfn.evaluation.planning import (
    check_room,
    checked_size,
    data_of,
    resize_settings,
    tried,
    values_settings,
)
from vfn.evaluation.shards import SHARDS, resumable
from vfn.files import check_place, check_space, given_path
from vfn.memory import in_memory
from vfn.runs.directory import run_of
from vfn.sampling import Trained, load


class StoredReference(NamedTuple):
    """The file, how many pictures it is of, and whether it holds their features."""

    path: Path
    pictures: int
    kept: bool

    @property
    def line(self) -> str:
        """What is stored, for people.

        Returns:
            a line of text.

        >>> StoredReference(Path("a.npz"), 9, kept=False).line
        'a.npz: mean and covariance of 9 pictures'
        """
        parts = "mean, covariance and features" if self.kept else "mean and covariance"
        return f"{self.path}: {parts} of {self.pictures} pictures"


@in_memory("computing statistics", "take fewer pictures, or leave out the features (--no-keep)")
def store_reference(
    real: Pictures,
    out: str | Path,
    features: str | Extractor = "pixels",
    *,
    run: str | Path | Trained | None = None,
    keep: bool = True,
    weights: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str = "auto",
    data_dir: str | None = None,
) -> StoredReference:
    """Write the statistics of real pictures, by all processes; one that was killed goes on.

    Args:
        real: ``dataset:NAME[:split]``, a folder or an array file; or pictures in memory, as of
            `judge`.
        out: .npz file.
        features: a word of `EXTRACTORS`, ``package.module:Name``, or an `Extractor`.
        run: whose pictures are to be compared with these: ``dataset:NAME`` is prepared as its data
            are, and numbers are taken in its units, as `judge` does beside it.
        keep: keep the features, for more than fid and is.
        weights: file of the features' network, as of `open_extractor`.
        image_size: what the pictures are brought to, as of `judge`.
        device: auto, cpu or cuda.
        data_dir: where the data are; ``$VFN_DATA`` or a cache if None.

    Returns:
        StoredReference.

    Raises:
        ValueError: for pictures or weights that do not fit, a run in place of pictures, or a disk
            without room.
        OSError: if ``out`` cannot be written.

    >>> from vfn.data import load_dataset
    >>> store_reference(load_dataset("digits", "test"), "digits.npz", device="cpu").line
    'digits.npz: mean, covariance and features of 360 pictures'
    """
    out = given_path(out)
    weights = None if weights is None else given_path(weights)
    if out.suffix != ".npz":
        raise ValueError(f"expected --out to end in .npz, got {out}")
    _check_real(real)
    size = checked_size(image_size)
    check_given(features)
    if isinstance(features, str):
        check_extractor(features, weights, data_dir)
    check_place(out)
    trained = None if run is None else _opened(run)
    data = data_of(trained, (), data_dir)
    with processes(device) as world:
        with together(world):
            text, content, _ = open_pictures(real, data, size, labelled=False)
            assert isinstance(content, Dataset)
            count = len(content.images)
            if count < 2:
                raise ValueError(f"a covariance needs at least 2 pictures, got {count}")
            if isinstance(features, str):
                features = open_extractor(features, weights, world.device, data_dir)
            values = _units_of(content) if trained is None else trained.shape.values
            images = resized(comparable(content, values, "real").images, size)
            features = tried(features, images[:2])
            room = check_room(features, count, data)
            wanted = (room if keep else 0) + 8 * (features.width or 0) ** 2
            check_space(out, wanted, "the statistics", "--no-keep")
        job = {"real": text, "out": str(out.resolve()), "keep": keep, **features.provenance}
        check_alike({"pictures": count, **job}, world)
        with resumable(features, data_home(data) / SHARDS, world.device) as kept:
            found = compute_statistics(images, kept, world, keep=keep)
            provenance = {
                **found.provenance,
                **resize_settings(size),
                **values_settings(values),
                "real": text,
                "shape": list(images.shape),
                "version": __version__,
                "torch": torch.__version__,
            }
            if not world.rank:
                save_statistics(out, found._replace(provenance=provenance))
    return StoredReference(out, count, keep)


def _check_real(real: object) -> None:
    """Refuse a run where pictures are expected: what lies in its folder is none of its data."""
    if (path := run_of(real)) is not None:
        raise ValueError(
            f"expected real pictures, got the run {path}; its own are dataset:NAME[:split], with "
            f"--run {path}"
        )


def _opened(run: str | Path | Trained) -> Trained:
    return run if isinstance(run, Trained) else load(run, "cpu")


def _units_of(pictures: Dataset) -> Values:
    """What the numbers of pictures mean, which statistics have to say."""
    values, kind = pictures.values, str(pictures.images.dtype).removeprefix("torch.")
    if values.plain and kind != "uint8":
        raise ValueError(
            f"expected 8-bit pictures, or others whose numbers have a meaning, got {kind}; give "
            "vfn.data.as_dataset(pictures, values=), or with --run a network of such numbers"
        )
    return values
