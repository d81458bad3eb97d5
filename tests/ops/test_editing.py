"""Encoding, interpolation, inpainting and starting half way."""

import itertools
import math
from functools import partial

import pytest
import torch

from tests.helpers.exact_flow import mixture, start_noise
from vfn import ops
from vfn.ops.editing import _repaint_path

COSINE = ops.logsnr_schedule("cosine")
MIXTURE = mixture(seed=0, parts=3, dims=2, std=0.4, spread=0.6)
ADAMS = ops.adams_solver(correct=True)


def grid(steps):
    return ops.logsnr_grid(COSINE, steps)


def encoding_error(steps, **options):
    """Against the exact flow backwards, from data that it made of known noise."""
    z = start_noise(32, 2)
    got = ops.encode(MIXTURE.denoise, MIXTURE.flow(z), grid(steps), **options)
    assert got.nfe == steps
    return (got.z - z).square().mean().sqrt().item()


@pytest.mark.slow
def test_encoding_is_the_flow_backwards():
    """Of first order by DDIM, of second by Adams."""
    first, second = (encoding_error(256) / encoding_error(512) for _ in range(2))
    assert math.log2(first) == pytest.approx(1, abs=0.05)
    second = encoding_error(256, solver=ADAMS) / encoding_error(512, solver=ADAMS)
    assert math.log2(second) == pytest.approx(2, abs=0.1)
    assert encoding_error(64, solver=ADAMS) < 0.05 * encoding_error(64)


def test_round_trip_comes_back():
    x0 = MIXTURE.flow(start_noise(8, 2))
    z = ops.encode(MIXTURE.denoise, x0, grid(64), ADAMS).z
    again = ops.sample(MIXTURE.denoise, z, grid(64), ADAMS).x0
    torch.testing.assert_close(again, x0, rtol=0, atol=2e-3)


@pytest.mark.parametrize("solver", [ops.adams_solver(), ADAMS])
def test_encoding_goes_all_the_way_to_pure_noise(solver):
    """To logsnr -inf; a single step is that of DDIM inversion."""
    z = start_noise(8, 2)
    levels = ops.logsnr_grid(ops.logsnr_schedule("cosine", -math.inf, 20.0), 128)
    got = ops.encode(MIXTURE.denoise, MIXTURE.flow(z), levels, solver)
    torch.testing.assert_close(got.z, z, rtol=0, atol=0.02)
    once = torch.tensor([-math.inf, 1.0], dtype=torch.float64)
    by_ddim, by_adams = (ops.encode(MIXTURE.denoise, z, once, *own).z for own in ((), (solver,)))
    assert torch.equal(by_adams, by_ddim)


@pytest.mark.parametrize("levels", [[-5.0, 9.0], [-math.inf, 9.0], [-5.0, 1.0, 9.0]])
@pytest.mark.parametrize("back", [False, True])
def test_adams_solver_has_the_derivative_by_the_levels(levels, back):
    """Of its first step those of DDIM, also at the end in data."""
    grid = torch.tensor(levels, dtype=torch.float64, requires_grad=True)
    z = start_noise(3, 2)

    def slope(solver):
        if back:
            made = ops.encode(MIXTURE.denoise, z, grid, solver).z
        else:
            made = ops.sample(MIXTURE.denoise, z, grid, solver).x0
        return torch.autograd.grad(made.sum(), grid)[0]

    by_adams = slope(ops.adams_solver())
    assert by_adams[1:].isfinite().all()
    if len(levels) == 2:
        by_ddim = slope(ops.editing.DDIM_INVERSE if back else ops.ddim_solver())
        torch.testing.assert_close(by_adams, by_ddim, equal_nan=True)


def test_encoding_needs_a_finite_end():
    with pytest.raises(ValueError, match="ends at a finite logsnr to encode from, got \\+inf"):
        ops.encode(MIXTURE.denoise, torch.zeros(1, 2), ops.karras_grid(4))
    with pytest.raises(ValueError, match="logsnrs of shape"):
        ops.encode(MIXTURE.denoise, torch.zeros(1, 2), torch.zeros(1))


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 1.0])
def test_slerp_goes_along_the_circle(fraction):
    """In the plane: the angle grows evenly and the radius stays."""
    angles = torch.tensor([[0.3, 2.9], [1.0, 1.2], [-1.0, 1.5]], dtype=torch.float64)
    a, b, expected = (
        torch.stack([3 * torch.cos(w), 3 * torch.sin(w)], 1)
        for w in (angles[:, 0], angles[:, 1], torch.lerp(*angles.T, fraction))
    )
    torch.testing.assert_close(ops.slerp(a, b, fraction), expected)


