"""Whatever stands for a side is judged, and what cannot be judged is refused before any work."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.conftest import small_network
from tests.helpers.gpu import tf32_flags
from tests.helpers.small import SHAPE, small_config
from vfn.configs import DataConfig, dumps, override
from vfn.data import Dataset, Labels, load_dataset
from vfn.data.resize import resized
from vfn.data.values import Values
from vfn.evaluation import (
    bits_per_dim,
    evaluate,
    loss_by_logsnr,
    mean_held_out_loss,
    own_draws,
    paired_draws,
    preview_figures,
)
from vfn.evaluation.extractors import PIXELS, Extractor, Outputs, extractor_of
from vfn.evaluation.features import Statistics, compute_statistics, save_statistics
from vfn.evaluation.judging import judge
from vfn.evaluation.opening import open_held_out
from vfn.evaluation.planning import checked_size
from vfn.evaluation.record import read_evaluation
from vfn.evaluation.sides import Figure, Sides
from vfn.files import write_atomic
from vfn.model import DataShape
from vfn.ops import Gaussian
from vfn.runs import Checkpoint, DataMark, RunFiles, save_checkpoint
from vfn.sampling import Draws, as_data, untrained, usual_labels

REAL = "dataset:digits"


def values(evaluation):
    return {figure.key: figure.value for figure in evaluation.figures}


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run directory with the small network."""
    run = RunFiles(tmp_path_factory.mktemp("runs") / "small")
    params = dict(trained.params)

    def copies():
        return {name: value.clone() for name, value in params.items()}

    moments = {"exp_avg": copies(), "exp_avg_sq": copies()}
    checkpoint = Checkpoint(7, trained.config, trained.shape, copies(), params, moments, {})
    save_checkpoint(run, checkpoint, keep=1)
    lines = [{"step": 5, "seconds": 2.5}, {"step": 9, "seconds": 4.5}]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path


@pytest.fixture
def pictures(held_out, tmp_path):
    """The same pictures in every form."""
    np.savez(tmp_path / "p.npz", arr_0=held_out.images.permute(0, 2, 3, 1).numpy())
    statistics = compute_statistics(held_out.images, PIXELS)
    save_statistics(tmp_path / "s.npz", statistics)
    return {
        "spec": "dataset:digits:test",
        "pictures in a file": str(tmp_path / "p.npz"),
        "path": tmp_path / "p.npz",
        "statistics in a file": tmp_path / "s.npz",
        "tensor": held_out.images,
        "array": held_out.images.numpy(),
        "array, channels last": held_out.images.movedim(1, -1).numpy(),
        "data set": held_out,
        "statistics": statistics,
    }


def test_every_form_of_pictures_gets_the_same_figures(pictures):
    found = {form: values(judge(REAL, given, device="cpu")) for form, given in pictures.items()}
    assert found["spec"]["frechet_distance"] < 0.2
    for form, figures in found.items():
        assert figures == found["spec"], form
    real = {form: values(judge(given, REAL, device="cpu")) for form, given in pictures.items()}
    for form, figures in real.items():
        assert figures == real["spec"], form
    assert real["spec"] != found["spec"]


def test_every_form_of_a_network_gets_the_same_figures(trained, run):
    draws = trained.draws(20, seed=3)
    forms = {"run": f"run:{run}", "network": trained, "draws": draws, "images": draws.all().images}
    found = {
        form: judge(REAL, given, num=20, seed=3, device="cpu") for form, given in forms.items()
    }
    for form, evaluation in found.items():
        assert values(evaluation) == values(found["run"]), form
    changed = judge(REAL, trained.draws(20, seed=3, steps=1), seed=3, device="cpu")
    assert values(changed) != values(found["run"])
    assert changed.settings["sample_timesteps"] == 1


def test_what_was_drawn_is_judged_with_its_labels(trained, real):
    asked = {"metrics": "fd,agreement", "device": "cpu"}
    draws = trained.draws(20, ["7", "3"])
    drawn, direct = judge(REAL, draws.all(), **asked), judge(REAL, draws, **asked)
    assert values(drawn) == values(direct)
    assert drawn.settings["fake_classes"] == direct.settings["fake_classes"] == [0.0, 0.5]
    assert drawn.settings["labels"] == ",".join(10 * ["7", "3"])
    tagged = small_network(Labels(("a", "b"), tags=True)).draws(20, ["a+b", "b", ""])
    unlabelled = small_network(Labels(), conditional=False, guidance=0).draws(20)
    for some in (tagged, unlabelled):
        assert values(judge(REAL, some.all(), "fd", device="cpu")) == values(
            judge(REAL, some, "fd", device="cpu")
        )
    assert values(judge(draws.all(), real, "fd", device="cpu")) == values(
        judge(draws, real, "fd", device="cpu")
    )
    broken = draws.all()._replace(finite=torch.arange(20) > 2)
    with pytest.raises(ValueError, match="finite pictures to judge, but 3 of 20 pictures are not"):
        judge(REAL, broken, "fd", device="cpu")


