"""A UNet none of whose layers is zero, and how exact its sums are."""

import torch

from vfn.nn import UNet

# Reassociated sums in float32, relative to the largest output.
RELATIVE = 1e-5


def random_net(**options):
    """A network none of whose layers is zero."""
    torch.manual_seed(0)
    model = UNet(2, 2, 32, (1, 2), 1, (False, True), **options).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(std=0.1)
    return model
