"""Which pictures are held out, and what is said where they have changed or are missing."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.conftest import REAL, values
from tests.helpers.gpu import tf32_flags
from vfn.configs import DataConfig
from vfn.evaluation.judging import judge
from vfn.evaluation.opening import open_held_out
from vfn.runs import DataMark
from vfn.sampling import Draws


def test_the_split_that_is_held_out_is_taken(trained, held_out):
    asked = {"metrics": ["memorisation"], "num": 20, "device": "cpu"}
    own = judge(REAL, trained, **asked)
    given = judge(REAL, trained, held_out=held_out, **asked)
    assert values(own) == values(given)
    assert own.figures[1].reference == pytest.approx(0.05, abs=1 / 360)


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


def test_of_a_run_of_all_pictures_none_are_held_out():
    """Also where the real ones are named by their data set, which has a split for it."""
    whole, part = DataConfig(dataset="digits", split="all"), DataConfig(dataset="digits")
    assert open_held_out(REAL, None, whole) is None
    assert len(open_held_out(REAL, None, part).images) == 360
