"""A side of an evaluation as features and statistics: extracted, shared out, stored and read."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vfn.data.cache_info import parse_values
from vfn.distributed import ALONE, World, gather, share, smallest
from vfn.evaluation.extractors import Extractor, Outputs
from vfn.files import given_path, short, write_atomic
from vfn.ops import Gaussian, Moments, gaussian, merge_moments, moments
from vfn.progress import Progress

BATCH = 64
MERGED = 32  # batches at a time: merging costs D^2, however few rows
# What identifies features: with others a distance means nothing.
_IDENTITY = ("extractor", "weights_sha256", "layers", "resize")


class Statistics(NamedTuple):
    """What a metric needs of a side.

    num: pictures; None where a file does not say. gaussian: None for fewer than two pictures, if
    not asked for, or where the features say as much in less memory. features: float32 [N, D],
    logits [N, K]: None if not kept, or there are none.
    provenance: what they were computed with and of.
    """

    num: int | None
    gaussian: Gaussian | None
    features: Tensor | None
    logits: Tensor | None
    provenance: dict[str, Any]


def compute_statistics(
    images: Tensor,
    extractor: Extractor,
    world: World = ALONE,
    covariance: bool = True,
    keep: bool = True,
    lean: bool = False,
) -> Statistics:
    """Features of pictures, and their mean and covariance, by all processes together.

    Every batch has the same size whatever the number of processes, so features do not depend on
    it. Mean and covariance run along in float64: without ``keep`` the memory does not grow.

    Args:
        images: uint8 [N, C, H, W], N >= 1; the same on every process.
        extractor: gives the features.
        world: the processes; all of them have to call this.
        covariance: whether to compute mean and covariance.
        keep: whether to keep the features.
        lean: make no covariance [D, D] of pictures that are no more than their features, if these
            are kept: `vfn.ops.frechet_distance_of_features` needs none.

    Returns:
        Statistics, the same on every process.

    Raises:
        ValueError: if the extractor gives something else than [B, D].

    >>> from vfn.evaluation.extractors import PIXELS
    >>> images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    >>> compute_statistics(images, PIXELS).features.shape
    torch.Size([5, 4])
    """
    count = len(images)
    size = min(BATCH, count)
    batches = -(-count // size)
    kept: list[Outputs] = []
    running: Moments | None = None
    waiting: list[Tensor] = []
    mine = share(batches, world).tolist()
    with Progress(len(mine) * size, "picture", f"{extractor.name} features") as progress:
        for place, number in enumerate(mine):
            rows = (torch.arange(size) + number * size).clamp(max=count - 1)
            with torch.no_grad():  # it may be a network of the user's
                out = _checked(extractor.run(images[rows]), size, extractor.name)
            if keep:
                kept.append(out)
            covariance = covariance and not (lean and keep and count <= out.features.shape[1])
            # Repeated pictures and batches, which make all shares alike, do not count.
            new = count - number * size if world.rank * len(mine) + place < batches else 0
            if covariance:
                waiting.append(out.features[: max(0, new)])
            if waiting and (len(waiting) == MERGED or place == len(mine) - 1):
                running, waiting = _absorb(running, waiting), []
            progress.advance(size)
    merged = _merge(running, out.features.shape[1], world) if covariance else None
    features, logits = (_join(column, batches, count, world) for column in _columns(kept))
    return Statistics(
        count,
        gaussian(merged) if merged and count > 1 else None,
        features,
        logits,
        extractor.provenance,
    )


class Kept:
    """Statistics of sides that come again in several evaluations by one extractor.

    What is kept of a side is that of its pictures which came last.

    >>> from vfn.evaluation.extractors import PIXELS
    >>> kept, images = Kept(), torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    >>> first = kept.statistics("real", images, PIXELS, ALONE, covariance=True)
    >>> kept.statistics("real", images.clone(), PIXELS, ALONE, covariance=True) is first
    True
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[Tensor, bool, Statistics]] = {}

    def statistics(
        self, side: str, images: Tensor, extractor: Extractor, world: World, covariance: bool
    ) -> Statistics:
        """`compute_statistics` that is lean, unless the same pictures came before.

        Args:
            side: its name.
            images: uint8 [N, C, H, W].
            extractor: gives the features.
            world: the processes; all of them have to call this.
            covariance: whether to compute mean and covariance.

        Returns:
            Statistics.
        """
        if not smallest(int(self._holds(side, images, covariance)), world):  # all, or none
            found = compute_statistics(images, extractor, world, covariance, lean=True)
            self._last[side] = images, covariance, found
        return self._last[side][2]

    def _holds(self, side: str, images: Tensor, covariance: bool) -> bool:
        if side not in self._last:
            return False
        known, with_covariance, _ = self._last[side]
        same = (known.dtype, with_covariance) == (images.dtype, covariance)
        return same and torch.equal(known, images)


