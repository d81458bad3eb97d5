"""What the pictures of a folder depend on: so that none of other settings come among them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfn.files import make_directory, read_json, remove_leftovers, shortened, write_json
from vfn.sampling.output import PARTS, Output, PngFolder, open_output

RECORD = "settings.json"
# In a record for those who read it; no picture depends on them.
NOTED = ("run", "classes", "tags", "labels_from")
# What may be spelt in other ways and be the same: a digest beside it tells.
_TOLD_BY_DIGEST = ("guide_with",)
# What is written beside the pictures; in a folder without a record it would be somebody else's.
_OURS = (
    "grid.png", "denoising.webp", "samples.npz", "samples.npy", "samples.safetensors", PARTS
)  # fmt: skip


def check_record(output: Output, folder: Path, record: dict[str, Any]) -> None:
    """Refuse to add to pictures that were drawn otherwise.

    Args:
        output: where pictures go.
        folder: the same as a path.
        record: all that the pictures depend on, as JSON can hold it.

    Raises:
        ValueError: if there are pictures of other settings; the first that differs is named.
    """
    found = read_record(folder)
    if found is None:
        if output.present():
            raise ValueError(f"{folder} holds pictures of unknown settings; use another --out")
        return
    advice = "use another --out, or --fresh to draw them anew"
    for name in sorted((record.keys() | found.keys()) - {*NOTED, *_TOLD_BY_DIGEST}):
        if found.get(name) != record.get(name):
            raise ValueError(
                f"{folder} holds pictures of other settings: {shortened(name)} "
                f"{_short(found.get(name))}, now {_short(record.get(name))}; {advice}"
            )


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the pictures of a folder depend on.

    Args:
        folder: where `begin_folder` was.

    Returns:
        the record, at least with ``seed``, ``num``, ``labels`` and ``format``; None if there is
        none.

    Raises:
        ValueError: if there is a file of that name which is no such record.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        found = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; mend it, or use another --out") from None
    whole = isinstance(found, dict) and all(
        type(found.get(name)) is int and 0 <= found[name] < 2**63 for name in ("seed", "num")
    )
    if not whole or not isinstance(found["num"], int) or found["num"] < 1:
        raise ValueError(_refusal(path, 'it has no whole "seed" and "num"'))
    labels = found.get("labels")
    if not isinstance(labels, list) or not all(isinstance(text, str) for text in labels):
        raise ValueError(_refusal(path, 'its "labels" are no list of texts'))
    if not isinstance(found.get("format"), str) or not isinstance(found.get("sha256"), str):
        raise ValueError(_refusal(path, 'it has no texts "format" and "sha256"'))
    if found.get("times"):  # earlier versions named a grid that they did not use
        found.pop("grid", None)
    return found


def check_own(folder: Path) -> None:
    """Refuse a folder without a record of ours, in which files are that would be written over.

    Args:
        folder: where pictures are to go.

    Raises:
        ValueError: for such a file, or a record that cannot be read.
    """
    if read_record(folder) is not None:
        return
    images = folder / "images"
    ours = [folder / name for name in _OURS]
    strange = [path for path in ours if path.exists()]
    if images.is_dir():
        strange += [path for path in images.iterdir() if not path.name.startswith(".")]
    if strange:
        raise ValueError(
            f"{strange[0]} is there, and no {RECORD} of vfn sample beside it; use another --out"
        )


def clear_recorded(folder: Path, record: Mapping[str, Any]) -> None:
    """Remove the pictures that a record names, and nothing else.

    Args:
        folder: where they are.
        record: as `read_record` gives it.
    """
    output = open_output(record["format"], folder, record["num"])
    if isinstance(output, PngFolder):
        output = replace(output, labelled=bool(record["labels"]))
    output.clear()


def begin_folder(folder: Path, record: dict[str, Any]) -> None:
    """Make a folder of pictures, note their settings, and clear away what a killed process left.

    Args:
        folder: where the pictures go.
        record: all that the pictures depend on, as JSON can hold it.

    Raises:
        ValueError: if there is a file in the way.
        OSError: if it cannot be made.
    """
    make_directory(folder)
    remove_leftovers(folder)
    for place in (folder / "images", folder / PARTS):
        remove_leftovers(place)
    if not (folder / RECORD).exists():
        write_json(folder / RECORD, record)


def _refusal(path: Path, fault: str) -> str:
    return f"{path} is no record of vfn sample: {fault}; use another --out"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
