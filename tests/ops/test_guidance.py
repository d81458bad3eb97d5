"""Combinators over denoisers."""

import numpy as np
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


def test_rescale_is_the_published_mix():
    """phi = 0.7: seven tenths of the prediction of cond's deviation, three of the guided one."""
    guided, cond = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = torch.stack(
        [0.7 * g * (c.std() / g.std()) + 0.3 * g for g, c in zip(guided, cond, strict=True)]
    )
    torch.testing.assert_close(ops.rescale(guided, cond, 0.7), expected)
    by_combinator = ops.classifier_free(lambda *_: cond, lambda *_: 2 * cond - guided, 1.0, 0.7)
    torch.testing.assert_close(by_combinator(cond, torch.zeros(3)), expected)


def test_strength_of_each_sample_and_of_a_weaker_model():
    z, logsnr = torch.ones(3, 2), torch.tensor([-1.0, 0.0, 2.0])
    got = ops.classifier_free(double, same, lambda logsnr: logsnr)(z, logsnr)
    assert got[:, 0].tolist() == [1, 2, 4]
    # Autoguidance writes weak + w (strong - weak); its w is one more.
    weight = 2.5
    auto = same(z, logsnr) + weight * (double(z, logsnr) - same(z, logsnr))
    assert torch.equal(ops.classifier_free(double, same, weight - 1)(z, logsnr), auto)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept(dtype):
    x, logsnr = torch.randn(2, 8).to(dtype), torch.zeros(2, dtype=torch.float64)
    strength = ops.interval_strength(1.5, -1.0, 1.0)
    denoise = ops.classifier_free(double, ops.mapped(same, ops.dynamic_threshold), strength, 0.5)
    assert denoise(x, logsnr).dtype == dtype
    assert denoise(x, logsnr).isfinite().all()


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"cond to have the shape of guided, \(2, 3\)"):
        ops.rescale(torch.zeros(2, 3), torch.zeros(2, 1), 0.5)


def test_rescale_leaves_a_flat_picture_alone():
    flat = torch.full((2, 3, 4), 0.25)
    assert torch.equal(ops.rescale(flat, flat + 1, 0.7), flat)


def test_dynamic_threshold_takes_the_quantile_in_the_data_s_precision():
    x0 = 1 + torch.rand(1, 100, dtype=torch.float64)
    expected = x0 / np.quantile(x0.numpy(), 0.9)
    got = ops.dynamic_threshold(x0, 0.9)
    torch.testing.assert_close(got, expected.clamp(max=1), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("w", "expected"), [(-1.0, 3.0), (0.0, 5.0), (0.5, 6.0), (2.0, 9.0)])
def test_guidance_extrapolates_from_the_unconditional(w, expected):
    assert ops.guide(torch.tensor([5.0]), torch.tensor([3.0]), w).item() == expected


def test_guidance_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match=r"uncond to have the shape of cond, \(2,\), got \(1,\)"):
        ops.guide(torch.zeros(2), torch.zeros(1), 0.5)