def test_a_network_may_be_the_real_side(trained):
    found = judge(trained, trained, ["pr"], num=20, device="cpu")
    assert values(found)["precision"] == 1
    assert found.settings["real_sha256"] == trained.digest


def test_settings_say_what_the_figures_depend_on(trained, run):
    settings = judge(REAL, f"run:{run}", num=20, seed=4, bootstrap=2, device="cpu").settings
    some = {
        "real": REAL, "fake": f"run:{run}", "seed": 4, "num": 20, "labels": "in turn", "step": 7,
        "train_seconds": 2.5, "ema_sha256": trained.digest, "sampler": "abm2",
        "sample_timesteps": 2, "real_num": 1437, "bootstrap": 2, "extractor": "pixels",
    }  # fmt: skip
    assert {name: settings[name] for name in some} == some
    json.dumps(settings)
    assert settings["sample_seed"] == 4
    draws = trained.draws(4, ["3", "7"], seed=5)
    settings = judge(REAL, draws, device="cpu").settings
    assert settings["labels"] == "3,7"
    assert settings["sample_seed"] == 5
    assert settings["fake"] == "a network in memory"
    settings = judge(REAL, "dataset:digits:test", device="cpu").settings
    assert "step" not in settings
    assert settings["num"] == 360


def test_metrics_of_the_network_come_with_those_of_pictures(trained, monkeypatch):
    seen = []
    monkeypatch.setattr("vfn.evaluation.bits.STEPS", 2)
    monkeypatch.setattr("vfn.evaluation.bits.DRAWS", 2)
    monkeypatch.setattr("vfn.evaluation.bits.FLOW_STEPS", 2)
    monkeypatch.setattr("vfn.evaluation.held_out.keyed_normal", _recorded(seen))
    found = judge(REAL, trained, "agreement,loss,bpd", num=5, seed=2, device="cpu")
    assert [figure.key for figure in found.figures] == ["label_agreement"]
    assert len(found.loss_by_logsnr) == 8
    assert {row["count"] for row in found.loss_by_logsnr} == {360}
    assert len(found.bits_per_dim) == 3
    assert set(seen) == {2}  # the seed


def _recorded(seen):
    from vfn.ops import keyed_normal

    return lambda seed, *rest: seen.append(seed) or keyed_normal(seed, *rest)


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
narrow = extractor_of("narrow", lambda images: images[:, 0, :3, 0].float())
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


def columns(images):
    """An extractor of a user's."""
    return images.float().mean((1, 2))


def brightness(judged):
    """A metric of a user's."""
    return {"Brightness": judged.fake.features.mean() - judged.real.features.mean()}


def test_extractors_and_metrics_of_the_users(held_out):
    here = "tests.evaluation.test_judging"
    asked = {"metrics": ["fd", f"{here}:brightness"], "device": "cpu"}
    named = judge(REAL, held_out, features=f"{here}:columns", **asked)
    given = judge(REAL, held_out, features=extractor_of("columns", columns), **asked)
    assert named.figures[0].title == f"Fréchet distance ({here}:columns)"
    assert given.figures[0].title == "Fréchet distance (columns)"
    assert values(named) == values(given)
    assert abs(values(named)["Brightness"]) < 2
    assert named.settings["extractor"] == f"{here}:columns"
    assert "Brightness" in named.table()


def test_classes_are_told_by_their_names(held_out):
    """The numbers of the labels mean nothing: here they run backwards."""
    names = tuple(reversed(held_out.legend.names))
    other = Dataset(held_out.images, 11 - held_out.labels, Labels(names))
    found = judge(REAL, other, ["agreement"], held_out=other, device="cpu")
    assert found.figures[0].value > 0.98
    assert found.figures[0].reference > 0.98


