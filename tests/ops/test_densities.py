"""The table of time densities: each against its distribution, under any layout of the batch."""

import math

import pytest
import torch
from scipy import stats

from vfn import ops

COUNT = 4000
SCHEDULE = ops.logsnr_schedule("cosine")
OUTSIDE = "tests.helpers.outside_math"
PARAMETERS = {
    "importance": {"weights": (1.0, 4.0, 0.5, 2.0)},
    "weighted": {"weighting": "min_snr", "gamma": 3.0},
}
NAMES = [*ops.TIME_DENSITIES, f"{OUTSIDE}:early"]


def draws(position=None):
    """The draws of some positions of one step."""
    position = torch.arange(COUNT) if position is None else position
    u = ops.keyed_uniform(0, 0, position, dtype=torch.float64)
    common = ops.keyed_uniform(0, 0, torch.tensor(0), dtype=torch.float64)
    return ops.BatchDraws(u, common, position, COUNT)


def drawn(name, position=None, keep=None, **parameters):
    given = {**PARAMETERS.get(name, {}), **parameters}
    return ops.draw_times(name, draws(position), SCHEDULE, keep, **given)


def p_value(values, law):
    return stats.kstest(values.numpy(), law).pvalue


def test_words_and_their_order():
    words = "uniform, stratified, low_discrepancy, logit_normal, lognormal, laplace, importance"
    assert ops.TIME_DENSITIES.words() == f"{words}, weighted"
    kept = [name for name, entry in ops.TIME_DENSITIES.items() if entry.kept]
    assert kept == ["importance", "weighted"]
    assert ops.TIME_DENSITIES.is_open


def test_uniform_times_are_the_draws():
    args = draws()
    assert ops.draw_times("uniform", args, SCHEDULE).t is args.u


@pytest.mark.parametrize("name", NAMES)
def test_times_do_not_depend_on_the_layout(name):
    t, density = drawn(name, keep=True)
    assert t.shape == density.shape == (COUNT,)
    assert t.dtype == density.dtype == torch.float64
    assert ((t >= 0) & (t <= 1)).all()
    shards = [drawn(name, torch.arange(COUNT)[rank::4], True) for rank in range(4)]
    for whole, parts in zip((t, density), zip(*shards, strict=True), strict=True):
        assert torch.equal(torch.stack(parts, dim=1).flatten(), whole)


@pytest.mark.parametrize("name", ["uniform", "stratified", "low_discrepancy"])
def test_uniform_densities(name):
    t, density = drawn(name)
    assert p_value(t, "uniform") > 0.01
    assert (density == 1).all()
    if name != "uniform":  # one in each stratum
        offset = draws().common if name == "low_discrepancy" else 0.0
        places = (torch.frac(t - offset + 1) * COUNT + 1e-6).floor().long() % COUNT
        assert torch.equal(places.sort().values, torch.arange(COUNT))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 2.0)])
def test_logit_normal(mean, std):
    t, density = drawn("logit_normal", keep=True, mean=mean, std=std)
    assert p_value(torch.logit(t), stats.norm(mean, std).cdf) > 0.01
    expected = stats.norm(mean, std).pdf(torch.logit(t)) / (t * (1 - t)).numpy()
    torch.testing.assert_close(density, torch.from_numpy(expected), rtol=1e-9, atol=0)
    if (mean, std) == (0.0, 1.0):
        assert torch.equal(t, drawn("logit_normal").t)


def test_lognormal_noise_levels():
    t, _ = drawn("lognormal")
    sigma = torch.exp(-0.5 * SCHEDULE.logsnr(t))
    assert p_value(sigma, stats.lognorm(1.2, scale=2.718281828**-1.2).cdf) > 0.01
    other = torch.exp(-0.5 * SCHEDULE.logsnr(drawn("lognormal", mean=0.4, std=1.0).t))
    assert p_value(other, stats.lognorm(1.0, scale=2.718281828**0.4).cdf) > 0.01


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.5), (-1.0, 2.0)])
def test_laplace_noise_levels(mean, scale):
    logsnr = SCHEDULE.logsnr(drawn("laplace", mean=mean, scale=scale).t)
    assert p_value(logsnr, stats.laplace(mean, scale).cdf) > 0.01
    assert (drawn("laplace").t.sort().indices == draws().u.sort().indices).all()


SCHEDULES = {
    "cosine": SCHEDULE,
    "flow": ops.logsnr_schedule("flow"),
    "legacy": ops.logsnr_schedule("legacy"),
    "mixed": ops.shift_schedule(
        ops.interpolate_schedule(ops.logsnr_schedule("linear"), 32, 64, 128), 2, base=1
    ),
}
LAWS = {name: PARAMETERS.get(name, {}) for name in ops.TIME_DENSITIES}


