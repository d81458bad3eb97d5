"""Plots are picture files, or nothing where there is nothing to draw."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.helpers.contrast import contrast
from tests.helpers.fonts import add_font, without_other_fonts
from vfn.evaluation import Evaluation, Figure
from vfn.report.drawings import (
    _smooth,
    draw_against,
    draw_all,
    draw_levels,
    draw_loss_by_logsnr,
    draw_losses,
    draw_losses_beside,
)
from vfn.report.read import read_run

BINS = [{"low": low, "high": low + 9.0, "loss": 1 / (low + 21)} for low in (-20.0, 0.0, 9.0)]


def evaluation(title, bins):
    return Evaluation(loss_by_logsnr=bins, title=title)


def recall(value, **settings):
    return Evaluation([Figure("recall", "Recall", value)], settings)


def size(content):
    return Image.open(io.BytesIO(content)).size


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ({20: 0.5, 40: 0.4, 60: 0.3}, {}),
        ({}, {20: 0.5, 40: 0.4, 60: 0.3}),
        ({20: 0.5}, {20: 0.5, 40: 0.4, 60: 0.3}),
        ({20: float("nan"), 40: float("inf"), 60: 1.0}, {}),
        ({20: 0.0, 40: -1.0, 60: 1.0}, {}),
    ],
)
def test_odd_losses_can_be_drawn(train, held_out):
    assert size(draw_losses(train, held_out)) == (960, 480)


def test_nothing_to_draw():
    assert draw_losses({}, {}) is None
    assert draw_loss_by_logsnr([evaluation("a", [])]) is None
    assert draw_against([recall(0.5, guidance=1.0)], "guidance") is None


def test_two_points_are_no_curve():
    two = {20: 0.5, 40: 0.4}
    assert draw_losses(two, two) is None
    assert draw_loss_by_logsnr([evaluation("a", BINS[:2])]) is None
    several = [recall(w, guidance=w, step=9) for w in (0.0, 1.0)]
    assert draw_against(several, "guidance") is None
    assert draw_against([*several, recall(2, guidance=2.0, step=8)], "guidance") is None


def test_steps_are_drawn_in_order():
    one, other = {3: 0.2, 2: 0.5, 1: 1.0}, {1: 1.0, 2: 0.5, 3: 0.2}
    assert draw_losses(one, {}) == draw_losses(other, {})


def test_one_held_out_loss_beside_a_curve_is_seen():
    losses = {20: 0.5, 40: 0.45, 60: 0.4}
    colours = Image.open(io.BytesIO(draw_losses(losses, {40: 0.42}))).convert("RGB")
    inside = colours.crop((120, 40, 600, 400))  # without the legend
    assert (0xD9, 0x48, 0x0F) in {colour for _, colour in inside.getcolors(480 * 360)}


def test_evaluations_with_the_same_losses_share_a_line():
    one = draw_loss_by_logsnr([evaluation("a", BINS)])
    assert draw_loss_by_logsnr([evaluation("a", BINS), evaluation("b", BINS)]) == one
    other = [{**row, "loss": 2 * row["loss"]} for row in BINS]
    assert draw_loss_by_logsnr([evaluation("a", BINS), evaluation("b", other)]) != one


def test_figures_that_differ_in_a_setting_are_drawn():
    found = [recall(w, guidance=w, step=9) for w in (0.0, 0.5, 1.0)]
    assert size(draw_against(found, "guidance"))
    assert draw_against(found, "step") is None


def test_the_plots_of_a_run(run):
    assert list(draw_all(read_run(run))) == ["losses", "loss_by_logsnr"]


def test_smoothing_keeps_a_constant_and_the_mean_of_a_ramp():
    np.testing.assert_allclose(_smooth(np.full(100, 3.0)), 3.0)
    ramp = np.arange(100.0)
    np.testing.assert_allclose(_smooth(ramp)[10:-10], ramp[10:-10])
    np.testing.assert_allclose(_smooth(ramp)[0], 1.0)  # of 0, 1, 2: a window of five cut at the end


@pytest.fixture
def charts(monkeypatch):
    """The charts that are drawn, in place of files."""
    drawn = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, *_, **__: drawn.append(self)
    )
    return drawn


def test_a_legend_hides_nothing_and_names_each_run_once(charts):
    curve = {step: 1 / step for step in range(1, 100)}
    draw_losses(curve, curve)
    draw_losses_beside({"a": (curve, curve), "b": ({}, curve)})
    draw_levels({"a": BINS})
    names = []
    for figure in charts:
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 <= figure.axes[0].get_tightbbox().y0
        names.append([text.get_text() for text in legend.get_texts()])
    assert names == [["training", "training, smoothed", "held out"], ["a", "b"], ["a"]]


def test_lines_can_be_seen_on_white(charts):
    draw_losses({step: 1 / step for step in range(1, 100)}, {50: 0.5})
    for line in charts[0].axes[0].lines:
        assert contrast(line.get_color(), "white") >= 3


def test_a_short_curve_is_no_smoothed_one(charts):
    draw_losses({1: 0.5, 2: 0.25, 3: 0.2}, {})
    assert [line.get_label() for line in charts[0].axes[0].lines] == ["training"]


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.5), (0.31, 0.42), (1e-3, 1.0)])
def test_an_axis_of_losses_has_numbers(charts, low, high):
    draw_losses({1: high, 2: (low + high) / 2, 3: low}, {})
    charts[0].draw_without_rendering()
    axis = charts[0].axes[0].yaxis
    least, most = axis.get_view_interval()
    shown = [label for label in axis.get_ticklabels(which="both")
             if label.get_text() and least <= label.get_position()[1] <= most]  # fmt: skip
    assert len({label.get_text() for label in shown}) >= 3


def test_names_in_other_letters_are_drawn_or_told_in_a_line(tmp_path, monkeypatch, capsys):
    """No warning of matplotlib's is left, which would be an error here."""
    without_other_fonts(monkeypatch)
    curve = {1: 0.5, 2: 0.25, 3: 0.2}
    boxes = draw_losses_beside({"日本": (curve, {}), "b": (curve, {})})
    (told,) = capsys.readouterr().err.splitlines()
    assert "no font has the letters '日本'" in told
    without_other_fonts(monkeypatch)
    add_font(tmp_path / "other.ttf", "Of Squares", "日本")
    assert draw_losses_beside({"日本": (curve, {}), "b": (curve, {})}) != boxes
    assert capsys.readouterr().err == ""
