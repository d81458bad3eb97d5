"""Networks of torch-fidelity with weights that were read before."""

import io
from importlib import import_module

import torch
from torch import Tensor, nn


def build_inception(layers: list[str], state: dict[str, Tensor]) -> nn.Module:
    """torch-fidelity's Inception v3 with these weights.

    Args:
        layers: those of torch-fidelity's extractor.
        state: TensorFlow's weights as torch-fidelity publishes them.

    Returns:
        module: uint8 [B, 3, H, W] to a tuple of float32 [B, ...], one for each layer.

    Raises:
        ImportError: if torch-fidelity is missing.
        KeyError, RuntimeError: if the weights are those of another network.
    """
    return _build("feature_extractor_inceptionv3", "FeatureExtractorInceptionV3", layers, state)


def build_vgg16(layers: list[str], state: dict[str, Tensor]) -> nn.Module:
    """torch-fidelity's VGG16 with these weights; arguments as for `build_inception`."""
    return _build("feature_extractor_vgg16", "FeatureExtractorVGG16", layers, state)


def _build(module: str, kind: str, layers: list[str], state: dict[str, Tensor]) -> nn.Module:
    """It gets our copy of the weights, as it would unpickle a file."""
    checked = io.BytesIO()
    torch.save(state, checked)
    checked.seek(0)
    extractor = getattr(import_module(f"torch_fidelity.{module}"), kind)
    return extractor(module, layers, feature_extractor_weights_path=checked)