def test_slerp_of_parallel_vectors_is_the_line():
    a = torch.randn(3, 2, 5, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(ops.slerp(a, a, 0.3), a)
    torch.testing.assert_close(ops.slerp(a, 2 * a, 0.3), 1.3 * a)
    close = ops.slerp(a, a + 1e-7, torch.tensor([0.0, 0.5, 1.0]))
    expected = a + torch.tensor([0.0, 5e-8, 1e-7], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(close, expected, rtol=1e-13, atol=1e-13)
    (gradient,) = torch.autograd.grad(ops.slerp(a, a.detach(), 0.5).sum(), a)
    assert gradient.isfinite().all()


def test_slerp_keeps_dtype_and_takes_a_fraction_each():
    a, b = torch.nn.functional.normalize(torch.randn(2, 3, 4, 4), dim=(2, 3))
    got = ops.slerp(a, b, torch.tensor([0.0, 0.5, 1.0]))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[[0, 2]], torch.stack([a[0], b[2]]))
    torch.testing.assert_close(got[1].norm(), torch.tensor(1.0))
    boxed = ops.slerp(a[:, None], b[:, None], torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1))
    assert torch.equal(boxed[:, 0], got)
    with pytest.raises(ValueError, match="b to have the shape of a"):
        ops.slerp(a, b[:1], 0.5)


# A correlated Gaussian of two pixels: what is known of the first tells of the second.
COVARIANCE = torch.tensor([[0.5, 0.4], [0.4, 0.5]], dtype=torch.float64)
KNOWN, MASK = 0.7, torch.tensor([True, False])


def correlated(z, logsnr):
    """E[x0 | z] for N(0, COVARIANCE); one noise level for all."""
    alpha, sigma = ops.alpha_sigma(logsnr[0])
    total = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()
    return z @ torch.linalg.solve(total, alpha * COVARIANCE)