def quadrature(values, dt):
    """The integral from the start to each node, of a function given between the nodes."""
    return torch.cat([torch.zeros(1, dtype=values.dtype), (values * dt).cumsum(0)])


def integrated(name, schedule):
    """Nodes, and the integral of a density up to each; they lie closer where the ends are near."""
    nodes = torch.sigmoid(torch.linspace(-30, 30, 60_001, dtype=torch.float64))
    nodes = torch.cat([nodes[nodes < 0.5], 1 - nodes[nodes < 0.5].flip(0)])
    middles = 0.5 * (nodes[1:] + nodes[:-1])
    density = ops.time_density(name, middles, schedule, **LAWS[name])
    assert (density >= 0).all()
    return nodes, quadrature(density, nodes.diff())


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_samples_follow_the_density_which_integrates_to_1(name, schedule):
    """Kolmogorov and Smirnov against the integral; legacy and mixed end at logsnr of about -10."""
    nodes, integral = integrated(name, schedule)
    # The midpoint rule, with nodes 1e-3 apart in logit(t); a law may be cut off at an end.
    assert integral[-1].item() == pytest.approx(1, abs=2e-4)
    t, density = ops.draw_times(name, draws(), schedule, True, **LAWS[name])
    torch.testing.assert_close(
        density, ops.time_density(name, t, schedule, **LAWS[name]), rtol=0, atol=0
    )

    def law(values):
        place = torch.searchsorted(nodes, torch.as_tensor(values)).clamp(max=len(nodes) - 1)
        return integral[place].numpy()

    assert p_value(t, law) > 0.01


EVEN = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


@pytest.mark.parametrize("name", sorted({*LAWS} - {"stratified", "low_discrepancy"}))
@pytest.mark.parametrize("limit", [20.0, 2.0])
def test_a_loss_divided_by_the_density_has_the_mean_of_uniform_times(name, limit):
    """Of t^2 (1-t)^2, 1/30, also where a fifth of the levels lie beyond the schedule.

    Even draws in place of random ones, as the rare times, which count much, spread widely; what
    lies beyond the first and the last draw is left out.
    """
    schedule = ops.logsnr_schedule("flow", -limit, limit)
    even = ops.BatchDraws(EVEN, EVEN[0], torch.arange(len(EVEN)), len(EVEN))
    t, density = ops.draw_times(name, even, schedule, True, **LAWS[name])
    mean = (t.square() * (1 - t).square() / density).mean().item()
    assert mean == pytest.approx(1 / 30, rel=2e-3)
    beyond = density.isinf().double().mean().item()
    share = {
        "lognormal": stats.norm(-1.2, 1.2).sf(1) + stats.norm(-1.2, 1.2).cdf(-1),
        "laplace": math.exp(-4),
    }
    assert beyond == pytest.approx(share.get(name, 0.0) if limit == 2 else 0.0, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"weighting": "min_snr", "gamma": 3.0}, {"weighting": "flow"}, {}]
)
def test_a_weighting_of_the_v_error_says_how_often(options):
    """weight / (1 + SNR), on 1,024 intervals of time."""
    t = torch.linspace(0.02, 0.98, 50, dtype=torch.float64)
    logsnr = SCHEDULE.logsnr(t)
    chosen = {"weighting": "truncated_snr", **options}
    weight = ops.loss_weight(logsnr, chosen.pop("weighting"), **chosen) / (1 + logsnr.exp())
    ratio = ops.time_density("weighted", t, SCHEDULE, **options) / weight
    assert (ratio / ratio[0] - 1).abs().max() < 0.02
    outside = ops.time_density(
        "weighted", t, SCHEDULE, weighting=f"{OUTSIDE}:power_of_snr", power=1
    )
    snr = ops.time_density("weighted", t, SCHEDULE, weighting="snr")
    torch.testing.assert_close(outside, snr)


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid", "legacy"])
def test_noise_levels_beyond_the_schedule_are_at_its_ends(name):
    limits = () if name == "legacy" else (-4.0, 4.0)
    schedule = ops.logsnr_schedule(name, *limits)
    for mean in (-40.0, 40.0):
        t = ops.draw_times("lognormal", draws(), schedule, mean=mean).t
        # Legacy has no first level, but 1e-9 of time before 40 of logsnr.
        end = 0.0 if mean < 0 else 1.0
        torch.testing.assert_close(t, torch.full_like(t, end), rtol=0, atol=1e-9)


