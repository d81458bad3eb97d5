"""The moving average: its closed form, and who is changed by it."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn import ops
from vfn.ops import ema_decay, ema_update, ema_update_, power_ema_decay, sigma_rel_to_gamma


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (3, 4), "bias": (3,), "scale": ()}
    return {name: torch.randn(s, generator=generator) for name, s in shapes.items()}


@pytest.mark.parametrize(
    ("num_updates", "expected"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (890, 0.99), (10**9, 0.99)]
)
def test_decay_warms_up_to_its_limit(num_updates, expected):
    assert ema_decay(num_updates, 0.99) == pytest.approx(expected)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"expected decay in \[0, 1\], got"):
        ema_decay(0, decay)


def test_update_is_the_weighted_mean():
    ema, params = tensors(0), tensors(1)
    for name, value in ema_update(ema, params, 0.75).items():
        torch.testing.assert_close(value, 0.75 * ema[name] + 0.25 * params[name])


def test_constant_parameters_are_approached_geometrically():
    ema, params = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    for _ in range(10):
        ema = ema_update(ema, params, 0.9)
    torch.testing.assert_close(ema["w"], torch.full((2,), 1 - 0.9**10))


def test_update_changes_nothing():
    ema, params = tensors(0), tensors(1)
    ema_update(ema, params, 0.5)
    for before, after in ((tensors(0), ema), (tensors(1), params)):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_update_in_place_is_the_pure_one():
    ema, params = tensors(0), tensors(1)
    storage = {name: value.data_ptr() for name, value in ema.items()}
    shuffled = dict(reversed(params.items()))
    expected = ema_update(ema, params, 0.75)
    assert ema_update_(ema, shuffled, 0.75) is None
    for name, value in ema.items():
        torch.testing.assert_close(value, expected[name])
        assert value.data_ptr() == storage[name]
        assert torch.equal(params[name], tensors(1)[name])


@pytest.mark.parametrize("update", [ema_update, ema_update_])
def test_average_carries_no_gradient(update):
    ema = tensors(0)
    params = {name: value.requires_grad_() for name, value in tensors(1).items()}
    averaged = update(ema, params, 0.5) or ema
    assert not any(value.requires_grad for value in averaged.values())


@pytest.mark.parametrize("update", [ema_update, ema_update_])
def test_names_that_differ_are_refused(update):
    ema, params = tensors(0), tensors(1)
    del params["bias"]
    with pytest.raises(ValueError, match=r"same names, they differ in \['bias'\]"):
        update(ema, params, 0.5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97])
def test_power_average_is_the_weighted_sum(gamma):
    """The recursion telescopes: update i of n weighs ``(i^(g+1) - (i-1)^(g+1)) / n^(g+1)``, which
    is ``i^g`` in proportion where i is large."""
    values, count = torch.randn(200, dtype=torch.float64), 200
    ema = {"w": torch.tensor(1e9, dtype=torch.float64)}  # the start is forgotten at once
    for n, value in enumerate(values, 1):
        ema = ema_update(ema, {"w": value}, power_ema_decay(n, gamma))
    powers = [mpmath.mpf(i) ** (gamma + 1) for i in range(count + 1)]
    weights = [(b - a) / powers[-1] for a, b in itertools.pairwise(powers)]
    exact = sum(w * v for w, v in zip(weights, values.tolist(), strict=True))
    assert ema["w"].item() == pytest.approx(float(exact), abs=1e-12)  # 200 roundings
    # The midpoint rule: relative error of order (gamma / i)^2 in the half step.
    assert float(weights[-1] / weights[-51]) == pytest.approx((199.5 / 149.5) ** gamma, rel=1e-2)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_are_the_published_ones(sigma_rel, gamma):
    assert sigma_rel_to_gamma(sigma_rel) == pytest.approx(gamma, abs=5e-3)


@given(st.floats(0.01, 0.28))
def test_width_of_the_profile_is_sigma_rel(sigma_rel):
    """The profile is a beta distribution; the root's error grows like 1 / sigma_rel^2."""
    gamma = mpmath.mpf(sigma_rel_to_gamma(sigma_rel))
    mean, square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    assert float(mpmath.sqrt(square - mean**2)) == pytest.approx(sigma_rel, rel=1e-9)


def test_power_average_of_another_length_from_stored_ones():
    """Track two averages of a moving parameter; a third is reconstructed from snapshots."""
    gammas, wanted = [16.97, 6.94], ops.sigma_rel_to_gamma(0.08)
    averages = {gamma: torch.zeros(1, dtype=torch.float64) for gamma in (*gammas, wanted)}
    stored, steps, exponents = [], [], []
    for n in range(1, 2001):
        value = torch.tensor([math.sin(n / 300)], dtype=torch.float64)
        for gamma in averages:
            averages[gamma] = torch.lerp(averages[gamma], value, 1 - ops.power_ema_decay(n, gamma))
        if n % 100 == 0:
            for gamma in gammas:
                stored.append({"w": averages[gamma]})
                steps.append(n)
                exponents.append(gamma)
    weights = ops.posthoc_ema_weights(steps, exponents, 2000, wanted)
    assert weights.sum().item() == pytest.approx(1, abs=1e-14)
    got = ops.combine(stored, weights)["w"].item()
    assert got == pytest.approx(averages[wanted].item(), abs=2e-3)


