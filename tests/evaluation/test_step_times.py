"""Times of a few-step sampler: the search, on losses with known minima, and the command."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.conftest import SMALL
from tests.helpers.small import DIGITS_FILE
from vfn.cli import app
from vfn.configs import load, override
from vfn.configs.schema import SEED
from vfn.data import load_dataset
from vfn.evaluation import (
    METRICS,
    BestTimes,
    Evaluation,
    Figure,
    best_times,
    extractor_of,
    judge,
    search_times,
    usual_labels,
)
from vfn.sampling import untrained


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(5, 95), min_size=1, max_size=3, unique=True))
def test_a_minimum_of_separate_times_is_found(places):
    """A sum of one bowl for each time: every time ends in the midst of its own."""
    wanted = [place / 100 for place in sorted(places, reverse=True)]

    def loss(times):
        assert times[0] == 1
        return sum((a - b) ** 2 for a, b in zip(times[1:], wanted, strict=True))

    tried = search_times(loss, len(wanted) + 1, within=1e-3, rounds=20)
    assert min(tried, key=tried.get)[1:] == pytest.approx(wanted, abs=0.01)
    assert all(math.isfinite(value) for value in tried.values())
    assert all(list(times) == sorted(set(times), reverse=True) for times in tried)


def test_uniform_times_are_first_and_nothing_is_tried_twice():
    seen = []
    search_times(lambda times: seen.append(times) or 1.0, 4)
    assert seen[0] == (1.0, 0.75, 0.5, 0.25)
    assert len(seen) == len(set(seen))


def test_the_best_trial_is_what_sampling_with_its_times_gives(trained):
    found = best_times(trained, 3, num=20, within=0.2, seed=5, real=DIGITS_FILE, device="cpu")
    assert found.trials[found.times] == min(found.trials.values())
    assert next(iter(found.trials)) == pytest.approx((1, 2 / 3, 1 / 3), abs=1e-3)
    draws = trained.draws(20, usual_labels(trained, 20, 5), 5, steps=3, times=found.times)
    judged = judge(DIGITS_FILE, draws, "fd", device="cpu")
    assert judged.figures[0].value == pytest.approx(found.trials[found.times], rel=1e-6)
    uniform = next(iter(found.trials))
    for times in (found.times, uniform):  # and at another seed, to which nothing was fitted
        draws = trained.draws(20, usual_labels(trained, 20, 6), 6, steps=3, times=times)
        judged = judge(DIGITS_FILE, draws, "fd", seed=6, device="cpu")
        assert judged.figures[0].value == pytest.approx(found.again[times], rel=1e-6)
    assert (found.seed, found.other_seed, found.again.keys()) == (5, 6, {found.times, uniform})


@pytest.mark.parametrize("metric", ["fd", "fid", "memorisation"])
def test_real_pictures_are_seen_once_and_figures_are_those_of_judge(trained, monkeypatch, metric):
    """To the bit, at both seeds; and so are those held out."""
    real, held_out = (load_dataset("digits", split).images[5] for split in ("train", "test"))
    seen, opened = [], []

    def rows(images):
        seen.extend(images)
        return images.float().mean(3).flatten(1)

    def opening(*given):
        opened.append(given)
        return extractor_of("rows", rows)

    monkeypatch.setattr("vfn.evaluation.planning.open_extractor", opening)
    found = best_times(trained, 2, metric, num=20, within=0.3, seed=5, device="cpu")
    assert len(found.trials) + len(found.again) > 4
    assert len(opened) == 1
    assert sum(torch.equal(each, real) for each in seen) == 1
    assert sum(torch.equal(each, held_out) for each in seen) == (metric == "memorisation")
    for seed, figures in ((5, found.trials), (6, found.again)):
        for times, value in figures.items():
            draws = trained.draws(20, usual_labels(trained, 20, seed), seed, steps=2, times=times)
            judged = judge("dataset:digits:train", draws, metric, seed=seed, device="cpu")
            assert next(f.value for f in judged.figures if f.key == found.kind.key) == value


def test_a_network_that_takes_pictures_gets_those_of_its_data():
    network = untrained(override(load("digits"), {**SMALL, "condition": "downscale:2"}))
    found = best_times(network, 2, num=10, within=0.5, device="cpu")
    assert len(found.times) == 2


def test_a_figure_that_is_better_when_higher_is_raised(trained):
    found = best_times(trained, 2, "dc", num=20, within=0.3, real=DIGITS_FILE, device="cpu")
    assert found.kind.better == "higher"
    assert found.trials[found.times] == max(found.trials.values())


@pytest.mark.parametrize(("again", "noise"), [(2.0, False), (3.0, True), (4.0, True)])
def test_a_choice_that_is_no_better_for_other_pictures_is_noise(again, noise):
    """Lower is better: 1 at seed 0, where uniform times have 5, and 3 of these at seed 1."""
    uniform, best = (1.0, 0.5), (1.0, 0.7)
    kind = METRICS["fd"].figures[0]
    told = BestTimes(best, kind, {uniform: 5.0, best: 1.0}, 0, 1, {best: again, uniform: 3.0})
    first, second, last = told.table().splitlines()
    assert first.startswith("Fréchet distance at seed 0: 1")
    assert first.endswith("; the best of 2 trials, fitted to these pictures")
    assert second.startswith(f"Fréchet distance at seed 1: {again:g}")
    assert ("; no better here, so the difference is within the noise" in second) == noise
    assert last == "--steps 2 --times 1,0.7"
    same = BestTimes(uniform, kind, {uniform: 1.0}, 0, 1, {uniform: 1.0})
    assert "noise" not in same.table()


@pytest.mark.slow
def test_the_command_ends_in_words_for_sampling(undisturbed, forks, tmp_path):
    run = undisturbed(1, 1)
    words = ["times", str(run), "--num", "20", "--within", "0.3", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--real", DIGITS_FILE])
    assert done.exit_code == 0, done.output
    told = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in told[:2]] == [
        "Fréchet distance at seed 0",
        "Fréchet distance at seed 1",
    ]
    sample = ["sample", "--checkpoint", str(run), "--out", str(tmp_path / "out"), "--num", "2"]
    done = CliRunner().invoke(app, [*sample, *told[2].split(), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    two = forks.run(*words, "--real", DIGITS_FILE, processes=2)
    assert two.count("times 1,0.5, seed 0: ") == 1  # the first process tells
    refused = CliRunner().invoke(app, [*words, "--grid", "logsnr"])
    assert refused.exit_code == 2
    assert "No such option" in refused.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "expected steps to be a whole number in 2..16, got 1"),
        ({"metric": "loss"}, "expected a metric with a figure of pictures, got loss; fd has one"),
        ({"steps": 2.0}, "expected steps to be a whole number in 2..16, got 2.0"),
        ({"steps": "2"}, "expected steps to be a whole number in 2..16, got '2'"),
        ({"num": "9"}, "expected num to be a whole number of at least 1, got '9'"),
        ({"seed": 1.5}, "expected seed to be a whole number in 0..9223372036854775807, got 1.5"),
        ({"within": 0.0}, "expected within above 0 and below 1, got 0"),
        ({"within": "0.1"}, "expected within to be a finite number, got '0.1'"),
        ({"num": 1}, "fd"),
        (
            {"grid": "logsnr", "num": 10},
            "expected no grid, as where steps begin is sought; leave it out",
        ),
        ({"times": (1, 0.5)}, "expected no times, as where steps begin is sought"),
        (
            {"sampler": "adaptive", "num": 10},
            "expected a sampler that takes times, got adaptive, which cho",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(trained, options, message):
    with pytest.raises(ValueError, match=message):
        best_times(trained, device="cpu", **{"real": DIGITS_FILE, **options})


def test_a_search_takes_numbers_of_any_kind():
    def loss(times):
        return (times[1] - 0.7) ** 2

    expected = search_times(loss, 2, within=1e-3, rounds=2)
    assert search_times(loss, np.int64(2), within=np.float64(1e-3), rounds=np.int8(2)) == expected
    for options in ({"steps": 2.5}, {"steps": "2"}, {"steps": 0}, {"steps": 2, "rounds": 1.5}):
        with pytest.raises(ValueError, match="to be a whole number of at least"):
            search_times(loss, **options)
    with pytest.raises(ValueError, match="expected within to be a finite number, got None"):
        search_times(loss, 2, within=None)


def test_trials_of_a_figure_that_is_better_when_higher_are_that_figure(trained, monkeypatch):
    """And the seed after the last one is the first."""

    def judged(draws, _seed):
        return Evaluation(
            [Figure("precision", "Precision", 1 - abs(draws.settings.times[1] - 0.7))]
        )

    monkeypatch.setattr("vfn.evaluation.step_times.Judge", lambda *_, **__: judged)
    found = best_times(trained, 2, "pr", num=10, seed=SEED, device="cpu")
    assert (found.kind.key, found.seed, found.other_seed) == ("precision", SEED, 0)
    assert found.times == pytest.approx((1.0, 0.7), abs=0.02)
    assert found.trials[found.times] == max(found.trials.values()) == pytest.approx(1, abs=0.02)
