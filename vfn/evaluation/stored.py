"""Statistics of real pictures in a file, as one side of evaluations to come."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vfn import __version__
from vfn.configs import DataConfig
from vfn.data import Dataset, data_home
from vfn.distributed import check_alike, processes, together
from vfn.evaluation.extractors import EXTRACTORS, Extractor, open_extractor
from vfn.evaluation.features import compute_statistics, save_statistics
from vfn.evaluation.opening import open_pictures
from vfn.evaluation.shards import SHARDS, resumable
from vfn.files import make_directory


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


def store_reference(
    real: str | Path | Tensor | Dataset,
    out: Path,
    features: str | Extractor = "pixels",
    keep: bool = True,
    device: str = "auto",
    data_dir: str | None = None,
) -> StoredReference:
    """Write the statistics of real pictures, by all processes; one that was killed goes on.

    Args:
        real: ``dataset:NAME[:split]``, a folder or an array file; a tensor or data set.
        out: .npz file.
        features: a word of `EXTRACTORS`, ``package.module:Name``, or an `Extractor`.
        keep: keep the features, for more than fid and is.
        device: auto, cpu or cuda.
        data_dir: where the data are; ``$VFN_DATA`` or a cache if None.

    Returns:
        StoredReference.

    Raises:
        ValueError: for pictures or weights that do not fit.
        OSError: if ``out`` cannot be written.
    """
    if out.suffix != ".npz":
        raise ValueError(f"expected --out to end in .npz, got {out}")
    if isinstance(features, str):
        EXTRACTORS.check(features)
    make_directory(out.parent)  # before hours of work
    data = DataConfig(data_dir=data_dir)
    with processes(device) as world:
        with together(world):
            if isinstance(features, str):
                features = open_extractor(features, None, world.device, data_dir)
            text, pictures = open_pictures(real, data)
            assert isinstance(pictures, Dataset)
            count = len(pictures.images)
            if count < 2:
                raise ValueError(f"a covariance needs at least 2 pictures, got {count}")
        job = {"real": text, "out": str(out.resolve()), "keep": keep, **features.provenance}
        check_alike({"pictures": count, **job}, world)
        with resumable(features, data_home(data) / SHARDS, world.device) as kept:
            found = compute_statistics(pictures.images, kept, world, keep=keep)
            provenance = {
                **found.provenance,
                "real": text,
                "shape": list(pictures.images.shape),
                "version": __version__,
                "torch": torch.__version__,
            }
            if not world.rank:
                save_statistics(out, found._replace(provenance=provenance))
    return StoredReference(out, count, keep)
