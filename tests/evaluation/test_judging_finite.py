"""Pictures, features, losses and figures that are no finite numbers are named."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.conftest import REAL
from vfn.evaluation.extractors import extractor_of
from vfn.evaluation.judging import judge
from vfn.evaluation.record import read_evaluation
from vfn.evaluation.sides import Figure
from vfn.sampling import Draws


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
