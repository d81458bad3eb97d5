"""The table of time densities: each against its distribution, under any layout of the batch."""

import pytest
import torch
from scipy import stats

from vfn import ops

COUNT = 4000
SCHEDULE = ops.logsnr_schedule("cosine")
OUTSIDE = "tests.helpers.outside_math"
PARAMETERS = {"importance": {"weights": (1.0, 4.0, 0.5, 2.0)}}
NAMES = [*ops.TIME_DENSITIES, f"{OUTSIDE}:early"]


def draws(position=None):
    """The draws of some positions of one step."""
    position = torch.arange(COUNT) if position is None else position
    u = ops.keyed_uniform(0, 0, position, dtype=torch.float64)
    common = ops.keyed_uniform(0, 0, torch.tensor(0), dtype=torch.float64)
    return ops.BatchDraws(u, common, position, COUNT)


def drawn(name, position=None, **parameters):
    return ops.draw_times(name, draws(position), SCHEDULE, **PARAMETERS.get(name, {}), **parameters)


def p_value(values, law):
    return stats.kstest(values.numpy(), law).pvalue


def test_words_and_their_order():
    words = "uniform, stratified, low_discrepancy, logit_normal, lognormal, importance"
    assert ops.TIME_DENSITIES.words() == words
    assert ops.TIME_DENSITIES.is_open


def test_uniform_times_are_the_draws():
    args = draws()
    assert ops.draw_times("uniform", args, SCHEDULE).t is args.u


@pytest.mark.parametrize("name", NAMES)
def test_times_do_not_depend_on_the_layout(name):
    t, density = drawn(name)
    assert t.shape == density.shape == (COUNT,)
    assert t.dtype == density.dtype == torch.float64
    assert ((t >= 0) & (t <= 1)).all()
    shards = [drawn(name, torch.arange(COUNT)[rank::4]) for rank in range(4)]
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
    t, density = drawn("logit_normal", mean=mean, std=std)
    assert p_value(torch.logit(t), stats.norm(mean, std).cdf) > 0.01
    assert (density == 1).all()
    if (mean, std) == (0.0, 1.0):
        assert torch.equal(t, drawn("logit_normal").t)


def test_lognormal_noise_levels():
    t, density = drawn("lognormal")
    sigma = torch.exp(-0.5 * SCHEDULE.logsnr(t))
    assert p_value(sigma, stats.lognorm(1.2, scale=2.718281828**-1.2).cdf) > 0.01
    assert (density == 1).all()
    other = torch.exp(-0.5 * SCHEDULE.logsnr(drawn("lognormal", mean=0.4, std=1.0).t))
    assert p_value(other, stats.lognorm(1.0, scale=2.718281828**0.4).cdf) > 0.01


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid", "legacy"])
def test_noise_levels_beyond_the_schedule_are_at_its_ends(name):
    limits = () if name == "legacy" else (-4.0, 4.0)
    schedule = ops.logsnr_schedule(name, *limits)
    for mean in (-40.0, 40.0):
        t = ops.draw_times("lognormal", draws(), schedule, mean=mean).t
        # Legacy has no first level, but 1e-9 of time before 40 of logsnr.
        end = 0.0 if mean < 0 else 1.0
        torch.testing.assert_close(t, torch.full_like(t, end), rtol=0, atol=1e-9)


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


@pytest.mark.parametrize("name", ops.TIME_DENSITIES)
def test_density_is_given_where_it_is_undone(name):
    t, density = drawn(name)
    entry = ops.TIME_DENSITIES[name]
    assert entry.undone == bool((density != 1).any())
    # Undone, the mean is that of uniform times: four standard errors and more.
    if entry.undone:
        assert (t / density).mean().item() == pytest.approx(0.5, abs=0.03)


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
        ("lognormal", {"sd": 1.0}, "expected only mean, std for time density lognormal, got sd"),
        ("logit_normal", {"std": 0.0}, "expected std > 0, got 0.0"),
        ("importance", {"weights": (1.0, -1.0)}, "expected weights > 0, got"),
    ],
)
def test_what_is_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        ops.draw_times(name, draws(), SCHEDULE, **parameters)