ROUNDED = ops.interpolate_schedule(ops.logsnr_schedule("sigmoid"), 8, 8, 16)  # time(end) > 0


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), ROUNDED], ids=[*SCHEDULES, "rounded"])
def test_noise_levels_beyond_a_schedule_do_not_count_where_the_density_is_undone(schedule):
    even = ops.BatchDraws(EVEN, EVEN[0], torch.arange(len(EVEN)), len(EVEN))
    t, density = ops.draw_times("lognormal", even, schedule, True, mean=0.0, std=10.0)
    levels = torch.from_numpy(-20 * stats.norm.ppf(EVEN.numpy()))
    lowest, highest = schedule.logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64))
    above, below = levels > highest, levels < lowest
    assert below.any()
    assert density[above | below].isinf().all()
    assert t[above].eq(0).all()
    assert t[below].eq(1).all()
    # Levels within rounding of an end are moved to it as well.
    assert density[~(above | below)].isinf().double().mean() < 2e-4


def test_importance_is_undone_by_its_density():
    t, density = drawn("importance")
    share = torch.histc(t, 4, 0, 1) / COUNT
    expected = torch.tensor([1.0, 4.0, 0.5, 2.0], dtype=torch.float64) / 7.5
    # Four standard errors of a share of 4,000 draws.
    assert (share - expected).abs().max() < 4 * 0.5 / COUNT**0.5
    assert (t.square() / density).mean().item() == pytest.approx(1 / 3, abs=0.02)
    of_tensor = ops.draw_times(
        "importance", draws(), SCHEDULE, weights=torch.tensor(PARAMETERS["importance"]["weights"])
    )
    assert torch.equal(of_tensor.t, t)
    plain = ops.draw_times("importance", draws(), SCHEDULE)
    torch.testing.assert_close(plain.t, draws().u)
    assert (plain.density == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_given_where_it_is_to_be_undone(name):
    entry = ops.TIME_DENSITIES.find(name)
    t, density = drawn(name)
    assert torch.equal(density, drawn(name, keep=entry.kept).density)
    plain = drawn(name, keep=False)
    assert torch.equal(plain.t, t)
    assert (plain.density == 1).all()
    assert entry.kept == (name in ("importance", "weighted", f"{OUTSIDE}:early"))
    assert not entry.kept or (density != 1).any()


def test_a_density_from_outside():
    t, density = drawn(f"{OUTSIDE}:early", power=3.0)
    assert torch.equal(t, draws().u ** 3)
    assert (t.square() / density).mean().item() == pytest.approx(1 / 3, abs=0.02)
    with pytest.raises(ValueError, match=r"expected only power for time density .*, got pwer"):
        drawn(f"{OUTSIDE}:early", pwer=3.0)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("normal", {}, "unknown time density 'normal', expected one of uniform, .*, or package"),
        ("uniform", {"std": 1.0}, "expected no settings for time density uniform, got std"),
        ("laplace", {"scale": 0.0}, "expected scale > 0, got 0.0"),
        ("laplace", {"mean": math.inf}, "expected mean finite, got inf"),
        ("importance", {"weights": ()}, r"expected weights to be numbers, got \(\)"),
        (
            "weighted",
            {"weighting": "snrr"},
            "expected weighting to be one of constant, .*, got 'sn",
        ),
        (
            "weighted",
            {"gamma": 2.0},
            "expected only weighting for time density weighted, got gamma",
        ),
        (
            "weighted",
            {"weighting": "p2", "gama": 2.0},
            "expected only weighting, gamma, k for time density weighted, got gama",
        ),
        ("weighted", {"weighting": "p2", "gamma": -2.0}, "expected gamma > 0, got -2.0"),
        (f"{OUTSIDE}:no_times", {}, r"to give a WeightedTime\(t, density\), got NoneType"),
        ("lognormal", {"sd": 1.0}, "expected only mean, std for time density lognormal, got sd"),
        ("logit_normal", {"std": 0.0}, "expected std > 0, got 0.0"),
        ("importance", {"weights": (1.0, -1.0)}, "expected weights > 0, got"),
    ],
)
def test_what_is_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        ops.draw_times(name, draws(), SCHEDULE, **parameters)


def test_a_density_from_outside_is_not_asked_for_other_times():
    with pytest.raises(
        ValueError, match="expected a word of TIME_DENSITIES, uniform, .*:early, wh"
    ):
        ops.time_density(f"{OUTSIDE}:early", draws().u, SCHEDULE)
