"""Held-out losses: the same in any batches, and by any number of processes."""

from dataclasses import replace
from inspect import signature

import pytest
import torch

from tests.evaluation.conftest import SMALL, small_network
from vfn.configs import load, override
from vfn.data import Dataset, Labels, to_unit
from vfn.distributed import World
from vfn.evaluation.bits import bits_per_dim
from vfn.evaluation.held_out import (
    loss_by_logsnr,
    mean_held_out_loss,
    preview_figures,
    some_of,
)
from vfn.model import schedule_of
from vfn.nn import with_params
from vfn.objective import Batch, batch_loss, keyed_time, logsnr_edges
from vfn.ops import keyed_normal, keyed_uniform
from vfn.sampling import untrained
from vfn.streams import Stream

CPU = torch.device("cpu")


def first(pictures, count):
    return pictures._replace(images=pictures.images[:count], labels=pictures.labels[:count])


@pytest.mark.parametrize("function", [loss_by_logsnr, mean_held_out_loss, bits_per_dim])
def test_all_but_the_network_and_its_pictures_goes_by_name(function):
    """The functions differ in what comes next."""
    first, second, *others = signature(function).parameters.values()
    assert [first.name, second.name] == ["trained", "held_out"]
    assert {other.kind for other in others} == {other.KEYWORD_ONLY for other in others}


def test_some_are_evenly_spread():
    assert len(some_of(torch.arange(5), 9)) == 5
    assert some_of(torch.arange(1437), 1437).tolist() == [*range(1437)]
    for count in (1, 2, 512, 719, 1000, 1436):
        chosen = some_of(torch.arange(1437), count).tolist()
        exact = [i * 1437 / count for i in range(count)]
        assert len({*chosen}) == count
        assert all(0 <= e - i < 1 for i, e in zip(chosen, exact, strict=True))


@pytest.mark.parametrize("count", [500, 501, 700, 900, 999])
def test_some_of_a_sorted_data_set_have_every_class(count):
    classes = torch.arange(10).repeat_interleave(100)
    found = some_of(classes, count).bincount(minlength=10)
    assert (found - count / 10).abs().max() <= 1


def test_loss_by_logsnr_is_the_same_in_any_batches(trained, held_out, monkeypatch):
    drawn, seen = [], []

    def noise(seed, stream, keys, shape):
        drawn.extend(keys.tolist())
        return keyed_normal(seed, stream, keys, shape)

    monkeypatch.setattr("vfn.evaluation.held_out.keyed_normal", noise)
    pictures = first(held_out, 50)
    hook = trained.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    found = [loss_by_logsnr(trained, pictures, seed=3, batch=batch) for batch in (50, 20)]
    hook.remove()
    assert seen == [50] * 8 + [20, 20, 10] * 8
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert sorted(drawn) == sorted([*range(400)] * 2)  # every bin and picture has its own noise