def test_the_split_that_is_held_out_is_taken(trained, held_out):
    asked = {"metrics": ["memorisation"], "num": 20, "device": "cpu"}
    own = judge(REAL, trained, **asked)
    given = judge(REAL, trained, held_out=held_out, **asked)
    assert values(own) == values(given)
    assert own.figures[1].reference == pytest.approx(0.05, abs=1 / 360)


def test_tags_are_asked_as_the_data_have_them(tmp_path):
    images = torch.randint(0, 256, (30, 8, 8, 1), dtype=torch.uint8).numpy()
    tags = (np.arange(30)[:, None] % np.array([2, 3]) == 0).astype(np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=images, arr_1=tags)
    legend = Labels(("0", "1"), tags=True)  # an early version's names
    network = small_network(legend, dataset=str(tmp_path / "a.npz"), data_dir=str(tmp_path))
    asked = usual_labels(network, 40, seed=1)
    assert asked.labels.shape == (40, 2)
    share = asked.labels.float().mean(0)
    assert share.tolist() == pytest.approx([0.5, 1 / 3], abs=0.15)
    found = judge(f"dataset:{tmp_path / 'a.npz'}", network, num=8, device="cpu")
    assert found.settings["labels"] == "as in the data, split train"


@pytest.mark.parametrize("metrics", ["fd,fid", "fid,usual", "usual,fd,fid", "fd,fid,usual"])
def test_two_words_for_a_metric_give_its_figure_once(held_out, metrics):
    keys = [figure.key for figure in judge(REAL, held_out, metrics, device="cpu").figures]
    assert keys.count("frechet_distance") == 1
    assert len(keys) == len({*keys}) == (6 if "usual" in metrics else 1)


TOGETHER = f"""
import sys
from pathlib import Path
from vfn.evaluation import judge
together = judge({REAL!r}, f"run:{{sys.argv[1]}}", num=21, device="cpu")
if together is not None:
    together.write(Path(sys.argv[2]))
"""


def test_processes_judge_together(run, forks, tmp_path):
    """21 pictures do not divide; the last is drawn twice and must count once."""
    script = tmp_path / "script.py"
    script.write_text(TOGETHER)
    forks.run(run, tmp_path / "a.json", script=script, processes=2)
    found = read_evaluation(tmp_path / "a.json")
    alone = judge(REAL, f"run:{run}", num=21, device="cpu")
    assert values(found) == pytest.approx(values(alone), rel=1e-4)
    assert found.settings["num"] == 21


def test_pictures_that_are_not_finite_are_not_judged(trained):
    params = {name: value * float("nan") for name, value in trained.params.items()}
    broken = replace(trained, params=params)
    with pytest.raises(ValueError, match="finite pictures to judge, but 20 of 20 that the network"):
        judge("dataset:digits", broken, ["fd"], num=20, device="cpu")
    with pytest.raises(ValueError, match="but 4 of 4 that the network"):  # the first batch says so
        judge("dataset:digits", broken.draws(20, batch=4), ["fd"], device="cpu")


def nowhere(_judged):
    return {"Nowhere": float("nan"), "Here": 1.0}


def test_a_figure_that_is_not_finite_loses_no_other(held_out, tmp_path, capsys):
    found = judge(REAL, held_out, ["fd", f"{__name__}:nowhere"], device="cpu")
    assert [figure.title for figure in found.figures][1:] == ["Here"]
    told = "got value nan of Nowhere: what computes it gave that; it is left out"
    assert told in capsys.readouterr().err
    found.write(tmp_path / "m.json")
    assert read_evaluation(tmp_path / "m.json").figures == found.figures


@pytest.mark.parametrize("kind", ["png", "npz", "safetensors"])
def test_a_folder_of_samples_is_understood(tmp_path, run, kind):
    """With its labels, and with what its record says of the pictures."""
    from vfn.sampling import load, write_samples

    network, asked = load(run, "cpu"), {"metrics": "fd,agreement", "device": "cpu"}
    draws = network.draws(20, ["7", "3"], guidance=1.0)
    write_samples(draws, tmp_path / "a", kind, animate=False)
    direct, found = judge(REAL, draws, **asked), judge(REAL, str(tmp_path / "a"), **asked)
    assert values(found) == values(direct)
    for name in ("run", "guidance", "sample_timesteps", "sampler", "step", "ema_sha256"):
        assert found.settings[name] == direct.settings[name]
    assert found.settings["run"] == str(run)
    assert found.settings["fake_classes"] == [0.0, 0.5]


