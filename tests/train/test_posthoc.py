"""Networks of averages of other lengths: files, figures, the command."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

import vfn
from tests.helpers.small import DIGITS_FILE
from vfn.cli import app
from vfn.configs import override
from vfn.data import load_dataset
from vfn.evaluation import PIXELS, extractor_of, judge, read_evaluation
from vfn.runs import RunFiles, find_checkpoint, reconstruct
from vfn.train import posthoc_ema, train

TRUTH = 0.15


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """80 steps that learn, two averages, a third one as the truth, a snapshot of every fourth."""
    out = tmp_path_factory.mktemp("run")
    more = {"steps": 80, "log_every": 80, "ema_profiles": (0.05, 0.1, TRUTH), "keep_at": (40,),
            "ema_snapshot_every": 4, "preview_every": 0}  # fmt: skip
    train(override(config, more), out, device="cpu")
    return out


def flat(params):
    return torch.cat([value.flatten() for _, value in sorted(params.items())]).double()


@pytest.mark.slow
def test_a_reconstruction_is_near_the_average_that_was_tracked(run):
    """Of two profiles, beside the third one that the same run has tracked."""
    checkpoint = find_checkpoint(run)
    true, last = flat(checkpoint.profiles[TRUTH]), flat(checkpoint.params)
    got = flat(reconstruct(run, TRUTH, profiles=(0.05, 0.1)).ema)
    error = (got - true).norm()
    # Measured: 1.3e-5 of the parameters, and 5e-4 of what averaging changes of them.
    assert error < 1e-4 * true.norm()
    assert error < 5e-3 * (true - last).norm()
    assert (true - last).norm() > 1e-2 * true.norm()  # there is something to be near to
    with_all = flat(reconstruct(run, TRUTH).ema)
    assert (with_all - true).norm() < 1e-6 * true.norm()


def test_files_are_exported_models_that_say_what_they_are_of(run, tmp_path):
    made = posthoc_ema(run, [0.07, 0.2], tmp_path, device="cpu")
    assert [path.name for path in made.files.values()] == [
        "ema-0.07-step-80.safetensors", "ema-0.2-step-80.safetensors"
    ]  # fmt: skip
    assert made.evaluations == {}
    assert "ema-0.07-step-80.safetensors" in made.table()
    for length, path in made.files.items():
        network, expected = vfn.load(path, "cpu"), reconstruct(run, length).ema
        assert network.step == 80
        assert all(torch.equal(network.params[name], value) for name, value in expected.items())
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["ema"])
        assert told == {"sigma_rel": length, "profiles": [0.05, 0.1, TRUTH],
                        "snapshots": list(range(4, 81, 4))}  # fmt: skip
    (alone,) = posthoc_ema(run, 0.07, step=40, device="cpu").files.values()
    assert alone == RunFiles(run).posthoc / "ema-0.07-step-40.safetensors"
    assert vfn.load(alone, "cpu").step == 40
    # A network in the run can be led away from the run's own steps.
    assert vfn.load(alone, "cpu").draws(2, guide_with=40).weak.step == 40


def test_a_sweep_is_judged_drawn_and_told(run, tmp_path):
    made = posthoc_ema(run, [0.2, 0.05], tmp_path, ["fd"], num=20, device="cpu", steps=3)
    assert list(made.evaluations) == [0.2, 0.05]
    for length, path in made.files.items():
        found = read_evaluation(path.with_suffix(".json"))
        assert found.settings["sigma_rel"] == length
        assert found.settings["sample_timesteps"] == 3
        draws = vfn.load(path, "cpu").draws(20, steps=3)
        expected = judge(f"dataset:{DIGITS_FILE}:train", draws, ["fd"], num=20, device="cpu")
        assert found.figures[0].value == pytest.approx(expected.figures[0].value, rel=1e-12)
    assert (tmp_path / "ema-step-80.png").read_bytes()[1:4] == b"PNG"
    lines = made.table().splitlines()
    assert lines[0].split()[0] == "sigma_rel"
    assert [line.split()[0] for line in lines[1:]] == ["0.05", "0.2"]


def command(*words):
    arguments = ["ema", *map(str, words)]
    return CliRunner().invoke(app, arguments, obj=arguments)


def test_the_command_does_the_same(run, tmp_path):
    done = command(run, "--sigma-rel", "0.07", "--out", tmp_path / "a", "--device", "cpu")
    assert done.exit_code == 0, done.output
    posthoc_ema(run, 0.07, tmp_path / "b", device="cpu")
    name = "ema-0.07-step-80.safetensors"
    ours, theirs = (vfn.load(tmp_path / out / name, "cpu") for out in "ab")
    assert ours.digest == theirs.digest
    done = command(run, "--sigma-rel", "0.05,0.1", "--out", tmp_path / "c", "--device", "cpu",
                   "--metrics", "fd", "--num", 20, "--steps", 1, "--step", 60)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 3
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json", ".png", ".safetensors"}


@pytest.mark.parametrize("length", [np.array([0.07]), np.array(0.07), np.float64(0.07)])
def test_lengths_of_numpy(run, tmp_path, length):
    made = posthoc_ema(run, length, tmp_path, device="cpu")
    assert [path.name for path in made.files.values()] == ["ema-0.07-step-80.safetensors"]


@pytest.mark.parametrize(
    ("lengths", "more", "message"),
    [
        ([0.07, 0.5], {}, r"span, 0.0\d+..0.2\d+, got 0.5"),
        ([0.07, 0.07], {}, "expected one sigma_rel or several that differ"),
        ([], {}, "expected one sigma_rel or several that differ, got"),
        (0.07, {"step": 3}, "expected a step in 4..80"),
        (0.07, {"steps": 3}, "expected metrics with steps, got none"),
        (0.07, {"real": "dataset:digits"}, "expected metrics with real, got none"),
        (
            [[0.07, 0.1]],
            {},
            r"expected one sigma_rel or several that differ, got \[\[0.07, 0.1\]\]; ",
        ),
        ([[0.07], [0.1, 0.2]], {}, "expected one sigma_rel or several that differ, got"),
        ("seven", {}, "expected one sigma_rel or several that differ, got 'seven'; give numbers"),
        (0.07, {"step": "80"}, "expected step to be a whole number of at least 0, got '80'"),
        (0.07, {"weights": "w.pth"}, "expected metrics with weights, got none"),
        (0.07, {"metrics": ["fud"]}, "unknown metric 'fud'"),
        (0.07, {"metrics": 3}, "expected metrics as words, got 3"),
        (0.07, {"metrics": ["fd"], "step": 80, "sampler": "dimm"}, "unknown solver 'dimm'"),
        (0.07, {"metrics": ["fd"], "samplr": "ddim"}, "unknown setting of sampling 'samplr'"),
        (0.07, {"metrics": ["fd"], "num": "20"}, "expected num to be a whole number of at least 1"),
        (0.07, {"metrics": ["fd"], "num": 1}, "fd needs at least 2 fake pictures, got 1"),
        (0.07, {"metrics": ["fd"], "real": "nowhere"}, "expected pictures at 'nowhere'"),
        (0.07, {"metrics": ["fd"], "weights": "w.pth"}, "pixels need no weights, got w.pth"),
        (0.07, {"metrics": ["fd"], "guide_with": 40}, "step 40 to guide with .* is in none; name"),
    ],
)
def test_what_cannot_be_made(run, tmp_path, lengths, more, message):
    """All of it is refused before anything is written."""
    with pytest.raises(ValueError, match=message) as refused:
        posthoc_ema(run, lengths, tmp_path / "out", device="cpu", **more)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_run_may_be_named_as_one(run, tmp_path):
    made = posthoc_ema(f"run:{run}", 0.07, tmp_path, device="cpu")
    expected = reconstruct(run, 0.07).ema
    found = reconstruct(f"run:{run}", 0.07).ema
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    ours = vfn.load(made.files[0.07], "cpu").params
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_real_pictures_are_seen_once_and_figures_are_those_of_judge(run, tmp_path):
    real, seen = load_dataset(DIGITS_FILE).images[5], []

    def rows(images):
        seen.extend(images)
        return images.float().mean(3).flatten(1)

    features = extractor_of("rows", rows)
    made = posthoc_ema(run, [0.05, 0.07, 0.2], tmp_path, ["fd"], num=20, seed=3, steps=1,
                       features=features, device="cpu")  # fmt: skip
    assert sum(torch.equal(each, real) for each in seen) == 1
    for length, path in made.files.items():
        draws = vfn.load(path, "cpu").draws(20, seed=3, steps=1)
        expected = judge(f"dataset:{DIGITS_FILE}:train", draws, ["fd"], seed=3, features=features,
                         device="cpu")  # fmt: skip
        found = made.evaluations[length]
        assert found.figures == expected.figures
        assert found.settings == {**expected.settings, "sigma_rel": length}


def test_weights_go_with_the_name_of_features(run, tmp_path, monkeypatch):
    opened = []

    def opening(name, weights, *_):
        opened.append((name, weights))
        return PIXELS

    monkeypatch.setattr("vfn.evaluation.planning.check_extractor", lambda *_: None)
    monkeypatch.setattr("vfn.evaluation.planning.open_extractor", opening)
    given = {"num": 10, "steps": 1, "features": "inception", "device": "cpu"}
    posthoc_ema(run, [0.07, 0.2], tmp_path / "a", "fd", weights=str(tmp_path / "w.pth"), **given)
    done = command(run, "--sigma-rel", "0.07", "--out", tmp_path / "b", "--metrics", "fd", "--num",
                   10, "--steps", 1, "--features", "inception", "--weights", tmp_path / "w.pth",
                   "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert opened == [("inception", tmp_path / "w.pth")] * 2


def test_no_snapshots(teacher, tmp_path):
    with pytest.raises(
        ValueError, match="has no snapshots of averages in ema/; train with --ema-p"
    ):
        posthoc_ema(teacher, 0.07, tmp_path / "out", device="cpu")
    done = command(teacher, "--sigma-rel", "0.07", "--num", "20")
    assert done.exit_code == 2
    assert "--num goes with --metrics; leave it out" in done.output


def test_pictures_are_drawn_with_the_seed_that_is_asked_for(run, tmp_path):
    made = posthoc_ema(run, 0.07, tmp_path, "fd", num=10, seed=3, steps=1, device="cpu")
    told = made.evaluations[0.07].settings
    assert (told["seed"], told["sample_seed"]) == (3, 3)
