"""Networks with random weights, in files of the true format, and the established tools with them.

Features have to differ from picture to picture, or everything would agree with everything.
"""

import io
import warnings
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image


def _kernel(shape, gain=2.0):
    """Random weights that keep the size of what passes the layer and its ReLU."""
    return torch.randn(shape) * (gain / shape[1:].numel()) ** 0.5


def random_inception(path):
    """Write weights of torch-fidelity's Inception, normalised on some pictures; the network."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_args, **_more):
            """Keep the weights of the construction."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Random("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of the batch
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            value.copy_(_kernel(value.shape, gain=8.0 if name == "fc.weight" else 2.0))
    network.train()(blots(8, seed=0))
    torch.save(network.eval().state_dict(), path)
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
        return _kernel(shape)
    return (torch.randn(sum(shape)) * (2 / shape[1]) ** 0.5).as_strided(shape, (1, 1))


def blots(count, seed, contrast=1.0):
    """Pictures of some smooth colours, uint8 [N, 3, 32, 32]."""
    draw = torch.Generator().manual_seed(seed)
    coarse = 128 + 60 * contrast * torch.randn(count, 3, 4, 4, generator=draw)
    fine = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic")
    return fine.round().clamp(0, 255).to(torch.uint8)


@contextmanager
def low_rank_eigenvalues():
    """Find the eigenvalues of torch-fidelity's product of covariances, where it has a low rank, in
    the space that it maps to: thousands of them are zero, and finding those takes a minute."""

    def eigvals(matrix):
        basis, _ = np.linalg.qr(matrix @ np.random.RandomState(0).randn(len(matrix), 64))
        inside = basis.T @ matrix
        # The rank is below 64, or a part would be missing.
        assert np.abs(matrix - basis @ inside).max() < 1e-9 * np.abs(matrix).max()
        return np.linalg.eigvals(inside @ basis)

    from torch_fidelity import metric_fid

    own = SimpleNamespace(**{**vars(np), "linalg": SimpleNamespace(
        **{**vars(np.linalg), "eigvals": eigvals})})  # fmt: skip
    with patch.object(metric_fid, "np", own):
        yield


class _Pictures(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def by_torch_fidelity(real, fake, weights):
    """FID, KID over all pairs, Inception Score, precision and recall."""
    from torch_fidelity import calculate_metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more workers than cores
        found = calculate_metrics(
            input1=_Pictures(fake),
            input2=_Pictures(real),
            cuda=False,
            fid=True,
            kid=True,
            isc=True,
            prc=True,
            kid_subsets=1,
            kid_subset_size=min(len(real), len(fake)),
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(weights),
            cache=False,
            verbose=False,
        )
    return {
        "FID": found["frechet_inception_distance"],
        "KID": found["kernel_inception_distance_mean"],
        "Inception Score": found["inception_score_mean"],
        "Precision": found["precision"],
        "Recall": found["recall"],
    }


def pytorch_fid_statistics(images, weights, folder, same_input):
    """Mean and covariance of pytorch-fid's features; it reads pictures from files.

    Its resize and scaling are not those of TensorFlow's Inception; ``same_input`` replaces both, so
    that its network is fed what the other tools' networks are.
    """
    from pytorch_fid import fid_score, inception
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    def as_tensorflow(x, size, **_):
        return interpolate_bilinear_2d_like_tensorflow1x(x * 255, size, align_corners=False) / 256

    folder.mkdir()
    for number, image in enumerate(images):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(folder / f"{number:05d}.png")
    state = torch.load(weights)
    with (
        patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state),
        patch.object(fid_score, "tqdm", iter),
        patch.object(
            inception.F, "interpolate", as_tensorflow if same_input else inception.F.interpolate
        ),
    ):
        network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
        batch = min(50, len(images))
        return fid_score.compute_statistics_of_path(str(folder), network, batch, 2048, "cpu", 0)


def pytorch_fid_distance(one, other):
    """pytorch-fid's distance of statistics."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy's sqrtm, whose argument disp goes
        return float(calculate_frechet_distance(*one, *other))
