"""Whole runs on small data sets in the true formats: train, sample, evaluate."""

import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.helpers.formats import (
    CELEBA_TAGS,
    fake_celeba,
    fake_cifar10,
    fake_mnist,
    noise,
    save_pictures,
)
from tests.helpers.small import SMALL
from vfn.cli import app
from vfn.configs import DataConfig
from vfn.data import load_dataset
from vfn.runs import find_checkpoint
from vfn.sampling import Drawn, Draws

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


UNGUIDED = ["--guidance", "0"]
CELEBA = ["--image-size", "16", "--head-dim", "32"]


def vfn(*arguments):
    arguments = [*map(str, arguments)]
    result = CliRunner().invoke(app, arguments, obj=arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def train(out, *options):
    vfn("train", "--out", out, "--device", "cpu", "--steps", "4", *SMALL, *options)
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in entries if "loss" in entry)
    assert (out / "samples" / "step-00000004.png").is_file()
    return find_checkpoint(out), [entry for entry in entries if "held_out_loss" in entry]


@pytest.mark.slow
def test_mnist_preset(root, tmp_path, monkeypatch):
    fake_mnist(root, monkeypatch)
    checkpoint, held_out = train(tmp_path / "run", "--config", "mnist")
    assert checkpoint.shape[:4] == (1, 28, 28, (tuple("0123456789"), False))
    assert len(held_out) == 1
    output = vfn("eval", "--real", "dataset:mnist", "--fake", f"run:{tmp_path / 'run'}",
                 "--num", "20", "--metrics", "fd,memorisation", "--device", "cpu")  # fmt: skip
    assert "Memorised" in output


@pytest.mark.parametrize(
    ("preset", "classes"), [("cifar10_cond", 10), ("cifar10_uncond", 0), ("ddpm", 0)]
)
def test_cifar10_presets(root, tmp_path, monkeypatch, preset, classes):
    fake_cifar10(root, monkeypatch)
    checkpoint, held_out = train(tmp_path / "run", "--config", preset, "--image-size", "16")
    assert checkpoint.shape[:3] == (3, 16, 16)
    assert len(checkpoint.shape.legend.names) == classes
    assert ("label_embed.weight" in checkpoint.params) == bool(classes)
    assert len(held_out) == 1


