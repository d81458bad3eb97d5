"""What metrics need is looked for before any work; the usual ones that lack it are left out."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import REAL, small_network
from vfn.data import Labels
from vfn.evaluation.extractors import PIXELS, Extractor, Outputs, extractor_of
from vfn.evaluation.features import Statistics, compute_statistics
from vfn.evaluation.judging import judge
from vfn.ops import Gaussian
from vfn.sampling import Draws


def of_data(trained, **settings):
    """The network as if it had been trained on other data."""
    data = replace(trained.config.data, **settings)
    return replace(trained, config=replace(trained.config, data=data))


def test_a_run_of_all_pictures_has_no_held_out_loss(trained, capsys):
    everything = of_data(trained, split="all")
    with pytest.raises(ValueError, match="loss needs held-out pictures of the network's own data, "
                       "and it was trained on all pictures"):  # fmt: skip
        judge(REAL, undrawable(everything), "pr,loss", device="cpu")
    found = judge(REAL, everything, "usual", num=5, device="cpu")
    assert found.loss_by_logsnr == []
    assert "left out: loss, which needs held-out pictures of the netw" in capsys.readouterr().err


def test_usual_metrics_are_those_that_lack_nothing(held_out, tmp_path, capsys):
    """Without labels and without the run's own data."""
    legend = Labels()
    network = of_data(small_network(legend, conditional=False, guidance=0), dataset="/no/where")
    found = judge(REAL, network, "usual,is", num=20, features=scored, device="cpu")
    keys = [figure.key for figure in found.figures]
    assert keys == ["frechet_distance", "precision", "recall", "memorised", "near_copies",
                    "inception_score"]  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["left out: agreement", "left out: loss"]
    assert "labels, and the fake pictures have none" in lines[0]
    assert "its data cannot be read: there is no folder" in lines[1]
    found = judge(REAL, held_out, "usual", device="cpu")
    assert "loss" not in capsys.readouterr().err  # it never belongs to pictures
    np.savez(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.eye(64))
    found = judge(tmp_path / "a.npz", held_out, "usual", device="cpu")
    assert [figure.key for figure in found.figures] == ["frechet_distance"]
    with pytest.raises(ValueError, match="fd needs at least 2 fake pictures, got 1"):
        judge(held_out.images, held_out.images[:1], "usual", device="cpu")


@dataclass(frozen=True)
class Undrawable(Draws):
    """Pictures that must not be drawn."""

    def batch(self, _indices, _watch=None):
        raise AssertionError("a picture was drawn before the refusal")


def scores(images):
    return Outputs(images.flatten(1).float(), images[:, 0, 0].float())


scored = Extractor("scored", scores, {"extractor": "scored"})
FAULTY = {
    "fails": extractor_of("fails", lambda images: images.no_such_thing),
    "flat": extractor_of("flat", lambda images: images.float().mean((1, 2, 3))),
    "array": extractor_of("array", lambda images: images.flatten(1).numpy()),
}
not_a_function = 3


def undrawable(trained, num=20):
    asked = trained.draws(num)
    return Undrawable(trained, asked.settings, asked.asked, num)


@pytest.mark.parametrize(
    ("real", "options", "message"),
    [
        (REAL, {"metrics": "fd,x"}, "unknown metric 'x'"),
        (REAL, {"metrics": "fd,is"}, "is needs the logits of a classifier, and pixels gives none"),
        ("mean", {"metrics": "fd,kid"}, "kid needs the features of every real picture"),
        ("mean", {"metrics": "fd,agreement"}, "agreement needs held-out pictures"),
        ("other size", {}, "pictures of one shape, got"),
        (
            "images",
            {"metrics": "fd,memorisation"},
            "needs held-out pictures; name them with --held",
        ),
        ("images", {"metrics": "agreement", "held_out": REAL}, "the real pictures have none"),
        (
            "other classes",
            {"metrics": "agreement", "held_out": REAL},
            "label '1' is not among the real pictures' 0, a",
        ),
        (REAL, {"bootstrap": 1}, "at least 2 resampled sets"),
        (REAL, {"features": "x"}, "unknown features 'x', expected one of pixels, inception"),
        ("dataset:x", {}, "unknown data set 'x'"),
        (REAL, {"held_out": "nowhere"}, "expected pictures at 'nowhere'"),
        (REAL, {"metrics": "fid_infinity"}, "more than 130 fake pictures for 64 features, got 20"),
        (REAL, {"metrics": "fd,no.such:thing"}, "no.such:thing cannot be imported"),
        (REAL, {"metrics": f"{__name__}:not_a_function"}, "to be a function of vfn.eval"),
        (REAL, {"features": f"{__name__}:not_a_function"}, "to be a function, got int"),
        (
            REAL,
            {"features": FAULTY["fails"]},
            r"features fails fail for pictures \[2, 1, 8, 8\]: At",
        ),
        (REAL, {"features": FAULTY["flat"]}, r"expected flat to give features \[2, D\], got \[2\]"),
        (REAL, {"features": FAULTY["array"]}, r"to give features \[2, D\], got ndarray"),
        (REAL, {"features": "pixels", "weights": Path("w")}, "pixels need no weights"),
        (REAL, {"held_out": REAL}, "held-out pictures go with metrics that need them"),
        (REAL, {"image_size": (8, 8, 8)}, "height,width, or one number for a square, within"),
        (REAL, {"image_size": 0}, "within 1..32768, got 0"),
        ("one class", {"metrics": "agreement", "held_out": REAL}, "real pictures of two classes"),
        ("wide mean", {}, "the real side has 9 features and the fake 64"),
        ("other features", {"metrics": "fd"}, "has features with extractor vgg16, and this eval"),
        (torch.zeros(2, 8, 8), {}, "expected uint8 pictures"),
        (5, {}, "a path, .* data set, or what .* gives, statistics, or a run or network, got int"),
        (np.zeros((9, 8, 8), np.uint8), {}, r"whose shape tells which, .* got uint8 \[9, 8, 8\]"),
        (np.zeros((9, 3, 8, 3), np.uint8), {}, r"which, .* got uint8 \[9, 3, 8, 3\]; give a ten"),
        (np.zeros((9, 1, 8, 8)), {}, "which, .* got float64"),
    ],
)
def test_refusals_come_before_the_work(trained, tmp_path, held_out, real, options, message):
    np.savez(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.eye(64))
    named = {
        "mean": tmp_path / "a.npz",
        "other size": torch.zeros(9, 1, 4, 4, dtype=torch.uint8),
        "images": held_out.images,
        "one class": held_out._replace(labels=torch.ones_like(held_out.labels)),
        "wide mean": Statistics(
            5, Gaussian(torch.zeros(9), torch.eye(9)), torch.zeros(5, 9), None, {}
        ),
        "other features": compute_statistics(
            held_out.images, PIXELS._replace(provenance={"extractor": "vgg16"})
        ),
        "other classes": held_out._replace(legend=Labels(("0", "a"))),
    }
    given = named.get(real, real) if isinstance(real, str) else real
    with pytest.raises(ValueError, match=message):
        judge(given, undrawable(trained), **{"device": "cpu", **options})