def save_statistics(path: str | Path, statistics: Statistics) -> None:
    """Write statistics as npz: ``mu`` and ``sigma`` as pytorch-fid reads them, and the rest.

    Raises:
        OSError: if it cannot be written.

    >>> from vfn.evaluation.extractors import PIXELS
    >>> images = torch.randint(256, (9, 1, 2, 2), dtype=torch.uint8)
    >>> save_statistics("nine.npz", compute_statistics(images, PIXELS))
    >>> sorted(np.load("nine.npz").files)
    ['count', 'features', 'mu', 'provenance', 'sigma']
    """
    arrays: dict[str, Any] = {"provenance": json.dumps(statistics.provenance)}
    if statistics.num is not None:
        arrays["count"] = statistics.num
    if statistics.gaussian:
        arrays |= {"mu": statistics.gaussian.mean.numpy(), "sigma": statistics.gaussian.cov.numpy()}
    for name in ("features", "logits"):
        if (value := getattr(statistics, name)) is not None:
            arrays[name] = value.numpy()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomic(path, buffer.getvalue())


def holds_statistics(path: Path, with_pictures: bool) -> bool:
    """Whether a file is an npz with a mean or features.

    Args:
        path: any path.
        with_pictures: whether one that holds pictures as well, as ADM's do, counts.

    Returns:
        whether it does; False too if it cannot be read.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            names = set(file.files)
            return bool({"mu", "features"} & names) and (with_pictures or "arr_0" not in names)
    except Exception:  # no npz; whoever reads it next says so
        return False


def read_statistics(path: str | Path, extractor: Extractor | None = None) -> Statistics:
    """Statistics that `save_statistics`, pytorch-fid or ADM's evaluator has written.

    Args:
        path: npz with ``mu`` and ``sigma``, or with ``features``, or both.
        extractor: that of the other side; None where it is compared later.

    Returns:
        Statistics.

    Raises:
        ValueError: if the file is damaged, or its features are others than the extractor's.

    >>> from vfn.evaluation.extractors import PIXELS
    >>> images = torch.randint(256, (9, 1, 2, 2), dtype=torch.uint8)
    >>> save_statistics("nine.npz", compute_statistics(images, PIXELS))
    >>> read_statistics("nine.npz").num
    9
    """
    path = given_path(path)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files if name in _STORED}
        provenance = json.loads(str(found.get("provenance", "{}")))
        json.dumps(provenance, allow_nan=False, ensure_ascii=False).encode()
    except Exception as error:  # zip and npy readers raise nearly anything
        raise ValueError(f"{path} is no file of statistics: {short(str(error))}") from None
    _check_stored(path, found, provenance)
    for name in ("mu", "sigma", "features", "logits"):
        if name in found and not np.isfinite(found[name]).all():
            raise ValueError(f"{name} in {path} is not finite; compute it again")
    if extractor is not None:
        own = {"values": provenance.get("values")}  # of the pictures, not of the extractor
        check_identity(provenance, extractor.provenance | own, str(path))
    features, logits = (
        torch.from_numpy(found[name]).float() if name in found else None
        for name in ("features", "logits")
    )
    fitted = _read_gaussian(found, path) if "mu" in found else None
    if features is not None and features.ndim != 2:
        raise ValueError(f"expected features of shape [N, D] in {path}, got {list(features.shape)}")
    if features is not None and fitted is None and len(features) > features.shape[1]:
        fitted = gaussian(moments(features))
    count = int(found["count"]) if "count" in found else None
    count = len(features) if features is not None else count
    return Statistics(count, fitted, features, logits, provenance or {"file": path.name})


_ASYMMETRY = 1e-3  # of a covariance, relative; beyond what half precision rounds to


def check_identity(found: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> None:
    """Refuse features that are others than ours.

    Args:
        found: what statistics say of their features; what they do not say is not compared, but
            for ``values``, what the numbers of their pictures mean: without, they are of 8 bits.
        ours: the same of the other side, as far as it is known.
        where: the statistics' file.

    Raises:
        ValueError: it names the first difference.
    """
    for name in _IDENTITY:
        if name in found and found[name] != ours.get(name):
            raise ValueError(
                f"{where} has features with {name} {short(found[name])}, and this evaluation "
                f"{ours.get(name)}; compute both with the same"
            )
    theirs, mine = (parse_values(each.get("values")) for each in (found, ours))
    if theirs != mine:
        told = [each.describe() for each in (theirs, mine)]
        scaled = " scaled otherwise" if told[0] == told[1] else ""
        raise ValueError(
            f"{where} has features of numbers {told[0]}, and this evaluation {told[1]}{scaled}; "
            "store those of the run's own pictures (vfn.evaluation.store_reference), or give "
            "pictures"
        )


# What a file of statistics may hold, and of how many dimensions.
_STORED = {"mu": 1, "sigma": 2, "features": 2, "logits": 2, "count": 0, "provenance": 0}


def _check_stored(path: Path, found: dict[str, np.ndarray], provenance: Any) -> None:
    """Refuse parts of a file that are not what their names say."""
    if not isinstance(provenance, dict):
        raise ValueError(f"expected provenance in {path} to be an object, got {short(provenance)}")
    try:
        parse_values(provenance.get("values"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); compute it again") from None
    for name, array in found.items():
        if name == "provenance":
            continue
        kinds = "iu" if name == "count" else "fiu"
        if not isinstance(array, np.ndarray):  # a member of another name than numpy's
            raise ValueError(f"expected {name} in {path} to be an array, got bytes")
        if array.dtype.kind not in kinds or array.ndim != _STORED[name] or not array.size:
            raise ValueError(
                f"expected {name} in {path} to be numbers of {_STORED[name]} dimensions, got "
                f"{array.dtype} {list(array.shape)}"
            )
    if not {"mu", "features"} & found.keys() or ("mu" in found and "sigma" not in found):
        raise ValueError(f"expected mu and sigma, or features, in {path}, got {', '.join(found)}")
    if "count" in found and not 1 <= int(found["count"]) < 2**53:
        raise ValueError(f"expected count in {path} to be at least 1, got {found['count']}")
    rows = {name: len(found[name]) for name in ("features", "logits") if name in found}
    if len({*rows.values()}) > 1:
        raise ValueError(f"expected as many logits as features in {path}, got {rows}")


def _read_gaussian(found: dict[str, np.ndarray], path: Path) -> Gaussian:
    mean, cov = (torch.from_numpy(np.asarray(found[k], np.float64)) for k in ("mu", "sigma"))
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"expected mu [D] and sigma [D, D] in {path}, got {list(mean.shape)} and "
            f"{list(cov.shape)}"
        )
    apart = (cov - cov.T).abs().max() > _ASYMMETRY * cov.abs().max()
    if apart or (cov.diagonal() < 0).any():
        raise ValueError(
            f"expected sigma in {path} to be a covariance, symmetric and without negative variances"
        )
    return Gaussian(mean, cov)


def checked_outputs(out: Outputs, size: int, name: str) -> Outputs:
    """What an extractor gives, on the CPU; refuse what are no features of as many pictures.

    Args:
        out: of an extractor, which may compute anywhere.
        size: pictures it was given.
        name: of the extractor.

    Returns:
        Outputs.

    Raises:
        ValueError: for anything but a tensor [B, D].
    """
    found = out.features
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != size or not found.shape[1]:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"expected {name} to give features [{size}, D], got {shape}")
    return Outputs(found.cpu(), None if out.logits is None else out.logits.cpu())


def _checked(out: Outputs, size: int, name: str) -> Outputs:
    out = checked_outputs(out, size, name)
    for kind, values in out._asdict().items():
        if values is not None and not values.float().isfinite().all():
            raise ValueError(
                f"{name} gives {kind} that are not finite numbers of float32; are its weights "
                "damaged?"
            )
    return out


def _columns(kept: list[Outputs]) -> tuple[list[Tensor] | None, list[Tensor] | None]:
    """Features of all batches, and logits; None where there are none."""
    if not kept:
        return None, None
    logits = [out.logits for out in kept if out.logits is not None]
    return [out.features for out in kept], logits or None


def _join(column: list[Tensor] | None, batches: int, count: int, world: World) -> Tensor | None:
    """Every process's batches, [batches, size, D], as the rows of all pictures."""
    if column is None:
        return None
    return gather(torch.stack(column).float(), batches, world).flatten(0, 1)[:count]


def _absorb(running: Moments | None, waiting: list[Tensor]) -> Moments | None:
    """Moments with some more rows."""
    rows = torch.cat(waiting)
    if not len(rows):
        return running
    return merge_moments(running, moments(rows)) if running else moments(rows)


def _merge(running: Moments | None, width: int, world: World) -> Moments:
    """All processes' moments together, merged in the order of their numbers everywhere."""
    empty = Moments(0, torch.zeros(width).double(), torch.zeros(width, width).double())
    own = running or empty
    flat = torch.cat([own.mean.new_tensor([own.rows]), own.mean, own.scatter.flatten()])
    parts = [
        Moments(int(rows), mean, scatter.view(width, width))
        for rows, mean, scatter in (
            part.split([1, width, width * width]) for part in gather(flat[None], world.size, world)
        )
    ]
    merged, *others = [part for part in parts if part.rows]
    for part in others:
        merged = merge_moments(merged, part)
    return merged