def posthoc_weights_in_50_digits(steps, gammas, step, gamma):
    """Karras et al. 2023, algorithm 3 and what their program divides by, by quadrature."""

    def profile(tau, t, g):
        return (g + 1) * tau**g / t ** (g + 1)

    def product(t_a, g_a, t_b, g_b):
        until = min(t_a, t_b)
        return mpmath.quad(lambda tau: profile(tau, t_a, g_a) * profile(tau, t_b, g_b), [0, until])

    stored = list(zip(steps, gammas, strict=True))
    gram = mpmath.matrix([[product(*a, *b) for b in stored] for a in stored])
    right = mpmath.matrix([product(*a, step, gamma) for a in stored])
    weights = mpmath.lu_solve(gram, right)
    return [float(weight / sum(weights)) for weight in weights]


def test_posthoc_weights_are_those_of_the_paper_s_program():
    """Snapshots at 1000, 2000 and 3000; undivided they sum to 0.830."""
    stored, wanted = ops.sigma_rel_to_gamma(0.10), ops.sigma_rel_to_gamma(0.15)
    steps, gammas = [1000, 2000, 3000], [stored] * 3
    got = ops.posthoc_ema_weights(steps, gammas, 3000, wanted)
    expected = posthoc_weights_in_50_digits(steps, gammas, 3000, wanted)
    assert got.tolist() == pytest.approx(expected, rel=1e-9)
    assert got.sum().item() == pytest.approx(1, abs=1e-14)


def posthoc_fit_by_quadrature(steps, gammas, step, gamma):
    """|sum_i w_i p_i - p| / |p|, the integrals taken numerically."""
    weights = posthoc_weights_in_50_digits(steps, gammas, step, gamma)

    def profile(tau, t, g):
        return (g + 1) * tau**g / t ** (g + 1) if tau <= t else 0

    def off(tau):
        stored = zip(weights, steps, gammas, strict=True)
        return sum(w * profile(tau, t, g) for w, t, g in stored) - profile(tau, step, gamma)

    ends = sorted({0, *steps, step})
    square = mpmath.quad(lambda tau: off(tau) ** 2, ends)
    return float(
        mpmath.sqrt(square / mpmath.quad(lambda tau: profile(tau, step, gamma) ** 2, ends))
    )


@pytest.mark.parametrize("wanted", [0.05, 0.15, 0.2])
def test_posthoc_fit_is_the_distance_of_the_profiles(wanted):
    stored, gamma = ops.sigma_rel_to_gamma(0.10), ops.sigma_rel_to_gamma(wanted)
    got = ops.posthoc_ema_fit([1000, 2000, 3000], [stored] * 3, 3000, gamma)
    expected = posthoc_fit_by_quadrature([1000, 2000, 3000], [stored] * 3, 3000, gamma)
    assert got == pytest.approx(expected, rel=1e-6)
    assert ops.posthoc_ema_fit([1000, 3000], [stored, gamma], 3000, gamma) < 1e-6


def test_average_of_a_constant_is_the_constant():
    """Which no scale of the weights but one gives."""
    for seed in range(10):
        steps = (500 + 2500 * torch.rand(4, generator=torch.Generator().manual_seed(seed))).tolist()
        weights = ops.posthoc_ema_weights(steps, [6.94, 6.94, 16.97, 16.97], max(steps), 3.0)
        got = ops.combine([{"w": torch.full((1,), 3.0)}] * 4, weights)
        torch.testing.assert_close(got["w"], torch.full((1,), 3.0))


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_stored_averages_may_be_told_as_arrays(make):
    given = [10.0, 20.0], [7.0, 17.0]
    found = ops.posthoc_ema_weights(*map(make, given), 20, 8.0)
    torch.testing.assert_close(found, ops.posthoc_ema_weights(*given, 20, 8.0))


def test_an_average_has_the_precision_of_its_own():
    params, ema = {"w": torch.ones(1).bfloat16()}, {"w": torch.zeros(1)}
    assert ops.ema_update(ema, params, 0.999)["w"].item() == pytest.approx(1e-3)
    ops.ema_update_(ema, params, 0.999)
    assert ema["w"].item() == pytest.approx(1e-3)
    ops.ema_update_({}, {}, 0.5)
    assert ops.ema_update({}, {}, 0.5) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.power_ema_decay(0, 1.0), "num_updates >= 1"),
        (lambda: ops.sigma_rel_to_gamma(0.5), "sigma_rel in"),
        (lambda: ops.posthoc_ema_weights([1], [], 1, 1.0), "as many steps as gammas"),
        (lambda: ops.posthoc_ema_weights([0, 9], [1, 1], 9, 1.0), "expected steps above 0, got 0"),
        (lambda: ops.posthoc_ema_weights([9], [-0.5], 9, 1.0), "gammas above -0.5, got -0.5"),
        (lambda: ops.posthoc_ema_weights([9], [1.0], 9, -0.7), "gammas above -0.5, got -0.7"),
        (lambda: ops.power_ema_decay(10, math.nan), "gamma > -1, got 10 and nan"),
        (lambda: ops.combine([], torch.ones(1)), "one weight for each average"),
        (lambda: ops.ema_decay(-1, 0.9), "num_updates >= 0, got -1"),
    ],
)
def test_numbers_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