def test_nothing_is_asked_of_weights_before_everything_else_is_right(trained, monkeypatch):
    """Neither a download nor a look at a file."""

    def touched(*_):
        raise AssertionError("weights were touched before the refusal")

    monkeypatch.setattr("vfn.evaluation.weights.open_network", touched)
    asked = {"features": "inception", "device": "cpu"}
    for real, options, message in (
        (
            REAL,
            {"metrics": "fd,agreement", "held_out": "nowhere"},
            "expected pictures at 'nowhere'",
        ),
        (REAL, {"metrics": "fid_infinity"}, "more than 4098 fake pictures for 2048 features"),
        (torch.zeros(9, 1, 4, 4, dtype=torch.uint8), {"metrics": "fd"}, "of one shape"),
        (REAL, {"metrics": "fd", "weights": Path("no.pth")}, "no.pth cannot be read: No such file"),
    ):
        with pytest.raises(ValueError, match=message):
            judge(real, undrawable(trained), **asked, **options)
    monkeypatch.setenv("VFN_OFFLINE", "1")
    with pytest.raises(ValueError, match="forbids a download"):
        judge(REAL, undrawable(trained), **asked)
    monkeypatch.setattr("vfn.evaluation.extractors.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"need torch-fidelity; pip install '\.\[eval\]'"):
        judge(REAL, undrawable(trained), **asked)
    monkeypatch.undo()


DISK = SimpleNamespace(total=100, used=99, free=1)


def test_a_disk_without_room_is_told_before(trained, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: DISK)
    heavy = scored._replace(provenance={"weights_sha256": "a"})
    with pytest.raises(ValueError, match="features of 1457 pictures take about .* GB, and where"):
        judge(REAL, undrawable(trained), ["fd"], features=heavy, device="cpu")


def test_few_pictures_are_refused_before_they_are_drawn(trained):
    with pytest.raises(ValueError, match="pr needs at least 4 fake pictures, got 3"):
        judge(REAL, undrawable(trained, 3), device="cpu")
    with pytest.raises(AssertionError, match="a picture was drawn"):
        judge(REAL, undrawable(trained), device="cpu")


def test_metrics_of_a_network_are_refused_for_pictures(held_out):
    for word in ("loss", "bpd"):
        with pytest.raises(ValueError, match=f"{word} goes with --fake run:DIR"):
            judge("nowhere", held_out, ["fd", word], device="cpu")


@pytest.mark.parametrize("metrics", ["fd,fid", "fid,usual", "usual,fd,fid", "fd,fid,usual"])
def test_two_words_for_a_metric_give_its_figure_once(held_out, metrics):
    keys = [figure.key for figure in judge(REAL, held_out, metrics, device="cpu").figures]
    assert keys.count("frechet_distance") == 1
    assert len(keys) == len({*keys}) == (6 if "usual" in metrics else 1)


def test_a_damaged_log_is_told_before_anything_is_drawn(run, monkeypatch, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "log.jsonl").write_text("{}\n")
    monkeypatch.setattr(Draws, "by_all", None)
    with pytest.raises(ValueError, match='log.jsonl line 1: expected a whole "step"'):
        judge(REAL, f"run:{copy}", ["fd"], num=20, device="cpu")
