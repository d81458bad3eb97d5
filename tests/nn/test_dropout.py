"""Dropout by keys: its rate, its independence, and that batches change nothing."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from vfn.nn import UNet, dropout, keyed_dropout
from vfn.nn.dropout import current_keys, mask_bits
from vfn.train.batches import dropout_keys

KEYS = dropout_keys(0, torch.arange(64))


def hashed(number, first, second, layer):
    """One word by the definition, in Python's integers."""
    mask = 2**32 - 1
    word = (number + first + layer * 0x9E3779B9) & mask
    word = (word ^ word >> 16) * 0x7FEB352D & mask
    word ^= (second + layer * 0x85EBCA6B) & mask
    word = (word ^ word >> 15) * 0x846CA68B & mask
    return word ^ word >> 16


def test_bits_are_those_of_the_definition(each_device):
    bits = mask_bits(KEYS[:3].to(each_device), 7, torch.Size((3, 4, 2, 3)))
    for picture, (first, second) in enumerate(KEYS[:3].tolist()):
        flat = [
            half - 2**16 * (half >= 2**15)
            for number in range(12)
            for word in [hashed(number, first, second, 7)]
            for half in (word & 0xFFFF, word >> 16)
        ]
        assert bits[picture].permute(1, 2, 0).flatten().tolist() == flat


def test_bits_are_uniform_and_independent():
    """Between elements, channels, pictures and layers; by their correlations and a test of fit."""
    bits = [mask_bits(KEYS, layer, torch.Size((64, 32, 8, 8))).double() for layer in range(3)]
    uniform = (bits[0].flatten() + 2**15 + 0.5) / 2**16
    assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    a = bits[0]
    pairs = {
        "layers": (bits[0], bits[1]),
        "pictures": (a[1:], a[:-1]),
        "channels": (a[:, 1::2], a[:, ::2]),
        "words": (a[:, 2:], a[:, :-2]),
        "rows": (a[:, :, 1:], a[:, :, :-1]),
        "columns": (a[..., 1:], a[..., :-1]),
    }
    for name, (x, y) in pairs.items():
        x, y = x.flatten().numpy(), y.flatten().numpy()
        for change in (lambda v: v, np.abs):
            found = np.corrcoef(change(x), change(y))[0, 1]
            assert abs(found) < 4 / len(x) ** 0.5, name


@pytest.mark.parametrize("p", [0.1, 0.5, 0.99])
def test_rate_and_mean(p):
    out = dropout(torch.ones(64, 32, 8, 8), p, True, KEYS, 2)
    count = out.numel()
    assert (out == 0).double().mean().item() == pytest.approx(
        p, abs=4 * (p * (1 - p) / count) ** 0.5
    )
    np.testing.assert_allclose(out.unique()[-1].item(), 1 / (1 - p), rtol=1e-3)
    # Masks of pictures are unlike: the counts are binomial.
    counts = (out == 0).flatten(1).sum(1).double()
    assert counts.var().item() == pytest.approx(p * (1 - p) * count / 64, rel=0.8)


def test_a_picture_is_masked_alike_in_any_batch_and_memory_format(each_device):
    x, keys = torch.randn(8, 32, 4, 4).to(each_device), KEYS[:8].to(each_device)
    whole = dropout(x, 0.3, True, keys, 1)
    parts = [dropout(x[i : i + 2], 0.3, True, keys[i : i + 2], 1) for i in range(0, 8, 2)]
    assert torch.equal(whole, torch.cat(parts))
    other = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole, dropout(other, 0.3, True, keys, 1))
    assert not torch.equal(whole, dropout(x, 0.3, True, keys, 2))


def test_without_keys_or_training_it_is_torch_s():
    x = torch.randn(2, 32, 4, 4)
    assert dropout(x, 0.5, False, KEYS[:2]) is x
    torch.manual_seed(3)
    ours = dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.nn.functional.dropout(x, 0.5, True))


def test_keys_of_a_batch_that_holds_pictures_more_than_once():
    assert current_keys(4) is None
    with keyed_dropout(KEYS[:2]):
        assert current_keys(3) is None
        keys = current_keys(6)
        assert torch.equal(keys[:2], KEYS[:2])
        assert len({tuple(key) for key in keys.tolist()}) == 6
    assert current_keys(2) is None


def net(**options):
    torch.manual_seed(0)
    built = UNet(1, 1, 32, (1, 2), 1, (False, True), dropout=0.3, **options).train()
    with torch.no_grad():
        for param in built.parameters():
            param.add_(torch.randn_like(param) * 0.05)
    return built


def gradients(built, z, t, keys, size):
    """Of the mean square, over micro-batches of some size; and the output."""
    outs = []
    for i in range(0, len(z), size):
        with keyed_dropout(keys[i : i + size]):
            out = built(z[i : i + size], t[i : i + size])
            (out.square().mean() * size / len(z)).backward()
        outs.append(out.detach())
    return torch.cat(outs), torch.cat([p.grad.flatten() for p in built.parameters()])


@pytest.mark.parametrize("saving", [False, True])
def test_network_gives_the_same_in_one_batch_and_in_parts(saving):
    """And where activations are computed again."""
    z, t = torch.randn(8, 1, 8, 8), torch.rand(8)
    out, grads = gradients(net(), z, t, KEYS, 8)
    parts, summed = gradients(net(checkpoint_activations=saving), z, t, KEYS, 2)
    torch.testing.assert_close(parts, out, rtol=1e-5, atol=1e-5)
    assert (grads - summed).norm() < 1e-5 * grads.norm()
    other, _ = gradients(net(), z, t, KEYS[8:], 8)
    assert (other - out).abs().max() > 1e-2


def test_backward_after_the_keys_are_gone_computes_the_same_masks():
    z, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    wanted = gradients(net(), z, t, KEYS, 4)[1]
    built = net(checkpoint_activations=True)
    with keyed_dropout(KEYS[:4]):
        loss = built(z, t).square().mean()
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in built.parameters()])
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.slow
def test_compiled_network_takes_the_keys_of_each_batch():
    """Traced once: keys are an input of what is compiled, not a constant in it."""
    z, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    built = net()
    traced = []

    def backend(graph, _inputs):
        traced.append(graph)
        return graph

    compiled = torch.compile(built, backend=backend)
    for i in (0, 2, 4):
        with keyed_dropout(KEYS[i : i + 2]):
            torch.testing.assert_close(compiled(z, t), built(z, t), rtol=1e-5, atol=1e-5)
    assert len(traced) == 1
