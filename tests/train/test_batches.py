"""The global batch is a function of (seed, draw) alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vfn import ops
from vfn.configs import Config, DataConfig, DiffusionConfig, TrainConfig
from vfn.data import Dataset, Labels, load_dataset, to_unit
from vfn.train.batches import image_indices, make_batch, prefetch

CPU = torch.device("cpu")


def config(seed=0, flip=False, batch_size=128, **diffusion):
    return Config(
        data=DataConfig(flip=flip),
        diffusion=DiffusionConfig(**diffusion),
        train=TrainConfig(seed=seed, batch_size=batch_size),
    )


def batch(draws, **diffusion):
    data, settings = load_dataset("digits"), config(3, **diffusion)
    return make_batch(data, settings, draws, CPU, guidance_range=(1.0, 3.0))


def test_a_draw_does_not_depend_on_the_others():
    whole, part = batch(torch.arange(64)), batch(torch.arange(40, 48))
    assert whole.weight is None
    for all_of_it, some in zip(whole[:5], part[:5], strict=True):
        assert torch.equal(all_of_it[40:48], some)


def test_an_epoch_shows_each_picture_once_and_the_next_in_another_order():
    first, second = image_indices(0, torch.arange(200), 100).split(100)
    assert first.sort().values.equal(torch.arange(100))
    assert second.sort().values.equal(torch.arange(100))
    assert not first.equal(second)


def test_labels_are_dropped_at_the_asked_rate_and_never_in_the_data_set():
    dataset = load_dataset("digits")
    before = dataset.labels.clone()
    drawn = make_batch(dataset, config(p_uncond=0.1), torch.arange(8000), CPU)
    share = (drawn.labels == 0).double().mean().item()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 8000) ** 0.5  # four standard errors
    assert dataset.labels.equal(before)
    kept = drawn.labels > 0
    asked = dataset.labels[image_indices(0, torch.arange(8000), len(dataset.images))]
    assert drawn.labels[kept].equal(asked[kept])


def test_discrete_times_lie_on_the_grid():
    t = batch(torch.arange(500), train_timesteps=4).t
    assert t.unique().tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("density", sorted({*ops.TIME_DENSITIES} - {"uniform"}))
def test_times_of_a_density_do_not_depend_on_the_layout(density):
    """Each micro-batch has its part of the times of the whole batch, and of no other batch."""
    options = {"weights": (1, 3)} if density == "importance" else {}
    chosen = {"batch_size": 32, "time_density": density, "time_options": options,
              "keep_expectation": True}  # fmt: skip
    whole = batch(torch.arange(64), **chosen)
    parts = [batch(torch.arange(start, start + 8), **chosen) for start in range(0, 64, 8)]
    assert torch.equal(whole.t, torch.cat([part.t for part in parts]))
    assert torch.equal(whole.weight, torch.cat([part.weight for part in parts]))
    assert not torch.equal(*whole.t.split(32))
    if density in ("stratified", "low_discrepancy"):
        strata = (whole.t[:32] * 32).floor()
        assert strata.unique().numel() >= 31  # a rounding may put two into one


def test_a_density_that_is_undone_leaves_the_mean_of_uniform_times():
    drawn = batch(
        torch.arange(8000), time_density="importance", time_options={"weights": (1.0, 3.0)}
    )
    assert (drawn.t > 0.5).double().mean().item() == pytest.approx(0.75, abs=0.02)
    assert (drawn.weight * drawn.t).mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_configuration_says_whether_a_density_is_undone():
    """The times stay as they are; of a weighting it is undone unless it says otherwise."""
    for density, options in (("logit_normal", {"std": 0.7}), ("weighted", {"weighting": "p2"})):
        chosen = {"time_density": density, "time_options": options}
        by = {keep: batch(torch.arange(400), **chosen, keep_expectation=keep)
              for keep in (None, True, False)}  # fmt: skip
        assert torch.equal(by[True].t, by[None].t)
        assert torch.equal(by[True].t, by[False].t)
        assert by[False].weight is None
        assert (by[None].weight is None) == (density == "logit_normal")
        schedule = ops.logsnr_schedule("cosine")
        expected = 1 / ops.time_density(density, by[True].t, schedule, **options)
        torch.testing.assert_close(by[True].weight, expected)


@pytest.mark.parametrize("density", ["laplace", "importance"])
def test_of_discrete_times_the_mean_is_that_of_uniform_ones_too(density):
    options = {"weights": (1.0, 3.0)} if density == "importance" else {"scale": 3.0}
    drawn = batch(torch.arange(8000), time_density=density, time_options=options,
                  keep_expectation=True, train_timesteps=4)  # fmt: skip
    assert drawn.t.unique().tolist() == [0.25, 0.5, 0.75, 1.0]
    # Four standard errors and more.
    bump = (drawn.t == 0.5).double()
    assert (drawn.weight * bump).mean().item() == pytest.approx(0.25, abs=0.02)


def test_half_of_the_pictures_are_mirrored_and_the_rest_are_not():
    dataset, draws = load_dataset("digits"), torch.arange(4000)
    plain = make_batch(dataset, config(), draws, CPU)
    flipped = make_batch(dataset, config(flip=True), draws, CPU)
    pictures = to_unit(dataset.images[image_indices(0, draws, len(dataset.images))])
    assert torch.equal(plain.x0, pictures)
    as_it_is = (flipped.x0 == pictures).flatten(1).all(1)
    mirrored = (flipped.x0 == pictures[..., range(7, -1, -1)]).flatten(1).all(1)
    assert (as_it_is | mirrored).all()
    share = (mirrored & ~as_it_is).double().mean().item()
    assert abs(share - 0.5) < 4 * (0.25 / 4000) ** 0.5  # four standard errors
    # Nothing else is drawn differently.
    for field in ("labels", "t", "noise"):
        assert torch.equal(getattr(plain, field), getattr(flipped, field))


def test_mirrors_are_independent_of_dropped_labels():
    dataset, draws = load_dataset("digits"), torch.arange(4000)
    drawn = make_batch(dataset, config(flip=True, p_uncond=0.5), draws, CPU)
    pictures = to_unit(dataset.images[image_indices(0, draws, len(dataset.images))])
    mirrored = (drawn.x0 != pictures).flatten(1).any(1).double()
    dropped = (drawn.labels == 0).double()
    correlation = torch.corrcoef(torch.stack([mirrored, dropped]))[0, 1]
    assert abs(correlation) < 4 / 4000**0.5  # four standard errors


def test_all_tags_of_a_picture_are_dropped_together():
    labels = torch.ones(50, 3, dtype=torch.uint8)
    dataset = Dataset(
        torch.zeros(50, 1, 2, 2, dtype=torch.uint8), labels, Labels(("a", "b", "c"), True)
    )
    drawn = make_batch(dataset, config(p_uncond=0.3), torch.arange(4000), CPU)
    counts = drawn.labels.sum(1)
    assert set(counts.tolist()) == {0, 3}
    share = (counts == 0).double().mean().item()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5  # four standard errors
    assert labels.min() == 1


def test_batches_come_in_order_and_the_next_one_is_made_meanwhile():
    made = [threading.Event() for _ in range(5)]

    def make(number):
        made[number].set()
        return number

    batches = prefetch(make, range(5))
    for number in range(5):
        assert next(batches) == number
        if number < 4:
            assert made[number + 1].wait(60)  # though nobody has asked for it
    assert next(batches, None) is None


def test_no_more_than_one_batch_is_made_ahead():
    made = []
    batches = prefetch(lambda number: made.append(number) or number, range(10))
    assert next(batches) == 0
    batches.close()  # waits for the one under way
    assert made == [0, 1]
    assert not [thread for thread in threading.enumerate() if "prefetch" in thread.name]


@pytest.mark.parametrize("numbers", [range(0), range(7, 8)])
def test_few_batches(numbers):
    assert list(prefetch(lambda number: number, numbers)) == list(numbers)


def test_a_failure_comes_out_where_the_batch_would():
    def make(number):
        if number == 2:
            raise OSError("disk gone")
        return number

    batches = prefetch(make, range(5))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert not [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def test_guidance_is_uniform_in_its_range_and_nothing_else_depends_on_it():
    draws = torch.arange(8000)
    drawn = batch(draws)
    u = (drawn.guidance - 1) / 2
    assert 0 <= u.min() < u.max() <= 1
    for quantile in (0.25, 0.5, 0.75):
        assert u.quantile(quantile).item() == pytest.approx(quantile, abs=0.02)
    times = torch.corrcoef(torch.stack([u.double(), drawn.t]))
    assert abs(times[0, 1]) < 0.05
    plain = make_batch(load_dataset("digits"), config(3), draws, CPU)
    assert plain.guidance is None
    assert all(torch.equal(a, b) for a, b in zip(plain[:4], drawn[:4], strict=True))


def test_batches_made_ahead_leave_the_cores_to_the_network():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(prefetch(lambda _: torch.get_num_threads(), range(3))) == [1, 1, 1]
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(before)
