"""What turns pictures into features: pixels, networks as torch-fidelity runs them, any function.

Nothing here loads torch before an extractor is opened: help texts are made of this table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vfn.files import given_path, shown
from vfn.tables import Entry, Table, how_to_install

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Outputs(NamedTuple):
    """Features [B, D] of some pictures, and logits [B, K] of a classifier if there is one.

    >>> Outputs(torch.ones(2, 3)).logits is None
    True
    """

    features: "Tensor"
    logits: "Tensor | None" = None


class Extractor(NamedTuple):
    """A function from uint8 [B, C, H, W] to `Outputs`, its name, and what identifies it.

    logits: whether it gives logits; None if that shows only when it runs. width: D of its features,
    None likewise.
    """

    name: str
    run: Callable[["Tensor"], Outputs]
    provenance: dict[str, Any]
    logits: bool | None = None
    width: int | None = None


class Outlook(NamedTuple):
    """What is known of an extractor before it is opened; fields as those of `Extractor`."""

    name: str
    logits: bool | None = None
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Features(Entry):
    """Features that a network or a function gives.

    target: without ``url`` a function from uint8 [B, C, H, W] to [B, D]; with it a function from
    names of layers and weights to the network, whose outputs are the `Outputs`: features, and
    logits where there are two layers. width: of the features; 0 where it depends on the pictures.
    packages: what it is built with. sha256: how the hash of the file at ``url`` begins; empty where
    none is known.
    """

    layers: tuple[str, ...] = ()
    width: int = 0
    resize: str = ""
    packages: tuple[str, ...] = ()
    url: str = ""
    sha256: str = ""


def _outside(name: str) -> Features:
    return Features(text=f"the function {name}", target=name)


_TF_RESIZE = "bilinear as TensorFlow 1 does, to {0} x {0}"
EXTRACTORS: Table[Features] = Table(
    "features",
    {
        "pixels": Features(
            text="the pictures themselves, scaled to [0, 1]",
            target="vfn.evaluation.extractors:pixels",
        ),
        "inception": Features(
            text="Inception v3 of TensorFlow, for FID, KID and Inception Score",
            target="vfn.evaluation.fidelity:build_inception",
            layers=("2048", "logits_unbiased"),
            width=2048,
            resize=_TF_RESIZE.format(299),
            packages=("torch-fidelity",),
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            sha256="6726825d",
        ),
        "vgg16": Features(
            text="VGG16, for precision and recall as published",
            target="vfn.evaluation.fidelity:build_vgg16",
            layers=("fc2_relu",),
            width=4096,
            resize=_TF_RESIZE.format(224),
            packages=("torch-fidelity",),
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            sha256="397923af",
        ),
        "dinov2": Features(
            text="DINOv2 ViT-L/14, for FD-DINOv2",
            target="vfn.evaluation.dinov2:build_dinov2",
            layers=("dinov2",),
            width=1024,
            resize=_TF_RESIZE.format(224),
            packages=("torch-fidelity", "timm"),
            url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        ),
    },
    _outside,
)


def pixels(images: "Tensor") -> "Tensor":
    """Pictures as their own features: ``x / 255``, or x where they are floats already.

    Args:
        images: uint8 [N, C, H, W]; or floats, of other than 8-bit data.

    Returns:
        float32 [N, C H W]; in [0, 1] for pictures.

    >>> import torch
    >>> pixels(torch.full((2, 1, 1, 1), 255, dtype=torch.uint8))
    tensor([[1.],
            [1.]])
    """
    return images.flatten(1).float() / (1 if images.is_floating_point() else 255)


def extractor_of(name: str, function: Callable[["Tensor"], "Tensor"]) -> Extractor:
    """Any function as an extractor.

    Args:
        name: appears beside the figures.
        function: uint8 [B, C, H, W] to [B, D], on any device; must not depend on the other pictures
            of a batch.

    Returns:
        Extractor.

    >>> extractor_of("mean colour", lambda images: images.float().mean((2, 3))).name
    'mean colour'
    """
    return Extractor(name, lambda images: Outputs(function(images)), {"extractor": name}, False)


PIXELS = extractor_of("pixels", pixels)


def outlook_of(extractor: str | Extractor, shape: tuple[int, ...] | None = None) -> Outlook:
    """What is known of an extractor without opening it.

    Args:
        extractor: a word of `EXTRACTORS`, ``package.module:Name``, or one that is open.
        shape: [C, H, W] of the pictures.

    Returns:
        Outlook.

    Raises:
        ValueError: for an unknown word.

    >>> outlook_of("inception"), outlook_of("pixels", (1, 8, 8))
    (Outlook(name='inception', logits=True, width=2048), Outlook(name='pixels', logits=False, ...))
    """
    if isinstance(extractor, Extractor):
        return Outlook(extractor.name, extractor.logits, extractor.width)
    entry = EXTRACTORS.find(extractor)
    if extractor == "pixels":
        return Outlook("pixels", False, math.prod(shape) if shape else None)
    return Outlook(extractor, len(entry.layers) > 1, entry.width or None)


def check_given(features: object) -> None:
    """Refuse what is neither a word nor an extractor, such as a function.

    Args:
        features: what somebody asked for.

    Raises:
        ValueError: with what makes an extractor of a function.

    >>> check_given("pixels")
    """
    if not isinstance(features, str | Extractor):
        raise ValueError(
            f"expected features as a word or an Extractor, got {shown(features)}; "
            "vfn.evaluation.extractor_of(name, function) makes one of a function"
        )


def check_extractor(name: str, weights: "Path | None" = None, data_dir: str | None = None) -> None:
    """Refuse an extractor that cannot be had, before its weights are read or downloaded.

    Args:
        name: a word of `EXTRACTORS`, or ``package.module:Name``.
        weights: the file that is named for it.
        data_dir: where the data are; ``$VFN_DATA`` or a cache if None.

    Raises:
        ValueError: for an unknown word, missing packages, a file that is not there and must not be
            downloaded, weights of what needs none, or a function that cannot be imported.

    >>> check_extractor("pixels")
    """
    entry = EXTRACTORS.find(name)
    if missing := [each for each in entry.packages if find_spec(each.replace("-", "_")) is None]:
        raise ValueError(
            f"features {name} need {' and '.join(missing)}; {how_to_install('eval')}, or use pixels"
        )
    if entry.url:
        from vfn.evaluation.weights import check_weights

        check_weights(name, entry, weights, data_dir)
        return
    if weights:
        raise ValueError(f"{name} need no weights, got {weights}; leave --weights out")
    if not callable(found := entry.load()):
        raise ValueError(f"expected {name} to be a function, got {type(found).__name__}")


def open_extractor(
    name: str,
    weights: "str | Path | None" = None,
    device: "torch.device | str" = "auto",
    data_dir: str | None = None,
) -> Extractor:
    """The extractor of a name.

    Args:
        name: a word of `EXTRACTORS`, or ``package.module:Name`` of a function from uint8
            [B, C, H, W] to [B, D].
        weights: file of the network's weights; else the file that ``$VFN_WEIGHTS_NAME`` names (in
            capitals), or a download that is kept beside the data and checked by its hash at every
            use. With ``$VFN_OFFLINE`` set nothing is downloaded.
        device: where to compute: auto, cpu or cuda.
        data_dir: where the data are; ``$VFN_DATA`` or a cache if None.

    Returns:
        Extractor.

    Raises:
        ValueError: if the name is unknown, a package is missing, or the weights are missing, not
            those published, or not of this network.

    >>> open_extractor("pixels").name
    'pixels'
    """
    weights = None if weights is None else given_path(weights)
    check_extractor(name, weights, data_dir)
    entry = EXTRACTORS.find(name)
    if entry.url:
        from vfn.distributed import choose_device
        from vfn.evaluation.weights import open_network

        where = choose_device(device) if isinstance(device, str) else device
        return open_network(name, entry, weights, where, data_dir)
    return PIXELS if name == "pixels" else extractor_of(name, entry.load())
