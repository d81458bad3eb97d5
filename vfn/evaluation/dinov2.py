"""DINOv2 as torch-fidelity runs it, built from a file of weights instead of a hub's code.

torch-fidelity prepares the pictures and timm has the network. Facebook's network resizes the
embedding of positions in its own way, which timm's does not do, so that happens here.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, DEPTH = 1024, 24  # of ViT-L/14
_SIDE, _PATCH, _HEAD = 224, 14, 64  # pixels of a picture and of a patch; width of a head
_PATCHES = _SIDE // _PATCH
# Added to the number of patches, against rounding of the scale; features depend on it.
_OFFSET = 0.1
_UNUSED = "mask_token"  # of the training


def build_dinov2(
    layers: list[str], state: Mapping[str, Tensor], width: int = WIDTH, depth: int = DEPTH
) -> nn.Module:
    """torch-fidelity's extractor with a network of these weights.

    Args:
        layers: those of torch-fidelity's extractor, ``["dinov2"]``.
        state: facebook's state dict of a ViT/14 without registers.
        width: of the network, the number of features; heads are 64 wide.
        depth: number of its blocks.

    Returns:
        module: uint8 [B, 3, H, W] to a tuple of float32 [B, width].

    Raises:
        ImportError: if torch-fidelity or timm is missing.
        KeyError, RuntimeError: if the weights are those of another network.
    """
    from timm.models.vision_transformer import VisionTransformer
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    class Extractor(FeatureExtractorDinoV2):
        def __init__(self, model: nn.Module) -> None:
            # Not its own, which runs code of a hub.
            FeatureExtractorBase.__init__(self, "dinov2-vit-l-14", layers)
            self.feature_extractor_internal_dtype = torch.float32
            self.model = model
            self.float().requires_grad_(False).eval()

    with torch.device("meta"):  # no random weights are drawn, to be thrown away
        model = VisionTransformer(
            img_size=_SIDE,
            patch_size=_PATCH,
            embed_dim=width,
            depth=depth,
            num_heads=width // _HEAD,
            init_values=1.0,  # makes the layers of scales, which are then loaded
            num_classes=0,
        )
    weights = {name: value for name, value in state.items() if name != _UNUSED}
    weights["pos_embed"] = resized_positions(state["pos_embed"])
    model.load_state_dict(weights, assign=True)
    return Extractor(model)


def resized_positions(embedding: Tensor) -> Tensor:
    """The embedding of positions for pictures of 224 x 224, from that of larger ones.

    Args:
        embedding: [1, 1 + N^2, D], the class token first.

    Returns:
        [1, 1 + 16^2, D].

    Raises:
        RuntimeError: for another shape.

    >>> resized_positions(torch.ones(1, 1 + 37 * 37, 2)).shape
    torch.Size([1, 257, 2])
    """
    side = math.isqrt(embedding.shape[1] - 1) if embedding.ndim == 3 else 0
    if side < 1 or embedding.shape[:2] != (1, 1 + side**2):
        raise RuntimeError(f"expected positions [1, 1 + N^2, D], got {list(embedding.shape)}")
    token, patches = embedding.float().split([1, side**2], dim=1)
    square = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    if side != _PATCHES:
        scale = (_PATCHES + _OFFSET) / side
        square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, square.flatten(2).mT], dim=1)
