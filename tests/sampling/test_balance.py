"""Labels as pictures of the data have them: of a split, and where nobody says what is drawn."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.evaluation.conftest import small_network
from tests.helpers.small import small_checkpoint
from vfn.data import Labels, prepare
from vfn.evaluation import judge, own_split
from vfn.runs import write_checkpoint
from vfn.sampling import as_data, untrained, usual_labels

# Letter 0 or 1 in face 0, 1 or 2: the last pair of either is held out alone.
NAMES = ("A", "B", "serif", "sans", "mono")


@pytest.fixture
def pairs(tmp_path):
    """A network of tags, and its data: each split has pairs of its own."""
    names = tmp_path / "pairs.npz"
    pair = np.arange(60) % 6
    tags = np.zeros((60, 5), np.uint8)
    tags[np.arange(60), pair // 3] = tags[np.arange(60), 2 + pair % 3] = 1
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(names, arr_0=images, arr_1=tags, class_names=np.array(NAMES))
    return small_network(
        Labels(NAMES, tags=True), dataset=str(names), data_dir=str(tmp_path), test_share=0.1
    )


@pytest.fixture
def file(pairs, tmp_path):
    """The same network as a file."""
    path = tmp_path / "pairs.safetensors"
    write_checkpoint(path, small_checkpoint(pairs.config, pairs.shape))
    return path


def rows(labels):
    return {tuple(row) for row in labels.tolist()}


def spec(pairs, split):
    return f"dataset:{pairs.config.data.dataset}:{split}"


def command(*words):
    from vfn.cli import app

    words = [str(word) for word in words]
    result = CliRunner().invoke(app, words, obj=words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_fakes_have_the_tags_of_the_split_that_they_are_compared_with(pairs):
    held_out = pairs.own_pictures("test")
    asked = usual_labels(pairs, len(held_out.labels), split=own_split(spec(pairs, "test"), pairs))
    assert torch.equal(asked.labels.sum(0), held_out.labels.sum(0))
    assert not torch.equal(asked.labels.sum(0), usual_labels(pairs, 6).labels.sum(0))
    for split in ("train", "test"):
        found = judge(spec(pairs, split), pairs, ["fd"], num=6, device="cpu")
        assert found.settings["labels"] == f"as in the data, split {split}"


def test_the_command_judges_held_out_pairs(pairs, file):
    words = ("eval", "--real", spec(pairs, "test"), "--fake", file, "--num", 6, "--metrics", "fd")
    assert "labels: as in the data, split test" in command(*words)
    assert "labels: as in the data, split train" in command(*words, "--labels", "as-data")
    words = (*words, "--labels", "as-data:test")
    assert "labels: as in the data, split test" in command(*words)


def test_pictures_of_a_split_are_drawn(pairs, file, tmp_path):
    out = tmp_path / "out"
    words = ("--labels", "as-data:test", "--num", 6, "--no-animate", "--steps", 1)
    command("sample", "--checkpoint", file, "--out", out, *words)
    held_out = pairs.own_pictures("test")
    table = (out / "images" / "labels.csv").read_text().splitlines()[1:]
    found = sorted(line.partition(",")[2] for line in table)
    assert found == sorted(held_out.legend.texts(held_out.labels))


def test_a_split_that_there_is_not(pairs):
    with pytest.raises(ValueError, match="unknown split 'valid', expected one of train, test"):
        as_data(pairs, 4, split="valid")


def test_tags_that_some_picture_has_are_drawn_where_nobody_says_what(pairs, capsys):
    known = rows(prepare(pairs.config.data).dataset("train").labels)
    draws = pairs.draws()
    assert rows(draws.asked.labels) == known
    assert draws.num == 10 * len(known)
    pairs.draws(4)
    line = "all 6 sets of tags that the training pictures have"
    assert capsys.readouterr().err.count(line) == 1


def test_of_many_sets_of_tags_some_are_drawn(tmp_path):
    tags = np.array([[i >> k & 1 for k in range(6)] for i in range(64)], np.uint8)
    images = np.zeros((64, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "many.npz", arr_0=images, arr_1=tags)
    settings = {"dataset": str(tmp_path / "many.npz"), "data_dir": str(tmp_path)}
    network = small_network(Labels(tuple("abcdef"), tags=True), **settings)
    prepare(network.config.data)
    asked = network.draws().asked
    assert len(asked.labels) == len(rows(asked.labels)) == 10
    assert all(asked.names)
    assert network.draws().num == 100


def test_without_the_pictures_each_tag_is_drawn_alone(pairs, capsys):
    assert pairs.draws().asked.names == [*NAMES]  # they are not prepared yet
    assert "each tag is drawn alone" in capsys.readouterr().err


def test_labels_of_the_data_are_in_an_order_of_the_seed_and_begin_again():
    digits = untrained("digits")
    count = len(digits.own_pictures().images)
    asked = [usual_labels(digits, count + 5, seed, as_data=True).labels for seed in (0, 1)]
    assert not torch.equal(*asked)
    for labels in asked:
        assert torch.equal(labels[count:], labels[:5])
        assert torch.equal(labels[:count].bincount(), digits.own_pictures().labels.bincount())
