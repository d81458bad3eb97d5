"""Combinators over denoisers."""

from functools import partial

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
    guided = ops.classifier_free(double, same, strength)
    assert [guided(torch.ones(1), level).item() for level in (0.0, 2)] == [4, 2]
    with pytest.raises(ValueError, match="expected low <= high"):
        ops.interval_strength(1.0, 2.0, 1.0)


def test_rescale_matches_the_deviation():
    guided, cond = torch.randn(3, 100) * 4, torch.randn(3, 100)
    torch.testing.assert_close(ops.rescale(guided, cond, 1.0).std(1), cond.std(1))
    assert torch.equal(ops.rescale(guided, cond, 0.0), guided)
    with pytest.raises(ValueError, match=r"phi in \[0, 1\], got 2"):
        ops.rescale(guided, cond, 2.0)
    with pytest.raises(ValueError, match=r"phi in \[0, 1\], got 2"):
        ops.classifier_free(torch.add, torch.add, 1.0, phi=2.0)


@pytest.mark.parametrize("make", [list, np.array])
def test_strengths_of_each_sample_are_numbers_of_any_kind(make):
    cond, uncond, w = torch.tensor([[3.0], [5.0]]), torch.ones(2, 1), make([1.0, 0.5])
    assert ops.guide(cond, uncond, w).tolist() == [[5], [7]]
    assert ops.apg_guide(cond, uncond, w, parallel=1.0).x0.tolist() == [[5], [7]]


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


# Rules, beside numpy: classes that are Gaussian, whose predictions are known.

STD, MEANS = 0.3, np.array([[0.9, -0.2, 0.1, 0.4], [-0.5, 0.6, 0.3, -0.1]])
LEVELS = [-20.0, -6.0, -1.0, 0.5, 4.0]


def scales(logsnr):
    return 1 / np.sqrt(1 + np.exp(-logsnr)), 1 / np.sqrt(1 + np.exp(logsnr))


def of_class(z, logsnr, k):
    """E[x0 | z] for the data of one class."""
    alpha, sigma = scales(logsnr)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEANS[k] + gain * (z - alpha * MEANS[k])


def of_both(z, logsnr):
    """E[x0 | z] for both classes, as likely."""
    alpha, sigma = scales(logsnr)
    variance = alpha**2 * STD**2 + sigma**2
    logs = np.array([-((z - alpha * m) ** 2).sum() / (2 * variance) for m in MEANS])
    shares = np.exp(logs - logs.max())
    return sum(s / shares.sum() * of_class(z, logsnr, k) for k, s in enumerate(shares))


def as_denoiser(function):
    """A function of one sample in numpy as a denoiser."""

    def denoise(z, logsnr):
        rows = [function(row, level) for row, level in zip(z.numpy(), logsnr.numpy(), strict=True)]
        return torch.from_numpy(np.stack(rows))

    return denoise


COND, BOTH = as_denoiser(partial(of_class, k=0)), as_denoiser(of_both)


def states(count=5):
    z = np.random.default_rng(0).normal(size=(count, 4))
    return z, np.array(LEVELS[:count])


@pytest.mark.parametrize("w", [0.5, 3.0])
def test_zero_star_is_the_paper_s_rule_for_velocities(w):
    """(1 - w') s u_uncond + w' u_cond with w' = 1 + w, on the path x = z/(alpha + sigma)."""
    z, levels = states()
    expected = []
    for row, level in zip(z, levels, strict=True):
        alpha, sigma = scales(level)
        t, x = sigma / (alpha + sigma), row / (alpha + sigma)
        cond, uncond = ((x - x0) / t for x0 in (of_class(row, level, 0), of_both(row, level)))
        s = cond @ uncond / (uncond @ uncond)
        expected.append(x - t * ((1 - (1 + w)) * s * uncond + (1 + w) * cond))
    rule = ops.guidance_rule("zero_star")
    got = ops.guided(COND, [BOTH], [w], rule)(torch.from_numpy(z), torch.from_numpy(levels))
    # Near the data the oracle divides by t = 0.1, and at level 4 its differences cancel.
    np.testing.assert_allclose(got.numpy(), np.stack(expected), rtol=1e-10, atol=1e-12)


def apg_by_hand(cond, uncond, w, eta, r, running, beta):
    """Their program for one sample: the parallel part by the unit vector along cond."""
    running = (cond - uncond) + beta * running
    d = running * min(1.0, r / np.linalg.norm(running)) if r else running
    unit = cond / np.linalg.norm(cond)
    along = (d @ unit) * unit
    return cond + w * ((d - along) + eta * along), running


