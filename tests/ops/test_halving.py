"""The distillation target against its definition."""

import mpmath
import pytest
import torch

from vfn import ops


def teacher(z, logsnr):
    return torch.tanh(z + logsnr.reshape(-1, 1))


def test_one_step_with_the_target_lands_where_two_steps_of_the_teacher_do():
    z = torch.randn(40, 3, dtype=torch.float64)
    t = torch.linspace(-8, 6, 40, dtype=torch.float64)
    for gap in (1e-3, 0.1, 2.0):
        mid, s = t + gap, t + 2 * gap
        target = ops.distill_target(teacher, z, t, mid, s)
        half = ops.ddim_step(z, teacher(z, t), t, mid)
        both = ops.ddim_step(half, teacher(half, mid), mid, s)
        torch.testing.assert_close(ops.ddim_step(z, target, t, s), both, rtol=1e-12, atol=1e-12)


def test_target_is_the_published_formula():
    z = torch.randn(5, 3, dtype=torch.float64)
    t, mid, s = (torch.full((5,), v, dtype=torch.float64) for v in (-1.0, 0.5, 2.0))
    half = ops.ddim_step(z, teacher(z, t), t, mid)
    z_s = ops.ddim_step(half, teacher(half, mid), mid, s)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        [scale.reshape(-1, 1) for scale in ops.alpha_sigma(logsnr)] for logsnr in (t, s)
    )
    ratio = sigma_s / sigma_t
    expected = (z_s - ratio * z) / (alpha_s - ratio * alpha_t)
    torch.testing.assert_close(ops.distill_target(teacher, z, t, mid, s), expected)


def test_at_the_data_end_the_target_is_the_teacher_s_last_prediction():
    z = torch.randn(5, 3, dtype=torch.float64)
    t, mid = torch.zeros(5), torch.ones(5)
    half = ops.ddim_step(z, teacher(z, t), t, mid)
    target = ops.distill_target(teacher, z, t, mid, float("inf"))
    assert torch.equal(target, teacher(half, mid).to(target.dtype))


@pytest.mark.parametrize("noisy", [-18.0, -3.0, 0.0, 9.0])
@pytest.mark.parametrize("gap", [1e-6, 1e-2, 1.0, 8.0])
def test_target_matches_50_digits(noisy, gap, exact_scales):
    """The published quotient in 50 digits, with a teacher that says 0.75 and then -0.5.

    In float64 the quotient itself has no digits left at the smallest gap.
    """
    levels = [noisy, noisy + gap, noisy + 3 * gap]
    z, said = mpmath.mpf(0.3), iter((0.75, -0.5))
    (a_t, s_t), (a_m, s_m), (a_s, s_s) = (exact_scales(level) for level in levels)
    halfway = a_m * mpmath.mpf(0.75) + s_m * (z - a_t * mpmath.mpf(0.75)) / s_t
    z_s = a_s * mpmath.mpf(-0.5) + s_s * (halfway - a_m * mpmath.mpf(-0.5)) / s_m
    exact = (z_s - s_s / s_t * z) / (a_s - s_s / s_t * a_t)
    got = ops.distill_target(
        lambda z, _logsnr: torch.full_like(z, next(said)),
        torch.tensor([[0.3]], dtype=torch.float64),
        *levels,
    )
    # Levels are rounded to 4e-15 and their gap is what counts.
    assert abs(got.item() - exact) <= 1e-14 + 1e-14 / gap


def test_a_constant_teacher_is_its_own_target():
    z = torch.randn(4, 3)
    for end in (3.0, float("inf")):
        target = ops.distill_target(lambda z, _l: torch.full_like(z, 0.3), z, -1.0, 1.0, end)
        assert torch.equal(target, torch.full_like(z, 0.3))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="logsnr_mid of a shape that broadcasts"):
        ops.distill_target(teacher, torch.zeros(2, 3), 0.0, torch.zeros(3), 1.0)
