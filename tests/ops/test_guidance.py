"""Combinators over denoisers."""

import pytest
import torch

from vfn import ops


def double(z, _logsnr):
    return 2 * z


def same(z, _logsnr):
    return z


def test_classifier_free_is_guide_of_two_denoisers():
    z = torch.randn(3, 4)
    got = ops.classifier_free(double, same, 1.5)(z, torch.zeros(3))
    torch.testing.assert_close(got, 2 * z + 1.5 * z)


def test_interval_guides_only_inside():
    strength = ops.interval_strength(2.0, -1.0, 1.0)
    got = ops.classifier_free(double, same, strength)(
        torch.ones(3, 2), torch.tensor([-1.5, 1.0, 1.5])
    )
    assert got[:, 0].tolist() == [2, 4, 2]
    with pytest.raises(ValueError, match="expected low <= high"):
        ops.interval_strength(1.0, 2.0, 1.0)


def test_rescale_matches_the_deviation():
    guided, cond = torch.randn(3, 100) * 4, torch.randn(3, 100)
    torch.testing.assert_close(ops.rescale(guided, cond, 1.0).std(1), cond.std(1))
    assert torch.equal(ops.rescale(guided, cond, 0.0), guided)
    with pytest.raises(ValueError, match=r"phi in \[0, 1\], got 2"):
        ops.rescale(guided, cond, 2.0)


def test_dynamic_threshold_stays_in_range_and_leaves_small_values():
    x0 = torch.randn(5, 200) * torch.tensor([[0.1], [1.0], [2.0], [4.0], [8.0]])
    got = ops.dynamic_threshold(x0, 0.9)
    assert got.abs().max() <= 1
    assert torch.equal(got[0], x0[0])
    limit = x0[4].abs().quantile(0.9)
    torch.testing.assert_close(got[4], x0[4].clamp(-limit, limit) / limit)
    with pytest.raises(ValueError, match=r"quantile in \(0, 1\], got 0"):
        ops.dynamic_threshold(x0, 0.0)


def test_clipping_before_and_after():
    z, logsnr = torch.ones(1, 1), torch.zeros(1)

    def clip(x0):
        return x0.clamp(-1, 1)

    before = ops.classifier_free(ops.mapped(double, clip), ops.mapped(same, clip), 1.0)
    after = ops.mapped(ops.classifier_free(double, same, 1.0), clip)
    assert before(z, logsnr).item() == after(z, logsnr).item() == 1
    assert ops.classifier_free(double, same, 1.0)(z, logsnr).item() == 3