def test_the_loss_of_a_bin_is_that_of_its_noise_levels(trained, held_out):
    pictures, diffusion = first(held_out, 20), trained.config.diffusion
    found = loss_by_logsnr(trained, pictures, seed=3)
    edges = logsnr_edges(diffusion)
    assert [row["low"] for row in found] == edges[:-1].tolist()
    keys = torch.arange(20) + 2 * 20
    u = keyed_uniform(3, Stream.HELD_OUT_TIME, keys, dtype=torch.float64)
    t = schedule_of(diffusion).time(edges[2] + u * (edges[3] - edges[2]))
    noise = keyed_normal(3, Stream.HELD_OUT_NOISE, keys, (1, 8, 8))
    batch = Batch(to_unit(pictures.images), pictures.labels, t, noise)
    with torch.no_grad():
        network = with_params(trained.model, trained.params)
        expected = batch_loss(network, batch, diffusion).mean()
    assert found[2]["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_the_mean_loss_is_that_of_four_fixed_draws(trained, held_out):
    """Picture i of 60 has the times and the noise i, i + 60, ..."""
    pictures, diffusion = first(held_out, 60), trained.config.diffusion
    x0 = to_unit(pictures.images)
    losses = []
    for draw in range(4):
        keys = torch.arange(60) + 60 * draw
        t = keyed_time(5, Stream.HELD_OUT_TIME, keys, diffusion)
        noise = keyed_normal(5, Stream.HELD_OUT_NOISE, keys, (1, 8, 8))
        with torch.no_grad():
            network = with_params(trained.model, trained.params)
            losses.append(batch_loss(network, Batch(x0, pictures.labels, t, noise), diffusion))
    expected = torch.cat(losses).mean().item()
    assert mean_held_out_loss(trained, pictures, seed=5) == pytest.approx(expected, rel=1e-6)
    assert mean_held_out_loss(trained, pictures, seed=6) != pytest.approx(expected, rel=1e-6)


def test_the_mean_loss_is_that_of_uniform_times_however_training_draws_its_own(trained, held_out):
    """So that held-out losses of runs with other densities compare."""
    pictures = first(held_out, 60)
    expected = mean_held_out_loss(trained, pictures)
    for chosen in (
        {"time_density": "laplace", "keep_expectation": True},
        {"time_density": "low_discrepancy"},
        {"time_density": "importance", "time_options": {"weights": (1.0, 9.0)}},
    ):
        other = replace(trained, config=override(trained.config, chosen))
        assert mean_held_out_loss(other, pictures) == expected
        assert loss_by_logsnr(other, pictures) == loss_by_logsnr(trained, pictures)


def test_processes_share_the_mean_loss(trained, held_out, monkeypatch):
    """59 do not divide: one has 30 of them, the other 29."""
    pictures, parts = first(held_out, 59), []
    whole = mean_held_out_loss(trained, pictures)
    monkeypatch.setattr(
        "vfn.evaluation.held_out.total", lambda value, _: parts.append(value) or value
    )
    shared = [mean_held_out_loss(trained, pictures, world=World(rank, 2, CPU)) for rank in (0, 1)]
    assert sum(shared) == pytest.approx(whole, rel=1e-5)
    assert len(parts) == 2
    assert min(shared) > 0


def test_a_process_without_a_picture_adds_nothing(trained, held_out, monkeypatch):
    """One picture for two processes."""
    picture = first(held_out, 1)
    whole = mean_held_out_loss(trained, picture)
    monkeypatch.setattr("vfn.evaluation.held_out.total", lambda value, _: value)
    shared = [mean_held_out_loss(trained, picture, world=World(rank, 2, CPU)) for rank in (0, 1)]
    assert shared == [whole, 0]


def test_the_mean_loss_takes_any_objective(trained, held_out):
    sizes = []

    def objective(_network, batch, _diffusion):
        sizes.append(len(batch.x0))
        return torch.full((len(batch.x0),), 3.0)

    many = Dataset(held_out.images.repeat(2, 1, 1, 1), held_out.labels.repeat(2), held_out.legend)
    assert mean_held_out_loss(trained, many, objective=objective) == 3
    assert sizes == [512] * 4


def test_the_mean_loss_makes_each_batch_when_it_is_wanted(trained, held_out, monkeypatch):
    """So that the memory it takes is that of a batch, and not of all pictures and draws."""
    heard = []

    def noise(seed, stream, keys, shape):
        heard.append(("made", len(keys)))
        return keyed_normal(seed, stream, keys, shape)

    def objective(_network, batch, _diffusion):
        heard.append(("used", len(batch.x0)))
        return batch.t.float()

    monkeypatch.setattr("vfn.evaluation.held_out.keyed_normal", noise)
    mean_held_out_loss(trained, first(held_out, 50), objective=objective, batch=20)
    assert heard == [(kind, count) for count in (20, 20, 10) for kind in ("made", "used")] * 4


@pytest.mark.parametrize("takes_step", [False, True])
def test_the_mean_loss_is_of_the_same_draws_in_any_batches(held_out, takes_step):
    """All that a batch holds, to the bit."""
    network = untrained(override(load("digits"), {**SMALL, "condition": "downscale:2"}))

    def drawn_in(size):
        seen = []

        def objective(_network, batch, _diffusion):
            seen.append([part for part in batch if isinstance(part, torch.Tensor)])
            return batch.t.float()

        options = {"seed": 3, "batch": size, "takes_step": takes_step}
        mean_held_out_loss(network, first(held_out, 50), objective=objective, **options)
        return [torch.cat(parts) for parts in zip(*seen, strict=True)]

    whole, parts = drawn_in(50), drawn_in(7)
    assert len(whole) == (7 if takes_step else 5)
    assert all(map(torch.equal, whole, parts))


def test_a_network_with_guidance_gets_weights_of_its_range(held_out):
    network = small_network(
        held_out.legend, guidance_range=(0.0, 4.0), teacher_steps=4, student_steps=2
    )
    seen = []

    def objective(_network, batch, _diffusion):
        seen.append(batch.guidance)
        return batch.guidance

    mean_held_out_loss(network, held_out, objective=objective)
    weights = torch.cat(seen)
    assert weights.min() >= 0
    assert weights.max() <= 4
    assert weights.mean() == pytest.approx(2, abs=0.2)


def test_a_network_with_guidance_is_told_its_weight(trained, held_out):
    """Where one weight is judged; a network without is not told any."""
    network = small_network(
        held_out.legend, guidance_range=(0.0, 4.0), teacher_steps=4, student_steps=2
    )
    pictures = first(held_out, 5)
    with pytest.raises(
        ValueError, match="expected guidance in 0..4, an input of this network, got None; name"
    ):
        loss_by_logsnr(network, pictures)
    with pytest.raises(ValueError, match=r"expected guidance in 0..4, .* got 4.5$"):
        loss_by_logsnr(network, pictures, guidance=4.5)
    with pytest.raises(ValueError, match="guidance 4 was given for a network that does not take"):
        loss_by_logsnr(trained, pictures, guidance=4.0)
    seen = []
    network.model.register_forward_pre_hook(lambda _, given: seen.append(given[3]))
    loss_by_logsnr(network, pictures, guidance=4.0)
    assert torch.cat(seen).tolist() == [4.0] * 40


def test_training_sees_distance_precision_and_recall(trained, real):
    steps = []
    found = preview_figures(trained, real, 70, seed=1, check=lambda: steps.append(1))
    assert [figure.key for figure in found] == ["frechet_distance", "precision", "recall"]
    assert len(steps) == 2
    assert preview_figures(trained, real, 70, seed=1) == found
    assert preview_figures(trained, real, 70, seed=2) != found


def test_tags_are_asked_as_the_pictures_have_them(real):
    tags = (torch.arange(len(real.images))[:, None] % torch.tensor([2, 3, 5]) == 0).byte()
    dataset = Dataset(real.images, tags, Labels(("a", "b", "c"), tags=True))
    network, asked = small_network(dataset.legend), []
    hook = network.model.register_forward_pre_hook(lambda _, args: asked.append(args[2]))
    preview_figures(network, dataset, 20)
    hook.remove()
    # Then come 20 without.
    assert torch.equal(asked[0][:20].long(), some_of(tags, 20).long())


def test_loss_by_logsnr_of_a_bound_is_at_its_steps(held_out):
    """Which there are no levels between."""
    network = small_network(Labels(), train_timesteps=4, loss_type="kl")
    seen = []

    def hook(_module, given):
        seen.append(given[1])

    network.model.register_forward_pre_hook(hook)
    loss_by_logsnr(network, Dataset(held_out.images[:5]))
    assert torch.cat(seen).unique().tolist() == [0.25, 0.5, 0.75, 1.0]
