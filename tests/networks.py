"""Networks with random weights, in files of the true format."""

import io

import torch


def random_inception(path):
    """Write weights of torch-fidelity's Inception; the network that has them."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_args, **_more):
            """Keep the weights of the construction."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Random("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
    torch.save(network.state_dict(), path)
    return network


def random_vgg16(path):
    """Write weights of torchvision's VGG16, in a file that is small.

    Row i of its large matrices is a vector of random numbers from the i-th on.
    """
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg16().state_dict().items()}
    torch.manual_seed(0)
    torch.save({name: _rows(shape) for name, shape in shapes.items()}, path)


def _rows(shape):
    if len(shape) == 1:
        return torch.randn(shape) / 10
    if len(shape) == 4:
        return torch.randn(shape) * (2 / shape[1:].numel()) ** 0.5
    return (torch.randn(sum(shape)) * (2 / shape[1]) ** 0.5).as_strided(shape, (1, 1))