@pytest.mark.parametrize("kind", ["png", "tiff", "npz", "npy", "safetensors"])
def test_pictures_without_a_label_are_judged_by_what_needs_none(tmp_path, run, capsys, kind):
    """Half of them have one; the figure is that of the same pictures as a tensor."""
    from vfn.sampling import load, write_samples

    draws = load(run, "cpu").draws(20, torch.tensor([0, 8]), guidance=0.0)
    write_samples(draws, tmp_path / "a", kind, grid=False, animate=False)
    drawn = draws.all()
    alone = judge(REAL, drawn.images, "fd", device="cpu")
    for given in (str(tmp_path / "a"), draws, drawn):
        found = judge(REAL, given, "fd", device="cpu")
        assert values(found) == values(alone)
        each = 10 if given is drawn else 1  # what was drawn says no longer what was asked in turn
        assert found.settings["labels"] == ",".join(["no label", "7"] * each)
        with pytest.raises(ValueError, match="needs a label of every picture, and 10 of 20 fake"):
            judge(REAL, given, "agreement", device="cpu")
        judge(REAL, given, "usual", device="cpu")
        assert "left out: agreement, which needs a label of every" in capsys.readouterr().err
    if kind in ("png", "npz"):
        place = tmp_path / "a" / ("images" if kind == "png" else "samples.npz")
        assert values(judge(REAL, place, "fd", device="cpu")) == values(alone)
        with pytest.raises(ValueError, match="and 10 of 20 fake ones have none"):
            judge(REAL, place, "agreement", device="cpu")
        with pytest.raises(ValueError, match="needs a label of every picture, and 10 of 20 real"):
            judge(place, "dataset:digits:test", "agreement", device="cpu",
                  held_out="dataset:digits:test")  # fmt: skip


