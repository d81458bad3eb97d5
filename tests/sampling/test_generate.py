"""Pictures from a network: labels are looked at before the first step."""

import pytest
import torch
from vfn.model import DataShape, build_model

from vfn.configs import SampleConfig, load, override
from vfn.sampling.generate import generate


@pytest.mark.parametrize(
    ("multitags", "labels", "message"),
    [
        (False, torch.tensor([1, 3]), "expected labels in 0..2, 0 for unconditional, got 3 at 1"),
        (True, torch.tensor([[0, 2]]), "expected 0 and 1 as tags, got 2 at 0, 1"),
        (True, torch.tensor([1, 2]), r"expected labels of shape \[N, 2\], got \(2,\)"),
    ],
)
def test_labels_that_the_network_does_not_know(multitags, labels, message):
    config = override(load("digits"), {"ch_multipliers": [1], "apply_attn": [False]})
    shape = DataShape(1, 8, 8, ("a", "b"), multitags)
    model = build_model(config, shape)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=message):
        generate(
            model, dict(model.named_parameters()), config.diffusion, SampleConfig(), shape, labels,
            torch.arange(len(labels)), 0, torch.device("cpu"),
        )  # fmt: skip
    assert calls == []