class Drawing:
    """A draw of p(x0 | z) in place of its mean: with it ancestral steps are exact."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z, logsnr):
        self.calls += 1
        alpha, sigma = ops.alpha_sigma(logsnr[0])
        total = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()
        left = COVARIANCE - alpha**2 * COVARIANCE @ torch.linalg.solve(total, COVARIANCE)
        noise = ops.keyed_normal(1, self.calls, torch.arange(len(z)), (2,), torch.float64)
        return correlated(z, logsnr) + noise @ torch.linalg.cholesky(left).mT


def inpainted(denoise, count=4000, steps=32, **options):
    def noise(k):
        return ops.keyed_normal(0, k + 1, torch.arange(count), (2,), torch.float64)

    known = torch.full((count, 2), KNOWN, dtype=torch.float64)
    result = ops.inpaint(denoise, noise(-1), grid(steps), known, MASK, noise, **options)
    assert torch.equal(result.x0[:, 0], known[:, 0])
    return result.x0[:, 1], result.nfe


@pytest.mark.slow
def test_repainting_comes_closer_to_the_condition():
    """x1 given x0 is N(0.56, 0.18); replacing alone knows too little of it, resampling more."""
    mean, variance = 0.4 / 0.5 * KNOWN, 0.5 - 0.4**2 / 0.5
    (once, nfe), (often, nfe_often) = (
        inpainted(Drawing(), resample=resample, jump=1) for resample in (1, 16)
    )
    assert nfe == 32
    assert nfe_often == 16 * 32
    assert abs(often.mean() - mean) < 0.03 < abs(once.mean() - mean)
    assert often.var().item() == pytest.approx(variance, rel=0.1)


def test_repainting_step_by_step():
    """Two steps, each gone through twice: down, back, down; down, back, down."""
    levels = torch.tensor([-3.0, 1.0, 9.0], dtype=torch.float64)
    draws = ops.keyed_normal(0, 0, torch.arange(20), (1, 2), torch.float64)
    known, order = torch.full((1, 2), KNOWN, dtype=torch.float64), itertools.count(1)

    def down(z, at, to):
        z = ops.ancestral_step(z, correlated(z, at), at, to, draws[next(order)])
        return torch.where(MASK, ops.q_sample(known, to, draws[next(order)]), z)

    z, (start, middle, _), end = draws[0], levels.unsqueeze(1), torch.tensor([math.inf])
    for at, to in ((start, middle), (middle, end)):
        z = ops.renoise_step(down(z, at, to), to, at, draws[next(order)])
        z = down(z, at, to)
    got = ops.inpaint(
        correlated, draws[0], levels, known, MASK, lambda k: draws[1 + k], resample=2, jump=1
    )
    assert got.nfe == 4
    torch.testing.assert_close(got.x0, z)


@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("resample", [1, 3])
def test_repainting_ends_in_data_whatever_the_variance(var_type, resample):
    """As `sample` does: where the denoiser always says the same, in that."""
    z, mask = torch.randn(4, 2), torch.tensor([True, False])
    step = partial(ops.ancestral_step, var_type=var_type)
    got = ops.inpaint(lambda z, _: 0 * z + 0.5, z, grid(4), z, mask, lambda _: torch.randn(4, 2),
                      step, resample=resample, jump=2)  # fmt: skip
    assert torch.equal(got.x0[:, 0], z[:, 0])
    assert (got.x0[:, 1] == 0.5).all()


def test_repainting_with_ddim():
    made, _ = inpainted(correlated, resample=8, jump=1, step=partial(ops.ddim_step, eta=0.0))
    assert made.mean().item() == pytest.approx(0.56, abs=0.1)


def test_known_pixels_hold_with_any_solver():
    """The unknown ones follow the mean of the condition, through z alone."""
    known = torch.full((2,), KNOWN, dtype=torch.float64)
    denoise = ops.with_known(correlated, known, MASK)
    for name in ("ddim", "dpmpp_2m", "abm2"):
        z = ops.keyed_normal(0, 0, torch.arange(500), (2,), torch.float64)
        x0 = ops.sampler(name)(denoise, z, grid(64)).x0
        torch.testing.assert_close(x0[:, 0], known[:1].expand(500), rtol=0, atol=1e-3)
        assert x0[:, 1].mean() > 0.1  # without what is known it is 0


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("resample", [1, 2, 5])
@pytest.mark.parametrize("jump", [1, 3, 10])
def test_path_goes_through_every_stretch_as_often(steps, resample, jump):
    path = list(_repaint_path(steps, resample, jump))
    moves = [(a, b) for a, b in itertools.pairwise(path) if b > a]
    assert path[0] == 0
    assert path[-1] == steps
    assert all(b == a + 1 for a, b in moves)
    assert all(a - b == jump for a, b in itertools.pairwise(path) if b < a)
    counts = [moves.count((a, a + 1)) for a in range(steps)]
    whole = steps // jump * jump  # stretches are counted from the data
    assert counts == [1] * (steps - whole) + [resample] * whole


def test_strength_is_the_share_of_steps_that_is_left():
    x0, noise = torch.randn(2, 3, 2, dtype=torch.float64)
    for strength, steps in ((1.0, 30), (0.5, 15), (0.1, 3), (0.11, 4), (1e-4, 1), (1e-8, 1)):
        z, rest = ops.edit_start(x0, grid(30), strength, noise)
        assert torch.equal(rest, grid(30)[30 - steps :])
        assert torch.equal(z, ops.q_sample(x0, rest[0].expand(3), noise))


def test_edit_keeps_the_more_the_weaker_it_is():
    x0 = MIXTURE.flow(start_noise(200, 2))
    noise, moved = ops.keyed_normal(0, 0, torch.arange(200), (2,), torch.float64), []
    for strength in (0.05, 0.3, 1.0):
        z, rest = ops.edit_start(x0, grid(40), strength, noise)
        moved.append((ops.sample(MIXTURE.denoise, z, rest, ADAMS).x0 - x0).norm(dim=1).mean())
    assert moved[0] < 0.1 < moved[1] < moved[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: ops.edit_start(z, grid(3), 0.0, z), r"expected strength in \(0, 1\], got 0.0"),
        (lambda z: ops.edit_start(z, grid(3), 1.5, z), "got 1.5"),
        (lambda z: ops.edit_start(z, torch.zeros(1), 0.5, z), "logsnrs of shape"),
        (
            lambda z: ops.inpaint(correlated, z, grid(3), z[:1], MASK, lambda k: z),
            "known to have the shape of z",
        ),
        (
            lambda z: ops.inpaint(correlated, z, grid(3), z, MASK, lambda k: z, resample=0),
            "resample and jump >= 1, got 0 and 10",
        ),
        (
            lambda z: ops.inpaint(correlated, z, grid(3), z, z, lambda k: z),
            r"expected mask as bool, .* got torch.float64; mask > 0.5 makes one",
        ),
        (lambda z: ops.with_known(correlated, z, z.int()), "expected mask as bool"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 2, dtype=torch.float64))


def test_a_share_that_floats_hardly_miss_is_no_step_more():
    """0.28 of 25 steps is 7, and 7.000000000000001 in floats."""
    rest = ops.edit_start(torch.zeros(1, 2), grid(25), 0.28, torch.zeros(1, 2)).logsnrs
    assert torch.equal(rest, grid(25)[18:])
