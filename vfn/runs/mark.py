"""Which pictures a run is of: told from others by their content, wherever they are kept."""

import hashlib
from typing import NamedTuple

from vfn.data import Dataset, Labels, data_digest
from vfn.files import few, shortened
from vfn.model import DataShape, shape_of

_KIND = "vfn-data-1:"  # before today's digests; those of earlier versions stand alone


class DataMark(NamedTuple):
    """What a run remembers of its pictures: their number, and a digest of them and their labels."""

    pictures: int
    digest: str


def mark_of(dataset: Dataset) -> DataMark:
    """What a run remembers of its pictures.

    Args:
        dataset: those it is trained on.

    Returns:
        DataMark; equal for equal data sets, whatever their files are called.

    >>> from vfn.data import load_dataset
    >>> mark_of(load_dataset("digits")).pictures
    1437
    """
    return DataMark(len(dataset.images), _KIND + data_digest(dataset))


def other_pictures(dataset: Dataset, shape: DataShape, mark: DataMark | None) -> str:
    """In what pictures differ from those of a run.

    Args:
        dataset: the pictures.
        shape: of those of the run.
        mark: of those of the run; None in checkpoints of early versions.

    Returns:
        words after "other" in a message, empty if they are the same.

    >>> from vfn.data import load_dataset
    >>> digits, test = load_dataset("digits"), load_dataset("digits", "test")
    >>> other_pictures(test, shape_of(digits), mark_of(digits))
    'number of pictures 360, before 1437'
    """
    here = shape_of(dataset)
    faults = [f"sizes {here.size}, before {shape.size}"] if here.size != shape.size else []
    faults += _other_names(here.legend, shape.legend)
    if here.vector.names != shape.vector.names:
        now, then = (few(each.vector.names, 5) or "none" for each in (here, shape))
        faults.append(f"numbers of each picture {now}, before {then}")
    if here.values != shape.values:
        faults.append(f"numbers {here.values.describe()}, before {shape.values.describe()}")
    if here.beside != shape.beside:
        faults.append(f"channels beside the pictures {here.beside}, before {shape.beside}")
    if here.beside_values != shape.beside_values:
        now, then = (each.beside_values.describe() for each in (here, shape))
        faults.append(f"numbers beside the pictures {now}, before {then}")
    if not faults and mark is not None:
        if len(dataset.images) != mark.pictures:
            faults = [f"number of pictures {len(dataset.images)}, before {mark.pictures}"]
        elif mark.digest not in (mark_of(dataset).digest, _early_digest(dataset, mark)):
            faults = ["pictures, labels or conditions, as many as before"]
    return "; ".join(faults)


def seen_before(dataset: Dataset, shape: DataShape, mark: DataMark | None) -> str:
    """Whether held-out pictures may be known to a network, where others of their place were before.

    Args:
        dataset: the pictures to train on now; what is held out beside them is chosen by their
            number.
        shape: of those that the network was trained on.
        mark: of these; nothing is known without.

    Returns:
        words that say so of the network, empty if they are the same.

    >>> from vfn.data import load_dataset
    >>> digits, fewer = load_dataset("digits"), load_dataset("digits", "test")
    >>> seen_before(fewer, shape_of(digits), mark_of(digits)).partition(";")[0]
    'was trained on 1437 pictures, and there are 360 now'
    """
    if mark is None:
        return ""
    now = len(dataset.images)
    alike = shape_of(dataset) == shape  # in another size the same pictures look otherwise
    if now == mark.pictures and not (alike and other_pictures(dataset, shape, mark)):
        return ""
    return (
        f"was trained on {mark.pictures} pictures, and there are {now} now; some of those that are "
        "held out may have been among them"
    )


def _other_names(now: Labels, then: Labels) -> list[str]:
    """In what names of classes or tags differ; of many the first."""
    if now == then:
        return []
    if len(now.names) != len(then.names) or now.tags != then.tags:
        return [f"labels, {now.describe()}, before {then.describe()}"]
    pairs = enumerate(zip(now.names, then.names, strict=True), 1)
    number, (new, old) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
    kind = "tag" if now.tags else "class"
    return [f"names: {kind} {number} is {shortened(new)}, before {shortened(old)}"]


def _early_digest(dataset: Dataset, mark: DataMark) -> str:
    """The digest of earlier versions, which left the names out; nothing if it is not wanted."""
    if mark.digest.startswith(_KIND):
        return ""
    sha = hashlib.sha256()
    for values in (dataset.images, dataset.labels):
        if values is not None:
            sha.update(f"{values.dtype} {tuple(values.shape)};".encode())
            for part in values.split(1024):
                sha.update(part.contiguous().numpy())
    return sha.hexdigest()
