"""Features of finished batches on disk, so that an extraction that was killed goes on."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from vfn.evaluation.extractors import Extractor, Outputs
from vfn.files import make_directory, write_atomic

SHARDS = "features"  # folder of the data directory


@contextmanager
def resumable(extractor: Extractor, folder: Path, device: torch.device) -> Iterator[Extractor]:
    """The extractor with a file for each batch that is done; without error they go at the end.

    A shard's name is a hash of the pictures, of what identifies the extractor (with its weights and
    resize) and of where it computes; its content begins with a hash of both. So one that is
    damaged, or of something else, is computed and written again. Functions without weights are not
    identified by their name, and cheap: they are left as they are.

    Args:
        extractor: what computes the features.
        folder: of the shards; processes and evaluations may share it.
        device: where it computes.

    Yields:
        Extractor.

    Raises:
        OSError: if a shard cannot be written.
    """
    if "weights_sha256" not in extractor.provenance:
        yield extractor
        return
    make_directory(folder)
    identity = json.dumps([extractor.provenance, torch.__version__, device.type])
    used = set()

    def run(images: Tensor) -> Outputs:
        name = _name(identity, images)
        used.add(name)
        path = folder / f"{name}.shard"
        found = _read(path, name)
        if found is None:
            found = extractor.run(images)
            _write(path, name, found)
        return found

    yield extractor._replace(run=run)
    with suppress(OSError):  # others' shards are in it, or it went with the last of theirs
        for path in folder.iterdir():
            if path.name.lstrip(".").partition(".")[0] in used:  # with what a kill has left of it
                path.unlink(missing_ok=True)
        folder.rmdir()


def _name(identity: str, images: Tensor) -> str:
    digest = hashlib.sha256(f"{identity} {list(images.shape)} ".encode())
    digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()


def _seal(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + content).digest()


def _read(path: Path, name: str) -> Outputs | None:
    """What a shard holds; None if there is none, or it is damaged or of something else."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    size = len(_seal("", b""))
    seal, content = whole[:size], whole[size:]
    return Outputs(**load(content)) if seal == _seal(name, content) else None


def _write(path: Path, name: str, out: Outputs) -> None:
    parts = {key: part.contiguous() for key, part in out._asdict().items() if part is not None}
    content = save(parts)
    whole = _seal(name, content) + content
    try:
        write_atomic(path, whole, durable=False)
    except FileNotFoundError:  # another job has removed the folder as the last one that was in it
        write_atomic(path, whole, durable=False)