DRAWN = {
    "churn": {"sampler": "heun", "churn": 0.2},
    "rule": {
        "guidance": 1.0, "guidance_rule": "apg", "guidance_options": {"norm": 1.0}, "zero_init": 1,
        "guidance_interval": (-3.0, 5.0),
    },
    "times": {"times": (1.0, 0.5)},
    "noise": {"sampler": "ancestral", "var_type": "fixed_medium", "intp_frac": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("name", [*DRAWN, "weaker"])
def test_a_folder_and_its_run_have_the_same_settings(tmp_path, run, name):
    from vfn.sampling import load, write_samples

    network = load(run, "cpu")
    settings = DRAWN.get(name) or {
        "guide_with": small_network(network.shape.legend, hid_channels=64)
    }
    asked = {"metrics": "fd", "device": "cpu", "seed": 9}
    draws = network.draws(20, seed=4, **settings)
    write_samples(draws, tmp_path, grid=False, animate=False)
    direct, found = (settings_of(judge(REAL, given, **asked)) for given in (draws, tmp_path))
    assert found == direct
    assert {"sampler", "eta", "churn", "var_type", "tolerance", "train_seconds"} <= found.keys()
    assert (found["seed"], found["sample_seed"], found["train_seconds"]) == (9, 4, 2.5)


def test_own_pictures_are_prepared_as_the_run_has_them_that_drew_the_others(tmp_path):
    """Of several sizes, grey and in colour, and one that is damaged."""
    from vfn.sampling import write_samples

    for number in range(6):
        kind, side = ("RGB", 12) if number % 2 else ("L", 9)
        place = tmp_path / "own" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new(kind, (side, side), ("red", 0)[kind == "L"]).save(place)
    (tmp_path / "own" / "6.png").write_bytes(b"damaged")
    own = {"dataset": str(tmp_path / "own"), "image_size": (8, 8), "channels": 1,
           "on_bad": "skip", "data_dir": str(tmp_path)}  # fmt: skip
    files = RunFiles(tmp_path / "run")
    network = replace(small_network(Labels(), **own), origin=files.path)
    write_samples(network.draws(8, guidance=0.0), tmp_path / "drawn", grid=False, animate=False)
    asked = {"real": f"dataset:{own['dataset']}", "fake": tmp_path / "drawn", "metrics": "fd"}
    with pytest.raises(ValueError, match="vfn train and vfn data also make them alike"):
        judge(**asked, device="cpu")
    write_atomic(files.config, dumps(network.config))
    found = judge(**asked, device="cpu")
    assert found.settings["real_num"] == len(load_dataset(network.config.data).images) >= 5


def settings_of(evaluation):
    """As files hold them, but the name of the fakes."""
    settings = json.loads(json.dumps(evaluation.settings))
    del settings["fake"]
    return settings


def test_a_folder_of_a_run_that_is_gone_says_no_time(tmp_path, run):
    from vfn.sampling import load, write_samples

    draws = load(run, "cpu").draws(20)
    write_samples(draws, tmp_path, grid=False, animate=False)
    record = json.loads((tmp_path / "settings.json").read_text())
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "log.jsonl").write_text("no JSON")
    for strange in (str(tmp_path / "nowhere"), str(damaged), "\0", 5, None):
        (tmp_path / "settings.json").write_text(json.dumps({**record, "run": strange}))
        assert judge(REAL, tmp_path, "fd", device="cpu").settings["train_seconds"] is None


def test_what_stands_beside_labels_is_told_by_its_digest(tmp_path, real):
    from vfn.evaluation.planning import paired_draws
    from vfn.sampling import write_samples

    draws = paired_draws(small_network(Labels(), condition="downscale:2"), real, 8)
    write_samples(draws, tmp_path, grid=False, animate=False)
    direct, found = (
        settings_of(judge(REAL, given, "fd", device="cpu")) for given in (draws, tmp_path)
    )
    assert found == direct
    assert len(found["condition_sha256"]) == 64


def test_a_folder_says_which_labels_were_asked(tmp_path, trained):
    from vfn.sampling import write_samples

    tagged = small_network(Labels(("a", "b"), tags=True))
    cases = {
        "as in the data, split test": trained.draws(
            120, usual_labels(trained, 120, as_data=True, split="test")
        ),
        "in turn": trained.draws(20),
        "7,3": trained.draws(20, ["7", "3"]),
        "a,b": tagged.draws(20),
    }
    for number, (text, draws) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        write_samples(draws, folder, grid=False, animate=False)
        for given in (draws, folder):
            assert judge(REAL, given, "fd", device="cpu").settings["labels"] == text


def test_a_folder_of_an_earlier_version_goes_on(tmp_path, trained):
    """Whose record does not say that labels are those of a split."""
    from vfn.sampling import write_samples

    draws = trained.draws(20, usual_labels(trained, 20, as_data=True))
    write_samples(draws, tmp_path, grid=False, animate=False)
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record.pop("labels_from") == "train"
    (tmp_path / "settings.json").write_text(json.dumps(record))
    (tmp_path / "images" / "000007.png").unlink()
    assert write_samples(draws, tmp_path, grid=False, animate=False)[0].present == 0
    assert judge(REAL, tmp_path, "fd", device="cpu").settings["labels"] == ",".join(
        record["labels"]
    )


def test_records_of_earlier_versions_know_no_classes(tmp_path, trained):
    from vfn.sampling import write_samples

    write_samples(trained.draws(20, ["7", "3"]), tmp_path, animate=False)
    record = json.loads((tmp_path / "settings.json").read_text())
    for name in ("classes", "tags", "run"):
        record.pop(name, None)
    (tmp_path / "settings.json").write_text(json.dumps(record))
    assert judge(REAL, tmp_path, "agreement", device="cpu").figures


def test_folders_of_samples_that_cannot_be_judged(tmp_path, trained):
    from vfn.sampling import variants, write_samples

    write_samples(variants(trained, {"steps": [1, 2]}, 20), tmp_path / "sweep", animate=False)
    with pytest.raises(
        ValueError, match="several folders of vfn sample; name one of them: steps1, steps2"
    ):
        judge(REAL, tmp_path / "sweep", device="cpu")
    cut = tmp_path / "sweep" / "steps1"
    (cut / "images" / "000007.png").unlink()
    with pytest.raises(ValueError, match="holds 19 of 20 pictures; the same vfn sample command dr"):
        judge(REAL, cut, device="cpu")
    (cut / "images" / "000007.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="the pictures in .* cannot be read"):
        judge(REAL, cut, device="cpu")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "settings.json").write_text('{"camera": "old"}')
    for i in range(5):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(theirs / f"{i}.png")
    assert judge(REAL, theirs, device="cpu").settings["num"] == 5


def test_sides_of_other_sizes_are_brought_together(held_out, tmp_path):
    """The same pictures twice as large, in a folder beside one of another size."""
    large = held_out.images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    small = resized(large, (8, 8))
    with pytest.raises(ValueError, match="bring them together with --image-size"):
        judge(REAL, large, device="cpu")
    with pytest.raises(ValueError, match="make all of them grey, or RGB"):
        judge(REAL, held_out.images.expand(-1, 3, -1, -1), device="cpu")
    found = judge(
        REAL, large, image_size=8, held_out=large, metrics="fd,memorisation", device="cpu"
    )
    assert values(found) == values(
        judge(REAL, small, held_out=small, metrics="fd,memorisation", device="cpu")
    )
    assert found.settings["image_size"] == [8, 8]
    assert "as torch-fidelity" in found.settings["image_resize"]
    for i, picture in enumerate([*large[:9, 0], torch.zeros(20, 9, dtype=torch.uint8)]):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
    assert judge(REAL, tmp_path, image_size=(8, 8), device="cpu").settings["num"] == 10
    network = small_network(Labels(tuple("0123456789")))
    assert judge(large, network, image_size=12, num=20, device="cpu").settings["num"] == 20


def test_labels_that_nobody_uses_are_not_read(held_out, tmp_path):
    Image.fromarray(held_out.images[0, 0].numpy()).save(tmp_path / "0.png")
    for i, picture in enumerate(held_out.images[:9, 0]):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("somebody,else's,table\n")
    assert judge(REAL, tmp_path, "fd,pr", device="cpu").settings["num"] == 9
    with pytest.raises(ValueError, match="to have the columns file,label"):
        judge(REAL, tmp_path, "fd,agreement", device="cpu")


def test_names_of_classes_matter_only_where_they_are_used(real, held_out):
    other = held_out._replace(legend=Labels(tuple("abcdefghij")))
    assert judge(real, other, ["fd"], device="cpu").figures
    with pytest.raises(ValueError, match="label 'a' is not among the real pictures' 0, 1"):
        judge(real, other, ["agreement"], held_out=held_out, device="cpu")


def test_labels_as_the_data_have_them(trained, real):
    asked = usual_labels(trained, 1437, seed=3, as_data=True)
    assert torch.equal(asked.labels.bincount(), real.labels.bincount())
    draws = trained.draws(30, usual_labels(trained, 30, 0, as_data=True))
    assert (
        judge(REAL, draws, ["fd"], device="cpu").settings["labels"] == "as in the data, split train"
    )
    found = judge(REAL, trained, ["fd"], num=20, device="cpu")
    assert found.settings["labels"] == "in turn"
    assert "labels: every class as often, 10.0 % each (9.3 % to 10.4 % each among" in found.table()
    unconditional = small_network(Labels(), conditional=False, guidance=0)
    with pytest.raises(ValueError, match="unconditional and takes no --labels as-data"):
        usual_labels(unconditional, 5, as_data=True)


def none(_judged):
    return {"Share": float("nan")}


def text(_judged):
    return {"Share": "much"}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("none", "expected finite figures, got value nan of Share: what computes it gave that"),
        ("text", "text to give numbers, got much"),
    ],
)
def test_figures_that_are_no_numbers_are_refused(real, held_out, metric, message):
    with pytest.raises(ValueError, match=message) as refused:
        judge(real, held_out, [f"{__name__}:{metric}"], device="cpu")
    assert str(refused.value).isprintable()


