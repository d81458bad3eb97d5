"""What turns pictures into features: pixels, networks as torch-fidelity runs them, any function.

Weights are read by us, with ``weights_only=True``, and hashed before a network sees them.
"""

import hashlib
import io
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn.configs import DataConfig
from vfn.data import data_home
from vfn.evaluation.dinov2 import build_dinov2
from vfn.files import write_atomic

OFFLINE_VARIABLE = "VFN_OFFLINE"


class Outputs(NamedTuple):
    """Features [B, D] of some pictures, and logits [B, K] of a classifier if there is one."""

    features: Tensor
    logits: Tensor | None = None


class Extractor(NamedTuple):
    """A function from uint8 [B, C, H, W] to `Outputs`, its name, and what identifies it."""

    name: str
    run: Callable[[Tensor], Outputs]
    provenance: dict[str, Any]


def _fidelity(module: str, kind: str) -> Callable[[list[str], dict[str, Tensor]], nn.Module]:
    """A network of torch-fidelity; it gets our copy of the weights, as it would unpickle a file."""

    def build(layers: list[str], state: dict[str, Tensor]) -> nn.Module:
        checked = io.BytesIO()
        torch.save(state, checked)
        checked.seek(0)
        extractor = getattr(import_module(f"torch_fidelity.{module}"), kind)
        return extractor(module, layers, feature_extractor_weights_path=checked)

    return build


class _Network(NamedTuple):
    """A network: how to build it, its layers, resize, packages, and where its weights are."""

    build: Callable[[list[str], dict[str, Tensor]], nn.Module]
    layers: tuple[str, ...]
    resize: str
    packages: tuple[str, ...]
    url: str
    digest: str  # how the SHA-256 of the file begins; empty where none is published


_TF_RESIZE = "bilinear as TensorFlow 1 does, to {0} x {0}"
NETWORKS = {
    "inception": _Network(
        _fidelity("feature_extractor_inceptionv3", "FeatureExtractorInceptionV3"),
        ("2048", "logits_unbiased"),
        _TF_RESIZE.format(299),
        ("torch-fidelity",),
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    "vgg16": _Network(
        _fidelity("feature_extractor_vgg16", "FeatureExtractorVGG16"),
        ("fc2_relu",),
        _TF_RESIZE.format(224),
        ("torch-fidelity",),
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af",
    ),
    "dinov2": _Network(
        build_dinov2,
        ("dinov2",),
        _TF_RESIZE.format(224),
        ("torch-fidelity", "timm"),
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "",
    ),
}


def pixels(images: Tensor) -> Tensor:
    """Pictures as their own features: uint8 [N, C, H, W] to float32 [N, C H W] in [0, 1].

    >>> pixels(torch.full((2, 1, 1, 1), 255, dtype=torch.uint8))
    tensor([[1.],
            [1.]])
    """
    return images.flatten(1).float() / 255


def extractor_of(name: str, function: Callable[[Tensor], Tensor]) -> Extractor:
    """Any function as an extractor.

    Args:
        name: appears beside the figures.
        function: uint8 [B, C, H, W] to [B, D]; must not depend on the other pictures of a batch.

    Returns:
        Extractor.

    >>> extractor_of("mean colour", lambda images: images.float().mean((2, 3))).name
    'mean colour'
    """
    return Extractor(name, lambda images: Outputs(function(images)), {"extractor": name})


PIXELS = extractor_of("pixels", pixels)


def open_extractor(name: str, weights: Path | None, device: torch.device) -> Extractor:
    """The extractor of a name.

    Args:
        name: ``pixels``, or a key of `NETWORKS`.
        weights: file of the network's weights; else the file that ``$VFN_WEIGHTS_NAME`` names (in
            capitals), or a download that is kept beside the data and checked by its hash at every
            use. With ``$VFN_OFFLINE`` set nothing is downloaded.
        device: where to compute.

    Returns:
        Extractor.

    Raises:
        ValueError: if the name is unknown, a package is missing, or the weights are missing, not
            those published, or not of this network.
    """
    if name == "pixels":
        if weights:
            raise ValueError(f"pixels need no weights, got {weights}; leave --weights out")
        return PIXELS
    if name not in NETWORKS:
        known = ", ".join(["pixels", *NETWORKS])
        raise ValueError(f"unknown features {name!r}, expected one of {known}")
    known_network = NETWORKS[name]
    path, begins = (weights, "") if weights else _find_weights(name, known_network)
    state, digest = _read_weights(path, begins)
    # Channels last: convolutions on the CPU take 0.7 of the time.
    network = _build(name, known_network, state, path).to(device)
    network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(images: Tensor) -> Outputs:
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return Outputs(*(part.cpu() for part in network(colour.to(device))))

    provenance = {
        "extractor": name,
        "layers": list(known_network.layers),
        "weights": path.name,
        "weights_sha256": digest,
        "published_weights": digest.startswith(known_network.digest)
        if known_network.digest
        else None,
        "resize": known_network.resize,
        **{package.replace("-", "_"): version(package) for package in known_network.packages},
    }
    return Extractor(name, run, provenance)


def _variable(name: str) -> str:
    return f"VFN_WEIGHTS_{name.upper()}"


def _find_weights(name: str, network: _Network) -> tuple[Path, str]:
    """The weights that the environment names, or those in the cache, downloaded if need be; how
    their hash has to begin."""
    if named := os.environ.get(_variable(name)):
        return Path(named), ""
    path = data_home(DataConfig()) / "weights" / network.url.rpartition("/")[2]
    # Where no hash is published, that of the download tells whether the file is still the same.
    kept = path.with_name(f"{path.name}.sha256")
    if not path.is_file():
        _download(name, network, path)
        if not network.digest:
            write_atomic(kept, hashlib.sha256(path.read_bytes()).hexdigest() + "\n")
    if network.digest or not kept.is_file():
        return path, network.digest
    return path, kept.read_text().strip()


def _download(name: str, network: _Network, path: Path) -> None:
    help_text = f"pass their file as --weights or in ${_variable(name)}"
    if os.environ.get(OFFLINE_VARIABLE):
        raise ValueError(
            f"weights of {name} are not at {path}, and ${OFFLINE_VARIABLE} forbids a download; "
            f"{help_text}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(network.url, str(path), network.digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"weights of {name} cannot be downloaded from {network.url} ({error}); {help_text}"
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


def _build(name: str, network: _Network, state: dict[str, Tensor], path: Path) -> nn.Module:
    """The network with these weights."""
    try:
        return network.build(list(network.layers), state)
    except ImportError:
        raise ValueError(
            f"features {name} need {' and '.join(network.packages)}; pip install 'vfn[eval]', or "
            "use pixels"
        ) from None
    except (KeyError, RuntimeError):
        raise ValueError(f"weights {path} are not those of {name}: other names or shapes") from None