@pytest.mark.parametrize(
    ("eta", "r", "beta"), [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.3, 0.4, 0.0), (0.0, 0.5, -0.75)]
)
def test_apg_is_the_paper_s_program_step_after_step(eta, r, beta):
    z, levels = states()
    rule = ops.guidance_rule("apg", parallel=eta, norm=r, momentum=beta)
    running, memory = np.zeros(4), None
    for row, level in zip(z, levels, strict=True):
        cond, uncond = of_class(row, level, 0), of_both(row, level)
        expected, running = apg_by_hand(cond, uncond, 2.0, eta, r, running, beta)
        pair = [torch.from_numpy(x)[None] for x in (cond, uncond)]
        x0, memory = ops.guided_x0(
            torch.from_numpy(row)[None], pair, torch.tensor([level]), [2.0], rule, 0.0, memory
        )
        np.testing.assert_allclose(x0[0].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_apg_that_keeps_all_is_plain_guidance():
    cond, uncond = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ops.apg_guide(cond, uncond, 1.5, parallel=1.0).x0,
                               ops.guide(cond, uncond, 1.5), rtol=0, atol=1e-14)  # fmt: skip
    without = ops.apg_guide(cond, uncond, 1.5).x0 - cond
    assert (without * cond).flatten(1).sum(1).abs().max() < 1e-12
    short = ops.apg_guide(cond, uncond, 1.0, parallel=1.0, norm=0.5).x0 - cond
    torch.testing.assert_close(short.flatten(1).norm(dim=1), torch.full((3,), 0.5).double())


def test_directions_of_nothing_leave_the_prediction():
    """Neither a conditional prediction of zero nor a velocity of zero divides by it."""
    zero, other = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(ops.apg_guide(zero, other, 2.0).x0, -2 * other)
    z, logsnr = torch.ones(2, 3), torch.zeros(2)
    still = ops.standing(z, logsnr)
    assert torch.equal(ops.zero_star_guide(z, other, still, logsnr, 0.5), 1.5 * other - 0.5 * still)
    for rule in (ops.guidance_rule("apg", norm=1.0), ops.guidance_rule("zero_star")):
        got = ops.guided_x0(z, [zero, zero], logsnr, [2.0], rule)
        assert torch.equal(got.x0, zero)


def test_a_standing_flow_stands_still():
    """x = z / (alpha + sigma) is the same after any step of DDIM."""
    z = torch.randn(3, 4, dtype=torch.float64)
    t, s = torch.tensor([-6.0, -1.0, 2.0]).double(), torch.tensor([-5.0, 1.0, 7.0]).double()
    after = ops.ddim_step(z, ops.standing(z, t), t, s)
    torch.testing.assert_close(ops.standing(after, s), ops.standing(z, t), rtol=0, atol=1e-14)
    denoise = ops.zero_init(double, until=0.0)
    got = denoise(z, t)
    torch.testing.assert_close(got[:2], ops.standing(z, t)[:2])
    torch.testing.assert_close(got[2], 2 * z[2])


def test_changes_away_from_several_add_up():
    z, logsnr = torch.ones(2, 3), torch.zeros(2)
    three, two, one = (lambda z, _l, k=k: k * z for k in (3.0, 2.0, 1.0))
    got = ops.guided(three, [one, two], [1.0, 0.5])(z, logsnr)
    assert got.unique().tolist() == [3 + 1.0 * (3 - 1) + 0.5 * (3 - 2)]
    rule = ops.guidance_rule("zero_star")
    parts = [ops.guided(three, [other], [w], rule)(z, logsnr) for other, w in ((one, 1), (two, 2))]
    together = ops.guided(three, [one, two], [1, 2], rule)(z, logsnr)
    torch.testing.assert_close(together, sum(parts) - 3 * z)
    varied = ops.guided(three, [one], [ops.interval_strength(1.0, 1.0, 2.0)])
    assert varied(z, torch.tensor([0.0, 1.5]))[:, 0].tolist() == [3.0, 5.0]


@pytest.mark.parametrize("strengths", [[], [1.0], [1.0, 1.0, 1.0]])
def test_each_of_the_others_has_its_strength(strengths):
    with pytest.raises(ValueError, match=f"at least one, got {len(strengths)} for 2"):
        ops.guided(double, [same, same], strengths)(torch.ones(1), torch.zeros(1))


