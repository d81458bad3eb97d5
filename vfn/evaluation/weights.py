"""Networks of extractors with their weights, which are hashed before a network sees them.

Files are read by us, with ``weights_only=True``: nothing in them is run.
"""

import hashlib
import io
import os
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from vfn.configs import DataConfig
from vfn.data import data_home
from vfn.evaluation.extractors import Extractor, Features, Outputs
from vfn.files import given_path, locked, make_directory, write_atomic
from vfn.model import float32_products
from vfn.tables import how_to_install

OFFLINE_VARIABLE = "VFN_OFFLINE"


def open_network(
    name: str, entry: Features, weights: Path | None, device: torch.device, data_dir: str | None
) -> Extractor:
    """The extractor of an entry that has weights: those given, or those that are found."""
    path, begins = (weights, "") if weights else _find_weights(name, entry, data_dir)
    state, digest = _read_weights(path, begins)
    # Channels last: convolutions on the CPU take 0.7 of the time.
    network = _build(name, entry, state, path).to(device)
    network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(images: Tensor) -> Outputs:
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        with float32_products(tf32=False):  # as it was published
            return Outputs(*(part.cpu() for part in network(colour.to(device))))

    provenance = {
        "extractor": name,
        "layers": list(entry.layers),
        "weights": path.name,
        "weights_sha256": digest,
        "published_weights": digest.startswith(entry.sha256) if entry.sha256 else None,
        "resize": entry.resize,
        **{package.replace("-", "_"): version(package) for package in entry.packages},
    }
    return Extractor(name, run, provenance, len(entry.layers) > 1, entry.width or None)


def check_weights(name: str, entry: Features, weights: Path | None, data_dir: str | None) -> None:
    """Refuse weights that are not there and must not be downloaded; none are read.

    Args:
        name: of the extractor.
        entry: that has weights.
        weights: the file that is named for them.
        data_dir: where the data are; ``$VFN_DATA`` or a cache if None.

    Raises:
        ValueError: it says where they are looked for.
    """
    variable = os.environ.get(_variable(name))
    named = weights or (given_path(variable) if variable else None)
    if named is not None and not named.is_file():
        raise ValueError(f"weights {named} cannot be read: No such file")
    path = _kept(entry, data_dir)
    if named is None and not path.is_file() and os.environ.get(OFFLINE_VARIABLE):
        raise ValueError(
            f"weights of {name} are not at {path}, and ${OFFLINE_VARIABLE} forbids a download; "
            f"{_help(name)}"
        )


def _variable(name: str) -> str:
    return f"VFN_WEIGHTS_{name.upper()}"


def _help(name: str) -> str:
    return f"pass their file as --weights or in ${_variable(name)}"


def _kept(entry: Features, data_dir: str | None) -> Path:
    """Where a download is kept."""
    return data_home(DataConfig(data_dir=data_dir)) / "weights" / entry.url.rpartition("/")[2]


def _find_weights(name: str, entry: Features, data_dir: str | None) -> tuple[Path, str]:
    """The weights from the environment or the cache, and how their hash has to begin."""
    if named := os.environ.get(_variable(name)):
        return given_path(named), ""
    path = _kept(entry, data_dir)
    # Where no hash is published, that of the download tells whether the file is still the same.
    kept = path.with_name(f"{path.name}.sha256")
    if not path.is_file():
        make_directory(path.parent)
        with locked(path.with_name(f"{path.name}.lock")):
            if not path.is_file():  # else another process has brought it meanwhile
                _download(name, entry, path)
                if not entry.sha256:
                    write_atomic(kept, hashlib.sha256(path.read_bytes()).hexdigest() + "\n")
    if entry.sha256 or not kept.is_file():
        return path, entry.sha256
    return path, kept.read_text(encoding="utf-8").strip()


def _download(name: str, entry: Features, path: Path) -> None:
    try:
        torch.hub.download_url_to_file(entry.url, str(path), entry.sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"weights of {name} cannot be downloaded from {entry.url} ({error}); {_help(name)}"
        ) from None


def _read_weights(path: Path, begins: str) -> tuple[dict[str, Tensor], str]:
    """A file's tensors, read without running its code, and its SHA-256, which ``begins`` so."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"weights {path} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(begins):
        raise ValueError(
            f"weights {path} are damaged or others than those downloaded: expected a SHA-256 that "
            f"begins {begins[:8]}, got {digest[:8]}; remove the file to download it again"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # of a damaged or foreign file: nearly anything
        state = None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"weights {path} are no PyTorch file of tensors alone; it was not loaded")
    return state, digest


def _build(name: str, entry: Features, state: dict[str, Tensor], path: Path) -> nn.Module:
    """The network with these weights."""
    try:
        return entry.load()(list(entry.layers), state)
    except ImportError:
        raise ValueError(
            f"features {name} need {' and '.join(entry.packages)}; {how_to_install('eval')}, or "
            "use pixels"
        ) from None
    except (KeyError, RuntimeError):
        raise ValueError(f"weights {path} are not those of {name}: other names or shapes") from None
