"""Labels of the sides: told by their names, drawn as the data have them, read where used."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.conftest import REAL, small_network, values
from tests.helpers.small import SHAPE, small_config
from vfn.data import Dataset, Labels
from vfn.evaluation.judging import judge
from vfn.sampling import untrained, usual_labels


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


def test_classes_are_told_by_their_names(held_out):
    """The numbers of the labels mean nothing: here they run backwards."""
    names = tuple(reversed(held_out.legend.names))
    other = Dataset(held_out.images, 11 - held_out.labels, Labels(names))
    found = judge(REAL, other, ["agreement"], held_out=other, device="cpu")
    assert found.figures[0].value > 0.98
    assert found.figures[0].reference > 0.98


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


def test_nothing_is_said_of_labels_that_a_network_does_not_know():
    """Advice to ask for them otherwise would be refused."""
    network = untrained(small_config(), SHAPE._replace(legend=Labels()))
    found = judge("dataset:digits:train", network.draws(20, guidance=0), ["fd"], device="cpu")
    assert "labels" not in found.settings
    assert found.balance() == ""