def test_celeba_preset(root, tmp_path, monkeypatch):
    fake_celeba(root, monkeypatch)
    checkpoint, held_out = train(tmp_path / "run", "--config", "celeba", *CELEBA)
    assert checkpoint.shape[:4] == (3, 16, 16, (CELEBA_TAGS, True))
    # Tags reach the network: their weights have moved.
    assert checkpoint.moments["exp_avg_sq"]["label_embed.weight"].count_nonzero() > 0
    assert held_out == []  # it trains on all splits
    vfn("sample", "--checkpoint", tmp_path / "run", "--out", tmp_path / "out", "--num", "4",
        "--labels", "Smiling+Male,Bald", "--guidance", "1", "--device", "cpu")  # fmt: skip
    with (tmp_path / "out" / "images" / "labels.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [["file", "tags"], ["000000.png", "Male+Smiling"], ["000001.png", "Bald"]]


def test_sampled_tags_are_read_back(root, tmp_path, monkeypatch):
    fake_celeba(root, monkeypatch)
    train(tmp_path / "run", "--config", "celeba", *CELEBA)
    vfn("sample", "--checkpoint", tmp_path / "run", "--out", tmp_path / "out", "--num", "41",
        "--labels", "all", "--no-animate", "--device", "cpu")  # fmt: skip
    info = vfn("data", "prepare", "--dataset", tmp_path / "out" / "images")
    assert "labels    40 tags: 5_o_Clock_Shadow (2), Arched_Eyebrows (1)" in info


def test_evaluation_asks_for_tags_as_the_training_pictures_have_them(root, tmp_path, monkeypatch):
    made = fake_celeba(root, monkeypatch)
    train(tmp_path / "run", "--config", "celeba", *CELEBA)
    asked = []

    def batch(self, indices, _watch=None):
        asked.append(self.asked.of(indices.sort().values))
        pictures = torch.randint(0, 256, (len(indices), 3, 16, 16), dtype=torch.uint8)
        return Drawn(pictures, self.asked.texts(indices), self.asked.of(indices), 1)

    monkeypatch.setattr(Draws, "batch", batch)
    line = ("eval", "--real", "dataset:celeba:all", "--fake", f"run:{tmp_path / 'run'}",
            "--num", "12", "--metrics", "kid", "--device", "cpu",
            "--json", tmp_path / "m.json")  # fmt: skip
    vfn(*line)
    vfn(*line, "--labels", "Smiling+Male,Bald")
    # The preset trains on all 12 pictures.
    assert sorted(asked[0].tolist()) == sorted(made["tags"].tolist())
    assert asked[1].sum(1).tolist() == [2, 1] * 6
    settings = json.loads((tmp_path / "m.json").read_text())["settings"]
    assert settings["labels"] == "Male+Smiling,Bald"  # in the order of the data set
    assert settings["train_seconds"] > 0


def test_own_pictures_not_square_with_classes(tmp_path):
    folder = tmp_path / "own"
    save_pictures(folder, {f"{c}/{i}.png": noise(20, 30, 3) for c in "ab" for i in range(10)})
    checkpoint, held_out = train(
        tmp_path / "run", "--dataset", folder, "--image-size", "16,24", "--test-share", "0.2"
    )
    assert checkpoint.shape[:4] == (3, 16, 24, (("a", "b"), False))
    assert len(held_out) == 1
    with Image.open(tmp_path / "run" / "samples" / "step-00000004.png") as grid:
        assert grid.width < grid.height  # two classes beside each other, four rows


def test_runs_and_their_pictures_are_kept_apart(tmp_path):
    """Refused before anything is written; a run that lies there already, too, by its own name."""
    folder = tmp_path / "own"
    save_pictures(folder, {f"{c}/{i}.png": noise(8, 8) for c in "ab" for i in range(10)})
    save_pictures(tmp_path / "beside", {f"{i}.png": noise(8, 8) for i in range(20)})
    before = sorted(folder.rglob("*"))
    message = "expected --out outside the folder of pictures .*/own, got .*/own/runs/a, whose"
    (tmp_path / "link").symlink_to(folder)
    for out in (folder / "runs" / "a", tmp_path / "link" / ".." / "own" / "runs" / "a"):
        with pytest.raises(ValueError, match=message):
            train(out, "--dataset", folder)
    both = ("--dataset", folder, "--condition", tmp_path / "beside")
    with pytest.raises(ValueError, match=message.replace("own", "beside")):
        train(tmp_path / "beside" / "runs" / "a", *both)
    assert sorted(folder.rglob("*")) == before
    train(tmp_path / "run", "--dataset", folder)
    (tmp_path / "run").rename(folder / "run")
    with pytest.raises(ValueError, match=r"in \S+/own, and \S+/own/run is a run, whose sample"):
        load_dataset(DataConfig(dataset=str(folder)))


def test_grey_array_without_labels(tmp_path):
    np.save(tmp_path / "own.npy", noise(30, 8, 8))
    checkpoint, _ = train(tmp_path / "run", "--dataset", tmp_path / "own.npy", *UNGUIDED)
    assert checkpoint.shape[:4] == (1, 8, 8, ((), False))


def test_a_preset_s_guidance_counts_where_there_are_labels(tmp_path):
    """Without them it is 0, which a line tells and the run records."""
    np.save(tmp_path / "own.npy", noise(30, 8, 8))
    run, told = tmp_path / "run", "there are no labels to guide by: guidance 0 in place of 0.5"
    begin = ("train", "--device", "cpu", "--steps", "1", *SMALL, "--out")
    assert vfn(*begin, run, "--dataset", tmp_path / "own.npy").count(told) == 1
    assert find_checkpoint(run).config.sample.guidance == 0
    assert told not in vfn(*begin, run, "--resume", "--steps", "2")
    assert told not in vfn(*begin, tmp_path / "digits")
    assert find_checkpoint(tmp_path / "digits").config.sample.guidance == 0.5


def test_all_pictures_may_be_trained_on(tmp_path):
    np.save(tmp_path / "own.npy", noise(30, 8, 8))
    _, held_out = train(
        tmp_path / "run", "--dataset", tmp_path / "own.npy", "--test-share", "0", *UNGUIDED
    )
    assert held_out == []
    output = vfn("eval", "--real", f"dataset:{tmp_path / 'own.npy'}", "--num", "8", "--device",
                 "cpu", "--fake", f"run:{tmp_path / 'run'}")  # fmt: skip
    assert "left out: loss, which needs held-out pictures of the network's own data" in output


def test_many_classes_do_not_make_a_preview_of_all(tmp_path):
    np.savez(tmp_path / "own.npz", arr_0=noise(40, 8, 8), arr_1=np.arange(40) + 1)
    checkpoint, _ = train(tmp_path / "run", "--dataset", tmp_path / "own.npz")
    assert len(checkpoint.shape.legend.names) == 40
    with Image.open(tmp_path / "run" / "samples" / "step-00000004.png") as grid:
        assert grid.width > 2 * grid.height  # ten columns, four rows


def test_processes_of_one_run_prepare_once(forks, tmp_path):
    np.save(tmp_path / "own.npy", noise(2000, 8, 8))
    options = ["--steps", 2, "--dataset", tmp_path / "own.npy", *UNGUIDED]
    forks.train(tmp_path / "run", *options, processes=2)
    # One that is not the first shows nothing of it.
    assert forks.end().count("preparing own.npy") <= 1
    assert find_checkpoint(tmp_path / "run").step == 2


def test_mirrors_change_the_run_and_nothing_random_besides(tmp_path):
    """Pictures that are their own mirror: with or without, the run is the same."""
    half = noise(30, 8, 4)
    np.save(tmp_path / "even.npy", np.concatenate([half, half[..., ::-1]], axis=2))
    np.save(tmp_path / "odd.npy", noise(30, 8, 8))
    runs = {}
    for name in ("even", "odd"):
        for flip in ("true", "false"):
            out = tmp_path / f"{name}-{flip}"
            checkpoint, _ = train(
                out, "--dataset", tmp_path / f"{name}.npy", "--flip", flip, *UNGUIDED
            )
            runs[name, flip] = checkpoint.params["in_conv.weight"]
    assert torch.equal(runs["even", "true"], runs["even", "false"])
    assert not torch.equal(runs["odd", "true"], runs["odd", "false"])