# Memory of the steps before.


def momentum_by_hand(z, grid, beta, heun=False):
    """DDIM or Heun with APG's momentum, all of it in numpy; the last step goes to x0."""
    running, first = np.zeros(4), None
    for i in range(len(grid) - 1):

        def guided(z, level, running=running):
            return apg_by_hand(
                of_class(z, level, 0), of_both(z, level), 2.0, 0.0, 0.6, running, beta
            )

        t, s, last = grid[i], grid[i + 1], i == len(grid) - 2
        x0, now = guided(z, t)
        (a_t, s_t), (a_s, s_s) = scales(t), scales(s)
        after = x0 if last else a_s * x0 + s_s / s_t * (z - a_t * x0)
        if heun and not last and first is not None:
            # The same slope at both ends in x = z/alpha over sigma/alpha.
            end, _ = guided(after, s)
            slope = 0.5 * ((z / a_t - x0) / (s_t / a_t) + (after / a_s - end) / (s_s / a_s))
            after = a_s * (z / a_t + (s_s / a_s - s_t / a_t) * slope)
        z, running, first = after, now, True
    return z


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_momentum_goes_from_step_to_step(solver):
    """Each evaluation of a step starts from what was known at its beginning."""
    grid = np.linspace(-6, 6, 7)
    rule = ops.guidance_rule("apg", norm=0.6, momentum=-0.75)
    start = states(3)[0]
    denoise = ops.guided(COND, [BOTH], [2.0], rule)
    for _ in range(2):  # nothing stays behind in the denoiser
        got = ops.sampler(solver)(denoise, torch.from_numpy(start), torch.from_numpy(grid))
        expected = [momentum_by_hand(z, grid, -0.75, solver == "heun") for z in start]
        np.testing.assert_allclose(got.x0.numpy(), np.stack(expected), rtol=1e-9, atol=1e-10)
    without = ops.guided(COND, [BOTH], [2.0], ops.guidance_rule("apg", norm=0.6))
    plain = ops.sampler(solver)(without, torch.from_numpy(start), torch.from_numpy(grid))
    assert (plain.x0 - got.x0).abs().max() > 1e-3
    assert plain.nfe == got.nfe


def test_combinators_keep_the_memory():
    """Clipping, known pixels and standing still at first, around a denoiser that remembers."""
    rule = ops.guidance_rule("apg", momentum=-0.5)
    denoise, mask = ops.guided(COND, [BOTH], [2.0], rule), torch.tensor([True, False, True, False])
    z, grid = torch.randn(3, 4, dtype=torch.float64), torch.linspace(-6, 6, 5).double()
    for wrapped in (ops.mapped(denoise, torch.sin), ops.with_known(denoise, z, mask),
                    ops.zero_init(denoise, -5.0)):  # fmt: skip
        assert isinstance(wrapped, ops.Remembering)
        state = wrapped.recall(z, torch.zeros(3), None)
        own = denoise.recall(z, torch.zeros(3), None)
        assert torch.equal(state.memory[1][0], own.memory[1][0])
        assert torch.equal(state.x0, wrapped(z, torch.zeros(3)))
    encoded = ops.encode(denoise, z, grid)
    assert encoded.nfe == 4
    path = ops.inpaint(denoise, z, grid, z, mask, lambda _k: z, resample=1)
    forgetful = ops.inpaint(lambda *a: denoise(*a), z, grid, z, mask, lambda _k: z, resample=1)
    assert path.nfe == forgetful.nfe == 4
    assert not torch.equal(path.x0, forgetful.x0)


SPREAD = 0.5


def flow_map(z, logsnr_t, logsnr_s):
    """The x0 of a whole step of the exact flow of normal data of deviation 1/2.

    z goes on by the ratio of the deviations at both ends.
    """
    t, s = (np.arctan(np.exp(-level.numpy() / 2)) for level in (logsnr_t, logsnr_s))
    deviation = [np.sqrt(SPREAD**2 * np.cos(a) ** 2 + np.sin(a) ** 2) for a in (t, s)]
    turned = np.where(t > s, t - s, 1.0)
    rate = (1 - deviation[1] / deviation[0]) / turned
    u = z * torch.from_numpy(rate).unsqueeze(-1)
    return ops.x0_from_mean_velocity(z, u, logsnr_t, logsnr_s)


