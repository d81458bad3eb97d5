"""Metrics of pictures: each one sees the fault it is there for."""

import contextlib
import io

import pytest
import torch
from vfn.model import DataShape, build_model

from vfn.configs import load, override
from vfn.data import Dataset, load_dataset
from vfn.evaluation.extractors import extractor_of, pixels
from vfn.evaluation.features import describe
from vfn.evaluation.metrics import Sides, evaluate, halves, loss_by_logsnr
from vfn.ops import keyed_normal

REAL, HELD_OUT = (load_dataset("digits", split) for split in ("train", "test"))
TAGGED = REAL._replace(labels=torch.ones(len(REAL.images), 3, dtype=torch.uint8))


def figures(fake, *names):
    return {m.name: m.value for m in evaluate(Sides(REAL, fake, HELD_OUT), list(names))}


def test_held_out_pictures_are_good_and_not_memorised():
    got = figures(HELD_OUT, "fd", "pr", "agreement", "memorisation")
    assert got["Fréchet distance (pixels)"] < 0.2
    assert got["Precision"] > 0.85
    assert got["Recall"] > 0.7  # 360 pictures cannot reach all 1,437
    assert got["Label agreement"] > 0.98
    assert got["Memorised"] == 0
    assert got["Near-copies"] == pytest.approx(0.05, abs=1 / 360)


def test_copies_of_training_pictures_are_memorised():
    copies = Dataset(REAL.images[:100], REAL.labels[:100], REAL.class_names)
    got = figures(copies, "memorisation", "pr")
    assert got["Memorised"] == 1
    assert got["Precision"] == 1


def test_wrong_labels_lower_the_agreement():
    wrong = HELD_OUT._replace(labels=HELD_OUT.labels % 10 + 1)
    assert figures(wrong, "agreement")["Label agreement"] < 0.02


def test_noise_is_far_away():
    noise = Dataset(torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8), None, ())
    got = figures(noise, "fd", "pr")
    assert got["Fréchet distance (pixels)"] > 5
    assert got["Precision"] == 0


def test_neighbours_are_those_of_prdc():
    """Sides in their roles and both numbers of neighbours; sides of different spread."""
    from prdc import compute_prdc

    some = Dataset(torch.cat([HELD_OUT.images, REAL.images[:300] // 2]), None, ())
    got = figures(some, "pr", "dc")
    with contextlib.redirect_stdout(io.StringIO()):
        three, five = (
            compute_prdc(*(pixels(side.images).numpy() for side in (REAL, some)), nearest_k=k)
            for k in (3, 5)
        )
    expected = {n: (three if n in ("precision", "recall") else five)[n] for n in three}
    # Pixels are whole numbers: some distances are those of the radius, which prdc leaves out.
    found = {name.lower(): value for name, value in got.items()}
    assert found == pytest.approx(expected, rel=2e-3)
    assert len({*expected.values(), 0.0, 1.0}) == 6


def test_few_pictures_have_no_reference():
    five = Dataset(REAL.images[:5], None, ())
    for metric in evaluate(Sides(five, HELD_OUT, None), ["pr"]):
        assert metric.reference is None


def test_one_class_alone_has_little_recall():
    zeros = HELD_OUT.labels == 1
    got = figures(Dataset(HELD_OUT.images[zeros], HELD_OUT.labels[zeros], ()), "pr")
    assert got["Precision"] > 0.8
    assert got["Recall"] < 0.3


def test_the_halves_share_no_picture():
    one, other = halves(torch.arange(11)[:, None], seed=0)
    assert torch.cat([one, other]).flatten().sort().values.tolist() == [*range(11)]
    assert not torch.equal(one, halves(torch.arange(11)[:, None], seed=1)[0])


@pytest.mark.parametrize(("count", "singular"), [(64, True), (65, False)])
def test_a_singular_covariance_is_noted(count, singular):
    few = Dataset(HELD_OUT.images[:count], None, ())
    (metric,) = evaluate(Sides(REAL, few, None), ["fid"])
    assert (f"{count} fake pictures for 64 features" in metric.note) == singular


def test_loss_by_logsnr_is_the_same_in_any_batches(monkeypatch):
    drawn = []

    def noise(seed, stream, keys, shape):
        drawn.extend(keys.tolist())
        return keyed_normal(seed, stream, keys, shape)

    monkeypatch.setattr("vfn.evaluation.metrics.keyed_normal", noise)
    shape = DataShape(1, 8, 8, HELD_OUT.class_names)
    model = build_model(override(load("digits"), {"hid_channels": 32}), shape).eval()
    pictures = HELD_OUT._replace(images=HELD_OUT.images[:50], labels=HELD_OUT.labels[:50])
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    params, diffusion = dict(model.named_parameters()), load("digits").diffusion
    found = [
        loss_by_logsnr(model, params, diffusion, pictures, 3, torch.device("cpu"), batch=batch)
        for batch in (50, 20)
    ]
    assert seen == [50] * 8 + [20, 20, 10] * 8
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
    assert sorted(drawn) == sorted([*range(400)] * 2)  # every bin and picture has its own noise


@pytest.mark.parametrize(
    ("sides", "metric", "message"),
    [
        (Sides(REAL, HELD_OUT, HELD_OUT), "x", "unknown metric 'x', expected among fd, pr"),
        (Sides(REAL, HELD_OUT, None), "memorisation", "needs held-out pictures"),
        (Sides(REAL, HELD_OUT._replace(labels=None), HELD_OUT), "agreement", "fake pictures have"),
        (Sides(TAGGED, HELD_OUT, HELD_OUT), "agreement", "the real ones have tags"),
        (Sides(REAL, Dataset(torch.zeros(9, 3, 8, 8), None, ()), None), "fd", "of one shape, got"),
        (Sides(REAL, Dataset(REAL.images[:3], None, ()), None), "pr", "4 fake pictures, got 3"),
    ],
)
def test_what_cannot_be_judged(sides, metric, message):
    with pytest.raises(ValueError, match=message):
        evaluate(sides, [metric])


def test_what_cannot_be_compared():
    narrow = describe(HELD_OUT.images, extractor_of("rows", lambda x: x.float().mean((1, 3))))
    with pytest.raises(ValueError, match="the real side has 64 features and the fake 8"):
        evaluate(Sides(REAL, narrow, None), ["fid"])
    with pytest.raises(ValueError, match="at least 2 resampled sets, got --bootstrap 1"):
        evaluate(Sides(REAL, HELD_OUT, None), ["fid"], bootstrap=1)
