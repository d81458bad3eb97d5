"""The distillation target against its definition."""

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
