"""The global batch is a function of (seed, draw) alone."""

import torch

from vfn.configs import DiffusionConfig
from vfn.data import load_dataset
from vfn.train.batch import image_indices, make_batch

CPU = torch.device("cpu")


def batch(draws, **diffusion):
    return make_batch(load_dataset("digits"), DiffusionConfig(**diffusion), 3, draws, CPU)


def test_a_draw_does_not_depend_on_the_others():
    whole, part = batch(torch.arange(64)), batch(torch.arange(40, 48))
    for all_of_it, some in zip(whole, part, strict=True):
        assert torch.equal(all_of_it[40:48], some)


def test_an_epoch_shows_each_picture_once_and_the_next_in_another_order():
    first, second = image_indices(0, torch.arange(200), 100).split(100)
    assert first.sort().values.equal(torch.arange(100))
    assert second.sort().values.equal(torch.arange(100))
    assert not first.equal(second)


def test_labels_are_dropped_at_the_asked_rate_and_never_in_the_data_set():
    dataset = load_dataset("digits")
    before = dataset.labels.clone()
    drawn = make_batch(dataset, DiffusionConfig(p_uncond=0.1), 0, torch.arange(8000), CPU)
    share = (drawn.labels == 0).double().mean().item()
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 8000) ** 0.5  # four standard errors
    assert dataset.labels.equal(before)
    kept = drawn.labels > 0
    asked = dataset.labels[image_indices(0, torch.arange(8000), len(dataset.images))]
    assert drawn.labels[kept].equal(asked[kept])


def test_discrete_times_lie_on_the_grid():
    t = batch(torch.arange(500), train_timesteps=4).t
    assert t.unique().tolist() == [0.25, 0.5, 0.75, 1.0]