def test_a_network_without_finite_losses_is_refused(trained, monkeypatch):
    """Its pictures may well be finite: here they are drawn by another one."""
    params = {name: value * float("nan") for name, value in trained.params.items()}
    drawn = trained.draws(20).all()
    monkeypatch.setattr(Draws, "by_all", lambda self, world, strict: drawn)
    monkeypatch.setattr("vfn.evaluation.held_out.loss_by_logsnr", lambda *_, **__: [
        {"low": -20.0, "high": 0.0, "loss": float("nan"), "count": 3}])  # fmt: skip
    monkeypatch.setattr("vfn.evaluation.bits.bits_per_dim", lambda *_, **__: [
        Figure("bits_flow", "probability flow", float("inf"))])  # fmt: skip
    for metric, part in (("loss", "nan of held-out loss at logsnr -20"), ("bpd", "inf of prob")):
        message = f"got value {part}.*: the network gives no finite numbers; use another checkpoint"
        with pytest.raises(ValueError, match=message):
            judge(REAL, replace(trained, params=params), [metric], num=20, device="cpu")


def test_features_that_are_too_large_are_named(real, held_out):
    for size, metric, message in (
        (1e30, "pr", r"expected features within ±.*, whose squared distances are numbers of"),
        (1e39, "fd", "gives features that are not finite numbers of float32; are its weights"),
    ):
        huge = extractor_of("huge", lambda x, size=size: x.flatten(1).double() * size)
        with pytest.raises(ValueError, match=message):
            judge(real, held_out.images[:20], [metric], features=huge, device="cpu")


