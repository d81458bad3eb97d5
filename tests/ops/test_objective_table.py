"""The table of objectives: what an entry says is what its function does."""

import inspect

import pytest
import torch

from vfn import ops

LEARN = [name for name in ops.OBJECTIVES if name != "diffusion"]


def network(scale):
    """A velocity that knows of the whole step where it is told of it."""
    return lambda z, logsnr, end=None: scale * torch.tanh(z + 0.1 * logsnr[:, None])


def paths(**more):
    draw = torch.Generator().manual_seed(0)
    z, dz = torch.randn(2, 4, 3, dtype=torch.float64, generator=draw)
    logsnr = torch.linspace(-3, 3, 4, dtype=torch.float64)
    given = {"end": logsnr + 1, "u": torch.tensor([0.1, 0.4, 0.6, 0.9]), **more}
    return ops.Paths(z, dz, logsnr, **given)


@pytest.mark.parametrize("name", LEARN)
def test_the_function_takes_what_the_entry_says(name):
    entry = ops.OBJECTIVES[name]
    parameters = inspect.signature(entry.load()).parameters
    assert list(parameters)[:4] == ["live", "fixed", "paths", "update"]
    assert {n: parameters[n].default for n in list(parameters)[4:]} == entry.parameters
    assert entry.sampler in ops.SOLVERS
    assert len(entry.text) < 90


@pytest.mark.parametrize("name", LEARN)
def test_gradients_reach_the_live_velocity_alone(name):
    live, fixed = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    with torch.no_grad():
        still = network(fixed)
    learned = ops.OBJECTIVES[name].load()(network(live), lambda *a: still(*a).detach(), paths())
    assert learned.loss.shape == (4,)
    learned.loss.sum().backward()
    assert live.grad.abs() > 0
    assert all(value.shape == () and not value.requires_grad for value in learned.figures.values())


def test_the_tangent_is_warmed_up():
    rms = [
        ops.learn_consistency(network(0.5), network(0.5), paths(), update, 10).loss
        for update in (0, 9, 10, None)
    ]
    assert not torch.allclose(rms[0], rms[1])
    assert torch.equal(rms[1], rms[2])
    assert torch.equal(rms[1], rms[3])


def test_stages_close_in():
    distance = [
        ops.learn_pairs(network(0.5), network(0.5), paths(), update, stage_updates=2)
        for update in (0, 1, 2, None)
    ]
    assert [found.figures["stage"].item() for found in distance] == [1, 1, 2, 1]
    assert torch.equal(distance[0].loss, distance[3].loss)
    assert not torch.allclose(distance[1].loss, distance[2].loss)


def test_gradients_of_the_last_stage_are_right_in_float32():
    """Beside float64, on which no stage is lost; those of all later updates are the same."""

    def gradient(dtype, update):
        z, dz, logsnr, *_ = paths()
        weight = torch.full((), 0.5, dtype=dtype, requires_grad=True)
        where = ops.Paths(z.to(dtype), dz.to(dtype), logsnr)

        def said(scale):
            return lambda z, logsnr: scale * torch.tanh(z + (0.1 * logsnr[:, None]).to(z.dtype))

        ops.learn_pairs(
            said(weight), said(weight.detach()), where, update, stage_updates=1
        ).loss.sum().backward()
        return weight.grad.double()

    last = gradient(torch.float64, 18)  # that of stage 19
    for update in (18, 19, 30, 60, 10**6):
        # Pairs differ by 16 units in the last place at least, of which a few are rounding.
        torch.testing.assert_close(gradient(torch.float32, update), last, rtol=0.05, atol=0)


@pytest.mark.parametrize(("q", "last"), [(1.01, 1323), (2, 19), (4, 9), (16, 4), (1e6, 0)])
def test_pairs_stop_where_float32_no_longer_tells_them_apart(q, last):
    """From 16 units in the last place of 1 in float32 on, and less than q times as many."""
    unit = torch.finfo(torch.float32).eps
    assert 16 * unit <= float(q) ** -last < 16 * unit * q
    far = ops.learn_pairs(network(0.5), network(0.5), paths(), 10**9, q=q)
    assert far.figures["stage"].item() == last


def test_a_first_stage_that_no_pair_has_is_refused():
    entry = ops.OBJECTIVES["ect"]
    assert entry.faults({"first_stage": 19}) == []
    assert entry.faults({"first_stage": 4, "q": 16}) == []
    (fault,) = entry.faults({"first_stage": 5, "q": 16})
    assert fault == (
        "expected first_stage in 0..4 with q 16, as float32 does not tell closer pairs apart, got 5"
    )
    assert len(entry.faults({"first_stage": 100})) == 1
    assert len(entry.faults({"first_stage": "late"})) == 1
    assert len(entry.faults({"first_stage": 5, "q": 0})) == 1


def test_a_share_of_the_pictures_learns_the_velocity_itself():
    def learned(same):
        return ops.learn_mean_velocity(network(0.5), network(0.5), paths(), 0, same_time=same).loss

    none, half, every = learned(0.0), learned(0.5), learned(1.0)
    assert torch.equal(half[:2], every[:2])
    assert torch.equal(half[2:], none[2:])
    assert not torch.allclose(none[:2], every[:2])
    error = (network(0.5)(*paths()[::2][:2]) - paths().dz).square().sum(1)
    torch.testing.assert_close(every, error / (error + 1e-3))
    plain = ops.learn_mean_velocity(network(0.5), network(0.5), paths(), same_time=1.0)
    torch.testing.assert_close(plain.loss, error / 3)
    torch.testing.assert_close(plain.figures["square_error"], error.mean() / 3)


def test_guided_paths_lead_away():
    """By w times what they are away from the unconditional velocity."""
    z, dz, logsnr, *_ = paths()
    away = network(0.2)
    led = ops.learn_mean_velocity(
        network(0.5), network(0.5), paths(away=away), 0, guidance=0.5, same_time=1.0, power=0.0
    )
    weight = torch.full((4,), 0.5)
    each = ops.learn_mean_velocity(
        network(0.5), network(0.5), paths(away=away, guidance=weight), 0, same_time=1.0, power=0.0
    )
    wanted = 1.5 * dz - 0.5 * away(z, logsnr)
    torch.testing.assert_close(led.loss, (network(0.5)(z, logsnr) - wanted).square().sum(1))
    assert torch.equal(led.loss, each.loss)


def test_the_own_velocity_can_lead():
    own, pair = (
        ops.learn_mean_velocity(network(0.5), network(0.5), paths(), 0, own_velocity=own).loss
        for own in (1, 0)
    )
    assert torch.equal(own[:2], pair[:2])
    assert not torch.allclose(own[2:], pair[2:])


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="expected paths with ends and uniform draws"):
        ops.learn_mean_velocity(network(1), network(1), paths(end=None))
    with pytest.raises(ValueError, match="that say what guidance leads away from, got none"):
        ops.learn_mean_velocity(network(1), network(1), paths(), guidance=1.0)
    with pytest.raises(ValueError, match="the diffusion's own loss is no function of a path"):
        ops.OBJECTIVES["diffusion"].load()


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("consistency", "tangent_warmup"),
        ("ect", "stage_updates"),
        ("ect", "first_stage"),
        ("mean_flow", "own_velocity"),
    ],
)
def test_what_is_counted_is_whole(objective, name):
    entry = ops.OBJECTIVES[objective]
    assert entry.faults({name: 0.5 + entry.parameters[name]}) != []
    assert entry.faults({name: float(entry.parameters[name])}) == []
    assert len(entry.faults({"own_velocity": 0.5})) == (name == "own_velocity")
