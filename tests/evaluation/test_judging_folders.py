"""Folders of `vfn sample` are judged as what was drawn, by what their record says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.conftest import REAL, small_network, values
from vfn.configs import dumps
from vfn.data import Labels, load_dataset
from vfn.evaluation.judging import judge
from vfn.files import write_atomic
from vfn.runs import RunFiles
from vfn.sampling import usual_labels


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