def test_statistics_that_nothing_can_be_computed_of(held_out, tmp_path):
    for sigma, message in (
        (1e300, r"features of real pictures reach 1e\+150, too large to compute with"),
        (-1.0, "expected sigma in .*a.npz to be a covariance, symmetric and without negative var"),
    ):
        np.savez(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.eye(64) * sigma, count=100)
        with pytest.raises(ValueError, match=message):
            judge(str(tmp_path / "a.npz"), held_out.images, ["fd"], device="cpu")


def test_a_damaged_log_is_told_before_anything_is_drawn(run, monkeypatch, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "log.jsonl").write_text("{}\n")
    monkeypatch.setattr(Draws, "by_all", None)
    with pytest.raises(ValueError, match='log.jsonl line 1: expected a whole "step"'):
        judge(REAL, f"run:{copy}", ["fd"], num=20, device="cpu")


def test_held_out_pictures_that_are_missing_are_told_before_anything_is_drawn(
    trained, monkeypatch, tmp_path
):
    moved = trained.config.data.__class__(dataset=str(tmp_path / "pics"))
    network = replace(trained, config=replace(trained.config, data=moved), origin=Path("runs/a"))
    monkeypatch.setattr(Draws, "by_all", None)
    with pytest.raises(ValueError, match="there is no folder, .*, where the pictures of runs/a we"):
        judge(REAL, network, ["loss"], num=20, device="cpu")


def test_what_has_changed_since_is_said(trained, capsys, monkeypatch):
    monkeypatch.setattr("vfn.evaluation.held_out.loss_by_logsnr", lambda *_, **__: [])
    network = replace(trained, data=DataMark(1437, "vfn-data-1:other"))
    judge(REAL, network, ["loss"], num=20, device="cpu")
    assert "digits is not what the network was trained on any more (other pictures, lab" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("wanted", [False, True])
def test_losses_are_judged_with_products_as_the_run_has_them(trained, wanted):
    train = replace(trained.config.train, tf32=wanted)
    network = replace(trained, config=replace(trained.config, train=train))
    seen = []
    hook = network.model.register_forward_hook(lambda *_: seen.append(tf32_flags()))
    before = tf32_flags()
    judge("dataset:digits:test", network, ["loss"], num=20, device="cpu")
    hook.remove()
    assert {*seen} == {(wanted, wanted)}
    assert tf32_flags() == before


def test_nothing_is_said_of_labels_that_a_network_does_not_know():
    """Advice to ask for them otherwise would be refused."""
    network = untrained(small_config(), SHAPE._replace(legend=Labels()))
    found = judge("dataset:digits:train", network.draws(20, guidance=0), ["fd"], device="cpu")
    assert "labels" not in found.settings
    assert found.balance() == ""


def test_numbers_of_numpy_are_written(tmp_path):
    network = untrained(small_config(), SHAPE)
    found = judge("dataset:digits:train", network, ["fd"], num=np.int64(20), seed=np.int32(1),
                  bootstrap=np.int64(2), device="cpu")  # fmt: skip
    found.write(tmp_path / "found.json")
    settings = read_evaluation(tmp_path / "found.json").settings
    assert [settings[name] for name in ("num", "seed", "bootstrap")] == [20, 1, 2]


@pytest.mark.parametrize(
    "given", [{"num": 1.5}, {"seed": -1}, {"bootstrap": 2.5}, {"bootstrap": "2"}, {"num": "2"}]
)
def test_what_is_no_whole_number_is_refused(given):
    with pytest.raises(ValueError, match="to be a whole number"):
        judge("dataset:digits:train", "dataset:digits:test", ["fd"], device="cpu", **given)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (np.int64(16), (16, 16)),
        (torch.tensor(16), (16, 16)),
        ((np.int32(16), 8), (16, 8)),
        ([4], (4, 4)),
        (np.array([16, 8]), (16, 8)),
    ],
)
def test_a_size_is_of_any_whole_numbers(given, size):
    found = checked_size(given)
    assert found == size
    assert {*map(type, found)} == {int}


