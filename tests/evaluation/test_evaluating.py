"""Some metrics of two sides: good pictures get good figures, and what cannot be judged is said."""

import pytest
import torch

from vfn.data import Dataset, Labels
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.extractors import Extractor, Outputs, extractor_of
from vfn.evaluation.features import Statistics, compute_statistics
from vfn.evaluation.sides import Figure, Sides


def test_held_out_pictures_are_good_and_not_memorised(real, held_out):
    names = ["fd", "pr", "agreement", "memorisation"]
    found = evaluate(Sides(real, held_out, held_out), names)
    got = {figure.key: figure.value for figure in found}
    assert got["frechet_distance"] < 0.2
    assert got["precision"] > 0.85
    assert got["recall"] > 0.7  # 360 pictures cannot reach all 1,437
    assert got["label_agreement"] > 0.98
    assert got["memorised"] == 0
    assert got["near_copies"] == pytest.approx(0.05, abs=1 / 360)


def test_agreement_is_the_same_of_larger_pixels(real, held_out):
    """The classifier's kernel would see nothing alike at 24x24 if its width did not grow too."""

    def larger(side):
        return side._replace(images=side.images.repeat_interleave(3, 2).repeat_interleave(3, 3))

    sides = Sides(real.rows(torch.arange(300)), held_out, held_out)
    found = [
        evaluate(each, ["agreement"])[0].value
        for each in (sides, Sides(*(larger(side) for side in sides)))
    ]
    assert found[0] == found[1] > 0.9


def test_only_what_is_needed_is_extracted(real, held_out):
    seen = []
    counted = extractor_of("counted", lambda x: seen.append(len(x)) or x.flatten(1).float())
    sides = Sides(real, held_out._replace(images=held_out.images[:64], labels=held_out.labels[:64]),
                  held_out)  # fmt: skip
    evaluate(sides, ["agreement"], extractor=counted)
    assert seen == []
    evaluate(sides, ["pr"], extractor=counted)
    assert len(seen) == -(-len(real.images) // 64) + 1


def colours(judged):
    """A metric of a user's: it sees the features of both sides."""
    return {"Colours": judged.fake.features.mean() - judged.real.features.mean()}


def two_figures(_judged):
    return [Figure("one", "One", 1.0), Figure("two", "Two", 2.0, 3.0, "lower", "note", "base")]


def wrong(_judged):
    return 5


def test_a_function_of_the_users_is_a_metric(real, held_out):
    found = evaluate(Sides(real, held_out), [f"{__name__}:colours", "pr"])
    assert [figure.title for figure in found] == ["Colours", "Precision", "Recall"]
    expected = held_out.images.double().mean() / 255 - real.images.double().mean() / 255
    assert found[0].value == pytest.approx(expected.item(), abs=1e-6)
    found = evaluate(Sides(real, held_out), f"{__name__}:two_figures")
    assert [figure.value for figure in found] == [1, 2]
    with pytest.raises(
        ValueError, match="wrong to give a list of Figure or numbers by name, got 5"
    ):
        evaluate(Sides(real, held_out), [f"{__name__}:wrong"])


MEAN_ALONE = Statistics(9, None, None, None, {})


@pytest.mark.parametrize(
    ("change", "metric", "message"),
    [
        ({}, "x", "unknown metric 'x', expected one of fid, "),
        ({"held_out": None}, "memorisation", "needs held-out pictures"),
        ({"held_out": None}, "agreement", "needs held-out pictures"),
        ({"fake": "unlabelled"}, "agreement", "the fake pictures have none"),
        ({"real": "tagged"}, "agreement", "the real ones have tags"),
        ({"real": MEAN_ALONE}, "agreement", "needs real pictures, got stored statistics"),
        ({"real": MEAN_ALONE}, "fid", "mean and covariance of the real pictures, and these stat"),
        ({"real": MEAN_ALONE}, "pr", "these statistics hold only mean and covariance"),
        ({"fake": Dataset(torch.zeros(9, 3, 8, 8))}, "fd", "of one shape, got"),
        ({"fake": 3}, "pr", "pr needs at least 4 fake pictures, got 3"),
        ({"fake": 5}, "dc", "dc needs at least 6 fake pictures, got 5"),
        ({"fake": 1}, "fid", "fid needs at least 2 fake pictures, got 1"),
        ({}, "is", "logits of a classifier, and pixels gives none; use --features inception"),
        ({}, "loss", "loss goes with --fake run:DIR, or a loaded network; leave it out"),
        ({}, "bpd", "bpd goes with --fake run:DIR"),
        ({}, [], "expected metrics, one of fid, .*, got none"),
    ],
)
def test_what_cannot_be_judged(real, held_out, change, metric, message):
    named = {
        "unlabelled": held_out._replace(labels=None),
        "tagged": real._replace(
            labels=torch.ones(len(real.images), 3, dtype=torch.uint8), legend=Labels(("a",), True)
        ),
        5: Dataset(real.images[:5]),
        3: Dataset(real.images[:3]),
        1: Dataset(real.images[:1]),
    }
    change = {k: v if isinstance(v, tuple) else named.get(v) for k, v in change.items()}

    def broken(_):
        raise AssertionError("features were computed before the refusal")

    extractor = Extractor("pixels", broken, {}, logits=False)
    sides = Sides(real, held_out, held_out)._replace(**change)
    for names in ([metric], [metric, "fd"]) if isinstance(metric, str) else (metric,):
        with pytest.raises(ValueError, match=message):
            evaluate(sides, names, extractor=extractor)


def test_what_cannot_be_compared(real, held_out):
    rows = extractor_of("rows", lambda x: x.float().mean((1, 3)))
    narrow = compute_statistics(held_out.images, rows)
    with pytest.raises(ValueError, match="the real side has 64 features and the fake 8"):
        evaluate(Sides(real, narrow), ["fid"])
    with pytest.raises(ValueError, match="at least 2 resampled sets, got --bootstrap 1"):
        evaluate(Sides(real, held_out), ["fid"], bootstrap=1)


def test_logits_that_do_not_come_are_missed(real, held_out):
    silent = Extractor("silent", lambda x: Outputs(x.flatten(1).float()), {})
    with pytest.raises(ValueError, match="logits of a classifier, and silent gives none"):
        evaluate(Sides(real, held_out), ["is"], extractor=silent)