WHOLE = ops.Spanning(flow_map)
NOTHING_KNOWN = torch.zeros(4, dtype=torch.bool)
WRAPPED = {
    "mapped": lambda denoise: ops.mapped(denoise, torch.clone),
    "with_known": lambda denoise: ops.with_known(denoise, torch.ones(4).double(), NOTHING_KNOWN),
    "zero_init": lambda denoise: ops.zero_init(denoise, -99.0),
    "guided": lambda denoise: ops.guided(denoise, [denoise], [1.5]),
    "classifier_free": lambda denoise: ops.classifier_free(denoise, denoise, 0.5),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_combinators_keep_what_is_known_of_the_whole_step(wrap):
    """One step from noise to data halves each value."""
    z, grid = torch.randn(3, 4, dtype=torch.float64), torch.tensor([-40.0, 40.0])
    got = ops.sampler("mean_flow")(wrap(WHOLE), z, grid)
    torch.testing.assert_close(got.x0, SPREAD * z, rtol=1e-6, atol=1e-6)


def test_of_two_that_know_different_steps_none_is_long():
    z, grid = torch.randn(3, 4, dtype=torch.float64), torch.linspace(-6, 6, 4)
    mixed = ops.guided(WHOLE, [BOTH], [0.5])
    plain = ops.guided(lambda z, logsnr: WHOLE(z, logsnr), [BOTH], [0.5])
    got, expected = (ops.sampler("mean_flow")(each, z, grid).x0 for each in (mixed, plain))
    assert torch.equal(got, expected)


def test_a_memory_and_the_whole_step_go_together():
    """In a single step nothing is remembered yet; later the differences of steps before count."""
    rules = [ops.guidance_rule("apg", momentum=m) for m in (0.0, -0.5)]
    other = ops.Spanning(lambda z, t, s: 0.5 * flow_map(z.flip(1), t, s))
    z = torch.randn(3, 4, dtype=torch.float64)
    for steps, alike in ((1, True), (3, False)):
        grid = torch.linspace(-6, 6, steps + 1)
        forgetful, remembering = (
            ops.sampler("mean_flow")(ops.guided(WHOLE, [other], [1.0], rule), z, grid).x0
            for rule in rules
        )
        assert torch.allclose(forgetful, remembering, atol=1e-12) == alike


def test_memories_of_what_is_guided_go_on():
    """Led away from another one by 0, a denoiser draws what it draws alone."""
    rule = ops.guidance_rule("apg", momentum=-0.5)
    denoise = ops.guided(COND, [BOTH], [2.0], rule)
    z, grid = torch.randn(3, 4, dtype=torch.float64), torch.linspace(-6, 6, 5)
    alone = ops.sample(denoise, z, grid).x0
    for other in (BOTH, denoise):
        assert torch.equal(ops.sample(ops.classifier_free(denoise, other, 0.0), z, grid).x0, alone)
    away = ops.sample(ops.guided(BOTH, [denoise], [1.0]), z, grid).x0
    forgetful = ops.sample(ops.guided(BOTH, [lambda *a: denoise(*a)], [1.0]), z, grid).x0
    assert not torch.allclose(away, forgetful)


@pytest.mark.parametrize("name", ["adaptive", "tests.ops.test_guidance:outside"])
def test_where_no_step_follows_another_a_memory_is_refused(name):
    denoise = ops.guided(COND, [BOTH], [2.0], ops.guidance_rule("apg", momentum=-0.5))
    grid = torch.linspace(-6, 6, 5)
    with pytest.raises(ValueError, match="expected a denoiser without memory: .* use one of fixed"):
        ops.sampler(name)(denoise, torch.zeros(1, 4).double(), grid)
    with pytest.raises(ValueError, match="expected a denoiser without memory"):
        ops.sample_adaptive(denoise, torch.zeros(1, 4).double(), grid)
    forgetful = ops.guided(COND, [BOTH], [2.0], ops.guidance_rule("apg"))
    assert ops.sampler(name)(forgetful, torch.zeros(1, 4).double(), grid).x0.isfinite().all()


def outside():
    """A solver from outside that goes over the grid by itself."""

    def integrate(denoise, z, logsnrs, **_more):
        return ops.Sample(denoise(z, logsnrs[:1]), 1)

    return integrate


def test_an_interval_may_be_a_single_level():
    got = ops.interval_strength(2.0, 1.0, 1.0)(torch.tensor([0.5, 1.0, 1.5]))
    assert got.tolist() == [0.0, 2.0, 0.0]