@pytest.mark.parametrize(
    "given", ["16", "1", (16.5, 16), 16.0, True, (16, True), (), (1, 2, 3), (0, 4), 2**15 + 1, {4}]
)
def test_what_is_no_size_is_refused(given):
    with pytest.raises(ValueError, match="expected image_size to be height,width, or one number"):
        judge("dataset:digits:train", "dataset:digits:test", ["fd"], image_size=given)


def test_numbers_of_other_functions_are_refused_or_taken(trained, held_out):
    """Whole ones of any kind are as Python's; of everything else one line says what it was."""
    some = held_out.rows(torch.arange(20))
    for ask in (
        lambda n: usual_labels(trained, n, as_data=True),
        lambda n: as_data(trained, n),
        lambda n: as_data(trained, 4, seed=n),
        lambda n: own_draws(trained, n),
        lambda n: paired_draws(small_network(trained.shape.legend), some, n),
        lambda n: bits_per_dim(trained, some, num=n),
        lambda n: bits_per_dim(trained, some, num=1, seed=n),
        lambda n: loss_by_logsnr(trained, some, seed=n),
        lambda n: loss_by_logsnr(trained, some, batch=n),
        lambda n: mean_held_out_loss(trained, some, seed=n),
        lambda n: mean_held_out_loss(trained, some, batch=n),
        lambda n: preview_figures(trained, some, n),
        lambda n: preview_figures(trained, some, 5, seed=n),
        lambda n: evaluate(Sides(some, some), ["fd"], seed=n),
        lambda n: evaluate(Sides(some, some), ["fd"], bootstrap=n),
    ):
        for number in ("2", 2.5, True, -1):
            with pytest.raises(ValueError, match=r"expected \w+ to be a whole number"):
                ask(number)
    for guidance in ("0.5", [0.5], True):
        for ask in (bits_per_dim, loss_by_logsnr):
            with pytest.raises(ValueError, match="expected guidance to be a finite number, got"):
                ask(trained, some, guidance=guidance)
    assert loss_by_logsnr(trained, some, seed=np.int64(3)) == loss_by_logsnr(trained, some, seed=3)
    assert torch.equal(as_data(trained, np.int64(9)).labels, as_data(trained, 9).labels)


def test_of_a_run_of_all_pictures_none_are_held_out():
    """Also where the real ones are named by their data set, which has a split for it."""
    whole, part = DataConfig(dataset="digits", split="all"), DataConfig(dataset="digits")
    assert open_held_out(REAL, None, whole) is None
    assert len(open_held_out(REAL, None, part).images) == 360


def network_of(values):
    torch.manual_seed(0)
    config = override(small_config(), {"guidance": 0.0})
    return untrained(config, DataShape(1, 4, 4, values=values))


@pytest.mark.parametrize("bounded", [False, True])
def test_networks_are_compared_in_the_units_of_one(bounded):
    """The Fréchet distance of what they draw, by numpy: one has ten times the other's numbers."""
    one = network_of(Values("float32", (2.0,), (4.0,), bounded))
    other = network_of(Values("float32", (100.0,), (40.0,), bounded=False))
    draws = [network.draws(60, seed=seed, steps=2) for seed, network in enumerate((other, one))]
    found = judge(*draws, ["fd"], device="cpu").figures[0].value
    sides = [(each.all().images.flatten(1).double().numpy() - 100) / 40 for each in draws]
    (first, second), (mean, mean2) = ([f(s / 2) for s in sides] for f in (covariance, center))
    root = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    expected = ((mean - mean2) ** 2).sum() + np.trace(first + second) - 2 * root
    assert found == pytest.approx(expected, rel=1e-5)


def covariance(rows):
    return np.cov(rows, rowvar=False)


def center(rows):
    return rows.mean(0)


@pytest.mark.parametrize(
    "values",
    [
        Values("float32", (0.0,), (2.0,)),
        Values("float32", (0.0,), (1.0,), bounded=False),
        Values("uint16", (1.0,), (1.0,)),
        Values("uint8", (100.0,), (100.0,)),
        Values(),
    ],
)
def test_networks_in_units_of_several_ranges_are_refused(values):
    other, one = network_of(values), network_of(Values("float32", (0.0,), (1.0,)))
    with pytest.raises(ValueError, match="networks of numbers of one type and range, got .*float3"):
        judge(one, other, ["fd"], num=10, device="cpu")
    assert judge(one, one, ["fd"], num=10, device="cpu").figures
